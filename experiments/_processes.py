"""The flags of several processes, how they join, and how they end together."""

import contextlib
import math
import os
import re
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

from absl import flags

from experiments import _launchers, _meeting
from maxsup_jax import errors
from maxsup_jax.errors import UsageError

_COORDINATOR = flags.DEFINE_string(
  'coordinator',
  None,
  'Address of process 0, host:port; needed where the environment does not '
  'say where to meet.',
)
_NUM_PROCESSES = flags.DEFINE_integer(
  'num_processes',
  None,
  'Number of processes, with --coordinator; by default that of mpirun or srun.',
)
_PROCESS_ID = flags.DEFINE_integer(
  'process_id',
  None,
  'Number of this process, from 0, with --coordinator; by default that of '
  'mpirun or srun.',
)
_MULTIHOST = flags.DEFINE_bool(
  'multihost',
  None,
  'Whether to join other processes; by default only on a TPU pod slice and '
  'under srun or mpirun (Open MPI).',
)
_JOIN_TIMEOUT = flags.DEFINE_float(
  'join_timeout', 300, 'Seconds to wait for the other processes at the start.'
)
_PEER_TIMEOUT = flags.DEFINE_float(
  'peer_timeout',
  30,
  'Seconds without a heartbeat after which a process counts as gone and all '
  'others end.',
)
# Seconds after which one says whom it is waiting for.
_PATIENCE = 10

# What those that are started by hand say of themselves.
_MEETING = ('coordinator_address', 'num_processes', 'process_id')

# Ends the other processes with this one; None where it is the only one.
_peers: Any = None
# Whether the program is for several processes, or refuses them.
_of_several = False


def expect_several() -> None:
  """Says that those whom a launcher has started print a mistake only once."""
  global _of_several
  _of_several = True


def join_processes(*, saves: bool = False) -> None:
  """Starts JAX's runtime of several processes, if this is one of several.

  `saves` says that the program saves something when it gets a SIGTERM: JAX
  catches it, and it is given back its meaning otherwise.
  """
  global _peers
  found = _arguments()
  if found is None:
    tasks = _launchers.tasks_not_started()
    if tasks and _MULTIHOST.value is None:
      print(
        f'this SLURM job has {tasks} tasks, but this process runs alone; '
        'start it with srun to make it one of them',
        file=sys.stderr,
      )
    return
  arguments, text = found
  with _waiting(text):
    if 'coordinator_address' in arguments:
      _meeting.meet(*(arguments[name] for name in _MEETING))
    # What JAX logs of the end of a process is said in one line.
    os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '3')
    import jax

    from maxsup_jax.training.peers import told_of_errors, watch

    try:
      with told_of_errors():
        jax.distributed.initialize(
          **arguments,
          # `_waiting` ends it before, with one line instead of an abort.
          initialization_timeout=int(_JOIN_TIMEOUT.value) + 60,
          # After that of `watch`, which says who is gone.
          heartbeat_timeout_seconds=max(
            100, 2 * math.ceil(_PEER_TIMEOUT.value)
          ),
        )
    except (ValueError, RuntimeError) as e:
      # What JAX says where it finds no pod slice and no job, too.
      raise UsageError(
        f'the processes cannot connect ({e}); see --coordinator and '
        '--nomultihost'
      ) from e
  _peers = watch(timeout=_PEER_TIMEOUT.value)
  if not saves:
    signal.signal(signal.SIGTERM, signal.SIG_DFL)


def are_several() -> bool:
  """Whether this is one of several processes, which have not joined yet."""
  return _arguments() is not None


def refuse_several(program: str, why: str = '') -> None:
  """Refuses several processes, without joining them."""
  if are_several():
    expect_several()
    if _PROCESS_ID.value:
      time.sleep(2)  # Process 0 says the same, and may be slower.
      sys.exit(2)
    raise UsageError(
      f'{program} runs in one process, not in several{why}; start it once; '
      'on a host of a TPU pod slice, set JAX_PLATFORMS=cpu or use another '
      'machine'
    )


def advise(advice: Callable[[], str]) -> None:
  """Sets what is said, beside the reason, where all processes have to end."""
  if _peers:
    _peers.advice = advice


@contextlib.contextmanager
def ending_together() -> Iterator[None]:
  """Ends all processes if this one fails, once they have joined."""
  try:
    yield
  except (Exception, KeyboardInterrupt) as e:
    if _peers:
      _peers.fail(e)
    raise
  if _peers:
    _peers.close()


