"""Margin-based label smoothing (MbLS)."""

import functools

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from maxsup_jax.losses import _checks
from maxsup_jax.losses._cross_entropy import target_cross_entropy
from maxsup_jax.losses._objective import Objective, stateless
from maxsup_jax.losses._rows import Rows
from maxsup_jax.losses._schedules import Schedule

ALPHA_RANGE = _checks.Range(low=0.0)
MARGIN_RANGE = _checks.Range(low=0.0, name='margin')


def margin_penalty(
  logits: ArrayLike,
  margin: ArrayLike = 10.0,
  *,
  axis: int = -1,
  where: ArrayLike | None = None,
) -> jax.Array:
  r"""How far logits lie more than a margin below the top one, per example.

  .. math::
    \frac1K \sum_k \max(0, \max_j z_j - z_k - m)

  The mean is over all classes, the top one included. The gradient also flows
  through the top logit; ties share it evenly, as `jnp.max` does. With a margin
  of 0 it is `max_suppression`.

  Args:
    logits: unnormalised scores `z`, floating point, `[B, K]`; `B` may be any
      number of batch axes, also none.
    margin: `m`, at least 0: a scalar or an array that broadcasts to `[B]`. It
      may be traced, and then its value is not checked.
    axis: the class axis of the logits.
    where: boolean, what takes part: examples, `[B]`, or logits, `[B, K]` (axes
      of size one broadcast). The penalty of a masked example, and its gradient,
      is exactly 0 whatever its logits are. A masked class takes no part in the
      maximum and the mean.

  Returns:
    The penalty of every example, `[B]`, in float32, or in float64 for logits in
    float64.

  Raises:
    TypeError: if an argument has the wrong dtype.
    ValueError: if the shape of an argument does not fit the logits, or if the
      margin is known and negative.

  Examples:
    >>> import jax.numpy as jnp
    >>> from maxsup_jax import losses
    >>> logits = jnp.array([[14.0, 1.0, 2.0, 5.0], [0.5, 1.5, 1.0, -0.5]])
    >>> print(losses.margin_penalty(logits, 10.0))
    [1.25 0.  ]

  References:
    Liu et al., `The Devil is in the Margin: Margin-based Label Smoothing for
    Network Calibration <https://arxiv.org/abs/2111.15430>`_, CVPR 2022.
  """
  rows = Rows.of(logits, axis, where)
  return rows.finish(_penalty(rows, rows.number(margin, MARGIN_RANGE)))


def mbls_cross_entropy(
  logits: ArrayLike,
  labels: ArrayLike,
  alpha: ArrayLike = 0.1,
  *,
  margin: ArrayLike = 10.0,
  class_weights: ArrayLike | None = None,
  axis: int = -1,
  where: ArrayLike | None = None,
) -> jax.Array:
  r"""Margin-based label smoothing, per example.

  .. math::
    H(y, q) + \frac{\alpha}{K} \sum_k \max(0, \max_j z_j - z_k - m)

  Args:
    logits: unnormalised scores `z`, floating point, `[B, K]`; `B` may be any
      number of batch axes, also none.
    labels: class ids, integer, `[B]`, or distributions over the classes,
      floating point, `[B, K]`. Both forms agree on one-hot labels. The penalty
      needs none; distributions are used as they are, not normalised.
    alpha: strength of the penalty, at least 0: a scalar or an array that
      broadcasts to `[B]`. It may be traced, and then its value is not checked.
    margin: `m`, at least 0, likewise. The default is that of the code published
      with the paper.
    class_weights: weights of the classes, at least 0, `[K]`. They multiply the
      cross-entropy with the label, not the penalty. `label_weights` has the
      denominator of PyTorch's mean.
    axis: the class axis of the logits.
    where: boolean, what takes part: examples, `[B]`, or logits, `[B, K]` (axes
      of size one broadcast). The loss of a masked example, and its gradient,
      is exactly 0 whatever its logits and label are. A masked class takes no
      part in the softmax, the maximum and the mean.

  Returns:
    The loss of every example, `[B]`, in float32, or in float64 for logits in
    float64. It is NaN, and so is its gradient, where the label names no class
    that takes part: a class id outside `[0, K)` or of a masked class, or a
    distribution that is not 0 on a masked class.

  Raises:
    TypeError: if an argument has the wrong dtype.
    ValueError: if the shape of an argument does not fit the logits, or if a
      number is known and outside its range.

  Examples:
    >>> import jax.numpy as jnp
    >>> import numpy as np
    >>> from maxsup_jax import losses
    >>> logits = jnp.array([[14.0, 1.0, 2.0, 5.0], [0.5, 1.5, 1.0, -0.5]])
    >>> loss = losses.mbls_cross_entropy(logits, jnp.array([0, 2]), 0.1)
    >>> print(np.asarray(loss).round(4))
    [0.1251 1.2466]

  References:
    Liu et al., `The Devil is in the Margin: Margin-based Label Smoothing for
    Network Calibration <https://arxiv.org/abs/2111.15430>`_, CVPR 2022.
  """
  rows = Rows.of(logits, axis, where)
  target = rows.target(labels, class_weights)
  alpha = rows.number(alpha, ALPHA_RANGE)
  penalty = _penalty(rows, rows.number(margin, MARGIN_RANGE))
  return rows.finish(
    target_cross_entropy(rows, target) + alpha * penalty, target
  )


def _penalty(rows: Rows, margin: jax.Array) -> jax.Array:
  excess_BK = rows.expand(rows.max() - margin) - rows.z
  return rows.sum(jnp.where(excess_BK > 0, excess_BK, 0)) / rows.count()


def mbls_objective(
  alpha: float | Schedule = 0.1, *, margin: float = 10.0
) -> Objective:
  """Margin-based label smoothing: `mbls_cross_entropy`.

  Args:
    alpha: strength, at least 0: a number or a function of the step.
    margin: at least 0.

  Returns:
    An objective without state.

  Raises:
    TypeError: if alpha is neither a number nor a function, or the margin is not
      a number.
    ValueError: if alpha or the margin is negative.

  Examples:
    >>> import jax.numpy as jnp
    >>> import numpy as np
    >>> from maxsup_jax import losses
    >>> logits, labels = jnp.array([[0.5, 1.5, 1.0, -0.5]]), jnp.array([2])
    >>> objective = losses.mbls_objective(0.1, margin=1.0)
    >>> loss, state = objective.apply(objective.init(), logits, labels)
    >>> print(np.asarray(loss).round(4), state)
    [1.2716] ()
  """
  MARGIN_RANGE.check(_checks.check_number('margin', margin))
  loss = functools.partial(mbls_cross_entropy, margin=margin)
  return stateless(loss, alpha, ALPHA_RANGE)
