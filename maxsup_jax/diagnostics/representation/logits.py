"""What an objective did to the logits: their density, size and spread."""

import dataclasses
import functools
import math
import os
from typing import NamedTuple

import numpy as np
import scipy.special
from numpy.typing import ArrayLike
from scipy import fft

from maxsup_jax.diagnostics import _blocks, checks
from maxsup_jax.diagnostics._class_sums import check_means
from maxsup_jax.errors import UsageError, number, one_of

LOGITS = ('all', 'top', 'true')
BANDWIDTHS = ('scott', 'silverman')
# Numbers that one core takes at a time.
_CHUNK = 1 << 17
# A bin for the logits is a small part of a bandwidth.
_BINS_PER_BANDWIDTH = 64
_MOST_BINS = 1 << 22
# The kernel is cut where it is below 1e-14 of its peak.
_KERNEL_REACH = 8


class Density(NamedTuple):
  """A density on an even grid.

  Attributes:
    grid: where, float64 `[M]`.
    density: the density there, float64 `[M]`. Its trapezoidal integral is 1.
  """

  grid: np.ndarray
  density: np.ndarray


def _convolve(values: np.ndarray, kernel: np.ndarray) -> np.ndarray:
  """Their full convolution; both are at least 0, and so is the result."""
  length = len(values) + len(kernel) - 1
  n = fft.next_fast_len(length, real=True)
  product = fft.rfft(values, n) * fft.rfft(kernel, n)
  # Fourier transforms round below 0.
  return np.maximum(fft.irfft(product, n)[:length], 0)


def logit_density(
  logits: ArrayLike,
  labels: ArrayLike | None = None,
  *,
  of: str = 'all',
  bandwidth: str | float = 'scott',
) -> Density:
  r"""The density of logits, as a Gaussian kernel estimate.

  .. math::
    f(x) = \frac{1}{n} \sum_i \mathcal{N}(x - z_i; 0, h^2), \quad
    h = s n^{-1/5}

  with each z rounded to the middle of a bin of at most h / 32. With all logits
  pooled it is the figure of MaxSup's paper, drawn there from the first 10,000
  validation images; it shows how closely an objective binds the logits
  together.

  Args:
    logits: floating point `[N, K]`, K at least 2. The single logit of a binary
      classifier is refused, as in `near_zero_share`.
    labels: class ids, integer `[N]`; only for `of='true'`.
    of: 'all' logits pooled, the 'top' one of every example, or that of its
      'true' class.
    bandwidth: h: 'scott', :math:`s n^{-1/5}`, or 'silverman', :math:`s
      (3n/4)^{-1/5}`, with s the standard deviation (denominator n - 1); or a
      number. With so many logits Scott's rule smooths little: take one number
      to compare models.

  References: Zhou et al., 2025, figure 5.
  """
  one_of('of', of, LOGITS)
  if of == 'true':
    if labels is None:
      raise UsageError("of='true' needs labels")
    logits, labels = checks.logits_and_labels(logits, labels, 'refused')
    values = np.take_along_axis(logits, labels[:, None], 1).reshape(-1)
  else:
    logits = checks.class_scores(logits, single='refused')
    values = logits.reshape(-1) if of == 'all' else logits.max(1)
  if isinstance(bandwidth, str):
    one_of('bandwidth', bandwidth, BANDWIDTHS)
    # Some of the numbers tell the width of the bins well enough.
    some = values[:: 1 + len(values) // _CHUNK].astype(np.float64)
    h = _rule(bandwidth, len(values), some.var() * len(values))
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
  if isinstance(bandwidth, str):
    h = _rule(bandwidth, len(values), squares)
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
  starts = range(0, len(values), _CHUNK)
  per_part = -(-len(starts) // (os.cpu_count() or 1))
  parts = [starts[i : i + per_part] for i in range(0, len(starts), per_part)]
  count = functools.partial(_count, values, width, first, len(counts))
  for its_counts, chunks in _blocks.pool().map(count, parts):
    counts += its_counts
    # In the order of the numbers, whatever the number of cores.
    moments = functools.reduce(_join, chunks, moments)
  return first, counts, moments[2]


def _count(
  values: np.ndarray, width: float, first: int, bins: int, starts: range
) -> tuple[np.ndarray, list[tuple[int, float, float]]]:
  """Counts chunks of numbers, and takes the moments of every chunk."""
  counts = np.zeros(bins, np.int64)
  moments = []
  # Memory that is mapped anew for every chunk would take most of the time.
  size = min(_CHUNK, len(values))
  wide_buffer, bin_buffer = np.empty(size), np.empty(size, np.int64)
  for start in starts:
    chunk = values[start : start + _CHUNK]
    wide, bin_ids = wide_buffer[: len(chunk)], bin_buffer[: len(chunk)]
    np.copyto(wide, chunk)
    mean = float(wide.mean())
    wide -= mean
    # Not a product of vectors: BLAS would start threads of its own.
    moments.append((len(chunk), mean, float(np.square(wide, out=wide).sum())))
    # Division by a power of two is exact.
    np.multiply(chunk, 1 / width, out=wide, dtype=np.float64)
    np.floor(wide, out=wide)
    wide -= first
    np.copyto(bin_ids, wide, casting='unsafe')
    counts += np.bincount(bin_ids, minlength=bins)
  return counts, moments


def _rule(rule: str, n: int, squares: float) -> float:
  """The bandwidth by a rule from summed squared distances from the mean."""
  if n < 2:
    return 0.0
  factor = n if rule == 'scott' else 0.75 * n
  return math.sqrt(squares / (n - 1)) * factor**-0.2


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
    logits: floating point `[N, K]`, as the network returns them, K at least 2.
      The single logit of a binary classifier is refused: an invented second
      one, 0 for instance, would be counted.
    threshold: t, greater than 0; 0.01 in the code published with MaxSup.

  Returns:
    A share from 0 to 1 for every example, float64 `[N]`.

  Examples:
    >>> from maxsup_jax.diagnostics import representation
    >>> logits = np.array([[5.0, 0.001, -0.002, 0.3], [0.0, 0.0, 0.0, -4.0]])
    >>> print(representation.near_zero_share(logits))
    [0.5  0.75]

  References: Zhou et al., 2025.
  """
  logits = checks.class_scores(logits, single='refused')
  threshold = number('threshold', threshold, above=0)
  return _blocks.map_rows(
    lambda z: (np.abs(z) < threshold).mean(1, dtype=np.float64), logits
  )


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

  Returns:
    S, and the variance of every class.

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
  return Stability(
    value=1 - variance,
    variance=variance,
    variance_per_class=variance_K,
    counts=count_K,
  )
