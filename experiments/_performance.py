"""The table of performance in the README, from the records of benchmarks."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

Record = Mapping[str, Any]

HEADER = (
  '| measured | result; ratios with quartiles | on | record |',
  '|---|---|---|---|',
)

_TITLES = {'ce': 'CE', 'ls': 'LS', 'maxsup': 'MaxSup'}


class Row(NamedTuple):
  """What was measured, and what came out."""

  measured: str
  result: str


def table(records: Mapping[str, Record]) -> str:
  """One row or more for each record, in the order given.

  Args:
    records: what the benchmarks wrote, by the names of their files.

  Returns:
    A table in Markdown, without an end of line.
  """
  lines = list(HEADER)
  for name, record in records.items():
    file = f'[{name}](experiments/results/{name})'
    for row in ROWS[record['suite']](record):
      lines.append(
        f'| {row.measured} | {row.result} | {_machine(record)} | {file} |'
      )
  return '\n'.join(lines)


def tried_on_cpu(record: Record) -> str:
  """What XLA offers on a CPU, from a record of the suite `train`.

  Args:
    record: taken on a CPU.

  Returns:
    A table in Markdown, without an end of line.
  """
  found = record['results']['on_cpu']
  lines = ['| tried | time over that of the first row |', '|---|---|']
  for part, title in (
    ('options', 'block'),
    ('pointwise', '1x1 convolution'),
    ('layout', '3x3 convolution'),
  ):
    lines += [
      f'| {title}: {name} | {_spread(row["ratio"], 2)} |'
      for name, row in found[part].items()
    ]
  lines += [f'| block: {name} | not known to it |' for name in found['unknown']]
  return '\n'.join(lines)


def _step(record: Record) -> Iterable[Row]:
  settings, results = record['settings'], record['results']
  objectives = results['objectives']
  size = settings['image_size']
  stem = settings['model_options'].get('stem')
  measured = (
    f'training step, {settings["model"]}'
    f'{f" (stem {stem})" if stem else ""}, {settings["batch_size"]} images of '
    f'{size}x{size}, {settings["dtype"]}'
  )
  times = ', '.join(
    f'{_TITLES[n]} {_seconds(o["step_seconds"]["median"])}'
    for n, o in objectives.items()
  )
  ratios = ', '.join(
    f'{_TITLES[n]} {_spread(o["ratio_to_ce"], 3)}'
    for n, o in objectives.items()
    if n != 'ce'
  )
  shares = [o['share_of_peak'] for o in objectives.values()]
  share = '' if None in shares else f'; {shares[0]:.0%} of the peak FLOP/s'
  yield Row(measured, f'{times}; over CE: {ratios}{share}')


def _losses(record: Record) -> Iterable[Row]:
  compiled = record['settings']['target'] == 'tpu'
  for shape in record['results']['shapes']:
    found = {n: shape['losses'].get(n) for n in ('ls', 'maxsup')}
    what = f'logits [{shape["batch"]}, {shape["classes"]}]'
    if compiled:
      yield Row(
        f'bytes accessed by value and gradient, {what}, compiled for '
        f'{record["results"]["device_kind"]}',
        'over optax CE: '
        + ', '.join(
          f'{_TITLES[n]} {x["ours"]["bytes_ratio"]:.4f}'
          for n, x in found.items()
        ),
      )
      continue
    yield Row(
      f'value and gradient of a loss, {what}',
      'over optax CE: '
      + ', '.join(
        f'{_TITLES[n]} {_spread(x["ours"]["ratio_to_baseline"], 2)}'
        for n, x in found.items()
      )
      + '; over PyTorch: '
      + ', '.join(
        f'{_TITLES[n]} {_spread(x["ratio_to_torch"], 2)}'
        for n, x in found.items()
      ),
    )


def _diagnostics(record: Record) -> Iterable[Row]:
  settings, results = record['settings'], record['results']
  seconds, ratios = results['seconds'], results['ratios']
  what = f'{settings["examples"]:,} examples, {settings["classes"]:,} classes'
  for name, title in (
    ('calibration', 'all calibration errors and temperature scaling'),
    ('selective', 'all metrics of all confidence scores'),
    ('bootstrap', f'{settings["resamples"]:,} resamples of the AURC'),
  ):
    yield Row(f'{title}, {what}', _seconds(seconds[name]['median']))
  yield Row(
    f'neural collapse, second pass, {settings["batch_size"]:,} x '
    f'{settings["features"]:,} features, {settings["classes"]:,} classes',
    f'over its matrix products alone: '
    f'{_spread(ratios["second pass update"], 2)}',
  )


def _start(record: Record) -> Iterable[Row]:
  settings, results = record['settings'], record['results']
  card = settings['card'].removeprefix('configs/')
  for name, title in (
    ('cold', 'nothing compiled before'),
    ('warm', 'by a second start'),
  ):
    found = results[name]
    yield Row(
      f'from the command to the first step, `{card}`, {title}',
      f'{_spread(found["first_step_seconds"], 1)} s; '
      f'{max(found["programs_compiled"])} programs compiled',
    )
  yield Row(
    f'`experiments.train --help`, `{card}`',
    f'{_spread(results["help_seconds"], 2)} s',
  )


def _pipeline(record: Record) -> Iterable[Row]:
  settings, results = record['settings'], record['results']
  size = settings['image_size']
  for part, title in (
    ('per_core', f'training images, {size} px, one core'),
    ('evaluation', f'images to evaluate, {size} px, one core'),
    ('all_cores', f'training images, {size} px, {settings["cpus"]} cores'),
  ):
    variants = results[part]['variants']
    found = [
      f'{name} {x["images_per_second"]:,.0f} images/s'
      + ('' if name == 'pil' else f', {_spread(x["speedup"], 2)} times PIL')
      for name, x in variants.items()
    ]
    yield Row(
      f'from {settings["mean_bytes"] / 1e3:.0f} KB JPEG files to batches of '
      f'{title}',
      '; '.join(found),
    )


def _train(record: Record) -> Iterable[Row]:
  settings, results = record['settings'], record['results']
  size = settings['image_size']
  for name, row in results['models'].items():
    ours = row['programs']['jax']
    theirs = row['programs'][row['reference']]
    share = ours['share_of_peak']
    yield Row(
      f'training step, {name}, {settings["batch_size"]} images of '
      f'{size}x{size}, {settings["dtype"]}, beside PyTorch '
      f'{settings["torch"]} ({row["reference"]}, its fastest)',
      f'{_seconds(ours["step_seconds"]["median"])}, PyTorch '
      f'{_seconds(theirs["step_seconds"]["median"])}; time of PyTorch over '
      f'ours {_spread(row["torch_over_jax"], 3)}'
      + ('' if share is None else f'; {share:.0%} of the peak FLOP/s'),
    )


def _compile_tpu(record: Record) -> Iterable[Row]:
  settings = record['settings']
  for row in record['results']['steps']:
    dtype = row['model'].get('dtype', 'float32')
    measured = (
      f'training step, {row["model"]["name"]}, '
      f'{row["batch_size_per_device"]} images of '
      f'{row["image_shape"][0]}x{row["image_shape"][1]} a device, {dtype}, '
      f'compiled for {settings["device_count"]} {settings["device_kind"]}, '
      'not run'
    )
    if not row['fits']:
      largest = row['largest_batch_size']
      advice = '' if largest is None else f'; a batch of {largest} in all does'
      yield Row(measured, f'does not fit{advice}')
      continue
    memory, bound = row['memory_bytes_per_device'], row['bound']
    yield Row(
      measured,
      f'{row["flops_per_device"]["as_written"] / 1e12:.2f} TFLOP, '
      f'{row["bytes_accessed_per_device"] / 1e9:.1f} GB accessed, '
      f'{memory["total"] / 2**30:.1f} of '
      f'{row["memory_capacity_bytes"] / 2**30:.0f} GiB of a device; takes at '
      f'least {_seconds(bound["step_seconds"])} ({bound["limit"]})',
    )


ROWS: Mapping[str, Callable[[Record], Iterable[Row]]] = {
  'step': _step,
  'losses': _losses,
  'diagnostics': _diagnostics,
  'start': _start,
  'pipeline': _pipeline,
  'train': _train,
  'compile_tpu': _compile_tpu,
}


def _machine(record: Record) -> str:
  hardware = record['hardware']
  host = f'{hardware["host_cpu_count"]} CPUs, {hardware["host_cpu"]}'
  devices = (
    ''
    if hardware['platform'] == 'cpu'
    else f'{hardware["device_count"]} {hardware["device_kind"]}; '
  )
  return f'{devices}{host}; jax {record["versions"]["jax"]}'


def _seconds(seconds: float) -> str:
  if seconds >= 1:
    return f'{seconds:.2f} s'
  return f'{1e3 * seconds:.3g} ms'


def _spread(summary: Mapping[str, float], digits: int) -> str:
  low, high = summary['quartile_1'], summary['quartile_3']
  return f'{summary["median"]:.{digits}f} ({low:.{digits}f}–{high:.{digits}f})'
