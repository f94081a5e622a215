"""Confidence scores of logits that need no fitting, in one pass over them."""

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from maxsup_jax.diagnostics import _checks
from maxsup_jax.diagnostics._blocks import map_rows


class _Statistics(NamedTuple):
  """Of each row: everything that the scores are made of, `[N]` each.

  With v the logits, top the largest, and u_j = v_j - second over the others:
  no score is computed from numbers close to 1, where float64 would round
  different confidences to the same one.
  """

  top: np.ndarray
  gap: np.ndarray  # top - second
  sum_exp: np.ndarray  # sum of exp(u_j), at least 1
  sum_u_exp: np.ndarray  # sum of u_j exp(u_j), at most 0
  sum_exp_squared: np.ndarray  # sum of exp(2 u_j)

  @property
  def log_odds(self) -> np.ndarray:
    """log(pi_max / (1 - pi_max))."""
    return self.gap - np.log(self.sum_exp)

  @property
  def odds_against(self) -> np.ndarray:
    """(1 - pi_max) / pi_max, from 0 to K - 1."""
    return np.exp(-self.gap) * self.sum_exp


def _statistics(v: np.ndarray) -> _Statistics:
  """Of a block of rows, float64, which is overwritten."""
  rows = np.arange(len(v))
  # Only one class is taken out: one that ties with it has u = 0.
  index = v.argmax(1)
  top = v[rows, index]
  v[rows, index] = -np.inf
  second = v.max(1)
  v -= second[:, None]
  exp = np.exp(v)
  v[rows, index] = 0
  return _Statistics(
    top=top,
    gap=top - second,
    sum_exp=exp.sum(1),
    sum_u_exp=np.vecdot(exp, v),
    sum_exp_squared=np.vecdot(exp, exp),
  )


def _single_is_symmetric(logits: ArrayLike) -> np.ndarray:
  return _checks.class_scores(logits, single='symmetric')


def log_odds_of_rows(v: np.ndarray) -> np.ndarray:
  """The log-odds of the MSP, of a block of rows; see `SCORES`."""
  return _statistics(v).log_odds


def _negative_entropy(s: _Statistics) -> np.ndarray:
  # log Z - sum_j pi_j (v_j - top): both terms are at least 0.
  odds = s.odds_against
  spread = np.exp(-s.gap) * (s.gap * s.sum_exp - s.sum_u_exp)
  return -(np.log1p(odds) + spread / (1 + odds))


def _negative_gini(s: _Statistics) -> np.ndarray:
  # 1 - sum pi^2 = pi_max (1 - pi_max) + sum_{j != max} pi_j (1 - pi_j)
  odds = s.odds_against
  top, rest = 1 / (1 + odds), odds / (1 + odds)
  return top**2 * np.exp(-2 * s.gap) * s.sum_exp_squared - rest * (1 + top)


def _margin_log_odds(s: _Statistics) -> np.ndarray:
  # log((1 + m) / (1 - m)), in which 1 - m = (1 - pi_max) + pi_second.
  log_top = -np.log1p(s.odds_against)
  margin = -np.exp(log_top) * np.expm1(-s.gap)
  log_rest = np.log1p(s.sum_exp) - s.gap + log_top
  # Each form where it is precise: small margins, and margins close to 1.
  return np.where(
    margin < 0.5,
    2 * np.arctanh(np.minimum(margin, 0.5)),
    np.log1p(margin) - log_rest,
  )


@dataclasses.dataclass(frozen=True)
class Score:
  """A confidence score: larger is surer.

  Attributes:
    name: its key in `SCORES`.
    title: for a legend.
    formula: what it computes, in the logits v and probabilities pi.
  """

  name: str
  title: str
  formula: str
  _of: Callable[[_Statistics], np.ndarray] = dataclasses.field(repr=False)

  def function(self, logits: ArrayLike) -> np.ndarray:
    """The confidences of logits `[N, K]`, float64 `[N]`; see `scores`."""
    return scores(logits, (self.name,))[self.name]


SCORES: Mapping[str, Score] = MappingProxyType(
  {
    score.name: score
    for score in (
      Score(
        'msp',
        'MSP',
        'log(pi_max / (1 - pi_max)) = -logsumexp_{j != max}(v_j - v_max)',
        lambda s: s.log_odds,
      ),
      Score(
        'entropy',
        'negative entropy',
        'sum_k pi_k log pi_k',
        _negative_entropy,
      ),
      Score('gini', 'Gini (DOCTOR)', 'sum_k pi_k^2 - 1', _negative_gini),
      Score('max_logit', 'max logit', 'v_max', lambda s: s.top),
      Score(
        'energy',
        'negative energy',
        'logsumexp_k(v_k)',
        lambda s: s.top + np.log1p(s.odds_against),
      ),
      Score(
        'probability_margin',
        'margin of probabilities',
        'log((1 + m) / (1 - m)), m = pi_(1) - pi_(2)',
        _margin_log_odds,
      ),
      Score(
        'logit_margin',
        'margin of logits',
        'v_(1) - v_(2)',
        lambda s: s.gap,
      ),
    )
  }
)


