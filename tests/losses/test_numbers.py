"""Gradients in temperatures, margins and powers; curvature in float32."""

import functools

import jax
import jax.numpy as jnp
import jax.test_util
import numpy as np
import pytest

from maxsup_jax import losses
from tests.losses import reference
from tests.losses.cases import every_loss

LOGITS = np.array(
  [[2.0, 1.0, 0.1, -1.0], [0.5, 1.5, 1.0, -0.5], [0.3, 0.2, 0.1, 0.0]]
)
LABELS = np.array([0, 2, 3])
TEACHER = LOGITS[:, ::-1] * 0.7


def hinton(temperature):
  """One temperature on both sides, and its square."""
  return losses.distillation(
    LOGITS,
    TEACHER,
    teacher_temperature=temperature,
    student_temperature=temperature,
    divergence='kl',
    scale_by_squared_temperature=True,
  )


def of(function, name, *arguments, **options):
  def called(number):
    return function(LOGITS, *arguments, **{name: number}, **options)

  return called


NUMBERS = {
  'hinton': hinton,
  'teacher temperature': of(
    losses.distillation, 'teacher_temperature', TEACHER
  ),
  'teacher temperature, kl': of(
    losses.distillation, 'teacher_temperature', TEACHER, divergence='kl'
  ),
  'student temperature': of(
    losses.distillation, 'student_temperature', TEACHER
  ),
  'temperature of a mixture': of(
    losses.distillation_cross_entropy,
    'teacher_temperature',
    LABELS,
    0.3,
    teacher_logits=TEACHER,
  ),
  'temperature of a prior': of(
    losses.adaptive_smoothing_cross_entropy,
    'temperature',
    LABELS,
    0.3,
    teacher_logits=TEACHER,
  ),
  'temperature of oneself': of(
    losses.adaptive_smoothing_cross_entropy, 'temperature', LABELS, 0.3
  ),
  'margin': of(losses.margin_penalty, 'margin'),
  'margin of acls': of(losses.acls_penalty, 'margin'),
  'weight of the top': of(losses.acls_penalty, 'top_weight', 0.4),
  'weight of the rest': of(losses.acls_penalty, 'rest_weight', 0.4),
  'power': of(losses.zipf_penalty, 'power', LABELS),
}


@pytest.mark.usefixtures('x64')
@pytest.mark.parametrize('name', NUMBERS)
def test_gradients_in_numbers(name):
  function = jax.jit(NUMBERS[name])
  jax.test_util.check_grads(function, (0.77,), order=1)
  # One number per example, and their gradients stay their own.
  numbers = np.array([0.77, 1.3, 2.1])
  together = jax.jacrev(function)(numbers)
  alone = [jax.jacrev(function)(number)[i] for i, number in enumerate(numbers)]
  np.testing.assert_allclose(together, np.diag(alone), rtol=1e-10, atol=1e-14)


@pytest.mark.usefixtures('x64')
def test_the_factor_is_the_temperature_of_the_student():
  actual = losses.distillation(
    LOGITS,
    TEACHER,
    teacher_temperature=3.0,
    student_temperature=2.0,
    divergence='kl',
    scale_by_squared_temperature=True,
  )
  expected = [
    reference.distillation(
      z,
      None,
      None,
      teacher_logits=v,
      teacher=3.0,
      student=2.0,
      kl=True,
      scale=4.0,
    )
    for z, v in zip(LOGITS, TEACHER)
  ]
  np.testing.assert_allclose(actual, expected, rtol=1e-12)


@every_loss
@pytest.mark.parametrize('gap', [0, 5, 20, 45, 60, 85, 105])
def test_second_derivatives_are_finite_in_single_precision(loss, gap):
  logits = jnp.array([gap, 0.0, 0.5, -3.0], jnp.float32)
  hessian = jax.hessian(loss)(logits, 0, 0.3)
  assert hessian.dtype == jnp.float32
  assert np.isfinite(hessian).all()


@every_loss
def test_an_impossible_label_is_not_finite(loss):
  """The logit of the label is -inf: no loss that sees it may hide that."""
  if 'labels' not in loss.takes:
    pytest.skip('sees no label')
  logits = np.array([1.0, -np.inf, 0.5, -3.0], np.float32)
  value = loss(logits, 1)
  unseen = ('regularization', 'regularization_below', 'zipf_penalty')
  assert np.isfinite(value) == (loss.name in unseen)


def test_confidence_alpha_takes_traced_ends():
  schedule = losses.linear_alpha(0.1, 0.3, epochs=2, steps_per_epoch=1)
  logits = np.float32(LOGITS)
  alpha = jax.jit(
    lambda step: losses.confidence_alpha(logits, 0.05, schedule(step))
  )
  for step, high in ((0, 0.1), (1, 0.2)):
    np.testing.assert_allclose(
      alpha(step), losses.confidence_alpha(logits, 0.05, high), rtol=1e-6
    )
  # It is linear in the ends, and they have their gradient.
  slope = jax.jacrev(functools.partial(losses.confidence_alpha, logits, 0.0))(
    0.3
  )
  np.testing.assert_allclose(slope, losses.confidence_alpha(logits), rtol=1e-6)


@pytest.mark.parametrize('label', [2**32 + 1, -(2**32) + 1, 2**31])
def test_ids_that_need_64_bits_are_unknown(label):
  for labels in (np.int64(label), np.uint64(label % 2**64), label):
    assert np.isnan(losses.maxsup_cross_entropy(LOGITS[0], labels))
