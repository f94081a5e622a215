"""Scores of normalised logits, and the choice of the norm."""

import dataclasses
import math
from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import ArrayLike

from maxsup_jax.diagnostics import checks
from maxsup_jax.diagnostics._blocks import map_rows
from maxsup_jax.diagnostics.selective.curve import Ranking, aurc
from maxsup_jax.diagnostics.selective.scores import errors, scores
from maxsup_jax.errors import UsageError, number

# Below it (1 / p)-th powers of sums over classes could overflow.
_SMALLEST_P = 0.1
# Whole powers up to this one are made by multiplication.
_MULTIPLIED = 32
# A spread of the logits that is less, relative to them, is rounding.
_ROUNDING = 1e-13


def max_logit_pnorm(
  logits: ArrayLike, p: float, *, centered: bool = True
) -> np.ndarray:
  r"""The largest logit over the p-norm of the logits (MaxLogit-pNorm).

  .. math::
    \max_k \frac{v_k - \mu}{\|v - \mu\|_p}, \qquad \mu = \frac{1}{K} \sum_k v_k

  or :math:`\mu = 0` if not centred. The centred score does not change when the
  logits are shifted or, but for p = 0, scaled. At p = 1 every example whose
  largest logit is the only one above the mean ties at the largest score, 1/2.

  Not centred, and where all logits are negative, the score is negative and
  grows with the norm: its meaning is turned around.

  Args:
    logits: floating point `[N, K]`. A single logit of a binary classifier
      cannot be normalised; nor can two, if centred: the score is constant.
    p: 0, or from 0.1 to infinity. 0 counts the classes: the norm is K.
    centered: whether to subtract the mean over the classes.

  Returns:
    A confidence per example, float64 `[N]`. It is 0 where the norm is.

  Examples:
    >>> logits = [[4.0, 0.0, -1.0], [40.0, 0.0, -10.0], [1.0, 1.0, 1.0]]
    >>> print(max_logit_pnorm(logits, 2).round(4))
    [0.8018 0.8018 0.    ]
    >>> print(max_logit_pnorm(logits, 2, centered=False).round(4))
    [0.9701 0.9701 0.5774]

  References: Cattelan and Silva, 2024.
  """
  logits = _normalizable(logits)
  if centered and logits.shape[1] == 2:
    raise UsageError(
      'the centred score of two classes is constant; use the MSP, or '
      'centered=False'
    )
  return _pnorm_scores(logits, (_exponent(p),), centered)[:, 0]


@dataclasses.dataclass(frozen=True, eq=False)
class PNormFit:
  """A norm of the logits, chosen on held-out examples."""

  p: float | None  # the norm; None for the MSP, where no norm was better
  centered: bool  # whether the mean over the classes is subtracted
  grid: tuple[float, ...]  # the norms that were tried
  # The AURC of each, convention `'paper'`, `[len(grid)]`; NaN where the score
  # is constant by construction (two classes, centred).
  aurc: np.ndarray
  msp_aurc: float  # the AURC of the MSP

  def score(self, logits: ArrayLike) -> np.ndarray:
    """The confidence of other examples: `max_logit_pnorm`, or the MSP."""
    if self.p is None:
      return scores(logits, ('msp',))['msp']
    return max_logit_pnorm(logits, self.p, centered=self.centered)


