"""How much the predicted distributions of one class differ."""

import dataclasses

import numpy as np
import scipy.special
from numpy.typing import ArrayLike

from maxsup_jax.diagnostics import _checks
from maxsup_jax.diagnostics._class_sums import check_means


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class Stability:
  """The stability of the predictions.

  Attributes:
    value: S; 1 where all examples of a class get the same prediction.
    variance: 1 - S, which the paper tabulates: the mean over the classes of
      `variance_per_class`.
    variance_per_class: the mean squared distance of the predictions of a class
      from their mean, `[K]`.
    counts: examples of every class, `[K]`.
  """

  value: float
  variance: float
  variance_per_class: np.ndarray
  counts: np.ndarray


def stability(logits: ArrayLike, labels: ArrayLike) -> Stability:
  r"""The stability of the predictions within the true classes.

  .. math::
    S = 1 - \frac{1}{K} \sum_c \frac{1}{n_c} \sum_{i: y_i = c} \|p_i - \bar
    p_c\|^2

  with :math:`p_i` the softmax of the logits, in float64, and :math:`\bar p_c`
  its mean over the examples of class c.

  Args:
    logits: floating point `[N, K]`.
    labels: class ids, integer `[N]`.

  Returns:
    S, and the variance of every class.

  Raises:
    UsageError: one line, for wrong shapes, dtypes or labels, logits that are
      not finite, or a class without examples.

  Examples:
    >>> import numpy as np
    >>> from maxsup_jax.diagnostics import representation
    >>> logits = np.log([[.8, .2], [.6, .4], [.1, .9]])
    >>> result = representation.stability(logits, np.array([0, 0, 1]))
    >>> print(round(result.value, 6), result.variance_per_class.round(6))
    0.99 [0.02 0. ]

  References:
    Shen et al., `Is Label Smoothing Truly Incompatible with Knowledge
    Distillation: An Empirical Study <https://arxiv.org/abs/2104.00676>`_, ICLR
    2021.
  """
  logits, labels = _checks.logits_and_labels(logits, labels)
  K = logits.shape[1]
  count_K = np.bincount(labels, minlength=K)
  check_means(count_K, np.zeros((K, 1)))
  rows = np.split(np.argsort(labels, kind='stable'), np.cumsum(count_K)[:-1])
  variance_K = np.empty(K)
  for k, rows_k in enumerate(rows):
    p = scipy.special.softmax(logits[rows_k].astype(np.float64), 1)
    p -= p.mean(0)
    variance_K[k] = np.square(p).sum() / len(p)
  variance = float(variance_K.mean())
  return Stability(
    value=1 - variance,
    variance=variance,
    variance_per_class=variance_K,
    counts=count_K,
  )
