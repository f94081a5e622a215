"""Differences between methods that were trained with the same seeds."""

import dataclasses
import math
from collections.abc import Mapping

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

from maxsup_jax.diagnostics import checks
from maxsup_jax.diagnostics.bootstrap import Interval
from maxsup_jax.errors import UsageError, number

# The chance to see an effect that `PairedDifference.detectable` is for.
POWER = 0.8


@dataclasses.dataclass(frozen=True)
class PairedDifference:
  """The mean difference of pairs of numbers, one pair for each seed.

  Attributes:
    mean: of the differences.
    std: their standard deviation, with the divisor n - 1.
    pairs: n.
    interval: Student's, of the mean.
    p_value: two-sided, of a mean of 0.
    detectable: the smallest true mean that such an experiment finds with a
      probability of 80%, approximately: the sum of the two quantiles of
      Student's distribution, of the level and of the power, times the standard
      error.
  """

  mean: float
  std: float
  pairs: int
  interval: Interval
  p_value: float
  detectable: float


def paired_difference(
  a: ArrayLike, b: ArrayLike | float = 0.0, level: float = 0.95
) -> PairedDifference:
  r"""Student's interval and test of the mean of a - b over seeds.

  With d the n differences, :math:`\bar d` their mean and s their standard
  deviation, the interval is :math:`\bar d \pm t_{n-1} s / \sqrt n`. Its
  coverage is nominal where the differences are normal, and close to it where
  they are roughly symmetric; with fewer than five seeds nobody can tell.

  Where all differences are equal, s is 0: the interval is a point, and the
  p-value is 0, or 1 if they are all 0.

  Args:
    a: finite numbers `[n]`, n at least 2: one method, one number for each seed.
    b: of the other method, `[n]` in the same order of seeds; or one number that
      `a` is compared with.
    level: of the interval.

  Raises:
    UsageError: for fewer than two pairs, other shapes, or what is not finite.

  Examples:
    >>> found = paired_difference([0.9, 0.8, 0.85], [0.85, 0.79, 0.82])
    >>> round(found.mean, 3), round(found.p_value, 3)
    (0.03, 0.122)

  References: Student, The probable error of a mean, Biometrika 1908; the
    smallest effect as in Cohen, *Statistical Power Analysis*, 1988, chapter 2.
  """
  level = number('level', level, above=0, below=1)
  a = checks.finite(checks.array(a, 'a'), 'a').astype(np.float64)
  b = checks.finite(checks.array(b, 'b'), 'b').astype(np.float64)
  if a.ndim != 1 or len(a) < 2 or b.shape not in ((), a.shape):
    raise UsageError(
      f'a and b have the shapes {a.shape} and {b.shape}; expected [n] of both, '
      'for at least 2 seeds'
    )
  difference = a - b
  n, mean = len(a), float(difference.mean())
  std = float(difference.std(ddof=1))
  # What is left of equal numbers is rounding.
  if std <= 8 * np.finfo(np.float64).eps * max(np.abs(a).max(), abs(mean)):
    std = 0.0
  error = std / math.sqrt(n)
  t_level = float(stats.t.ppf((1 + level) / 2, n - 1))
  t_power = float(stats.t.ppf(POWER, n - 1))
  if error:
    p_value = float(2 * stats.t.sf(abs(mean) / error, n - 1))
  else:
    p_value = float(mean == 0)
  half = t_level * error
  return PairedDifference(
    mean,
    std,
    n,
    Interval(mean - half, mean + half),
    p_value,
    (t_level + t_power) * error,
  )


def holm(p_values: Mapping[str, float]) -> dict[str, float]:
  r"""Holm's correction of p-values for the number of tests.

  With :math:`p_{(1)} \le \dots \le p_{(m)}`, the i-th becomes
  :math:`\max_{j \le i} \min(1, (m - j + 1) p_{(j)})`. Rejecting what is below a
  level then errs at all with at most that probability, whatever the dependence.

  Args:
    p_values: by name, each from 0 to 1.

  Examples:
    >>> holm({'a': 0.01, 'b': 0.04, 'c': 0.03})
    {'a': 0.03, 'b': 0.06, 'c': 0.06}

  References: Holm, A simple sequentially rejective multiple test procedure,
    Scandinavian Journal of Statistics 1979.
  """
  for name, p in p_values.items():
    number(f'the p-value of {name}', p, 0, 1)
  corrected, largest = {}, 0.0
  for rank, name in enumerate(sorted(p_values, key=p_values.__getitem__)):
    p = min(1.0, (len(p_values) - rank) * p_values[name])
    corrected[name] = largest = max(largest, p)
  return {name: corrected[name] for name in p_values}
