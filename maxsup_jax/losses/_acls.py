"""Adaptive and conditional label smoothing (ACLS)."""

import functools

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from maxsup_jax.losses import _checks
from maxsup_jax.losses._cross_entropy import target_cross_entropy
from maxsup_jax.losses._margin_smoothing import MARGIN_RANGE
from maxsup_jax.losses._objective import Objective, stateless
from maxsup_jax.losses._rows import Rows
from maxsup_jax.losses._schedules import Schedule

ALPHA_RANGE = _checks.Range(low=0.0)
TOP_WEIGHT_RANGE = _checks.Range(low=0.0, name='top_weight')
REST_WEIGHT_RANGE = _checks.Range(low=0.0, name='rest_weight')


def acls_penalty(
  logits: ArrayLike,
  margin: ArrayLike = 10.0,
  *,
  top_weight: ArrayLike = 1.0,
  rest_weight: ArrayLike = 0.1,
  axis: int = -1,
  where: ArrayLike | None = None,
) -> jax.Array:
  r"""The penalty of ACLS, per example.

  .. math::
    \lambda_1 \max(0, z_{\max} - m)^2 + \frac{\lambda_2}{K - 1}
    \sum_{k:\, z_k < z_{\max}} \max(0, \bar{z}_{\max} - z_k - m)^2,
    \qquad z_{\max} = \max_k z_k

  The bar stops the gradient: the second term lifts logits that are too far
  below the top, and does not lower the top, which the first term does. That one
  looks at the top logit itself, so the penalty changes when all logits are
  shifted. Logits that tie for the top count once, and share its gradient
  evenly, as `jnp.max` does; none of them is in the sum.

  Args:
    logits: unnormalised scores `z`, floating point, `[B, K]`; `B` may be any
      number of batch axes, also none.
    margin: `m`, at least 0: a scalar or an array that broadcasts to `[B]`. It
      may be traced, and then its value is not checked.
    top_weight: :math:`\lambda_1`, at least 0, likewise.
    rest_weight: :math:`\lambda_2`, at least 0, likewise.
    axis: the class axis of the logits.
    where: boolean, what takes part: examples, `[B]`, or logits, `[B, K]` (axes
      of size one broadcast). The penalty of a masked example, and its gradient,
      is exactly 0 whatever its logits are. A masked class takes no part in the
      maximum and the sum, and `K` counts the others.

  Returns:
    The penalty of every example, `[B]`, in float32, or in float64 for logits in
    float64.

  Raises:
    TypeError: if an argument has the wrong dtype.
    ValueError: if the shape of an argument does not fit the logits, or if a
      number is known and outside its range.

  Examples:
    >>> import jax.numpy as jnp
    >>> import numpy as np
    >>> from maxsup_jax import losses
    >>> logits = jnp.array([[14.0, 1.0, 2.0, 5.0], [0.5, 1.5, 1.0, -0.5]])
    >>> penalty = losses.acls_penalty(logits, 10.0)
    >>> print(np.asarray(penalty).round(4))
    [16.4333  0.    ]

  References:
    Park et al., `ACLS: Adaptive and Conditional Label Smoothing for Network
    Calibration <https://arxiv.org/abs/2308.11911>`_, ICCV 2023.
  """
  rows = Rows.of(logits, axis, where)
  return rows.finish(_penalty(rows, margin, top_weight, rest_weight))


