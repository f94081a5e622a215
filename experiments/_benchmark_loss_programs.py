"""Value and gradient of a loss as a program to compile, to run and to time."""

import importlib
import os
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import SingleDeviceSharding

from experiments import _benchmark_costs as costs

# PyTorch does not tell what it will need. Eagerly, it holds a log-softmax and
# the gradient of each use of the logits.
_TORCH_COPIES = 6

# The system wants some of what is free, too.
_USABLE = 0.9

_OUT_OF_MEMORY = ('RESOURCE_EXHAUSTED', 'out of memory', "can't allocate")


def compile_loss(device: jax.Device, loss: Callable, inputs: Any) -> Any:
  """Compiles the mean loss and its gradient with respect to the logits.

  Args:
    device: one to compile for; it need not exist.
    loss: see `_benchmark_losses.Entry`.
    inputs: logits, labels and extras, or their shapes.

  Returns:
    The compiled program, of the same inputs.
  """

  def program(logits, labels, extras):
    def mean(z):
      return jnp.mean(loss(z, labels, extras), dtype=jnp.float32)

    return jax.value_and_grad(mean)(logits)

  sharding = SingleDeviceSharding(device)
  return (
    jax.jit(program, in_shardings=sharding, out_shardings=sharding)
    .lower(*inputs)
    .compile()
  )


class JaxProgram:
  """A compiled loss with its inputs."""

  def __init__(self, compiled: Any, inputs: tuple, device: jax.Device):
    self._compiled = compiled
    self._inputs = inputs
    self._on_cpu = device.platform == 'cpu'

  def needs(self) -> int:
    """The bytes it takes beyond its inputs."""
    memory = costs.memory(self._compiled) or {}
    return memory.get('temporaries', 0) + memory.get('outputs', 0)

  def value(self) -> float:
    """The mean loss."""
    return float(self._compiled(*self._inputs)[0])

  def seconds_per_step(self, count: int) -> float:
    """Computes value and gradient some times in a row."""
    start = time.perf_counter()
    for _ in range(count - 1):
      out = self._compiled(*self._inputs)
      if self._on_cpu:
        # Steps in flight would share the cores, and hold a gradient each.
        jax.block_until_ready(out)
      del out
    jax.block_until_ready(self._compiled(*self._inputs))
    return (time.perf_counter() - start) / count


class TorchProgram:
  """The same of a loss in PyTorch, as it comes: not compiled."""

  def __init__(self, torch: Any, loss: Callable, inputs: tuple):
    logits, labels, extras = jax.tree.map(torch.from_dlpack, inputs)
    self._bytes = logits.nbytes
    self._torch = torch
    self._logits = logits.requires_grad_()
    self._loss = loss
    self._others = labels.to(torch.int64), extras

  def needs(self) -> int:
    """The bytes it takes beyond its inputs, roughly."""
    return _TORCH_COPIES * self._bytes

  def value(self) -> float:
    """The mean loss."""
    return float(self._step()[0])

  def seconds_per_step(self, count: int) -> float:
    """Computes value and gradient some times in a row."""
    start = time.perf_counter()
    for _ in range(count):
      self._step()
    if self._logits.is_cuda:
      self._torch.cuda.synchronize()
    return (time.perf_counter() - start) / count

  def _step(self):
    mean = self._loss(self._torch, self._logits, *self._others).mean()
    (gradient,) = self._torch.autograd.grad(mean, self._logits)
    return mean.detach(), gradient


def find_torch(device: jax.Device) -> tuple[Any, str | None]:
  """PyTorch, with as many threads as there are cores to run on.

  Args:
    device: what JAX runs on.

  Returns:
    The module and None, or None and the reason why it takes no part.
  """
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


def free_memory(device: jax.Device) -> float | None:
  """The bytes that a program may still take; None where nobody tells."""
  stats = device.memory_stats() or {}
  if 'bytes_limit' in stats:
    return _USABLE * (stats['bytes_limit'] - stats['bytes_in_use'])
  try:
    with open('/proc/meminfo') as lines:
      found = [x for x in lines if x.startswith('MemAvailable:')]
  except OSError:
    return None
  return _USABLE * 1024 * int(found[0].split()[1]) if found else None


def lacks_memory(device: jax.Device, needed: float) -> str | None:
  """The reason why something that needs so many bytes is not run, or None."""
  free = free_memory(device)
  if free is None or needed <= free:
    return None
  return f'it needs {needed / 1e9:,.1f} GB, and {free / 1e9:,.1f} GB are free'


def out_of_memory(error: RuntimeError) -> str:
  """The reason, where memory was it; raises every other error again."""
  if not any(text in str(error) for text in _OUT_OF_MEMORY):
    raise error
  return 'it ran out of memory'
