"""The first section: every model in a column, with intervals."""

import dataclasses
import functools
import itertools
import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np
from scipy import stats

from maxsup_jax.diagnostics import bootstrap, calibration, seeds, selective
from maxsup_jax.reports import blocks, headline, measured
from maxsup_jax.reports.compared import paired
from maxsup_jax.reports.measured import Measured, Options, describe

NAME, TITLE = 'summary', 'Summary'
# A share of resamples that may lack a statistic whose difference is marked.
_FEW = 0.05
# By simulation, tests/reports/test_intervals.py.
_ENOUGH, _ENOUGH_RANKED = 20, 50


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
  """A table, with intervals and paired differences if there are resamples.

  Models of one method, that is seeds, share a column, and the differences of
  methods are paired by seed; otherwise they are paired by example.
  """
  columns = measured.methods(models)
  values = [_values(m, options) for m in models]
  samples = _samples(models, options)
  squares = [
    headline.squared(
      m.examples, options, m.outputs.groups, drawn['ece'] if drawn else None
    )
    for m, drawn in itertools.zip_longest(models, samples)
  ]
  for v, s in zip(values, squares):
    v['ece'] = s.ece
  records = [
    _record(m, v, s, drawn, options)
    for m, v, s, drawn in itertools.zip_longest(
      models, values, squares, samples
    )
  ]
  numbers = {m.name: r for m, r in zip(models, records)}
  seeded = any(len(ms) > 1 for ms in columns.values())
  comparable = paired([m.outputs for m in models])
  parts: list[blocks.Block] = []
  of_methods: dict[str, Any] = {}
  lead: list[dict[str, Any]] = []
  if seeded:
    of_methods = _over_seeds(columns, numbers, options)
    cell, shown = _seed_cell, of_methods
    parts.append(blocks.Text(_seed_remark(columns)))
    lead = _lead_of_seeds(columns, squares, numbers, options)
  else:
    cell, shown = _cell, numbers
    if samples and comparable:
      compared = _compared(models, squares, values, samples, options)
      for i in range(1, len(models)):
        for name, c in compared.items():
          records[i][name] |= _against_first(c, i, values, name, options)
      lead = _lead(models, compared, options)
    if len(models) > 1 and options.resamples:
      parts.append(blocks.Text(_remark(models) if comparable else _NOT_PAIRED))
  rows: list[list[str | blocks.Cell]] = [
    [s.title, *(cell(s, r[name]) for r in shown.values())]
    for name, s in STATISTICS.items()
  ]
  parts.append(
    blocks.Table(
      'Every model at a glance',
      ['', *shown],
      rows,
      _caption(models, options, seeded),
    )
  )
  return blocks.Section(
    NAME, TITLE, parts, numbers, methods=of_methods, lead=lead
  )


def _samples(models: list[Measured], options: Options) -> list[dict]:
  """Values of the statistics on resamples, for each model."""
  if not options.resamples:
    return []

  def drawn(m: Measured) -> dict[str, np.ndarray]:
    return bootstrap.bootstrap(
      _statistics(m, options),
      m.outputs.num_examples,
      resamples=options.resamples,
      seed=options.seeds[0],
      groups=m.outputs.groups,
    )

  with ThreadPoolExecutor(os.cpu_count()) as threads:
    return list(threads.map(drawn, models))


def _record(
  m: Measured,
  values: dict,
  square: headline.Squared,
  samples: dict | None,
  options: Options,
) -> dict[str, dict[str, Any]]:
  """What results.json has of a model by itself: values and intervals."""
  found: dict[str, dict[str, Any]] = {}
  for name in STATISTICS:
    record = found[name] = {'value': values[name]}
    if name == 'ece':
      record['calibrated_range'] = square.calibrated
    elif samples and _enough(name, m):
      record['interval'] = bootstrap.interval(samples[name], options.level)
      share = bootstrap.undefined_share(samples[name])
      record['undefined_share'] = share
  return found


