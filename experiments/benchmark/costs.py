"""What XLA and the devices say of a program, and what a device can do."""

import importlib
import os
import pathlib
import re
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.extend

from maxsup_jax.errors import one_line
from maxsup_jax.training.parallel import Devices


class _Device(NamedTuple):
  """Dense TFLOP/s by the dtype of the model, GB/s and GiB of the memory."""

  bfloat16: float
  float32: float
  bandwidth: float
  gibibytes: int | None = None  # GPUs of a kind differ, and tell it themselves.


# One JAX device, by `device_kind`. A model in float32 multiplies, by JAX's
# default, in TF32 on these GPUs and in bfloat16 on TPUs
# (docs.jax.dev/en/latest/201/precision.html). Partitions of a device (MIG) have
# names of their own.
_DEVICES = {
  # NVIDIA's datasheets of A100, H100 and H200; only memories differ.
  'NVIDIA A100-SXM4-40GB': _Device(312.0, 156.0, 1555.0),
  'NVIDIA A100-SXM4-80GB': _Device(312.0, 156.0, 2039.0),
  'NVIDIA A100 80GB PCIe': _Device(312.0, 156.0, 1935.0),
  'NVIDIA H100 80GB HBM3': _Device(989.4, 494.7, 3350.0),
  'NVIDIA H100 PCIe': _Device(756.0, 378.0, 2000.0),
  'NVIDIA H200': _Device(989.4, 494.7, 4800.0),
  # cloud.google.com/tpu/docs/{v4,v5e,v5p,v6e}, per chip, which is one device.
  # Two names each, as in jax's own jax/_src/pallas/mosaic/tpu_info.py.
  'TPU v4': _Device(275.0, 275.0, 1228.0, 32),
  'TPU v5 lite': _Device(197.0, 197.0, 819.0, 16),
  'TPU v5e': _Device(197.0, 197.0, 819.0, 16),
  'TPU v5': _Device(459.0, 459.0, 2765.0, 95),
  'TPU v5p': _Device(459.0, 459.0, 2765.0, 95),
  'TPU v6 lite': _Device(918.0, 918.0, 1640.0, 32),
  'TPU v6e': _Device(918.0, 918.0, 1640.0, 32),
}


def peak_flops(device_kind: str, dtype: str) -> float | None:
  """FLOP/s at which a model of this dtype multiplies; None if not known."""
  if dtype == 'float32' and jax.config.jax_default_matmul_precision is not None:
    return None
  tflops = getattr(_DEVICES.get(device_kind), dtype, None)
  return None if tflops is None else tflops * 1e12


def memory_capacity(device_kind: str) -> int | None:
  """The bytes of a TPU's memory, not all for programs; None if not known."""
  known = _DEVICES.get(device_kind)
  return known and known.gibibytes and known.gibibytes * 2**30


def compile_step(
  step: Callable, mapped: Any, state: Any, batch: Any
) -> tuple[Any, dict[str, Any]]:
  """Compiles a training step, `mapped` over the devices.

  State and batch are as on the devices, with their axis in front, or shapes.
  The program is None where memory is missing; the rest is a part of a record.
  """
  lowered = mapped.lower(state, batch)
  program, lacks, start = None, None, time.perf_counter()
  try:
    program = lowered.compile()
  except jax.errors.JaxRuntimeError as error:
    if 'RESOURCE_EXHAUSTED' not in str(error):
      raise
    lacks = one_line(error)[:500]
  return program, {
    'compile_seconds': time.perf_counter() - start,
    'fits': program is not None,
    'lacks': lacks,
    'flops_per_device': {'as_written': flops_as_written(step, state, batch)},
    'bytes_accessed_per_device': program and counted(program),
    'memory_bytes_per_device': program and memory(program),
  }


def flops_as_written(step: Callable, state: Any, batch: Any) -> float | None:
  """XLA's count of the FLOPs of one device's part of a step, not optimised.

  Only the CPU backend counts before it compiles, so it is asked everywhere.
  """
  try:
    cpu = jax.local_devices(backend='cpu')[0]
  except RuntimeError:  # JAX runs without it.
    return None
  one_device = jax.tree.map(
    lambda x: jax.ShapeDtypeStruct((1, *x.shape[1:]), x.dtype), (state, batch)
  )
  with jax.default_device(cpu):
    return counted(Devices([cpu]).map(step).lower(*one_device), 'flops')


def counted(program: Any, name: str = 'bytes accessed') -> float | None:
  """XLA's count for a lowered or compiled program, on one device."""
  count = (program.cost_analysis() or {}).get(name, 0)
  return float(count) if count > 0 else None  # -1 stands for unknown


def memory(compiled: Any) -> dict[str, int] | None:
  """The bytes that a compiled program needs on each device, by purpose.

  Aliased are outputs that take the place of donated arguments.
  """
  stats = compiled.memory_analysis()
  if stats is None:
    return None
  names = ('argument', 'temp', 'output', 'alias')
  found = [getattr(stats, f'{name}_size_in_bytes') for name in names]
  purposes = ('arguments', 'temporaries', 'outputs', 'aliased')
  total = sum(found) - 2 * found[-1]
  return {**dict(zip(purposes, found)), 'total': total}


def bound(
  flops: float | None,
  accessed: float | None,
  *,
  device_kind: str,
  dtype: str,
  batch_size: int,
  unit: str = 'images',
) -> dict[str, Any]:
  """What a step takes at least, at the peaks of one device.

  By the compiler's counts: FLOPs at the peak rate, and every access at the
  bandwidth of the memory, both at once. What is not known is None.
  """
  peak, known = peak_flops(device_kind, dtype), _DEVICES.get(device_kind)
  parts = {
    'compute': flops / peak if flops and peak else None,
    'memory': accessed / known.bandwidth / 1e9 if accessed and known else None,
  }
  limit = None if None in parts.values() else max(parts, key=parts.get)
  step = limit and parts[limit]
  return {
    **{f'{name}_seconds': seconds for name, seconds in parts.items()},
    'step_seconds': step,
    'limit': limit,
    f'{unit}_per_second': step and batch_size / step,
  }


def find_torch(device: jax.Device) -> tuple[Any, str | None]:
  """PyTorch, with a thread a core; or None and why it takes no part."""
  try:
    torch = importlib.import_module('torch')
  except ModuleNotFoundError:
    return None, 'PyTorch is not installed'
  if device.platform == 'gpu' and not torch.cuda.is_available():
    return None, f'PyTorch {torch.__version__} sees no GPU'
  if device.platform not in ('cpu', 'gpu'):
    return None, f'PyTorch does not run on {device.device_kind}'
  torch.set_num_threads(len(os.sched_getaffinity(0)))
  return torch, None


def hardware() -> dict[str, Any]:
  """On what this program runs, for its record."""
  path = pathlib.Path('/proc/cpuinfo')  # Of Linux.
  text = path.read_text() if path.exists() else ''
  found = re.search(r'^model name\s*: (.*)$', text, re.MULTILINE)
  return {
    'platform': jax.default_backend(),
    'platform_version': jax.extend.backend.get_backend().platform_version,
    'device_kind': jax.devices()[0].device_kind,
    'device_count': jax.device_count(),
    'process_count': jax.process_count(),
    'host_cpu': found and found[1].strip(),
    'host_cpu_count': os.cpu_count(),
  }
