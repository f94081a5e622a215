"""The section on selective classification: which predictions to accept."""

import collections
from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from maxsup_jax.diagnostics import selective
from maxsup_jax.outputs import Outputs
from maxsup_jax.reports import _style, blocks, measured
from maxsup_jax.reports.measured import Measured, Options, describe

NAME, TITLE = 'selective', 'Selective classification'
# Coverages of the magnified corner, where label smoothing does its damage.
_INSET = 0.2
_AURC = {
  'paper': 'from risk 0 at coverage 0 (Xia et al.)',
  'torch_uncertainty': 'from coverage 1/N (torch-uncertainty)',
  'fd_shifts': 'extended flat to coverage 0 (fd-shifts)',
  'mean': 'mean risk over coverages (Geifman et al.)',
}


def section(models: list[Measured], options: Options) -> blocks.Section:
  """Builds the section."""
  curves = {m.name: m.ranking().curve() for m in models}
  data, first = describe(models), models[0].outputs
  scores = {m.name: _scores(m) for m in models}
  fits = {m.name: _fits(m, options) for m in models}
  conventions = {
    name: {c: selective.aurc(curve, convention=c) for c in _AURC}
    for name, curve in curves.items()
  }
  csv, norms = blocks.Curves(), blocks.Curves()
  for m in models:
    for score in selective.SCORES:
      curve = m.ranking(score).curve()
      names = ('coverage', 'risk', 'generalized_risk', 'threshold')
      columns = _style.thin(*(getattr(curve, n) for n in names), limit=4000)
      thinned = dict(zip(names, columns))
      csv.add(len(columns[0]), model=m.name, score=score, **thinned)
    for seed, fit in zip(options.seeds, fits[m.name]['pnorm']):
      aurc = {'aurc_held_out': fit['grid_aurc']}
      aurc['aurc_held_out_msp'] = fit['msp_aurc']
      p = fit['grid']
      norms.add(len(p), model=m.name, seed=seed, p=p, **aurc)
  shown: list[blocks.Block] = [
    blocks.Figure(
      'risk_coverage',
      _risk_coverage(models, curves),
      f'Risk-coverage curves. {data}. The error among the accepted predictions '
      'when the surest are accepted first, ranked by the maximum softmax '
      'probability (log-odds in float64), ties by expectation. Small panel: '
      f'coverages up to {_INSET:.0%}. The legend has error and AURC (trapezoid '
      'from risk 0 at coverage 0).',
    ),
    _score_table(scores, data),
  ]
  if any(f['pnorm'] for f in fits.values()):
    shown.append(
      blocks.Figure(
        'pnorm',
        _norms(models, fits),
        f'Choosing the norm. {data}. AURC of the centred MaxLogit-pNorm score '
        'less that of the maximum softmax probability on the same held-out '
        f'{measured.held_out(first, options)}, in percentage points; below 0 '
        f'the norm ranks better. Lines: median over {len(options.seeds)} '
        'split(s); bands: their range.',
      )
    )
  shown.append(_fit_table(fits, options, data, first))
  shown.append(_convention_table(conventions, data))
  numbers = {
    n: {'scores': scores[n], 'aurc_conventions': conventions[n], **fits[n]}
    for n in curves
  }
  tables = {'risk_coverage': csv.columns, 'pnorm': norms.columns}
  return blocks.Section(NAME, TITLE, shown, numbers, tables)


def _risk_coverage(models: list[Measured], curves: Mapping[str, Any]) -> Figure:
  names = blocks.short_names([m.name for m in models])
  with _style.style():
    figure, (ax,) = _style.panels(1, height=3.6)
    figure.set_size_inches(_style.WIDTH, 3.6)
    inset = ax.inset_axes((0.08, 0.5, 0.36, 0.46))
    highest = left = corner = 0.0
    for i, m in enumerate(models):
      curve = curves[m.name]
      coverage, risk = _style.thin(curve.coverage, curve.risk)
      label = (
        f'{names[m.name]} (error {blocks.percent(float(m.errors.mean()))}, '
        f'AURC {blocks.percent(selective.aurc(curve))})'
      )
      ax.plot(100 * coverage, 100 * risk, label=label, **_style.line(i))
      inset.plot(100 * coverage, 100 * risk, **_style.line(i))
      highest = max(highest, 100 * risk.max())
      left = max(left, 100 * risk[coverage <= 0.5].max(initial=0))
      corner = max(corner, 100 * risk[coverage <= _INSET].max(initial=0))
    # The small panel lies above the curves, in the upper left.
    highest = highest or 1.0
    ax.set(xlim=(0, 100), ylim=(0, max(1.06 * highest, left / 0.36)))
    inset.set(xlim=(0, 100 * _INSET), ylim=(0, 1.1 * corner or 0.1 * highest))
    inset.tick_params(labelsize=7)
    ax.set(xlabel='coverage (%)', ylabel='risk (%)')
    _style.legend(figure, *ax.get_legend_handles_labels())
  return figure


