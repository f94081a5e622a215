"""Results on corrupted datasets: kept one by one, summed up, tabulated."""

import contextlib
import csv
import fcntl
import io
import json
import os
import pathlib
import statistics
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from maxsup_jax import files
from maxsup_jax.errors import UsageError

METRICS = ('error', 'nll', 'ece')
LOG = 'results.jsonl'
DEFINITIONS = {
  'error': 'share of the examples of a dataset that are misclassified',
  'nll': 'mean cross-entropy over the examples of a dataset, whatever the run '
  'was trained with',
  'ece': 'expected calibration error of a dataset, all its examples in 15 bins '
  'of equal width',
  'mean': 'over all corruptions and severities, each dataset counting alike',
  'by_corruption': 'means over the severities',
  'std': 'standard deviation (n - 1) over corruptions of these means; null for '
  'one corruption',
}
_COLUMNS = (
  'run',
  'corruption',
  'severity',
  'examples',
  'accuracy',
  'error',
  'nll',
  'ece',
)

Record = dict[str, Any]


class Log:
  """The finished datasets of a directory, one JSON object a line.

  A line is on disk before the next dataset begins, so that a run of the program
  that ends early loses at most one. A line that was cut short counts as none.

  Args:
    directory: where the results are; it is made.

  Raises:
    UsageError: if it holds anything else, or cannot be written.
  """

  def __init__(self, directory: pathlib.Path):
    self._path = directory / LOG
    with files.one_line_errors(directory):
      if directory.is_dir():
        other = [p.name for p in directory.iterdir() if p.name != '.lock']
        if other and LOG not in other:
          raise UsageError(
            f'{directory} is not empty and has no such results; choose another'
          )
      directory.mkdir(parents=True, exist_ok=True)

  @contextlib.contextmanager
  def opened(self) -> Iterator[None]:
    """Takes the directory for this process, until the context ends."""
    directory = self._path.parent
    with files.one_line_errors(directory):
      lock = (directory / '.lock').open('w')
    with lock:
      try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
      except BlockingIOError:
        raise UsageError(f'another process is writing to {directory}') from None
      yield

  def records(self) -> list[Record]:
    """The records in the file."""
    if not self._path.exists():
      return []
    lines = self._path.read_text().splitlines(keepends=True)
    try:
      return [json.loads(line) for line in lines if line.endswith('\n')]
    except ValueError as e:
      raise UsageError(f'{self._path} cannot be read: {e}') from None

  def add_runs(self, identities: Mapping[str, Record]) -> None:
    """Adds runs whose results will follow.

    Args:
      identities: of each run, by name.

    Raises:
      UsageError: if there are results of another run of that name; nothing is
        written.
    """
    records = self.records()
    there = {r['run']: r for r in records if r['kind'] == 'run'}
    # As it comes back from the file.
    identities = json.loads(json.dumps(identities))
    for name, identity in identities.items():
      if name in there and (different := _differences(there[name], identity)):
        raise UsageError(
          f'{self._path.parent} has the results of another {name} '
          f'({"; ".join(different)}); choose another'
        )
    # The rest of a line that was cut short would spoil the next one.
    if self._path.exists():
      text = ''.join(json.dumps(r) + '\n' for r in records)
      if text != self._path.read_text():
        files.write(self._path, text)
    for name, identity in identities.items():
      if name not in there:
        self.add({'kind': 'run', 'run': name, **identity})

  def add(self, record: Record) -> None:
    """Appends a line, on disk before it returns."""
    with self._path.open('a') as file:
      file.write(json.dumps(record) + '\n')
      file.flush()
      os.fsync(file.fileno())


def _differences(there: Record, here: Record) -> list[str]:
  pairs = {n: (there.get(n), here[n]) for n in here if n != 'config'}
  configs = there.get('config', {}), here['config']
  pairs |= {
    f'config.{n}': tuple(c.get(n, '(not there)') for c in configs)
    for n in dict.fromkeys([*configs[0], *configs[1]])
  }
  return [
    f'{n}: {a!r} there, {b!r} here' for n, (a, b) in pairs.items() if a != b
  ]


