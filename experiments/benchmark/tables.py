"""Writes the numbers of docs/ from kept records.

  python -m experiments.benchmark.tables

The table between `<!-- performance -->` and `<!-- end of performance -->` in
docs/speed.md gets its rows from all of experiments/results/*.json; what is
behind `<!-- price:NAME -->` in docs/losses.md becomes the price of that loss.
"""

import json
import pathlib
import re
from collections.abc import Mapping

from experiments import _cli
from experiments.benchmark import report
from experiments.benchmark.report import Record

ROOT = pathlib.Path(__file__).parents[2]
SPEED = ROOT / 'docs' / 'speed.md'
PAGE = ROOT / 'docs' / 'losses.md'
RESULTS = ROOT / 'experiments' / 'results'

# Of the shapes of the suite, the largest at which all losses are measured, and
# the one whose sizes are multiples of the tiles of a TPU.
SHAPE, TILED_SHAPE = (1024, 21843), (8192, 32000)


def with_prices(page: str, compiled: Record, timed: Record) -> str:
  """The page with the prices of the records: compiled for a TPU, and timed."""
  bytes_accessed, times = _losses_at(compiled, SHAPE), _losses_at(timed, SHAPE)
  tiled = _losses_at(compiled, TILED_SHAPE)

  def price(match):
    name = match[1]
    ratio, passes = bytes_accessed[name]['bytes_ratio'], tiled[name]['passes']
    time = times[name]['ratio_to_baseline']['median']
    shown = '-' if passes is None else f'{passes:.1f}'
    return f'<!-- price:{name} -->{ratio:.2f} · {shown} · {time:.1f}'

  return re.sub(r'<!-- price:(\w+) -->[^|]*(?= \|)', price, page)


def _losses_at(record, shape):
  for section in record['results']['shapes']:
    if (section['batch'], section['classes']) == shape:
      return {name: loss['ours'] for name, loss in section['losses'].items()}
  raise _cli.UsageError(f'the record has no losses of shape {list(shape)}')


def with_table(page: str, table: str) -> str:
  """The page with another table of performance, in Markdown."""
  start, end = '<!-- performance -->\n', '<!-- end of performance -->'
  before, found, rest = page.partition(start)
  _, found_end, after = rest.partition(end)
  if not (found and found_end):
    raise _cli.UsageError('the page has no <!-- performance --> table')
  return f'{before}{start}{table}\n{end}{after}'


def performance(records: Mapping[str, Record]) -> str:
  """The table of performance: a row or more of each record, by file names."""
  lines = [
    '| measured | result; ratios with quartiles | on | record |',
    '|---|---|---|---|',
  ]

  def place(item):
    return report.SUITES.index(item[1]['suite']), item[0]

  for name, record in sorted(records.items(), key=place):
    file = f'[{name}](../experiments/results/{name})'
    for row in report.rows(record):
      lines.append(f'| {" | ".join(row)} | {report.machine(record)} | {file} |')
  return '\n'.join(lines)


def pages() -> dict[pathlib.Path, str]:
  """The pages as they are with the numbers of the records that are kept."""
  records = {
    path.name: json.loads(path.read_text()) for path in RESULTS.glob('*.json')
  }
  prices = records['losses-tpu-v5e-compiled.json'], records['losses-cpu.json']
  return {
    SPEED: with_table(SPEED.read_text(), performance(records)),
    PAGE: with_prices(PAGE.read_text(), *prices),
  }


def main():
  for path, text in pages().items():
    path.write_text(text)
    print(f'written to {path.relative_to(ROOT)}')


if __name__ == '__main__':
  _cli.run(main)
