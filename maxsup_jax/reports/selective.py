"""The section on selective classification: which predictions to accept."""

import collections
from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from maxsup_jax.diagnostics import selective
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
  data, columns = describe(models), measured.methods(models)
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
      limit = len(curve) if options.full_curves else 400
      thinned = _style.thin(*(getattr(curve, n) for n in names), limit=limit)
      columns_ = dict(zip(names, thinned))
      csv.add(len(thinned[0]), model=m.name, score=score, **columns_)
    for seed, fit in zip(options.seeds, fits[m.name]['pnorm']):
      aurc = {'aurc_held_out': fit['grid_aurc']}
      aurc['aurc_held_out_msp'] = fit['msp_aurc']
      p = fit['grid']
      norms.add(len(p), model=m.name, seed=seed, p=p, **aurc)
  shown: list[blocks.Block] = [
    blocks.Figure(
      'risk_coverage',
      'The error among accepted predictions',
      _risk_coverage(columns, curves),
      _seen(columns, curves),
      f'{data}. Risk-coverage curves: the error among the accepted predictions '
      'when the surest are accepted first, ranked by the maximum softmax '
      'probability (log-odds in float64), ties by expectation. Small panel: '
      f'coverages up to {_INSET:.0%}. The legend has error and AURC (trapezoid '
      'from risk 0 at coverage 0). Lines of several seeds are their mean, '
      'bands reach from the least to the largest.',
    ),
    _score_table(columns, scores, data),
  ]
  if any(f['pnorm'] for f in fits.values()):
    shown.append(
      blocks.Figure(
        'pnorm',
        'Choosing the norm of the logits',
        _norms(columns, fits),
        _seen_norms(columns, fits),
        f'{data}. AURC of the centred MaxLogit-pNorm score '
        'less that of the maximum softmax probability on the same held-out '
        f'{measured.held_out(models[0].outputs, options)}, in percentage '
        'points; below 0 '
        f'the norm ranks better. Lines: median over {len(options.seeds)} '
        'split(s), and the seeds of a method; bands: their range.',
      )
    )
  shown.append(_fit_table(columns, fits, options, data))
  shown.append(_convention_table(columns, conventions, data))
  numbers = {
    n: {'scores': scores[n], 'aurc_conventions': conventions[n], **fits[n]}
    for n in curves
  }
  tables = {'risk_coverage': csv.columns, 'pnorm': norms.columns}
  return blocks.Section(NAME, TITLE, shown, numbers, tables)


def _risk_coverage(
  columns: Mapping[str, list[Measured]], curves: Mapping[str, Any]
) -> Figure:
  names = blocks.short_names(list(columns))
  with _style.style():
    figure, (ax,) = _style.panels(1, height=3.6)
    figure.set_size_inches(_style.WIDTH, 3.6)
    inset = ax.inset_axes((0.08, 0.5, 0.36, 0.46))
    highest = left = corner = 0.0
    for i, (method, models) in enumerate(columns.items()):
      of = [curves[m.name] for m in models]
      coverage, *risks = _on_one_grid(of)
      label = (
        f'{names[method]} (error {blocks.percent(_error(models))}, '
        f'AURC {blocks.percent(_aurc(of))})'
      )
      for panel in (ax, inset):
        _style.seeds(
          panel, 100 * coverage, 100 * np.array(risks), i, label=label
        )
      # A single wrong prediction among the surest would flatten all the rest.
      several = coverage >= min(_INSET / 10, coverage[-1])
      worst, coverage = 100 * np.max(risks, 0)[several], coverage[several]
      highest = max(highest, worst.max())
      left = max(left, worst[coverage <= 0.5].max(initial=0))
      corner = max(corner, worst[coverage <= _INSET].max(initial=0))
    # The small panel lies above the curves, in the upper left.
    highest = highest or 1.0
    ax.set(xlim=(0, 100), ylim=(0, max(1.06 * highest, left / 0.36)))
    inset.set(xlim=(0, 100 * _INSET), ylim=(0, 1.1 * corner or 0.1 * highest))
    inset.tick_params(labelsize=7)
    ax.set(xlabel='coverage (%)', ylabel='risk (%)')
    _style.legend(figure, *ax.get_legend_handles_labels())
  return figure


def _on_one_grid(curves: list[selective.RiskCoverage]) -> list[np.ndarray]:
  """Coverages that can be told apart, and each curve's risk there."""
  coverage, risk = _style.thin(curves[0].coverage, curves[0].risk, limit=600)
  others = (np.interp(coverage, c.coverage, c.risk) for c in curves[1:])
  return [coverage, risk, *others]


def _error(models: list[Measured]) -> float:
  return float(np.mean([m.errors.mean() for m in models]))


def _aurc(curves: list[selective.RiskCoverage]) -> float:
  return float(np.mean([selective.aurc(c) for c in curves]))


