"""The section on calibration: diagrams, errors, temperature scaling."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from maxsup_jax.diagnostics import calibration
from maxsup_jax.outputs import Outputs
from maxsup_jax.reports import _style, blocks, measured
from maxsup_jax.reports.measured import Measured, Options, describe

NAME, TITLE = 'calibration', 'Calibration'


def section(models: list[Measured], options: Options) -> blocks.Section:
  """Builds the section."""
  curves = {m.name: _curve(m.examples, options) for m in models}
  csv = blocks.Curves()
  for name, curve in curves.items():
    shown = {n: getattr(curve, n) for n in ('count', 'accuracy', 'confidence')}
    low, high = curve.edges[:-1], curve.edges[1:]
    csv.add(len(curve.count), model=name, low=low, high=high, **shown)
  errors = {m.name: _errors(m, curves[m.name], options) for m in models}
  scaled = {m.name: _scaled(m, options) for m in models}
  data = describe(models)
  return blocks.Section(
    NAME,
    TITLE,
    [
      blocks.Figure(
        'reliability',
        _diagrams(models, curves),
        f'Reliability diagrams. {data}. Accuracy against mean confidence of '
        f'{options.bins} bins of equal width, closed on the right; a bin with '
        'no example has no point. Points below the diagonal are overconfident. '
        'Bars: the share of the examples in each bin, on the same axis.',
      ),
      _error_table(errors, options, data),
      _temperature_table(scaled, options, data, models[0].outputs),
    ],
    {
      m.name: {**errors[m.name], 'temperature_scaling': scaled[m.name]}
      for m in models
    },
    {'reliability': csv.columns},
  )


def _diagrams(models: list[Measured], curves: Mapping[str, Any]) -> Figure:
  names = blocks.short_names([m.name for m in models])
  bars: dict[str, Any] = {
    'color': '#cccccc',
    'edgecolor': 'white',
    'linewidth': 0.4,
  }
  with _style.style():
    figure, axes = _style.panels(
      len(models), height=3.0, sharex=True, sharey=True
    )
    for i, (m, ax) in enumerate(zip(models, axes)):
      curve = curves[m.name]
      shares, widths = curve.count / curve.count.sum(), np.diff(curve.edges)
      there = curve.count > 0
      points = curve.confidence[there], curve.accuracy[there]
      ax.plot([0, 1], [0, 1], color='#888888', linewidth=0.8)
      ax.bar(curve.edges[:-1], shares, widths, align='edge', **bars)
      ax.plot(*points, color=_style.color(i), marker='o', markersize=3.5)
      ax.set(xlim=(0, 1), ylim=(0, 1.02))
      ax.set_box_aspect(1)
      ece = calibration.calibration_error(curve)
      ax.set_title(f'{names[m.name]}\nECE {blocks.percent(ece)}')
    figure.supxlabel('confidence', fontsize=9)
    axes[0].set_ylabel('accuracy')
  return figure


def _errors(m: Measured, curve: Any, options: Options) -> dict[str, Any]:
  per, bins = m.examples, options.bins
  mass = _curve(per, options, binning='equal_mass')
  return {
    'accuracy': float(per.correct.mean()),
    'mean_confidence': float(per.confidence.mean()),
    'ece': calibration.calibration_error(curve),
    'ece_equal_mass': calibration.calibration_error(mass),
    'classwise_ece': calibration.classwise_calibration_error(
      m.outputs.logits, m.outputs.labels, bins=options.bins
    ),
    'mce': calibration.calibration_error(curve, norm='max'),
    'rms_calibration_error': calibration.calibration_error(curve, norm='l2'),
    'brier': float(per.brier.mean()),
    'nll': float(per.nll.mean()),
    'calibrated_range': {
      'classwise_ece': calibration.classwise_calibrated_range(
        m.outputs.logits, bins=bins
      )
    }
    | {
      key: calibration.calibrated_range(per.confidence, bins=bins, **how)
      for key, how in _RANGES.items()
    },
  }


_RANGES: dict[str, dict[str, Any]] = {
  'ece': {},
  'ece_equal_mass': {'binning': 'equal_mass'},
  'mce': {'norm': 'max'},
  'rms_calibration_error': {'norm': 'l2'},
}
_TITLES: dict[str, Any] = {
  'accuracy': ('accuracy', blocks.percent),
  'mean_confidence': ('mean confidence', blocks.percent),
  'ece': ('ECE, equal width', blocks.beside_calibrated),
  'ece_equal_mass': ('ECE, equal mass', blocks.beside_calibrated),
  'classwise_ece': ('classwise ECE', blocks.beside_calibrated),
  'rms_calibration_error': ('RMS calibration error', blocks.beside_calibrated),
  'mce': ('MCE', blocks.beside_calibrated),
  'brier': 'Brier score',
  'nll': 'NLL',
}


def _error_table(
  errors: Mapping[str, Any], options: Options, data: str
) -> blocks.Table:
  shown = {
    name: e | {k: (e[k], r) for k, r in e['calibrated_range'].items()}
    for name, e in errors.items()
  }
  return blocks.table(
    '',
    shown,
    _TITLES,
    f'{data}; {options.bins} bins. Below each error: what a perfectly '
    'calibrated classifier with these confidences gives for as many examples, '
    'from the 5% to the 95% quantile, as labels are drawn from its '
    'probabilities. An error within is no evidence of miscalibration. The MCE '
    'is the error of the worst bin, however few examples '
    'it holds. Classwise: the mean over the classes, each with the probability '
    'of that class.',
  )


def _scaled(m: Measured, options: Options) -> dict[str, list[dict]]:
  """Temperatures fitted on the held-out part, measured on the other one."""
  logits, labels = m.outputs.logits, m.outputs.labels
  results: dict[str, list[dict]] = {'nll': [], 'ece': []}
  for fit, rest in measured.splits(len(labels), options, m.outputs.groups):
    before = _of_part(m.examples, rest, options)
    for objective, records in results.items():
      fitted = calibration.fit_temperature(
        logits[fit], labels[fit], objective=objective, bins=options.bins
      )
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
  return results


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
  scaled: Mapping[str, Any], options: Options, data: str, first: Outputs
) -> blocks.Table:
  rows: list[list[str | blocks.Cell]] = []
  for objective, title in (('nll', 'NLL'), ('ece', 'ECE')):
    records = [s[objective] for s in scaled.values()]
    rows.append([f'T of least {title}', *map(_temperatures, records)])
    for metric, name, form in (
      ('ece', 'ECE', blocks.percent),
      ('nll', 'NLL', blocks.number),
    ):
      for when in ('before', 'after'):
        values = [[r[when][metric] for r in rs] for rs in records]
        cells = [blocks.median_and_range(v, form) for v in values]
        rows.append([f'{name} {when}', *cells])
  return blocks.Table(
    ['temperature scaling', *scaled],
    rows,
    f'{data}. T is fitted on {measured.held_out(first, options)} and '
    f'everything is reported on the others; {measured.over_splits(options)}. '
    'Logits are divided by T: T above 1 cools an overconfident model. The T of '
    'least NLL is at its bound where all held-out predictions are right, '
    '0.01, or where the logits say nothing of the labels, 100; that of least '
    'ECE is searched on a grid.',
  )


def _temperatures(records: list[dict]) -> blocks.Cell:
  cell = blocks.median_and_range(
    [r['temperature'] for r in records], blocks.number
  )
  bound = sum(r['bound'] is not None for r in records)
  if not bound:
    return cell
  return blocks.Cell(
    cell.value, [*cell.details, f'at its bound in {bound} of {len(records)}']
  )
