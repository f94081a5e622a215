"""Writes the numbers of docs/ from kept records.

  python -m experiments.benchmark.tables

The table between `<!-- performance -->` and `<!-- end of performance -->` in
docs/speed.md gets its rows from all of experiments/results/*.json; what is
behind `<!-- price:NAME -->` in docs/losses.md becomes the price of that loss.
"""

import json
import pathlib
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from experiments import _cli
from experiments.benchmark.report import spread

ROOT = pathlib.Path(__file__).parents[2]
SPEED = ROOT / 'docs' / 'speed.md'
PAGE = ROOT / 'docs' / 'losses.md'
RESULTS = ROOT / 'experiments' / 'results'

# Of the shapes of the suite, the largest at which all losses are measured, and
# the one whose sizes are multiples of the tiles of a TPU.
SHAPE, TILED_SHAPE = (1024, 21843), (8192, 32000)

_TITLES = {'ce': 'CE', 'ls': 'LS', 'maxsup': 'MaxSup'}

Record = Mapping[str, Any]
# What was measured, and what came out.
Rows = Iterable[tuple[str, str]]


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
  suites = list(_ROWS)
  for name, record in sorted(
    records.items(), key=lambda r: (suites.index(r[1]['suite']), r[0])
  ):
    file = f'[{name}](../experiments/results/{name})'
    for row in _ROWS[record['suite']](record['settings'], record['results']):
      lines.append(f'| {" | ".join(row)} | {_machine(record)} | {file} |')
  return '\n'.join(lines)


def _each(rows: Mapping[str, Any], form: Callable[[Any], str]) -> str:
  return ', '.join(f'{_TITLES[name]} {form(x)}' for name, x in rows.items())


def _step(s, results) -> Rows:
  objectives = results['objectives']
  stem = s['model_options'].get('stem')
  measured = (
    f'training step, {s["model"]}{f" (stem {stem})" if stem else ""}, '
    f'{s["batch_size"]} images of {s["image_size"]}x{s["image_size"]}, '
    f'{s["dtype"]}'
  )
  times = _each(objectives, lambda o: _seconds(o['step_seconds']['median']))
  others = {name: o for name, o in objectives.items() if name != 'ce'}
  ratios = _each(others, lambda o: spread('.3f')(o['ratio_to_ce']))
  share = _share(objectives['ce'])
  yield measured, f'{times}; over CE: {ratios}{share}'


def _losses(s, results) -> Rows:
  for shape in results['shapes']:
    found = {n: shape['losses'].get(n) for n in ('ls', 'maxsup')}
    what = f'logits [{shape["batch"]}, {shape["classes"]}]'
    if s['target'] == 'tpu':
      bytes_ = _each(found, lambda x: f'{x["ours"]["bytes_ratio"]:.4f}')
      where = f'{what}, compiled for {results["device_kind"]}'
      yield (
        f'bytes accessed by value and gradient, {where}',
        f'over optax CE: {bytes_}',
      )
      continue
    base = {n: x['ours']['ratio_to_baseline'] for n, x in found.items()}
    over = _each(base, spread('.2f'))
    torch = {n: x['ratio_to_torch'] for n, x in found.items()}
    yield (
      f'value and gradient of a loss, {what}',
      f'over optax CE: {over}; over PyTorch: ' + _each(torch, spread('.2f')),
    )


def _diagnostics(s, results) -> Rows:
  what = f'{s["examples"]:,} examples, {s["classes"]:,} classes'
  for name, title in (
    ('calibration', 'all calibration errors and temperature scaling'),
    ('selective', 'all metrics of all confidence scores'),
    ('bootstrap', f'{s["resamples"]:,} resamples of the AURC'),
  ):
    yield f'{title}, {what}', _seconds(results['seconds'][name]['median'])
  yield (
    f'neural collapse, second pass, {s["batch_size"]:,} x {s["features"]:,} '
    f'features, {s["classes"]:,} classes',
    'over its matrix products alone: '
    + spread('.2f')(results['ratios']['second pass update']),
  )


