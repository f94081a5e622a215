"""Zipf's label smoothing: non-target classes by their rank."""

import functools

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from maxsup_jax.losses import _checks
from maxsup_jax.losses._cross_entropy import target_cross_entropy
from maxsup_jax.losses._objective import Objective, stateless
from maxsup_jax.losses._ranks import min_ranks
from maxsup_jax.losses._rows import Rows, Target
from maxsup_jax.losses._schedules import Schedule

ALPHA_RANGE = _checks.Range(low=0.0)
POWER_RANGE = _checks.Range(low=0.0, name='power')
RANKINGS = ('logits', 'votes')


def zipf_distribution(
  scores: ArrayLike,
  power: ArrayLike = 1.0,
  *,
  axis: int = -1,
  where: ArrayLike | None = None,
) -> jax.Array:
  r"""Zipf's law over the ranks of the scores, per example.

  .. math::
    t_k = \frac{r_k^{-s}}{\sum_j r_j^{-s}}

  The ranks are those of `min_ranks`. Given as `prior` to
  `prior_smoothing_cross_entropy` it smooths labels by ranks ("LS-Zipf").

  Args:
    scores: what ranks the classes, floating point, `[B, K]`; `B` may be any
      number of batch axes, also none. They get no gradient.
    power: `s`, at least 0: a scalar or an array that broadcasts to `[B]`.
    axis: the class axis of the scores.
    where: boolean, what takes part: examples, `[B]`, or classes, `[B, K]` (axes
      of size one broadcast).

  Returns:
    The distribution of every example, `[B, K]`, in float32, or in float64 for
    scores in float64; 0 for masked examples and classes.

  Raises:
    TypeError: if an argument has the wrong dtype.
    ValueError: if the shape of an argument does not fit the scores, or if the
      power is known and negative.

  Examples:
    >>> import jax.numpy as jnp
    >>> import numpy as np
    >>> from maxsup_jax import losses
    >>> zipf = losses.zipf_distribution(jnp.array([2.0, 1.0, 0.1, 1.0]))
    >>> print(np.asarray(zipf).round(4))
    [0.4444 0.2222 0.1111 0.2222]

  References:
    Liang et al., `Efficient One Pass Self-distillation with Zipf's Label
    Smoothing <https://arxiv.org/abs/2207.12980>`_, ECCV 2022.
  """
  rows = Rows.of(jax.lax.stop_gradient(scores), axis, where)
  weights_BK = _weights(rows, scores, power, where)
  zipf_BK = weights_BK / rows.expand(rows.sum(weights_BK))
  if rows.examples is not None:
    zipf_BK = jnp.where(rows.expand(rows.examples), zipf_BK, 0)
  if rows.classes is not None:
    zipf_BK = jnp.where(rows.classes, zipf_BK, 0)
  return zipf_BK


