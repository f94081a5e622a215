"""TensorBoard events beside `metrics.jsonl`, if tensorboardX is installed."""

import importlib.util
from collections.abc import Mapping
from pathlib import Path
from typing import Any


class Tensorboard:
  """Writes the numbers of a record as scalars; a context manager.

  Without tensorboardX it does nothing: `metrics.jsonl` has it all.
  """

  def __init__(self, workdir: Path, step: int, *, enabled: bool = True):
    """Opens the event file.

    Args:
      workdir: events go to `tensorboard/` in it.
      step: events after it, of a start that was cut short, are hidden.
      enabled: False writes nothing.
    """
    self._writer = None
    if enabled and importlib.util.find_spec('tensorboardX'):
      from tensorboardX import SummaryWriter

      self._writer = SummaryWriter(
        str(workdir / 'tensorboard'), purge_step=step + 1
      )

  def __enter__(self) -> 'Tensorboard':
    return self

  def __exit__(self, *_):
    if self._writer:
      self._writer.close()

  def write(self, record: Mapping[str, Any]) -> None:
    """Adds every number of a record under `kind/name` or `split/name`."""
    if not self._writer:
      return
    group = '/'.join(
      str(record[k]) for k in ('kind', 'split', 'weights') if k in record
    )
    for name, value in record.items():
      if isinstance(value, int | float) and name not in ('step', 'examples'):
        self._writer.add_scalar(f'{group}/{name}', value, record['step'])
