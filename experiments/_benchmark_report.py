"""The record of a measurement as text."""

from collections.abc import Callable
from typing import Any

from experiments import _benchmark_text as text

TITLES = {'ce': 'CE', 'ls': 'LS', 'maxsup': 'MaxSup'}

_LABEL_WIDTH, _COLUMN_WIDTH = 35, 15


def describe(record: dict[str, Any]) -> str:
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
  settings = record['settings']
  size, rounds = settings['image_size'], settings['rounds']
  stem = settings['model_options'].get('stem')
  return text.wrapped(
    f'{settings["model"]}{f" (stem {stem})" if stem else ""}, '
    f'{settings["parameters"] / 1e6:.1f} million parameters, '
    f'{settings["num_classes"]} classes, {settings["dtype"]}; '
    f'{size}x{size}x{settings["channels"]} images, '
    f'{settings["batch_size"]} in a step; {settings["optimizer"]}',
    *text.machine(record),
    f'{rounds} rounds of {settings["steps_per_round"]} step(s) of each '
    'objective in turn',
  )


def _table(objectives, titles):
  def row(label: str, cell: Callable[[dict[str, Any]], str]) -> str:
    return _line(label, [cell(x) for x in objectives])

  def scaled(label: str, unit: str, pick: Callable) -> str:
    values = [pick(x) for x in objectives]
    scale, prefix = text.prefix(values)
    cells = [text.number(v, scale) for v in values]
    return _line(f'{label}, {prefix}{unit}', cells)

  def memory(part: str) -> Callable:
    return lambda x: (x['memory_bytes_per_device'] or {}).get(part)

  return [
    _line('', titles),
    row('step time, ms', lambda x: f'{1e3 * x["step_seconds"]["median"]:.2f}'),
    row('  quartiles', lambda x: text.quartiles(x['step_seconds'], 1e3, '.1f')),
    row('ratio to CE', lambda x: f'{x["ratio_to_ce"]["median"]:.4f}'),
    row('  quartiles', lambda x: text.quartiles(x['ratio_to_ce'], 1, '.4f')),
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
  return text.wrapped(
    f'Target: MaxSup within {target["ratio_at_most"] - 1:.0%} of CE on a '
    'ResNet (3:51 against 3:51 minutes an epoch in Zhou et al., NeurIPS 2025, '
    f'Table 16). Here {target["ratio"] - 1:+.2%}: {target["text"]}.',
    'Peak of a device: '
    + (text.with_prefix(peak, 'FLOP/s, dense') if peak else text.UNKNOWN),
    'Most device memory in use at once, the states of all three objectives '
    f'included: {text.with_prefix(memory, "B") if memory else text.UNKNOWN}',
    f'Input pipeline alone, one process: {_pipeline(results["pipeline"])}',
  )


def _pipeline(pipeline):
  rate = pipeline['images_per_second']
  if rate is None:
    return f'not measured, {pipeline["reason"]}'
  return f'{rate["median"]:,.0f} images/s, quartiles ' + text.quartiles(
    rate, 1, ',.0f'
  )


def _first_objective(objective):
  return f'{objective["first_step"]["objective"]:.4f}'


def _extra_flops(baseline):
  def cell(objective):
    own, ce = (
      x['flops_per_device']['as_written'] for x in (objective, baseline)
    )
    return text.UNKNOWN if None in (own, ce) else f'{own / ce - 1:+.5%}'

  return cell


def _share(objective):
  share = objective['share_of_peak']
  return text.UNKNOWN if share is None else f'{share:.1%}'


def _line(label, cells):
  columns = ''.join(f'{cell:>{_COLUMN_WIDTH}}' for cell in cells)
  return f'{label:<{_LABEL_WIDTH}}{columns}'