def scores(
  logits: ArrayLike, names: str | Iterable[str] | None = None
) -> dict[str, np.ndarray]:
  r"""Confidence scores of logits, all in one pass.

  With logits v, probabilities :math:`\pi = \mathrm{softmax}(v)`, and the
  classes in descending order (1), (2), ...:

  * `msp`: the maximum softmax probability, as its log-odds
    :math:`\log \frac{\pi_{(1)}}{1 - \pi_{(1)}} = -\log \sum_{j \ne (1)}
    e^{v_j - v_{(1)}}`. They rank alike, but the probability itself is exactly 1
    in float32 from gaps of 17 on, and in float64 from 37 on;
  * `entropy`: :math:`-H(\pi) = \sum_k \pi_k \log \pi_k`;
  * `gini`: :math:`\sum_k \pi_k^2 - 1`. DOCTOR's :math:`D_\alpha` ranks alike;
  * `max_logit`: :math:`v_{(1)}`. It changes when all logits are shifted;
  * `energy`: :math:`\log \sum_k e^{v_k}`, the negative of what is called the
    energy. It changes when all logits are shifted;
  * `probability_margin`: :math:`m = \pi_{(1)} - \pi_{(2)}`, as
    :math:`\log \frac{1 + m}{1 - m}`, which ranks alike;
  * `logit_margin`: :math:`v_{(1)} - v_{(2)}`.

  Every one of them is a confidence: larger is surer. All are computed in
  float64 and keep different confidences apart close to certainty: `entropy` and
  `gini` up to gaps of about 700 between the two largest logits, where they
  become 0, the others without a limit. With two classes all but `max_logit` and
  `energy` rank alike.

  Args:
    logits: floating point `[N, K]`, or `[N]` or `[N, 1]` for the single logit
      z of a binary classifier, which stands for the two logits `(-z/2, z/2)`:
      so `max_logit` and `energy`, too, are largest where z is far from 0.
    names: keys of `SCORES`, or one of them; None: all.

  Returns:
    For each name a confidence per example, float64 `[N]`.

  Raises:
    UsageError: for an unknown name, a wrong shape or dtype, no examples, NaN
      or infinity, or a number in float64 beyond 1e150.

  Examples:
    >>> from maxsup_jax.diagnostics import selective
    >>> logits = [[3.0, 1.0, 0.0], [40.0, 0.0, 0.0], [50.0, 0.0, 0.0]]
    >>> for name, confidence in selective.scores(logits).items():
    ...   print(f'{name:18}', ' '.join(f'{c:7.3g}' for c in confidence))
    msp                   1.69    39.3    49.3
    entropy             -0.524 -3.48e-16 -1.97e-20
    gini                -0.273 -1.7e-17 -7.71e-22
    max_logit                3      40      50
    energy                3.17      40      50
    probability_margin    1.86    39.6    49.6
    logit_margin             2      40      50

  References:
    MSP: Hendrycks and Gimpel, https://arxiv.org/abs/1610.02136; Gini: Granese
    et al., DOCTOR, https://arxiv.org/abs/2106.02395; max logit: Hendrycks et
    al., https://arxiv.org/abs/1911.11132; energy: Liu et al.,
    https://arxiv.org/abs/2010.03759.
  """
  if isinstance(names, str):
    names = (names,)
  names = tuple(SCORES) if names is None else tuple(names)
  for name in names:
    _checks.one_of(name, 'score', tuple(SCORES))
  statistics = _Statistics(*map_rows(_statistics, _single_is_symmetric(logits)))
  return {name: SCORES[name]._of(statistics) for name in names}


def temperature_msp(logits: ArrayLike, temperature: float) -> np.ndarray:
  r"""The maximum softmax probability of tempered logits, as its log-odds.

  :math:`\max_k \mathrm{softmax}(v / T)_k`, as the log-odds of `scores`, which
  rank alike. With more than two classes the temperature changes the ranking.

  Args:
    logits: floating point `[N, K]`; see `scores`.
    temperature: T, greater than 0.

  Returns:
    A confidence per example, float64 `[N]`: larger is surer.

  Raises:
    UsageError: for a wrong temperature (from 1e-100 to 1e100), and as in
      `scores`.

  Examples:
    The surer of the two depends on the temperature:

    >>> from maxsup_jax.diagnostics import selective
    >>> logits = [[2.0, 1.2, -9.0], [2.0, 1.0, 1.0]]
    >>> print(selective.temperature_msp(logits, 1.0).round(4))
    [0.8    0.3069]
    >>> print(selective.temperature_msp(logits, 0.2).round(4))
    [4.     4.3069]
  """
  temperature = _checks.between(temperature, 'temperature', 1e-100, 1e100)
  return map_rows(
    lambda block: _statistics(block / temperature).log_odds,
    _single_is_symmetric(logits),
  )


def errors(logits: ArrayLike, labels: ArrayLike) -> np.ndarray:
  """Where the largest logit is not the label's.

  Args:
    logits: floating point `[N, K]`; see `scores`.
    labels: class ids, integer `[N]`.

  Returns:
    bool `[N]`. Among equal logits the first is the prediction, as in `argmax`.

  Raises:
    UsageError: for a wrong shape or dtype, no examples, NaN or infinity, or a
      label outside `[0, K)`.

  Examples:
    >>> from maxsup_jax.diagnostics import selective
    >>> print(selective.errors([[2.0, 1.0], [0.0, 3.0]], [0, 0]))
    [False  True]
  """
  logits, labels = _checks.logits_and_labels(logits, labels)
  return logits.argmax(1) != labels