def _seen(
  columns: Mapping[str, list[Measured]], curves: Mapping[str, Any]
) -> str:
  """The curves in words."""
  told = []
  for method, models in columns.items():
    few, all_ = (
      float(np.mean([at(curves[m.name]) for m in models]))
      for at in (
        lambda c: selective.risk_at_coverage(c, _INSET),
        lambda c: c.error_rate,
      )
    )
    told.append(
      f'{method}: from {blocks.percent(few)} at coverage {_INSET:.0%} to '
      f'{blocks.percent(all_)} at 100%'
    )
  return f'Lines of the risk against the coverage. {"; ".join(told)}.'


def _gains(models: list[Measured], fits: Mapping[str, Any]) -> list[np.ndarray]:
  """AURC less that of the MSP by p in points, of each split and seed."""
  records = [r for m in models for r in fits[m.name]['pnorm']]
  return [100 * (np.asarray(r['grid_aurc']) - r['msp_aurc']) for r in records]


def _norms(
  columns: Mapping[str, list[Measured]], fits: Mapping[str, Any]
) -> Figure:
  names = blocks.short_names(list(columns))
  with _style.style():
    figure, (ax,) = _style.panels(1, height=2.9)
    ax.xaxis.set_major_locator(
      MaxNLocator('auto', steps=[1, 2, 2.5, 5, 10], integer=True)
    )
    ax.axhline(0, color=_style.QUIET, linewidth=0.8)
    for i, (method, models) in enumerate(columns.items()):
      gain = _gains(models, fits)
      if gain:
        of = next(f for m in models if (f := fits[m.name]['pnorm']))
        grid = of[0]['grid']
        line = np.median(gain, 0)
        ax.plot(grid, line, label=names[method], **_style.line(i))
        low, high = np.min(gain, 0), np.max(gain, 0)
        _style.band(ax, grid, low, high, _style.color(i), 0.13)
    ax.set(xlabel='p', ylabel='AURC less MSP (points)')
    _style.legend(figure, *ax.get_legend_handles_labels())
  return figure


def _seen_norms(
  columns: Mapping[str, list[Measured]], fits: Mapping[str, Any]
) -> str:
  """The lines in words."""
  told = []
  for method, models in columns.items():
    if gain := _gains(models, fits):
      least = float(np.median(gain, 0).min())
      told.append(f'{method} reaches {blocks.number(least, 2)} points')
  return f'Lines of the gain in AURC against p. At best, {"; ".join(told)}.'


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


def _score_table(
  columns: Mapping[str, list[Measured]], scores: Mapping[str, Any], data: str
) -> blocks.Table:
  def mean(method, key, what):
    return [scores[m.name][key][what] for m in columns[method]]

  best = {
    n: _best([float(np.mean(mean(n, key, 'aurc'))) for key in selective.SCORES])
    for n in columns
  }
  rows: list[list[str | blocks.Cell]] = []
  for key, score in selective.SCORES.items():
    rows.append([score.title])
    for name in columns:
      aurc = mean(name, key, 'aurc')
      cell = blocks.spread(aurc, blocks.percent)
      cell = blocks.Cell(cell) if isinstance(cell, str) else cell
      auroc = blocks.percent(float(np.mean(mean(name, key, 'auroc_f'))))
      rows[-1].append(
        blocks.Cell(
          cell.value,
          [*cell.details, f'AUROC {auroc}'],
          best=float(np.mean(aurc)) == best[name],
        )
      )
  return blocks.Table(
    'AURC by confidence score',
    ['', *columns],
    rows,
    f'{data}. How well each confidence score ranks the predictions, the best '
    'of each model underlined; AUROC is that of correct above wrong ones. All '
    'metrics of all scores are in results.json. '
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
  columns: Mapping[str, list[Measured]],
  fits: Mapping[str, Any],
  options: Options,
  data: str,
) -> blocks.Table:
  rows: list[list[str | blocks.Cell]] = []
  first = next(iter(columns.values()))[0].outputs

  def add(title, value):
    """A row over the splits, of what `value` finds in the fits of a model."""
    cells = (
      blocks.over_splits([value(fits[m.name]) for m in ms], blocks.percent)
      for ms in columns.values()
    )
    rows.append([title, *cells])

  if any(f['pnorm'] for f in fits.values()):
    chosen = (
      _chosen([r for m in ms for r in fits[m.name]['pnorm']]) or '—'
      for ms in columns.values()
    )
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
    'Operating points chosen on held-out data',
    ['', *columns],
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
  columns: Mapping[str, list[Measured]],
  conventions: Mapping[str, Any],
  data: str,
) -> blocks.Table:
  return blocks.table(
    'AURC by convention',
    {n: [conventions[m.name] for m in ms] for n, ms in columns.items()},
    {key: (title, blocks.percent) for key, title in _AURC.items()},
    f'{data}; maximum softmax probability. Four numbers go by the name of '
    'AURC; the first is the one of this report.',
  )
