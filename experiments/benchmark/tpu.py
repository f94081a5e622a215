"""A TPU to compile for, on a machine that has none."""

import importlib.util
import os
from typing import Any

from maxsup_jax.errors import UsageError, one_of

TOPOLOGY = 'v5e:2x2'

# What one machine has. pmap cannot be compiled for more: JAX would have to run
# on each of the machines.
TOPOLOGIES = (
  *('v4:2x2x1', 'v5e:1x1', 'v5e:2x2', 'v5e:2x4'),
  *('v5p:2x2x1', 'v6e:1x1', 'v6e:2x2', 'v6e:2x4'),
)

# libtpu asks the cloud for what it runs on, unless it is told. Its lock keeps
# two processes from one TPU; here there is none, and two may compile.
_ENVIRONMENT = {
  'ALLOW_MULTIPLE_LIBTPU_LOAD': '1',
  'TPU_SKIP_MDS_QUERY': '1',
  'TPU_ACCELERATOR_TYPE': 'v5litepod-4',
  'TPU_WORKER_HOSTNAMES': 'localhost',
  'JAX_PLATFORMS': 'cpu',
}


def prepare(who: str) -> None:
  """Sets the environment for libtpu; call it before jax is imported."""
  if importlib.util.find_spec('libtpu') is None:
    raise UsageError(
      f'{who} needs libtpu, which is not installed: pip install libtpu, or '
      "'jax[tpu]' for the version that matches this jax"
    )
  for name, value in _ENVIRONMENT.items():
    os.environ.setdefault(name, value)


def devices(name: str) -> list[Any]:
  """The devices of a topology: one can compile for them, but not run."""
  from jax.experimental import topologies

  one_of('--topology', name, TOPOLOGIES)
  # A chip of a v4 is two cores, which work as one device.
  options = {'chip_config_name': 'megacore'} if name.startswith('v4') else {}
  shape = [int(n) for n in name.partition(':')[2].split('x')]
  return list(
    topologies.get_topology_desc(
      platform='tpu',
      topology_name=name,
      chips_per_host_bounds=(*shape, 1, 1)[:3],
      **options,
    ).devices
  )
