"""How far a number would move with another draw of the same examples.

A resample is a vector of whole weights: how often each example was drawn. So a
statistic that takes weights needs no copies of the data, and two models that
are given the same weights are compared on the same draws:

>>> import numpy as np
>>> from maxsup_jax.diagnostics import bootstrap
>>> errors = {
...   'a': np.array([0, 0, 1, 0, 0, 1, 0, 0]),
...   'b': np.array([0, 1, 1, 0, 0, 1, 1, 0]),
... }
>>> samples = bootstrap.bootstrap(
...   {
...     'a': lambda weights: np.average(errors['a'], weights=weights),
...     'b': lambda weights: np.average(errors['b'], weights=weights),
...   },
...   n=8,
... )
>>> [round(x, 3) for x in bootstrap.interval(samples['b'])]
[0.125, 0.875]
>>> [round(x, 3) for x in bootstrap.paired_interval(samples['b'], samples['a'])]
[0.0, 0.625]
"""

from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from maxsup_jax.diagnostics import checks
from maxsup_jax.errors import UsageError, integer, number


class Interval(NamedTuple):
  """The ends of an interval; NaN where it is undefined."""

  low: float
  high: float


def resamples(n: int, count: int, seed: int = 0) -> Iterator[np.ndarray]:
  """Draws n of n examples with replacement, `count` times.

  Yields int64 arrays `[n]`, each of which sums to n. The first resamples of a
  seed do not depend on the count.
  """
  n, count = integer('n', n, low=1), integer('count', count, low=1)
  # Counting n draws is the multinomial distribution, and faster than NumPy's,
  # which draws a binomial for each example.
  rng = np.random.default_rng(integer('seed', seed, low=0))
  return (
    np.bincount(rng.integers(0, n, n), minlength=n).astype(np.int64)
    for _ in range(count)
  )


def bootstrap(
  statistics: Mapping[str, Callable[[np.ndarray], float]],
  n: int,
  *,
  resamples: int = 1000,
  seed: int = 0,
  groups: ArrayLike | None = None,
) -> dict[str, np.ndarray]:
  """Values of statistics on resamples, the same ones for all of them.

  Examples that are not independent, as the pixels of an image, are drawn
  together: an interval from pixels alone would be far too narrow.

  Args:
    statistics: functions of int64 weights `[n]` that return a number, or NaN
      where they are undefined, by name.
    n: the number of examples.
    resamples: how many. Calls with the same n and seed see the same ones, so
      that their results may be paired too.
    seed: of the draws.
    groups: which group each example belongs to, integers `[n]`. As many groups
      as there are are drawn with replacement, each with all its examples; the
      weights of a resample then need not sum to n. None: each is its own.

  Returns:
    Float64 `[resamples]` for each name.

  Examples:
    >>> x = np.arange(10.0)
    >>> samples = bootstrap({'mean': lambda w: w @ x / w.sum()}, n=10)
    >>> samples['mean'].shape, round(float(samples['mean'].mean()), 1)
    ((1000,), 4.5)

  References: Efron, 1979; Davison and Hinkley, 1997, section 3.8, of groups.
  """
  if not statistics:
    raise UsageError('statistics is empty; expected at least one')
  resamples = integer('resamples', resamples, low=1)
  if groups is not None:
    groups = checks.array(groups, 'groups')
    if groups.shape != (n,) or groups.dtype.kind not in 'iu':
      raise UsageError(
        f'groups are {groups.dtype} {list(groups.shape)}; expected integers '
        f'[{n}]'
      )
    there, groups = np.unique(groups, return_inverse=True)
    n = len(there)
  values = {name: np.empty(resamples) for name in statistics}
  for i, weights in enumerate(_resamples(n, resamples, seed)):
    if groups is not None:
      weights = weights[groups]
    # One statistic must not change what the next one sees.
    weights.setflags(write=False)
    for name, statistic in statistics.items():
      value = np.asarray(statistic(weights))
      if value.shape or value.dtype.kind not in 'biuf' or np.isinf(value):
        raise UsageError(
          f'the statistic {name!r} returned {value.tolist()!r}; expected a '
          'finite number or NaN'
        )
      values[name][i] = value
  return values


def interval(samples: ArrayLike, level: float = 0.95) -> Interval:
  """The percentile interval of a statistic's values on resamples.

  NaN, where the statistic is undefined, is left out: the interval is then one
  of the statistic *where it is defined*. Report `undefined_share` beside it.

  Args:
    samples: of `bootstrap`, `[resamples]`. The interval is NaN if more than
      half of them are.
    level: the share of the values inside, between 0 and 1.

  Examples:
    >>> interval(np.arange(101.0), level=0.5)
    Interval(low=25.0, high=75.0)
    >>> interval(np.array([1.0, np.nan, np.nan]))
    Interval(low=nan, high=nan)

  References: Efron and Tibshirani, *An Introduction to the Bootstrap*, 1993,
    chapter 13.
  """
  samples = _samples(samples)
  level = number('level', level, above=0, below=1)
  defined = samples[~np.isnan(samples)]
  if undefined_share(samples) > 0.5:
    return Interval(float('nan'), float('nan'))
  low, high = np.quantile(defined, [(1 - level) / 2, (1 + level) / 2])
  return Interval(float(low), float(high))


def paired_interval(
  samples_a: ArrayLike, samples_b: ArrayLike, level: float = 0.95
) -> Interval:
  """The percentile interval of the difference a - b on the same resamples.

  A resample counts as undefined where either is.
  """
  samples_a, samples_b = _samples(samples_a), _samples(samples_b)
  checks.same_length(samples_a=samples_a, samples_b=samples_b)
  return interval(samples_a - samples_b, level)


def pivotal_interval(
  samples: ArrayLike,
  estimate: float,
  center: float | None = None,
  level: float = 0.95,
) -> Interval:
  r"""The pivotal (basic) interval of a statistic.

  With q the quantiles of the samples, and c the center,

  .. math:: [\hat\theta - (q_\mathrm{high} - c),\;
    \hat\theta - (q_\mathrm{low} - c)]

  Args:
    samples: of `bootstrap`; NaN as in `interval`.
    estimate: the statistic of the examples.
    center: what the statistic of resamples estimates, which is the truth where
      the examples are all there is; by default the estimate. A debiased
      statistic estimates another number there: the plug-in, biased one.

  Examples:
    >>> pivotal_interval([0.0, 1.0, 2.0, 4.0, 8.0], 2.0, level=0.5)
    Interval(low=0.0, high=3.0)

  References: Davison and Hinkley, *Bootstrap Methods and their Application*,
    1997, section 2.4.
  """
  low, high = interval(samples, level)
  shift = estimate + (estimate if center is None else center)
  return Interval(shift - high, shift - low)


def undefined_share(samples: ArrayLike) -> float:
  """The share of resamples for which a statistic is undefined, that is NaN."""
  return float(np.isnan(_samples(samples)).mean())


# `bootstrap` has an argument of this name.
_resamples = resamples


def _samples(samples: ArrayLike) -> np.ndarray:
  samples = checks.array(samples, 'samples')
  if samples.ndim != 1 or not samples.size or samples.dtype.kind not in 'biuf':
    raise UsageError(
      f'samples have the shape {samples.shape} and dtype {samples.dtype}; '
      'expected numbers [resamples]'
    )
  if np.isinf(samples).any():
    raise UsageError('samples contain an infinity')
  return samples.astype(np.float64)
