"""The whole report: sections, and the files that they become."""

import csv
import io
import math
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from maxsup_jax.errors import UsageError
from maxsup_jax.outputs import Outputs
from maxsup_jax.reports import (
  _style,
  blocks,
  calibration,
  information,
  logits,
  page,
  projection,
  representation,
  selective,
  summary,
)
from maxsup_jax.reports.blocks import Section
from maxsup_jax.reports.directory import Directory
from maxsup_jax.reports.measured import Measured, Options, describe

SECTIONS = {
  module.NAME: module
  for module in (
    summary,
    calibration,
    selective,
    logits,
    representation,
    projection,
    information,
  )
}
KIND = 'report'
PAGE = 'report.html'


def check_sections(names: Sequence[str]) -> None:
  """Refuses unknown sections."""
  for name in names:
    if name not in SECTIONS:
      raise UsageError(
        f'unknown section {name!r}; known: {", ".join(SECTIONS)}'
      )


def build(
  models: Sequence[Measured],
  options: Options,
  sections: Sequence[str] = tuple(SECTIONS),
  done: Callable[[], Any] = lambda: None,
) -> list[Section]:
  """Computes the sections.

  Args:
    models: the first one is what the others are compared with.
    options: how to measure.
    sections: names of `SECTIONS`.
    done: is called after each section.

  Returns:
    The sections in the order of `SECTIONS`. A part that the data do not allow,
    such as a class without an example, is a note that says so.

  Raises:
    UsageError: for an unknown section, or classes that there are not.
  """
  check_sections(sections)
  models = list(models)
  if projection.NAME in sections:
    projection.check_classes(models, options)
  chosen = [module for name, module in SECTIONS.items() if name in sections]
  built = []
  for module in chosen:
    built.append(module.section(models, options))
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

  Args:
    out: where to.
    sections: from `build`.
    models: those that the sections are about.
    options: those that the sections were computed with.
    provenance: what made the report: command, versions.

  Returns:
    The path of the page.
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
  names = ', '.join(m.name for m in models)
  files[PAGE] = page.render(
    f'Diagnostics of {names}' if len(models) < 6 else 'Diagnostics',
    describe(list(models)),
    [*sections, _sources(models, provenance)],
    figures,
    'Made by maxsup_jax. No number of this page was typed by hand.',
  )
  results = {
    'models': {m.name: _about(m) for m in models},
    'options': vars(options),
    'provenance': provenance,
    'sections': {s.name: s.numbers for s in sections},
  }
  out.write(files, _plain(results))
  return out.path / PAGE


def as_text(sections: Sequence[Section]) -> str:
  """The first table of a report, for a terminal."""
  tables = [
    b for s in sections for b in s.blocks if isinstance(b, blocks.Table)
  ]
  if not tables:
    return ''
  rows = [[_first_line(c) for c in row] for row in tables[0].rows]
  rows.insert(0, list(tables[0].columns))
  widths = [max(map(len, column)) for column in zip(*rows)]
  return '\n'.join(
    '  '.join(
      [row[0].ljust(widths[0])]
      + [c.rjust(w) for c, w in zip(row[1:], widths[1:])]
    ).rstrip()
    for row in rows
  )


def _first_line(cell: str | blocks.Cell) -> str:
  if isinstance(cell, str):
    return cell
  return ' '.join([cell.value, *cell.details[:1]])


def _about(m: Measured) -> dict[str, Any]:
  def one(outputs: Outputs | None):
    if outputs is None:
      return None
    return {
      'path': outputs.path,
      'examples': outputs.num_examples,
      'classes': outputs.num_classes,
      'features': None
      if outputs.features is None
      else outputs.features.shape[1],
      'head_error': outputs.head_error,
      'metadata': outputs.metadata,
    }

  return {'test': one(m.outputs), 'train': one(m.train)}


def _sources(models, provenance) -> Section:
  """The last section: where the numbers come from."""
  rows = []
  for m in models:
    for outputs in (m.outputs, m.train):
      if outputs is None:
        continue
      known = outputs.metadata
      objective = known.get('objective')
      if isinstance(objective, Mapping):
        objective = ', '.join(f'{k}={v}' for k, v in objective.items())
      rows.append(
        [
          m.name,
          outputs.path,
          str(known.get('dataset') or '—'),
          str(known.get('split') or '—'),
          str(known.get('model') or '—'),
          str(objective or '—'),
          str(known.get('step', '—')),
          f'{outputs.num_examples:,}',
        ]
      )
  table = blocks.Table(
    [
      'model',
      'file',
      'dataset',
      'split',
      'network',
      'objective',
      'step',
      'examples',
    ],
    rows,
    _made(provenance),
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
