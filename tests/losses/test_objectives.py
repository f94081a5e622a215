import jax
import jax.numpy as jnp
import numpy as np
import pytest

from maxsup_jax import losses

LOGITS = np.array(
  [[2.0, 1.0, 0.1, -1.0], [0.5, 1.5, 1.0, -0.5], [0.3, 0.2, 0.1, 0.0]],
  np.float32,
)
LABELS = np.array([0, 2, 3], np.int32)
MIXED = np.array(
  [[0.7, 0.3, 0, 0], [0, 0.3, 0.7, 0], [0.3, 0, 0, 0.7]], np.float32
)
REAL = np.array([True, False, True])


def plus(term, **options):
  def loss(logits, labels, alpha, *, where=None):
    return losses.cross_entropy(logits, labels, where=where) + term(
      logits, labels, alpha, where=where, **options
    )

  return loss


def cross_entropy(logits, labels, alpha, *, where=None):
  del alpha
  return losses.cross_entropy(logits, labels, where=where)


def label_smoothing(convention):
  def loss(logits, labels, alpha, *, where=None):
    return losses.label_smoothing_cross_entropy(
      logits, labels, alpha, convention=convention, where=where
    )

  return loss


# Constructor, its arguments besides alpha, and the loss it must compute.
OBJECTIVES = {
  'ce': (losses.ce_objective, None, cross_entropy),
  'ls': (losses.ls_objective, {}, label_smoothing('uniform')),
  'ls_others': (
    losses.ls_objective,
    {'convention': 'others'},
    label_smoothing('others'),
  ),
  'ls_kl': (losses.ls_objective, {'convention': 'kl'}, label_smoothing('kl')),
  'maxsup': (losses.maxsup_objective, {}, losses.maxsup_cross_entropy),
  'regularization_only': (
    losses.regularization_only_objective,
    {},
    plus(losses.smoothing_regularization, normalization='below'),
  ),
  'regularization_only_classes': (
    losses.regularization_only_objective,
    {'normalization': 'classes'},
    plus(losses.smoothing_regularization, normalization='classes'),
  ),
  'error_amplification_only': (
    losses.error_amplification_only_objective,
    {},
    plus(losses.error_amplification, normalization='above'),
  ),
  'error_amplification_only_max': (
    losses.error_amplification_only_objective,
    {'normalization': 'max'},
    plus(losses.error_amplification, normalization='max'),
  ),
}
every_objective = pytest.mark.parametrize(
  ('make', 'options', 'loss'), OBJECTIVES.values(), ids=OBJECTIVES
)
ABLATIONS = (
  losses.regularization_only_objective,
  losses.error_amplification_only_objective,
)


@every_objective
def test_computes_its_loss(make, options, loss):
  objective = make(**(options or {}))
  state = objective.init()
  values, state = objective.apply(state, LOGITS, LABELS)
  np.testing.assert_allclose(values, loss(LOGITS, LABELS, 0.1), rtol=1e-6)
  values, state = objective.apply(state, LOGITS, LABELS, step=3, where=REAL)
  expected = loss(LOGITS, LABELS, 0.1, where=REAL)
  np.testing.assert_allclose(values, expected, rtol=1e-6)
  assert state == ()


@every_objective
def test_takes_a_number_or_a_schedule(make, options, loss):
  if options is None:
    pytest.skip('no strength')
  schedule = losses.linear_alpha(0.1, 0.5, epochs=4, steps_per_epoch=10)
  constant, scheduled = make(0.3, **options), make(schedule, **options)
  for step, alpha in ((0, 0.1), (9, 0.1), (10, 0.2), (35, 0.4), (99, 0.4)):
    values, _ = scheduled.apply((), LOGITS, LABELS, step=step)
    np.testing.assert_allclose(values, loss(LOGITS, LABELS, alpha), rtol=1e-6)
    values, _ = constant.apply((), LOGITS, LABELS, step=step)
    np.testing.assert_allclose(values, loss(LOGITS, LABELS, 0.3), rtol=1e-6)


def test_any_function_of_the_step_is_a_schedule():
  objective = losses.maxsup_objective(lambda step: 0.5 / (1 + step))
  values, _ = objective.apply((), LOGITS, LABELS, step=4)
  expected = losses.maxsup_cross_entropy(LOGITS, LABELS, 0.1)
  np.testing.assert_allclose(values, expected, rtol=1e-6)


