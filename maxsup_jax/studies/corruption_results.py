"""Results on corrupted datasets: kept one by one, summed up, tabulated."""

import contextlib
import csv
import fcntl
import io
import json
import os
import pathlib
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
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
  'mce': 'of ImageNet-C: mean over the 15 standard corruptions of the error '
  'over that of AlexNet, both means over the five severities; null without all',
  'std': 'standard deviation (n - 1) over corruptions of these means; null for '
  'one corruption',
}
# Errors of AlexNet on ImageNet-C, means over the severities, as Hendrycks and
# Dietterich publish them for the mCE.
ALEXNET = {
  'gaussian_noise': 0.886428,
  'shot_noise': 0.894468,
  'impulse_noise': 0.922640,
  'defocus_blur': 0.819880,
  'glass_blur': 0.826268,
  'motion_blur': 0.785948,
  'zoom_blur': 0.798360,
  'snow': 0.866816,
  'frost': 0.826572,
  'fog': 0.819324,
  'brightness': 0.564592,
  'contrast': 0.853204,
  'elastic_transform': 0.646056,
  'pixelate': 0.717840,
  'jpeg_compression': 0.606500,
}
_COLUMNS = ('run', 'corruption', 'severity', 'examples', 'accuracy', *METRICS)

Record = dict[str, Any]


class Log:
  """The finished datasets of a directory, one JSON object a line.

  A line is on disk before the next dataset begins, so that a run of the program
  that ends early loses at most one. A line that was cut short counts as none.
  The directory is made; one that holds anything else is refused.
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
    """Adds runs whose results will follow, by name.

    Refuses, before anything is written, a name that another run has.
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
    with files.one_line_errors(self._path), self._path.open('a') as file:
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


def summarize(records: Sequence[Record]) -> Record:
  """The means over the datasets of one run, one for each place; `DEFINITIONS`.

  What is not defined is None.

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

  def means(key, value):
    those = [r for r in records if value in (r.get(key), None)]
    return _over(those, statistics.fmean)

  corruptions = dict.fromkeys(r['corruption'] for r in records)
  by_corruption = {name: means('corruption', name) for name in corruptions}
  severities = sorted({r['severity'] for r in records})
  return {
    'by_corruption': by_corruption,
    'by_severity': {str(s): means('severity', s) for s in severities},
    'mean': means('', None),
    'std': _over(list(by_corruption.values()), statistics.stdev, least=2),
  }


def mean_corruption_error(records: Sequence[Record]) -> float | None:
  """The mCE of ImageNet-C; None unless all 75 datasets are there.

  References: Hendrycks and Dietterich, 2019, section 4.1.
  """
  errors = {(r['corruption'], r['severity']): r['error'] for r in records}
  wanted = {name: [(name, s) for s in range(1, 6)] for name in ALEXNET}
  if not all(key in errors for keys in wanted.values() for key in keys):
    return None
  return statistics.fmean(
    statistics.fmean(errors[key] for key in keys) / ALEXNET[name]
    for name, keys in wanted.items()
  )


def _over(
  rows: Sequence[Record], statistic: Callable[..., float], least: int = 1
) -> Record:
  """A statistic of each metric; None where it is not defined."""
  found: Record = dict.fromkeys(METRICS)
  for m in METRICS:
    values = [r[m] for r in rows]
    if None not in values and len(values) >= least:
      found[m] = statistic(values)
  return found


def shown(metric: str, value: float | None) -> str:
  """A number as the tables show it."""
  if value is None:
    return 'undefined'
  return f'{value:.4f}' if metric == 'nll' else f'{value:.2%}'


def table(runs: Sequence[Record]) -> str:
  """The results of one run by corruption, or the means of several.

  Each has its `name`, `clean` and what `summarize` gives.
  """
  text = _table_of_run(runs[0]) if len(runs) == 1 else _table_of_runs(runs)
  mces = [line for run in runs for line in _mce(run)]
  return '\n'.join([text, '', *mces] if mces else [text])


def _mce(run: Record) -> list[str]:
  mce = run.get('mce')
  return [] if mce is None else [f'{run["name"]}: mCE {mce:.2%}, of AlexNet']


def _table_of_run(run: Record) -> str:
  """Rows are corruptions; the numbers are means over the severities."""
  rows = [('clean', run['clean']), *run['by_corruption'].items()]
  rows += [('mean', run['mean']), ('std over corruptions', run['std'])]
  lines = [f'{"":<22}{"error":>12}{"NLL":>12}{"ECE":>12}']
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
      cells.append(f'{shown(m, run["mean"][m]) + spread:>20}')
    cells.append(f'{shown("error", run["clean"]["error"]):>20}')
    lines.append(f'{run["name"]:<{width}}' + ''.join(cells))
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
