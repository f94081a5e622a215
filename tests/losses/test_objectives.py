import functools

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


def with_options(function, **options):
  return functools.partial(function, **options)


def adaptive_maxsup(logits, labels, alpha, *, where=None):
  alpha = losses.confidence_alpha(logits, 0, alpha)
  return losses.maxsup_cross_entropy(logits, labels, alpha, where=where)


ACLS = {'margin': 0.5, 'top_weight': 0.7, 'rest_weight': 0.3}
SELF = {'prior': 'self', 'temperature': 2.0}

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
  'adaptive_maxsup': (
    losses.maxsup_objective,
    {'adaptive_alpha': True},
    adaptive_maxsup,
  ),
  'zipf': (
    losses.zipf_objective,
    {'power': 2.0},
    with_options(losses.zipf_cross_entropy, power=2.0),
  ),
  'self_smoothing': (
    losses.adaptive_ls_objective,
    SELF,
    with_options(losses.adaptive_smoothing_cross_entropy, temperature=2.0),
  ),
  'logit_penalty': (
    losses.logit_penalty_objective,
    {'form': 'full'},
    with_options(losses.logit_penalty_cross_entropy, form='full'),
  ),
  'confidence_penalty': (
    losses.confidence_penalty_objective,
    {'form': 'kl'},
    with_options(losses.confidence_penalty_cross_entropy, form='kl'),
  ),
  'logit_norm': (
    losses.logit_norm_objective,
    {},
    losses.logit_norm_cross_entropy,
  ),
  'focal': (losses.focal_objective, {}, losses.focal_cross_entropy),
  'mbls': (
    losses.mbls_objective,
    {'margin': 1.5},
    with_options(losses.mbls_cross_entropy, margin=1.5),
  ),
  'acls': (
    losses.acls_objective,
    ACLS,
    with_options(losses.acls_cross_entropy, **ACLS),
  ),
}
every_objective = pytest.mark.parametrize(
  ('make', 'options', 'loss'), OBJECTIVES.values(), ids=OBJECTIVES
)
CLASS_IDS_ONLY = (
  losses.regularization_only_objective,
  losses.error_amplification_only_objective,
  losses.zipf_objective,
  losses.focal_objective,
)
ABLATIONS = (
  losses.regularization_only_objective,
  losses.error_amplification_only_objective,
)


@every_objective
def test_computes_its_loss(make, options, loss):
  objective = make(*(() if options is None else (0.1,)), **(options or {}))
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
  if make in CLASS_IDS_ONLY:
    with pytest.raises(ValueError, match='labels must be integer class ids'):
      jax.eval_shape(make(**options).apply, (), LOGITS, MIXED)
  else:
    strength = () if options is None else (0.1,)
    values, _ = make(*strength, **(options or {})).apply((), LOGITS, MIXED)
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


@pytest.mark.parametrize(
  ('make', 'options', 'function'),
  [
    (
      losses.distillation_objective,
      {
        'teacher_temperature': 3.0,
        'student_temperature': 2.0,
        'divergence': 'kl',
        'scale_by_squared_temperature': True,
      },
      losses.distillation_cross_entropy,
    ),
    (
      losses.logit_matching_objective,
      {'reduction': 'mean'},
      losses.logit_matching_cross_entropy,
    ),
    (
      losses.adaptive_ls_objective,
      {'temperature': 2.0},
      losses.adaptive_smoothing_cross_entropy,
    ),
  ],
)
def test_objectives_that_need_a_teacher(make, options, function):
  objective = make(0.3, **options)
  assert objective.needs == ('teacher_logits',)
  teacher = LOGITS[:, ::-1]
  values, state = objective.apply(
    objective.init(), LOGITS, LABELS, where=REAL, teacher_logits=teacher
  )
  expected = function(
    LOGITS, LABELS, 0.3, teacher_logits=teacher, where=REAL, **options
  )
  np.testing.assert_allclose(values, expected, rtol=1e-6)
  assert state == ()


def test_zipf_takes_votes_when_asked_to():
  objective = losses.zipf_objective(0.3, ranking='votes')
  assert objective.needs == ('votes',)
  assert losses.zipf_objective().needs == ()
  votes = LOGITS[:, ::-1]
  values, _ = objective.apply((), LOGITS, LABELS, votes=votes)
  expected = losses.zipf_cross_entropy(LOGITS, LABELS, 0.3, votes=votes)
  np.testing.assert_allclose(values, expected, rtol=1e-6)


@pytest.mark.parametrize(
  ('objective', 'inputs', 'message'),
  [
    (losses.adaptive_ls_objective(), {}, 'needs teacher_logits .* got nothing'),
    (
      losses.distillation_objective(),
      {'votes': LOGITS},
      'needs teacher_logits',
    ),
    (losses.zipf_objective(ranking='votes'), {}, 'needs votes .* got nothing'),
    (
      losses.adaptive_ls_objective(prior='self'),
      {'teacher_logits': LOGITS},
      'needs nothing besides logits and labels, got teacher_logits',
    ),
    (losses.mbls_objective(), {'margin': 0.0}, 'needs nothing .* got margin'),
  ],
)
def test_an_objective_gets_what_it_needs_and_nothing_else(
  objective, inputs, message
):
  with pytest.raises(TypeError, match=message):
    objective.apply((), LOGITS, LABELS, **inputs)


