"""The record of `experiments.compile_tpu` as text."""

from typing import Any

from experiments import _benchmark_text as text

_LABEL_WIDTH, _COLUMN_WIDTH, _COLUMNS = 32, 16, 3
_GIB = 2**30


def describe(record: dict[str, Any]) -> str:
  """What was compiled for what, a table, and what it means.

  Args:
    record: as written to JSON.

  Returns:
    Lines of at most 80 columns.
  """
  rows = record['results']['steps']
  lines = _header(record)
  for start in range(0, len(rows), _COLUMNS):
    lines += ['', *_table(rows[start : start + _COLUMNS])]
  return '\n'.join([*lines, '', *_notes(rows)])


def _header(record):
  settings = record['settings']
  return text.wrapped(
    f'Training steps compiled for {settings["topology"]}, '
    f'{settings["device_count"]} {settings["device_kind"]} device(s), and not '
    'run',
    *text.machine(record),
  )


def _table(rows):
  def line(label, cell):
    cells = [cell(row) for row in rows]
    return f'{label:<{_LABEL_WIDTH}}' + ''.join(
      f'{"-" if c is None else c:>{_COLUMN_WIDTH}}' for c in cells
    )

  def scaled(label, unit, pick):
    values = [pick(row) for row in rows]
    scale, letter = text.prefix(values)
    cells = iter(None if v is None else f'{v / scale:.2f}' for v in values)
    return line(f'{label}, {letter}{unit}', lambda _: next(cells))

  def memory(part):
    return lambda row: (row['memory_bytes_per_device'] or {}).get(part)

  def milliseconds(part):
    return lambda row: _form(row['bound'][part], 1e3, '.1f')

  return [
    line('', lambda row: row['model']['name']),
    line('', lambda row: row['model'].get('dtype', 'float32')),
    line('objective', lambda row: row['objective']['name']),
    line('batch', lambda row: row['batch_size']),
    line('  of a device', lambda row: row['batch_size_per_device']),
    line('fits', lambda row: 'yes' if row['fits'] else 'no'),
    scaled('memory, arguments', 'B', memory('arguments')),
    scaled('  temporaries', 'B', memory('temporaries')),
    scaled('  outputs', 'B', memory('outputs')),
    scaled('  outputs in their place', 'B', memory('aliased')),
    scaled('  in all', 'B', memory('total')),
    line('  share of the capacity', _share),
    scaled(
      'FLOPs as written', 'FLOP', lambda r: r['flops_per_device']['as_written']
    ),
    scaled(
      'FLOPs as compiled',
      'FLOP',
      lambda r: r['flops_per_device']['as_compiled'],
    ),
    scaled('accessed', 'B', lambda row: row['bytes_accessed_per_device']),
    line('FLOPs per byte accessed', _intensity),
    line('at least, ms', milliseconds('step_seconds')),
    line('  FLOPs at the peak', milliseconds('compute_seconds')),
    line('  accesses at the bandwidth', milliseconds('memory_seconds')),
    line(
      '  images/s at most, all devices',
      lambda row: _form(row['bound']['images_per_second'], 1, ',.0f'),
    ),
    line('collectives', _count),
    scaled('  exchanged', 'B', _exchanged),
    line('tracing and lowering, s', lambda row: f'{row["lower_seconds"]:.1f}'),
    line('compiling, s', lambda row: f'{row["compile_seconds"]:.1f}'),
  ]


def _notes(rows):
  notes = [lack(row) for row in rows if not row['fits']]
  notes.append(
    '"At least" is a bound by the compiler\'s counts at the peaks of the '
    'device, not a measurement.'
  )
  return text.wrapped(*notes)


def lack(row: dict[str, Any]) -> str:
  """What a step that does not fit would need, in one line."""
  name = f'{row["model"]["name"]} in {row["model"].get("dtype", "float32")}'
  needed, available = row['lacks']['needed'], row['lacks']['available']
  words = row['lacks']['message']
  if None not in (needed, available):
    words = (
      f'needs {needed / _GIB:.2f} of {available / _GIB:.2f} GiB of a device'
    )
  largest = row['largest_batch_size']
  advice = '' if largest is None else f'; a batch of {largest} does'
  return f'{name}, batch {row["batch_size"]}, does not fit: {words}{advice}'


def _share(row):
  memory, capacity = (
    row['memory_bytes_per_device'],
    row['memory_capacity_bytes'],
  )
  return f'{memory["total"] / capacity:.1%}' if memory and capacity else None


def _intensity(row):
  flops = row['flops_per_device']['as_written']
  accessed = row['bytes_accessed_per_device']
  return f'{flops / accessed:.1f}' if flops and accessed else None


def _count(row):
  if row['collectives'] is None:
    return None
  return sum(x['count'] for x in row['collectives'].values())


def _exchanged(row):
  if row['collectives'] is None:
    return None
  return sum(x['bytes'] for x in row['collectives'].values())


def _form(value, scale, form):
  return None if value is None else f'{scale * value:{form}}'