# ---- Means -------------------------------------------------------------------


def summarize(records: Sequence[Record]) -> Record:
  """The means over the datasets of one run.

  Args:
    records: one for each corruption and severity, every corruption with the
      same severities.

  Returns:
    `by_corruption`, `by_severity`, `mean` and `std`, see `DEFINITIONS`; None
    where a number is not defined.

  Examples:
    >>> records = [
    ...   dict(corruption=c, severity=s, error=e, nll=1.0, ece=0.5)
    ...   for c, s, e in [('fog', 1, 0.1), ('fog', 2, 0.3), ('snow', 1, 0.5),
    ...                   ('snow', 2, 0.7)]
    ... ]
    >>> summary = summarize(records)
    >>> [round(summary[name]['error'], 6) for name in ('mean', 'std')]
    [0.4, 0.282843]
  """
  rows: dict[str, list[Record]] = {
    name: [] for name in dict.fromkeys(r['corruption'] for r in records)
  }
  columns: dict[int, list[Record]] = {
    s: [] for s in sorted({r['severity'] for r in records})
  }
  for record in records:
    rows[record['corruption']].append(record)
    columns[record['severity']].append(record)
  by_corruption = {name: _means(row) for name, row in rows.items()}
  return {
    'by_corruption': by_corruption,
    'by_severity': {str(s): _means(column) for s, column in columns.items()},
    'mean': _means(records),
    'std': {
      m: _std([row[m] for row in by_corruption.values()]) for m in METRICS
    },
  }


def _means(records):
  return {m: _mean([r[m] for r in records]) for m in METRICS}


def _mean(values):
  return None if None in values else statistics.fmean(values)


def _std(values):
  if None in values or len(values) < 2:
    return None
  return statistics.stdev(values)


# ---- Text --------------------------------------------------------------------


def shown(metric: str, value: float | None) -> str:
  """A number as the tables show it."""
  if value is None:
    return 'undefined'
  return f'{value:.4f}' if metric == 'nll' else f'{value:.2%}'


def table(runs: Sequence[Record]) -> str:
  """The results of one run by corruption, or the means of several.

  Args:
    runs: each with its `name`, `clean` and what `summarize` gives.
  """
  return _table_of_run(runs[0]) if len(runs) == 1 else _table_of_runs(runs)


def _table_of_run(run: Record) -> str:
  """Rows are corruptions; the numbers are means over the severities."""
  rows = [('clean', run['clean']), *run['by_corruption'].items()]
  rows += [('mean', run['mean']), ('std over corruptions', run['std'])]
  lines = [f'{"":<22}' + ''.join(f'{m:>12}' for m in ('error', 'NLL', 'ECE'))]
  for i, (name, row) in enumerate(rows):
    if i == 1 or name == 'mean':
      lines.append('')
    cells = (
      '-' if name.startswith('std') and row[m] is None else shown(m, row[m])
      for m in METRICS
    )
    lines.append(f'{name:<22}' + ''.join(f'{c:>12}' for c in cells))
  return '\n'.join(lines)


def _table_of_runs(runs: Sequence[Record]) -> str:
  """Rows are runs: means over all datasets, (std over corruptions)."""
  width = max(len(run['name']) for run in runs) + 2
  titles = ('error', 'NLL', 'ECE', 'clean error')
  lines = [' ' * width + ''.join(f'{t:>20}' for t in titles)]
  for run in runs:
    cells = []
    for m in METRICS:
      std = run['std'][m]
      spread = '' if std is None else f' ({shown(m, std)})'
      cells.append(shown(m, run['mean'][m]) + spread)
    cells.append(shown('error', run['clean']['error']))
    lines.append(f'{run["name"]:<{width}}' + ''.join(f'{c:>20}' for c in cells))
  return '\n'.join(lines)


def to_csv(records: Sequence[Record]) -> str:
  """One line for each run and dataset."""
  out = io.StringIO()
  writer = csv.DictWriter(
    out, _COLUMNS, extrasaction='ignore', lineterminator='\n'
  )
  writer.writeheader()
  writer.writerows(records)
  return out.getvalue()
