"""Whether the probabilities of a classifier mean what they say.

>>> import numpy as np
>>> from maxsup_jax.diagnostics import calibration
>>> rng = np.random.default_rng(0)
>>> logits = rng.normal(size=(2000, 10))
>>> labels = (logits + rng.gumbel(size=(2000, 10))).argmax(1)
>>> round(calibration.expected_calibration_error(2 * logits, labels), 2)
0.22

`reliability_curve` explains `bins`, `binning`, `convention` and `weights`.
"""

import dataclasses
import math
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike
from scipy import optimize, sparse

from maxsup_jax.diagnostics import bootstrap, checks
from maxsup_jax.diagnostics._blocks import map_rows, pool
from maxsup_jax.errors import UsageError, integer, number, one_of

# Logits up to 1e150, divided by it, are still far from overflowing.
TEMPERATURES = (1e-100, 1e100)
# Its softmax beside 0 is 0 at any of those within the bounds.
_LOWEST = -1e200
# Of the temperature.
_BOUNDS = (0.01, 100.0)
# Two parts of a number from 0 to 1, each an integer up to 2**26.
_PART = float(1 << 26)
# A relative error of the temperature at which the search ends.
_TOLERANCE = 1e-10
_MAX_STEPS = 100
# Numbers that are drawn at a time.
_DRAWN_AT_ONCE = 1 << 20


@dataclasses.dataclass(frozen=True, eq=False)
class PerExample:
  """What `per_example` returns; every array is `[N]`."""

  confidence: np.ndarray  # the largest softmax probability, float64
  correct: np.ndarray  # whether the predicted class is the label, bool
  nll: np.ndarray  # the negative log-likelihood of the label, in nats, float64
  # The squared distance of the probabilities from the one-hot label, float64,
  # from 0 to 2.
  brier: np.ndarray


def per_example(
  logits: ArrayLike, labels: ArrayLike, *, temperature: float = 1.0
) -> PerExample:
  r"""Confidence, correctness, NLL and Brier score of every example.

  One pass over the logits; the means, the reliability curve and their bootstrap
  need nothing else. For :math:`p = \mathrm{softmax}(z/T)`:

  .. math::
    \mathrm{confidence} = \max_k p_k, \quad
    \mathrm{nll} = -\log p_y, \quad
    \mathrm{brier} = \sum_k (p_k - [k = y])^2

  The prediction does not depend on the temperature, from 1e-100 to 1e100. NLL
  and Brier score keep their relative precision where the label's probability is
  close to 1.

  Examples:
    >>> logits = np.log([[0.5, 0.3, 0.2], [0.1, 0.8, 0.1]])
    >>> examples = per_example(logits, np.array([1, 1]))
    >>> examples.confidence.round(4).tolist(), examples.correct.tolist()
    ([0.5, 0.8], [False, True])
    >>> examples.nll.round(4).tolist(), examples.brier.round(4).tolist()
    ([1.204, 0.2231], [0.78, 0.06])
  """
  logits_NK, labels_N = checks.logits_and_labels(logits, labels)
  T = number('temperature', temperature, *TEMPERATURES)

  def block(z_BK: np.ndarray, y_B: np.ndarray) -> tuple[np.ndarray, ...]:
    rows_B = np.arange(len(y_B))
    top_B = z_BK.argmax(1)
    z_BK -= z_BK[rows_B, top_B][:, None]
    z_BK /= T
    gap_B = -z_BK[rows_B, y_B]
    e_BK = np.exp(z_BK, out=z_BK)
    e_y_B = e_BK[rows_B, y_B]
    # Without the label's own term, 1 - p_y is a sum and not a difference.
    e_BK[rows_B, y_B] = 0
    others_B = e_BK.sum(1)
    squares_B = np.einsum('ij,ij->i', e_BK, e_BK)
    total_B = others_B + e_y_B
    correct_B = top_B == y_B
    nll_B = gap_B + np.where(correct_B, np.log1p(others_B), np.log(total_B))
    brier_B = (others_B**2 + squares_B) / total_B**2
    return 1 / total_B, correct_B, nll_B, brier_B

  return PerExample(*map_rows(block, logits_NK, labels_N))


def _mean(values_N: np.ndarray, weights: ArrayLike | None = None) -> float:
  """The mean of values of which each counts as often as its weight says."""
  if weights is None:
    return float(values_N.mean())
  weights_N = checks.multiplicities(weights, len(values_N))
  return float((weights_N * values_N).sum() / weights_N.sum())


@dataclasses.dataclass(frozen=True, eq=False)
class ReliabilityCurve:
  """Accuracy against confidence in `M` bins of confidence."""

  edges: np.ndarray  # the limits of the bins in ascending order, `[M + 1]`
  count: np.ndarray  # the number of examples in each bin, int64 `[M]`
  # The share of correct ones, `[M]`; NaN in a bin without examples.
  accuracy: np.ndarray
  # Their mean confidence, `[M]`; NaN in a bin without examples.
  confidence: np.ndarray


