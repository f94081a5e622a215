"""What XLA and the devices say of a program, and what a device can do."""

from collections.abc import Callable, Sequence
from typing import Any

import jax

from maxsup_jax.training.parallel import Devices

# TFLOP/s of one JAX device, dense, by `device_kind` and by the dtype of the
# model. A model in float32 multiplies, by JAX's default, in TF32 on these GPUs
# and in bfloat16 on TPUs (docs.jax.dev/en/latest/201/precision.html). Kinds
# that are partitions of a device (MIG) have names of their own, and no row.
_A100 = {'bfloat16': 312.0, 'float32': 156.0}
_H100_SXM = {'bfloat16': 989.4, 'float32': 494.7}
_V5E = {'bfloat16': 197.0, 'float32': 197.0}
_V5P = {'bfloat16': 459.0, 'float32': 459.0}
_V6E = {'bfloat16': 918.0, 'float32': 918.0}
_PEAK_TFLOPS = {
  # NVIDIA A100 Tensor Core GPU datasheet; all forms have the same peak.
  'NVIDIA A100-SXM4-40GB': _A100,
  'NVIDIA A100-SXM4-80GB': _A100,
  'NVIDIA A100-PCIE-40GB': _A100,
  'NVIDIA A100 80GB PCIe': _A100,
  # NVIDIA H100 Tensor Core GPU Architecture (white paper), SXM5 and PCIe.
  'NVIDIA H100 80GB HBM3': _H100_SXM,
  'NVIDIA H100 PCIe': {'bfloat16': 756.0, 'float32': 378.0},
  # NVIDIA H200 Tensor Core GPU datasheet, SXM; only its memory differs.
  'NVIDIA H200': _H100_SXM,
  # cloud.google.com/tpu/docs/{v4,v5e,v5p,v6e}, per chip, which is one device.
  # Two names each, as in jax's own jax/_src/pallas/mosaic/tpu_info.py.
  'TPU v4': {'bfloat16': 275.0, 'float32': 275.0},
  'TPU v5 lite': _V5E,
  'TPU v5e': _V5E,
  'TPU v5': _V5P,
  'TPU v5p': _V5P,
  'TPU v6 lite': _V6E,
  'TPU v6e': _V6E,
}

# GB/s of the memory of one JAX device, by `device_kind`: the same datasheets.
_MEMORY_GB_PER_SECOND = {
  'NVIDIA A100-SXM4-40GB': 1555.0,
  'NVIDIA A100-SXM4-80GB': 2039.0,
  'NVIDIA A100-PCIE-40GB': 1555.0,
  'NVIDIA A100 80GB PCIe': 1935.0,
  'NVIDIA H100 80GB HBM3': 3350.0,
  'NVIDIA H100 PCIe': 2000.0,
  'NVIDIA H200': 4800.0,
  'TPU v4': 1228.0,
  'TPU v5 lite': 819.0,
  'TPU v5e': 819.0,
  'TPU v5': 2765.0,
  'TPU v5p': 2765.0,
  'TPU v6 lite': 1640.0,
  'TPU v6e': 1640.0,
}

# GiB of memory of a TPU, by `device_kind`: cloud.google.com/tpu/docs/{v4,v5e,
# v5p,v6e}; a little of it is not for programs. Of GPUs it differs by the model,
# and they tell it themselves.
_MEMORY_GIB = {
  'TPU v4': 32,
  'TPU v5 lite': 16,
  'TPU v5e': 16,
  'TPU v5': 95,
  'TPU v5p': 95,
  'TPU v6 lite': 32,
  'TPU v6e': 32,
}


def memory_capacity(device_kind: str) -> int | None:
  """The bytes of one device's memory; None where they are not known."""
  gibibytes = _MEMORY_GIB.get(device_kind)
  return None if gibibytes is None else gibibytes * 2**30


def memory_bandwidth(device_kind: str) -> float | None:
  """The peak of one device's memory in bytes/s; None where it is not known."""
  gigabytes = _MEMORY_GB_PER_SECOND.get(device_kind)
  return None if gigabytes is None else gigabytes * 1e9


def peak_flops(device_kind: str, dtype: str) -> float | None:
  """The peak of one device in FLOP/s; None where it is not known.

  Args:
    device_kind: what JAX calls the device.
    dtype: of the model's computation.

  Returns:
    The dense peak at which a model of this dtype multiplies.
  """
  if dtype == 'float32' and jax.config.jax_default_matmul_precision is not None:
    return None
  tflops = _PEAK_TFLOPS.get(device_kind, {}).get(dtype)
  return None if tflops is None else tflops * 1e12


def peak_memory(devices: Sequence[jax.Device]) -> int | None:
  """The most bytes ever in use on one of the devices; None if not known."""
  stats = [device.memory_stats() or {} for device in devices]
  peaks = [s['peak_bytes_in_use'] for s in stats if 'peak_bytes_in_use' in s]
  return max(peaks, default=None)


def flops_as_written(step: Callable, state: Any, batch: Any) -> float | None:
  """XLA's count of the FLOPs of one device's part of a step, not optimised.

  Only the CPU backend counts before it compiles, so it is asked everywhere.

  Args:
    step: the per-device step.
    state: as on the devices, with their axis in front.
    batch: likewise.

  Returns:
    The count, or None where JAX runs without its CPU backend.
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
  """XLA's count for a lowered or compiled program, on one device.

  What `jit(vmap)` compiles is all of the step on the only device; what `pmap`
  compiles is the part of one of its devices.
  """
  return _counted(program, 'flops')


def bytes_accessed(program: Any) -> float | None:
  """XLA's count of what a compiled program reads and writes in memory."""
  return _counted(program, 'bytes accessed')


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
  peak: float | None,
  bandwidth: float | None,
  batch_size: int,
) -> dict[str, Any]:
  """What a step takes at least, at the peaks of one device.

  A bound by the compiler's counts, and no measurement: multiplications at the
  peak rate, and every access at the bandwidth of the memory, both at once.

  Args:
    flops: of one device's part, as written.
    accessed: bytes that it reads and writes.
    peak: FLOP/s.
    bandwidth: bytes/s.
    batch_size: over all devices.

  Returns:
    Seconds for each, for the step, which of them decides, and the images/s of
    all devices; None for what is not known.

  Examples:
    >>> bound(2e12, 1e9, peak=1e12, bandwidth=1e9, batch_size=8)['limit']
    'compute'
  """
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


def _counted(program: Any, name: str) -> float | None:
  count = (program.cost_analysis() or {}).get(name, 0)
  return float(count) if count > 0 else None  # -1 stands for unknown
