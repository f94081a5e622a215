"""The section on examples of no class: which confidence tells them apart."""

from typing import Any

import numpy as np

from maxsup_jax.diagnostics import selective
from maxsup_jax.reports import blocks, measured
from maxsup_jax.reports.measured import Measured, Options, describe

NAME, TITLE = 'ood', 'Out-of-distribution examples'
_KEPT = 0.95


def section(models: list[Measured], options: Options) -> blocks.Section:
  """Builds the section from the models that have such outputs."""
  numbers = {m.name: _measure(m) for m in models if m.ood is not None}
  columns = {
    name: [numbers[m.name] for m in ms if m.name in numbers]
    for name, ms in measured.methods(models).items()
  }
  columns = {name: rs for name, rs in columns.items() if rs}
  if not columns:
    return blocks.Section(NAME, TITLE, [])
  rows: list[list[str | blocks.Cell]] = []
  for key, score in selective.SCORES.items():
    for what, title in (('auroc', 'AUROC'), ('fpr95', 'FPR95')):
      cells = (
        blocks.spread([r[key][what] for r in rs], blocks.percent)
        for rs in columns.values()
      )
      rows.append([f'{score.title}, {title}', *cells])
  others = [m.ood for m in models if m.ood is not None]
  counts = ' / '.join(dict.fromkeys(f'{o.num_examples:,}' for o in others))
  table = blocks.Table(
    'Telling examples of no class apart',
    ['', *columns],
    rows,
    f'{describe(models)}, against {counts} examples of '
    f'{", ".join(dict.fromkeys(o.path for o in others))}. AUROC: the '
    'probability that an example of the split is surer than one of the other '
    'file, ties counting half. FPR95: the share of the other file that is '
    f'accepted at the largest threshold that accepts {_KEPT:.0%} of the split; '
    'less is better. Intervals are not given, and differences not tested.',
  )
  return blocks.Section(NAME, TITLE, [table], numbers)


def _measure(m: Measured) -> dict[str, dict[str, Any]]:
  assert m.ood is not None
  outside = selective.scores(m.ood.logits, tuple(selective.SCORES))
  found: dict[str, dict[str, Any]] = {}
  for key, inside_N in m.scores.items():
    outside_M = outside[key]
    both = np.concatenate([inside_N, outside_M])
    foreign = np.arange(len(both)) >= len(inside_N)
    kept = selective.threshold_for_coverage(
      selective.risk_coverage(inside_N, np.zeros(len(inside_N), bool)), _KEPT
    )
    found[key] = {
      'auroc': selective.auroc(selective.risk_coverage(both, foreign)),
      'fpr95': selective.apply_threshold(kept, outside_M).coverage,
    }
  return found
