"""What the records of all suites say: on the terminal, and in docs/speed.md."""

import json
import os
import pathlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from maxsup_jax import files
from maxsup_jax.training.provenance import provenance

_TITLES = {'ce': 'CE', 'ls': 'LS', 'maxsup': 'MaxSup'}

Record = Mapping[str, Any]
# What was measured, and what came out.
Rows = Iterable[tuple[str, str]]


def spread(summary: Mapping[str, float], form: str) -> str:
  """Writes a median with its quartiles."""
  names = 'median', 'quartile_1', 'quartile_3'
  median, low, high = (format(summary[name], form) for name in names)
  return f'{median} ({low}–{high})'


def rows(record: Record) -> Rows:
  """The rows of the table of performance that a record of any suite gives."""
  return _ROWS[record['suite']](record['settings'], record['results'])


def machine(record: Record) -> str:
  """On what a record was made."""
  hardware, devices = record['hardware'], ''
  if hardware['platform'] != 'cpu':
    devices = f'{hardware["device_count"]} {hardware["device_kind"]}; '
  return (
    f'{devices}{hardware["host_cpu_count"]} CPUs, {hardware["host_cpu"]}; jax '
    f'{record["versions"]["jax"]}'
  )


def started(suite: str) -> dict[str, Any]:
  """The head of a record, before the measurement adds its own load."""
  load = {'host_load': os.getloadavg()[0]}
  return {'schema': 1, 'suite': suite, **provenance(), 'hardware': load}


def publish(
  started: Record, measured: Record, out: pathlib.Path | None
) -> None:
  """Prints a record, and writes it as JSON where `out` says."""
  from experiments.benchmark import costs

  hardware = {**costs.hardware(), **started['hardware']}
  record = {**started, 'hardware': hardware, **measured}
  if out:
    files.write(out, json.dumps(record, indent=2) + '\n')
  print(f'{machine(record)}; load {hardware["host_load"]:.1f}\n')
  for what, result in rows(record):
    print(f'{what}: {result}')
  if record['suite'] == 'losses':
    print(*every_loss(record['results']), sep='\n')
  if out:
    print(f'\nwritten to {out}')


def every_loss(results: Record) -> Iterator[str]:
  """A line for each loss and shape: what costs more than optax's CE."""
  for shape in results['shapes']:
    for loss in shape['losses'].values():
      ours, torch = loss['ours'], loss['ratio_to_torch']
      time = _known(ours['ratio_to_baseline'], lambda x: spread(x, '.2f'))
      ratio = _known(torch, lambda x: f'{x["median"]:.2f}')
      yield (
        f'{loss["title"]}, [{shape["batch"]}, {shape["classes"]}]: time over '
        f'optax CE {time}, over PyTorch {ratio}; bytes over optax CE '
        f'{_known(ours["bytes_ratio"], "{:.3f}".format)}, in sizes of the '
        f'logits {_known(ours["passes"], "{:.2f}".format)}'
      )


def _known(value: Any, form: Callable[[Any], str]) -> str:
  return '-' if value is None else form(value)


def _seconds(seconds: float) -> str:
  return f'{seconds:.2f} s' if seconds >= 1 else f'{1e3 * seconds:.3g} ms'


def _each(rows: Record, form: Callable[[Any], str]) -> str:
  return ', '.join(f'{_TITLES[name]} {form(x)}' for name, x in rows.items())


def _share(row: Record) -> str:
  share = row['share_of_peak']
  return '' if share is None else f'; {share:.0%} of the peak FLOP/s'


def _step(s: Record, results: Record) -> Rows:
  objectives = results['objectives']
  stem = s['model_options'].get('stem')
  times = _each(objectives, lambda o: _seconds(o['step_seconds']['median']))
  others = {name: o for name, o in objectives.items() if name != 'ce'}
  ratios = _each(others, lambda o: spread(o['ratio_to_ce'], '.3f'))
  yield (
    f'training step, {s["model"]}{f" (stem {stem})" if stem else ""}, '
    f'{s["batch_size"]} images of {s["image_size"]}x{s["image_size"]}, '
    f'{s["dtype"]}',
    f'{times}; over CE: {ratios}{_share(objectives["ce"])}',
  )


def _losses(s: Record, results: Record) -> Rows:
  for shape in results['shapes']:
    losses, what = shape['losses'], 'value and gradient of a loss'
    found = {n: losses[n] for n in ('ls', 'maxsup') if n in losses}
    where = f'logits [{shape["batch"]}, {shape["classes"]}]'
    if s['target'] == 'tpu':
      what = 'bytes accessed by value and gradient'
      where += f', compiled for {results["device_kind"]}'
      over = _each(found, lambda x: f'{x["ours"]["bytes_ratio"]:.4f}')
    else:
      ratios = {n: x['ours']['ratio_to_baseline'] for n, x in found.items()}
      over = _each(ratios, lambda x: _known(x, lambda x: spread(x, '.2f')))
      torch = {n: x['ratio_to_torch'] for n, x in found.items()}
      if all(torch.values()):
        torch_over = _each(torch, lambda x: spread(x, '.2f'))
        over += f'; over PyTorch: {torch_over}'
    if found:
      yield f'{what}, {where}', f'over optax CE: {over}'


