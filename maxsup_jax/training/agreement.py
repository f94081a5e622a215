"""What the processes of a run compare before they start.

They go in step. Where one of them has another config, or sees another
directory, they would train something else than was asked for, or wait for each
other for ever.

All processes must call these functions alike, and all of them raise the same
error. With a single process there is nothing to compare.
"""

import json
import time
from collections.abc import Callable, Mapping
from typing import Any

from maxsup_jax.errors import UsageError
from maxsup_jax.training import config as config_lib

# Seconds until what one host has written must be seen by the others.
PATIENCE = 10
# Texts are padded, so that those of another length need no other program.
_BLOCK = 4096


def process_count() -> int:
  """How many processes there are; JAX is not imported before it is needed."""
  import jax

  return jax.process_count()


def gather(value: Any) -> list[Any]:
  """The values of all processes, in their order.

  Args:
    value: anything that JSON can hold.
  """
  text = json.dumps(value)
  if process_count() == 1:
    return [json.loads(text)]
  import numpy as np
  from jax.experimental import multihost_utils

  data = text.encode()
  lengths = multihost_utils.process_allgather(np.int32(len(data)))
  # JSON takes no notice of blanks at the end.
  data = data.ljust(-(-int(lengths.max()) // _BLOCK) * _BLOCK)
  rows = multihost_utils.process_allgather(np.frombuffer(data, np.uint8))
  return [json.loads(row.tobytes()) for row in rows]


def require_same(config: Mapping[str, Any], **facts: Any) -> None:
  """Refuses processes whose runs differ.

  Args:
    config: of the run.
    **facts: what else must be the same, under a name for messages.

  Raises:
    UsageError: which names the first process that differs from process 0.
  """
  first, *others = gather([json.loads(config_lib.to_json(config)), facts])
  for index, other in enumerate(others, 1):
    different = config_lib.differences(first[0], other[0], '{0} and {1}')
    different += [
      f'{name.replace("_", " ")}: {value} and {other[1].get(name)}'
      for name, value in first[1].items()
      if other[1].get(name) != value
    ]
    if different:
      raise UsageError(
        f'process 0 and process {index} differ ({"; ".join(different)}); '
        'start all processes with the same command'
      )


def require_seen(what: str, directory: Any, seen: Callable[[], bool]) -> None:
  """Refuses processes that do not see what process 0 sees.

  Args:
    what: it is, for messages.
    directory: where it is.
    seen: whether this process sees it; asked again and again for a while.

  Raises:
    UsageError: which names the first process that does not.
  """
  until = time.monotonic() + PATIENCE
  while not (found := seen()) and time.monotonic() < until:
    time.sleep(0.1)
  told = gather([found, str(directory)])
  for index, (found, _) in enumerate(told):
    if not found:
      raise UsageError(
        f'process {index} does not see {what} of process 0 in {told[0][1]}; '
        'all processes must share the work directory'
      )
