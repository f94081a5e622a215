"""Four virtual CPU devices for every test: set before jax starts."""

import os

os.environ['XLA_FLAGS'] = (
  os.environ.get('XLA_FLAGS', '') + ' --xla_force_host_platform_device_count=4'
)
# With more devices than cores, concurrent all-reduces starve each other and
# the process aborts after 40 s; more threads cure it.
os.environ['NPROC'] = '16'
os.environ.setdefault('JAX_PLATFORMS', 'cpu')