def acls_cross_entropy(
  logits: ArrayLike,
  labels: ArrayLike,
  alpha: ArrayLike = 0.1,
  *,
  margin: ArrayLike = 10.0,
  top_weight: ArrayLike = 1.0,
  rest_weight: ArrayLike = 0.1,
  class_weights: ArrayLike | None = None,
  axis: int = -1,
  where: ArrayLike | None = None,
) -> jax.Array:
  r"""Adaptive and conditional label smoothing, per example.

  .. math::
    H(y, q) + \alpha \left[ \lambda_1 \max(0, z_{\max} - m)^2 +
    \frac{\lambda_2}{K - 1} \sum_{k:\, z_k < z_{\max}}
    \max(0, \bar{z}_{\max} - z_k - m)^2 \right]

  The penalty is that of `acls_penalty`, where the bar is explained.

  Args:
    logits: unnormalised scores `z`, floating point, `[B, K]`; `B` may be any
      number of batch axes, also none.
    labels: class ids, integer, `[B]`, or distributions over the classes,
      floating point, `[B, K]`. Both forms agree on one-hot labels. The penalty
      needs none; distributions are used as they are, not normalised.
    alpha: strength of the penalty, at least 0: a scalar or an array that
      broadcasts to `[B]`. It may be traced, and then its value is not checked.
    margin: `m`, at least 0, likewise.
    top_weight: :math:`\lambda_1`, at least 0, likewise.
    rest_weight: :math:`\lambda_2`, at least 0, likewise.
    class_weights: weights of the classes, at least 0, `[K]`. They multiply the
      cross-entropy with the label, not the penalty. `label_weights` has the
      denominator of PyTorch's mean.
    axis: the class axis of the logits.
    where: boolean, what takes part: examples, `[B]`, or logits, `[B, K]` (axes
      of size one broadcast). The loss of a masked example, and its gradient,
      is exactly 0 whatever its logits and label are. A masked class takes no
      part in the softmax, the maximum and the sum.

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
    >>> loss = losses.acls_cross_entropy(logits, jnp.array([0, 2]), 0.1)
    >>> print(np.asarray(loss).round(4))
    [1.6435 1.2466]

  References:
    Park et al., `ACLS: Adaptive and Conditional Label Smoothing for Network
    Calibration <https://arxiv.org/abs/2308.11911>`_, ICCV 2023.
  """
  rows = Rows.of(logits, axis, where)
  target = rows.target(labels, class_weights)
  alpha = rows.number(alpha, ALPHA_RANGE)
  penalty = _penalty(rows, margin, top_weight, rest_weight)
  return rows.finish(
    target_cross_entropy(rows, target) + alpha * penalty, target
  )


def _penalty(
  rows: Rows,
  margin: ArrayLike,
  top_weight: ArrayLike,
  rest_weight: ArrayLike,
) -> jax.Array:
  margin = rows.number(margin, MARGIN_RANGE)
  top_weight = rows.number(top_weight, TOP_WEIGHT_RANGE)
  rest_weight = rows.number(rest_weight, REST_WEIGHT_RANGE)
  top = rows.max() + jnp.squeeze(rows.shift, rows.axis)
  # The top of the shifted row is the constant 0. Ties with it are no excess.
  excess_BK = -rows.z - rows.expand(margin)
  rest = rows.sum(jnp.square(jnp.where(excess_BK > 0, excess_BK, 0)))
  others = jnp.maximum(rows.count() - 1, 1)
  above = jnp.where(top > margin, top - margin, 0)
  return top_weight * jnp.square(above) + rest_weight * rest / others


def acls_objective(
  alpha: float | Schedule = 0.1,
  *,
  margin: float = 10.0,
  top_weight: float = 1.0,
  rest_weight: float = 0.1,
) -> Objective:
  """Adaptive and conditional label smoothing: `acls_cross_entropy`.

  Args:
    alpha: strength, at least 0: a number or a function of the step.
    margin: at least 0.
    top_weight: at least 0.
    rest_weight: at least 0.

  Returns:
    An objective without state.

  Raises:
    TypeError: if alpha is neither a number nor a function, or another argument
      is not a number.
    ValueError: if an argument is negative.

  Examples:
    >>> import jax.numpy as jnp
    >>> import numpy as np
    >>> from maxsup_jax import losses
    >>> logits, labels = jnp.array([[0.5, 1.5, 1.0, -0.5]]), jnp.array([2])
    >>> objective = losses.acls_objective(0.1, margin=1.0)
    >>> loss, state = objective.apply(objective.init(), logits, labels)
    >>> print(np.asarray(loss).round(4), state)
    [1.2749] ()
  """
  numbers = {
    'margin': (margin, MARGIN_RANGE),
    'top_weight': (top_weight, TOP_WEIGHT_RANGE),
    'rest_weight': (rest_weight, REST_WEIGHT_RANGE),
  }
  for name, (value, allowed) in numbers.items():
    allowed.check(_checks.check_number(name, value))
  loss = functools.partial(
    acls_cross_entropy,
    margin=margin,
    top_weight=top_weight,
    rest_weight=rest_weight,
  )
  return stateless(loss, alpha, ALPHA_RANGE)