def test_a_traced_step_compiles_once():
  schedule = losses.linear_alpha(0.1, 0.5, epochs=4, steps_per_epoch=10)
  objective = losses.maxsup_objective(schedule)
  traces = 0

  @jax.jit
  def train_step(state, logits, step):
    nonlocal traces
    traces += 1

    def mean(logits):
      values, new_state = objective.apply(state, logits, LABELS, step=step)
      return values.mean(), new_state

    return jax.grad(mean, has_aux=True)(logits)

  state = objective.init()
  gradients = []
  for step in (0, 10, 20):
    gradient, state = train_step(state, LOGITS, jnp.int32(step))
    gradients.append(np.asarray(gradient))
  assert traces == 1
  # The gradient is linear in alpha, which grows by the same amount.
  np.testing.assert_allclose(
    gradients[2] - gradients[1], gradients[1] - gradients[0], atol=1e-6
  )
  assert not np.allclose(gradients[1], gradients[0])


def test_runs_on_all_devices():
  objective = losses.maxsup_objective(
    losses.linear_alpha(0.1, 0.5, epochs=4, steps_per_epoch=10)
  )
  logits = np.random.default_rng(0).normal(size=(4, 2, 5)).astype(np.float32)
  labels = np.array([[0, 1], [2, 3], [4, 0], [1, 2]])
  where = np.array([[True, True], [True, False], [False, False], [True, True]])

  def mean_over_devices(logits, labels, where):
    values, _ = objective.apply((), logits, labels, step=20, where=where)
    total, count = jax.lax.psum((values.sum(), where.sum()), 'devices')
    return total / count

  actual = jax.pmap(mean_over_devices, axis_name='devices')(
    logits, labels, where
  )
  expected = losses.maxsup_cross_entropy(logits[where], labels[where], 0.3)
  np.testing.assert_allclose(actual, np.full(4, expected.mean()), rtol=1e-6)


@every_objective
def test_soft_labels(make, options, loss):
  if make in ABLATIONS:
    with pytest.raises(ValueError, match='labels must be integer class ids'):
      jax.eval_shape(make(**options).apply, (), LOGITS, MIXED)
  else:
    values, _ = make(**(options or {})).apply((), LOGITS, MIXED)
    np.testing.assert_allclose(values, loss(LOGITS, MIXED, 0.1), rtol=1e-6)


@pytest.mark.parametrize(
  ('make', 'alpha'),
  [
    (losses.ls_objective, 1.5),
    (losses.maxsup_objective, -0.1),
    (losses.regularization_only_objective, 1.5),
    (losses.error_amplification_only_objective, 1.5),
    (
      losses.maxsup_objective,
      losses.linear_alpha(0.1, -0.1, epochs=3, steps_per_epoch=1),
    ),
    (
      # The end is out of range, though never reached.
      losses.maxsup_objective,
      losses.linear_alpha(0.1, -0.1, epochs=1, steps_per_epoch=1),
    ),
    (
      # The end is in range, but passed.
      losses.ls_objective,
      losses.linear_alpha(0, 1, epochs=9, steps_per_epoch=1, denominator=5),
    ),
    (
      losses.ls_objective,
      losses.linear_alpha(0.9, 1.1, epochs=9, steps_per_epoch=1),
    ),
    (losses.ls_objective, losses.constant_alpha(1.5)),
  ],
)
def test_alpha_outside_its_range_is_refused_when_made(make, alpha):
  with pytest.raises(ValueError, match='alpha must be in'):
    make(alpha)


def test_the_range_of_alpha_depends_on_the_convention():
  losses.ls_objective(-0.5)
  losses.ls_objective(-0.5, convention='others')
  with pytest.raises(ValueError, match=r'alpha must be in \[0, 1\], got -0.5'):
    losses.ls_objective(-0.5, convention='kl')


@pytest.mark.parametrize('alpha', ['0.1', None, True, [0.1], {'begin': 0.1}])
def test_alpha_must_be_a_number_or_a_function(alpha):
  with pytest.raises(TypeError, match='alpha must be a number'):
    losses.maxsup_objective(alpha)


def test_unknown_choices_are_refused_when_made():
  with pytest.raises(ValueError, match=r"convention must be one of .*'torch'"):
    losses.ls_objective(convention='torch')
  for make in ABLATIONS:
    with pytest.raises(ValueError, match=r"normalization must .* got 'mean'"):
      make(normalization='mean')