def _compared(
  models: list[Measured],
  squares: Sequence[headline.Squared],
  values: Sequence[dict],
  samples: Sequence[dict],
  options: Options,
) -> dict[str, headline.Compared]:
  """Every statistic of the models, by resamples of the examples they share."""

  def of(name: str) -> headline.Compared:
    enough = [_enough(name, m) for m in models]

    def interval(i: int) -> bootstrap.Interval | None:
      if not enough[i]:
        return None
      return bootstrap.interval(samples[i][name], options.level)

    def difference(i: int, j: int, level: float):
      if not (enough[i] and enough[j] and headline.supported(options, level)):
        return None, False
      a, b = samples[i][name], samples[j][name]
      found = bootstrap.paired_interval(a, b, level)
      # Where many resamples do not define it, the interval is of the others.
      resolved = bool(found.low > 0 or found.high < 0)
      resolved &= bootstrap.undefined_share(a - b) <= _FEW
      # The test needs independent examples.
      if name == 'error' and models[0].outputs.groups is None:
        resolved &= _mcnemar(models[i], models[j]) < 1 - level
      return found, resolved

    return headline.Compared([v[name] for v in values], interval, difference)

  found = {name: of(name) for name in STATISTICS if name != 'ece'}
  enough = [_enough('error', m) for m in models]
  return found | {'ece': headline.compare_squared(squares, options, enough)}


def _against_first(
  compared: headline.Compared,
  i: int,
  values: Sequence[dict],
  name: str,
  options: Options,
) -> dict[str, Any]:
  """What results.json has of the paired difference to the first model."""
  found: dict[str, Any] = {'difference': values[i][name] - values[0][name]}
  interval, resolved = compared.difference(i, 0, options.level)
  if interval is not None:
    found |= {'difference_interval': interval, 'excludes_zero': resolved}
  if name == 'ece':
    found['difference_debiased_squared'] = (
      compared.values[i] - compared.values[0]
    )
  return found


def _cooled(
  m: Measured, options: Options
) -> tuple[calibration.PerExample, np.ndarray]:
  """The examples of the first split that its temperature was not fitted on."""
  outputs = m.outputs
  (fit, rest), *_ = measured.splits(
    outputs.num_examples, options, outputs.groups
  )
  T = m.temperature(fit, options.seeds[0], 'nll', options.bins).temperature
  logits, labels = outputs.logits[rest], outputs.labels[rest]
  return calibration.per_example(logits, labels, temperature=T), rest


def _lead(
  models: list[Measured],
  compared: Mapping[str, headline.Compared],
  options: Options,
) -> list[dict[str, Any]]:
  """What is said first of models that are compared on the same examples."""
  after, enough = [], []
  for m in models:
    per, rest = _cooled(m, options)
    groups = None if m.outputs.groups is None else m.outputs.groups[rest]
    after.append(headline.squared(per, options, groups))
    wrong, right = int((~per.correct).sum()), int(per.correct.sum())
    enough.append(_enough('error', m) and min(wrong, right) >= _ENOUGH)
  cooled = headline.compare_squared(after, options, enough)
  keys = {'error': 'error', 'calibration': 'ece', 'aurc': 'aurc'}
  criteria = {
    name: cooled if name not in keys else compared[keys[name]]
    for name in headline.CRITERIA
  }
  n = f'{models[0].outputs.num_examples:,} examples'
  return headline.claims([m.name for m in models], criteria, options, n)


def _lead_of_seeds(
  columns: Mapping[str, list[Measured]],
  squares: Sequence[headline.Squared],
  numbers: Mapping[str, Any],
  options: Options,
) -> list[dict[str, Any]]:
  """What is said first of methods that are compared over seeds."""
  bare = dataclasses.replace(options, resamples=0)
  models = [m for ms in columns.values() for m in ms]
  of = dict(zip(numbers, squares))
  values = {
    m.name: {
      'error': numbers[m.name]['error']['value'],
      'aurc': numbers[m.name]['aurc']['value'],
      'calibration': of[m.name].value,
      'calibration_after_temperature': headline.squared(
        _cooled(m, bare)[0], bare, None
      ).value,
    }
    for m in models
  }
  compared = headline.over_seeds(columns, values, options)
  sizes = sorted({len(ms) for ms in columns.values()})
  seeds_ = f'{" or ".join(map(str, sizes))} seeds of training'
  return headline.claims(list(columns), compared, options, seeds_)


def _over_seeds(
  columns: Mapping[str, list[Measured]],
  numbers: Mapping[str, Any],
  options: Options,
) -> dict[str, dict[str, dict[str, Any]]]:
  """Mean and spread over the seeds of a method, and the paired differences."""
  found: dict[str, dict[str, dict[str, Any]]] = {}
  first = next(iter(columns.values()))
  for method, models in columns.items():
    found[method] = {}
    for name in STATISTICS:
      values = [numbers[m.name][name]['value'] for m in models]
      record: dict[str, Any] = {
        'mean': float(np.mean(values)),
        'std': float(np.std(values, ddof=1)) if len(values) > 1 else None,
        'seeds': len(values),
      }
      pairs = measured.pairs(models, first)
      if models is not first and len(pairs) > 1:
        a, b = (
          np.array([numbers[m.name][name]['value'] for m in side])
          for side in zip(*pairs)
        )
        if np.isfinite(a - b).all():
          of = seeds.paired_difference(a, b, options.level)
          record |= {
            'difference': of.mean,
            'difference_interval': of.interval,
            'pairs': of.pairs,
            'excludes_zero': bool(of.interval.low > 0 or of.interval.high < 0),
          }
      found[method][name] = record
  return found


