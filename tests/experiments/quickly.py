"""Programs that are compiled fast, and run slowly."""

import contextlib

import jax


@contextlib.contextmanager
def compiled_quickly():
  """Leaves most optimizations out of what is compiled meanwhile."""
  name = 'jax_disable_most_optimizations'
  before = jax.config.values[name]
  jax.config.update(name, True)
  try:
    yield
  finally:
    jax.config.update(name, before)
