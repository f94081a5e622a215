r"""The smooth calibration error: without bins, and with an interval.

>>> import numpy as np
>>> from maxsup_jax.diagnostics import smooth_calibration
>>> rng = np.random.default_rng(0)
>>> confidence = rng.uniform(0.5, 1, 2000)
>>> correct = rng.random(2000) < confidence - 0.1
>>> error, (low, high) = smooth_calibration.smooth_ece(confidence, correct)
>>> print(round(error, 2), round(low, 2), round(high, 2))
0.09 0.07 0.11
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy import fft

from maxsup_jax.diagnostics import checks
from maxsup_jax.diagnostics.bootstrap import Interval, resamples
from maxsup_jax.errors import integer, number

# Points on which residuals are smoothed; sigma is never so small that it shows.
_POINTS = 1024
_STEPS = 30


class SmoothError(NamedTuple):
  """What `smooth_ece` returns."""

  value: float
  interval: Interval


def smooth_ece(
  confidence: ArrayLike,
  correct: ArrayLike,
  *,
  level: float = 0.95,
  draws: int = 200,
  seed: int = 0,
  groups: ArrayLike | None = None,
) -> SmoothError:
  r"""The smECE of the top prediction.

  The residuals :math:`y_i - f_i` of correctness y and confidence f are smoothed
  along the confidence by a Gaussian that is reflected at 0 and 1,

  .. math:: \mathrm{smECE}_\sigma = \int_0^1 \Bigl|
    \frac1N \sum_i \tilde K_\sigma(t, f_i) (y_i - f_i) \Bigr| dt,

  and the width is the one at which the error equals it,
  :math:`\mathrm{smECE}_\sigma = \sigma`.

  The interval is :math:`\pm D`, cut at 0: D is the quantile of
  :math:`\int |\eta^*_\sigma(t)| dt` over resamples, with
  :math:`\eta^*` the smoothed residuals of a resample less those of the
  examples. As errors of two sets of residuals differ by the norm of their
  difference at most, it is valid for calibrated models, too, where percentiles
  of the error itself never reach 0; and for others wider than it need be.

  Args:
    confidence: from 0 to 1, `[N]`.
    correct: bool `[N]`, or numbers from 0 to 1.
    level: of the interval.
    draws: resamples; 0 for an interval that is NaN.
    seed: of the resamples.
    groups: as in `bootstrap.bootstrap`: examples that are drawn together.

  References:
    Błasiok and Nakkiran, *Smooth ECE: principled reliability diagrams via
    kernel smoothing*, ICLR 2024, whose package is relplot.
  """
  f_N, y_N = (
    checks.shares(checks.vector(values, name), name)
    for name, values in (('confidence', confidence), ('correct', correct))
  )
  checks.same_length(confidence=f_N, correct=y_N)
  level = number('level', level, above=0, below=1)
  draws = integer('draws', draws, low=0)
  N = len(f_N)
  # Each residual is shared by the two points beside it.
  place_N = np.clip(f_N * _POINTS - 0.5, 0, _POINTS - 1)
  left_N = np.minimum(place_N.astype(np.int64), _POINTS - 2)
  share_N = place_N - left_N

  def modes(weights_N: np.ndarray) -> np.ndarray:
    """The cosine transform: the reflected Gaussian is diagonal in it."""
    r_N = (y_N - f_N) * weights_N / weights_N.sum()
    at = np.bincount(left_N, r_N * (1 - share_N), _POINTS)
    at += np.bincount(left_N + 1, r_N * share_N, _POINTS)
    return fft.dct(at)

  squares = np.square(np.pi * np.arange(_POINTS)) / 2

  def norm(of: np.ndarray, sigma: float) -> float:
    return float(np.abs(fft.idct(of * np.exp(-(sigma**2) * squares))).sum())

  own = modes(np.ones(N))
  low, high = 0.0, 1.0
  for _ in range(_STEPS):
    sigma = (low + high) / 2
    low, high = (low, sigma) if norm(own, sigma) < sigma else (sigma, high)
  value = (low + high) / 2
  if not draws:
    return SmoothError(value, Interval(np.nan, np.nan))
  member_N = np.arange(N)
  if groups is not None:
    member_N = np.unique(checks.array(groups, 'groups'), return_inverse=True)[1]
  drawn = resamples(int(member_N.max()) + 1, draws, seed)
  noise = [norm(modes(w[member_N]) - own, value) for w in drawn]
  reach = float(np.quantile(noise, level))
  return SmoothError(value, Interval(max(value - reach, 0.0), value + reach))
