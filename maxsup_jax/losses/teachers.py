"""Students that imitate a teacher: distillation and logit matching."""

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from maxsup_jax import errors
from maxsup_jax.losses._rows import Rows


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
    logits, axis, where: see `cross_entropy`. The logits `z` are the student's.
    teacher_logits: `v`, floating point, `[B, K]`. They get no gradient.
    teacher_temperature: :math:`T_t`, above 0.
    student_temperature: :math:`T_s`, above 0.
    divergence: ``'cross_entropy'`` or ``'kl'``.
    scale_by_squared_temperature: multiplies by :math:`T_s^2`.

  Returns:
    The loss of every example, `[B]`.

  Examples:
    >>> import numpy as np
    >>> from maxsup_jax import losses
    >>> teacher = np.array([[2.0, 1.0, 0.1, -1.0]])
    >>> student = np.array([[1.0, 1.0, 0.0, 0.0]])
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
    beta: weight of the teacher, in [0, 1].
    teacher_logits: floating point, `[B, K]`. They get no gradient.
    teacher_temperature, student_temperature, divergence: see `distillation`.
    scale_by_squared_temperature: see `distillation`.
    logits, labels, class_weights, axis, where: see `cross_entropy`.

  Returns:
    The loss of every example, `[B]`.

  Examples:
    >>> import numpy as np
    >>> from maxsup_jax import losses
    >>> teacher = np.array([[2.0, 1.0, 0.1, -1.0]])
    >>> student = np.array([[1.0, 1.0, 0.0, 0.0]])
    >>> loss = losses.distillation_cross_entropy(
    ...     student, np.array([0]), 0.5, teacher_logits=teacher)
    >>> print(np.asarray(loss).round(4))
    [1.07]

  References:
    Müller et al., `When Does Label Smoothing Help?
    <https://arxiv.org/abs/1906.02629>`_, NeurIPS 2019, section 4.
  """
  rows, target = Rows.labelled(logits, labels, class_weights, axis, where)
  beta = rows.number('beta', beta, low=0, high=1)
  imitation = _divergence(
    rows,
    teacher_logits,
    where,
    teacher_temperature,
    student_temperature,
    divergence,
    scale_by_squared_temperature,
  )
  loss = (1 - beta) * rows.cross_entropy(target) + beta * imitation
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
  errors.one_of('divergence', divergence, ('cross_entropy', 'kl'))
  teacher = rows.like('teacher_logits', teacher_logits, where)
  teacher_temperature = rows.number(
    'teacher_temperature', teacher_temperature, above=0
  )
  student_temperature = rows.number(
    'student_temperature', student_temperature, above=0
  )
  student = rows.tempered(student_temperature)
  loss = student.cross_entropy_with_softmax(teacher, teacher_temperature)
  if divergence == 'kl':
    loss = loss - teacher.tempered(teacher_temperature).entropy()
  if scale_by_squared_temperature:
    loss = loss * jnp.square(student_temperature)
  return loss


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
    logits, axis, where: see `cross_entropy`. The logits `z` are the student's.
    teacher_logits: `v`, floating point, `[B, K]`. They get no gradient.
    reduction: over the classes: ``'sum'``, as above, or ``'mean'``. The paper
      does not say which it uses.

  Returns:
    The loss of every example, `[B]`.

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
    beta: weight of the teacher, in [0, 1].
    teacher_logits: `v`, floating point, `[B, K]`. They get no gradient.
    reduction: see `logit_matching`.
    logits, labels, class_weights, axis, where: see `cross_entropy`.

  Returns:
    The loss of every example, `[B]`.

  Examples:
    >>> import numpy as np
    >>> from maxsup_jax import losses
    >>> teacher = np.array([[2.0, 1.0, 0.0, -1.0]])
    >>> student = np.array([[1.0, 1.0, 0.0, 0.0]])
    >>> loss = losses.logit_matching_cross_entropy(
    ...     student, np.array([0]), 0.6, teacher_logits=teacher)
    >>> print(np.asarray(loss).round(4))
    [1.0026]

  References:
    Müller et al., `When Does Label Smoothing Help?
    <https://arxiv.org/abs/1906.02629>`_, NeurIPS 2019, appendix A.5.
  """
  rows, target = Rows.labelled(logits, labels, class_weights, axis, where)
  beta = rows.number('beta', beta, low=0, high=1)
  distance = _distance(rows, teacher_logits, where, reduction)
  loss = (1 - beta) * rows.cross_entropy(target) + beta * distance
  return rows.finish(loss, target)


def _distance(
  rows: Rows,
  teacher_logits: ArrayLike,
  where: ArrayLike | None,
  reduction: str,
) -> jax.Array:
  errors.one_of('reduction', reduction, ('sum', 'mean'))
  teacher = rows.like('teacher_logits', teacher_logits, where)
  gap_BK = rows.unshifted() - teacher.unshifted()
  half = rows.sum(jnp.square(gap_BK)) / 2
  return half / rows.count() if reduction == 'mean' else half
