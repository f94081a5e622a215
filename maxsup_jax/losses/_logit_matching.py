"""Logit matching: the squared distance from the logits of a teacher."""

import functools

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from maxsup_jax.losses import _checks
from maxsup_jax.losses._cross_entropy import target_cross_entropy
from maxsup_jax.losses._objective import Objective, stateless
from maxsup_jax.losses._rows import Rows
from maxsup_jax.losses._schedules import Schedule

BETA_RANGE = _checks.Range(low=0.0, high=1.0, name='beta')
REDUCTIONS = ('sum', 'mean')


def logit_matching(
  logits: ArrayLike,
  teacher_logits: ArrayLike,
  *,
  reduction: str = 'sum',
  axis: int = -1,
  where: ArrayLike | None = None,
) -> jax.Array:
  r"""Half the squared distance of the logits from a teacher's, per example.

  .. math::
    \frac12 \|z - v\|^2 = \frac12 \sum_k (z_k - v_k)^2

  The limit of distillation at high temperature, for logits of mean 0. It
  changes when the logits of one side are shifted.

  Args:
    logits: `z`, of the student, floating point, `[B, K]`; `B` may be any number
      of batch axes, also none.
    teacher_logits: `v`, floating point, `[B, K]`. They get no gradient.
    reduction: over the classes: ``'sum'``, as above, or ``'mean'``. The paper
      does not say which it uses.
    axis: the class axis of the logits.
    where: boolean, what takes part: examples, `[B]`, or logits, `[B, K]` (axes
      of size one broadcast). The loss of a masked example, and its gradient,
      is exactly 0 whatever both logits are. A masked class adds nothing.

  Returns:
    The loss of every example, `[B]`, in float32, or in float64 for logits in
    float64.

  Raises:
    TypeError: if an argument has the wrong dtype.
    ValueError: if the shape of an argument does not fit the logits or the
      reduction is unknown.

  Examples:
    >>> import jax.numpy as jnp
    >>> from maxsup_jax import losses
    >>> teacher = jnp.array([[2.0, 1.0, 0.0, -1.0]])
    >>> student = jnp.array([[1.0, 1.0, 0.0, 0.0]])
    >>> print(losses.logit_matching(student, teacher))
    [1.]

  References:
    Hinton et al., `Distilling the Knowledge in a Neural Network
    <https://arxiv.org/abs/1503.02531>`_, 2015, section 2.1.

    Müller et al., `When Does Label Smoothing Help?
    <https://arxiv.org/abs/1906.02629>`_, NeurIPS 2019, appendix A.5.
  """
  _checks.check_choice('reduction', reduction, REDUCTIONS)
  rows = Rows.of(logits, axis, where)
  return rows.finish(_distance(rows, teacher_logits, where, reduction))


def logit_matching_cross_entropy(
  logits: ArrayLike,
  labels: ArrayLike,
  beta: ArrayLike = 0.6,
  *,
  teacher_logits: ArrayLike,
  reduction: str = 'sum',
  class_weights: ArrayLike | None = None,
  axis: int = -1,
  where: ArrayLike | None = None,
) -> jax.Array:
  r"""A mixture of cross-entropy and logit matching, per example.

  .. math::
    (1 - \beta) H(y, p) + \frac{\beta}{2} \|z - v\|^2

  The loss of the students of Müller et al. on MNIST, with
  :math:`\beta = 0.6`.

  Args:
    logits: `z`, of the student, floating point, `[B, K]`; `B` may be any number
      of batch axes, also none.
    labels: class ids, integer, `[B]`, or distributions over the classes,
      floating point, `[B, K]`. Both forms agree on one-hot labels.
      Distributions are used as they are, not normalised.
    beta: weight of the teacher, in [0, 1]: a scalar or an array that broadcasts
      to `[B]`. It may be traced, and then its value is not checked.
    teacher_logits: `v`, floating point, `[B, K]`. They get no gradient.
    reduction: see `logit_matching`.
    class_weights: weights of the classes, at least 0, `[K]`. They multiply the
      cross-entropy with the label only. `label_weights` has the denominator of
      PyTorch's mean.
    axis: the class axis of the logits.
    where: boolean, what takes part: examples, `[B]`, or logits, `[B, K]` (axes
      of size one broadcast). The loss of a masked example, and its gradient,
      is exactly 0 whatever its logits and label are. A masked class takes no
      part in softmax and distance.

  Returns:
    The loss of every example, `[B]`, in float32, or in float64 for logits in
    float64. It is NaN, and so is its gradient, where the label names no class
    that takes part: a class id outside `[0, K)` or of a masked class, or a
    distribution that is not 0 on a masked class.

  Raises:
    TypeError: if an argument has the wrong dtype.
    ValueError: if the shape of an argument does not fit the logits, if the
      reduction is unknown, or if a number is known and outside its range.

  Examples:
    >>> import jax.numpy as jnp
    >>> import numpy as np
    >>> from maxsup_jax import losses
    >>> teacher = jnp.array([[2.0, 1.0, 0.0, -1.0]])
    >>> student = jnp.array([[1.0, 1.0, 0.0, 0.0]])
    >>> loss = losses.logit_matching_cross_entropy(
    ...     student, jnp.array([0]), 0.6, teacher_logits=teacher)
    >>> print(np.asarray(loss).round(4))
    [1.0026]

  References:
    Müller et al., `When Does Label Smoothing Help?
    <https://arxiv.org/abs/1906.02629>`_, NeurIPS 2019, appendix A.5.
  """
  _checks.check_choice('reduction', reduction, REDUCTIONS)
  rows = Rows.of(logits, axis, where)
  target = rows.target(labels, class_weights)
  beta = rows.number(beta, BETA_RANGE)
  distance = _distance(rows, teacher_logits, where, reduction)
  loss = (1 - beta) * target_cross_entropy(rows, target) + beta * distance
  return rows.finish(loss, target)


def _distance(
  rows: Rows,
  teacher_logits: ArrayLike,
  where: ArrayLike | None,
  reduction: str,
) -> jax.Array:
  teacher = rows.like('teacher_logits', teacher_logits, where)
  gap_BK = rows.unshifted() - teacher.unshifted()
  half = rows.sum(jnp.square(gap_BK)) / 2
  return half / rows.count() if reduction == 'mean' else half


def logit_matching_objective(
  beta: float | Schedule = 0.6, *, reduction: str = 'sum'
) -> Objective:
  """Logit matching: `logit_matching_cross_entropy`.

  Args:
    beta: weight of the teacher, in [0, 1]: a number or a function of the step.
    reduction: over the classes: ``'sum'`` or ``'mean'``.

  Returns:
    An objective without state, whose `apply` needs `teacher_logits`.

  Raises:
    TypeError: if beta is neither a number nor a function.
    ValueError: if beta is outside its range or the reduction is unknown.

  Examples:
    >>> import jax.numpy as jnp
    >>> import numpy as np
    >>> from maxsup_jax import losses
    >>> logits, labels = jnp.array([[0.5, 1.5, 1.0, -0.5]]), jnp.array([2])
    >>> objective = losses.logit_matching_objective(0.6)
    >>> loss, state = objective.apply(
    ...     objective.init(), logits, labels, teacher_logits=logits)
    >>> print(np.asarray(loss).round(4), state)
    [0.4986] ()
  """
  _checks.check_choice('reduction', reduction, REDUCTIONS)
  loss = functools.partial(logit_matching_cross_entropy, reduction=reduction)
  return stateless(loss, beta, BETA_RANGE, needs=('teacher_logits',))
