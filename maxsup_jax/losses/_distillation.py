"""Distillation: the losses of a student that imitates a teacher."""

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
DIVERGENCES = ('cross_entropy', 'kl')
_STUDENT_RANGE = _checks.Range(
  low=0.0, name='student_temperature', open_low=True
)
_TEACHER_RANGE = _checks.Range(
  low=0.0, name='teacher_temperature', open_low=True
)


def distillation(
  logits: ArrayLike,
  teacher_logits: ArrayLike,
  *,
  teacher_temperature: ArrayLike = 1.0,
  student_temperature: ArrayLike = 1.0,
  divergence: str = 'cross_entropy',
  scale_by_squared_temperature: bool = False,
  axis: int = -1,
  where: ArrayLike | None = None,
) -> jax.Array:
  r"""How far a student's predictions are from its teacher's, per example.

  .. math::
    H\left(p^t(T_t), p(T_s)\right), \qquad
    p^t(T) = \mathrm{softmax}(v / T), \quad p(T) = \mathrm{softmax}(z / T)

  or the divergence :math:`\mathrm{KL}(p^t(T_t) \| p(T_s))`, which is less by
  the entropy of the teacher: the gradient in the logits is the same. It is
  computed as that difference, with an absolute error of about 1e-6 in float32
  that a squared temperature multiplies.

  Hinton et al. temper both sides alike and multiply by :math:`T^2`, so that the
  gradient keeps its size when the temperature changes. Müller et al. temper the
  teacher only, and multiply by nothing.

  Args:
    logits: `z`, of the student, floating point, `[B, K]`; `B` may be any number
      of batch axes, also none.
    teacher_logits: `v`, floating point, `[B, K]`. They get no gradient.
    teacher_temperature: :math:`T_t`, greater than 0: a scalar or an array that
      broadcasts to `[B]`. It may be traced, and then its value is not checked.
    student_temperature: :math:`T_s`, likewise.
    divergence: ``'cross_entropy'`` or ``'kl'``.
    scale_by_squared_temperature: multiplies by :math:`T_s^2`.
    axis: the class axis of the logits.
    where: boolean, what takes part: examples, `[B]`, or logits, `[B, K]` (axes
      of size one broadcast). The loss of a masked example, and its gradient,
      is exactly 0 whatever both logits are. A masked class takes no part in
      either softmax.

  Returns:
    The loss of every example, `[B]`, in float32, or in float64 for logits in
    float64.

  Raises:
    TypeError: if an argument has the wrong dtype.
    ValueError: if the shape of an argument does not fit the logits, if the
      divergence is unknown, or if a temperature is known and not positive.

  Examples:
    >>> import jax.numpy as jnp
    >>> import numpy as np
    >>> from maxsup_jax import losses
    >>> teacher = jnp.array([[2.0, 1.0, 0.1, -1.0]])
    >>> student = jnp.array([[1.0, 1.0, 0.0, 0.0]])
    >>> loss = losses.distillation(student, teacher, teacher_temperature=2.0)
    >>> print(np.asarray(loss).round(4))
    [1.2816]
    >>> loss = losses.distillation(
    ...     student, teacher, teacher_temperature=2.0, student_temperature=2.0,
    ...     divergence='kl', scale_by_squared_temperature=True)
    >>> print(np.asarray(loss).round(4))
    [0.2213]

  References:
    Hinton et al., `Distilling the Knowledge in a Neural Network
    <https://arxiv.org/abs/1503.02531>`_, 2015.

    Müller et al., `When Does Label Smoothing Help?
    <https://arxiv.org/abs/1906.02629>`_, NeurIPS 2019, section 4.
  """
  _checks.check_choice('divergence', divergence, DIVERGENCES)
  rows = Rows.of(logits, axis, where)
  loss = _divergence(
    rows,
    teacher_logits,
    where,
    teacher_temperature,
    student_temperature,
    divergence,
    scale_by_squared_temperature,
  )
  return rows.finish(loss)


