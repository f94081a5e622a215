"""The training step as users of PyTorch would write it.

The paths for GPUs follow PyTorch's documentation: channels_last, autocast,
torch.compile, fused optimizers.
"""

import contextlib
import shutil
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import numpy as np
import torch

from experiments.benchmark import timing

ALPHA = 0.1
# ImageNet's, as both frameworks apply them on the device.
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)

# Memory format, torch.compile's mode ('' is its default), and where it is run.
VARIANTS: dict[str, tuple[str, str | None, tuple[str, ...]]] = {
  'plain': ('contiguous_format', None, ('cpu',)),
  'channels_last': ('channels_last', None, ('cpu', 'gpu')),
  'compiled': ('channels_last', '', ('cpu', 'gpu')),
  'max_autotune': ('channels_last', 'max-autotune', ('gpu',)),
}


def variants_of(platform: str) -> list[str]:
  """What can be run on a platform; the first is not compiled."""
  found = [n for n, v in VARIANTS.items() if platform in v[-1]]
  if platform == 'cpu' and not (shutil.which('g++') or shutil.which('clang++')):
    timing.say('torch.compile needs a C++ compiler and is left out')
    return [n for n in found if VARIANTS[n][1] is None]
  return found


@contextlib.contextmanager
def exact() -> Iterator[None]:
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
    net: torch.nn.Module,
    weights: Mapping[str, np.ndarray],
    batch: Mapping[str, np.ndarray],
    *,
    variant: str,
    platform: str,
    dtype: str,
    optimizer: str,
    options: Mapping[str, Any],
  ):
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
      torch.tensor(x, device=device).view(1, 3, 1, 1) for x in (MEAN, STD)
    )
    half = dtype == 'bfloat16'

    def forward(images):
      images = (images.float() / 255 - mean) / std
      with torch.autocast(device, dtype=torch.bfloat16, enabled=half):
        logits = net(images)
      return logits.float()

    def loss(images, labels):
      logits = forward(images)
      penalty = logits.max(-1).values - logits.mean(-1)
      cross_entropy = torch.nn.functional.cross_entropy(logits, labels)
      return cross_entropy + ALPHA * penalty.mean()

    if mode is not None:
      loss = torch.compile(loss, mode=mode or None)
    self._net, self._forward, self._loss = net, forward, loss
    options = dict(options)
    kinds: Any = {'sgd': torch.optim.SGD, 'adamw': torch.optim.AdamW}
    self._optimizer = kinds[optimizer](
      net.parameters(), lr=options.pop('learning_rate'), fused=True, **options
    )

  def first_step(self) -> float:
    """Takes a step; gives its loss."""
    return float(self._step())

  def logits(self) -> np.ndarray:
    """Those of the batch, as the next step would compute them."""
    with torch.no_grad():
      return self._forward(self._images).cpu().numpy()

  def parameters(self) -> dict[str, np.ndarray]:
    """The parameters by name, as they are now."""
    return {
      name: x.detach().cpu().contiguous().numpy().copy()
      for name, x in self._net.named_parameters()
    }

  def seconds_per_step(self, count: int) -> float:
    """Takes steps in a row, and waits until the last is done."""
    wait = torch.cuda.synchronize if self._cuda else lambda: None
    return timing.timer(self._step, wait)(count)

  def _step(self) -> torch.Tensor:
    loss = self._loss(self._images, self._labels)
    loss.backward()
    self._optimizer.step()
    self._optimizer.zero_grad(set_to_none=True)
    return loss.detach()
