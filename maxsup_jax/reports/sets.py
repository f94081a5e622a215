"""The section on sets of classes: how large they must be to hold the label."""

from typing import Any

import numpy as np

from maxsup_jax.diagnostics import conformal
from maxsup_jax.reports import blocks, measured
from maxsup_jax.reports.measured import Measured, Options, describe

NAME, TITLE = 'sets', 'Conformal sets'
_COVERAGES = (0.9, 0.95, 0.99)
_TITLES = {'lac': 'LAC', 'aps': 'APS', 'raps': 'RAPS'}
# Numbers are scored: what takes longer is thinned.
_MOST = 2_000_000


def section(models: list[Measured], options: Options) -> blocks.Section:
  """Builds the section."""
  numbers = {m.name: _measure(m, options) for m in models}
  columns = measured.methods(models)
  rows: list[list[str | blocks.Cell]] = []

  def add(title, method, key, what, form):
    cells = (
      blocks.over_splits(
        [[r[what] for r in numbers[m.name][method][key]] for m in ms], form
      )
      for ms in columns.values()
    )
    rows.append([title, *cells])

  for coverage in _COVERAGES:
    for method, title in _TITLES.items():
      key = f'{coverage:g}'
      name = f'{title} at {coverage:.0%}'
      add(f'{name}: mean size', method, key, 'size', blocks.number)
      add(f'{name}: coverage', method, key, 'coverage', blocks.percent)
  first = models[0].outputs
  table = blocks.Table(
    'Sizes of sets that hold the label',
    ['', *columns],
    rows,
    f'{describe(models)}. Split conformal prediction: thresholds from '
    f'{measured.held_out(first, options)}, sizes and coverages of the others, '
    f'at most {_most(first.num_classes):,} of each; '
    f'{measured.over_splits(options)}. '
    'A set holds the label at least as often as it says, on average over '
    'splits'
    + ('' if first.groups is None else ', if examples were independent')
    + '; smaller ones are better. LAC: least ambiguous sets, 1 − p; APS: '
    'adaptive ones, randomized; RAPS: with a penalty of 0.01 for every class '
    'beyond five. Sets may be empty.',
  )
  return blocks.Section(NAME, TITLE, [table], numbers)


def _most(K: int) -> int:
  return int(np.clip(_MOST / K, 2000, measured.MOST_FITTED))


def _measure(m: Measured, options: Options) -> dict[str, dict[str, list]]:
  """By method and coverage: a record of each split."""
  logits, labels = m.outputs.logits, m.outputs.labels
  most = _most(m.outputs.num_classes)
  found: dict[str, dict[str, list[dict[str, Any]]]] = {
    method: {f'{c:g}': [] for c in _COVERAGES} for method in _TITLES
  }
  splits = measured.splits(len(labels), options, m.outputs.groups)
  for seed, parts in zip(options.seeds, splits):
    fit, rest = (part[:: -(-len(part) // most)] for part in parts)
    rows, n = np.concatenate([fit, rest]), len(fit)
    for method, of in found.items():
      scores = conformal.class_scores(logits[rows], method, seed=seed)
      true = scores[np.arange(len(rows)), labels[rows]]
      for coverage in _COVERAGES:
        limit = conformal.threshold(true[:n], coverage)
        of[f'{coverage:g}'].append(
          {
            'threshold': limit,
            'size': float((scores[n:] <= limit).sum(1).mean()),
            'coverage': float((true[n:] <= limit).mean()),
          }
        )
  return found