def _statistics(m: Measured, options: Options) -> dict[str, Callable]:
  """Each statistic as a function of the examples' multiplicities."""
  per, ranking = m.examples, m.ranking()

  def mean(values):
    return lambda weights: float(np.average(values, weights=weights))

  binned = calibration.Reliability(
    per.confidence, per.correct, bins=options.bins
  )

  def debiased(weights):
    return calibration.debiased_squared_error(binned.curve(weights))

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


def _values(m: Measured, options: Options) -> dict[str, float]:
  once = np.ones(m.outputs.num_examples, np.int64)
  return {n: f(once) for n, f in _statistics(m, options).items()}


def _enough(name: str, m: Measured) -> bool:
  """Whether there are enough wrong and right predictions for an interval."""
  groups = m.outputs.groups
  if groups is not None and len(np.unique(groups)) < measured.ENOUGH_GROUPS:
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


def _cell(statistic: Statistic, record: dict) -> blocks.Cell:
  form, details = statistic.form, list[str]()
  if 'calibrated_range' in record:
    error = record['value'], *record['calibrated_range']
    details += blocks.beside_calibrated(error).details
  if 'interval' in record:
    low, high = map(form, record['interval'])
    details.append(f'[{low}, {high}]')
    if record['undefined_share']:
      share = f'{100 * record["undefined_share"]:.2g}%'
      details.append(f'undefined in {share} of resamples')
  told, mark = _told(statistic, record, 'interval' in record)
  return blocks.Cell(form(record['value']), details + told, mark)


def _seed_cell(statistic: Statistic, record: dict) -> blocks.Cell:
  details = []
  if not blocks.undefined(record['std']):
    seeds = f'{record["seeds"]} seeds'
    details = [f'± {statistic.form(record["std"])}, {seeds}']
  told, mark = _told(statistic, record, 'difference' in record)
  return blocks.Cell(statistic.form(record['mean']), details + told, mark)


def _told(
  statistic: Statistic, record: dict, whole: bool
) -> tuple[list[str], str]:
  """The lines on a difference, with its interval if `whole`, and their mark."""
  if 'difference' not in record:
    return [], ''
  form, mark = statistic.form, ''
  if record.get('excludes_zero'):
    up = record['difference_interval'][0] > 0
    mark = 'better' if up == (statistic.better > 0) else 'worse'
  difference = _signed(form, record['difference'])
  points = ' points' if form is blocks.percent else ''
  told = [f'Δ {difference}{points} {mark}'.strip()]
  if whole and 'difference_interval' in record:
    low, high = (_signed(form, x) for x in record['difference_interval'])
    told.append(f'[{low}, {high}]{points}')
  return told, mark


def _signed(form: Callable[[float], str], value: float) -> str:
  # A difference of percentages is in points.
  text = form(value).removesuffix('%')
  return '+' + text if value > 0 else text.replace('-', '−')


_NOT_PAIRED = (
  'The files hold different labels, so there are no paired differences.'
)


_CORRECTED = (
  'In the sentences at the top, intervals of differences are corrected for the '
  'number of comparisons with the best (Bonferroni).'
)


def _seed_remark(columns: Mapping[str, list[Measured]]) -> str:
  first, models = next(iter(columns.items()))
  others = [ms for ms in columns.values() if ms is not models]
  known = all(measured.same_seeds(ms, models) for ms in others)
  how = 'equal seeds' if known else 'files in the order they were given'
  return (
    f'Columns are methods: means over seeds, and standard deviations. '
    f'Differences (Δ) are to {first}, over pairs of {how}, with Student’s '
    'interval; "better" and "worse" mark those whose interval excludes zero. '
    'They are about other seeds of training on these examples; with fewer '
    'than five seeds nobody can tell whether the interval holds what it says. '
    f'{_CORRECTED}'
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
    f'nothing about another seed of training. {_CORRECTED}'
  )


def _caption(models: list[Measured], options: Options, seeded: bool) -> str:
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
  if options.resamples and not seeded:
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
        f'from {measured.ENOUGH_GROUPS} groups on; what a perfectly calibrated '
        'model gives takes the examples for independent.'
      )
  return text
