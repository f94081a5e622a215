"""What an objective did to the logits: their density, size and spread."""

import dataclasses
import math
from typing import NamedTuple

import numpy as np
import scipy.special
from numpy.typing import ArrayLike
from scipy import fft

from maxsup_jax.diagnostics import _blocks, checks
from maxsup_jax.diagnostics._class_sums import check_means
from maxsup_jax.errors import UsageError, number

# Numbers that are made float64 at a time.
_CHUNK = 1 << 17
# A bin for the logits is a small part of a bandwidth.
_BINS_PER_BANDWIDTH = 64
_MOST_BINS = 1 << 22
# The kernel is cut where it is below 1e-14 of its peak.
_KERNEL_REACH = 8


class Density(NamedTuple):
  """A density on an even grid."""

  grid: np.ndarray  # where, float64 `[M]`
  # The density there, float64 `[M]`. Its trapezoidal integral is 1.
  density: np.ndarray


def _convolve(values: np.ndarray, kernel: np.ndarray) -> np.ndarray:
  """Their full convolution; both are at least 0, and so is the result."""
  length = len(values) + len(kernel) - 1
  n = fft.next_fast_len(length, real=True)
  product = fft.rfft(values, n) * fft.rfft(kernel, n)
  # Fourier transforms round below 0.
  return np.maximum(fft.irfft(product, n)[:length], 0)


