"""An objective whose examples are weighted by class."""

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from maxsup_jax.losses import _checks
from maxsup_jax.losses._objective import Objective
from maxsup_jax.losses._reduce import label_weights

MEANS = ('examples', 'weights')


def with_class_weights(
  objective: Objective,
  class_weights: ArrayLike,
  *,
  mean: str = 'examples',
  axis_name: str | None = None,
) -> Objective:
  """Gives an objective weights of the classes.

  Args:
    objective: any of this package.
    class_weights: at least 0, `[K]`. What they multiply is up to the loss, see
      there: the cross-entropy with the label.
    mean: what the mean of the losses over the examples becomes. ``'examples'``:
      it stays the sum of the weighted losses over the number of examples.
      ``'weights'``: the sum over that of the weights of the labels, as in
      PyTorch; the losses are scaled for it by the number of examples over the
      sum of the weights, of the whole batch. The mean over several batches then
      depends on how the examples are spread over them. For labels that are
      distributions PyTorch divides by the number of examples, and so do both.
    axis_name: the axis of devices over which batches are spread, if they are.

  Returns:
    The objective with weights.

  Raises:
    TypeError: if the weights are not numbers.
    ValueError: if they are negative, not finite or not one-dimensional, or the
      mean is unknown.

  Examples:
    >>> import jax.numpy as jnp
    >>> import numpy as np
    >>> from maxsup_jax import losses
    >>> objective = losses.with_class_weights(
    ...     losses.maxsup_objective(0.1), [1.0, 1.0, 3.0, 1.0])
    >>> logits, labels = jnp.array([[0.5, 1.5, 1.0, -0.5]]), jnp.array([2])
    >>> loss, state = objective.apply(objective.init(), logits, labels)
    >>> print(np.asarray(loss).round(4), state)
    [3.8272] ()
  """
  _checks.check_choice('mean', mean, MEANS)
  weights_K = _checks.read_class_weights(class_weights)

  def apply(state, logits, labels, *, where=None, **inputs):
    values, state = objective.apply(
      state, logits, labels, where=where, class_weights=weights_K, **inputs
    )
    class_ids = jnp.issubdtype(jnp.asarray(labels).dtype, jnp.integer)
    if mean == 'weights' and class_ids:
      real = jnp.ones(jnp.shape(labels), bool) if where is None else where
      if jnp.ndim(real) > jnp.ndim(labels):
        real = jnp.broadcast_to(jnp.any(real, -1), jnp.shape(labels))
      weights = label_weights(labels, weights_K, where=real)
      sums = jnp.sum(real), jnp.sum(weights)
      if axis_name is not None:
        sums = jax.lax.psum(sums, axis_name)
      values = values * jnp.where(sums[1] > 0, sums[0] / sums[1], 0)
    return values, state

  return objective._replace(apply=apply)
