"""Writes the numbers of README.md and of docs/ from kept records.

  python -m experiments.tables

The table between `<!-- performance -->` and `<!-- end of performance -->` in
README.md gets its rows from all of experiments/results/*.json, that of
`<!-- tried -->` in docs/speed.md from train-cpu.json; what stands behind
`<!-- price:NAME -->` in docs/losses.md becomes the price of that loss,
from those of `experiments.benchmark --suite=losses`. No number in them is typed
by hand: to add one, write a benchmark's --out into experiments/results.
"""

import json
import pathlib
import re
from typing import Any

from experiments import _cli, _performance

ROOT = pathlib.Path(__file__).parents[1]
README = ROOT / 'README.md'
SPEED = ROOT / 'docs' / 'speed.md'
PAGE = ROOT / 'docs' / 'losses.md'
RESULTS = ROOT / 'experiments' / 'results'

# Of the shapes of the suite, the largest at which all losses are measured, and
# the one whose sizes are multiples of the tiles of a TPU.
SHAPE, TILED_SHAPE = (1024, 21843), (8192, 32000)


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


def with_table(page: str, name: str, table: str) -> str:
  """The page with another table.

  Args:
    page: its text.
    name: the table is between `<!-- NAME -->` and `<!-- end of NAME -->`.
    table: in Markdown, without an end of line.

  Raises:
    UsageError: if the page has no place for the table.
  """
  start, end = f'<!-- {name} -->\n', f'<!-- end of {name} -->'
  before, found, rest = page.partition(start)
  _, found_end, after = rest.partition(end)
  if not (found and found_end):
    raise _cli.UsageError(f'the page has no <!-- {name} --> table')
  return f'{before}{start}{table}\n{end}{after}'


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


def performance() -> str:
  """The README's table."""
  return _performance.table(read_all())


def tried() -> str:
  """The table of docs/speed.md."""
  return _performance.tried_on_cpu(read('train-cpu.json'))


def main():
  prices = read('losses-tpu-v5e-compiled.json'), read('losses-cpu.json')
  for path, text in (
    (README, with_table(README.read_text(), 'performance', performance())),
    (SPEED, with_table(SPEED.read_text(), 'tried', tried())),
    (PAGE, with_prices(PAGE.read_text(), *prices)),
  ):
    path.write_text(text)
    print(f'written to {path.relative_to(ROOT)}')


if __name__ == '__main__':
  _cli.run(main)
