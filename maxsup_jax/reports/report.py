"""The whole report: sections, and the files that they become."""

import contextlib
import csv
import functools
import html
import importlib
import io
import math
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from maxsup_jax.errors import UsageError
from maxsup_jax.reports import (
  _style,
  blocks,
  compared,
  measured,
  page,
  projection,
)
from maxsup_jax.reports.blocks import Section
from maxsup_jax.reports.compared import Source
from maxsup_jax.reports.directory import Directory
from maxsup_jax.reports.measured import (
  KIND,
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


class Report:
  """A report: `results`, the page, and all files; a notebook shows the page.

  Attributes:
    sections: what `build` gave.
    models: what they are about.
    options: how it was measured.
    provenance: what made it: command, versions.
  """

  def __init__(
    self,
    sections: Sequence[Section],
    models: Sequence[Measured],
    options: Options,
    provenance: Mapping[str, Any] | None = None,
  ):
    self.sections, self.models = sections, models
    self.options, self.provenance = options, provenance or {}

  @functools.cached_property
  def results(self) -> dict[str, Any]:
    """What results.json holds: every number of the page, and many more."""
    sections = self.sections
    return _plain(
      {
        'models': {m.name: _about(m) for m in self.models},
        'options': vars(self.options),
        'provenance': self.provenance,
        'headline': [claim for s in sections for claim in s.lead],
        'sections': {s.name: s.numbers for s in sections},
        'methods': {s.name: s.methods for s in sections if s.methods},
      }
    )

  @functools.cached_property
  def html(self) -> str:
    """The page: one file that loads nothing."""
    names = ', '.join(measured.methods(self.models))
    empty = ', '.join(s.title for s in self.sections if not s.blocks)
    return page.render(
      f'Diagnostics of {names}' if len(names) < 80 else 'Diagnostics',
      describe(list(self.models)),
      [*self.sections, _sources(self.models, self.provenance)],
      self._drawn,
      'Made by maxsup_jax. No number of this page was typed by hand.'
      + (f' The files have nothing for: {empty}.' if empty else ''),
      [claim['sentence'] for s in self.sections for claim in s.lead],
    )

  def _repr_html_(self) -> str:
    # Its rules are for the page alone, not for the notebook around it.
    return (
      f'<iframe srcdoc="{html.escape(self.html)}" title="Diagnostics" '
      'style="width: 100%; height: 45rem; border: 0"></iframe>'
    )

  def save(self, out: str | os.PathLike, *, overwrite: bool = False) -> Path:
    """Writes the page, results.json, figures and curves into a directory.

    Args:
      out: is made; one that holds anything else is refused.
      overwrite: whether a report that is there may be replaced.

    Returns:
      The path of the page.
    """
    return self.write(Directory(out, KIND, overwrite=overwrite))

  def write(self, out: Directory) -> Path:
    """As `save`, into a directory that was checked before."""
    files: dict[str, str | bytes] = {PAGE: self.html}
    for figure in _figures(self.sections):
      files[f'{figure.name}.svg'] = self._drawn[figure.name]
      files[f'{figure.name}.png'] = _style.png(figure.figure)
    for s in self.sections:
      files |= {f'{n}.csv': _csv(columns) for n, columns in s.curves.items()}
    out.write(files, self.results)
    return out.path / PAGE

  @functools.cached_property
  def _drawn(self) -> dict[str, bytes]:
    return {f.name: _style.svg(f.figure) for f in _figures(self.sections)}


def _figures(sections: Sequence[Section]) -> list[blocks.Figure]:
  every = (b for s in sections for b in s.blocks)
  return [b for b in every if isinstance(b, blocks.Figure)]


def report(
  models: Mapping[str, Source] | Sequence[Source],
  *,
  names: Sequence[str] = (),
  groups: Sequence[str] = (),
  train: Sequence[Source] = (),
  ood: Sequence[Source] = (),
  probabilities: bool = False,
  sections: Sequence[str] = SECTIONS,
  provenance: Mapping[str, Any] | None = None,
  progress: Callable[[str, int], Any] | None = None,
  **options: Any,
) -> Report:
  """Measures models from their logits: one call from arrays to the page.

  Args:
    models: by name, or in a list: files, pairs of logits `[N, K]` and labels
      `[N]`, or mappings with more arrays; see `compared.read`. The first one is
      what the others are compared with.
    names: of models in a list; by default those of the files.
    groups: which method each model is a seed of; by default what `group` of the
      files' metadata says.
    train: the same models' outputs on the training split, in their order.
    ood: the same models' outputs for examples of no class, in their order;
      labels are not needed.
    probabilities: whether the models give these, not logits.
    sections: names of `SECTIONS`.
    provenance: what made it, for the last section.
    progress: makes a bar, as tqdm, from a name and a number of steps.
    **options: those of `Options`, such as `resamples=200`.

  Returns:
    The report. At the end of a cell of a notebook it shows itself.

  Raises:
    UsageError: one line that says what cannot be used.

  Examples:
    >>> import numpy as np
    >>> from maxsup_jax.reports.report import report
    >>> rng = np.random.default_rng(0)
    >>> labels = rng.integers(0, 3, 200)
    >>> logits = rng.normal(size=(200, 3)) + 2 * np.eye(3)[labels]
    >>> page = report(
    ...   {'CE': (logits, labels), 'sharper': (2 * logits, labels)},
    ...   sections=['summary'],
    ...   resamples=100,
    ... )
    >>> numbers = page.results['sections']['summary']
    >>> numbers['CE']['error'] == numbers['sharper']['error']
    False
    >>> numbers['CE']['error']['value'] == numbers['sharper']['error']['value']
    True
  """
  check_sections(sections)
  how = Options(**options)
  if isinstance(models, Mapping):
    names, models = list(models), list(models.values())
  if not models:
    raise UsageError('models is empty; expected at least one')
  for argument, files in (('train', train), ('ood', ood)):
    if files and len(files) != len(models):
      raise UsageError(
        f'{argument} has {len(files)} files; expected {len(models)}, one for '
        'each model'
      )
  for source in (*models, *train, *ood):
    if isinstance(source, str | os.PathLike):
      compared.check_file(source, source not in ood)
  progress = progress or _silent
  with progress('reading', len(models) + len(train) + len(ood)) as bar:
    outputs = compared.read_all(
      models, names, groups, bar.update, probabilities
    )
    trained: list[Any] = [None] * len(outputs)
    if train:
      trained = compared.read_all(
        train, [o.name for o in outputs], (), bar.update, probabilities
      )
      compared.check_same_classes([outputs[0], *trained])
      for pair in zip(outputs, trained):
        compared.check_same_model(*pair)
    foreign: list[Any] = [None] * len(outputs)
    for i, source in enumerate(ood):
      foreign[i] = compared.read(source, None, probabilities, labelled=False)
      compared.check_same_classes([outputs[0], foreign[i]])
      bar.update()
  of = [Measured(*each) for each in zip(outputs, trained, foreign)]
  with progress('measuring', len(sections)) as bar:
    return Report(build(of, how, sections, bar.update), of, how, provenance)


class _silent(contextlib.AbstractContextManager):  # noqa: N801
  def __init__(self, what: str, total: int):
    """As tqdm, and shows nothing."""

  def __exit__(self, *error: object) -> None:
    pass

  def update(self) -> None:
    pass


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
    return '' if math.isnan(value) else f'{value:.9g}'
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
