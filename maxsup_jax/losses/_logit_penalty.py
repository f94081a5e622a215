"""The penalty on the squared logits, and the loss that adds it."""

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
FORMS = ('half', 'full')


def logit_penalty(
  logits: ArrayLike,
  *,
  form: str = 'half',
  axis: int = -1,
  where: ArrayLike | None = None,
) -> jax.Array:
  r"""The squared norm of the logits, per example.

  .. math::
    \frac12 \sum_k z_k^2 \quad (\text{half}), \qquad
    \sum_k z_k^2 \quad (\text{full})

  It pulls all logits towards 0, with gradient `z`, or `2 z`; unlike most
  penalties here it changes when all logits are shifted.

  Args:
    logits: unnormalised scores `z`, floating point, `[B, K]`; `B` may be any
      number of batch axes, also none.
    form: ``'half'`` or ``'full'``, as above.
    axis: the class axis of the logits.
    where: boolean, what takes part: examples, `[B]`, or logits, `[B, K]` (axes
      of size one broadcast). The penalty of a masked example, and its gradient,
      is exactly 0 whatever its logits are. A masked class adds nothing.

  Returns:
    The penalty of every example, `[B]`, in float32, or in float64 for logits in
    float64.

  Raises:
    TypeError: if an argument has the wrong dtype.
    ValueError: if the shape of an argument does not fit the logits or the form
      is unknown.

  Examples:
    >>> import jax.numpy as jnp
    >>> from maxsup_jax import losses
    >>> logits = jnp.array([[2.0, 1.0, 0.0, -1.0], [0.5, 1.5, 1.0, -0.5]])
    >>> print(losses.logit_penalty(logits))
    [3.    1.875]

  References:
    Kornblith et al., `Why Do Better Loss Functions Lead to Less Transferable
    Features? <https://arxiv.org/abs/2010.16402>`_, NeurIPS 2021.
  """
  _checks.check_choice('form', form, FORMS)
  rows = Rows.of(logits, axis, where)
  return rows.finish(_penalty(rows, form))


def logit_penalty_cross_entropy(
  logits: ArrayLike,
  labels: ArrayLike,
  alpha: ArrayLike = 2e-3,
  *,
  form: str = 'half',
  class_weights: ArrayLike | None = None,
  axis: int = -1,
  where: ArrayLike | None = None,
) -> jax.Array:
  r"""Cross-entropy with a penalty on the squared logits, per example.

  .. math::
    H(y, q) + \frac{\alpha}{2} \sum_k z_k^2

  Args:
    logits: unnormalised scores `z`, floating point, `[B, K]`; `B` may be any
      number of batch axes, also none.
    labels: class ids, integer, `[B]`, or distributions over the classes,
      floating point, `[B, K]`. Both forms agree on one-hot labels.
      Distributions are used as they are, not normalised.
    alpha: strength of the penalty, at least 0: a scalar or an array that
      broadcasts to `[B]`. It may be traced, and then its value is not checked.
      The default is that of the code published with MaxSup; other experiments
      of its authors have 6e-4.
    form: ``'half'``, as above, or ``'full'``, without the factor 1/2.
    class_weights: weights of the classes, at least 0, `[K]`. They multiply the
      cross-entropy with the label, not the penalty. `label_weights` has the
      denominator of PyTorch's mean.
    axis: the class axis of the logits.
    where: boolean, what takes part: examples, `[B]`, or logits, `[B, K]` (axes
      of size one broadcast). The loss of a masked example, and its gradient,
      is exactly 0 whatever its logits and label are. A masked class takes no
      part in the softmax and the penalty.

  Returns:
    The loss of every example, `[B]`, in float32, or in float64 for logits in
    float64. It is NaN, and so is its gradient, where the label names no class
    that takes part: a class id outside `[0, K)` or of a masked class, or a
    distribution that is not 0 on a masked class.

  Raises:
    TypeError: if an argument has the wrong dtype.
    ValueError: if the shape of an argument does not fit the logits, if the form
      is unknown, or if a number is known and outside its range.

  Examples:
    >>> import jax.numpy as jnp
    >>> import numpy as np
    >>> from maxsup_jax import losses
    >>> logits = jnp.array([[2.0, 1.0, 0.1, -1.0], [0.5, 1.5, 1.0, -0.5]])
    >>> labels = jnp.array([0, 2])
    >>> loss = losses.logit_penalty_cross_entropy(logits, labels, 2e-3)
    >>> print(np.asarray(loss).round(4))
    [0.4553 1.2503]

  References:
    Kornblith et al., `Why Do Better Loss Functions Lead to Less Transferable
    Features? <https://arxiv.org/abs/2010.16402>`_, NeurIPS 2021.

    Zhou et al., `MaxSup: Overcoming Representation Collapse in Label Smoothing
    <https://arxiv.org/abs/2502.15798>`_, NeurIPS 2025, section 4.1.2.
  """
  _checks.check_choice('form', form, FORMS)
  rows = Rows.of(logits, axis, where)
  target = rows.target(labels, class_weights)
  alpha = rows.number(alpha, ALPHA_RANGE)
  loss = target_cross_entropy(rows, target) + alpha * _penalty(rows, form)
  return rows.finish(loss, target)


def _penalty(rows: Rows, form: str) -> jax.Array:
  squares = rows.sum(jnp.square(rows.unshifted()))
  return squares / 2 if form == 'half' else squares


def logit_penalty_objective(
  alpha: float | Schedule = 2e-3, *, form: str = 'half'
) -> Objective:
  """Squared logits penalised: `logit_penalty_cross_entropy`.

  Args:
    alpha: strength, at least 0: a number or a function of the step.
    form: ``'half'`` or ``'full'``.

  Returns:
    An objective without state.

  Raises:
    TypeError: if alpha is neither a number nor a function.
    ValueError: if alpha is negative or the form is unknown.

  Examples:
    >>> import jax.numpy as jnp
    >>> import numpy as np
    >>> from maxsup_jax import losses
    >>> logits, labels = jnp.array([[0.5, 1.5, 1.0, -0.5]]), jnp.array([2])
    >>> objective = losses.logit_penalty_objective(6e-4)
    >>> loss, state = objective.apply(objective.init(), logits, labels)
    >>> print(np.asarray(loss).round(4), state)
    [1.2477] ()
  """
  _checks.check_choice('form', form, FORMS)
  loss = functools.partial(logit_penalty_cross_entropy, form=form)
  return stateless(loss, alpha, ALPHA_RANGE)
