"""How much a difference of logits tells about the example it came from."""

import dataclasses
import math

import numpy as np
from numpy.typing import ArrayLike

from maxsup_jax.diagnostics import _blocks, checks


@dataclasses.dataclass(frozen=True)
class MutualInformation:
  """Estimates of the mutual information, in nats, from 0 to log N or so.

  Attributes:
    in_sample: the estimate with the examples' means taken over all L samples,
      the evaluated ones among them: the paper's, as far as its text says. It
      is too high, by about 0.11 at L = 5.
    cross_fitted: the estimate at samples that the means have not seen. It is
      too low, by about 0.07 with means of 5 samples, and may be negative.
    sigma: the standard deviation of the samples that `in_sample` uses.
    cross_fitted_sigma: that of `cross_fitted`.
    maximum: log N, which no estimate exceeds: Y tells the examples apart.
  """

  in_sample: float
  cross_fitted: float
  sigma: float
  cross_fitted_sigma: float
  maximum: float


def class_logit_difference(logits: ArrayLike, a: int, b: int) -> np.ndarray:
  """The logit of one class minus that of another, with its sign.

  The sign carries which of the two classes an example belongs to. Without it
  up to log 2 nats are lost.

  Args:
    logits: floating point `[N, L, K]`: N examples, each under L random
      augmentations.
  """
  logits = checks.array(logits, 'logits')
  if logits.ndim != 3:
    raise checks.wrong_shape('logits', logits, '[examples, samples, classes]')
  a, b = checks.class_ids(np.array([a, b]), logits.shape[2], 'classes')
  pair = checks.finite(logits[..., [a, b]], 'logits').astype(np.float64)
  checks.refuse_probabilities(logits, 'logits')
  return pair[..., 0] - pair[..., 1]


def mutual_information(differences: ArrayLike) -> MutualInformation:
  r"""Mutual information of the example's index and a difference of logits.

  X is the index of a training example, uniform over N of them (the paper takes
  600 of two classes), Y the difference of two logits under a random
  augmentation, the only noise. p(y|x) is taken to be a Gaussian about the
  example's mean with one variance for all examples:

  .. math::
    \hat I = \frac1N \sum_x \left[ q_{xx} - \log \frac1N \sum_{x'} e^{q_{xx'}}
    \right], \quad q_{xx'} = -\frac{(y_x - \mu_{x'})^2}{2 \sigma^2}, \quad
    \mu_x = \frac1L \sum_l y_{xl}

  The inner sum is over *all* examples x'. The paper prints the same index x in
  both sums, which would give about -0.153 for any Gaussian data.

  The paper does not say which samples y are. Both readings are returned,
  averaged over all samples: `in_sample` evaluates the samples that the means
  are made of; `cross_fitted` leaves one sample out at a time, for all examples
  alike, so its means are those of L - 1 samples. Between the two lies the
  truth; both errors vanish as L grows. About log 2 = 0.69 is left where the
  examples of each of two classes have collapsed to a point.

  Where no sample differs from its example's mean, sigma is 0 and the estimate
  is its limit as the noise vanishes: the entropy of the distinct values.

  Args:
    differences: floating point `[N, L]`: N examples, L samples of each, at
      least 2. Time is proportional to :math:`N^2 L`, memory to N.

  Examples:
    Two classes of 300 examples, each collapsed to one point:

    >>> rng = np.random.default_rng(0)
    >>> points = np.repeat([-10.0, 10.0], 300)[:, None]
    >>> information = mutual_information(points + rng.normal(size=(600, 5)))
    >>> round(information.in_sample, 2), round(information.cross_fitted, 2)
    (0.8, 0.62)

  References: Müller et al., 2019, version 3, Section 4, Figure 6 (earlier
    versions have another formula).
  """
  y_NL = checks.matrix(differences, 'differences', 'samples')
  N, L = y_NL.shape
  if L < 2:
    raise checks.wrong_shape(
      'differences', y_NL, 'at least 2 samples per example'
    )
  # Centred, so that means lose no digits where the differences share an offset.
  y_NL = y_NL.astype(np.float64)
  y_NL = y_NL - y_NL.mean()
  mean_N1 = y_NL.mean(1, keepdims=True)
  in_sample, sigma = _estimate(y_NL, np.repeat(mean_N1, L, 1))
  others_NL = (y_NL.sum(1, keepdims=True) - y_NL) / (L - 1)
  cross_fitted, cross_sigma = _estimate(y_NL, others_NL)
  return MutualInformation(
    in_sample, cross_fitted, sigma, cross_sigma, math.log(N)
  )


def _estimate(y_NL: np.ndarray, mean_NL: np.ndarray) -> tuple[float, float]:
  """The estimate of samples at means, averaged over columns, and its sigma."""
  # Sizes that cannot be squared become about 1, without rounding.
  top = max(np.abs(y_NL).max(), np.abs(mean_NL).max())
  scale = 2.0 ** float(np.frexp(top)[1])
  y_NL, mean_NL = y_NL / scale, mean_NL / scale
  sigma = float(np.sqrt(np.square(y_NL - mean_NL).mean()))
  values = [
    _column(y_N, mean_N, sigma) for y_N, mean_N in zip(y_NL.T, mean_NL.T)
  ]
  return float(np.mean(values)), sigma * scale


def _column(y_N: np.ndarray, mean_N: np.ndarray, sigma: float) -> float:
  """The estimate at one sample of each example."""
  N = len(y_N)
  if sigma == 0:
    _, index, count = np.unique(y_N, return_inverse=True, return_counts=True)
    return float(math.log(N) - np.log(count[index]).mean())

  def rows(y_BN: np.ndarray, own_mean_B: np.ndarray) -> np.ndarray:
    # Means far from a sample may overflow to -inf, whose exponential is 0.
    with np.errstate(over='ignore', under='ignore'):
      q_BN = -0.5 * np.square((y_BN - mean_N) / sigma)
      own_B = -0.5 * np.square((y_BN[:, 0] - own_mean_B) / sigma)
      # The largest q is that of the nearest mean, so at least the own one.
      top_B = q_BN.max(1)
      total_B = np.exp(q_BN - top_B[:, None]).mean(1)
    return own_B - top_B - np.log(total_B)

  # The rows repeat one number, so the N x N matrix exists a block at a time.
  y_NN = np.broadcast_to(y_N[:, None], (N, N))
  return float(_blocks.map_rows(rows, y_NN, mean_N).mean())
