"""The confidence penalty, the entropy it rewards, and what depends on it."""

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
FORMS = ('entropy', 'kl', 'mean')


def confidence_penalty(
  logits: ArrayLike,
  *,
  form: str = 'entropy',
  axis: int = -1,
  where: ArrayLike | None = None,
) -> jax.Array:
  r"""How far the softmax is from uniform, by its entropy, per example.

  With :math:`q = \mathrm{softmax}(z)` and :math:`H(q) = -\sum_k q_k \log q_k`
  in nats, three forms are in use:

  * ``'entropy'``: :math:`-H(q)`, as in the paper. It is negative.
  * ``'kl'``: :math:`\log K - H(q) = \mathrm{KL}(q \| 1/K)`, as in
    torch-uncertainty. It is 0 for the uniform distribution; the gradient is
    that of the first.
  * ``'mean'``: :math:`-H(q) / K`, as in the code published with margin-based
    label smoothing: its strength is `K` times that of the first form.

  Args:
    logits: unnormalised scores `z`, floating point, `[B, K]`; `B` may be any
      number of batch axes, also none. Logits of -inf have probability 0 and
      add nothing.
    form: ``'entropy'``, ``'kl'`` or ``'mean'``.
    axis: the class axis of the logits.
    where: boolean, what takes part: examples, `[B]`, or logits, `[B, K]` (axes
      of size one broadcast). The penalty of a masked example, and its gradient,
      is exactly 0 whatever its logits are. A masked class takes no part in the
      softmax, and `K` counts the others.

  Returns:
    The penalty of every example, `[B]`, in float32, or in float64 for logits in
    float64.

  Raises:
    TypeError: if an argument has the wrong dtype.
    ValueError: if the shape of an argument does not fit the logits or the form
      is unknown.

  Examples:
    >>> import jax.numpy as jnp
    >>> import numpy as np
    >>> from maxsup_jax import losses
    >>> logits = jnp.array([[2.0, 1.0, 0.1, -1.0], [0.0, 0.0, 0.0, 0.0]])
    >>> for form in ('entropy', 'kl', 'mean'):
    ...   penalty = losses.confidence_penalty(logits, form=form)
    ...   print(np.asarray(penalty).round(4), form)
    [-0.9607 -1.3863] entropy
    [0.4256 0.    ] kl
    [-0.2402 -0.3466] mean

  References:
    Pereyra et al., `Regularizing Neural Networks by Penalizing Confident Output
    Distributions <https://arxiv.org/abs/1701.06548>`_, ICLR workshop 2017.
  """
  _checks.check_choice('form', form, FORMS)
  rows = Rows.of(logits, axis, where)
  return rows.finish(_penalty(rows, form))


def confidence_penalty_cross_entropy(
  logits: ArrayLike,
  labels: ArrayLike,
  alpha: ArrayLike = 0.1,
  *,
  form: str = 'entropy',
  class_weights: ArrayLike | None = None,
  axis: int = -1,
  where: ArrayLike | None = None,
) -> jax.Array:
  r"""Cross-entropy with a penalty on low entropy, per example.

  .. math::
    H(y, q) - \alpha H(q), \qquad H(q) = -\sum_k q_k \log q_k

  Args:
    logits: unnormalised scores `z`, floating point, `[B, K]`; `B` may be any
      number of batch axes, also none.
    labels: class ids, integer, `[B]`, or distributions over the classes,
      floating point, `[B, K]`. Both forms agree on one-hot labels.
      Distributions are used as they are, not normalised.
    alpha: strength of the penalty, at least 0: a scalar or an array that
      broadcasts to `[B]`. It may be traced, and then its value is not checked.
    form: ``'entropy'``, as above, ``'kl'`` or ``'mean'``: see
      `confidence_penalty`.
    class_weights: weights of the classes, at least 0, `[K]`. They multiply the
      cross-entropy with the label, not the penalty. `label_weights` has the
      denominator of PyTorch's mean.
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
    ValueError: if the shape of an argument does not fit the logits, if the form
      is unknown, or if a number is known and outside its range.

  Examples:
    >>> import jax.numpy as jnp
    >>> import numpy as np
    >>> from maxsup_jax import losses
    >>> logits = jnp.array([[2.0, 1.0, 0.1, -1.0], [0.5, 1.5, 1.0, -0.5]])
    >>> labels = jnp.array([0, 2])
    >>> loss = losses.confidence_penalty_cross_entropy(logits, labels, 0.1)
    >>> print(np.asarray(loss).round(4))
    [0.3532 1.1273]

  References:
    Pereyra et al., `Regularizing Neural Networks by Penalizing Confident Output
    Distributions <https://arxiv.org/abs/1701.06548>`_, ICLR workshop 2017.
  """
  _checks.check_choice('form', form, FORMS)
  rows = Rows.of(logits, axis, where)
  target = rows.target(labels, class_weights)
  alpha = rows.number(alpha, ALPHA_RANGE)
  loss = target_cross_entropy(rows, target) + alpha * _penalty(rows, form)
  return rows.finish(loss, target)


def _penalty(rows: Rows, form: str) -> jax.Array:
  penalty = -rows.entropy()
  if form == 'kl':
    return penalty + jnp.log(rows.count())
  return penalty / rows.count() if form == 'mean' else penalty


def confidence_penalty_objective(
  alpha: float | Schedule = 0.1, *, form: str = 'entropy'
) -> Objective:
  """Low entropy penalised: `confidence_penalty_cross_entropy`.

  Args:
    alpha: strength, at least 0: a number or a function of the step.
    form: ``'entropy'``, ``'kl'`` or ``'mean'``.

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
    >>> objective = losses.confidence_penalty_objective(0.1)
    >>> loss, state = objective.apply(objective.init(), logits, labels)
    >>> print(np.asarray(loss).round(4), state)
    [1.1273] ()
  """
  _checks.check_choice('form', form, FORMS)
  loss = functools.partial(confidence_penalty_cross_entropy, form=form)
  return stateless(loss, alpha, ALPHA_RANGE)
