"""Confidence scores of logits, in one pass over them."""

from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from maxsup_jax.diagnostics import checks
from maxsup_jax.diagnostics._blocks import map_rows
from maxsup_jax.errors import UsageError, integer, one_of


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
  # Masked classes count for 0 times a number, not for 0 times infinity.
  np.maximum(v, -1e200, out=v)
  return _Statistics(
    top=top,
    gap=top - second,
    sum_exp=exp.sum(1),
    sum_u_exp=np.vecdot(exp, v),
    sum_exp_squared=np.vecdot(exp, exp),
  )


def _negative_entropy(s: _Statistics) -> np.ndarray:
  # Log Z - sum_j pi_j (v_j - top): both terms are at least 0.
  odds = s.odds_against
  spread = np.exp(-s.gap) * (s.gap * s.sum_exp - s.sum_u_exp)
  return -(np.log1p(odds) + spread / (1 + odds))


def _negative_gini(s: _Statistics) -> np.ndarray:
  # 1 - sum pi^2 = pi_max (1 - pi_max) + sum_{j != max} pi_j (1 - pi_j)
  odds = s.odds_against
  top, rest = 1 / (1 + odds), odds / (1 + odds)
  return top**2 * np.exp(-2 * s.gap) * s.sum_exp_squared - rest * (1 + top)


def _margin_log_odds(s: _Statistics) -> np.ndarray:
  # Log((1 + m) / (1 - m)), in which 1 - m = (1 - pi_max) + pi_second.
  log_top = -np.log1p(s.odds_against)
  margin = -np.exp(log_top) * np.expm1(-s.gap)
  log_rest = np.log1p(s.sum_exp) - s.gap + log_top
  # Each form where it is precise: small margins, and margins close to 1.
  return np.where(
    margin < 0.5,
    2 * np.arctanh(np.minimum(margin, 0.5)),
    np.log1p(margin) - log_rest,
  )


class Score(NamedTuple):
  """A confidence score: its title for a legend, and how it is computed."""

  title: str
  of: Callable[[_Statistics], np.ndarray]


SCORES: Mapping[str, Score] = MappingProxyType(
  {
    'msp': Score('MSP', lambda s: s.log_odds),
    'entropy': Score('negative entropy', _negative_entropy),
    'gini': Score('Gini (DOCTOR)', _negative_gini),
    'max_logit': Score('max logit', lambda s: s.top),
    'energy': Score(
      'negative energy', lambda s: s.top + np.log1p(s.odds_against)
    ),
    'probability_margin': Score('margin of probabilities', _margin_log_odds),
    'logit_margin': Score('margin of logits', lambda s: s.gap),
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

  All keep different confidences apart close to certainty: `entropy` and `gini`
  up to gaps of about 700 between the two largest logits, where they become 0,
  the others without a limit. With two classes all but `max_logit` and `energy`
  rank alike.

  Args:
    names: keys of `SCORES`, or one of them; None: all.

  Returns:
    For each name a confidence per example, float64 `[N]`.

  Examples:
    >>> logits = [[3.0, 1.0, 0.0], [40.0, 0.0, 0.0], [50.0, 0.0, 0.0]]
    >>> for name in ('msp', 'entropy', 'logit_margin'):
    ...   confidence = scores(logits, name)[name]
    ...   print(f'{name:12}', ' '.join(f'{c:9.3g}' for c in confidence))
    msp               1.69      39.3      49.3
    entropy         -0.524 -3.48e-16 -1.97e-20
    logit_margin         2        40        50

  References: MSP: Hendrycks and Gimpel, 2017; Gini: Granese et al., 2021; max
    logit: Hendrycks et al., 2022; energy: Liu et al., 2020.
  """
  if isinstance(names, str):
    names = (names,)
  names = tuple(SCORES) if names is None else tuple(names)
  for name in names:
    one_of('score', name, tuple(SCORES))
  logits_NK = checks.class_scores(logits, single='symmetric', masked=True)
  statistics = _Statistics(*map_rows(_statistics, logits_NK))
  return {name: SCORES[name].of(statistics) for name in names}


def errors(logits: ArrayLike, labels: ArrayLike) -> np.ndarray:
  """Where the largest logit is not the label's, bool `[N]`."""
  logits, labels = checks.logits_and_labels(logits, labels)
  return logits.argmax(1) != labels


def pool_pixels(
  logits: ArrayLike,
  labels: ArrayLike,
  *,
  ignore_label: int | None = 255,
  limit: int | None = None,
  seed: int = 0,
) -> tuple[np.ndarray, np.ndarray]:
  """Makes one example of every labelled pixel, of all images together.

  Neighbouring pixels are not independent: a bootstrap over pixels is too
  narrow.

  Args:
    logits: floating point `[..., K]`, for example `[B, H, W, K]`, at the
      resolution of the labels. A single logit z, `[..., 1]`, stands for
      `(-z/2, z/2)`.
    labels: class ids, integer `[...]`.
    ignore_label: the label of pixels that do not count, whatever their logits
      are. None: all count.
    limit: how many pixels to keep at most, drawn without replacement: the same
      ones for all models of one seed.

  Returns:
    Logits `[M, K]` and int64 labels `[M]`, in the order of the input.

  References: Xia et al., 2025, and its code, which keeps 5,000 random pixels of
    every 12 images.
  """
  logits = checks.array(logits, 'logits')
  labels = checks.array(labels, 'labels')
  if logits.ndim < 2 or logits.shape[:-1] != labels.shape:
    raise UsageError(
      f'the shapes of logits, {logits.shape}, and labels, {labels.shape}, do '
      'not match; expected [..., classes] and [...]'
    )
  labels = labels.reshape(-1)
  if ignore_label is None:
    kept = np.arange(labels.size)
  else:
    kept = np.flatnonzero(labels != ignore_label)
  if not kept.size:
    raise UsageError('no pixel is labelled')
  if limit is not None:
    seed = integer('seed', seed, low=0)
    limit = integer('limit', limit, low=1)
    if limit < kept.size:
      rng = np.random.default_rng(seed)
      kept = np.sort(rng.choice(kept, limit, replace=False))
  return checks.logits_and_labels(
    logits.reshape(-1, logits.shape[-1])[kept], labels[kept], 'symmetric'
  )
