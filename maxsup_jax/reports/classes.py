"""The section on single classes: the worst ones first."""

from typing import Any

import numpy as np

from maxsup_jax.diagnostics import calibration
from maxsup_jax.reports import blocks, measured
from maxsup_jax.reports.measured import Measured, Options, describe

NAME, TITLE = 'classes', 'Single classes'
# More than a reader looks at; all are in the CSV file.
_SHOWN = 20


def section(models: list[Measured], options: Options) -> blocks.Section:
  """Builds the section."""
  csv, found = blocks.Curves(), {}
  first = models[0].outputs
  K = first.num_classes
  names = [first.class_name(k) for k in range(K)]
  for m in models:
    columns = found[m.name] = _measure(m, options)
    csv.add(K, model=m.name, label=names, **columns)
  accuracy = np.array([f['accuracy'] for f in found.values()])
  there = np.flatnonzero(np.isfinite(accuracy).all(0))
  order = there[np.argsort(accuracy[:, there].mean(0), kind='stable')]
  rows: list[list[str | blocks.Cell]] = []
  for k in map(int, order[:_SHOWN]):
    row: list[str | blocks.Cell] = [names[k]]
    for ms in measured.methods(models).values():
      of = [found[m.name] for m in ms]
      cell = blocks.spread(
        [float(f['accuracy'][k]) for f in of], blocks.percent
      )
      cell = cell if isinstance(cell, blocks.Cell) else blocks.Cell(cell)
      details = [*cell.details]
      if len(of) == 1:
        ends = (blocks.percent(float(of[0][e][k])) for e in ('low', 'high'))
        details.append(f'[{", ".join(ends)}]')
      error = float(np.mean([f['calibration_error'][k] for f in of]))
      count = int(of[0]['count'][k])
      details.append(f'ECE {blocks.percent(error)}, {count:,} examples')
      row.append(blocks.Cell(cell.value, details))
    rows.append(row)
  if not rows:
    return blocks.Section(NAME, TITLE, [], {}, {'classes': csv.columns})
  more = f' of {len(order):,}' if len(order) > _SHOWN else ''
  table = blocks.Table(
    f'The {len(rows)}{more} classes with the lowest accuracy',
    ['class', *measured.methods(models)],
    rows,
    f'{describe(models)}. Accuracy: the share of the examples with the label '
    'that are predicted so, averaged over the models for the order; in '
    f'brackets, {100 * options.level:g}% Clopper-Pearson intervals, each for '
    'itself: among many classes some are low by chance, and the worst most of '
    'all. ECE: the calibration error of the probability of the class over all '
    f'examples, {options.bins} bins of equal width; the mean over classes is '
    'the classwise ECE. Headings sort; all classes are in classes.csv.',
    sortable=True,
  )
  numbers = {
    name: {what: values.tolist() for what, values in columns.items()}
    for name, columns in found.items()
  }
  return blocks.Section(NAME, TITLE, [table], numbers, {'classes': csv.columns})


def _measure(m: Measured, options: Options) -> dict[str, Any]:
  """For each class: count, accuracy and its interval, calibration error."""
  labels, K = m.outputs.labels, m.outputs.num_classes
  count = np.bincount(labels, minlength=K)
  right = np.bincount(labels[m.examples.correct], minlength=K)
  low, high = measured.clopper_pearson(right, count, options.level)
  share = np.divide(right, count, out=np.full(K, np.nan), where=count > 0)
  errors = calibration.class_calibration_errors(
    m.outputs.logits, labels, bins=options.bins
  )
  return {
    'count': count,
    'accuracy': share,
    'low': low,
    'high': high,
    'calibration_error': errors,
  }
