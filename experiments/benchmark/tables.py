"""Writes the numbers of docs/ from kept records.

  python -m experiments.benchmark.tables

The table between `<!-- performance -->` and `<!-- end of performance -->` in
docs/speed.md gets its rows from all of experiments/results/*.json, that between
`<!-- fused -->` and its end in docs/large_vocabulary.md from those of the suite
`fused`. What is behind `<!-- price:NAME -->` in docs/loss_reference.md becomes
the price of that loss.
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
PAGE = ROOT / 'docs' / 'loss_reference.md'
VOCABULARY = ROOT / 'docs' / 'large_vocabulary.md'
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


def with_table(page: str, table: str, name: str = 'performance') -> str:
  """The page with another table of this name, in Markdown."""
  start, end = f'<!-- {name} -->\n', f'<!-- end of {name} -->'
  before, found, rest = page.partition(start)
  _, found_end, after = rest.partition(end)
  if not (found and found_end):
    raise _cli.UsageError(f'the page has no <!-- {name} --> table')
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


def fused(records: Mapping[str, Record]) -> str:
  """Memory and time of a last layer and its loss, a row for each program."""
  lines = [
    '| [N, D, K] | program | temporaries | moved | time over dense | on |',
    '|---|---|---|---|---|---|',
  ]
  for _, record in sorted(records.items()):
    if record['suite'] != 'fused':
      continue
    settings, results = record['settings'], record['results']
    compiled = settings['target'] == 'tpu'
    on = f'{settings["dtype"]}, {results["device_kind"]}'
    for shape in results['shapes']:
      programs = shape['programs']
      for name, row in programs.items():
        memory, moved, time = row['temporaries'], '-', '-'
        if compiled:
          moved = f'{row["hbm_bytes"] / 1e9:.2f} GB'
          dense = programs[f'dense {name.split()[1]}']['estimated_seconds']
          time = f'{row["estimated_seconds"] / dense:.2f} (estimated)'
        else:
          time = report.spread(row['over_dense'], '.2f')
        method, loss = name.split()
        cells = (
          '[{examples}, {features}, {classes}]'.format(**shape),
          f'{method} {"MaxSup" if loss == "maxsup" else loss.upper()}',
          '-' if memory is None else f'{memory / 1e6:,.1f} MB',
          *(moved, time, on),
        )
        lines.append(f'| {" | ".join(cells)} |')
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
    VOCABULARY: with_table(VOCABULARY.read_text(), fused(records), 'fused'),
  }


def main():
  for path, text in pages().items():
    path.write_text(text)
    print(f'written to {path.relative_to(ROOT)}')


if __name__ == '__main__':
  _cli.run(main)
