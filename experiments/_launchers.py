"""Which processes a launcher has started, from what it tells each of them.

JAX finds their addresses by itself; this says beforehand whether there is
anybody to find, so that a single process never waits. Nothing heavy is imported
here.
"""

import glob
import importlib.util
import os
import urllib.error
import urllib.request
from collections.abc import Mapping
from typing import NamedTuple

from maxsup_jax.errors import UsageError


class Launch(NamedTuple):
  """One process of several.

  Attributes:
    by: who started it, for messages.
    method: what JAX calls that; None for what JAX shall find by itself.
    index: which process this one is; None where only JAX can tell.
    count: how many there are.
    alone_on_host: whether every host has only one of them.
    local_rank: which one it is of those on its host; None where all of them
      share the devices by themselves.
  """

  by: str
  method: str | None
  index: int | None
  count: int
  alone_on_host: bool
  local_rank: int | None = None


# What JAX itself wants to see before it takes a process for one of SLURM's.
_SLURM = (
  'SLURM_JOB_ID',
  'SLURM_STEP_NODELIST',
  'SLURM_NTASKS',
  'SLURM_PROCID',
  'SLURM_LOCALID',
)
_TPU_DEVICES = ('/dev/accel[0-9]*', '/dev/vfio/[0-9]*')


def find_launch() -> Launch | None:
  """Which of several processes this is; None if it was started alone."""
  return _open_mpi(os.environ) or _slurm(os.environ) or _tpu_slice(os.environ)


def _open_mpi(env: Mapping[str, str]) -> Launch | None:
  count = _number(env, 'OMPI_COMM_WORLD_SIZE')
  if count < 2:
    return None
  return Launch(
    'Open MPI',
    # Open MPI 5 no longer says where its processes can meet.
    'ompi' if 'OMPI_MCA_orte_hnp_uri' in env else None,
    _number(env, 'OMPI_COMM_WORLD_RANK'),
    count,
    env.get('OMPI_COMM_WORLD_LOCAL_SIZE') == '1'
    # Version 5 tells of this host alone.
    and env.get('OMPI_MCA_orte_num_nodes', str(count)) == str(count),
    _number(env, 'OMPI_COMM_WORLD_LOCAL_RANK'),
  )


def _slurm(env: Mapping[str, str]) -> Launch | None:
  if not all(name in env for name in _SLURM):
    return None
  # SLURM_NTASKS is that of the job in a shell that salloc opens, which is a
  # step of one task.
  count = _number(env, 'SLURM_STEP_NUM_TASKS', _number(env, 'SLURM_NTASKS'))
  if count < 2:
    return None
  return Launch(
    'SLURM',
    'slurm',
    _number(env, 'SLURM_PROCID'),
    count,
    env.get('SLURM_STEP_NUM_NODES') == str(count),
    _number(env, 'SLURM_LOCALID'),
  )


def tasks_not_started() -> int:
  """Tasks of a SLURM job of which this process, without srun, is not one."""
  env = os.environ
  tasks = _number(env, 'SLURM_NTASKS')
  alone = 'SLURM_JOB_ID' in env and find_launch() is None
  return tasks if alone and tasks > 1 else 0


def _tpu_slice(env: Mapping[str, str]) -> Launch | None:
  platforms = (env.get('JAX_PLATFORMS') or 'tpu').split(',')
  here = any(glob.glob(pattern) for pattern in _TPU_DEVICES)
  if not here or 'tpu' not in platforms or not _has_libtpu():
    return None
  hosts = env.get('TPU_PROCESS_ADDRESSES', env.get('TPU_WORKER_HOSTNAMES'))
  if hosts is None and 'TPU_SKIP_MDS_QUERY' not in env:
    hosts = _metadata(env, 'worker-network-endpoints')
  slices = _number(env, 'MEGASCALE_NUM_SLICES', 1)
  count = len((hosts or '').split(',')) * slices
  if count < 2:
    return None
  index = _number(env, 'TPU_WORKER_ID', -1)
  known = index >= 0 and slices == 1
  # The index is for messages. JAX never hides TPUs from a process.
  return Launch('a TPU pod slice', None, index if known else None, count, False)


def _has_libtpu() -> bool:
  return importlib.util.find_spec('libtpu') is not None


def _metadata(env: Mapping[str, str], key: str) -> str | None:
  """What Google Cloud tells a virtual machine of itself, if this is one."""
  # By its number: a name could take long to be not found.
  server = env.get('GCE_METADATA_IP', '169.254.169.254')
  path = f'http://{server}/computeMetadata/v1/instance/attributes/{key}'
  request = urllib.request.Request(path, headers={'Metadata-Flavor': 'Google'})
  # Never through a proxy.
  opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
  try:
    with opener.open(request, timeout=2) as answer:
      return answer.read().decode()
  except (urllib.error.URLError, TimeoutError):
    return None


def _number(env: Mapping[str, str], name: str, otherwise: int = 0) -> int:
  text = env.get(name)
  if text is None:
    return otherwise
  try:
    return int(text)
  except ValueError:
    raise UsageError(
      f'the environment variable {name} is {text!r}; expected a number'
    ) from None
