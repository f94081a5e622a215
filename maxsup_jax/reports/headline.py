"""The first sentences of the page: which model is best, and how sure it is."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from maxsup_jax.diagnostics import bootstrap, calibration, seeds
from maxsup_jax.diagnostics.bootstrap import Interval
from maxsup_jax.reports import blocks, measured
from maxsup_jax.reports.measured import Measured, Options


class Criterion(NamedTuple):
  """What models are compared by; less is better.

  A `squared` one is a mean square: its root is shown, squares are compared.
  """

  best: str
  title: str
  squared: bool = False


_RMS = 'RMS calibration error'
CRITERIA = {
  'error': Criterion('makes the fewest errors', 'error'),
  'calibration': Criterion('is the best calibrated as it is', _RMS, True),
  'calibration_after_temperature': Criterion(
    'is the best calibrated after a temperature',
    f'{_RMS} after a temperature',
    True,
  ),
  'aurc': Criterion('rejects best', 'AURC'),
}


class Compared(NamedTuple):
  """A criterion of several models or methods, in their order.

  Attributes:
    values: of each; NaN where undefined.
    interval: of the i-th; None where nothing holds what it says.
    difference: of the i-th less the j-th at a level: the interval, or None, and
      whether it is resolved.
  """

  values: Sequence[float]
  interval: Callable[[int], Interval | None]
  difference: Callable[[int, int, float], tuple[Interval | None, bool]]


def claims(
  names: Sequence[str],
  compared: Mapping[str, Compared],
  options: Options,
  over: str,
) -> list[dict[str, Any]]:
  """What is said about each criterion, with the numbers that it is said of.

  The best is told from the others where all intervals of the differences to it,
  corrected for their number (Bonferroni), are on one side of 0: then it is
  wrong to name it best with a probability of at most 1 - level.

  Args:
    names: of the models or methods.
    compared: by the names of `CRITERIA`.
    options: the level.
    over: what the intervals are over, such as 'n = 2,000'.
  """
  found = []
  for name, c in compared.items():
    values = np.array(c.values, np.float64)
    if not np.isfinite(values).all():
      continue
    order = [int(i) for i in np.argsort(values, kind='stable')]
    best, others = order[0], order[1:]
    interval = c.interval(best)
    if interval is None:
      continue  # No sentence without its interval.
    claim: dict[str, Any] = {
      'criterion': name,
      'best': names[best],
      'value': values[best],
      'interval': interval,
      'differences': {},
    }
    level = 1 - (1 - options.level) / max(len(others), 1)
    for i in others:
      of, resolved = c.difference(i, best, level)
      claim['differences'][names[i]] = {
        'difference': values[i] - values[best],
        'interval': of,
        'resolved': resolved,
      }
    claim['sentence'] = _sentence(claim, CRITERIA[name], over)
    found.append(claim)
  return found


def _sentence(claim: Mapping[str, Any], of: Criterion, over: str) -> str:
  name, differences = claim['best'], claim['differences']
  low, high = (_shown(v, of) for v in claim['interval'])
  value = f'{of.title} {_shown(claim["value"], of)} [{low}, {high}]'
  if not differences:
    return f'{name}: {value}.'
  unresolved = [n for n, d in differences.items() if not d['resolved']]
  near = unresolved[0] if unresolved else next(iter(differences))
  gap = differences[near]
  size = _size(gap['difference'], of)
  size += ' in the square' if of.squared else ' points'
  if gap['interval'] is None:
    size += ', errors or resamples being too few for an interval'
  else:
    low, high = (_size(v, of) for v in gap['interval'])
    size += f' [{low}, {high}]'
  if not unresolved:
    return (
      f'{name} {of.best}: {value}, less than {near} by {size}; {over} show it.'
    )
  more = len(unresolved) - 1
  nor = f', nor those to {more} more' if more else ''
  return (
    f'{name} has the lowest {value}, but {over} do not resolve the difference '
    f'to {near}, {size}{nor}.'
  )


def _shown(value: float, of: Criterion) -> str:
  return blocks.percent(math.sqrt(max(value, 0)) if of.squared else value)


def _size(value: float, of: Criterion) -> str:
  form = blocks.number(value, 2) if of.squared else blocks.percent(value)[:-1]
  return form.replace('-', '−')


def over_seeds(
  columns: Mapping[str, list[Measured]],
  values: Mapping[str, Mapping[str, float]],
  options: Options,
) -> dict[str, Compared]:
  """The criteria of methods, by Student's intervals over seeds.

  `values` has the criteria of each model.
  """
  methods = list(columns.values())

  def of(key: str) -> Compared:
    each = [[values[m.name][key] for m in ms] for ms in methods]

    def interval(i: int) -> Interval | None:
      if len(each[i]) < 2:
        return None
      return seeds.paired_difference(each[i], level=options.level).interval

    def difference(i: int, j: int, level: float):
      pairs = measured.pairs(methods[i], methods[j])
      if len(pairs) < 2:
        return None, False
      a, b = ([values[m.name][key] for m in side] for side in zip(*pairs))
      found = seeds.paired_difference(a, b, level).interval
      return found, bool(found.low > 0 or found.high < 0)

    return Compared([float(np.mean(v)) for v in each], interval, difference)

  return {key: of(key) for key in CRITERIA}


class Squared(NamedTuple):
  """The squared calibration error of a model, and what it is on resamples."""

  value: float  # debiased
  biased: float
  ece: float
  calibrated: Interval  # of the ECE of a perfectly calibrated one
  samples: np.ndarray | None


def squared(
  per: calibration.PerExample,
  options: Options,
  groups: np.ndarray | None,
  samples: np.ndarray | None = None,
) -> Squared:
  """Measures it; `samples` are drawn unless they are given."""
  reliability = calibration.Reliability(
    per.confidence, per.correct, bins=options.bins
  )
  curve = reliability.curve()
  if samples is None and options.resamples:

    def of(weights):
      return calibration.debiased_squared_error(reliability.curve(weights))

    samples = bootstrap.bootstrap(
      {'': of},
      len(per.correct),
      resamples=options.resamples,
      seed=options.seeds[0],
      groups=groups,
    )['']
  return Squared(
    calibration.debiased_squared_error(curve),
    calibration.calibration_error(curve, 'l2') ** 2,
    calibration.calibration_error(curve),
    calibration.calibrated_range(per.confidence, bins=options.bins),
    samples,
  )


def compare_squared(
  all_: Sequence[Squared], options: Options, enough: Sequence[bool]
) -> Compared:
  """Calibration by pivotal intervals of the debiased squared errors."""

  def interval(i: int) -> Interval | None:
    s = all_[i]
    if s.samples is None or not enough[i]:
      return None
    return bootstrap.pivotal_interval(
      s.samples, s.value, s.biased, options.level
    )

  def difference(i: int, j: int, level: float):
    a, b = all_[i], all_[j]
    if a.samples is None or b.samples is None or not supported(options, level):
      return None, False
    found = bootstrap.pivotal_interval(
      a.samples - b.samples, a.value - b.value, a.biased - b.biased, level
    )
    # Else both are calibrated, as far as anyone can tell.
    one_is_off = any(s.ece > s.calibrated.high for s in (a, b))
    return found, bool(found.low > 0 or found.high < 0) and one_is_off

  return Compared([s.value for s in all_], interval, difference)


def supported(options: Options, level: float) -> bool:
  """Whether there are resamples enough for percentiles of this level."""
  return options.resamples >= math.floor(2 / (1 - level))
