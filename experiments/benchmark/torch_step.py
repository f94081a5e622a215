"""The training step in PyTorch, as its users would write it.

The paths for GPUs follow PyTorch's documentation: channels_last, autocast,
torch.compile, fused optimizers.
"""

import contextlib
import importlib.util
import os
import shutil
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import numpy as np

from experiments.benchmark import timing


def find_torch(device: jax.Device) -> tuple[Any, str | None]:
  """PyTorch, with a thread a core; or None and why it takes no part."""
  try:
    torch = importlib.import_module('torch')
  except ModuleNotFoundError as e:
    if e.name != 'torch':
      raise
    return None, 'PyTorch is not installed'
  if device.platform == 'gpu' and not torch.cuda.is_available():
    return None, f'PyTorch {torch.__version__} sees no GPU'
  if device.platform not in ('cpu', 'gpu'):
    return None, f'PyTorch does not run on {device.device_kind}'
  if hasattr(os, 'sched_getaffinity'):
    torch.set_num_threads(len(os.sched_getaffinity(0)))
  return torch, None


# Memory format, torch.compile's mode ('' is its default), and where it is run.
VARIANTS = {
  'plain': ('contiguous_format', None, ('cpu',)),
  'channels_last': ('channels_last', None, ('cpu', 'gpu')),
  'compiled': ('channels_last', '', ('cpu', 'gpu')),
  'max_autotune': ('channels_last', 'max-autotune', ('gpu',)),
}


def variants_of(platform: str) -> tuple[str, ...]:
  """The variants that are tried on a platform; the first is not compiled."""
  return tuple(n for n, v in VARIANTS.items() if platform in v[-1])


def lacks(variant: str, platform: str) -> str | None:
  """What a variant lacks here, or None."""
  if VARIANTS[variant][1] is None:
    return None
  if platform == 'cpu' and not (shutil.which('g++') or shutil.which('clang++')):
    return 'torch.compile needs a C++ compiler'
  if platform == 'gpu' and importlib.util.find_spec('triton') is None:
    return 'torch.compile needs triton'
  return None


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


class Step:
  """A net with its weights and an optimizer, and the step that trains it.

  It maps images [B, 3, H, W] to logits; bfloat16 is autocast.
  """

  def __init__(
    self,
    torch: Any,
    net: Any,
    weights: Mapping[str, np.ndarray],
    batch: Mapping[str, np.ndarray],
    *,
    variant: str,
    platform: str,
    dtype: str,
    optimizer: str,
    options: Mapping[str, Any],
    alpha: float,
    mean: tuple[float, ...],
    std: tuple[float, ...],
  ):
    self._torch = torch
    self._cuda = platform == 'gpu'
    device = 'cuda' if self._cuda else 'cpu'
    layout, mode, _ = VARIANTS[variant]
    layout = getattr(torch, layout)
    # The arrays of JAX may not be written to.
    tensors = {n: torch.from_numpy(np.array(w)) for n, w in weights.items()}
    net.load_state_dict(tensors, strict=True)
    net = net.to(device=device, memory_format=layout).train()
    images = torch.from_numpy(batch['image']).permute(0, 3, 1, 2)
    self._images = images.to(device).contiguous(memory_format=layout)
    self._labels = torch.from_numpy(batch['label']).long().to(device)
    mean, std = (
      torch.tensor(x, device=device).view(1, 3, 1, 1) for x in (mean, std)
    )
    autocast = torch.autocast(
      device, dtype=torch.bfloat16, enabled=dtype == 'bfloat16'
    )

    def forward(images):
      images = (images.float() / 255 - mean) / std
      with autocast:
        logits = net(images)
      return logits.float()

    def loss(images, labels):
      logits = forward(images)
      penalty = logits.max(-1).values - logits.mean(-1)
      cross_entropy = torch.nn.functional.cross_entropy(logits, labels)
      return cross_entropy + alpha * penalty.mean()

    if mode is not None:
      loss = torch.compile(loss, mode=mode or None)
    self._net, self._forward, self._loss = net, forward, loss
    options = dict(options)
    kinds = {'sgd': torch.optim.SGD, 'adamw': torch.optim.AdamW}
    self._optimizer = kinds[optimizer](
      net.parameters(), lr=options.pop('learning_rate'), fused=True, **options
    )

  def first_step(self) -> float:
    """Takes a step; gives its loss."""
    return float(self._step())

  def logits(self) -> np.ndarray:
    """Those of the batch, as the next step would compute them."""
    with self._torch.no_grad():
      return self._forward(self._images).cpu().numpy()

  def parameters(self) -> dict[str, np.ndarray]:
    """The parameters by name, as they are now."""
    return {
      name: x.detach().cpu().contiguous().numpy().copy()
      for name, x in self._net.named_parameters()
    }

  def seconds_per_step(self, count: int) -> float:
    """Takes steps in a row, and waits until the last is done."""
    return timing.timer(self._step, self._wait)(count)

  def _wait(self):
    if self._cuda:
      self._torch.cuda.synchronize()

  def _step(self):
    loss = self._loss(self._images, self._labels)
    loss.backward()
    self._optimizer.step()
    self._optimizer.zero_grad(set_to_none=True)
    return loss.detach()