def distillation_cross_entropy(
  logits: ArrayLike,
  labels: ArrayLike,
  beta: ArrayLike = 1.0,
  *,
  teacher_logits: ArrayLike,
  teacher_temperature: ArrayLike = 1.0,
  student_temperature: ArrayLike = 1.0,
  divergence: str = 'cross_entropy',
  scale_by_squared_temperature: bool = False,
  class_weights: ArrayLike | None = None,
  axis: int = -1,
  where: ArrayLike | None = None,
) -> jax.Array:
  r"""A mixture of cross-entropy and distillation, per example.

  .. math::
    (1 - \beta) H(y, p) + \beta H\left(p^t(T_t), p(T_s)\right)

  The first term is not tempered. With :math:`\beta = 1` the labels do not
  matter, as in the distillation of Müller et al. on CIFAR-10.

  Args:
    logits: `z`, of the student, floating point, `[B, K]`; `B` may be any number
      of batch axes, also none.
    labels: class ids, integer, `[B]`, or distributions over the classes,
      floating point, `[B, K]`. Both forms agree on one-hot labels.
      Distributions are used as they are, not normalised.
    beta: weight of the teacher, in [0, 1]: a scalar or an array that broadcasts
      to `[B]`. It may be traced, and then its value is not checked.
    teacher_logits: floating point, `[B, K]`. They get no gradient.
    teacher_temperature: see `distillation`.
    student_temperature: see `distillation`.
    divergence: see `distillation`.
    scale_by_squared_temperature: see `distillation`.
    class_weights: weights of the classes, at least 0, `[K]`. They multiply the
      cross-entropy with the label, not that with the teacher. `label_weights`
      has the denominator of PyTorch's mean.
    axis: the class axis of the logits.
    where: boolean, what takes part: examples, `[B]`, or logits, `[B, K]` (axes
      of size one broadcast). The loss of a masked example, and its gradient,
      is exactly 0 whatever its logits and label are. A masked class takes no
      part in either softmax.

  Returns:
    The loss of every example, `[B]`, in float32, or in float64 for logits in
    float64. It is NaN, and so is its gradient, where the label names no class
    that takes part: a class id outside `[0, K)` or of a masked class, or a
    distribution that is not 0 on a masked class.

  Raises:
    TypeError: if an argument has the wrong dtype.
    ValueError: if the shape of an argument does not fit the logits, if the
      divergence is unknown, or if a number is known and outside its range.

  Examples:
    >>> import jax.numpy as jnp
    >>> import numpy as np
    >>> from maxsup_jax import losses
    >>> teacher = jnp.array([[2.0, 1.0, 0.1, -1.0]])
    >>> student = jnp.array([[1.0, 1.0, 0.0, 0.0]])
    >>> loss = losses.distillation_cross_entropy(
    ...     student, jnp.array([0]), 0.5, teacher_logits=teacher)
    >>> print(np.asarray(loss).round(4))
    [1.07]

  References:
    Müller et al., `When Does Label Smoothing Help?
    <https://arxiv.org/abs/1906.02629>`_, NeurIPS 2019, section 4.
  """
  _checks.check_choice('divergence', divergence, DIVERGENCES)
  rows = Rows.of(logits, axis, where)
  target = rows.target(labels, class_weights)
  beta = rows.number(beta, BETA_RANGE)
  imitation = _divergence(
    rows,
    teacher_logits,
    where,
    teacher_temperature,
    student_temperature,
    divergence,
    scale_by_squared_temperature,
  )
  loss = (1 - beta) * target_cross_entropy(rows, target) + beta * imitation
  return rows.finish(loss, target)


def _divergence(
  rows: Rows,
  teacher_logits: ArrayLike,
  where: ArrayLike | None,
  teacher_temperature: ArrayLike,
  student_temperature: ArrayLike,
  divergence: str,
  scale_by_squared_temperature: bool,
) -> jax.Array:
  teacher = rows.like('teacher_logits', teacher_logits, where)
  teacher_temperature = rows.number(teacher_temperature, _TEACHER_RANGE)
  student_temperature = rows.number(student_temperature, _STUDENT_RANGE)
  student = rows.tempered(student_temperature)
  loss = student.cross_entropy_with_softmax(teacher, teacher_temperature)
  if divergence == 'kl':
    loss = loss - teacher.tempered(teacher_temperature).entropy()
  if scale_by_squared_temperature:
    loss = loss * jnp.square(student_temperature)
  return loss


def distillation_objective(
  beta: float | Schedule = 1.0,
  *,
  teacher_temperature: float = 1.0,
  student_temperature: float = 1.0,
  divergence: str = 'cross_entropy',
  scale_by_squared_temperature: bool = False,
) -> Objective:
  """Distillation: `distillation_cross_entropy`.

  Args:
    beta: weight of the teacher, in [0, 1]: a number or a function of the step.
    teacher_temperature: greater than 0.
    student_temperature: greater than 0.
    divergence: ``'cross_entropy'`` or ``'kl'``.
    scale_by_squared_temperature: see `distillation`.

  Returns:
    An objective without state, whose `apply` needs `teacher_logits`.

  Raises:
    TypeError: if beta is neither a number nor a function, or a temperature is
      not a number.
    ValueError: if an argument is outside its range or unknown.

  Examples:
    >>> import jax.numpy as jnp
    >>> import numpy as np
    >>> from maxsup_jax import losses
    >>> logits, labels = jnp.array([[0.5, 1.5, 1.0, -0.5]]), jnp.array([2])
    >>> objective = losses.distillation_objective(teacher_temperature=4.0)
    >>> loss, state = objective.apply(
    ...     objective.init(), logits, labels, teacher_logits=2 * logits)
    >>> print(np.asarray(loss).round(4), state)
    [1.3755] ()
  """
  _checks.check_choice('divergence', divergence, DIVERGENCES)
  temperatures = (
    (teacher_temperature, _TEACHER_RANGE),
    (student_temperature, _STUDENT_RANGE),
  )
  for temperature, allowed in temperatures:
    allowed.check(_checks.check_number(allowed.name, temperature))
  loss = functools.partial(
    distillation_cross_entropy,
    teacher_temperature=teacher_temperature,
    student_temperature=student_temperature,
    divergence=divergence,
    scale_by_squared_temperature=scale_by_squared_temperature,
  )
  return stateless(loss, beta, BETA_RANGE, needs=('teacher_logits',))
