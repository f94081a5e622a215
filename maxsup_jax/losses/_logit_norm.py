"""LogitNorm: cross-entropy on logits of a fixed norm."""

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from maxsup_jax.losses import _checks
from maxsup_jax.losses._objective import Objective, stateless
from maxsup_jax.losses._rows import Rows
from maxsup_jax.losses._schedules import Schedule

TEMPERATURE_RANGE = _checks.Range(low=0.0, name='temperature', open_low=True)
_EPSILON = 1e-7


def logit_norm_cross_entropy(
  logits: ArrayLike,
  labels: ArrayLike,
  temperature: ArrayLike = 0.04,
  *,
  class_weights: ArrayLike | None = None,
  axis: int = -1,
  where: ArrayLike | None = None,
) -> jax.Array:
  r"""Cross-entropy of logits that are divided by their norm, per example.

  .. math::
    H\left(y, \mathrm{softmax}\left(\frac{z}{\tau (\|z\|_2 + 10^{-7})}\right)
    \right)

  The loss depends on the direction of the logits only: training cannot lower
  it by making them larger. It changes when all logits are shifted. Where all
  logits are 0 the gradient of the norm is taken to be 0; that of the loss is
  then of the size :math:`10^7 / \tau`: do not start from a classifier that is
  initialised to zero.

  Args:
    logits: unnormalised scores `z`, floating point, `[B, K]`; `B` may be any
      number of batch axes, also none.
    labels: class ids, integer, `[B]`, or distributions over the classes,
      floating point, `[B, K]`. Both forms agree on one-hot labels.
      Distributions are used as they are, not normalised.
    temperature: :math:`\tau`, greater than 0: a scalar or an array that
      broadcasts to `[B]`. It may be traced, and then its value is not checked.
      The code published with the paper trains on CIFAR-10 with 0.01, and has 1
      where none is given; 0.04 is what others use.
    class_weights: weights of the classes, at least 0, `[K]`. `label_weights`
      has the denominator of PyTorch's mean.
    axis: the class axis of the logits.
    where: boolean, what takes part: examples, `[B]`, or logits, `[B, K]` (axes
      of size one broadcast). The loss of a masked example, and its gradient,
      is exactly 0 whatever its logits and label are. A masked class takes no
      part in the norm and the softmax.

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
    >>> logits = jnp.array([[2.0, 1.0, 0.1, -1.0], [0.5, 1.5, 1.0, -0.5]])
    >>> labels = jnp.array([0, 2])
    >>> for scale in (1, 100):
    ...   loss = losses.logit_norm_cross_entropy(scale * logits, labels, 0.5)
    ...   print(np.asarray(loss).round(4))
    [0.5545 1.2485]
    [0.5545 1.2485]

  References:
    Wei et al., `Mitigating Neural Network Overconfidence with Logit
    Normalization <https://arxiv.org/abs/2205.09310>`_, ICML 2022.
  """
  rows = Rows.of(logits, axis, where)
  temperature = rows.number(temperature, TEMPERATURE_RANGE)
  square_B = rows.sum(jnp.square(rows.unshifted()))
  # Twice guarded, so that the square root of 0 has gradient 0 and not NaN.
  positive_B = square_B > 0
  norm_B = jnp.where(
    positive_B, jnp.sqrt(jnp.where(positive_B, square_B, 1)), 0
  )
  scale_B = temperature * (norm_B + _EPSILON)
  # The target is linear in the logits, and read before they are scaled.
  target = rows.target(labels, class_weights)
  log_normalizer = rows.tempered(scale_B).log_normalizer()
  loss = log_normalizer * target.mass - target.logit / scale_B
  return rows.finish(loss, target)


def logit_norm_objective(temperature: float | Schedule = 0.04) -> Objective:
  """LogitNorm: `logit_norm_cross_entropy`.

  Args:
    temperature: greater than 0: a number or a function of the step.

  Returns:
    An objective without state.

  Raises:
    TypeError: if the temperature is neither a number nor a function.
    ValueError: if the temperature is not positive.

  Examples:
    >>> import jax.numpy as jnp
    >>> import numpy as np
    >>> from maxsup_jax import losses
    >>> logits, labels = jnp.array([[0.5, 1.5, 1.0, -0.5]]), jnp.array([2])
    >>> objective = losses.logit_norm_objective(0.5)
    >>> loss, state = objective.apply(objective.init(), logits, labels)
    >>> print(np.asarray(loss).round(4), state)
    [1.2485] ()
  """
  return stateless(logit_norm_cross_entropy, temperature, TEMPERATURE_RANGE)
