"""TensorBoard events beside `metrics.jsonl`, if tensorboardX is installed."""

import contextlib
import importlib.util
import time
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from maxsup_jax import files


class Tensorboard:
  """Writes the numbers of a record as scalars; a context manager.

  Without tensorboardX, and in a bucket, where nothing is appended to, it does
  nothing: `metrics.jsonl` has it all.
  """

  def __init__(self, workdir: Path, step: int, *, enabled: bool = True):
    """Opens the event file.

    Args:
      workdir: events go to `tensorboard/` in it.
      step: events after it, of a start that was cut short, are hidden.
      enabled: False writes nothing.
    """
    self._writer: Any = None
    there = importlib.util.find_spec('tensorboardX') is not None
    if not enabled or not there or files.is_remote(workdir):
      return
    # Not its SummaryWriter: where a disk is full, that one's thread and its
    # exit print tracebacks.
    from tensorboardX.event_file_writer import EventsWriter
    from tensorboardX.proto import event_pb2

    self._path = workdir / 'tensorboard'
    with self._disabled_by_errors():
      self._path.mkdir(exist_ok=True)
      self._writer = EventsWriter(str(self._path / 'events'))
      start = event_pb2.SessionLog(status=event_pb2.SessionLog.START)
      self._add(step + 1, session_log=start)

  def __enter__(self) -> 'Tensorboard':
    return self

  def __exit__(self, *_):
    if self._writer:
      with self._disabled_by_errors():
        self._writer.close()

  def write(self, record: Mapping[str, Any]) -> None:
    """Adds every number of a record under `kind/name` or `split/name`."""
    if not self._writer:
      return
    from tensorboardX.summary import scalar

    group = '/'.join(
      str(record[k]) for k in ('kind', 'split', 'weights') if k in record
    )
    with self._disabled_by_errors():
      for name, value in record.items():
        if isinstance(value, int | float) and name not in ('step', 'examples'):
          self._add(record['step'], summary=scalar(f'{group}/{name}', value))
      self._writer.flush()

  def _add(self, step: int, **content: Any) -> None:
    from tensorboardX.proto import event_pb2

    self._writer.write_event(
      event_pb2.Event(wall_time=time.time(), step=step, **content)
    )

  @contextlib.contextmanager
  def _disabled_by_errors(self):
    """Events must not cost a run: they stop where they cannot be written."""
    try:
      yield
    except OSError as e:
      warnings.warn(
        f'{files.unwritable(self._path, e)}; metrics.jsonl has it all',
        stacklevel=3,
      )
      writer, self._writer = self._writer, None
      with contextlib.suppress(OSError):
        if writer:
          writer._py_recordio_writer.close()
