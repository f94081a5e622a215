"""Writes the numbers of docs/losses.md from the records of the benchmarks.

  python -m experiments.tables

What stands behind `<!-- price:NAME -->` in the page becomes the price of that
loss, from experiments/results/losses-*.json, which `experiments.benchmark
--suite=losses` made. No number there is typed by hand.
"""

import json
import pathlib
import re
from typing import Any

from experiments import _cli

ROOT = pathlib.Path(__file__).parents[1]
PAGE = ROOT / 'docs' / 'losses.md'
RESULTS = ROOT / 'experiments' / 'results'

# Of the shapes of the suite, the largest at which all losses are measured, and
# the one whose sizes are multiples of the tiles of a TPU.
SHAPE, TILED_SHAPE = (1024, 21843), (8192, 32000)


def filled(page: str, compiled: dict[str, Any], timed: dict[str, Any]) -> str:
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


def _losses(record: dict[str, Any], shape: tuple[int, int]) -> dict[str, Any]:
  for section in record['results']['shapes']:
    if (section['batch'], section['classes']) == shape:
      return {name: loss['ours'] for name, loss in section['losses'].items()}
  raise _cli.UsageError(f'the record has no losses of shape {list(shape)}')


def read(name: str) -> dict[str, Any]:
  """A record that is kept."""
  return json.loads((RESULTS / name).read_text())


def main():
  page = PAGE.read_text()
  PAGE.write_text(
    filled(page, read('losses-tpu-v5e-compiled.json'), read('losses-cpu.json'))
  )
  print(f'written to {PAGE.relative_to(ROOT)}')


if __name__ == '__main__':
  _cli.run(main)
