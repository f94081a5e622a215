"""The training step in PyTorch, as its users would write it.

The paths for GPUs follow PyTorch's documentation: channels_last, autocast,
torch.compile, fused optimizers.
"""

import importlib.util
import shutil
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np


class Variant(NamedTuple):
  """A way to run the step.

  Attributes:
    channels_last: the memory format of images and kernels.
    compiled: the mode of torch.compile; '' for its default, None for none.
    platforms: where it is tried.
  """

  channels_last: bool
  compiled: str | None
  platforms: tuple[str, ...]


VARIANTS = {
  'plain': Variant(False, None, ('cpu',)),
  'channels_last': Variant(True, None, ('cpu', 'gpu')),
  'compiled': Variant(True, '', ('cpu', 'gpu')),
  'max_autotune': Variant(True, 'max-autotune', ('gpu',)),
}


def variants_of(platform: str) -> tuple[str, ...]:
  """The variants that are tried on a platform."""
  return tuple(n for n, v in VARIANTS.items() if platform in v.platforms)


def lacks(variant: str, platform: str) -> str | None:
  """What a variant lacks here, or None."""
  if VARIANTS[variant].compiled is None:
    return None
  if platform == 'cpu' and not (shutil.which('g++') or shutil.which('clang++')):
    return 'torch.compile needs a C++ compiler'
  if platform == 'gpu' and importlib.util.find_spec('triton') is None:
    return 'torch.compile needs triton'
  return None


def configure(torch: Any, platform: str) -> None:
  """What PyTorch's guides set to train fast; JAX multiplies alike."""
  torch.backends.cudnn.benchmark = True
  if platform == 'gpu':
    # float32 is TF32 then, as by JAX's default.
    torch.set_float32_matmul_precision('high')
    torch.backends.cudnn.allow_tf32 = True


def describe(torch: Any) -> dict[str, Any]:
  """What PyTorch is, for the record."""
  return {
    'torch': torch.__version__,
    'torch_threads': torch.get_num_threads(),
    'torch_mkldnn': torch.backends.mkldnn.is_available(),
    'torch_cpu_capability': torch.backends.cpu.get_cpu_capability(),
    'torch_float32_matmul_precision': torch.get_float32_matmul_precision(),
  }


def forget(torch: Any) -> None:
  """Gives up what was compiled and kept."""
  torch.compiler.reset()
  if torch.cuda.is_available():
    torch.cuda.empty_cache()


class Step:
  """A model in PyTorch with an optimizer, and the step that trains it.

  Args:
    torch: the module.
    net: maps images [B, 3, H, W] to logits.
    weights: its state dict, as numpy arrays.
    batch: uint8 images [B, H, W, 3] and labels.
    variant: one of `VARIANTS`.
    platform: 'cpu' or 'gpu'.
    dtype: of the computation; 'bfloat16' is autocast.
    optimizer: 'sgd' or 'adamw'; all parameters decay.
    optimizer_options: as of `make_optimizer`.
    alpha: of MaxSup.
    mean: of the images in [0, 1], per channel.
    std: likewise.
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
    optimizer_options: Mapping[str, Any],
    alpha: float,
    mean: tuple[float, ...],
    std: tuple[float, ...],
  ):
    self._torch = torch
    self._cuda = platform == 'gpu'
    device = 'cuda' if self._cuda else 'cpu'
    if self._cuda:
      torch.cuda.reset_peak_memory_stats()
    chosen = VARIANTS[variant]
    layout = (
      torch.channels_last if chosen.channels_last else torch.contiguous_format
    )
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

    if chosen.compiled is not None:
      loss = torch.compile(loss, mode=chosen.compiled or None)
    self._net, self._forward, self._loss = net, forward, loss
    self._optimizer = _optimizer(
      torch, optimizer, net.parameters(), **optimizer_options
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
    return timer(self._step, self._wait)(count)

  def peak_memory(self) -> int | None:
    """The most bytes of a GPU that were allocated since this was made."""
    return self._torch.cuda.max_memory_allocated() if self._cuda else None

  def _wait(self):
    if self._cuda:
      self._torch.cuda.synchronize()

  def _step(self):
    loss = self._loss(self._images, self._labels)
    loss.backward()
    self._optimizer.step()
    self._optimizer.zero_grad(set_to_none=True)
    return loss.detach()


def _optimizer(torch, name, parameters, *, learning_rate, **options):
  kinds = {'sgd': torch.optim.SGD, 'adamw': torch.optim.AdamW}
  return kinds[name](parameters, lr=learning_rate, fused=True, **options)


def timer(
  step: Callable[[], Any], wait: Callable[[], None] = lambda: None
) -> Callable[[int], float]:
  """The seconds of a step, of some in a row."""

  def seconds_per_step(count: int) -> float:
    wait()
    start = time.perf_counter()
    for _ in range(count):
      step()
    wait()
    return (time.perf_counter() - start) / count

  return seconds_per_step
