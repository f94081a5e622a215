"""What XLA and the devices say of a program, and what a device can do."""

import os
import pathlib
import re
import time
from collections.abc import Callable, Sequence
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
  # NVIDIA A100 Tensor Core GPU datasheet.
  'NVIDIA A100-SXM4-40GB': _Device(312.0, 156.0, 1555.0),
  'NVIDIA A100-SXM4-80GB': _Device(312.0, 156.0, 2039.0),
  'NVIDIA A100-PCIE-40GB': _Device(312.0, 156.0, 1555.0),
  'NVIDIA A100 80GB PCIe': _Device(312.0, 156.0, 1935.0),
  # NVIDIA H100 Tensor Core GPU Architecture (white paper), SXM5 and PCIe.
  'NVIDIA H100 80GB HBM3': _Device(989.4, 494.7, 3350.0),
  'NVIDIA H100 PCIe': _Device(756.0, 378.0, 2000.0),
  # NVIDIA H200 Tensor Core GPU datasheet, SXM; only its memory differs.
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


def memory_bandwidth(device_kind: str) -> float | None:
  """The peak of one device's memory in bytes/s; None if not known."""
  known = _DEVICES.get(device_kind)
  return known and known.bandwidth * 1e9


def memory_capacity(device_kind: str) -> int | None:
  """The bytes of a TPU's memory, not all for programs; None if not known."""
  known = _DEVICES.get(device_kind)
  return known and known.gibibytes and known.gibibytes * 2**30


def peak_memory(devices: Sequence[jax.Device]) -> int | None:
  """The most bytes ever in use on one of the devices; None if not known."""
  stats = [device.memory_stats() or {} for device in devices]
  peaks = [s['peak_bytes_in_use'] for s in stats if 'peak_bytes_in_use' in s]
  return max(peaks, default=None)


def compile_step(
  step: Callable, mapped: Any, state: Any, batch: Any
) -> tuple[Any, dict[str, Any]]:
  """Compiles a training step, and reads what the compiler says.

  Args:
    step: the per-device step.
    mapped: the same over the devices.
    state: as on the devices, with their axis in front, or its shapes.
    batch: likewise.

  Returns:
    The program, None where memory is missing, and a part of a record: of the
    program no more is known then than what it needs.
  """
  start = time.perf_counter()
  lowered = mapped.lower(state, batch)
  middle = time.perf_counter()
  program, lacks = compile_or_lack(lowered.compile)
  return program, {
    'lower_seconds': middle - start,
    'compile_seconds': time.perf_counter() - middle,
    'fits': program is not None,
    'lacks': lacks,
    'flops_per_device': {
      'as_written': flops_as_written(step, state, batch),
      'as_compiled': program and flops(program),
    },
    'bytes_accessed_per_device': program and bytes_accessed(program),
    'memory_bytes_per_device': program and memory(program),
  }


def compile_or_lack(
  compile: Callable[[], Any],
) -> tuple[Any, dict[str, Any] | None]:
  """Compiles, or says how much memory was missing.

  Returns:
    The program and None; or None and what the compiler said: `message`, and
    where it tells them the bytes `needed` and `available`.
  """
  try:
    return compile(), None
  except jax.errors.JaxRuntimeError as error:
    message = one_line(error)
    if 'RESOURCE_EXHAUSTED' not in message:
      raise
  size = r'([\d.]+)([KMGT]?)'
  found = re.search(
    rf'\({size}\) exceeds available HBM \({size}\)', message
  ) or re.search(rf'Used {size} of {size} hbm', message)
  lacks = {'needed': None, 'available': None, 'message': message[:500]}
  if found:
    scale = {'': 1, 'K': 2**10, 'M': 2**20, 'G': 2**30, 'T': 2**40}
    lacks['needed'] = round(float(found[1]) * scale[found[2]])
    lacks['available'] = round(float(found[3]) * scale[found[4]])
  return None, lacks


def flops_as_written(step: Callable, state: Any, batch: Any) -> float | None:
  """XLA's count of the FLOPs of one device's part of a step, not optimised.

  Only the CPU backend counts before it compiles, so it is asked everywhere;
  None where JAX runs without it.
  """
  try:
    cpu = jax.local_devices(backend='cpu')[0]
  except RuntimeError:
    return None
  one_device = jax.tree.map(
    lambda x: jax.ShapeDtypeStruct((1, *x.shape[1:]), x.dtype), (state, batch)
  )
  with jax.default_device(cpu):
    return flops(Devices([cpu]).map(step).lower(*one_device))


def flops(program: Any) -> float | None:
  """XLA's count for a lowered or compiled program, on one device."""
  return _counted(program, 'flops')


def bytes_accessed(program: Any) -> float | None:
  """XLA's count of what a compiled program reads and writes in memory."""
  return _counted(program, 'bytes accessed')


def _counted(program, name):
  count = (program.cost_analysis() or {}).get(name, 0)
  return float(count) if count > 0 else None  # -1 stands for unknown


def memory(compiled: Any) -> dict[str, int] | None:
  """The bytes that a compiled program needs on each device, by purpose."""
  stats = compiled.memory_analysis()
  if stats is None:
    return None
  parts = {
    'arguments': stats.argument_size_in_bytes,
    'temporaries': stats.temp_size_in_bytes,
    'outputs': stats.output_size_in_bytes,
    # Outputs that take the place of donated arguments.
    'aliased': stats.alias_size_in_bytes,
  }
  return {**parts, 'total': sum(parts.values()) - 2 * parts['aliased']}


def rate(
  flops: float | None, seconds: float, peak: float | None
) -> dict[str, float | None]:
  """FLOP/s, and their share of the peak; None for what is not known."""
  per_second = None if flops is None else flops / seconds
  known = per_second is not None and peak is not None
  return {
    'flops_per_second_per_device': per_second,
    'share_of_peak': per_second / peak if known else None,
  }


def bound(
  flops: float | None,
  accessed: float | None,
  *,
  device_kind: str,
  dtype: str,
  batch_size: int,
) -> dict[str, Any]:
  """What a step takes at least, at the peaks of one device.

  A bound by the compiler's counts for one device, and no measurement: FLOPs as
  written at the peak rate, and every access at the bandwidth of the memory,
  both at once. What is not known is None.
  """
  peak, bandwidth = (
    peak_flops(device_kind, dtype),
    memory_bandwidth(device_kind),
  )
  compute = flops / peak if flops and peak else None
  memory = accessed / bandwidth if accessed and bandwidth else None
  known = compute is not None and memory is not None
  step = max(compute, memory) if known else None
  return {
    'compute_seconds': compute,
    'memory_seconds': memory,
    'step_seconds': step,
    'limit': ('compute' if compute >= memory else 'memory') if known else None,
    'images_per_second': batch_size / step if known else None,
  }


def hardware() -> dict[str, Any]:
  """On what this program runs, for its record."""
  return {
    'platform': jax.default_backend(),
    'platform_version': jax.extend.backend.get_backend().platform_version,
    'device_kind': jax.devices()[0].device_kind,
    'device_count': jax.device_count(),
    'process_count': jax.process_count(),
    'host_cpu': _host_cpu(),
    'host_cpu_count': os.cpu_count(),
  }


def _host_cpu() -> str | None:
  """The name of the host's processor, where Linux tells it."""
  try:
    text = pathlib.Path('/proc/cpuinfo').read_text()
  except OSError:
    return None
  names = [x for x in text.splitlines() if x.startswith('model name')]
  return names[0].partition(':')[2].strip() if names else None
