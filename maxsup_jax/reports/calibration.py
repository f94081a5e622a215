"""The section on calibration: diagrams, errors, temperature scaling."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from maxsup_jax.diagnostics import calibration, smooth_calibration
from maxsup_jax.reports import _style, blocks, measured
from maxsup_jax.reports.measured import Measured, Options, describe

NAME, TITLE = 'calibration', 'Calibration'


def section(models: list[Measured], options: Options) -> blocks.Section:
  """Builds the section."""
  columns = measured.methods(models)
  curves = {m.name: _curve(m.examples, options) for m in models}
  csv = blocks.Curves()
  for name, curve in curves.items():
    shown = {n: getattr(curve, n) for n in ('count', 'accuracy', 'confidence')}
    shown['low'], shown['high'] = _interval(curve, options.level)
    start, end = curve.edges[:-1], curve.edges[1:]
    csv.add(len(curve.count), model=name, start=start, end=end, **shown)
  errors = {m.name: _errors(m, curves[m.name], options) for m in models}
  scaled = {m.name: _scaled(m, options) for m in models}
  data = describe(models)
  of_bins = (
    f'bars around the points are {100 * options.level:g}% Clopper-Pearson '
    'intervals of the accuracy in the bin'
  )
  if models[0].outputs.groups is not None:
    of_bins += ', as if examples were independent'
  if len(columns) < len(models):
    of_bins += (
      '; of several seeds, the line is their mean, the band their range'
    )
  return blocks.Section(
    NAME,
    TITLE,
    [
      blocks.Figure(
        'reliability',
        'Reliability: accuracy at a confidence',
        _diagrams(columns, curves, options),
        _seen(columns, errors),
        f'{data}. Accuracy against mean confidence of {options.bins} bins of '
        'equal width, closed on the right; a bin with no example has no point. '
        f'Points below the diagonal are overconfident; {of_bins}. At the foot: '
        'the share of the examples in each bin, on the same axis, and their '
        'number.',
      ),
      _error_table(columns, errors, options, data),
      _temperature_table(columns, scaled, options, data),
    ],
    {
      m.name: {**errors[m.name], 'temperature_scaling': scaled[m.name]}
      for m in models
    },
    {'reliability': csv.columns},
  )


def _interval(curve: Any, level: float) -> np.ndarray:
  """The ends of the accuracy of each bin, `[2, M]`."""
  right = np.rint(np.nan_to_num(curve.accuracy) * curve.count)
  return measured.clopper_pearson(right, curve.count, level)


def _diagrams(
  columns: Mapping[str, list[Measured]],
  curves: Mapping[str, Any],
  options: Options,
) -> Figure:
  names = blocks.short_names(list(columns))
  bars: dict[str, Any] = {
    'color': _style.BAR,
    'edgecolor': _style.BACK,
    'linewidth': 0.4,
  }
  with _style.style():
    figure, axes = _style.panels(
      len(columns),
      height=2.9 if len(columns) <= 6 else 2.5,
      sharex=True,
      sharey=True,
    )
    for i, ((method, models), ax) in enumerate(zip(columns.items(), axes)):
      of = [curves[m.name] for m in models]
      edges, count = of[0].edges, np.mean([c.count for c in of], 0)
      shares, widths = count / count.sum(), np.diff(edges)
      ax.plot([0, 1], [0, 1], color=_style.QUIET, linewidth=0.8)
      ax.bar(edges[:-1], shares, widths, align='edge', **bars)
      if options.bins <= 20:
        for x, share, n in zip((edges[:-1] + edges[1:]) / 2, shares, count):
          text = f'{n:.0f}' if n < 1e4 else f'{n / 1e3:.0f}k'
          text = text if n else ''
          at: dict[str, Any] = {'ha': 'center', 'va': 'bottom', 'rotation': 90}
          ax.text(x, share + 0.015, text, fontsize=5, **at)
      there = np.all([c.count > 0 for c in of], 0)
      x = np.mean([c.confidence for c in of], 0)[there]
      y = [c.accuracy[there] for c in of]
      look = {'marker': 'o', 'markersize': 3, 'linestyle': '-'}
      _style.seeds(ax, x, y, i, **look)
      if len(of) == 1:
        low, high = _interval(of[0], options.level)[:, there]
        ax.vlines(x, low, high, color=_style.color(i), linewidth=0.8)
      ax.set(xlim=(0, 1), ylim=(0, 1.02))
      ax.set_box_aspect(1)
      ece = np.mean([calibration.calibration_error(c) for c in of])
      ax.set_title(f'{names[method]}\nECE {blocks.percent(float(ece))}')
    figure.supxlabel('confidence', fontsize=9)
    figure.supylabel('accuracy', fontsize=9)
  return figure


def _seen(columns: Mapping[str, list[Measured]], errors: Mapping) -> str:
  """The diagrams in words."""
  told = []
  for method, models in columns.items():
    confidence, accuracy = (
      float(np.mean([errors[m.name][key] for m in models]))
      for key in ('mean_confidence', 'accuracy')
    )
    over = 'over' if confidence > accuracy else 'under'
    told.append(
      f'{method} is {blocks.percent(confidence)} confident and '
      f'{blocks.percent(accuracy)} right, {over}confident on the whole'
    )
  return f'Reliability diagrams, a panel for each: {"; ".join(told)}.'


def _errors(m: Measured, curve: Any, options: Options) -> dict[str, Any]:
  per, bins = m.examples, options.bins
  mass = _curve(per, options, binning='equal_mass')
  groups = m.outputs.groups
  few = groups is not None and len(np.unique(groups)) < measured.ENOUGH_GROUPS
  smooth = smooth_calibration.smooth_ece(
    per.confidence,
    per.correct,
    level=options.level,
    draws=0 if few else min(options.resamples, 200),
    seed=options.seeds[0],
    groups=groups,
  )
  return {
    'accuracy': float(per.correct.mean()),
    'mean_confidence': float(per.confidence.mean()),
    'ece': calibration.calibration_error(curve),
    'ece_equal_mass': calibration.calibration_error(mass),
    'smooth_ece': {'value': smooth.value, 'interval': smooth.interval},
    'classwise_ece': calibration.classwise_calibration_error(
      m.outputs.logits, m.outputs.labels, bins=options.bins
    ),
    'mce': calibration.calibration_error(curve, norm='max'),
    'rms_calibration_error': calibration.calibration_error(curve, norm='l2'),
    'brier': float(per.brier.mean()),
    'nll': float(per.nll.mean()),
    'calibrated_range': {
      'classwise_ece': calibration.classwise_calibrated_range(
        m.outputs.logits, bins=bins, draws=_draws(m.outputs.num_examples)
      )
    }
    | {
      key: calibration.calibrated_range(per.confidence, bins=bins, **how)
      for key, how in _RANGES.items()
    },
  }


def _draws(n: int) -> int:
  """Of all labels: fewer where each is a mean over more examples."""
  return int(np.clip(2_000_000 / n, 40, 200))


def _with_interval(error: tuple[float, float, float]) -> blocks.Cell:
  value, low, high = error
  within = f'[{blocks.percent(low)}, {blocks.percent(high)}]'
  there = not blocks.undefined(low)
  return blocks.Cell(blocks.percent(value), [within] if there else [])


# Held-out examples for each class: with fewer, so many numbers fit chance.
_PER_CLASS = 20
_RANGES: dict[str, dict[str, Any]] = {
  'ece': {},
  'ece_equal_mass': {'binning': 'equal_mass'},
  'mce': {'norm': 'max'},
  'rms_calibration_error': {'norm': 'l2'},
}
_TITLES: dict[str, Any] = {
  'accuracy': ('accuracy', blocks.percent),
  'mean_confidence': ('mean confidence', blocks.percent),
  'smooth_ece': ('smooth ECE', _with_interval),
  'ece': ('ECE, equal width', blocks.beside_calibrated),
  'ece_equal_mass': ('ECE, equal mass', blocks.beside_calibrated),
  'classwise_ece': ('classwise ECE', blocks.beside_calibrated),
  'rms_calibration_error': ('RMS calibration error', blocks.beside_calibrated),
  'mce': ('MCE', blocks.beside_calibrated),
  'brier': 'Brier score',
  'nll': 'NLL',
}


def _error_table(
  columns: Mapping[str, list[Measured]],
  errors: Mapping[str, Any],
  options: Options,
  data: str,
) -> blocks.Table:
  shown = {
    name: e
    | {k: (e[k], *r) for k, r in e['calibrated_range'].items()}
    | {'smooth_ece': (e['smooth_ece']['value'], *e['smooth_ece']['interval'])}
    for name, e in errors.items()
  }
  return blocks.table(
    'Calibration errors',
    {n: [shown[m.name] for m in ms] for n, ms in columns.items()},
    _TITLES,
    f'{data}; {options.bins} bins. Below each error: what a perfectly '
    'calibrated classifier with these confidences gives for as many examples, '
    'from the 5% to the 95% quantile, as labels are drawn from its '
    'probabilities. An error within is no evidence of miscalibration. The MCE '
    'is the error of the worst bin, however few examples '
    'it holds. Classwise: the mean over the classes, each with the probability '
    'of that class. Smooth ECE: residuals smoothed by a Gaussian as wide as '
    'the error itself (Błasiok and Nakkiran, 2024); in brackets, an interval '
    f'that has the truth in {100 * options.level:g}% of cases or more, from '
    'resamples.',
  )


def _scaled(m: Measured, options: Options) -> dict[str, list[dict]]:
  """Temperatures fitted on the held-out part, measured on the other one."""
  logits, labels = m.outputs.logits, m.outputs.labels
  results: dict[str, list[dict]] = {'nll': [], 'ece': []}
  K, vectors = m.outputs.num_classes, list[dict]()
  parts = measured.splits(len(labels), options, m.outputs.groups)
  for seed, (fit, rest) in zip(options.seeds, parts):
    before = _of_part(m.examples, rest, options)
    if len(fit) >= _PER_CLASS * K and not np.isneginf(logits.min()):
      of = calibration.fit_vector_scaling(logits[fit], labels[fit])
      examples = calibration.per_example(of.scaled(logits[rest]), labels[rest])
      after = _of_part(examples, slice(None), options)
      vectors.append({'before': before, 'after': after})
    for objective, records in results.items():
      fitted = m.temperature(fit, seed, objective, options.bins)
      examples = calibration.per_example(
        logits[rest], labels[rest], temperature=fitted.temperature
      )
      records.append(
        {
          'temperature': fitted.temperature,
          'bound': fitted.bound,
          'before': before,
          'after': _of_part(examples, slice(None), options),
        }
      )
  return results | ({'vector': vectors} if vectors else {})


def _of_part(
  per: calibration.PerExample, part: Any, options: Options
) -> dict[str, float]:
  return {
    'ece': calibration.calibration_error(_curve(per, options, part)),
    'nll': float(per.nll[part].mean()),
    'brier': float(per.brier[part].mean()),
  }


def _curve(
  per: calibration.PerExample,
  options: Options,
  part: Any = slice(None),
  **binning: Any,
) -> calibration.ReliabilityCurve:
  return calibration.reliability_curve(
    per.confidence[part], per.correct[part], bins=options.bins, **binning
  )


def _temperature_table(
  columns: Mapping[str, list[Measured]],
  scaled: Mapping[str, Any],
  options: Options,
  data: str,
) -> blocks.Table:
  fits = {'nll': 'NLL', 'ece': 'ECE'}
  rows: list[list[str | blocks.Cell]] = []

  def add(title, objective, value, form):
    records = (
      [scaled[m.name][objective] for m in ms] for ms in columns.values()
    )
    cells = (
      blocks.over_splits([[value(r) for r in of] for of in each], form)
      for each in records
    )
    rows.append([title, *cells])

  for objective, title in fits.items():
    add(
      f'T of least {title}',
      objective,
      lambda r: r['temperature'],
      blocks.number,
    )
  for metric, name, form in (
    ('ece', 'ECE', blocks.percent),
    ('nll', 'NLL', blocks.number),
  ):
    add(f'{name} before', 'nll', lambda r, k=metric: r['before'][k], form)
    for objective, title in fits.items():
      add(
        f'{name} with T of least {title}',
        objective,
        lambda r, k=metric: r['after'][k],
        form,
      )
    if all('vector' in s for s in scaled.values()):
      add(
        f'{name} with vector scaling',
        'vector',
        lambda r, k=metric: r['after'][k],
        form,
      )
  models = [m for ms in columns.values() for m in ms]
  bound = sum(
    r['bound'] is not None for m in models for r in scaled[m.name]['nll']
  )
  at_bound = f' It is so in {bound} fits here.' if bound else ''
  return blocks.Table(
    'Temperature and vector scaling',
    ['', *columns],
    rows,
    f'{data}. T is fitted on {measured.held_out(models[0].outputs, options)} '
    f'(at most {measured.MOST_FITTED:,} of them) '
    f'and everything is reported on the others; '
    f'{measured.over_splits(options)}. Logits are divided by T: T above 1 '
    'cools an overconfident model. The T of least NLL is at its bound where '
    'all held-out predictions are right, 0.01, or where the logits say nothing '
    f'of the labels, 100.{at_bound} That of least ECE is searched on a grid. '
    'Vector scaling has a factor and a shift for each class, of least NLL; it '
    f'may change predictions, and is fitted from {_PER_CLASS} held-out '
    'examples for each class on.',
  )
