"""The records of all suites, and what their texts share: one table printer."""

import functools
import json
import operator
import os
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from maxsup_jax.training.provenance import provenance

# A title, where the value is ('a.b' is row['a']['b']), and how it is written: a
# format, a unit that takes an SI prefix, or a function.
Column = tuple[str, str, str | Callable[[Any], str]]


def table(
  rows: Mapping[str, Mapping[str, Any]],
  columns: Sequence[Column],
  *,
  title: str = '',
  across: bool = False,
) -> list[str]:
  """Aligned lines, a row for each item; or a column, `across`.

  What is None or missing is a dash.
  """
  cells = [[title, *(column[0] for column in columns)]]
  for name, row in rows.items():
    cells.append([name, *(_cell(row, path, form) for _, path, form in columns)])
  if across:
    cells = list(zip(*cells))
  first, *rest = (max(map(len, column)) for column in zip(*cells))
  return [
    f'{line[0]:<{first}}'
    + ''.join(f'{x:>{width + 2}}' for x, width in zip(line[1:], rest))
    for line in cells
  ]


def _cell(row, path, form):
  try:
    value = functools.reduce(operator.getitem, path.split('.'), row)
  except (KeyError, TypeError):
    value = None
  if value is None:
    return '-'
  if callable(form):
    return form(value)
  return _with_unit(value, form) if form[:1].isalpha() else format(value, form)


def spread(form: str, scale: float = 1) -> Callable[[Mapping[str, float]], str]:
  """Writes a median with its quartiles."""

  def text(summary):
    median, low, high = (
      format(scale * summary[name], form)
      for name in ('median', 'quartile_1', 'quartile_3')
    )
    return f'{median} ({low}–{high})'

  return text


def _with_unit(value, unit):
  for scale, letter in ((1e12, 'T'), (1e9, 'G'), (1e6, 'M'), (1e3, 'k')):
    if value >= scale:
      return f'{value / scale:.2f} {letter}{unit}'
  return f'{value:.2f} {unit}'


def started(suite: str) -> dict[str, Any]:
  """The head of a record, before the measurement adds its own load."""
  load = {'host_load': os.getloadavg()[0]}
  return {'schema': 1, 'suite': suite, **provenance(), 'hardware': load}


def publish(
  started: dict[str, Any],
  measured: Mapping[str, Any],
  describe: Callable[[Mapping[str, Any]], list[str]],
  out: pathlib.Path | None,
) -> None:
  """Prints a record, and writes it as JSON where `out` says."""
  from experiments.benchmark import costs

  hardware = {**costs.hardware(), **started['hardware']}
  record = {**started, 'hardware': hardware, **measured}
  print(
    f'{hardware["device_count"]} {hardware["device_kind"]}; '
    f'{hardware["host_cpu_count"]} CPUs, {hardware["host_cpu"]}, load '
    f'{hardware["host_load"]:.1f}; jax {record["versions"]["jax"]}'
  )
  print('\n'.join(['', *describe(record)]))
  if out:
    out.write_text(json.dumps(record, indent=2) + '\n')
    print(f'\nwritten to {out}')
