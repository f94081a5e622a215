"""The density of logits: a kernel estimate from an exact, fine histogram."""

import dataclasses
import functools
import math
import os
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy import fft

from maxsup_jax.diagnostics import _blocks, _checks
from maxsup_jax.errors import UsageError

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


@dataclasses.dataclass(frozen=True, eq=False)
class LogitHistogram:
  """Counts numbers in fine bins, shard by shard.

  Bin i is from `i * width` up to `(i + 1) * width`, for all integers i, so that
  histograms of one width add up whatever range they cover.

  Attributes:
    width: of a bin, a power of two: bins of float32 numbers are exact.
    start: the first bin.
    counts: numbers per bin, int64.
    size: how many numbers.
    mean: their mean.
    squares: their summed squared distances from the mean.

  Examples:
    >>> import numpy as np
    >>> from maxsup_jax.diagnostics import representation
    >>> histogram = representation.LogitHistogram(width=0.25)
    >>> for shard in ([0.1, 0.6, 0.7], [-0.1, 0.2]):
    ...   histogram = histogram.update(np.array(shard))
    >>> histogram.start, histogram.counts.tolist()
    (-1, [1, 2, 0, 2])
  """

  width: float = 2.0**-10
  start: int = 0
  counts: np.ndarray = dataclasses.field(
    default_factory=lambda: np.zeros(0, np.int64)
  )
  size: int = 0
  mean: float = 0.0
  squares: float = 0.0

  def __post_init__(self):
    width = _checks.number(self.width, 'width', 'a power of two')
    if not width > 0 or math.frexp(width)[0] != 0.5:
      raise UsageError(f'width is {self.width}; expected a power of two')

  def update(self, values: ArrayLike) -> 'LogitHistogram':
    """Adds numbers.

    Args:
      values: floating point, of any shape.

    Returns:
      The histogram with them.

    Raises:
      UsageError: one line, for a wrong dtype, numbers that are not finite, or
        more than four million bins.
    """
    values = _checks.finite(values, 'logits').reshape(-1)
    first = math.floor(float(values.min()) / self.width)
    last = math.floor(float(values.max()) / self.width)
    self._check_bins(first, last)

    counts = np.zeros(last - first + 1, np.int64)
    moments = (0, 0.0, 0.0)
    starts = range(0, len(values), _CHUNK)
    per_part = -(-len(starts) // (os.cpu_count() or 1))
    parts = [starts[i : i + per_part] for i in range(0, len(starts), per_part)]
    count = functools.partial(_count, values, self.width, first, len(counts))
    for its_counts, chunks in _blocks._pool().map(count, parts):
      counts += its_counts
      # In the order of the numbers, whatever the number of cores.
      moments = functools.reduce(_join, chunks, moments)
    return self.merge(LogitHistogram(self.width, first, counts, *moments))

  def merge(self, other: 'LogitHistogram') -> 'LogitHistogram':
    """The histogram of the numbers of both, which must have one width."""
    if self.width != other.width:
      raise UsageError(f'the widths differ: {self.width} and {other.width}')
    if not self.size or not other.size:
      return self if self.size else other
    start = min(self.start, other.start)
    end = max(h.start + len(h.counts) for h in (self, other))
    self._check_bins(start, end - 1)
    counts = np.zeros(end - start, np.int64)
    for h in (self, other):
      counts[h.start - start : h.start - start + len(h.counts)] += h.counts
    moments = _join(
      (self.size, self.mean, self.squares),
      (other.size, other.mean, other.squares),
    )
    return LogitHistogram(self.width, start, counts, *moments)

  def bandwidth(self, rule: str | float = 'scott') -> float:
    r"""The standard deviation of the kernel.

    Args:
      rule: 'scott', :math:`s n^{-1/5}`, or 'silverman', :math:`s
        (3n/4)^{-1/5}`, with s the standard deviation (denominator n - 1) of the
        n numbers; or the bandwidth itself.

    Raises:
      UsageError: one line, if the rule gives 0, as for equal numbers, or if
        the bandwidth is less than two bins.
    """
    if isinstance(rule, str):
      _checks.one_of(rule, 'bandwidth', BANDWIDTHS)
      h = _rule(rule, self.size, self.squares)
      if not h > 0:
        raise UsageError(
          'the logits are all equal: give the bandwidth as a number'
        )
    else:
      h = float(_checks.number(rule, 'bandwidth'))
    if not 2 * self.width <= h < math.inf:
      raise UsageError(
        f'bandwidth is {h:.3g}; expected at least two bins of {self.width}'
      )
    return h

  def compute(self, bandwidth: str | float = 'scott') -> Density:
    """The counts smoothed by a Gaussian.

    Args:
      bandwidth: see `bandwidth`.

    Returns:
      The density, at a step of at most half a bandwidth.

    Raises:
      UsageError: one line, if there are no numbers; see also `bandwidth`.
    """
    if not self.size:
      raise UsageError('there are no logits')
    h = self.bandwidth(bandwidth)
    reach = math.ceil(_KERNEL_REACH * h / self.width)
    offsets = np.arange(-reach, reach + 1) * (self.width / h)
    kernel = np.exp(-np.square(offsets) / 2) / (h * math.sqrt(2 * math.pi))
    step = max(1, int(h / 2 / self.width))
    # One more grid point on the right at most, where the density is 0.
    fine = _convolve(self.counts / self.size, kernel)
    fine = np.append(fine, np.zeros(-(len(fine) - 1) % step))
    grid = (self.start - reach + 0.5 + np.arange(0, len(fine), step)) * (
      self.width
    )
    return Density(grid, fine[::step])

  def _check_bins(self, first: int, last: int) -> None:
    far = max(abs(first), abs(last)) >= 1 << 53
    if far or last - first >= _MOST_BINS:
      raise UsageError(
        f'the logits from {first * self.width:.3g} to {last * self.width:.3g} '
        f'need more than {_MOST_BINS} bins of {self.width}; use wider ones'
      )


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
    bandwidth: h: 'scott', 'silverman', or a number; see
      `LogitHistogram.bandwidth`. With so many logits Scott's rule smooths
      little: take one number to compare models.

  Returns:
    A pair of a grid and the density on it.

  Raises:
    UsageError: one line, for wrong shapes or dtypes, logits that are not
      finite, or all equal under a rule.

  Examples:
    >>> import numpy as np
    >>> from maxsup_jax.diagnostics import representation
    >>> logits = np.random.default_rng(0).normal(size=(100, 10))
    >>> grid, density = representation.logit_density(logits)
    >>> print(round(float(np.trapezoid(density, grid)), 6))
    1.0

  References:
    Zhou et al., `MaxSup: Overcoming Representation Collapse in Label Smoothing
    <https://arxiv.org/abs/2502.15798>`_, NeurIPS 2025, figure 5.
  """
  _checks.one_of(of, 'of', LOGITS)
  if of == 'true':
    if labels is None:
      raise UsageError("of='true' needs labels")
    logits, labels = _checks.logits_and_labels(logits, labels, 'refused')
    values = np.take_along_axis(logits, labels[:, None], 1).reshape(-1)
  else:
    logits = _checks.class_scores(logits, single='refused')
    values = logits.reshape(-1) if of == 'all' else logits.max(1)
  if isinstance(bandwidth, str):
    _checks.one_of(bandwidth, 'bandwidth', BANDWIDTHS)
    # Some of the numbers tell the width of the bins well enough.
    some = values[:: 1 + len(values) // _CHUNK].astype(np.float64)
    h = _rule(bandwidth, len(values), some.var() * len(values))
  else:
    h = float(_checks.number(bandwidth, 'bandwidth'))
  reach = float(values.max()) - float(values.min())
  width = 1.0
  if 0 < h < math.inf:
    width = 2.0 ** math.floor(math.log2(h / _BINS_PER_BANDWIDTH))
  # Far outliers make the bins wider, never too many.
  while reach / width >= _MOST_BINS // 4:
    width *= 2
  return LogitHistogram(width).update(values).compute(bandwidth)


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