def is_first() -> bool:
  """Whether a user's mistake is this process's to print.

  What a launcher starts has one command line, so one of them is enough; but not
  where each runs on its own.
  """
  # Where the flags themselves are wrong, they have no values.
  alone = flags.FLAGS['multihost'].value is False or (
    '--nomultihost' in sys.argv
  )
  if alone or not _of_several:
    return True
  try:
    launch = _launchers.find_launch()
  except UsageError:
    return True
  return launch is None or not launch.index


def _arguments() -> tuple[dict[str, Any], str] | None:
  """What to join with, and who is joined; None for a process on its own."""
  given = any(value is not None for value in _where())
  for flag in (_JOIN_TIMEOUT, _PEER_TIMEOUT):
    errors.number(f'--{flag.name}', flag.value, above=0)
  if _MULTIHOST.value is False:
    if given:
      raise UsageError('--nomultihost and --coordinator contradict each other')
    return None
  launch = _launchers.find_launch()
  if given:
    return _given(launch)
  if launch is None:
    alone = {}, 'this process waits for the others'
    return alone if _MULTIHOST.value else None
  if launch.by == 'Open MPI' and launch.method is None:
    raise UsageError(
      f'Open MPI started {launch.count} processes, but version 5 does not '
      'say where they can meet: add --coordinator=HOST:PORT, the host of '
      'rank 0 and a free port; or add --nomultihost to run each on its own'
    )
  arguments: dict[str, Any] = {}
  if launch.method is not None:
    arguments = {
      'cluster_detection_method': launch.method,
      'num_processes': launch.count,
      'process_id': launch.index,
      **_local_devices(launch),
    }
  # Of a TPU pod slice, or several of them, JAX itself knows everything.
  who = 'this process' if launch.index is None else f'process {launch.index}'
  return arguments, (
    f'{who} of {launch.count} ({launch.by}) waits for the others'
  )


def _given(launch: _launchers.Launch | None) -> tuple[dict[str, Any], str]:
  """Checks the flags; mpirun and srun may tell what is not given."""
  coordinator, count, index = _where()
  told = launch is not None and launch.index is not None
  if told and coordinator and count is index is None:
    count, index = launch.count, launch.index
  if None in (coordinator, count, index):
    raise UsageError(
      '--coordinator, --num_processes and --process_id must be given together'
    )
  address = re.fullmatch(r'.+:(\d{1,5})', coordinator)
  if not address or not 1 <= int(address[1]) <= 65535:
    raise UsageError(
      f'--coordinator is {coordinator}; expected HOST:PORT, with a port from '
      '1 to 65535'
    )
  if not 0 <= index < count:
    raise UsageError(
      f'--process_id is {index}; expected at least 0 and below '
      f'--num_processes={count}'
    )
  arguments = {
    'coordinator_address': coordinator,
    'num_processes': count,
    'process_id': index,
    **_local_devices(launch),
  }
  return arguments, (
    f'process {index} of {count} waits for the others at {coordinator}'
  )


def _where() -> tuple[str | None, int | None, int | None]:
  return _COORDINATOR.value, _NUM_PROCESSES.value, _PROCESS_ID.value


def _local_devices(launch: _launchers.Launch | None) -> dict[str, Any]:
  """Which GPUs of its host a process takes; an empty list stands for all.

  It must be said: JAX gives a process of SLURM or Open MPI a single one, of its
  number on the host, also where it is alone there.
  """
  if 'JAX_LOCAL_DEVICE_IDS' in os.environ:
    return {}
  if launch is None or launch.alone_on_host or launch.local_rank is None:
    return {'local_device_ids': []}
  return {'local_device_ids': [launch.local_rank]}


@contextlib.contextmanager
def _waiting(text: str) -> Iterator[None]:
  """Says whom it is waiting for, and gives up in time.

  JAX would say nothing for all that time, and then abort.
  """
  joined = threading.Event()
  limit = _JOIN_TIMEOUT.value

  def say(what):
    print(what, file=sys.stderr, flush=True)

  def wait():
    if joined.wait(min(limit, _PATIENCE)):
      return
    if limit > _PATIENCE:
      say(
        f'{text}, for at most {limit:g} s (--join_timeout); --nomultihost '
        'runs this one alone'
      )
      if joined.wait(limit - _PATIENCE):
        return
    say(f'error: {text}; gave up after {limit:g} s (--join_timeout)')
    os._exit(2)

  thread = threading.Thread(target=wait, daemon=True)
  thread.start()
  try:
    yield
  finally:
    joined.set()
    thread.join()