def _norms(models: list[Measured], fits: Mapping[str, Any]) -> Figure:
  names = blocks.short_names([m.name for m in models])
  with _style.style():
    figure, (ax,) = _style.panels(1, height=2.9)
    ax.xaxis.set_major_locator(
      MaxNLocator('auto', steps=[1, 2, 2.5, 5, 10], integer=True)
    )
    ax.axhline(0, color='#888888', linewidth=0.8)
    for i, m in enumerate(models):
      records = fits[m.name]['pnorm']
      if not records:
        continue
      curves = ((np.asarray(r['grid_aurc']), r['msp_aurc']) for r in records)
      gain = [100 * (aurc - msp) for aurc, msp in curves]
      grid, low, high = records[0]['grid'], np.min(gain, 0), np.max(gain, 0)
      look = {'marker': _style.marker(i), 'markersize': 3, **_style.line(i)}
      ax.plot(grid, np.median(gain, 0), label=names[m.name], **look)
      _style.band(ax, grid, low, high, _style.color(i), 0.13)
    ax.set(xlabel='p', ylabel='AURC less MSP (points)')
    _style.legend(figure, *ax.get_legend_handles_labels())
  return figure


def _scores(m: Measured) -> dict[str, dict[str, float]]:
  """All metrics of all scores."""
  records = {}
  for score in selective.SCORES:
    curve = m.ranking(score).curve()
    records[score] = {
      'aurc': selective.aurc(curve),
      'augrc': selective.augrc(curve),
      'augrc_torch_uncertainty': selective.augrc(
        curve, convention='torch_uncertainty'
      ),
      'e_aurc': selective.e_aurc(curve),
      'e_aurc_closed_form': selective.e_aurc(curve, reference='closed_form'),
      'naurc': selective.naurc(curve),
      'auroc_f': selective.auroc(curve),
    }
    for name, function, at in (
      ('coverage_at_risk', selective.coverage_at_risk, (0.01, 0.02, 0.05, 0.1)),
      ('risk_at_coverage', selective.risk_at_coverage, (0.5, 0.8, 0.9)),
      (
        'selective_accuracy_coverage',
        selective.selective_accuracy_coverage,
        (0.9, 0.95, 0.98),
      ),
    ):
      records[score] |= {f'{name}_{x:g}': function(curve, x) for x in at}
  return records


def _score_table(scores: Mapping[str, Any], data: str) -> blocks.Table:
  best = {n: _best([r['aurc'] for r in s.values()]) for n, s in scores.items()}
  rows: list[list[str | blocks.Cell]] = []
  for key, score in selective.SCORES.items():
    rows.append([score.title])
    for name, records in scores.items():
      aurc, auroc = records[key]['aurc'], records[key]['auroc_f']
      details = [f'AUROC {blocks.percent(auroc)}']
      best_of_all = aurc == best[name]
      cell = blocks.Cell(blocks.percent(aurc), details, best=best_of_all)
      rows[-1].append(cell)
  return blocks.Table(
    ['AURC by score', *scores],
    rows,
    f'{data}. How well each confidence score ranks the predictions, the best '
    'of each model underlined; all metrics of all scores are in results.json. '
    'Scores without a parameter only; the norms are below.',
  )


def _best(values: list[float]) -> float:
  defined = [v for v in values if not blocks.undefined(v)]
  return min(defined, default=float('nan'))


