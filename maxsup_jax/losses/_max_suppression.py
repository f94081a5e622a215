"""MaxSup: the penalty on the top logit, and the loss that adds it."""

import jax
from jax.typing import ArrayLike

from maxsup_jax.losses import _checks
from maxsup_jax.losses._cross_entropy import target_cross_entropy
from maxsup_jax.losses._objective import Objective, stateless
from maxsup_jax.losses._rows import Rows
from maxsup_jax.losses._schedules import Schedule

ALPHA_RANGE = _checks.Range(low=0.0)


def max_suppression(
  logits: ArrayLike, *, axis: int = -1, where: ArrayLike | None = None
) -> jax.Array:
  r"""How far the top logit lies above the mean logit, per example.

  .. math::
    \max_k z_k - \bar z, \qquad \bar z = \frac1K \sum_k z_k

  The penalty of MaxSup without its strength, to be added to a loss of your own.
  It needs no labels. It is never negative, 0 exactly where all logits are
  equal, unchanged by a shift of the logits, and scales with them.

  The gradient is :math:`1 - 1/K` for the top logit and :math:`-1/K` for the
  others. Logits that tie for the top share its part evenly, as `jnp.max` does:
  where all logits are equal, as under a classifier initialised to zero, the
  gradient is 0.

  Args:
    logits: unnormalised scores `z`, floating point, `[B, K]`; `B` may be any
      number of batch axes, also none.
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
    ValueError: if the shape of an argument does not fit the logits.

  Examples:
    >>> import jax.numpy as jnp
    >>> import numpy as np
    >>> from maxsup_jax import losses
    >>> logits = jnp.array([[2.0, 1.0, 0.1, -1.0], [0.5, 1.5, 1.0, -0.5]])
    >>> print(losses.max_suppression(logits))
    [1.475 0.875]

    The last class does not exist:

    >>> exists = jnp.array([[True, True, True, False]])
    >>> penalty = losses.max_suppression(logits, where=exists)
    >>> print(np.asarray(penalty).round(4))
    [0.9667 0.5   ]

  References:
    Zhou et al., `MaxSup: Overcoming Representation Collapse in Label Smoothing
    <https://arxiv.org/abs/2502.15798>`_, NeurIPS 2025, eqs. 8-9.
  """
  rows = Rows.of(logits, axis, where)
  return rows.finish(_penalty(rows))


def maxsup_cross_entropy(
  logits: ArrayLike,
  labels: ArrayLike,
  alpha: ArrayLike = 0.1,
  *,
  class_weights: ArrayLike | None = None,
  axis: int = -1,
  where: ArrayLike | None = None,
) -> jax.Array:
  r"""Cross-entropy with max suppression, per example.

  .. math::
    H(y, q) + \alpha \left( \max_k z_k - \bar z \right),
    \qquad \bar z = \frac1K \sum_k z_k

  Label smoothing adds :math:`\alpha (z_y - \bar z)` to the cross-entropy. Where
  the label is the top class, the two losses and their gradients are the same;
  where it is not, this loss pulls down the wrong top logit instead of that of
  the label, and is larger by :math:`\alpha (\max_k z_k - z_y)`.

  The penalty needs no labels. Labels that are distributions, as mixup makes
  them, enter the cross-entropy only; the top class may then change between
  classes of nearly equal logits, and its gradient with it.

  Args:
    logits: unnormalised scores `z`, floating point, `[B, K]`; `B` may be any
      number of batch axes, also none.
    labels: class ids, integer, `[B]`, or distributions over the classes,
      floating point, `[B, K]`. Both forms agree on one-hot labels.
      Distributions are used as they are, not normalised.
    alpha: strength of the penalty, at least 0: a scalar or an array that
      broadcasts to `[B]`. It may be traced, and then its value is not checked.
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
    ValueError: if the shape of an argument does not fit the logits, or if alpha
      is known and negative.

  Examples:
    >>> import jax.numpy as jnp
    >>> import numpy as np
    >>> from maxsup_jax import losses
    >>> logits = jnp.array([[2.0, 1.0, 0.1, -1.0], [0.5, 1.5, 1.0, -0.5]])
    >>> labels = jnp.array([0, 2])
    >>> loss = losses.maxsup_cross_entropy(logits, labels, 0.1)
    >>> print(np.asarray(loss).round(4))
    [0.5968 1.3341]

    The first example is classified correctly, and label smoothing agrees; the
    second is not:

    >>> loss = losses.label_smoothing_cross_entropy(logits, labels, 0.1)
    >>> print(np.asarray(loss).round(4))
    [0.5968 1.2841]

  References:
    Zhou et al., `MaxSup: Overcoming Representation Collapse in Label Smoothing
    <https://arxiv.org/abs/2502.15798>`_, NeurIPS 2025, eqs. 6-9.
  """
  rows = Rows.of(logits, axis, where)
  target = rows.target(labels, class_weights)
  alpha = rows.number(alpha, ALPHA_RANGE)
  loss = target_cross_entropy(rows, target) + alpha * _penalty(rows)
  return rows.finish(loss, target)


def _penalty(rows: Rows) -> jax.Array:
  return rows.max() - rows.mean()


def maxsup_objective(
  alpha: float | Schedule = 0.1, *, adaptive_alpha: bool = False
) -> Objective:
  """Max suppression: `maxsup_cross_entropy`.

  Args:
    alpha: strength, at least 0: a number or a function of the step.
    adaptive_alpha: makes alpha the strength for examples on which the model is
      sure, and others get less: `confidence_alpha(logits, 0, alpha)`.

  Returns:
    An objective without state.

  Raises:
    TypeError: if alpha is neither a number nor a function, or adaptive_alpha is
      not a bool.
    ValueError: if alpha is negative.

  Examples:
    >>> import jax.numpy as jnp
    >>> import numpy as np
    >>> from maxsup_jax import losses
    >>> logits, labels = jnp.array([[0.5, 1.5, 1.0, -0.5]]), jnp.array([2])
    >>> objective = losses.maxsup_objective(0.1)
    >>> loss, state = objective.apply(objective.init(), logits, labels)
    >>> print(np.asarray(loss).round(4), state)
    [1.3341] ()
  """
  return stateless(
    maxsup_cross_entropy, alpha, ALPHA_RANGE, adaptive_alpha=adaptive_alpha
  )