def _fused(s: Record, results: Record) -> Rows:
  for shape in results['shapes']:
    sizes = '[{examples}, {features}, {classes}]'.format(**shape)
    programs, found = shape['programs'], []
    for name in ('fused maxsup', 'dense maxsup'):
      row, title = programs[name], name.replace('maxsup', 'MaxSup')
      found.append(f'{title} {row["temporaries"] / 1e6:,.1f} MB of temporaries')
      if s['target'] == 'tpu':
        found[-1] += (
          f', {row["hbm_bytes"] / 1e9:.2f} GB moved, estimated '
          f'{_seconds(row["estimated_seconds"])}'
        )
      elif name.startswith('fused'):
        found[-1] += f', time over dense {spread(row["over_dense"], ".2f")}'
    where = f'compiled for {results["device_kind"]}, not run'
    yield (
      f'last layer and loss, value and gradients, {sizes}, {s["dtype"]}'
      f'{f", {where}" if s["target"] == "tpu" else ""}',
      '; '.join(found),
    )


def _decoding(s: Record, results: Record) -> Rows:
  found = []
  for name, row in results['programs'].items():
    found.append(f'{name} {row["sentences_per_second"]:,.1f} sentences/s')
    if name != 'greedy':
      ratio = spread(row['over_greedy'], '.2f')
      found[-1] += f', time over greedy {ratio}'
  yield (
    f'translation, {s["model"]}, {s["sentences"]} sentences of {s["tokens"]} '
    f'tokens to as many, {s["vocabulary"]:,} subwords, random weights',
    '; '.join(found),
  )


def _diagnostics(s: Record, results: Record) -> Rows:
  what = f'{s["examples"]:,} examples, {s["classes"]:,} classes'
  for name, title in (
    ('calibration', 'all calibration errors and temperature scaling'),
    ('selective', 'all metrics of all confidence scores'),
    ('bootstrap', f'{s["resamples"]:,} resamples of the AURC'),
  ):
    yield f'{title}, {what}', _seconds(results['seconds'][name]['median'])
  ratio = spread(results['ratios']['second pass update'], '.2f')
  yield (
    f'neural collapse, second pass, {s["batch_size"]:,} x {s["features"]:,} '
    f'features, {s["classes"]:,} classes',
    f'over its matrix products alone: {ratio}',
  )


def _start(s: Record, results: Record) -> Rows:
  card = f'`{s["card"].removeprefix("configs/")}`'
  for name, title in (
    ('cold', 'nothing compiled before'),
    ('warm', 'by a second start'),
  ):
    found = results[name]
    yield (
      f'from the command to the first step, {card}, {title}',
      f'{spread(found["first_step_seconds"], ".1f")} s; '
      f'{max(found["programs_compiled"])} programs compiled',
    )
  help_seconds = spread(results['help_seconds'], '.2f')
  yield f'`experiments.train --help`, {card}', f'{help_seconds} s'


def _pipeline(s: Record, results: Record) -> Rows:
  for part, what, where in (
    ('per_core', 'training images', 'one core'),
    # In older records only.
    ('evaluation', 'images to evaluate', 'one core'),
    ('all_cores', 'training images', f'{s["cpus"]} cores'),
  ):
    found = []
    for name, x in results.get(part, {'variants': {}})['variants'].items():
      found.append(f'{name} {x["images_per_second"]:,.0f} images/s')
      if name != 'pil':
        found[-1] += f', {spread(x["speedup"], ".2f")} times PIL'
    if found:
      yield (
        f'from {s["mean_bytes"] / 1e3:.0f} KB JPEG files to batches of '
        f'{what}, {s["image_size"]} px, {where}',
        '; '.join(found),
      )


def _train(s: Record, results: Record) -> Rows:
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
      f'{spread(row["torch_over_jax"], ".3f")}{_share(row["programs"]["jax"])}',
    )


def _compile_tpu(s: Record, results: Record) -> Rows:
  for row in results['steps']:
    if 'target_shape' in row:
      sentences, length = row['target_shape']
      size = f'{sentences} sentences of {length} tokens'
      head = f', loss {"without" if row["fused"] else "with"} logits in memory'
    else:
      height, width, _ = row['image_shape']
      size = f'{row["batch_size_per_device"]} images of {height}x{width}'
      head = ''
    result = f'does not fit: {row["lacks"]}'
    if row['fits']:
      memory, bound = row['memory_bytes_per_device'], row['bound']
      result = (
        f'{row["flops_per_device"]["as_written"] / 1e12:.2f} TFLOP, '
        f'{row["bytes_accessed_per_device"] / 1e9:.1f} GB accessed, '
        f'{memory["total"] / 2**30:.1f} of '
        f'{row["memory_capacity_bytes"] / 2**30:.0f} GiB of a device; takes at '
        f'least {_known(bound["step_seconds"], _seconds)} ({bound["limit"]})'
      )
    yield (
      f'training step, {row["model"]["name"]}, {size} a device{head}, '
      f'{row["model"].get("dtype", "float32")}, compiled for '
      f'{s["device_count"]} {s["device_kind"]}, not run',
      result,
    )


# In the order of the page.
_ROWS: Mapping[str, Callable[[Record, Record], Rows]] = {
  'step': _step,
  'losses': _losses,
  'fused': _fused,
  'decoding': _decoding,
  'diagnostics': _diagnostics,
  'start': _start,
  'pipeline': _pipeline,
  'train': _train,
  'compile_tpu': _compile_tpu,
}
SUITES = tuple(_ROWS)
