"""Cross-entropy, the loss that all others here add a term to."""

import jax
from jax.typing import ArrayLike

from maxsup_jax.losses._objective import Objective
from maxsup_jax.losses._rows import Rows, Target


def cross_entropy(
  logits: ArrayLike,
  labels: ArrayLike,
  *,
  class_weights: ArrayLike | None = None,
  axis: int = -1,
  where: ArrayLike | None = None,
) -> jax.Array:
  r"""Softmax cross-entropy, per example.

  .. math::
    H(y, q) = -\sum_k y_k \log q_k = \log \sum_k e^{z_k} - z_y,
    \qquad q = \mathrm{softmax}(z)

  Labels that are distributions are used as they are: rows that do not sum to
  one are not normalised.

  With weights `w` of the classes it is :math:`-\sum_k w_k y_k \log q_k`, as in
  PyTorch.

  Args:
    logits: unnormalised scores `z`, floating point, `[B, K]`; `B` may be any
      number of batch axes, also none.
    labels: class ids, integer, `[B]`, or distributions over the classes,
      floating point, `[B, K]`. Both forms agree on one-hot labels.
    class_weights: weights of the classes, at least 0, `[K]`. `label_weights`
      has the denominator of PyTorch's mean.
    axis: the class axis of the logits.
    where: boolean, what takes part: examples, `[B]`, or logits, `[B, K]` (axes
      of size one broadcast). The loss of a masked example, and its gradient,
      is exactly 0 whatever its logits and label are. A masked class takes no
      part in the softmax.

  Returns:
    The loss of every example, `[B]`, in float32, or in float64 for logits in
    float64. It is NaN, and so is its gradient, where the label names no class
    that takes part: a class id outside `[0, K)` or of a masked class, or a
    distribution that is not 0 on a masked class.

  Raises:
    TypeError: if an argument has the wrong dtype.
    ValueError: if the shape of an argument does not fit the logits.

  Examples:
    >>> import jax.numpy as jnp
    >>> import numpy as np
    >>> from maxsup_jax import losses
    >>> logits = jnp.array([[2.0, 1.0, 0.1, -1.0], [0.5, 1.5, 1.0, -0.5]])
    >>> loss = losses.cross_entropy(logits, jnp.array([0, 2]))
    >>> print(np.asarray(loss).round(4))
    [0.4493 1.2466]

    The second example of a batch is padding:

    >>> real = jnp.array([True, False])
    >>> loss = losses.cross_entropy(logits, jnp.array([0, -1]), where=real)
    >>> print(np.asarray(loss).round(4))
    [0.4493 0.    ]
  """
  rows = Rows.of(logits, axis, where)
  target = rows.target(labels, class_weights)
  return rows.finish(target_cross_entropy(rows, target), target)


def target_cross_entropy(rows: Rows, target: Target) -> jax.Array:
  """The cross-entropy of rows that are checked and shifted already."""
  return rows.log_normalizer() * target.mass - target.logit


def ce_objective() -> Objective:
  """Plain cross-entropy.

  Returns:
    An objective without state.

  Examples:
    >>> import jax.numpy as jnp
    >>> import numpy as np
    >>> from maxsup_jax import losses
    >>> logits, labels = jnp.array([[0.5, 1.5, 1.0, -0.5]]), jnp.array([2])
    >>> objective = losses.ce_objective()
    >>> loss, state = objective.apply(objective.init(), logits, labels)
    >>> print(np.asarray(loss).round(4), state)
    [1.2466] ()
  """

  def apply(state, logits, labels, *, step=0, where=None, class_weights=None):
    del step
    values = cross_entropy(
      logits, labels, class_weights=class_weights, where=where
    )
    return values, state

  return Objective(init=tuple, apply=apply)
