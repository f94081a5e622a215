"""The record of the suite `losses` as text."""

from typing import Any

from experiments import _benchmark_text as text
from experiments._benchmark_loss_results import TARGETS

TITLE_WIDTH = 20

_BASELINE = 'optax CE'
_EMPTY = '-'

# In sizes of the logits.
_NOTABLE = 0.01


def describe(record: dict[str, Any]) -> str:
  """What ran on what, a table for each shape, and what it means.

  Args:
    record: as written to JSON.

  Returns:
    Lines of at most 80 columns.
  """
  lines = _header(record)
  for shape in record['results']['shapes']:
    lines += ['', *_shape(shape, record)]
  return '\n'.join([*lines, '', *_notes(record)])


def _header(record):
  settings, results = record['settings'], record['results']
  if settings['target'] != 'here':
    what = (
      f'Value and gradient compiled for {results["device_kind"]}, and not run'
    )
  else:
    what = f'Value and gradient on {results["device_kind"]}, one device'
  return text.wrapped(
    f'{what}; logits in {settings["dtype"]}', *text.machine(record)
  )


def _shape(shape, record):
  unit = text.with_prefix(shape['logits_bytes'], 'B')
  name = f'[{shape["batch"]}, {shape["classes"]}], logits of {unit}'
  if shape['reason']:
    return text.wrapped(f'{name}: not measured, {shape["reason"]}')
  columns = _columns(record)
  rows = [_line(_BASELINE, columns, shape['baseline'])]
  missing = []
  for loss in shape['losses'].values():
    own, composed = loss['ours'], loss['composed']
    rows.append(_line(loss['title'], columns, own, loss))
    if composed:
      rows.append(_line('  composed', columns, composed))
    for kind, suffix in (
      ('ours', ''),
      ('composed', ' composed'),
      ('torch', ' in PyTorch'),
    ):
      if loss[kind] and loss[kind]['reason']:
        missing.append(f'{loss["title"]}{suffix}: {loss[kind]["reason"]}')
  return [
    *text.wrapped(name + _taken(shape)),
    _heading(columns),
    *rows,
    *text.wrapped(*[f'Not measured: {x}' for x in missing]),
    *text.wrapped(*_verdicts(shape)),
  ]


def _taken(shape):
  baseline, accessed = shape['baseline'], shape['baseline']['bytes_accessed']
  words = f'; {_BASELINE}: '
  words += (
    'bytes unknown'
    if accessed is None
    else (f'{text.with_prefix(accessed, "B")} accessed')
  )
  if baseline['seconds']:
    words += (
      f', {1e3 * baseline["seconds"]["median"]:.3f} ms; {shape["rounds"]} '
      f'rounds of {shape["steps_per_round"]} step(s)'
    )
  return words


def _columns(record):
  """Title, width, and the text of a row and of its loss."""
  space = [
    ('bytes', 8, lambda row, _: _number(row['bytes_ratio'], '.3f')),
    ('passes', 8, lambda row, _: _number(row['passes'], '.2f')),
    ('temp.', 9, lambda row, _: _number(row['temporaries_share'], '.2%')),
  ]
  if record['settings']['target'] != 'here':
    return [('accessed', 12, _accessed), *space]
  limit_known = record['results']['memory_bandwidth'] is not None
  return [
    ('time', 6, lambda row, _: _median(row['ratio_to_baseline'])),
    ('quartiles', 13, lambda row, _: _quartiles(row['ratio_to_baseline'])),
    *space,
    (
      'limit',
      8,
      lambda row, _: (
        _number(row['times_limit'], '.2f') if limit_known else text.UNKNOWN
      ),
    ),
    ('torch', 8, lambda _, loss: _median(loss.get('ratio_to_torch'))),
  ]


def _accessed(row, _):
  accessed = row['bytes_accessed']
  return _EMPTY if accessed is None else text.with_prefix(accessed, 'B')


def _median(ratio):
  return _number(ratio and ratio['median'], _form(ratio))


def _quartiles(ratio):
  return text.quartiles(ratio, 1, _form(ratio)) if ratio else _EMPTY


def _form(ratio):
  """Two decimals, while they fit into the column."""
  return '.2f' if ratio and ratio['median'] < 100 else '.0f'


def _number(value, form):
  return _EMPTY if value is None else format(value, form)


def _verdicts(shape):
  told = [(x['title'], x['target']) for x in shape['losses'].values()]
  for met, words in (
    (True, 'The target is met by'),
    (False, 'The target is missed by'),
    (None, 'One cannot tell of'),
  ):
    names = [
      f'{title} ({target["text"]})' if target['text'] else title
      for title, target in told
      if target and target['met'] is met
    ]
    if names:
      yield f'{words}: ' + ', '.join(names)
  larger = [
    f'{x["title"]} {x["ours"]["temporaries_share"]:.0%}'
    for x in shape['losses'].values()
    if x['ours'] and (x['ours']['temporaries_share'] or 0) > _NOTABLE
  ]
  if larger:
    yield f'Temporaries of more than {_NOTABLE:.0%}: ' + ', '.join(larger)


def _notes(record):
  settings, results = record['settings'], record['results']
  bandwidth = results['memory_bandwidth']
  notes = [
    f'time, bytes: of {_BASELINE} in the same run; composed: of parts of jax '
    'and optax. passes: bytes accessed, by the count of XLA, in sizes of the '
    'logits. The physical limit is 3: reading the logits twice, writing the '
    'gradient once. temp.: temporary memory, likewise. limit: time over that '
    'of 3 passes at the full bandwidth of the memory, '
    + (text.with_prefix(bandwidth, 'B/s') if bandwidth else text.UNKNOWN)
    + ' here. torch: time over that of PyTorch in the same rounds.',
  ]
  if settings['no_torch']:
    notes.append(f'No comparison with PyTorch: {settings["no_torch"]}')
  else:
    notes.append(
      f'PyTorch {settings["torch"]}, eager, {settings["torch_threads"]} threads'
    )
  return text.wrapped(*notes, _target(results['platform']))


def _target(platform):
  target = TARGETS.get(platform)
  if target is None:
    return f'There is no target for {platform}'
  parts = [
    f'at most {most:.2f} times the {what} of {_BASELINE}'
    for what, most in (
      ('time', target.seconds),
      ('bytes', target.bytes_accessed),
    )
    if most is not None
  ]
  parts.append(f'temporaries of at most {target.temporaries:.0%} of the logits')
  return f'Target of LS and MaxSup on {platform}: ' + ', '.join(parts)


def _heading(columns):
  return ' ' * TITLE_WIDTH + ''.join(
    f'{title:>{width}}' for title, width, _ in columns
  )


def _line(label, columns, row, loss=None):
  cells = ''.join(f'{cell(row, loss or {}):>{w}}' for _, w, cell in columns)
  return f'{label:<{TITLE_WIDTH}}{cells}'
