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
  the entropy of the teacher, with an absolute error of about 1e-6 in float32
  that a squared temperature multiplies. Hinton et al. temper both sides alike
  and multiply by :math:`T^2`, Müller et al. temper the teacher only.

  Args:
    logits, axis, where: see `cross_entropy`. The logits `z` are the student's.
    teacher_logits: `v`, floating point, `[B, K]`. They get no gradient.
    teacher_temperature: :math:`T_t`, above 0.
    student_temperature: :math:`T_s`, above 0.
    divergence: ``'cross_entropy'`` or ``'kl'``.
    scale_by_squared_temperature: multiplies by :math:`T_s^2`.

  Examples:
    >>> teacher = jnp.array([[2.0, 1.0, 0.1, -1.0]])
    >>> student = jnp.array([[1.0, 1.0, 0.0, 0.0]])
    >>> print(distillation(student, teacher, teacher_temperature=2.0))
    [1.2815...]
    >>> print(distillation(
    ...     student, teacher, teacher_temperature=2.0, student_temperature=2.0,
    ...     divergence='kl', scale_by_squared_temperature=True))
    [0.2212...]

  References: Hinton et al., 2015; Müller et al., 2019, section 4.
  """
  rows = Rows.of(logits, axis, where)
  temperatures = teacher_temperature, student_temperature
  scaled = scale_by_squared_temperature
  return rows.finish(
    _divergence(rows, teacher_logits, where, *temperatures, divergence, scaled)
  )


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
    teacher_logits, teacher_temperature: see `distillation`.
    student_temperature, divergence: see there.
    scale_by_squared_temperature: see there.
    logits, labels, class_weights, axis, where: see `cross_entropy`.

  Examples:
    >>> teacher = jnp.array([[2.0, 1.0, 0.1, -1.0]])
    >>> student = jnp.array([[1.0, 1.0, 0.0, 0.0]])
    >>> print(distillation_cross_entropy(
    ...     student, jnp.array([0]), 0.5, teacher_logits=teacher))
    [1.0700...]

  References: Müller et al., 2019, section 4.
  """
  rows, target = Rows.labelled(logits, labels, class_weights, axis, where)
  beta = rows.number('beta', beta, low=0, high=1)
  temperatures = teacher_temperature, student_temperature
  scaled = scale_by_squared_temperature
  imitation = _divergence(
    rows, teacher_logits, where, *temperatures, divergence, scaled
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
  scaled: bool,
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
  if scaled:
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

  Examples:
    >>> teacher = jnp.array([[2.0, 1.0, 0.0, -1.0]])
    >>> student = jnp.array([[1.0, 1.0, 0.0, 0.0]])
    >>> print(logit_matching(student, teacher))
    [1.]

  References: Hinton et al., 2015, section 2.1; Müller et al., 2019, appendix
    A.5.
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

  Müller et al. train students on MNIST with :math:`\beta = 0.6`.

  Args:
    beta: weight of the teacher, in [0, 1].
    teacher_logits: `v`, floating point, `[B, K]`. They get no gradient.
    reduction: see `logit_matching`.
    logits, labels, class_weights, axis, where: see `cross_entropy`.

  Examples:
    >>> teacher = jnp.array([[2.0, 1.0, 0.0, -1.0]])
    >>> student = jnp.array([[1.0, 1.0, 0.0, 0.0]])
    >>> print(logit_matching_cross_entropy(
    ...     student, jnp.array([0]), teacher_logits=teacher))
    [1.0025...]

  References: Müller et al., 2019, appendix A.5.
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