def reliability_curve(
  confidence: ArrayLike,
  correct: ArrayLike,
  *,
  bins: int = 15,
  binning: str = 'equal_width',
  convention: str = 'right',
  weights: ArrayLike | None = None,
) -> ReliabilityCurve:
  r"""Accuracy and mean confidence in bins of confidence.

  The bins of `'equal_width'` have the edges `numpy.linspace(0, 1, bins + 1)`.
  Where a confidence on an edge belongs is a convention:

  * `'right'`: bins :math:`(l, h]`, with 0 in the first one (Guo et al.);
  * `'left'`: bins :math:`[l, h)`, with 1 in the last one (NumPy, netcal);
  * `'torchmetrics'`: bins :math:`[l, h)`, and one more bin, of width 0, for a
    confidence of exactly 1, after confidences and edges are rounded to float32.
    The curve has `bins + 1` bins.

  The bins of `'equal_mass'` follow the data (adaptive ECE): their counts
  differ by 1 at most where no two confidences are equal. Equal confidences
  always share a bin, the one in which their middle falls when all examples
  are put in a row; bins may stay empty where there are many ties. The upper
  edge of a bin is its largest confidence, and that of the last bin is 1.

  Sums are exact: neither the order of the examples nor repeating an example
  in place of a weight changes a bit of the result.

  Args:
    confidence: from 0 to 1, `[N]`. Pass float64 where you can: a float32
      number beside an edge may be on its other side.
    correct: bool `[N]`, or numbers from 0 to 1.
    binning: `'equal_width'` or `'equal_mass'`.
    convention: for bins of equal width, `'right'`, `'left'` or
      `'torchmetrics'`.
    weights: how many times each example counts, integer or bool `[N]`;
      default: once. So the resamples of `diagnostics.bootstrap` need no copies.

  Examples:
    >>> confidence, correct = np.array([0.2, 0.9, 0.7]), np.array([0, 1, 0])
    >>> curve = reliability_curve(confidence, correct, bins=2)
    >>> curve.count.tolist(), curve.confidence.round(4).tolist()
    ([1, 2], [0.2, 0.8])
    >>> round(calibration_error(curve), 4)
    0.2667

  References: Guo et al., 2017, section 2.
  """
  binned = Reliability(
    confidence,
    correct,
    bins=bins,
    binning=binning,
    convention=convention,
    weights=weights,
  )
  return binned.curve(weights)


class Reliability:
  """Examples put into bins once, for the curves of many resamples.

  The arguments are those of `reliability_curve`; bins of equal mass are those
  of the `weights` given here.

  Examples:
    >>> binned = Reliability([0.2, 0.9, 0.7], [0, 1, 0], bins=2)
    >>> binned.curve().count.tolist(), binned.curve([1, 0, 2]).count.tolist()
    ([1, 2], [1, 2])
    >>> binned.curve([1, 0, 2]).confidence.round(4).tolist()
    [0.2, 0.7]
  """

  def __init__(
    self,
    confidence: ArrayLike,
    correct: ArrayLike,
    *,
    weights: ArrayLike | None = None,
    **binning: Any,
  ):
    confidence_N, correct_N = (
      checks.shares(checks.vector(values, name), name)
      for name, values in (('confidence', confidence), ('correct', correct))
    )
    checks.same_length(confidence=confidence_N, correct=correct_N)
    if weights is not None:
      weights = checks.multiplicities(weights, len(confidence_N))
    confidence_N, self.edges, bin_N = _binned(confidence_N, weights, **binning)
    # Sums of values from 0 to 1 are exact: a value is two integers of 26 binary
    # digits, and whole numbers below 2**53 add up without rounding in float64.
    parts = [np.ones(len(bin_N))]
    for values_N in (correct_N, confidence_N):
      high_N = np.floor(values_N * _PART)
      parts += [high_N, np.rint((values_N * _PART - high_N) * _PART)]
    N, M = len(bin_N), len(self.edges) - 1
    rows = np.concatenate([bin_N + i * M for i in range(len(parts))])
    columns = np.tile(np.arange(N), len(parts))
    self._sums = sparse.csr_array(
      (np.concatenate(parts), (rows, columns)), shape=(len(parts) * M, N)
    )
    self._sums.eliminate_zeros()

  def curve(self, weights: ArrayLike | None = None) -> ReliabilityCurve:
    """The curve of the examples, each as often as its weight says."""
    N, M = self._sums.shape[1], len(self.edges) - 1
    weights_N = np.ones(N)
    if weights is not None:
      weights_N = checks.multiplicities(weights, N).astype(np.float64)
    sums = (self._sums @ weights_N).reshape(-1, M)
    count, *halves = sums
    accuracy, mean_confidence = (
      np.divide(
        (high + low / _PART) / _PART,
        count,
        out=np.full(len(count), np.nan),
        where=count > 0,
      )
      for high, low in (halves[:2], halves[2:])
    )
    return ReliabilityCurve(
      self.edges, count.astype(np.int64), accuracy, mean_confidence
    )


