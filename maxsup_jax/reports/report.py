"""The whole report: sections, and the files that they become."""

import csv
import importlib
import io
import math
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from maxsup_jax.reports import _style, blocks, measured, page, projection
from maxsup_jax.reports.blocks import Section
from maxsup_jax.reports.directory import Directory
from maxsup_jax.reports.measured import (
  SECTIONS,
  Measured,
  Options,
  check_sections,
  describe,
)

PAGE = 'report.html'


def build(
  models: Sequence[Measured],
  options: Options,
  sections: Sequence[str] = SECTIONS,
  done: Callable[[], Any] = lambda: None,
) -> list[Section]:
  """Computes the sections, in the order of `SECTIONS`.

  A part that the data do not allow, such as a class without an example, is a
  note that says so.

  Args:
    models: the first one is what the others are compared with.
    options: how to measure.
    sections: names of `SECTIONS`.
    done: is called after each section.
  """
  check_sections(sections)
  if 'projection' in sections:
    projection.check_classes(list(models), options)
  built = []
  for name in SECTIONS:
    if name in sections:
      module = importlib.import_module(f'maxsup_jax.reports.{name}')
      built.append(module.section(list(models), options))
      done()
  return built


def write(
  out: Directory,
  sections: Sequence[Section],
  models: Sequence[Measured],
  options: Options,
  provenance: Mapping[str, Any],
) -> Path:
  """Writes results.json, the CSV files, the figures and the page.

  The sections are those that `build` gave for these models and options;
  `provenance` is what made the report: command, versions. Gives the path of
  the page.
  """
  figures: dict[str, bytes] = {}
  files: dict[str, str | bytes] = {}
  for s in sections:
    for block in s.blocks:
      if isinstance(block, blocks.Figure):
        figures[block.name] = _style.svg(block.figure)
        files[f'{block.name}.svg'] = figures[block.name]
        files[f'{block.name}.png'] = _style.png(block.figure)
    files |= {f'{n}.csv': _csv(columns) for n, columns in s.curves.items()}
  names = ', '.join(measured.methods(models))
  empty = ', '.join(s.title for s in sections if not s.blocks)
  files[PAGE] = page.render(
    f'Diagnostics of {names}' if len(names) < 80 else 'Diagnostics',
    describe(list(models)),
    [*sections, _sources(models, provenance)],
    figures,
    'Made by maxsup_jax. No number of this page was typed by hand.'
    + (f' The files have nothing for: {empty}.' if empty else ''),
    [claim['sentence'] for s in sections for claim in s.lead],
  )
  results = {
    'models': {m.name: _about(m) for m in models},
    'options': vars(options),
    'provenance': provenance,
    'headline': [claim for s in sections for claim in s.lead],
    'sections': {s.name: s.numbers for s in sections},
    'methods': {s.name: s.methods for s in sections if s.methods},
  }
  out.write(files, _plain(results))
  return out.path / PAGE


def as_text(sections: Sequence[Section]) -> str:
  """The headline and the first table of a report, for a terminal."""
  every = (b for s in sections for b in s.blocks)
  table = next((b for b in every if isinstance(b, blocks.Table)), None)
  if table is None:
    return ''
  rows = [list(table.columns)]
  for row in table.rows:
    whole = [c if isinstance(c, blocks.Cell) else blocks.Cell(c) for c in row]
    rows.append([' '.join([c.value, *c.details[:1]]) for c in whole])
  first, *widths = (max(map(len, column)) for column in zip(*rows))
  lines = [claim['sentence'] for s in sections for claim in s.lead]
  lines += [''] if lines else []
  for name, *row in rows:
    cells = [c.rjust(w) for c, w in zip(row, widths)]
    lines.append('  '.join([name.ljust(first), *cells]).rstrip())
  return '\n'.join(lines)


def _about(m: Measured) -> dict[str, Any]:
  found: dict[str, Any] = {}
  for part, outputs in (('test', m.outputs), ('train', m.train)):
    features = None if outputs is None else outputs.features
    found[part] = outputs and {
      'path': outputs.path,
      'examples': outputs.num_examples,
      'classes': outputs.num_classes,
      'features': None if features is None else features.shape[1],
      'head_error': outputs.head_error,
      'metadata': outputs.metadata,
    }
  return found


def _sources(
  models: Sequence[Measured], provenance: Mapping[str, Any]
) -> Section:
  """The last section: where the numbers come from."""
  rows = []
  for m in models:
    for outputs in filter(None, (m.outputs, m.train)):
      known = dict(outputs.metadata)
      objective = known.get('objective')
      if isinstance(objective, Mapping):
        known['objective'] = ', '.join(f'{k}={v}' for k, v in objective.items())
      names = ('dataset', 'split', 'model', 'objective')
      shown = [str(known.get(name) or '—') for name in names]
      step = str(known.get('step', '—'))
      rows.append(
        [m.name, outputs.path, *shown, step, f'{outputs.num_examples:,}']
      )
  columns = ['model', 'file', 'dataset', 'split', 'network', 'objective']
  table = blocks.Table(
    'Files', [*columns, 'step', 'examples'], rows, _made(provenance)
  )
  return Section('sources', 'Where the numbers come from', [table])


def _made(provenance: Mapping[str, Any]) -> str:
  """Command, time, commit and versions in a sentence."""
  parts = []
  for key, value in provenance.items():
    if isinstance(value, Mapping):
      value = ', '.join(f'{k} {v}' for k, v in value.items())
    parts.append(f'{key.replace("_", " ")}: {value}')
  return '; '.join(parts) or 'Made in Python.'


def _csv(columns: Mapping[str, Sequence]) -> str:
  out = io.StringIO()
  writer = csv.writer(out, lineterminator='\n')
  writer.writerow(columns)
  writer.writerows(
    [_text(v) for v in row] for row in zip(*columns.values(), strict=True)
  )
  return out.getvalue()


def _text(value: Any) -> str:
  if isinstance(value, float | np.floating):
    return '' if math.isnan(value) else repr(float(value))
  return str(value)


def _plain(value: Any) -> Any:
  """As JSON can hold it: null for what is undefined."""
  if isinstance(value, Mapping):
    return {str(k): _plain(v) for k, v in value.items()}
  if isinstance(value, np.ndarray | list | tuple):
    return [_plain(v) for v in value]
  if isinstance(value, np.bool_):
    return bool(value)
  if isinstance(value, np.integer):
    return int(value)
  if isinstance(value, float | np.floating):
    return float(value) if math.isfinite(value) else None
  if isinstance(value, os.PathLike):
    return str(value)
  return value