def zipf_penalty(
  logits: ArrayLike,
  labels: ArrayLike,
  *,
  power: ArrayLike = 1.0,
  votes: ArrayLike | None = None,
  axis: int = -1,
  where: ArrayLike | None = None,
) -> jax.Array:
  r"""Divergence of the non-target classes from Zipf's law, per example.

  .. math::
    \mathrm{KL}(t \| \tilde q) = \sum_{k \ne y} t_k \log
    \frac{t_k}{\tilde q_k}, \qquad
    t_k = \frac{r_k^{-s}}{\sum_{j \ne y} r_j^{-s}}, \quad
    \tilde q_k = \frac{e^{z_k}}{\sum_{j \ne y} e^{z_j}}

  The ranks `r` are those of `min_ranks` among all classes, the label included;
  neither they nor what they rank get a gradient. The logit of the label gets
  none either.

  The paper's code can restrict the mean to examples that are classified
  correctly: take `weighted_mean(penalty, where=correct)`.

  Args:
    logits: unnormalised scores `z`, floating point, `[B, K]`; `B` may be any
      number of batch axes, also none.
    labels: class ids `y`, integer, `[B]`. The penalty is not defined for mixed
      labels.
    power: `s`, at least 0: a scalar or an array that broadcasts to `[B]`. It
      may be traced, and then its value is not checked.
    votes: what ranks the classes, floating point, `[B, K]`, for example
      `dense_votes`; None for the logits.
    axis: the class axis of the logits.
    where: boolean, what takes part: examples, `[B]`, or logits, `[B, K]` (axes
      of size one broadcast). The penalty of a masked example, and its gradient,
      is exactly 0 whatever its logits and label are. A masked class takes no
      part in ranks and softmax.

  Returns:
    The penalty of every example, `[B]`, in float32, or in float64 for logits in
    float64. It is 0 where there is no class but the label, and NaN, and so is
    its gradient, where the label is outside `[0, K)` or a masked class.

  Raises:
    TypeError: if an argument has the wrong dtype.
    ValueError: if the shape of an argument does not fit the logits, if labels
      are distributions, or if the power is known and negative.

  Examples:
    >>> import jax.numpy as jnp
    >>> import numpy as np
    >>> from maxsup_jax import losses
    >>> logits = jnp.array([[2.0, 1.0, 0.1, -1.0], [0.5, 1.5, 1.0, -0.5]])
    >>> penalty = losses.zipf_penalty(logits, jnp.array([0, 2]))
    >>> print(np.asarray(penalty).round(4))
    [0.1136 0.0242]

  References:
    Liang et al., `Efficient One Pass Self-distillation with Zipf's Label
    Smoothing <https://arxiv.org/abs/2207.12980>`_, ECCV 2022.
  """
  rows, target = _read(logits, labels, axis, where)
  penalty = _penalty(rows, target, logits, power, votes, where)
  return rows.finish(penalty, target)


def zipf_cross_entropy(
  logits: ArrayLike,
  labels: ArrayLike,
  alpha: ArrayLike = 0.1,
  *,
  power: ArrayLike = 1.0,
  votes: ArrayLike | None = None,
  class_weights: ArrayLike | None = None,
  axis: int = -1,
  where: ArrayLike | None = None,
) -> jax.Array:
  r"""Zipf's label smoothing, per example.

  .. math::
    H(y, q) + \alpha \, \mathrm{KL}(t \| \tilde q)

  See `zipf_penalty` for the law `t` over the ranks of the other classes, and
  for their softmax :math:`\tilde q`.

  Args:
    logits: unnormalised scores `z`, floating point, `[B, K]`; `B` may be any
      number of batch axes, also none.
    labels: class ids, integer, `[B]`. The loss is not defined for mixed labels.
    alpha: strength of the penalty, at least 0: a scalar or an array that
      broadcasts to `[B]`. It may be traced, and then its value is not checked.
      The paper has 0.1 for ImageNet and CIFAR-100, 1 for TinyImageNet and
      INAT-21.
    power: of the ranks, at least 0, likewise.
    votes: what ranks the classes, floating point, `[B, K]`, for example
      `dense_votes`; None for the logits.
    class_weights: weights of the classes, at least 0, `[K]`. They multiply the
      cross-entropy with the label, not the penalty. `label_weights` has the
      denominator of PyTorch's mean.
    axis: the class axis of the logits.
    where: boolean, what takes part: examples, `[B]`, or logits, `[B, K]` (axes
      of size one broadcast). The loss of a masked example, and its gradient,
      is exactly 0 whatever its logits and label are. A masked class takes no
      part in ranks and softmax.

  Returns:
    The loss of every example, `[B]`, in float32, or in float64 for logits in
    float64. It is NaN, and so is its gradient, where the label is outside
    `[0, K)` or a masked class.

  Raises:
    TypeError: if an argument has the wrong dtype.
    ValueError: if the shape of an argument does not fit the logits, if labels
      are distributions, or if a number is known and outside its range.

  Examples:
    >>> import jax.numpy as jnp
    >>> import numpy as np
    >>> from maxsup_jax import losses
    >>> logits = jnp.array([[2.0, 1.0, 0.1, -1.0], [0.5, 1.5, 1.0, -0.5]])
    >>> loss = losses.zipf_cross_entropy(logits, jnp.array([0, 2]), 0.1)
    >>> print(np.asarray(loss).round(4))
    [0.4607 1.249 ]

  References:
    Liang et al., `Efficient One Pass Self-distillation with Zipf's Label
    Smoothing <https://arxiv.org/abs/2207.12980>`_, ECCV 2022.
  """
  rows, target = _read(logits, labels, axis, where, class_weights)
  alpha = rows.number(alpha, ALPHA_RANGE)
  penalty = _penalty(rows, target, logits, power, votes, where)
  return rows.finish(
    target_cross_entropy(rows, target) + alpha * penalty, target
  )