def _binned(
  confidence_N: np.ndarray,
  weights_N: np.ndarray | None = None,
  bins: int = 15,
  binning: str = 'equal_width',
  convention: str = 'right',
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """Confidences as the convention has them, the edges, everyone's bin."""
  bins = integer('bins', bins, low=1)
  one_of('binning', binning, ('equal_width', 'equal_mass'))
  one_of('convention', convention, ('right', 'left', 'torchmetrics'))
  if binning == 'equal_mass':
    if convention != 'right':
      raise UsageError(
        f'convention is {convention!r}; expected the default for bins of equal '
        'mass'
      )
    return confidence_N, *_equal_mass(confidence_N, weights_N, bins)
  edges = np.linspace(0, 1, bins + 1)
  if convention == 'torchmetrics':
    confidence_N = confidence_N.astype(np.float32).astype(np.float64)
    # As torch.linspace: from both ends, in float32.
    i, step = np.arange(bins + 1, dtype=np.float32), np.float32(1) / bins
    upper = 1 - step * (bins - i)
    edges = np.where(2 * i < bins + 1, step * i, upper).astype(np.float64)
    edges = np.append(edges, 1.0)
  # Outer edges are left out: whatever lies there belongs to an outer bin.
  side: Literal['left', 'right'] = 'left' if convention == 'right' else 'right'
  bin_N = np.searchsorted(edges[1:-1], confidence_N, side)
  return confidence_N, edges, bin_N


def calibration_error(curve: ReliabilityCurve, norm: str = 'l1') -> float:
  r"""The distance of a reliability curve from the diagonal.

  With :math:`\delta_b = |\mathrm{acc}_b - \mathrm{conf}_b|` and the shares
  :math:`w_b = n_b / N` of the examples:

  * `'l1'`: :math:`\sum_b w_b \delta_b`, the expected calibration error;
  * `'l2'`: :math:`\sqrt{\sum_b w_b \delta_b^2}`;
  * `'max'`: :math:`\max_b \delta_b` over the bins with examples, the maximum
    calibration error.

  References: Guo et al., 2017, section 2.
  """
  one_of('norm', norm, ('l1', 'l2', 'max'))
  used = curve.count > 0
  gap = np.abs(curve.accuracy - curve.confidence)[used]
  if norm == 'max':
    return float(gap.max())
  share = curve.count[used] / curve.count.sum()
  if norm == 'l2':
    return float(np.sqrt(share @ gap**2))
  return float(share @ gap)


def debiased_squared_error(curve: ReliabilityCurve) -> float:
  r"""The squared calibration error, without what chance adds to it.

  .. math:: \sum_b w_b \left((\mathrm{conf}_b - \mathrm{acc}_b)^2 -
    \frac{\mathrm{acc}_b (1 - \mathrm{acc}_b)}{n_b - 1}\right)

  It is about 0 on average for a perfectly calibrated classifier, whatever N,
  and thus negative half the time. A bin with a single example counts as 0.
  `correct` must have been 0 or 1.

  Examples:
    >>> curve = reliability_curve([0.6] * 4, [1, 1, 1, 0])
    >>> round(debiased_squared_error(curve), 4)  # 0.15**2 - 0.75 * 0.25 / 3
    -0.04

  References: Kumar et al., 2019, section 5.
  """
  several = curve.count > 1
  n, accuracy = curve.count[several], curve.accuracy[several]
  gap = curve.confidence[several] - accuracy
  chance = accuracy * (1 - accuracy) / (n - 1)
  return float(n @ (gap**2 - chance) / curve.count.sum())


def calibrated_range(
  confidence: ArrayLike,
  *,
  norm: str = 'l1',
  level: float = 0.9,
  draws: int = 500,
  seed: int = 0,
  **binning: Any,
) -> bootstrap.Interval:
  r"""The calibration errors of a perfectly calibrated classifier at this N.

  The confidences stay, and whether a prediction is correct is drawn anew, with
  the confidence as its probability. An error within this range is no evidence
  of miscalibration.

  Args:
    confidence: of the predictions, from 0 to 1, `[N]`.
    norm: of `calibration_error`.
    level: the share of the draws inside: with 0.9, the ends are the 5% and 95%
      quantiles.
    draws: how many times all examples are drawn.
    **binning: `bins`, `binning` and `convention` of `reliability_curve`.

  Returns:
    The ends of the range.

  Examples:
    >>> rng = np.random.default_rng(0)
    >>> confidence = rng.uniform(0.5, 1, 2000)
    >>> low, high = calibrated_range(confidence)
    >>> round(low, 2), round(high, 2)
    (0.01, 0.03)

  References: Vaicenavicius et al., 2019, section 5, "consistency resampling" of
    Bröcker and Smith, 2007.
  """
  confidence_N = checks.shares(
    checks.vector(confidence, 'confidence'), 'confidence'
  )
  one_of('norm', norm, ('l1', 'l2', 'max'))
  draws = integer('draws', draws, low=1)
  confidence_N, edges, bin_N = _binned(confidence_N, **binning)
  count = np.bincount(bin_N, minlength=len(edges) - 1)
  used = count > 0
  starts = (np.cumsum(count) - count)[used]
  sorted_N = confidence_N[np.argsort(bin_N, kind='stable')]
  expected = np.add.reduceat(sorted_N, starts)
  rng = np.random.default_rng(integer('seed', seed, low=0))
  gaps, rows = [], max(1, _DRAWN_AT_ONCE // len(sorted_N))
  for start in range(0, draws, rows):
    shape = min(rows, draws - start), len(sorted_N)
    correct = rng.random(shape, np.float32) < sorted_N
    drawn = np.add.reduceat(correct, starts, axis=1, dtype=np.int64)
    gaps.append(np.abs(drawn - expected) / count[used])
  gap, share = np.concatenate(gaps), count[used] / len(sorted_N)
  errors = {
    'l1': lambda: gap @ share,
    'l2': lambda: np.sqrt(gap**2 @ share),
    'max': lambda: gap.max(1),
  }
  return bootstrap.interval(errors[norm](), level)


def _equal_mass(
  confidence_N: np.ndarray, weights_N: np.ndarray | None, bins: int
) -> tuple[np.ndarray, np.ndarray]:
  """The edges and the bins of confidences, which share a bin where equal."""
  values, group_N = np.unique(confidence_N, return_inverse=True)
  mass = _counts(group_N, weights_N, len(values))
  # The bin in which the middle of the group would fall, in whole numbers.
  middle = 2 * np.cumsum(mass) - mass
  bin_of_group = np.minimum(bins * middle // (2 * mass.sum()), bins - 1)
  largest = np.zeros(bins)
  # Values are in ascending order, so the last one to be stored is the largest.
  present = mass > 0
  largest[bin_of_group[present]] = values[present]
  edges = np.append(0.0, np.maximum.accumulate(largest))
  edges[-1] = 1.0
  return edges, bin_of_group[group_N]


def _counts(
  bin_N: np.ndarray, weights_N: np.ndarray | None, bins: int
) -> np.ndarray:
  # Whole numbers below 2**53 add up without rounding in float64 too.
  return np.bincount(bin_N, weights_N, bins).astype(np.int64)


@dataclasses.dataclass(frozen=True)
class CalibrationSummary:
  """What `summary` returns; the NLL is in nats, the Brier score from 0 to 2."""

  expected_calibration_error: float
  negative_log_likelihood: float
  brier_score: float
  accuracy: float


def summary(
  examples: PerExample, *, weights: ArrayLike | None = None, **binning: Any
) -> CalibrationSummary:
  """ECE, NLL, Brier score and accuracy from what `per_example` returns.

  The other arguments are those of `reliability_curve`.

  Examples:
    >>> logits = 2 * np.eye(3)[[0, 0, 1, 2, 2]]
    >>> examples = per_example(logits, np.array([0, 1, 1, 2, 0]))
    >>> summary(examples).accuracy
    0.6
    >>> round(summary(examples, weights=[2, 1, 1, 1, 0]).accuracy, 6)
    0.8
  """
  curve = reliability_curve(
    examples.confidence, examples.correct, weights=weights, **binning
  )
  return CalibrationSummary(
    calibration_error(curve),
    _mean(examples.nll, weights),
    _mean(examples.brier, weights),
    _mean(examples.correct.astype(np.float64), weights),
  )


def expected_calibration_error(
  logits: ArrayLike, labels: ArrayLike, **binning: Any
) -> float:
  r"""Expected calibration error (ECE) of the top prediction.

  .. math:: \mathrm{ECE} = \sum_b \frac{n_b}{N} |\mathrm{acc}_b -
    \mathrm{conf}_b|

  A perfectly calibrated model does not reach 0: `calibrated_range` says what it
  reaches.

  Args:
    **binning: `bins`, `binning`, `convention` and `weights` of
      `reliability_curve`; `binning='equal_mass'` makes it the adaptive ECE.

  References: Naeini et al., 2015; Guo et al., 2017, section 2.
  """
  top = per_example(logits, labels)
  curve = reliability_curve(top.confidence, top.correct, **binning)
  return calibration_error(curve)


def classwise_calibration_error(
  logits: ArrayLike, labels: ArrayLike, **binning: Any
) -> float:
  r"""Calibration error of the probability of every class, mean over classes.

  .. math:: \frac{1}{K} \sum_k \sum_b \frac{n_{bk}}{N} |\mathrm{freq}_{bk} -
    \mathrm{conf}_{bk}|

  For each class, all `N` examples are binned by the probability that they have
  for it; :math:`\mathrm{freq}_{bk}` is the share of them with the label `k`.
  Classes without examples take part. With many classes the value is small
  whatever the model: compare it only between models with the same classes.
  `binning` is as in `expected_calibration_error`.

  References: Kull et al., 2019; Nixon et al., 2019, who call it SCE.
  """
  return float(class_calibration_errors(logits, labels, **binning).mean())


def class_calibration_errors(
  logits: ArrayLike, labels: ArrayLike, **binning: Any
) -> np.ndarray:
  """The terms of `classwise_calibration_error`, one for each class, `[K]`.

  Examples:
    >>> logits = np.log([[0.5, 0.3, 0.2], [0.1, 0.8, 0.1]])
    >>> class_calibration_errors(logits, [1, 1]).round(4).tolist()
    [0.3, 0.45, 0.15]
  """
  logits_NK, labels_N = checks.logits_and_labels(logits, labels)
  fixed = _fixed_bins(**binning)
  if fixed:
    expected, bins = _class_sums(logits_NK, *fixed, labels_N[:, None])
    found = _class_counts(bins[:, 0], labels_N, expected.shape)
    return np.abs(found - expected).sum(0) / len(labels_N)
  return np.array(
    [
      calibration_error(reliability_curve(p_N, labels_N == k, **binning))
      for k, p_N in enumerate(_class_probabilities(logits_NK))
    ]
  )


def classwise_calibrated_range(
  logits: ArrayLike,
  *,
  level: float = 0.9,
  draws: int = 200,
  seed: int = 0,
  **binning: Any,
) -> bootstrap.Interval:
  """As `calibrated_range`, for `classwise_calibration_error`.

  The labels are drawn anew from the probabilities of the classes.
  """
  logits_NK = checks.class_scores(logits, masked=True)
  N, K = logits_NK.shape
  draws = integer('draws', draws, low=1)
  rng = np.random.default_rng(integer('seed', seed, low=0))

  def draw(z_BK: np.ndarray, u_BD: np.ndarray) -> np.ndarray:
    z_BK -= z_BK.max(1, keepdims=True)
    below_BK = np.cumsum(np.exp(z_BK, out=z_BK), 1)
    below_BK /= below_BK[:, -1:]
    # All rows are searched as one: row b is from b to b + 1.
    row_B1 = np.arange(len(z_BK))[:, None]
    below = (below_BK + row_B1).ravel()
    found_BD = np.searchsorted(below, u_BD + row_B1, 'right')
    return np.minimum(found_BD - K * row_B1, K - 1).astype(np.int32)

  labels_ND = map_rows(draw, logits_NK, rng.random((N, draws), np.float32))
  fixed = _fixed_bins(**binning)
  if fixed:
    expected, bins_ND = _class_sums(logits_NK, *fixed, labels_ND)
    errors = [
      np.abs(_class_counts(b, y, expected.shape) - expected).sum()
      for b, y in zip(bins_ND.T, labels_ND.T)
    ]
    return bootstrap.interval(np.array(errors) / (N * K), level)
  order = np.argsort(labels_ND, axis=None, kind='stable')
  ends = np.cumsum(np.bincount(labels_ND.ravel(), minlength=K))
  totals = np.zeros(draws)
  for p_N, drawn in zip(
    _class_probabilities(logits_NK), np.split(order, ends[:-1])
  ):
    p_N, edges, bin_N = _binned(p_N, **binning)
    M = len(edges) - 1
    cell = drawn % draws * M + bin_N[drawn // draws]
    count = np.bincount(cell, minlength=draws * M).reshape(draws, M)
    totals += np.abs(count - np.bincount(bin_N, p_N, M)).sum(1)
  return bootstrap.interval(totals / (N * K), level)


def _fixed_bins(
  bins: int = 15,
  binning: str = 'equal_width',
  convention: str = 'right',
  weights: ArrayLike | None = None,
) -> tuple[np.ndarray, Literal['left', 'right']] | None:
  """The edges of bins that do not depend on the data; otherwise None."""
  known = binning == 'equal_width' and convention in ('right', 'left')
  if not known or weights is not None:
    return None
  edges = np.linspace(0, 1, integer('bins', bins, low=1) + 1)
  return edges, 'left' if convention == 'right' else 'right'


def _class_sums(
  logits_NK: np.ndarray,
  edges: np.ndarray,
  side: Literal['left', 'right'],
  labels_NL: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
  """Sums of the probabilities `[M, K]` of each bin, and the bins of labels.

  Of many classes nearly all are in the first bin: only the others are sorted
  into bins.
  """
  M, (N, K) = len(edges) - 1, logits_NK.shape
  # Small enough for the cache, and for so many sums.
  size = max(1, (1 << 18) // K)

  def block(start: int) -> tuple[np.ndarray, np.ndarray]:
    part = slice(start, start + size)
    z_BK = logits_NK[part].astype(np.float64)
    z_BK -= z_BK.max(1, keepdims=True)
    p_BK = np.exp(z_BK, out=z_BK)
    p_BK /= p_BK.sum(1, keepdims=True)
    of_labels = np.take_along_axis(p_BK, labels_NL[part], 1)
    bins_BL = np.searchsorted(edges[1:-1], of_labels, side)
    first = p_BK <= edges[1] if side == 'left' else p_BK < edges[1]
    rows, classes = np.nonzero(~first)
    p = p_BK[rows, classes]
    cell = np.searchsorted(edges[1:-1], p, side) * K + classes
    moved = np.bincount(cell, p, M * K).reshape(M, K)
    moved[0] += p_BK.sum(0) - moved.sum(0)
    return moved, bins_BL.astype(np.int32)

  total, bins = np.zeros((M, K)), []
  for moved, bins_BL in pool().map(block, range(0, N, size)):
    total += moved
    bins.append(bins_BL)
  return total, np.concatenate(bins)


def _class_counts(
  bins_N: np.ndarray, labels_N: np.ndarray, shape: tuple[int, ...]
) -> np.ndarray:
  cell = bins_N * shape[1] + labels_N
  return np.bincount(cell, minlength=math.prod(shape)).reshape(shape)


def _class_probabilities(logits_NK: np.ndarray) -> Iterator[np.ndarray]:
  """The probabilities `[N]` of one class after the other."""

  def log_normalizer(z_BK: np.ndarray) -> np.ndarray:
    top_B = z_BK.max(1)
    return top_B + np.log(np.exp(z_BK - top_B[:, None]).sum(1))

  log_normalizer_N = map_rows(log_normalizer, logits_NK)
  for k in range(logits_NK.shape[1]):
    z_N = np.ascontiguousarray(logits_NK[:, k])
    # Rounding may exceed 1.
    yield np.minimum(np.exp(z_N - log_normalizer_N), 1)


@dataclasses.dataclass(frozen=True)
class TemperatureFit:
  """What `fit_temperature` returns."""

  temperature: float  # `T`; the probabilities are `softmax(logits / T)`
  # The objective at this temperature, on the data that were fitted.
  value: float
  value_at_one: float  # the objective at T = 1, never less than `value`
  objective: str  # `'nll'` or `'ece'`
  # `'lower'` or `'upper'` if the temperature is the lowest or highest one
  # allowed; otherwise None.
  bound: str | None


def fit_temperature(
  logits: ArrayLike,
  labels: ArrayLike,
  *,
  objective: str = 'nll',
  bins: int = 15,
) -> TemperatureFit:
  r"""Finds the temperature that fits logits to labels.

  .. math:: p = \mathrm{softmax}(z / T)

  `'nll'` minimises the negative log-likelihood, as Guo et al. The NLL is
  convex in :math:`1/T`, and a bracketed Newton search in :math:`\log T` finds
  its only minimum, or a bound, 0.01 or 100: the lower one if every label has
  the largest logit, the upper one if the logits say less than nothing. It is 1
  where the NLL does not depend on it.

  `'ece'` minimises the expected calibration error with bins of equal width,
  on the grid that Guo et al. (2025) search: 0.1, 0.6, ..., 9.6; then 10 points
  from :math:`T - 0.5` to :math:`T + 0.5`, and 10 from :math:`T - 0.1` to
  :math:`T + 0.1`, around the best so far; the first of equals wins. Unlike
  them, it skips temperatures that are not positive, and prefers T = 1 where
  nothing on the grid is better. They search on the test set, with 20 bins;
  `temperature_scaling` fits and reports on different halves.

  The result is never worse than T = 1 on these data. `bins` is for `'ece'`.

  Examples:
    Twice right and once wrong by a margin of 2: the softmax should say 2/3.

    >>> logits, labels = np.array([[2.0, 0.0]] * 3), np.array([0, 0, 1])
    >>> fit = fit_temperature(logits, labels)
    >>> round(fit.temperature, 4)  # 2 / log(2)
    2.8854
    >>> round(fit.value, 4), round(fit.value_at_one, 4)
    (0.6365, 0.7936)
    >>> fit.bound is None
    True

  References: Guo et al., 2017, section 4.2; Guo et al., 2025, and its code.
  """
  logits_NK, labels_N = checks.logits_and_labels(logits, labels)
  one_of('objective', objective, ('nll', 'ece'))
  integer('bins', bins, low=1)
  if objective == 'ece':
    return _fit_ece(logits_NK, labels_N, bins)
  return _fit_nll(logits_NK, labels_N)


@dataclasses.dataclass(frozen=True, eq=False)
class VectorScaling:
  """What `fit_vector_scaling` returns: `softmax(scale * logits + shift)`."""

  scale: np.ndarray  # float64 `[K]`
  shift: np.ndarray  # float64 `[K]`; its mean is 0
  value: float  # the mean NLL of the examples that were fitted
  value_before: float

  def scaled(self, logits: ArrayLike) -> np.ndarray:
    """The logits after it, float64 `[N, K]`."""
    logits_NK = checks.class_scores(logits)
    return logits_NK * self.scale + self.shift


def fit_vector_scaling(logits: ArrayLike, labels: ArrayLike) -> VectorScaling:
  r"""Finds a factor and a shift for every class, of least NLL.

  .. math:: p = \mathrm{softmax}(w \odot z + b)

  By L-BFGS from w = 1 and b = 0, at most 200 steps; the problem is convex. No
  logits may be masked. It has 2K numbers, so that it needs many examples of
  each class; the predictions may change.

  Examples:
    Logits that do not know that a class is twice as frequent:

    >>> labels = np.array([0, 0, 1, 1, 1, 1])
    >>> fit = fit_vector_scaling(np.zeros((6, 2)), labels)
    >>> np.exp(fit.shift[1] - fit.shift[0]).round(3).item()
    2.0

  References: Guo et al., 2017, section 4.2.
  """
  logits_NK, labels_N = checks.logits_and_labels(logits, labels)
  checks.finite(logits_NK, 'logits')
  N, K = logits_NK.shape
  z_NK = logits_NK.astype(np.float64)
  onehot = sparse.csr_array((np.ones(N), (np.arange(N), labels_N)), (N, K))
  of_labels = onehot.T @ np.ones(N), onehot.multiply(z_NK).sum(0)

  def loss(x: np.ndarray) -> tuple[float, np.ndarray]:
    u_NK = z_NK * x[:K] + x[K:]
    chosen = u_NK[np.arange(N), labels_N].sum()
    top_N1 = u_NK.max(1, keepdims=True)
    p_NK = np.exp(u_NK - top_N1)
    total_N1 = p_NK.sum(1, keepdims=True)
    p_NK /= total_N1
    nll = (top_N1 + np.log(total_N1)).sum() - chosen
    count_K, sum_K = of_labels
    slopes = np.einsum('ij,ij->j', p_NK, z_NK) - sum_K, p_NK.sum(0) - count_K
    return nll / N, np.concatenate(slopes) / N

  start = np.repeat([1.0, 0.0], K)
  options = {'maxiter': 200, 'ftol': 1e-12, 'gtol': 1e-7}
  found = optimize.minimize(
    loss, start, jac=True, method='L-BFGS-B', options=options
  )
  scale, shift = found.x[:K], found.x[K:] - found.x[K:].mean()
  return VectorScaling(scale, shift, float(found.fun), float(loss(start)[0]))


def _fit_nll(logits_NK: np.ndarray, labels_N: np.ndarray) -> TemperatureFit:
  def nll(T: float) -> float:
    examples = per_example(logits_NK, labels_N, temperature=T)
    return float(examples.nll.mean())

  def derivatives(T: float) -> tuple[float, float]:
    return _derivatives(logits_NK, labels_N, 1 / T)

  if (logits_NK == logits_NK[:, :1]).all():
    T, bound = 1.0, None  # the loss does not depend on T
  else:
    T, bound = _minimum(derivatives, *_BOUNDS)
  at_one = nll(1.0)
  value = at_one if T == 1 else nll(T)
  if value > at_one:  # by rounding alone
    T, value, bound = 1.0, at_one, None
  return TemperatureFit(T, value, at_one, 'nll', bound)


def _minimum(
  derivatives: Callable[[float], tuple[float, float]], low: float, high: float
) -> tuple[float, str | None]:
  """Where the first derivative by 1/T, which falls with T, changes sign."""
  slope, curvature = derivatives(1.0)
  if slope == 0:
    # Without curvature every softmax is, in float64, on the largest logits
    # alone, and the label is one of them: the data are separable.
    return (1.0, None) if curvature else (low, 'lower')
  if slope < 0:
    if derivatives(low)[0] <= 0:
      return low, 'lower'
    left, right = np.log(low), 0.0
  else:
    if derivatives(high)[0] >= 0:
      return high, 'upper'
    left, right = 0.0, np.log(high)
  # The minimum is between exp(left) and exp(right).
  x, last = 0.0, np.inf
  for _ in range(_MAX_STEPS):
    # d slope / d log T is -curvature / T.
    step = slope * np.exp(x) / curvature if curvature > 0 else np.inf
    # A step that leaves the bracket, or does not halve the one before, may be
    # one of a sequence that converges slowly or not at all.
    if not left <= x + step <= right or abs(step) > last / 2:
      step = (left + right) / 2 - x
    x, last = x + step, abs(step)
    if last <= _TOLERANCE:
      break
    slope, curvature = derivatives(float(np.exp(x)))
    if slope == 0:
      break
    left, right = (left, x) if slope < 0 else (x, right)
  return float(np.exp(x)), None


def _derivatives(
  logits_NK: np.ndarray, labels_N: np.ndarray, beta: float
) -> tuple[float, float]:
  """The first and second derivative of the mean NLL by beta = 1/T."""

  def block(z_BK: np.ndarray, y_B: np.ndarray) -> tuple[np.ndarray, ...]:
    z_BK -= z_BK.max(1, keepdims=True)
    # Masked classes count for 0 times a number, not for 0 times infinity.
    np.maximum(z_BK, _LOWEST, out=z_BK)
    e_BK = np.exp(beta * z_BK)
    total_B = e_BK.sum(1)
    mean_B = np.einsum('ij,ij->i', e_BK, z_BK) / total_B
    slope_B = mean_B - z_BK[np.arange(len(y_B)), y_B]
    z_BK -= mean_B[:, None]
    e_BK *= z_BK
    return slope_B, np.einsum('ij,ij->i', e_BK, z_BK) / total_B

  slope_N, curvature_N = map_rows(block, logits_NK, labels_N)
  return float(slope_N.mean()), float(curvature_N.mean())


def _fit_ece(
  logits_NK: np.ndarray, labels_N: np.ndarray, bins: int
) -> TemperatureFit:
  values: dict[float, float] = {}
  correct_N = logits_NK.argmax(1) == labels_N

  def try_all(temperatures: Iterable[float]) -> float:
    new = [T for T in map(float, temperatures) if T > 0 and T not in values]

    def confidences(z_BK: np.ndarray) -> tuple[np.ndarray, ...]:
      z_BK -= z_BK.max(1, keepdims=True)
      return tuple(1 / np.exp(z_BK / T).sum(1) for T in new)

    for T, top_N in zip(new, map_rows(confidences, logits_NK)):
      curve = reliability_curve(top_N, correct_N, bins=bins)
      values[T] = calibration_error(curve)
    # Dictionaries keep their order, so this is the first of equals.
    return min(values, key=values.__getitem__)

  T = try_all(np.arange(20) / 2 + 0.1)
  for radius in (0.5, 0.1):
    T = try_all(np.linspace(T - radius, T + radius, 10))
  try_all([1.0])
  if values[1.0] <= values[T]:
    T = 1.0
  bound = {min(values): 'lower', max(values): 'upper'}.get(T)
  return TemperatureFit(T, values[T], values[1.0], 'ece', bound)


@dataclasses.dataclass(frozen=True, eq=False)
class TemperatureScaling:
  """What `temperature_scaling` returns."""

  fit: TemperatureFit  # of `fit_temperature`, on the examples that were fitted
  before: CalibrationSummary  # at T = 1, on the other examples
  # At the temperature, on the same examples as `before`.
  after: CalibrationSummary
  # The positions of the examples that were fitted, ascending.
  fit_examples: np.ndarray
  report_examples: np.ndarray  # the positions of the other ones, ascending


def temperature_scaling(
  logits: ArrayLike,
  labels: ArrayLike,
  *,
  fit_fraction: float = 0.5,
  seed: int = 0,
  objective: str = 'nll',
  bins: int = 15,
  groups: ArrayLike | None = None,
) -> TemperatureScaling:
  """Fits a temperature on some examples and measures it on the others.

  A `fit_fraction` of the examples is drawn at random, at least one, and one is
  left. Two models with the same seed are split alike. With `groups`, [N], such
  as the images that pixels are of, whole groups are drawn.

  References: Guo et al., 2017, section 4.2.
  """
  logits_NK, labels_N = checks.logits_and_labels(logits, labels)
  N, what, members_N = len(labels_N), 'examples', np.arange(len(labels_N))
  if groups is not None:
    groups_N = checks.array(groups, 'groups')
    checks.same_length(labels=labels_N, groups=groups_N)
    there, members_N = np.unique(groups_N, return_inverse=True)
    N, what = len(there), 'groups'
  if N < 2:
    raise UsageError(
      f'temperature scaling needs at least 2 {what}: one to fit, one to report'
    )
  fit_fraction = number('fit_fraction', fit_fraction, above=0, below=1)
  count = min(max(round(fit_fraction * N), 1), N - 1)
  rng = np.random.default_rng(integer('seed', seed, low=0))
  drawn = np.isin(members_N, rng.permutation(N)[:count])
  fitted, reported = np.flatnonzero(drawn), np.flatnonzero(~drawn)
  fit = fit_temperature(
    logits_NK[fitted], labels_N[fitted], objective=objective, bins=bins
  )
  others = logits_NK[reported], labels_N[reported]
  before, after = (
    summary(per_example(*others, temperature=T), bins=bins)
    for T in (1.0, fit.temperature)
  )
  return TemperatureScaling(fit, before, after, fitted, reported)