def _fits(m: Measured, options: Options) -> dict[str, list]:
  """What is chosen on the held-out part and measured on the others."""
  norms, thresholds = [], []
  logits, labels = m.outputs.logits, m.outputs.labels
  # The centred norm of two classes is constant, that of masked ones infinite.
  normed = m.outputs.num_classes > 2 and not np.isneginf(logits.min())
  msp, errors = m.scores['msp'], m.errors
  for fit, rest in measured.splits(len(labels), options, m.outputs.groups):
    if normed:
      chosen = selective.fit_pnorm(logits[fit], labels[fit])
      curve = selective.risk_coverage(chosen.score(logits[rest]), errors[rest])
      before = selective.risk_coverage(msp[rest], errors[rest])
      norms.append(
        {
          'p': chosen.p,
          'grid': [float(p) for p in chosen.grid],
          'grid_aurc': [float(a) for a in chosen.aurc],
          'msp_aurc': float(chosen.msp_aurc),
          'before': selective.aurc(before),
          'after': selective.aurc(curve),
        }
      )
    record = {}
    held_out = selective.risk_coverage(msp[fit], errors[fit])
    for name, find, target in (
      ('guaranteed_risk', selective.guaranteed_threshold, measured.RISK),
      ('risk', selective.threshold_for_risk, measured.RISK),
      ('coverage', selective.threshold_for_coverage, measured.COVERAGE),
    ):
      threshold = find(held_out, target)
      applied = selective.apply_threshold(threshold, msp[rest], errors[rest])
      record[name] = {
        'target': target,
        'threshold': float(threshold.value),
        'bound': float(threshold.bound),
        'coverage': float(applied.coverage),
        'risk': float(applied.risk),
      }
    thresholds.append(record)
  return {'pnorm': norms, 'thresholds': thresholds}


def _fit_table(
  fits: Mapping[str, Any], options: Options, data: str, first: Outputs
) -> blocks.Table:
  rows = []

  def add(title, value):
    """A row over the splits, of what `value` finds in the fits of a model."""
    rows.append([title])
    for fit in fits.values():
      defined = [x for x in value(fit) if not blocks.undefined(x)]
      rows[-1].append(
        blocks.median_and_range(defined, blocks.percent) if defined else '—'
      )

  if any(f['pnorm'] for f in fits.values()):
    chosen = (_chosen(f['pnorm']) or '—' for f in fits.values())
    rows.append(['chosen p', *chosen])
    add('AURC, MSP', lambda f: [r['before'] for r in f['pnorm']])
    add('AURC, chosen score', lambda f: [r['after'] for r in f['pnorm']])
  risk, coverage = f'{measured.RISK:.0%}', f'{measured.COVERAGE:.0%}'
  for name, title, key, other in (
    ('guaranteed_risk', f'{risk} risk, guaranteed', 'risk', 'coverage'),
    ('risk', f'{risk} risk, not guaranteed', 'risk', 'coverage'),
    ('coverage', f'{coverage} coverage', 'coverage', 'risk'),
  ):
    for row, k in (
      (f'{key} at the threshold for {title}', key),
      (f'its {other}', other),
    ):
      add(row, lambda f, k=k, n=name: [t[n][k] for t in f['thresholds']])
  return blocks.Table(
    ['chosen on held-out data', *fits],
    rows,
    f'{data}. The p of the centred MaxLogit-pNorm score and the thresholds are '
    f'chosen on {measured.held_out(first, options)} and applied to the others; '
    f'{measured.over_splits(options)}. Where no p beats it on the held-out '
    'part, the maximum softmax probability stays ("MSP"). Thresholds are on '
    'the maximum softmax probability; "—" where none reaches the target. '
    'Guaranteed: the risk on new examples is above the limit with a '
    'probability of at most 5% (SGR, Geifman and El-Yaniv, 2017)'
    + ('' if first.groups is None else ', if examples were independent')
    + '. Use that '
    'threshold; the other one has the limit on the held-out part only, and '
    'exceeds it elsewhere about every other time.',
  )


def _chosen(records: list[dict]) -> str:
  """What was chosen, and how often if not always."""
  counts = collections.Counter(
    'MSP' if r['p'] is None else f'{r["p"]:g}' for r in records
  )
  if len(counts) < 2:
    return ''.join(counts)
  return ', '.join(f'{p} ({n}×)' for p, n in counts.most_common())


def _convention_table(
  conventions: Mapping[str, Any], data: str
) -> blocks.Table:
  return blocks.table(
    'AURC by convention',
    conventions,
    {key: (title, blocks.percent) for key, title in _AURC.items()},
    f'{data}; maximum softmax probability. Four numbers go by the name of '
    'AURC; the first is the one of this report.',
  )
