"""The risk-coverage curve, the areas under it, its points and thresholds.

With ties `'expected'`, a point of the curve within a tie is reached by
accepting a part of the tie at random; a threshold accepts all of it or nothing.
"""

import dataclasses
import math

import numpy as np
from numpy.typing import ArrayLike
from scipy import special

from maxsup_jax.diagnostics import checks
from maxsup_jax.errors import UsageError, number, one_of

_CONVENTIONS = ('fd_shifts', 'torch_uncertainty')


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

  Examples:
    A bootstrap resample draws each example a number of times. Its curve is
    that of the repeated examples, and nothing is sorted again:

    >>> ranking = Ranking([0.9, 0.8, 0.8, 0.5], [0, 1, 0, 1])
    >>> print(ranking.curve().risk.round(4))
    [0.     0.25   0.3333 0.5   ]
    >>> print(ranking.curve(np.array([2, 0, 1, 1])).risk.round(4))
    [0.   0.   0.   0.25]
  """

  def __init__(
    self, confidence: ArrayLike, errors: ArrayLike, *, ties: str = 'expected'
  ):
    confidence, errors = checks.scores_and_errors(confidence, errors)
    self.ties = one_of('ties', ties, ('expected', 'stable'))
    self._order = np.argsort(-confidence, kind='stable')
    self._confidence = confidence[self._order]
    self._errors = errors[self._order]
    new = self._confidence[1:] != self._confidence[:-1]
    self._group = np.concatenate([[0], np.cumsum(new)])
    self._distinct = bool(new.all())

  def __len__(self) -> int:
    return len(self._order)

  def curve(self, weights: ArrayLike | None = None) -> RiskCoverage:
    """The curve of the examples, each as often as its weight says.

    With weights its length is their sum.
    """
    if weights is None:
      position = np.arange(len(self))
    else:
      counts = checks.multiplicities(weights, len(self))[self._order]
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
    at = self._confidence[position]
    risks = total / accepted, total / n
    return RiskCoverage(accepted / n, *risks, at, errors, ends)


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

  `Ranking` explains the arguments.

  References: Geifman and El-Yaniv, 2017; the generalised risk: Traub et al.,
    2024.
  """
  return Ranking(confidence, errors, ties=ties).curve()


def aurc(curve: RiskCoverage, convention: str = 'paper') -> float:
  r"""The area under the risk-coverage curve; 0 is best.

  Four numbers have this name. With the selective risks :math:`r_1 \dots r_N`
  at the coverages :math:`i/N`:

  * `'paper'`: the trapezoidal rule from coverage 0, where the risk is set to
    0: :math:`A_0 = \frac{1}{N} (\sum_i r_i - \frac{1}{2} r_N)`;
  * `'torch_uncertainty'`: the trapezoidal rule from coverage 1/N, divided by
    the length of that range: :math:`(N A_0 - \frac{1}{2} r_1) / (N - 1)`; NaN
    for one example;
  * `'fd_shifts'`: the trapezoidal rule over the points that a threshold can
    reach, with the first risk extended to coverage 0. It does not depend on
    how ties are broken. Without ties it is :math:`A_0 + r_1 / (2N)`;
  * `'mean'`: the mean selective risk, :math:`\frac{1}{N} \sum_i r_i =
    A_0 + r_N / (2N)`.

  The first is what the code published with the paper computes, and
  FixSelectiveClassification. torch-uncertainty and the paper print the area in
  percent, fd-shifts times 1000.

  Examples:
    >>> curve = risk_coverage([0.9, 0.8, 0.7, 0.5], [0, 0, 1, 1])
    >>> for convention in ('paper', 'torch_uncertainty', 'fd_shifts', 'mean'):
    ...   print(convention, round(aurc(curve, convention), 6))
    paper 0.145833
    torch_uncertainty 0.194444
    fd_shifts 0.145833
    mean 0.208333

  References: Xia et al., 2025; Geifman et al., 2019.
  """
  one_of('convention', convention, ('paper', *_CONVENTIONS, 'mean'))
  risk, n = curve.risk, len(curve)
  if convention == 'fd_shifts':
    return _reachable(curve, risk, risk[curve.ends[0] - 1])
  if convention == 'mean':
    return float(risk.mean())
  area = (risk.sum() - risk[-1] / 2) / n
  if convention == 'paper':
    return float(area)
  return _without_start(area, risk[0], n)


