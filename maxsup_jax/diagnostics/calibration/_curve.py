"""The reliability curve, and the calibration errors that summarise it."""

import dataclasses

import numpy as np
from numpy.typing import ArrayLike

from maxsup_jax.diagnostics import _checks
from maxsup_jax.diagnostics.calibration import _bins
from maxsup_jax.errors import UsageError


@dataclasses.dataclass(frozen=True, eq=False)
class ReliabilityCurve:
  """Accuracy against confidence in `M` bins of confidence.

  Attributes:
    edges: the limits of the bins in ascending order, `[M + 1]`.
    count: the number of examples in each bin, int64 `[M]`.
    accuracy: the share of correct ones, `[M]`; NaN in a bin without examples.
    confidence: their mean confidence, `[M]`; NaN in a bin without examples.
  """

  edges: np.ndarray
  count: np.ndarray
  accuracy: np.ndarray
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
  * `'left'`: bins :math:`[l, h)`, with 1 in the last one (`numpy.histogram`
    with these edges, netcal);
  * `'torchmetrics'`: bins :math:`[l, h)`, and one more bin, of width 0, for a
    confidence of exactly 1. The curve has `bins + 1` bins.

  The bins of `'equal_mass'` follow the data (adaptive ECE): their counts
  differ by 1 at most where no two confidences are equal. Equal confidences
  always share a bin, the one in which their middle falls when all examples
  are put in a row; so the order of the examples does not matter, but the
  counts may differ and bins stay empty where there are many ties. The upper
  edge of a bin is its largest confidence, and that of the last bin is 1.

  Sums are exact: neither the order of the examples nor repeating an example
  in place of a weight changes a bit of the result.

  Args:
    confidence: from 0 to 1, `[N]`. Pass float64 where you can: a float32
      number beside an edge may be on its other side.
    correct: bool `[N]`, or numbers from 0 to 1.
    bins: the number of bins.
    binning: `'equal_width'` or `'equal_mass'`.
    convention: for bins of equal width, `'right'`, `'left'` or
      `'torchmetrics'`.
    weights: how many times each example counts, integer or bool `[N]`;
      default: once. So the resamples of `diagnostics.bootstrap` need no copies.

  Returns:
    A `ReliabilityCurve`.

  Raises:
    UsageError: if an array has the wrong shape, dtype or values, the number of
      bins is not positive, a name is not known, or a convention other than
      the default is asked for bins of equal mass, which have none.

  Examples:
    >>> import numpy as np
    >>> from maxsup_jax.diagnostics import calibration
    >>> confidence, correct = np.array([0.2, 0.9, 0.7]), np.array([0, 1, 0])
    >>> curve = calibration.reliability_curve(confidence, correct, bins=2)
    >>> curve.count.tolist(), curve.confidence.round(4).tolist()
    ([1, 2], [0.2, 0.8])
    >>> round(calibration.calibration_error(curve), 4)
    0.2667

    The bin that torchmetrics adds changes the error:

    >>> for convention in ('right', 'left', 'torchmetrics'):
    ...   curve = calibration.reliability_curve(
    ...     np.array([0.95, 1.0]), np.array([1, 0]), convention=convention
    ...   )
    ...   print(round(calibration.calibration_error(curve), 4))
    0.475
    0.475
    0.525

  References:
    Guo et al., `On Calibration of Modern Neural Networks
    <https://arxiv.org/abs/1706.04599>`_, 2017, section 2.
  """
  confidence_N, correct_N = _bins.confidence_and_correct(confidence, correct)
  bins = options(bins, binning, convention)
  weights_N = None
  if weights is not None:
    weights_N = _checks.multiplicities(weights, len(confidence_N))
  if binning == 'equal_width':
    edges = _bins.equal_width_edges(bins, convention)
    bin_N = _bins.equal_width(confidence_N, edges, convention)
  else:
    edges, bin_N = _bins.equal_mass(confidence_N, weights_N, bins)
  M = len(edges) - 1
  return from_sums(
    edges,
    _bins.sums(bin_N, None, weights_N, M),
    _bins.sums(bin_N, correct_N, weights_N, M),
    _bins.sums(bin_N, confidence_N, weights_N, M),
  )


def calibration_error(curve: ReliabilityCurve, norm: str = 'l1') -> float:
  r"""The distance of a reliability curve from the diagonal.

  With :math:`\delta_b = |\mathrm{acc}_b - \mathrm{conf}_b|` and the shares
  :math:`w_b = n_b / N` of the examples:

  * `'l1'`: :math:`\sum_b w_b \delta_b`, the expected calibration error;
  * `'l2'`: :math:`\sqrt{\sum_b w_b \delta_b^2}`;
  * `'max'`: :math:`\max_b \delta_b` over the bins with examples, the maximum
    calibration error.

  Args:
    curve: of `reliability_curve` or `ReliabilityAccumulator.compute`.
    norm: `'l1'`, `'l2'` or `'max'`.

  Returns:
    A number from 0 to 1; NaN if the curve has no examples at all, which only
    an accumulator without any update leads to.

  Raises:
    UsageError: if the norm is not known.

  Examples:
    >>> import numpy as np
    >>> from maxsup_jax.diagnostics import calibration
    >>> curve = calibration.reliability_curve(
    ...   np.array([0.2, 0.9, 0.7]), np.array([0, 1, 0]), bins=2
    ... )
    >>> for norm in ('l1', 'l2', 'max'):
    ...   print(round(calibration.calibration_error(curve, norm), 4))
    0.2667
    0.2708
    0.3

  References:
    Guo et al., `On Calibration of Modern Neural Networks
    <https://arxiv.org/abs/1706.04599>`_, 2017, section 2.
  """
  _checks.one_of(norm, 'norm', ('l1', 'l2', 'max'))
  used = curve.count > 0
  if not used.any():
    return float('nan')
  gap = np.abs(curve.accuracy - curve.confidence)[used]
  if norm == 'max':
    return float(gap.max())
  share = curve.count[used] / curve.count.sum()
  if norm == 'l2':
    return float(np.sqrt(share @ gap**2))
  return float(share @ gap)


def options(bins: int, binning: str, convention: str) -> int:
  """Checks how to bin, and returns the number of bins."""
  bins = _checks.at_least(bins, 'bins', 1)
  _checks.one_of(binning, 'binning', _bins.BINNINGS)
  _checks.one_of(convention, 'convention', _bins.CONVENTIONS)
  if binning == 'equal_mass' and convention != 'right':
    raise UsageError(
      f'convention is {convention!r}; bins of equal mass know only the default'
    )
  return bins


def from_sums(
  edges: np.ndarray,
  count: np.ndarray,
  correct: np.ndarray,
  confidence: np.ndarray,
) -> ReliabilityCurve:
  """The curve of counts, and of sums as `_bins.sums` returns them."""
  means = [
    np.divide(
      _bins.total(parts),
      count,
      out=np.full(len(count), np.nan),
      where=count > 0,
    )
    for parts in (correct, confidence)
  ]
  return ReliabilityCurve(edges, count, means[0], means[1])
