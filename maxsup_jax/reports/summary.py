"""The first section: every model in a column, with intervals."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from maxsup_jax.diagnostics import bootstrap, calibration, selective
from maxsup_jax.reports import blocks, measured
from maxsup_jax.reports.compared import paired
from maxsup_jax.reports.measured import Measured, Options, describe

NAME, TITLE = 'summary', 'Summary'
# A share of resamples that may lack a statistic whose difference is marked.
_FEW = 0.05


class Statistic(NamedTuple):
  """A row of the table: its heading, and 1 if more is better, -1 if less is.

  `form` writes a value; `of_curve` computes it from the risk-coverage curve of
  the MSP, unless it is None.
  """

  title: str
  better: int
  form: Callable[[float], str]
  of_curve: Callable[[selective.RiskCoverage], float] | None = None


STATISTICS = {
  'error': Statistic('error', -1, blocks.percent),
  'nll': Statistic('NLL', -1, blocks.number),
  'brier': Statistic('Brier score', -1, blocks.number),
  'ece': Statistic('ECE', -1, blocks.percent),
  'aurc': Statistic('AURC', -1, blocks.percent, selective.aurc),
  'augrc': Statistic('AUGRC', -1, blocks.percent, selective.augrc),
  'e_aurc': Statistic('E-AURC', -1, blocks.percent, selective.e_aurc),
  'naurc': Statistic('NAURC', -1, blocks.number, selective.naurc),
  'auroc_f': Statistic('AUROC of failures', 1, blocks.percent, selective.auroc),
  'coverage_at_risk': Statistic(
    f'coverage at {measured.RISK:.0%} risk',
    1,
    blocks.percent,
    functools.partial(selective.coverage_at_risk, risk=measured.RISK),
  ),
  'risk_at_coverage': Statistic(
    f'risk at {measured.COVERAGE:.0%} coverage',
    -1,
    blocks.percent,
    functools.partial(selective.risk_at_coverage, coverage=measured.COVERAGE),
  ),
}


def section(models: list[Measured], options: Options) -> blocks.Section:
  """A table, with intervals and paired differences if there are resamples."""
  values = [_values(m, options) for m in models]
  samples = [
    bootstrap.bootstrap(
      _statistics(m, options),
      m.outputs.num_examples,
      resamples=options.resamples,
      seed=options.seeds[0],
    )
    for m in (models if options.resamples else ())
  ]
  comparable = paired([m.outputs for m in models])
  rows: list[list[str | blocks.Cell]] = []
  numbers: dict[str, dict[str, Any]] = {m.name: {} for m in models}
  for name, statistic in STATISTICS.items():
    row: list[str | blocks.Cell] = [statistic.title]
    for i, m in enumerate(models):
      record: dict[str, Any] = {'value': values[i][name]}
      if samples:
        record['interval'] = bootstrap.interval(samples[i][name], options.level)
        share = bootstrap.undefined_share(samples[i][name])
        record['undefined_share'] = share
      if samples and i and comparable:
        record['difference'] = values[i][name] - values[0][name]
        pair = samples[i][name], samples[0][name]
        record |= _difference(*pair, options)
      numbers[m.name][name] = record
      row.append(_cell(statistic, record))
    rows.append(row)
  columns = ['', *[m.name for m in models]]
  parts: list[blocks.Block] = []
  if len(models) > 1 and options.resamples:
    parts.append(blocks.Text(_remark(models) if comparable else _NOT_PAIRED))
  parts.append(blocks.Table(columns, rows, _caption(models, options)))
  return blocks.Section(NAME, TITLE, parts, numbers)


def _statistics(m: Measured, options: Options) -> dict[str, Callable]:
  """Each statistic as a function of the examples' multiplicities."""
  per, ranking = m.examples, m.ranking()

  def mean(values):
    return lambda weights: float(np.average(values, weights=weights))

  def ece(weights):
    curve = calibration.reliability_curve(
      per.confidence, per.correct, bins=options.bins, weights=weights
    )
    return calibration.calibration_error(curve)

  # One resample gives one curve, which all statistics of curves share.
  latest: list[Any] = [None, None]

  def curve_of(weights):
    if latest[0] is not weights:
      latest[:] = weights, ranking.curve(weights)
    return latest[1]

  return {
    'error': mean(m.errors),
    'nll': mean(per.nll),
    'brier': mean(per.brier),
    'ece': ece,
  } | {
    name: (lambda weights, of=s.of_curve: of(curve_of(weights)))
    for name, s in STATISTICS.items()
    if s.of_curve
  }


def _values(m: Measured, options: Options) -> dict[str, float]:
  once = np.ones(m.outputs.num_examples, np.int64)
  return {n: f(once) for n, f in _statistics(m, options).items()}


def _difference(
  samples: np.ndarray, first: np.ndarray, options: Options
) -> dict[str, Any]:
  """Whether a difference to the first model is more than chance."""
  low, high = bootstrap.paired_interval(samples, first, options.level)
  undefined = bootstrap.undefined_share(samples - first)
  return {
    'difference_interval': (low, high),
    # Where many resamples do not define it, the interval is of the others.
    'excludes_zero': bool(low > 0 or high < 0) and undefined <= _FEW,
  }


def _cell(statistic: Statistic, record: dict) -> blocks.Cell:
  form, details, mark = statistic.form, [], ''
  if 'interval' in record:
    details.append(_interval(form, record['interval']))
    if record['undefined_share']:
      share = f'{100 * record["undefined_share"]:.2g}%'
      details.append(f'undefined in {share} of resamples')
  if 'difference' in record:
    if record['excludes_zero']:
      up = record['difference_interval'][0] > 0
      mark = 'better' if up == (statistic.better > 0) else 'worse'
    details.append(f'Δ {_signed(form, record["difference"])} {mark}'.strip())
    signed = functools.partial(_signed, form)
    details.append(_interval(signed, record['difference_interval']))
  return blocks.Cell(form(record['value']), details, mark)


def _interval(form: Callable, bounds: tuple[float, float]) -> str:
  return f'[{form(bounds[0])}, {form(bounds[1])}]'


def _signed(form: Callable[[float], str], value: float) -> str:
  text = form(value)
  return '+' + text if value > 0 else text.replace('-', '−')


_NOT_PAIRED = (
  'The files hold different labels, so there are no paired differences.'
)


def _remark(models: list[Measured]) -> str:
  return (
    f'Differences (Δ) are to {models[0].name}, paired by example, as all '
    'files hold the same labels; those of percentages are in points. '
    '"Better" and "worse" mark those whose interval excludes zero. '
    'Intervals are of the sampling of these examples only: they say '
    'nothing about another seed of training.'
  )


def _caption(models: list[Measured], options: Options) -> str:
  text = (
    f'{describe(models)}. ECE: {options.bins} bins of equal width, closed on '
    'the right. Selective classification ranks by the maximum softmax '
    'probability (log-odds in float64), ties by expectation: AURC is the '
    'trapezoid from risk 0 at coverage 0; E-AURC and NAURC are relative to '
    'the perfect ranking of as many examples; AUROC of failures is the '
    'probability that a correct prediction is surer than a wrong one.'
  )
  if options.resamples:
    text += (
      f' In brackets: {100 * options.level:g}% percentile intervals of '
      f'{options.resamples:,} bootstrap resamples. Resampling adds noise to '
      'the bins: the interval of the ECE lies too high.'
    )
  return text