def augrc(curve: RiskCoverage, convention: str = 'fd_shifts') -> float:
  r"""The area under the generalised-risk-coverage curve; 0 is best.

  The expected error of the accepted examples, counted over all examples, at a
  random threshold. With acc the accuracy and :math:`\mathrm{AUROC}_f` from
  `auroc`, `'fd_shifts'` is exactly

  .. math:: (1 - \mathrm{AUROC}_f)\, \mathrm{acc}\, (1 - \mathrm{acc})
    + \tfrac{1}{2} (1 - \mathrm{acc})^2

  * `'fd_shifts'`: the trapezoidal rule over the points that a threshold can
    reach, from coverage 0, where the generalised risk is 0;
  * `'torch_uncertainty'`: the trapezoidal rule over all points from coverage
    1/N, divided by the length of that range; NaN for one example.

  The first is at most 1/2, and fd-shifts prints it times 1000.

  References: Traub et al., 2024.
  """
  one_of('convention', convention, _CONVENTIONS)
  risk, n = curve.generalized_risk, len(curve)
  if convention == 'fd_shifts':
    return _reachable(curve, risk, 0.0)
  return _without_start((risk.sum() - risk[-1] / 2) / n, risk[0], n)


def e_aurc(curve: RiskCoverage, reference: str = 'finite') -> float:
  r"""The excess of the AURC over that of a perfect ranking; 0 is best.

  * `'finite'`: both areas of the same N examples, in the convention
    `'paper'`; never negative with ties `'expected'` but for rounding;
  * `'closed_form'`: the AURC in the convention `'fd_shifts'`, less
    :math:`e + (1 - e) \ln(1 - e)` with e the error rate: the area for
    infinitely many examples. It may be negative.

  Examples:
    >>> curve = risk_coverage([0.9, 0.8, 0.7, 0.5], [0, 1, 0, 1])
    >>> round(e_aurc(curve), 6)
    0.125
    >>> round(e_aurc(curve, 'closed_form'), 6)
    0.117407

  References: Geifman et al., 2019; the finite reference: Cattelan and Silva,
    2024.
  """
  one_of('reference', reference, ('finite', 'closed_form'))
  if reference == 'finite':
    return aurc(curve) - _perfect_aurc(curve)
  e = curve.error_rate
  return float(aurc(curve, 'fd_shifts') - (e + special.xlog1py(1 - e, -e)))


def naurc(curve: RiskCoverage) -> float:
  r"""The normalised AURC: 0 for a perfect ranking, 1 for a random one.

  .. math:: \frac{A_0 - A_0^*}{e - A_0^*}

  with :math:`A_0` the AURC in the convention `'paper'`, :math:`A_0^*` that of
  a perfect ranking of the same examples, and e the error rate. It exceeds 1 for
  a ranking that is worse than random, and is NaN if all errors are equal, where
  every ranking is perfect and random at once.

  References: Cattelan and Silva, 2024.
  """
  if (curve.errors == curve.errors[0]).all():
    return math.nan
  perfect = _perfect_aurc(curve)
  return (aurc(curve) - perfect) / (curve.error_rate - perfect)


def auroc(curve: RiskCoverage) -> float:
  r"""The failure AUROC: how well the confidence tells right from wrong.

  .. math:: P(\kappa_\mathrm{correct} > \kappa_\mathrm{wrong})
    + \tfrac{1}{2} P(\kappa_\mathrm{correct} = \kappa_\mathrm{wrong})

  over pairs of a correct and a wrong example. Errors between 0 and 1 count as
  that part of a wrong example, and the rest of a correct one. It is NaN if no
  example is wrong or none is correct, where there is no such pair.

  References: Hendrycks and Gimpel, 2017.
  """
  # The sums of the errors themselves: exact where errors are 0 or 1.
  wrong = np.diff(np.cumsum(curve.errors)[curve.ends - 1], prepend=0.0)
  correct = np.diff(curve.ends, prepend=0) - wrong
  pairs = wrong.sum() * correct.sum()
  if not pairs:
    return math.nan
  below = wrong.sum() - np.cumsum(wrong)
  return float((correct * (below + wrong / 2)).sum() / pairs)


def _reachable(curve: RiskCoverage, values: np.ndarray, first: float) -> float:
  """The area over the points that a threshold can reach, and coverage 0."""
  y = np.append(first, values[curve.ends - 1])
  x = np.append(0.0, curve.coverage[curve.ends - 1])
  return float(((y[1:] + y[:-1]) * np.diff(x)).sum() / 2)