def fit_pnorm(
  logits: ArrayLike,
  labels: ArrayLike,
  *,
  grid: Iterable[float] = range(1, 11),
  centered: bool = True,
) -> PNormFit:
  """Chooses the norm of MaxLogit-pNorm with the least AURC.

  Or the MSP, unless a norm is better, as for two classes, where the centred
  score is constant. Use held-out examples, and do not evaluate on them.

  Args:
    grid: the norms to try, as in `max_logit_pnorm`. The first of equally good
      ones is taken. The default is that of Xia et al.; Cattelan and Silva try 0
      to 9.

  Examples:
    The third example is wrong, and its logits are large:

    >>> logits = np.array([[2, 0, 0.1], [0, 0.1, 2], [9, 6.5, -3], [0, 3, 0.2]])
    >>> fit = fit_pnorm(logits, [0, 2, 1, 1], grid=(2, 3))
    >>> print(fit.p, fit.aurc.round(4), round(fit.msp_aurc, 4))
    2 [0.0312 0.0312] 0.4896
    >>> print(fit.score(logits).round(4))
    [0.8157 0.8157 0.5398 0.815 ]

  References: Cattelan and Silva, 2024; Xia et al., 2025, section 5.
  """
  wrong = errors(logits, labels)
  grid = tuple(grid)
  if not grid:
    raise UsageError('grid is empty; expected at least one norm')
  exponents = tuple(_exponent(p) for p in grid)
  msp_aurc = _aurc(scores(logits, ('msp',))['msp'], wrong)
  if centered and checks.class_scores(logits).shape[1] == 2:
    aurcs = np.full(len(grid), np.nan)
  else:
    confidence = _pnorm_scores(_normalizable(logits), exponents, centered)
    aurcs = np.array([_aurc(c, wrong) for c in confidence.T])
  best, best_aurc = None, msp_aurc
  for p, value in zip(grid, aurcs):
    if value < best_aurc:
      best, best_aurc = p, value
  return PNormFit(best, centered, grid, aurcs, msp_aurc)


def _aurc(confidence: np.ndarray, wrong: np.ndarray) -> float:
  return aurc(Ranking(confidence, wrong).curve())


def _exponent(p: float) -> float:
  expected = f'0, or from {_SMALLEST_P} to infinity'
  if not isinstance(p, bool) and p in (0, math.inf):
    return float(p)
  return float(number('p', p, _SMALLEST_P, expected=expected))


def _normalizable(logits: ArrayLike) -> np.ndarray:
  logits = checks.array(logits, 'logits')
  if logits.ndim == 1 or logits.shape[1:] == (1,):
    raise UsageError(
      'the single logit of a binary classifier cannot be normalised, as '
      'only its sign would remain; use the MSP'
    )
  return checks.class_scores(logits)


def _pnorm_scores(
  logits: np.ndarray, exponents: Sequence[float], centered: bool
) -> np.ndarray:
  """MaxLogit-pNorm for several norms in one pass: `[N, len(exponents)]`."""

  def block(v: np.ndarray) -> np.ndarray:
    scale = _scaled(v, centered)
    top = v.max(1)
    result = top[:, None] / _norms(v, exponents, centered)
    # K, the norm for p = 0, is not in proportion to the logits.
    for i, p in enumerate(exponents):
      if not p:
        result[:, i] *= scale
    return result

  return map_rows(block, logits)


def _scaled(v: np.ndarray, centered: bool) -> np.ndarray:
  """Centres rows and scales them to a largest absolute value of 1, in place.

  So no power overflows, and the largest does not underflow. Rows without spread
  become 0. Returns what the rows were divided by, 0 for those that became 0.
  """
  size = scale = np.abs(v).max(1)
  if centered:
    v -= v.mean(1, keepdims=True)
    scale = np.abs(v).max(1)
  spread = scale > _ROUNDING * size
  v /= np.where(spread, scale, np.inf)[:, None]
  return np.where(spread, scale, 0)


def _norms(
  v: np.ndarray, exponents: Sequence[float], centered: bool
) -> np.ndarray:
  """Norms of scaled rows; 1 for rows of 0."""
  size = np.abs(v)
  result = np.empty((len(v), len(exponents)))
  power, degree = size, 1
  for i in np.argsort(exponents, kind='stable'):
    p = exponents[i]
    if p == 0:
      norm = v.shape[1]
    elif p == math.inf:
      norm = 1
    elif p == 1 and centered:
      # Half of it is above the mean. Where that is the largest logit alone the
      # score is 1/2 exactly: a tie is a tie, whatever the rounding.
      norm = 2 * np.maximum(v, 0).sum(1)
    elif p == int(p) and p <= _MULTIPLIED:
      while degree < p:
        power = power * size
        degree += 1
      norm = power.sum(1) ** (1 / p)
    else:
      norm = (size**p).sum(1) ** (1 / p)
    result[:, i] = norm
  result[~size.any(1)] = 1
  return result
