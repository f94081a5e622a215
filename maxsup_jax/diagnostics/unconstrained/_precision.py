"""Float64 for the time of a computation, and the global setting untouched."""

import contextlib
from collections.abc import Iterator

import jax


@contextlib.contextmanager
def double_precision() -> Iterator[None]:
  """Computes in float64, on the CPU where JAX knows one.

  The problems here are small, and accelerators are slow in float64 or, as TPUs,
  do not have it.
  """
  try:
    cpu = jax.local_devices(backend='cpu')[0]
  except RuntimeError:
    cpu = None  # JAX_PLATFORMS leaves it out.
  with jax.enable_x64(True), jax.default_device(cpu):
    yield
