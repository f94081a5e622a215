"""The record of a measurement as text."""

import textwrap
from collections.abc import Callable, Sequence
from typing import Any

TITLES = {'ce': 'CE', 'ls': 'LS', 'maxsup': 'MaxSup'}

_LABEL_WIDTH, _COLUMN_WIDTH = 35, 15
_UNKNOWN = 'unknown'


def describe_step(record: dict[str, Any]) -> str:
  """The suite `step`: what ran on what, a table, and what it means.

  Args:
    record: as written to JSON.

  Returns:
    Lines of at most 80 columns.
  """
  results = record['results']
  return '\n'.join(
    [
      *_header(record),
      '',
      *_table(list(results['objectives'].values()), _titles(results)),
      '',
      *_notes(record),
    ]
  )


def _titles(results):
  return [TITLES[name] for name in results['objectives']]


def _header(record):
  hardware, settings = record['hardware'], record['settings']
  versions, count = record['versions'], hardware['device_count']
  size, rounds = settings['image_size'], settings['rounds']
  stem = settings['model_options'].get('stem')
  return _wrapped(
    f'{settings["model"]}{f" (stem {stem})" if stem else ""}, '
    f'{settings["parameters"] / 1e6:.1f} million parameters, '
    f'{settings["num_classes"]} classes, {settings["dtype"]}; '
    f'{size}x{size}x{settings["channels"]} images, '
    f'{settings["batch_size"]} in a step; {settings["optimizer"]}',
    f'{count} {hardware["device_kind"]} device(s) of '
    f'{hardware["process_count"]} process(es); host: '
    f'{hardware["host_cpu"] or "unknown processor"}, '
    f'{hardware["host_cpu_count"]} CPUs, load {hardware["host_load"]:.1f} '
    'before the start',
    ', '.join(f'{name} {x}' for name, x in versions.items()),
    f'commit {record["git_commit"] or "unknown"}; {record["time"]}',
    f'{rounds} rounds of {settings["steps_per_round"]} step(s) of each '
    'objective in turn',
  )


def _table(objectives, titles):
  def row(label: str, cell: Callable[[dict[str, Any]], str]) -> str:
    return _line(label, [cell(x) for x in objectives])

  def scaled(label: str, unit: str, pick: Callable) -> str:
    values = [pick(x) for x in objectives]
    scale, prefix = _prefix(values)
    cells = [_number(v, scale) for v in values]
    return _line(f'{label}, {prefix}{unit}', cells)

  def memory(part: str) -> Callable:
    return lambda x: (x['memory_bytes_per_device'] or {}).get(part)

  return [
    _line('', titles),
    row('step time, ms', lambda x: f'{1e3 * x["step_seconds"]["median"]:.2f}'),
    row('  quartiles', lambda x: _quartiles(x['step_seconds'], 1e3, '.1f')),
    row('ratio to CE', lambda x: f'{x["ratio_to_ce"]["median"]:.4f}'),
    row('  quartiles', lambda x: _quartiles(x['ratio_to_ce'], 1, '.4f')),
    row('images/s', lambda x: f'{x["images_per_second"]:,.1f}'),
    row('objective at the first step', _first_objective),
    row('tracing and lowering, s', lambda x: f'{x["lower_seconds"]:.1f}'),
    row('compiling, s', lambda x: f'{x["compile_seconds"]:.1f}'),
    'per device:',
    scaled(
      '  FLOPs a step, as written',
      'FLOP',
      lambda x: x['flops_per_device']['as_written'],
    ),
    row('    more than CE', _extra_flops(objectives[0])),
    scaled(
      '  FLOPs a step, as compiled',
      'FLOP',
      lambda x: x['flops_per_device']['as_compiled'],
    ),
    scaled(
      '  achieved, as written',
      'FLOP/s',
      lambda x: x['flops_per_second_per_device'],
    ),
    row('  share of the peak', _share),
    scaled('  memory: arguments', 'B', memory('arguments')),
    scaled('    temporaries', 'B', memory('temporaries')),
    scaled('    outputs', 'B', memory('outputs')),
    scaled('    outputs in their place', 'B', memory('aliased')),
    scaled('    in all', 'B', memory('total')),
  ]


def _notes(record):
  results = record['results']
  target, peak = results['target'], results['peak_flops_per_second_per_device']
  memory = results['peak_memory_bytes_per_device']
  return _wrapped(
    f'Target: MaxSup within {target["ratio_at_most"] - 1:.0%} of CE on a '
    'ResNet (3:51 against 3:51 minutes an epoch in Zhou et al., NeurIPS 2025, '
    f'Table 16). Here {target["ratio"] - 1:+.2%}: {target["text"]}.',
    'Peak of a device: '
    + (_with_prefix(peak, 'FLOP/s, dense') if peak else _UNKNOWN),
    'Most device memory in use at once, the states of all three objectives '
    f'included: {_with_prefix(memory, "B") if memory else _UNKNOWN}',
    f'Input pipeline alone, one process: {_pipeline(results["pipeline"])}',
  )


def _pipeline(pipeline):
  rate = pipeline['images_per_second']
  if rate is None:
    return f'not measured, {pipeline["reason"]}'
  return f'{rate["median"]:,.0f} images/s, quartiles ' + _quartiles(
    rate, 1, ',.0f'
  )


def _first_objective(objective):
  return f'{objective["first_step"]["objective"]:.4f}'


def _extra_flops(baseline):
  def cell(objective):
    own, ce = (
      x['flops_per_device']['as_written'] for x in (objective, baseline)
    )
    return _UNKNOWN if None in (own, ce) else f'{own / ce - 1:+.5%}'

  return cell


def _share(objective):
  share = objective['share_of_peak']
  return _UNKNOWN if share is None else f'{share:.1%}'


def _quartiles(summary, scale, form):
  low, high = scale * summary['quartile_1'], scale * summary['quartile_3']
  return f'{low:{form}}-{high:{form}}'


def _prefix(values: Sequence[float | None]) -> tuple[float, str]:
  """The SI prefix that suits the largest of the values."""
  largest = max((v for v in values if v is not None), default=0)
  for scale, prefix in ((1e12, 'T'), (1e9, 'G'), (1e6, 'M'), (1e3, 'k')):
    if largest >= scale:
      return scale, prefix
  return 1.0, ''


def _number(value, scale):
  return _UNKNOWN if value is None else f'{value / scale:.2f}'


def _with_prefix(value, unit):
  scale, prefix = _prefix([value])
  return f'{_number(value, scale)} {prefix}{unit}'


def _line(label, cells):
  columns = ''.join(f'{cell:>{_COLUMN_WIDTH}}' for cell in cells)
  return f'{label:<{_LABEL_WIDTH}}{columns}'


def _wrapped(*paragraphs):
  return [
    line
    for paragraph in paragraphs
    for line in textwrap.wrap(paragraph, 80, subsequent_indent='  ')
  ]
