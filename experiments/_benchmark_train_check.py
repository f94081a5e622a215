"""Whether the steps of both frameworks compute the same."""

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import numpy as np

from experiments import _benchmark_train_torch as pytorch
from maxsup_jax.errors import UsageError

# How far the losses of a step may be apart, relatively: with equal weights and
# images, what is left is rounding. GPUs multiply in TF32. Of fresh weights the
# losses are near log K whatever is computed, so more is compared.
TOLERANCE = {('cpu', 'float32'): 1e-4}
_OTHER_TOLERANCE = 2e-2
# After an update, whose rounding deep fresh networks with BatchNorm amplify: of
# ResNet-50 the losses are then 0.003 apart.
AFTER_UPDATE = 2e-2

# In float32, on all platforms. The gradients of deep fresh networks with
# BatchNorm amplify rounding: those of ResNet-50 are 0.04 off those in float64.
TOLERANCES = {'logits': 1e-3, 'gradients': 0.2}
# Of so many images at most.
IMAGES = 16
GRADIENT_ITSELF = {
  'learning_rate': 1.0,
  'weight_decay': 0.0,
  'momentum': 0.0,
  'nesterov': False,
}


def plainest(platform: str) -> str:
  """The first variant of PyTorch that is not compiled."""
  names = pytorch.variants_of(platform)
  return next(n for n in names if pytorch.VARIANTS[n].compiled is None)


@contextlib.contextmanager
def exact(torch: Any) -> Iterator[None]:
  """Both frameworks multiply in float32, and not in TF32."""
  before = torch.get_float32_matmul_precision()
  allowed = torch.backends.cudnn.allow_tf32
  torch.set_float32_matmul_precision('highest')
  torch.backends.cudnn.allow_tf32 = False
  try:
    with jax.default_matmul_precision('highest'):
      yield
  finally:
    torch.set_float32_matmul_precision(before)
    torch.backends.cudnn.allow_tf32 = allowed


def check_arrays(
  what: str,
  ours: Mapping[str, np.ndarray],
  theirs: Mapping[str, np.ndarray],
) -> float:
  """Refuses to compare steps that compute other things.

  Args:
    what: 'logits' or 'gradients'.
    ours: arrays by name, of JAX.
    theirs: of PyTorch.

  Returns:
    The norm of the difference over that of theirs, of all arrays together.

  Raises:
    UsageError: in one line, if that is more than the entry of `TOLERANCES`.
  """
  gaps = {n: _norm(ours[n] - x) for n, x in theirs.items()}
  size = _norm(np.array([_norm(x) for x in theirs.values()]))
  distance = _norm(np.array(list(gaps.values()))) / size if size else np.nan
  if not distance <= TOLERANCES[what]:
    raise UsageError(
      f'JAX and PyTorch compute different {what}, {distance:.2g} apart, '
      f'relatively, and most in {max(gaps, key=gaps.get)}; expected at most '
      f'{TOLERANCES[what]:g}'
    )
  return distance


def _norm(x: np.ndarray) -> float:
  return float(np.linalg.norm(np.asarray(x, np.float64).ravel()))


def check_equal(
  values: Mapping[str, float], platform: str, dtype: str, least: float = 0.0
) -> None:
  """Refuses to compare steps whose losses differ.

  Args:
    values: the loss of a step, by program; 'jax' among them.
    platform: that runs it.
    dtype: of the computation.
    least: the smallest tolerance, whatever the platform's.

  Raises:
    UsageError: in one line, with the losses.
  """
  tolerance = max(least, TOLERANCE.get((platform, dtype), _OTHER_TOLERANCE))
  for name, value in values.items():
    if not abs(value - values['jax']) <= tolerance * abs(values['jax']):
      raise UsageError(
        f'the steps compute different losses, {name} {value} and JAX '
        f'{values["jax"]}; expected at most {tolerance:g} apart, relatively'
      )