def _without_start(area: float, first: float, n: int) -> float:
  """The mean over coverages from 1/n on, of a curve that starts with 0 at 0."""
  return float((n * area - first / 2) / (n - 1)) if n > 1 else math.nan


def _perfect_aurc(curve: RiskCoverage) -> float:
  """The AURC, 'paper', of the same errors in the best order."""
  n, wrong = len(curve), round(float(curve.errors.sum()))
  if ((curve.errors == 0) | (curve.errors == 1)).all():
    # The risks are 0, and (k - right) / k from there on.
    right = n - wrong
    harmonic = special.digamma(n + 1) - special.digamma(right + 1)
    return float((wrong - right * harmonic - wrong / n / 2) / n)
  risk = np.cumsum(np.sort(curve.errors)) / np.arange(1, len(curve) + 1)
  return float((risk.sum() - risk[-1] / 2) / len(curve))


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
  # What the risk on other examples does not exceed, with the confidence that
  # was asked for; NaN where nothing is guaranteed.
  bound: float = math.nan


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
  The limit holds where the threshold was chosen. On other examples the risk is
  larger about every other time; `guaranteed_threshold` keeps it there, too. If
  no threshold keeps the limit, it is infinite and accepts nothing.
  """
  risk = number('risk', risk, 0, 1)
  points = curve.ends - 1
  within = points[curve.risk[points] <= risk + _TOLERANCE]
  if not within.size:
    return Threshold(value=math.inf, coverage=0.0, risk=math.nan)
  return _at(curve, within[-1])


def guaranteed_threshold(
  curve: RiskCoverage, risk: float, *, delta: float = 0.05
) -> Threshold:
  r"""A threshold whose risk on other examples is within a limit (SGR).

  With probability at least :math:`1 - \delta` over the draw of the examples
  that it is chosen on, where those that it is applied to are drawn alike. A
  binary search over the sorted confidences tests
  :math:`k = \lceil \log_2 N \rceil` thresholds, each by the bound
  :math:`b^*` of its risk, the inverse of the binomial tail: with m accepted
  examples and e errors among them,

  .. math::
    \sum_{j=0}^{e} \binom{m}{j} (b^*)^j (1 - b^*)^{m-j} = \frac{\delta}{k}

  and the one with the largest coverage is taken among those whose bound is
  within the limit. If there is none, the threshold is infinite and accepts
  nothing.

  Args:
    curve: of errors that are 0 or 1, on examples that nothing else was fitted
      to.
    risk: the limit, from 0 to 1.
    delta: the probability of exceeding it, between 0 and 1; 0.001 in the paper.

  Examples:
    >>> rng = np.random.default_rng(0)
    >>> confidence = rng.uniform(size=2000)
    >>> errors = rng.uniform(size=2000) > confidence
    >>> curve = risk_coverage(confidence, errors)
    >>> found = guaranteed_threshold(curve, 0.2)
    >>> print(round(found.coverage, 2), round(found.risk, 2), found.bound < 0.2)
    0.35 0.16 True
    >>> round(threshold_for_risk(curve, 0.2).coverage, 2)
    0.41

  References: Geifman and El-Yaniv, 2017, algorithm 1.
  """
  risk = number('risk', risk, 0, 1)
  delta = number('delta', delta, above=0, below=1)
  if not np.isin(curve.errors, (0, 1)).all():
    raise UsageError(
      'the errors of the curve are not all 0 or 1, which the guarantee needs'
    )
  wrong = np.cumsum(curve.errors)
  tests = max(1, math.ceil(math.log2(len(curve))))
  best = Threshold(value=math.inf, coverage=0.0, risk=math.nan)
  low, high = 0, len(curve.ends) - 1
  for _ in range(tests):
    if low > high:
      break
    middle = (low + high + 1) // 2
    m = int(curve.ends[middle])
    bound = _upper_bound(int(wrong[m - 1]), m, delta / tests)
    if bound <= risk:
      best = dataclasses.replace(_at(curve, m - 1), bound=bound)
      low = middle + 1
    else:
      high = middle - 1
  return best


def _upper_bound(wrong: int, m: int, delta: float) -> float:
  """The error rate at which so few errors in m have the probability delta."""
  if wrong == m:
    return 1.0
  return float(special.betaincinv(wrong + 1, m - wrong, 1 - delta))


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