def logit_density(
  logits: ArrayLike, *, bandwidth: float | None = None
) -> Density:
  r"""The density of all logits, pooled, as a Gaussian kernel estimate.

  .. math::
    f(x) = \frac{1}{n} \sum_i \mathcal{N}(x - z_i; 0, h^2), \quad
    h = s n^{-1/5}

  with each z rounded to the middle of a bin of at most h / 32. It is the figure
  of MaxSup's paper, drawn there from the first 10,000 validation images.

  Args:
    logits: floating point `[N, K]`; a single logit is refused.
    bandwidth: h; None for Scott's rule, as above, with s the standard deviation
      (denominator n - 1). With so many logits it smooths little: take one
      number to compare models.

  References: Zhou et al., 2025, figure 5.
  """
  values = checks.class_scores(logits, single='refused').reshape(-1)
  if bandwidth is None:
    # Some of the numbers tell the width of the bins well enough.
    some = values[:: 1 + len(values) // _CHUNK].astype(np.float64)
    h = _scott(len(values), some.var() * len(values))
  else:
    h = number('bandwidth', bandwidth, above=0)
  reach = float(values.max()) - float(values.min())
  width = 1.0
  if h > 0:
    width = 2.0 ** math.floor(math.log2(h / _BINS_PER_BANDWIDTH))
  # Far outliers make the bins wider, never too many.
  while reach / width >= _MOST_BINS // 4:
    width *= 2
  first, counts, squares = _histogram(values, width)
  if bandwidth is None:
    h = _scott(len(values), squares)
    if not h > 0:
      raise UsageError(
        'the logits are all equal, so no bandwidth follows from them; give '
        'it as a number'
      )
  if h < 2 * width:
    raise UsageError(
      f'bandwidth is {h:.3g}; expected at least two bins of {width}'
    )
  reach = math.ceil(_KERNEL_REACH * h / width)
  offsets = np.arange(-reach, reach + 1) * (width / h)
  kernel = np.exp(-np.square(offsets) / 2) / (h * math.sqrt(2 * math.pi))
  # At most half a bandwidth.
  step = max(1, int(h / 2 / width))
  # One more grid point on the right at most, where the density is 0.
  fine = _convolve(counts / len(values), kernel)
  fine = np.append(fine, np.zeros(-(len(fine) - 1) % step))
  grid = (first - reach + 0.5 + np.arange(0, len(fine), step)) * width
  return Density(grid, fine[::step])


def _histogram(
  values: np.ndarray, width: float
) -> tuple[int, np.ndarray, float]:
  """The first bin, the counts, and the squared distances from the mean.

  Bin i is from `i * width` up to `(i + 1) * width`; the width is a power of
  two, so that bins of float32 numbers are exact.
  """
  first = math.floor(float(values.min()) / width)
  last = math.floor(float(values.max()) / width)
  if max(abs(first), abs(last)) >= 1 << 53 or last - first >= _MOST_BINS:
    raise UsageError(
      f'the logits from {first * width:.3g} to {last * width:.3g} need more '
      f'than {_MOST_BINS} bins of {width}; use a larger bandwidth'
    )
  counts = np.zeros(last - first + 1, np.int64)
  moments = (0, 0.0, 0.0)
  for start in range(0, len(values), _CHUNK):
    chunk = values[start : start + _CHUNK].astype(np.float64)
    mean = float(chunk.mean())
    squares = float(np.square(chunk - mean).sum())
    moments = _join(moments, (len(chunk), mean, squares))
    # Division by a power of two is exact.
    bins = (np.floor(chunk * (1 / width)) - first).astype(np.int64)
    counts += np.bincount(bins, minlength=len(counts))
  return first, counts, moments[2]


def _scott(n: int, squares: float) -> float:
  """Scott's bandwidth from summed squared distances from the mean."""
  return math.sqrt(squares / (n - 1)) * n**-0.2


def _join(a: tuple, b: tuple) -> tuple[int, float, float]:
  """Joins (size, mean, squares) of two samples (Chan et al., 1979)."""
  size = a[0] + b[0]
  delta = b[1] - a[1]
  mean = a[1] + delta * b[0] / size
  return size, mean, a[2] + b[2] + delta**2 * (a[0] * b[0] / size)


def near_zero_share(logits: ArrayLike, threshold: float = 0.01) -> np.ndarray:
  r"""The share of an example's logits that are close to 0.

  .. math:: \frac{1}{K} \sum_k 1\{|z_k| < t\}

  It depends on the scale and the shift of the logits: compare models at one
  threshold only if both are alike.

  Args:
    logits: floating point `[N, K]`, as the network returns them. The single
      logit of a binary classifier is refused: an invented second one, 0 for
      instance, would be counted.
    threshold: t, greater than 0; 0.01 in the code published with MaxSup.

  Examples:
    >>> logits = np.array([[5.0, 0.001, -0.002, 0.3], [0.0, 0.0, 0.0, -4.0]])
    >>> print(near_zero_share(logits))
    [0.5  0.75]

  References: Zhou et al., 2025.
  """
  logits = checks.class_scores(logits, single='refused')
  threshold = number('threshold', threshold, above=0)
  return _blocks.map_rows(
    lambda z: (np.abs(z) < threshold).mean(1, dtype=np.float64), logits
  )


def effective_smoothing(
  logits: ArrayLike, labels: ArrayLike, temperature: float = 1.0
) -> np.ndarray:
  r"""How much a teacher smooths each label: gamma of Müller et al., `[N]`.

  .. math::
    \gamma = \frac{K}{K - 1} \left(1 - p_y\right), \qquad
    p = \mathrm{softmax}(z / T)

  Its mean over the training split is the smoothing index: alpha where the
  targets are those of label smoothing, 1 where they are uniform.

  Args:
    temperature: T of the teacher.

  Examples:
    >>> logits = np.log([[0.925, 0.025, 0.025, 0.025], [0.25] * 4])
    >>> print(effective_smoothing(logits, [0, 3]).round(6))
    [0.1 1. ]

  References: Müller et al., 2019, section 4.
  """
  logits, labels = checks.logits_and_labels(logits, labels)
  temperature = number('temperature', temperature, above=0)
  p = scipy.special.softmax(logits.astype(np.float64) / temperature, 1)
  K = logits.shape[1]
  p[np.arange(len(labels)), labels] = 0
  return p.sum(1) * (K / (K - 1))


@dataclasses.dataclass(frozen=True, eq=False)
class Stability:
  """The stability of the predictions."""

  value: float  # S; 1 where all examples of a class get the same prediction
  # 1 - S, which the paper tabulates: the mean over the classes of
  # `variance_per_class`.
  variance: float
  # The mean squared distance of the predictions of a class from their mean,
  # `[K]`.
  variance_per_class: np.ndarray
  counts: np.ndarray  # examples of every class, `[K]`


def stability(logits: ArrayLike, labels: ArrayLike) -> Stability:
  r"""The stability of the predictions within the true classes.

  .. math::
    S = 1 - \frac{1}{K} \sum_c \frac{1}{n_c} \sum_{i: y_i = c} \|p_i - \bar
    p_c\|^2

  with :math:`p_i` the softmax of the logits, and :math:`\bar p_c` its mean over
  the examples of class c.

  References: Shen et al., 2021.
  """
  logits, labels = checks.logits_and_labels(logits, labels)
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
  return Stability(1 - variance, variance, variance_K, count_K)
