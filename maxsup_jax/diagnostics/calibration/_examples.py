"""What each example contributes to calibration, in one pass over the logits."""

import dataclasses

import numpy as np
from numpy.typing import ArrayLike

from maxsup_jax.diagnostics import _blocks, _checks

# Logits up to 1e150, divided by it, are still far from overflowing.
TEMPERATURES = (1e-100, 1e100)


@dataclasses.dataclass(frozen=True, eq=False)
class PerExample:
  """What `per_example` returns; every array is `[N]`.

  Attributes:
    confidence: the largest softmax probability, float64.
    correct: whether the predicted class is the label, bool.
    nll: the negative log-likelihood of the label, in nats, float64.
    brier: the squared distance of the probabilities from the one-hot label,
      float64, from 0 to 2.
  """

  confidence: np.ndarray
  correct: np.ndarray
  nll: np.ndarray
  brier: np.ndarray


def softmax(logits: ArrayLike) -> np.ndarray:
  r"""Class probabilities in float64.

  .. math:: p_k = \frac{e^{z_k}}{\sum_j e^{z_j}}

  Args:
    logits: floating point `[N, K]`, or `[N]` or `[N, 1]` for the single logit
      `z` of a binary classifier, which stands for `(0, z)`.

  Returns:
    Float64 `[N, K]`; it never overflows.

  Raises:
    UsageError: if the logits have the wrong shape or dtype, are not finite, or
      exceed 1e150 in float64.

  Examples:
    >>> import numpy as np
    >>> from maxsup_jax.diagnostics import calibration
    >>> calibration.softmax(np.array([[1e4, 1e4], [0.0, -1e4]])).tolist()
    [[0.5, 0.5], [1.0, 0.0]]
  """

  def block(z_BK):
    e_BK = np.exp(z_BK - z_BK.max(1, keepdims=True))
    return e_BK / e_BK.sum(1, keepdims=True)

  return _blocks.map_rows(block, _checks.class_scores(logits))


def per_example(
  logits: ArrayLike, labels: ArrayLike, *, temperature: float = 1.0
) -> PerExample:
  r"""Confidence, correctness, NLL and Brier score of every example.

  One pass over the logits computes all four; the means, the reliability curve
  and their bootstrap need nothing else. For :math:`p = \mathrm{softmax}(z/T)`:

  .. math::
    \mathrm{confidence} = \max_k p_k, \quad
    \mathrm{nll} = -\log p_y, \quad
    \mathrm{brier} = \sum_k (p_k - [k = y])^2

  The prediction is the class of the largest logit, the first one of several,
  so that it does not depend on the temperature. NLL and Brier score keep their
  relative precision where the label's probability is close to 1.

  Args:
    logits: floating point `[N, K]`, or `[N]` or `[N, 1]` for the single logit
      `z` of a binary classifier, which stands for `(0, z)`.
    labels: class ids, integer `[N]`.
    temperature: `T`, what the logits are divided by; from 1e-100 to 1e100.

  Returns:
    A `PerExample`.

  Raises:
    UsageError: if the logits or labels have the wrong shape or dtype, if a
      logit is not finite, or exceeds 1e150 in float64, if a label is no class
      or the temperature out of its range.

  Examples:
    >>> import numpy as np
    >>> from maxsup_jax.diagnostics import calibration
    >>> logits = np.log([[0.5, 0.3, 0.2], [0.1, 0.8, 0.1]])
    >>> examples = calibration.per_example(logits, np.array([1, 1]))
    >>> examples.confidence.round(4).tolist(), examples.correct.tolist()
    ([0.5, 0.8], [False, True])
    >>> examples.nll.round(4).tolist(), examples.brier.round(4).tolist()
    ([1.204, 0.2231], [0.78, 0.06])
  """
  logits_NK, labels_N = _checks.logits_and_labels(logits, labels)
  T = _checks.between(temperature, 'temperature', *TEMPERATURES)

  def block(z_BK, y_B):
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

  return PerExample(*_blocks.map_rows(block, logits_NK, labels_N))


def top_confidence(
  logits: ArrayLike, labels: ArrayLike
) -> tuple[np.ndarray, np.ndarray]:
  """The largest softmax probability, and whether its class is the label.

  Args:
    logits: as in `per_example`.
    labels: class ids, integer `[N]`.

  Returns:
    The confidence, float64 `[N]`, and bool `[N]`, True where the first of the
    largest logits is the label's.

  Raises:
    UsageError: as `per_example`.

  Examples:
    >>> import numpy as np
    >>> from maxsup_jax.diagnostics import calibration
    >>> confidence, correct = calibration.top_confidence(
    ...   np.log([[0.5, 0.3, 0.2], [0.1, 0.8, 0.1]]), np.array([1, 1])
    ... )
    >>> confidence.round(4).tolist(), correct.tolist()
    ([0.5, 0.8], [False, True])
  """
  examples = per_example(logits, labels)
  return examples.confidence, examples.correct


def negative_log_likelihood(
  logits: ArrayLike, labels: ArrayLike, *, weights: ArrayLike | None = None
) -> float:
  r"""The mean negative log-likelihood of the labels: plain cross-entropy.

  .. math:: \frac{1}{N} \sum_i \Big( \log \sum_k e^{z_{ik}} - z_{i y_i} \Big)

  Args:
    logits: as in `per_example`.
    labels: class ids, integer `[N]`.
    weights: how many times each example counts, integer `[N]`; default: once.

  Returns:
    Nats, at least 0.

  Raises:
    UsageError: as `per_example`, and if the weights are not integers, negative
      or all 0.

  Examples:
    >>> import numpy as np
    >>> from maxsup_jax.diagnostics import calibration
    >>> logits = np.array([[1e4, 0.0], [0.0, 0.0]])
    >>> nll = calibration.negative_log_likelihood(logits, np.array([0, 1]))
    >>> round(nll, 4)  # log(2) / 2
    0.3466
  """
  return mean(per_example(logits, labels).nll, weights)


def brier_score(
  logits: ArrayLike, labels: ArrayLike, *, weights: ArrayLike | None = None
) -> float:
  r"""The mean squared distance of the probabilities from the one-hot labels.

  .. math:: \frac{1}{N} \sum_i \sum_k (p_{ik} - [k = y_i])^2

  This is Brier's sum over all classes, from 0 to 2. For two classes it is
  twice the mean of :math:`(p_1 - y)^2`, which scikit-learn returns for them
  unless `scale_by_half=False`.

  Args:
    logits: as in `per_example`.
    labels: class ids, integer `[N]`.
    weights: how many times each example counts, integer `[N]`; default: once.

  Returns:
    A number from 0 to 2.

  Raises:
    UsageError: as `negative_log_likelihood`.

  Examples:
    >>> import numpy as np
    >>> from maxsup_jax.diagnostics import calibration
    >>> logits = np.log([[0.5, 0.3, 0.2], [0.1, 0.8, 0.1]])
    >>> round(calibration.brier_score(logits, np.array([1, 1])), 4)
    0.42

  References:
    Brier, `Verification of Forecasts Expressed in Terms of Probability
    <https://doi.org/10.1175/1520-0493(1950)078%3C0001:VOFEIT%3E2.0.CO;2>`_,
    1950.
  """
  return mean(per_example(logits, labels).brier, weights)


def mean(values_N: np.ndarray, weights: ArrayLike | None = None) -> float:
  """The mean of values of which each counts as often as its weight says."""
  if weights is None:
    return float(values_N.mean())
  weights_N = _checks.multiplicities(weights, len(values_N))
  return float((weights_N * values_N).sum() / weights_N.sum())