def _start(s, results) -> Rows:
  card = s['card'].removeprefix('configs/')
  for name, title in (
    ('cold', 'nothing compiled before'),
    ('warm', 'by a second start'),
  ):
    found = results[name]
    yield (
      f'from the command to the first step, `{card}`, {title}',
      f'{spread(".1f")(found["first_step_seconds"])} s; '
      f'{max(found["programs_compiled"])} programs compiled',
    )
  yield (
    f'`experiments.train --help`, `{card}`',
    f'{spread(".2f")(results["help_seconds"])} s',
  )


def _pipeline(s, results) -> Rows:
  titles = {
    'per_core': 'training images, {} px, one core',
    'evaluation': 'images to evaluate, {} px, one core',
    'all_cores': f'training images, {{}} px, {s["cpus"]} cores',
  }
  for part, title in titles.items():
    # Evaluation is in older records only.
    found = [
      f'{name} {x["images_per_second"]:,.0f} images/s'
      + ('' if name == 'pil' else f', {spread(".2f")(x["speedup"])} times PIL')
      for name, x in results.get(part, {'variants': {}})['variants'].items()
    ]
    if found:
      yield (
        f'from {s["mean_bytes"] / 1e3:.0f} KB JPEG files to batches of '
        + title.format(s['image_size']),
        '; '.join(found),
      )


def _train(s, results) -> Rows:
  size = s['image_size']
  for name, row in results['models'].items():
    ours, theirs = (
      _seconds(row['programs'][n]['step_seconds']['median'])
      for n in ('jax', row['reference'])
    )
    yield (
      f'training step, {name}, {s["batch_size"]} images of {size}x{size}, '
      f'{s["dtype"]}, beside PyTorch {s["torch"]} ({row["reference"]}, its '
      'fastest)',
      f'{ours}, PyTorch {theirs}; time of PyTorch over ours '
      f'{spread(".3f")(row["torch_over_jax"])}{_share(row["programs"]["jax"])}',
    )


def _compile_tpu(s, results) -> Rows:
  for row in results['steps']:
    height, width, _ = row['image_shape']
    measured = (
      f'training step, {row["model"]["name"]}, {row["batch_size_per_device"]} '
      f'images of {height}x{width} a device, '
      f'{row["model"].get("dtype", "float32")}, compiled for '
      f'{s["device_count"]} {s["device_kind"]}, not run'
    )
    if not row['fits']:
      yield measured, 'does not fit'
      continue
    memory, bound = row['memory_bytes_per_device'], row['bound']
    yield (
      measured,
      f'{row["flops_per_device"]["as_written"] / 1e12:.2f} TFLOP, '
      f'{row["bytes_accessed_per_device"] / 1e9:.1f} GB accessed, '
      f'{memory["total"] / 2**30:.1f} of '
      f'{row["memory_capacity_bytes"] / 2**30:.0f} GiB of a device; takes at '
      f'least {_seconds(bound["step_seconds"])} ({bound["limit"]})',
    )


_ROWS: Mapping[str, Callable[[Record, Record], Rows]] = {
  'step': _step,
  'losses': _losses,
  'diagnostics': _diagnostics,
  'start': _start,
  'pipeline': _pipeline,
  'train': _train,
  'compile_tpu': _compile_tpu,
}


def _share(row):
  share = row['share_of_peak']
  return '' if share is None else f'; {share:.0%} of the peak FLOP/s'


def _machine(record):
  hardware = record['hardware']
  devices = (
    ''
    if hardware['platform'] == 'cpu'
    else f'{hardware["device_count"]} {hardware["device_kind"]}; '
  )
  return (
    f'{devices}{hardware["host_cpu_count"]} CPUs, {hardware["host_cpu"]}; jax '
    f'{record["versions"]["jax"]}'
  )


def _seconds(seconds):
  return f'{seconds:.2f} s' if seconds >= 1 else f'{1e3 * seconds:.3g} ms'


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
