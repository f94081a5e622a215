"""A TPU to compile for, on a machine that has none."""

import importlib.util
import os

from maxsup_jax._errors import UsageError

TOPOLOGY = 'v5e:2x2'

# libtpu asks the cloud for what it runs on, unless it is told. Its lock keeps
# two processes from one TPU; here there is none, and two may compile.
_ENVIRONMENT = {
  'ALLOW_MULTIPLE_LIBTPU_LOAD': '1',
  'TPU_SKIP_MDS_QUERY': '1',
  'TPU_ACCELERATOR_TYPE': 'v5litepod-4',
  'TPU_WORKER_HOSTNAMES': 'localhost',
  'JAX_PLATFORMS': 'cpu',
}


def prepare() -> None:
  """Sets the environment; to be called before jax is imported.

  Raises:
    UsageError: if libtpu is not installed.
  """
  if importlib.util.find_spec('libtpu') is None:
    raise UsageError(
      '--target=tpu compiles with libtpu, which is not installed; '
      'pip install libtpu'
    )
  for name, value in _ENVIRONMENT.items():
    os.environ.setdefault(name, value)


def device():
  """The first device of `TOPOLOGY`: one can compile for it, but not run."""
  from jax.experimental import topologies

  topology = topologies.get_topology_desc(
    platform='tpu', topology_name=TOPOLOGY
  )
  return topology.devices[0]
