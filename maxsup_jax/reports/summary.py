"""The first section: every model in a column, with intervals."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from scipy import stats

from maxsup_jax.diagnostics import bootstrap, calibration, selective
from maxsup_jax.reports import blocks, measured
from maxsup_jax.reports.compared import paired
from maxsup_jax.reports.measured import Measured, Options, describe

NAME, TITLE = 'summary', 'Summary'
# A share of resamples that may lack a statistic whose difference is marked.
_FEW = 0.05
# By simulation, tests/reports/test_intervals.py.
_ENOUGH, _ENOUGH_RANKED, _ENOUGH_GROUPS = 20, 50, 50


class Statistic(NamedTuple):
  """A row of the table: its heading, and 1 if more is better, -1 if less is.

  `form` writes a value; `of_curve` computes it from the risk-coverage curve of
  the MSP, unless it is None. Percentile intervals hold what they say from so
  many wrong, and so many right, predictions on; below, there are none.
  """

  title: str
  better: int
  form: Callable[[float], str]
  of_curve: Callable[[selective.RiskCoverage], float] | None = None

  @property
  def enough(self) -> int:
    """The fewest wrong, and right, predictions of an interval."""
    return _ENOUGH_RANKED if self.of_curve else _ENOUGH


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
      groups=m.outputs.groups,
    )
    for m in (models if options.resamples else ())
  ]
  calibrated = [
    calibration.calibrated_range(m.examples.confidence, bins=options.bins)
    for m in models
  ]
  comparable = paired([m.outputs for m in models])
  rows: list[list[str | blocks.Cell]] = []
  numbers: dict[str, dict[str, Any]] = {m.name: {} for m in models}
  for name, statistic in STATISTICS.items():
    row: list[str | blocks.Cell] = [statistic.title]
    for i, m in enumerate(models):
      record: dict[str, Any] = {'value': values[i][name]}
      if name == 'ece':
        record['calibrated_range'] = calibrated[i]
      elif samples and _enough(name, m):
        record['interval'] = bootstrap.interval(samples[i][name], options.level)
        share = bootstrap.undefined_share(samples[i][name])
        record['undefined_share'] = share
      if samples and i and comparable:
        record['difference'] = values[i][name] - values[0][name]
        first = numbers[models[0].name][name]
        if name == 'ece':
          pair = models[0], m
          sampled = samples[i][name] - samples[0][name]
          record |= _calibration_difference(pair, sampled, options)
          # Else both are calibrated, as far as anyone can tell.
          record['excludes_zero'] &= any(
            r['value'] > r['calibrated_range'].high for r in (first, record)
          )
        elif 'interval' in record and 'interval' in first:
          record |= _difference(samples[i][name], samples[0][name], options)
          # The test needs independent examples.
          if name == 'error' and m.outputs.groups is None:
            p = _mcnemar(m, models[0])
            record['excludes_zero'] &= p < 1 - options.level
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

  def debiased(weights):
    return calibration.debiased_squared_error(_reliability(m, options, weights))

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
    # The ECE itself is biased, the more so on resamples.
    'ece': debiased,
  } | {
    name: (lambda weights, of=s.of_curve: of(curve_of(weights)))
    for name, s in STATISTICS.items()
    if s.of_curve
  }


def _reliability(
  m: Measured, options: Options, weights: np.ndarray | None = None
) -> calibration.ReliabilityCurve:
  return calibration.reliability_curve(
    m.examples.confidence,
    m.examples.correct,
    bins=options.bins,
    weights=weights,
  )


def _values(m: Measured, options: Options) -> dict[str, float]:
  once = np.ones(m.outputs.num_examples, np.int64)
  values = {n: f(once) for n, f in _statistics(m, options).items()}
  ece = calibration.calibration_error(_reliability(m, options))
  return values | {'ece': ece}


def _enough(name: str, m: Measured) -> bool:
  """Whether there are enough wrong and right predictions for an interval."""
  groups = m.outputs.groups
  if groups is not None and len(np.unique(groups)) < _ENOUGH_GROUPS:
    return False
  wrong, n = int(m.errors.sum()), len(m.errors)
  if name == 'risk_at_coverage':
    # Only errors among the accepted ones count, as a share of a fixed number.
    accepted = measured.COVERAGE * n
    risk = selective.risk_at_coverage(m.ranking().curve(), measured.COVERAGE)
    return min(accepted * risk, accepted * (1 - risk)) >= _ENOUGH
  return min(wrong, n - wrong) >= STATISTICS[name].enough


def _mcnemar(a: Measured, b: Measured) -> float:
  """The p-value of equal error rates, exact, of two models on one data set."""
  only_a = int((a.errors & ~b.errors).sum())
  differ = int((a.errors != b.errors).sum())
  return float(stats.binomtest(only_a, differ).pvalue) if differ else 1.0


def _calibration_difference(
  models: tuple[Measured, Measured], sampled: np.ndarray, options: Options
) -> dict[str, Any]:
  """The interval of the difference of the debiased squared errors."""
  curves = [_reliability(m, options) for m in models]
  first, this = map(calibration.debiased_squared_error, curves)
  biased = [calibration.calibration_error(c, 'l2') ** 2 for c in curves]
  interval = bootstrap.pivotal_interval(
    sampled, this - first, biased[1] - biased[0], options.level
  )
  return {
    'difference_debiased_squared': this - first,
    'difference_interval': interval,
    'excludes_zero': bool(interval.low > 0 or interval.high < 0),
  }


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
  form, details, mark = statistic.form, list[str](), ''
  if 'calibrated_range' in record:
    error = record['value'], record['calibrated_range']
    details += blocks.beside_calibrated(error).details
  if 'interval' in record:
    low, high = map(form, record['interval'])
    details.append(f'[{low}, {high}]')
    if record['undefined_share']:
      share = f'{100 * record["undefined_share"]:.2g}%'
      details.append(f'undefined in {share} of resamples')
  if 'difference' in record:
    if record.get('excludes_zero'):
      up = record['difference_interval'][0] > 0
      mark = 'better' if up == (statistic.better > 0) else 'worse'
    difference = _signed(form, record['difference'])
    points = ' points' if form is blocks.percent else ''
    details.append(f'Δ {difference}{points} {mark}'.strip())
    if 'interval' in record and 'difference_interval' in record:
      low, high = (_signed(form, x) for x in record['difference_interval'])
      details.append(f'[{low}, {high}]{points}')
  return blocks.Cell(form(record['value']), details, mark)


def _signed(form: Callable[[float], str], value: float) -> str:
  # A difference of percentages is in points.
  text = form(value).removesuffix('%')
  return '+' + text if value > 0 else text.replace('-', '−')


_NOT_PAIRED = (
  'The files hold different labels, so there are no paired differences.'
)


def _remark(models: list[Measured]) -> str:
  mcnemar = ''
  if models[0].outputs.groups is None:
    mcnemar = "of the error, if McNemar's exact test agrees; "
  return (
    f'Differences (Δ) are to {models[0].name}, paired by example, as all '
    'files hold the same labels; those of percentages are in points. '
    '"Better" and "worse" mark those whose interval excludes zero; '
    f'{mcnemar}of the ECE, if the pivotal '
    'interval of the difference of the debiased squared errors (Kumar et al., '
    '2019) excludes zero and at least one of the two models is above what '
    'perfect calibration gives. '
    'Intervals are of the sampling of these examples only: they say '
    'nothing about another seed of training.'
  )


def _caption(models: list[Measured], options: Options) -> str:
  text = (
    f'{describe(models)}. ECE: {options.bins} bins of equal width, closed on '
    'the right; below it, what a perfectly calibrated model gives for as many '
    'examples, from the 5% to the 95% quantile. Selective classification '
    'ranks by the maximum softmax probability (log-odds in float64), ties by '
    'expectation: AURC is the '
    'trapezoid from risk 0 at coverage 0; E-AURC and NAURC are relative to '
    'the perfect ranking of as many examples; AUROC of failures is the '
    'probability that a correct prediction is surer than a wrong one.'
  )
  if options.resamples:
    text += (
      f' In brackets: {100 * options.level:g}% percentile intervals of '
      f'{options.resamples:,} bootstrap resamples, where they hold what they '
      f'say: from {_ENOUGH} wrong and as many right predictions on, for '
      f'selective classification from {_ENOUGH_RANKED} on, and for the risk '
      f'at a coverage from {_ENOUGH} accepted ones on. The ECE has none, as '
      'resampling adds noise to its bins.'
    )
    if models[0].outputs.groups is not None:
      text += (
        ' Resamples draw whole groups of examples, and there are intervals '
        f'from {_ENOUGH_GROUPS} groups on; what a perfectly calibrated model '
        'gives takes the examples for independent.'
      )
  return text