def _read(
  logits: ArrayLike,
  labels: ArrayLike,
  axis: int,
  where: ArrayLike | None,
  class_weights: ArrayLike | None = None,
) -> tuple[Rows, Target]:
  _checks.check_class_ids(
    labels, "Zipf's label smoothing ranks the classes besides one true class"
  )
  rows = Rows.of(logits, axis, where)
  return rows, rows.target(labels, class_weights)


def _penalty(
  rows: Rows,
  target: Target,
  logits: ArrayLike,
  power: ArrayLike,
  votes: ArrayLike | None,
  where: ArrayLike | None,
) -> jax.Array:
  scores = logits
  if votes is not None:
    scores = _checks.check_same_shape('votes', votes, rows.z)
  weights_BK = _weights(rows, scores, power, where)
  # The classes besides the label, as a mask; ranks need arrays of this size.
  classes_BK = jax.lax.broadcasted_iota(jnp.int32, rows.z.shape, rows.axis)
  others_BK = classes_BK != rows.expand(target.ids)
  if rows.classes is not None:
    others_BK &= rows.classes
  any_others = jnp.any(others_BK, rows.axis)
  # Where there are none, the whole row stands in, and is discarded.
  kept_BK = others_BK | rows.expand(~any_others)
  others = Rows.of(rows.unshifted(), rows.axis, kept_BK)
  weights_BK = jnp.where(kept_BK, weights_BK, 0)
  law_BK = weights_BK / rows.expand(jnp.sum(weights_BK, rows.axis))
  log_law_BK = jnp.log(jnp.where(law_BK > 0, law_BK, 1))
  entropy = -jnp.sum(law_BK * log_law_BK, rows.axis)
  divergence = others.cross_entropy_with(law_BK) - entropy
  return jnp.where(any_others, divergence, 0)


def _weights(
  rows: Rows, scores: ArrayLike, power: ArrayLike, where: ArrayLike | None
) -> jax.Array:
  """The rank of every class to the power of -s."""
  power = rows.number(power, POWER_RANGE)
  ranks_BK = min_ranks(scores, axis=rows.axis, where=where)
  return ranks_BK.astype(rows.z.dtype) ** -rows.expand(power)


def zipf_objective(
  alpha: float | Schedule = 0.1,
  *,
  power: float = 1.0,
  ranking: str = 'logits',
) -> Objective:
  """Zipf's label smoothing: `zipf_cross_entropy`.

  Labels must be class ids.

  Args:
    alpha: strength, at least 0: a number or a function of the step.
    power: of the ranks, at least 0.
    ranking: ``'logits'``, or ``'votes'``, which `apply` then takes as `votes`:
      see `dense_votes`.

  Returns:
    An objective without state.

  Raises:
    TypeError: if alpha is neither a number nor a function, or the power is not
      a number.
    ValueError: if a number is negative or the ranking is unknown.

  Examples:
    >>> import jax.numpy as jnp
    >>> import numpy as np
    >>> from maxsup_jax import losses
    >>> logits, labels = jnp.array([[0.5, 1.5, 1.0, -0.5]]), jnp.array([2])
    >>> objective = losses.zipf_objective(0.1)
    >>> loss, state = objective.apply(objective.init(), logits, labels)
    >>> print(np.asarray(loss).round(4), state)
    [1.249] ()
  """
  _checks.check_choice('ranking', ranking, RANKINGS)
  POWER_RANGE.check(_checks.check_number('power', power))
  loss = functools.partial(zipf_cross_entropy, power=power)
  needs = ('votes',) if ranking == 'votes' else ()
  return stateless(loss, alpha, ALPHA_RANGE, needs=needs)
