"""The risk-coverage curve, of the examples or of a resample of them."""

import dataclasses

import numpy as np
from numpy.typing import ArrayLike

from maxsup_jax.diagnostics import _checks

TIES = ('expected', 'stable')


@dataclasses.dataclass(frozen=True, eq=False)
class RiskCoverage:
  r"""A risk-coverage curve: one point for every number of accepted examples.

  Point i, from 0, accepts the i + 1 surest examples.

  Attributes:
    coverage: the share of the examples that is accepted, `(i + 1) / N`, `[N]`.
    risk: selective risk: the mean error of the accepted examples, `[N]`.
    generalized_risk: the summed error of the accepted examples over the number
      of all examples, `risk * coverage`, `[N]`.
    threshold: the confidence of the last accepted example, `[N]`.
    errors: the errors of the single examples in the order of acceptance,
      `[N]`. Within a tie this order is that of the input.
    ends: how many examples are accepted at each distinct threshold, that is by
      `confidence >= t`: int, increasing, the last one N. Only these points of
      the curve can be reached by a threshold, and only they do not depend on
      how ties are broken.
  """

  coverage: np.ndarray
  risk: np.ndarray
  generalized_risk: np.ndarray
  threshold: np.ndarray
  errors: np.ndarray
  ends: np.ndarray

  def __len__(self) -> int:
    return len(self.coverage)

  @property
  def error_rate(self) -> float:
    """The risk of accepting everything."""
    return float(self.risk[-1])


class Ranking:
  r"""Examples sorted by confidence, once for many curves.

  Args:
    confidence: float `[N]`, larger is surer.
    errors: bool `[N]`, True where the prediction is wrong; or what each
      example costs, float from 0 to 1.
    ties: what is accepted first among equal confidences. `'expected'`: the
      curve is the expectation over random orders, that is, every error is
      replaced by the mean of its tie; it does not depend on the order of the
      examples. `'stable'`: the order of the examples decides.

  Raises:
    UsageError: for a wrong shape or dtype, no examples, NaN or infinity,
      different lengths, errors outside `[0, 1]` or unknown `ties`.

  Examples:
    A bootstrap resample draws each example a number of times. Its curve is
    that of the repeated examples, and nothing is sorted again:

    >>> import numpy as np
    >>> from maxsup_jax.diagnostics import selective
    >>> ranking = selective.Ranking([0.9, 0.8, 0.8, 0.5], [0, 1, 0, 1])
    >>> print(ranking.curve().risk.round(4))
    [0.     0.25   0.3333 0.5   ]
    >>> print(ranking.curve(np.array([2, 0, 1, 1])).risk.round(4))
    [0.   0.   0.   0.25]
  """

  def __init__(
    self, confidence: ArrayLike, errors: ArrayLike, *, ties: str = 'expected'
  ):
    confidence, errors = _checks.scores_and_errors(confidence, errors)
    self.ties = _checks.one_of(ties, 'ties', TIES)
    self._order = np.argsort(-confidence, kind='stable')
    self._confidence = confidence[self._order]
    self._errors = errors[self._order]
    new = self._confidence[1:] != self._confidence[:-1]
    self._group = np.concatenate([[0], np.cumsum(new)])
    self._distinct = bool(new.all())

  def __len__(self) -> int:
    return len(self._order)

  def curve(self, weights: ArrayLike | None = None) -> RiskCoverage:
    """The curve of the examples, or of a resample of them.

    Args:
      weights: how often each example occurs: int `[N]`, at least 0, in the
        order of the input. None: once each.

    Returns:
      The curve; with weights its length is their sum.

    Raises:
      UsageError: if the weights have the wrong shape or dtype, if one is
        negative, if all are 0, or if they add up to 2**31 or more.
    """
    if weights is None:
      position = np.arange(len(self))
    else:
      counts = _checks.multiplicities(weights, len(self))[self._order]
      position = np.repeat(np.arange(len(self)), counts)
    n = len(position)
    errors = self._errors[position]
    group = self._group[position]
    ends = np.append(np.flatnonzero(group[1:] != group[:-1]) + 1, n)
    total = np.cumsum(errors)
    # Repeated examples tie as well, but their errors are equal.
    if self.ties == 'expected' and not self._distinct:
      total = _within_ties(total, ends)
    accepted = np.arange(1, n + 1)
    return RiskCoverage(
      coverage=accepted / n,
      risk=total / accepted,
      generalized_risk=total / n,
      threshold=self._confidence[position],
      errors=errors,
      ends=ends,
    )


def _within_ties(total: np.ndarray, ends: np.ndarray) -> np.ndarray:
  """Sums of errors that grow evenly within each tie; see `Ranking`."""
  sizes = np.diff(ends, prepend=0)
  after = total[ends - 1]
  before = np.concatenate([[0.0], after[:-1]])
  # Multiplied first and then divided: exact at the end of each tie for errors
  # that are 0 or 1, so the curve has no rounding errors that add up.
  inside = np.arange(1, len(total) + 1) - np.repeat(ends - sizes, sizes)
  growth = inside * np.repeat(after - before, sizes) / np.repeat(sizes, sizes)
  return np.repeat(before, sizes) + growth


def risk_coverage(
  confidence: ArrayLike, errors: ArrayLike, *, ties: str = 'expected'
) -> RiskCoverage:
  r"""The risk-coverage curve of a confidence.

  With the examples in descending order of confidence and :math:`\ell_{(j)}`
  the error of the j-th, the point after i examples is

  .. math::
    c_i = \frac{i}{N}, \qquad r_i = \frac{1}{i} \sum_{j \le i} \ell_{(j)},
    \qquad g_i = \frac{1}{N} \sum_{j \le i} \ell_{(j)}

  Args:
    confidence: float `[N]`, larger is surer.
    errors: bool `[N]`, True where the prediction is wrong; or what each
      example costs, float from 0 to 1.
    ties: `'expected'` or `'stable'`; see `Ranking`.

  Returns:
    The curve, in float64. It has no point at coverage 0, where the risk is
    not defined.

  Raises:
    UsageError: see `Ranking`.

  Examples:
    The two examples of confidence 0.8 tie, and one of them is wrong:

    >>> from maxsup_jax.diagnostics import selective
    >>> curve = selective.risk_coverage([0.9, 0.8, 0.8, 0.5], [0, 1, 0, 1])
    >>> print(curve.coverage)
    [0.25 0.5  0.75 1.  ]
    >>> print(curve.risk.round(4))
    [0.     0.25   0.3333 0.5   ]
    >>> print(curve.ends)
    [1 3 4]

  References:
    Geifman and El-Yaniv, `Selective Classification for Deep Neural Networks
    <https://arxiv.org/abs/1705.08500>`_, 2017; the generalised risk: Traub et
    al., `Overcoming Common Flaws in the Evaluation of Selective
    Classification Systems <https://arxiv.org/abs/2407.01032>`_, 2024.
  """
  return Ranking(confidence, errors, ties=ties).curve()