@pytest.mark.parametrize(
  ('make', 'function'),
  [
    (losses.maxsup_objective, losses.maxsup_cross_entropy),
    (losses.ls_objective, losses.label_smoothing_cross_entropy),
    (
      functools.partial(losses.adaptive_ls_objective, prior='self'),
      losses.adaptive_smoothing_cross_entropy,
    ),
  ],
)
def test_alpha_follows_the_confidence_over_a_mask(make, function):
  objective = make(0.4, adaptive_alpha=True)
  where = np.array(
    [[True, True, True, False], [False] * 4, [True, True, True, True]]
  )
  values, _ = objective.apply((), LOGITS, LABELS, where=where)
  alpha = 0.4 * losses.confidence_alpha(LOGITS, where=where)
  expected = function(LOGITS, LABELS, alpha, where=where)
  np.testing.assert_allclose(values, expected, rtol=1e-6)
  unmasked = 0.4 * losses.confidence_alpha(LOGITS)
  assert abs(alpha[0] - unmasked[0]) > 1e-3


# Weights of the classes

WEIGHTS = np.array([1.0, 2.0, 0.5, 3.0], np.float32)


@every_objective
def test_every_objective_takes_class_weights(make, options, loss):
  strength = () if options is None else (0.1,)
  objective = losses.with_class_weights(
    make(*strength, **(options or {})), WEIGHTS
  )
  values, _ = objective.apply((), LOGITS, LABELS)
  # What the weights of the label do to the cross-entropy that is in it.
  plain, _ = make(*strength, **(options or {})).apply((), LOGITS, LABELS)
  assert (np.abs(values - plain)[WEIGHTS[LABELS] != 1] > 1e-3).all()
  ones, _ = losses.with_class_weights(
    make(*strength, **(options or {})), np.ones(4)
  ).apply((), LOGITS, LABELS)
  np.testing.assert_allclose(ones, plain, rtol=1e-6)


def test_online_smoothing_takes_class_weights():
  objective = losses.with_class_weights(
    losses.ols_objective(4, 0.3, steps_per_epoch=5), WEIGHTS
  )
  state = objective.init()
  values, after = objective.apply(state, LOGITS, LABELS)
  expected = losses.ols_cross_entropy(
    LOGITS, LABELS, state.targets, 0.3, class_weights=WEIGHTS
  )
  np.testing.assert_allclose(values, expected, rtol=1e-6)
  assert after.counts.sum() == 1


@pytest.mark.parametrize('mean', ['examples', 'weights'])
@pytest.mark.parametrize(
  'where', [None, REAL, REAL[:, None], np.ones((1, 4), bool)]
)
def test_mean_with_class_weights(mean, where):
  objective = losses.with_class_weights(
    losses.maxsup_objective(0.3), WEIGHTS, mean=mean
  )
  values, _ = objective.apply((), LOGITS, LABELS, where=where)
  masked = where is not None and where.shape[0] > 1
  real = REAL if masked else np.ones(3, bool)
  expected = losses.maxsup_cross_entropy(
    LOGITS[real], LABELS[real], 0.3, class_weights=WEIGHTS
  )
  divisor = WEIGHTS[LABELS[real]] if mean == 'weights' else real[real]
  np.testing.assert_allclose(
    np.sum(values) / np.sum(real), np.sum(expected) / np.sum(divisor), rtol=1e-6
  )


def test_mean_with_class_weights_over_devices():
  objective = losses.with_class_weights(
    losses.ce_objective(), WEIGHTS, mean='weights', axis_name='devices'
  )
  rng = np.random.default_rng(0)
  logits = rng.normal(size=(4, 2, 4)).astype(np.float32)
  labels = np.array([[0, 1], [2, 3], [3, 0], [1, 2]])
  where = np.array([[True, True], [True, False], [False, False], [True, True]])

  def mean_over_devices(logits, labels, where):
    values, _ = objective.apply((), logits, labels, where=where)
    total, count = jax.lax.psum((values.sum(), where.sum()), 'devices')
    return total / count

  actual = jax.pmap(mean_over_devices, axis_name='devices')(
    logits, labels, where
  )
  torch = pytest.importorskip('torch')
  expected = torch.nn.functional.cross_entropy(
    torch.tensor(logits[where]),
    torch.tensor(labels[where]),
    weight=torch.tensor(WEIGHTS),
  )
  np.testing.assert_allclose(actual, np.full(4, expected), rtol=1e-6)


def test_distributions_have_the_mean_over_examples():
  objective = losses.with_class_weights(
    losses.ce_objective(), WEIGHTS, mean='weights'
  )
  values, _ = objective.apply((), LOGITS, MIXED)
  torch = pytest.importorskip('torch')
  expected = torch.nn.functional.cross_entropy(
    torch.tensor(LOGITS), torch.tensor(MIXED), weight=torch.tensor(WEIGHTS)
  )
  np.testing.assert_allclose(np.mean(values), expected, rtol=1e-6)
