"""The section on calibration: diagrams, errors, temperature scaling."""

import numpy as np
from matplotlib.axes import Axes

from maxsup_jax.diagnostics import calibration
from maxsup_jax.reports import _style, blocks
from maxsup_jax.reports.blocks import (
  Cell,
  Curves,
  Figure,
  Section,
  Table,
  median_and_range,
  short_names,
)
from maxsup_jax.reports.measured import (
  Measured,
  Options,
  describe,
  held_out,
  over_splits,
  splits,
)

NAME, TITLE = 'calibration', 'Calibration'


def section(models: list[Measured], options: Options) -> Section:
  """Builds the section."""
  curves = {
    m.name: calibration.reliability_curve(
      m.examples.confidence, m.examples.correct, bins=options.bins
    )
    for m in models
  }
  csv = Curves()
  for name, curve in curves.items():
    csv.add(
      len(curve.count),
      model=name,
      low=curve.edges[:-1],
      high=curve.edges[1:],
      count=curve.count,
      accuracy=curve.accuracy,
      confidence=curve.confidence,
    )
  errors = {m.name: _errors(m, curves[m.name], options) for m in models}
  scaled = {m.name: _scaled(m, options) for m in models}
  data = describe(models)
  return Section(
    NAME,
    TITLE,
    [
      Figure(
        'reliability',
        _diagrams(models, curves),
        f'Reliability diagrams. {data}. Accuracy against mean confidence of '
        f'{options.bins} bins of equal width, closed on the right; a bin with '
        'no example has no point. Points below the diagonal are overconfident. '
        'Bars: the share of the examples in each bin, on the same axis.',
      ),
      _error_table(errors, options, data),
      _temperature_table(scaled, options, data, models[0].outputs.num_examples),
    ],
    {
      m.name: {**errors[m.name], 'temperature_scaling': scaled[m.name]}
      for m in models
    },
    {'reliability': csv.columns},
  )


def _diagrams(models, curves):
  names = short_names([m.name for m in models])
  with _style.style():
    figure, axes = _style.panels(
      len(models), height=3.0, sharex=True, sharey=True
    )
    for i, (m, ax) in enumerate(zip(models, axes)):
      _diagram(ax, curves[m.name], _style.color(i))
      ece = calibration.calibration_error(curves[m.name])
      ax.set_title(f'{names[m.name]}\nECE {blocks.percent(ece)}')
    figure.supxlabel('confidence', fontsize=9)
    axes[0].set_ylabel('accuracy')
  return figure


def _diagram(ax: Axes, curve: calibration.ReliabilityCurve, color: str) -> None:
  ax.plot([0, 1], [0, 1], color='#888888', linewidth=0.8)
  ax.bar(
    curve.edges[:-1],
    curve.count / curve.count.sum(),
    np.diff(curve.edges),
    align='edge',
    color='#cccccc',
    edgecolor='white',
    linewidth=0.4,
  )
  there = curve.count > 0
  ax.plot(
    curve.confidence[there],
    curve.accuracy[there],
    color=color,
    marker='o',
    markersize=3.5,
  )
  ax.set(xlim=(0, 1), ylim=(0, 1.02))
  ax.set_box_aspect(1)


def _errors(m: Measured, curve, options: Options) -> dict[str, float]:
  per = m.examples
  mass = calibration.reliability_curve(
    per.confidence, per.correct, bins=options.bins, binning='equal_mass'
  )
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
  }


_TITLES = {
  'accuracy': ('accuracy', blocks.percent),
  'mean_confidence': ('mean confidence', blocks.percent),
  'ece': ('ECE, equal width', blocks.percent),
  'ece_equal_mass': ('ECE, equal mass', blocks.percent),
  'classwise_ece': ('classwise ECE', blocks.percent),
  'rms_calibration_error': ('RMS calibration error', blocks.percent),
  'mce': ('MCE', blocks.percent),
  'brier': ('Brier score', blocks.number),
  'nll': ('NLL', blocks.number),
}


def _error_table(errors, options: Options, data: str) -> Table:
  return Table(
    ['', *errors],
    [
      [title, *[form(e[key]) for e in errors.values()]]
      for key, (title, form) in _TITLES.items()
    ],
    f'{data}; {options.bins} bins. A perfectly calibrated classifier does not '
    'reach an ECE of 0 either: with 10,000 examples and 15 bins about 1%, with '
    'fewer more. The MCE is the error of the worst bin, however few examples '
    'it holds. Classwise: the mean over the classes, each with the probability '
    'of that class.',
  )


def _scaled(m: Measured, options: Options) -> dict[str, list[dict]]:
  """Temperatures fitted on the held-out part, measured on the other one."""
  logits, labels = m.outputs.logits, m.outputs.labels
  results: dict[str, list[dict]] = {'nll': [], 'ece': []}
  for fit, rest in splits(len(labels), options):
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


def _of_part(per: calibration.PerExample, part, options) -> dict[str, float]:
  curve = calibration.reliability_curve(
    per.confidence[part], per.correct[part], bins=options.bins
  )
  return {
    'ece': calibration.calibration_error(curve),
    'nll': float(per.nll[part].mean()),
    'brier': float(per.brier[part].mean()),
  }


def _temperature_table(scaled, options: Options, data: str, N: int) -> Table:
  rows: list[list[str | Cell]] = []
  for objective, title in (('nll', 'NLL'), ('ece', 'ECE')):
    rows.append(
      [
        f'T of least {title}',
        *[_temperatures(s[objective]) for s in scaled.values()],
      ]
    )
    for metric, name, form in (
      ('ece', 'ECE', blocks.percent),
      ('nll', 'NLL', blocks.number),
    ):
      for when in ('before', 'after'):
        rows.append(
          [
            f'{name} {when}',
            *[
              median_and_range([r[when][metric] for r in s[objective]], form)
              for s in scaled.values()
            ],
          ]
        )
  return Table(
    ['temperature scaling', *scaled],
    rows,
    f'{data}. T is fitted on {held_out(N, options)} and everything is reported '
    f'on the others; {over_splits(options)}. Logits are divided by T: T above '
    '1 cools an overconfident model. The T of least NLL is at its bound where '
    'all held-out predictions are right, 0.01, or where the logits say nothing '
    'of the labels, 100; that of least ECE is searched on a grid.',
  )


def _temperatures(records: list[dict]) -> Cell:
  cell = median_and_range([r['temperature'] for r in records], blocks.number)
  bound = sum(r['bound'] is not None for r in records)
  if not bound:
    return cell
  return Cell(
    cell.value, [*cell.details, f'at its bound in {bound} of {len(records)}']
  )
