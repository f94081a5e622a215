"""Writes the numbers of README.md and docs/losses.md from kept records.

  python -m experiments.tables

The table between `<!-- performance -->` and `<!-- end of performance -->` in
README.md gets its rows from all of experiments/results/*.json; what stands
behind `<!-- price:NAME -->` in docs/losses.md becomes the price of that loss,
from those of `experiments.benchmark --suite=losses`. No number in either is
typed by hand: to add one, write a benchmark's --out into experiments/results.
"""

import json
import pathlib
import re
from typing import Any

from experiments import _cli, _performance

ROOT = pathlib.Path(__file__).parents[1]
README = ROOT / 'README.md'
PAGE = ROOT / 'docs' / 'losses.md'
RESULTS = ROOT / 'experiments' / 'results'

# Of the shapes of the suite, the largest at which all losses are measured, and
# the one whose sizes are multiples of the tiles of a TPU.
SHAPE, TILED_SHAPE = (1024, 21843), (8192, 32000)

_TABLE = re.compile(
  r'(<!-- performance -->\n).*?(<!-- end of performance -->)', re.S
)


def with_prices(
  page: str, compiled: dict[str, Any], timed: dict[str, Any]
) -> str:
  """The page with the prices of the records.

  Args:
    page: its text.
    compiled: the record of `--target=tpu`.
    timed: the record of a run.

  Returns:
    The text with all prices replaced.
  """
  bytes_accessed, times = _losses(compiled, SHAPE), _losses(timed, SHAPE)
  tiled = _losses(compiled, TILED_SHAPE)

  def price(match: re.Match) -> str:
    name = match[1]
    ratio, passes = bytes_accessed[name]['bytes_ratio'], tiled[name]['passes']
    time = times[name]['ratio_to_baseline']['median']
    shown = '-' if passes is None else f'{passes:.1f}'
    return f'<!-- price:{name} -->{ratio:.2f} · {shown} · {time:.1f}'

  return re.sub(r'<!-- price:(\w+) -->[^|]*(?= \|)', price, page)


def with_performance(page: str, records: dict[str, dict[str, Any]]) -> str:
  """The page with the table of performance of the records.

  Args:
    page: its text.
    records: by the names of their files, in the order of the rows.

  Raises:
    UsageError: if the page has no place for the table.
  """
  if not _TABLE.search(page):
    raise _cli.UsageError('the page has no <!-- performance --> table')
  table = _performance.table(records)
  return _TABLE.sub(lambda match: f'{match[1]}{table}\n{match[2]}', page)


def _losses(record: dict[str, Any], shape: tuple[int, int]) -> dict[str, Any]:
  for section in record['results']['shapes']:
    if (section['batch'], section['classes']) == shape:
      return {name: loss['ours'] for name, loss in section['losses'].items()}
  raise _cli.UsageError(f'the record has no losses of shape {list(shape)}')


def read(name: str) -> dict[str, Any]:
  """A record that is kept."""
  return json.loads((RESULTS / name).read_text())


def read_all() -> dict[str, dict[str, Any]]:
  """All records, by the names of their files, one suite after the other."""
  records = {path.name: read(path.name) for path in RESULTS.glob('*.json')}
  suites = list(_performance.ROWS)
  return dict(
    sorted(records.items(), key=lambda r: (suites.index(r[1]['suite']), r[0]))
  )


def main():
  prices = read('losses-tpu-v5e-compiled.json'), read('losses-cpu.json')
  for path, text in (
    (README, with_performance(README.read_text(), read_all())),
    (PAGE, with_prices(PAGE.read_text(), *prices)),
  ):
    path.write_text(text)
    print(f'written to {path.relative_to(ROOT)}')


if __name__ == '__main__':
  _cli.run(main)
