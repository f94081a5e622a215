"""Single points of the risk-coverage curve, and thresholds to carry over.

With ties `'expected'`, a point of the curve within a tie is reached by
accepting a part of the tie at random; a threshold accepts all of it or nothing.
"""

import dataclasses
import math

import numpy as np
from numpy.typing import ArrayLike

from maxsup_jax.diagnostics import checks
from maxsup_jax.diagnostics.selective.curve import RiskCoverage
from maxsup_jax.errors import number

# A risk of 1/10 must satisfy 1 - 0.9, which is less than 0.1 in floating point;
# and 7% of 100 examples are 7, although 100 * 0.07 is larger than 7.
_TOLERANCE = 1e-9


def coverage_at_risk(curve: RiskCoverage, risk: float) -> float:
  r"""The largest coverage at which the selective risk is within a limit.

  .. math:: \max \{ i/N : r_i \le r \}

  The risk need not grow with the coverage: it may exceed the limit before.
  Risks above the limit by no more than 1e-9 count as equal to it.

  Args:
    risk: the limit, from 0 to 1. NaN results if no coverage is within it.

  Examples:
    >>> from maxsup_jax.diagnostics import selective
    >>> curve = selective.risk_coverage([0.9, 0.8, 0.7, 0.5], [0, 1, 0, 1])
    >>> coverage_at_risk(curve, 0.4)
    0.75

  References: Geifman and El-Yaniv, 2017. torch-uncertainty's Cov@5Risk is the
    one at 0.05, as computed from its release 0.13 on.
  """
  risk = number('risk', risk, 0, 1)
  within = np.flatnonzero(curve.risk <= risk + _TOLERANCE)
  return float(curve.coverage[within[-1]]) if within.size else math.nan


def risk_at_coverage(curve: RiskCoverage, coverage: float) -> float:
  r"""The selective risk at the smallest number of examples that covers enough.

  .. math:: r_k, \qquad k = \max(1, \lceil N c \rceil)

  References: Geifman and El-Yaniv, 2017. torch-uncertainty's Risk@80Cov is the
    one at 0.8.
  """
  return float(curve.risk[_accepted(curve, coverage) - 1])


def selective_accuracy_coverage(curve: RiskCoverage, accuracy: float) -> float:
  r"""The largest coverage at which the selective accuracy is high enough (SAC).

  `coverage_at_risk` at the risk 1 - accuracy; but nothing accepted counts as
  without error, so that the result is 0 where that one is NaN.

  References: Galil et al., 2023.
  """
  accuracy = number('accuracy', accuracy, 0, 1)
  coverage = coverage_at_risk(curve, 1 - accuracy)
  return 0.0 if math.isnan(coverage) else coverage


@dataclasses.dataclass(frozen=True)
class Threshold:
  """A threshold on the confidence, and what it did where it was chosen."""

  value: float  # accept where `confidence >= value`; infinity accepts nothing
  coverage: float  # the share of the examples that it accepted
  risk: float  # the mean error of those; NaN if it accepted none


@dataclasses.dataclass(frozen=True, eq=False)
class Selection:
  """What a threshold does with examples."""

  accepted: np.ndarray  # bool `[N]`
  coverage: float  # the share that is accepted
  # The mean error of those that are; NaN if none is, or if the errors are not
  # known.
  risk: float


def threshold_for_risk(curve: RiskCoverage, risk: float) -> Threshold:
  """The threshold that accepts most among those with a risk within a limit.

  The coverage may be less than that of `coverage_at_risk`, as ties count whole.
  The risk on other examples may be larger: the limit holds where the threshold
  was chosen, and nothing is guaranteed elsewhere. If no threshold keeps the
  limit, it is infinite and accepts nothing.
  """
  risk = number('risk', risk, 0, 1)
  points = curve.ends - 1
  within = points[curve.risk[points] <= risk + _TOLERANCE]
  if not within.size:
    return Threshold(value=math.inf, coverage=0.0, risk=math.nan)
  return _at(curve, within[-1])


def threshold_for_coverage(curve: RiskCoverage, coverage: float) -> Threshold:
  """The largest threshold that accepts at least a share, and one example."""
  enough = np.searchsorted(curve.ends, _accepted(curve, coverage))
  return _at(curve, curve.ends[enough] - 1)


def apply_threshold(
  threshold: Threshold | float,
  confidence: ArrayLike,
  errors: ArrayLike | None = None,
) -> Selection:
  """Applies a threshold, chosen elsewhere, to examples.

  Args:
    threshold: as found, or a number; infinity accepts nothing.
    confidence: float `[N]`, the same score as that of the threshold.
    errors: bool or float `[N]`; None if they are not known.
  """
  value = threshold.value if isinstance(threshold, Threshold) else threshold
  if value != math.inf:
    value = number('the threshold', value)
  confidence = checks.array(confidence, 'confidence')
  unknown = np.full(confidence.shape, False)
  confidence, errors_N = checks.scores_and_errors(
    confidence, unknown if errors is None else errors
  )
  accepted = confidence >= value
  risk = math.nan
  if errors is not None and accepted.any():
    risk = float(errors_N[accepted].mean())
  return Selection(accepted, float(accepted.mean()), risk)


def _accepted(curve: RiskCoverage, coverage: float) -> int:
  """The smallest number of examples, at least 1, with a coverage."""
  coverage = number('coverage', coverage, 0, 1)
  return max(1, math.ceil(len(curve) * coverage - _TOLERANCE))


def _at(curve: RiskCoverage, point: int) -> Threshold:
  found = curve.threshold[point], curve.coverage[point], curve.risk[point]
  return Threshold(*map(float, found))
