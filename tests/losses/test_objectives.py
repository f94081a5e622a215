"""Objectives: their losses, schedules and weights, and how they are made."""

import functools
import inspect

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import pytest

from maxsup_jax import losses
from maxsup_jax.errors import UsageError

LOGITS = np.array(
  [[2.0, 1.0, 0.1, -1.0], [0.5, 1.5, 1.0, -0.5], [0.3, 0.2, 0.1, 0.0]],
  np.float32,
)
LABELS = np.array([0, 2, 3], np.int32)
MIXED = np.array(
  [[0.7, 0.3, 0, 0], [0, 0.3, 0.7, 0], [0.3, 0, 0, 0.7]], np.float32
)
OTHER = 0.7 * LOGITS[:, ::-1]
WHERE = np.array([[True] * 4, [False] * 4, [True, True, False, True]])
WEIGHTS = np.array([1.0, 2.0, 0.5, 3.0], np.float32)
LENGTH = {'steps_per_epoch': 10, 'epochs': 5}


def plus(term):
  """Cross-entropy and one of the two terms of label smoothing."""

  def loss(logits, labels, alpha, *, normalization, where, class_weights):
    return losses.cross_entropy(
      logits, labels, where=where, class_weights=class_weights
    ) + term(logits, labels, alpha, normalization=normalization, where=where)

  return loss


def adaptive(function):
  def loss(logits, labels, alpha, *, where, **options):
    alpha = losses.confidence_alpha(logits, 0, alpha, where=where)
    return function(logits, labels, alpha, where=where, **options)

  return loss


TEACHER = {'teacher_logits': OTHER}
HINTON = {
  'teacher_temperature': 3.0,
  'student_temperature': 2.0,
  'divergence': 'kl',
  'scale_by_squared_temperature': True,
}
ACLS = {'margin': 0.5, 'top_weight': 0.7, 'rest_weight': 0.3}
ADAPTIVE = {'adaptive_alpha': True}

# Fields besides the strength; the loss that it must be, what of the fields the
# loss takes, and what `apply` needs.
OBJECTIVES = (
  ('ce', {}, lambda z, y, a, **k: losses.cross_entropy(z, y, **k), {}, {}),
  (
    'ls',
    {'convention': 'others'},
    losses.label_smoothing_cross_entropy,
    {'convention': 'others'},
    {},
  ),
  (
    'ls',
    ADAPTIVE,
    adaptive(losses.label_smoothing_cross_entropy),
    {},
    {},
  ),
  ('maxsup', {}, losses.maxsup_cross_entropy, {}, {}),
  ('maxsup', ADAPTIVE, adaptive(losses.maxsup_cross_entropy), {}, {}),
  (
    'regularization_only',
    {},
    plus(losses.smoothing_regularization),
    {'normalization': 'below'},
    {},
  ),
  (
    'error_amplification_only',
    {'normalization': 'max'},
    plus(losses.error_amplification),
    {'normalization': 'max'},
    {},
  ),
  ('zipf', {'power': 2.0}, losses.zipf_cross_entropy, {'power': 2.0}, {}),
  (
    'zipf',
    {'ranking': 'votes'},
    losses.zipf_cross_entropy,
    {},
    {'votes': OTHER},
  ),
  (
    'adaptive_ls',
    {'temperature': 2.0},
    losses.adaptive_smoothing_cross_entropy,
    {'temperature': 2.0},
    TEACHER,
  ),
  (
    'adaptive_ls',
    {'prior': 'self', **ADAPTIVE},
    adaptive(losses.adaptive_smoothing_cross_entropy),
    {},
    {},
  ),
  (
    'logit_penalty',
    {'form': 'full'},
    losses.logit_penalty_cross_entropy,
    {'form': 'full'},
    {},
  ),
  (
    'confidence_penalty',
    {'form': 'kl'},
    losses.confidence_penalty_cross_entropy,
    {'form': 'kl'},
    {},
  ),
  ('logit_norm', {}, losses.logit_norm_cross_entropy, {}, {}),
  ('focal', {}, losses.focal_cross_entropy, {}, {}),
  ('mbls', {'margin': 1.5}, losses.mbls_cross_entropy, {'margin': 1.5}, {}),
  ('acls', ACLS, losses.acls_cross_entropy, ACLS, {}),
  ('distillation', HINTON, losses.distillation_cross_entropy, HINTON, TEACHER),
  (
    'logit_matching',
    {'reduction': 'mean'},
    losses.logit_matching_cross_entropy,
    {'reduction': 'mean'},
    TEACHER,
  ),
)


def strength_of(name):
  names = list(inspect.signature(losses.OBJECTIVES[name]).parameters)
  return names[0] if names else None


def test_the_table_is_tested_whole():
  assert {name for name, *_ in OBJECTIVES} == set(losses.OBJECTIVES) - {'ols'}
  with pytest.raises(TypeError):
    losses.OBJECTIVES['mine'] = losses.ce_objective
  for name, make in losses.OBJECTIVES.items():
    assert make is getattr(losses, f'{name}_objective')
    assert make.__name__ == f'{name}_objective'
    # Called without arguments, but for those that `make_objective` is told.
    assert inspect.getdoc(make)


@pytest.mark.parametrize(
  ('name', 'fields', 'loss', 'options', 'inputs'), OBJECTIVES
)
def test_computes_its_loss(name, fields, loss, options, inputs):
  """By number and schedule, over a mask, with weights of the classes."""
  strength, make = strength_of(name), losses.OBJECTIVES[name]
  scheduled, alphas = {}, (0.1, 0.1)
  if strength:
    schedule = losses.linear_alpha(0.1, 0.5, epochs=4, steps_per_epoch=10)
    scheduled, alphas = {strength: schedule}, (0.1, 0.2)
  objective = make(**scheduled, **fields)
  assert objective.needs == tuple(inputs)
  assert objective.init() == ()
  for step, alpha in zip((9, 10), alphas):
    for where, weights in ((None, None), (WHERE, WEIGHTS)):
      labels = LABELS if where is None else np.array([0, -1, 3])
      values, state = objective.apply(
        (),
        LOGITS,
        labels,
        step=step,
        where=where,
        class_weights=weights,
        **inputs,
      )
      expected = loss(
        LOGITS,
        labels,
        alpha,
        where=where,
        class_weights=weights,
        **options,
        **inputs,
      )
      np.testing.assert_allclose(values, expected, rtol=1e-6)
      assert state == ()
  if strength:
    constant, _ = make(0.2, **fields).apply((), LOGITS, LABELS, **inputs)
    values, _ = objective.apply((), LOGITS, LABELS, step=10, **inputs)
    np.testing.assert_array_equal(constant, values)


def test_an_objective_gets_what_it_needs_and_nothing_else():
  for objective, inputs, expected in (
    (losses.adaptive_ls_objective(), {}, 'got nothing .* teacher_logits'),
    (losses.distillation_objective(), {'votes': OTHER}, 'got votes .* teacher'),
    (losses.zipf_objective(ranking='votes'), {}, 'expected votes'),
    (losses.adaptive_ls_objective(prior='self'), TEACHER, 'expected nothing'),
    (losses.mbls_objective(), {'margin': 0.0}, 'got margin .* nothing'),
  ):
    with pytest.raises(TypeError, match=expected):
      objective.apply((), LOGITS, LABELS, **inputs)


def test_a_traced_step_compiles_once_on_all_devices():
  # Any function of the step is a schedule.
  objective = losses.maxsup_objective(lambda step: 0.1 + step / 100)
  logits = np.random.default_rng(0).normal(size=(4, 2, 5)).astype(np.float32)
  labels = np.array([[0, 1], [2, 3], [4, 0], [1, 2]])
  where = np.array([[True, True], [True, False], [False, False], [True, True]])
  traces = 0

  @functools.partial(jax.pmap, axis_name='devices', in_axes=(None, 0, 0, 0))
  def mean_over_devices(step, logits, labels, where):
    nonlocal traces
    traces += 1
    values, _ = objective.apply((), logits, labels, step=step, where=where)
    return losses.weighted_mean(values, where=where, axis_name='devices')

  for step, alpha in ((0, 0.1), (20, 0.3)):
    actual = mean_over_devices(jnp.int32(step), logits, labels, where)
    expected = losses.maxsup_cross_entropy(logits[where], labels[where], alpha)
    np.testing.assert_allclose(actual, np.full(4, expected.mean()), rtol=1e-6)
  assert traces == 1


def linear(begin, end, **options):
  return losses.linear_alpha(begin, end, steps_per_epoch=1, **options)


@pytest.mark.parametrize(
  ('make', 'alpha', 'message'),
  [
    (losses.ls_objective, 1.5, 'alpha is 1.5; expected at most 1'),
    (losses.maxsup_objective, -0.1, 'alpha is -0.1; expected at least 0'),
    (losses.ols_objective, 1.5, 'alpha is 1.5; expected from 0 to 1'),
    (losses.maxsup_objective, linear(0.1, -0.1, epochs=3), 'alpha is -0.1'),
    # The end is out of range, though never reached.
    (losses.maxsup_objective, linear(0.1, -0.1, epochs=1), 'alpha is -0.1'),
    # The end is in range, but passed.
    (
      losses.ls_objective,
      linear(0, 1, epochs=9, denominator=5),
      'alpha is 1.6',
    ),
    (losses.ls_objective, losses.constant_alpha(1.5), 'alpha is 1.5'),
    (losses.maxsup_objective, '0.1', "alpha is '0.1'; expected a real number"),
    (losses.maxsup_objective, None, 'alpha is None; expected a real number'),
    (losses.maxsup_objective, True, 'alpha is True; expected a real number'),
    (losses.maxsup_objective, [0.1], r'alpha has shape \(1,\); expected a sca'),
    (losses.maxsup_objective, {'begin': 0.1}, 'alpha is .*; expected a real'),
  ],
)
def test_what_is_refused_when_made(make, alpha, message):
  if make is losses.ols_objective:
    make = functools.partial(make, 4, steps_per_epoch=1)
  with pytest.raises((TypeError, ValueError), match=message):
    make(alpha)


def test_negative_strengths_depend_on_the_convention():
  losses.ls_objective(-0.5)
  losses.ls_objective(-0.5, convention='others')
  with pytest.raises(ValueError, match=r'alpha is -0.5; expected from 0 to 1'):
    losses.ls_objective(-0.5, convention='kl')


# Weights of the classes


@pytest.mark.parametrize('where', [None, WHERE[:, 0], WHERE[:, :1]])
def test_mean_with_class_weights(where):
  real = np.ones(3, bool) if where is None else WHERE[:, 0]
  expected = losses.maxsup_cross_entropy(
    LOGITS[real], LABELS[real], 0.3, class_weights=WEIGHTS
  ).sum()
  for mean, divisor in (
    ('examples', real.sum()),
    ('weights', WEIGHTS[LABELS[real]].sum()),
  ):
    objective = losses.with_class_weights(
      losses.maxsup_objective(0.3), WEIGHTS, mean=mean
    )
    values, _ = objective.apply((), LOGITS, LABELS, where=where)
    np.testing.assert_allclose(
      values.sum() / real.sum(), expected / divisor, rtol=1e-6
    )


def test_the_mean_over_devices_is_that_of_torch():
  torch = pytest.importorskip('torch')
  weighted = functools.partial(
    losses.with_class_weights, losses.ce_objective(), WEIGHTS, mean='weights'
  )
  rng = np.random.default_rng(0)
  logits = rng.normal(size=(4, 2, 4)).astype(np.float32)
  labels = np.array([[0, 1], [2, 3], [3, 0], [1, 2]])
  where = np.array([[True, True], [True, False], [False, False], [True, True]])

  @functools.partial(jax.pmap, axis_name='devices')
  def mean_over_devices(logits, labels, where):
    values, _ = weighted(axis_name='devices').apply(
      (), logits, labels, where=where
    )
    return losses.weighted_mean(values, where=where, axis_name='devices')

  def in_torch(logits, labels):
    return torch.nn.functional.cross_entropy(
      torch.tensor(logits), torch.tensor(labels), weight=torch.tensor(WEIGHTS)
    )

  np.testing.assert_allclose(
    mean_over_devices(logits, labels, where),
    np.full(4, in_torch(logits[where], labels[where])),
    rtol=1e-6,
  )
  # Distributions have the mean over examples.
  values, _ = weighted().apply((), LOGITS, MIXED)
  np.testing.assert_allclose(values.mean(), in_torch(LOGITS, MIXED), rtol=1e-6)


# From a configuration


def linear_config(**fields):
  return {'name': 'maxsup', 'alpha': {'schedule': 'linear', **fields}}


@pytest.mark.parametrize(
  ('config', 'objective'),
  [
    ({'name': 'ce'}, losses.ce_objective()),
    (
      {'name': 'ls', 'alpha': 0.3, 'convention': 'others'},
      losses.ls_objective(0.3, convention='others'),
    ),
    ({'name': 'maxsup', 'alpha': 1}, losses.maxsup_objective(1.0)),
    (
      linear_config(end=0.3, denominator='epochs-1'),
      losses.maxsup_objective(
        losses.linear_alpha(0.1, 0.3, denominator='epochs-1', **LENGTH)
      ),
    ),
    (
      {
        'name': 'focal',
        'gamma': {'schedule': 'piecewise', 'values': [1, 2], 'boundaries': [2]},
      },
      losses.focal_objective(
        losses.piecewise_alpha([1, 2], [2], steps_per_epoch=10)
      ),
    ),
    (
      {'name': 'ls', 'class_weights': WEIGHTS.tolist()},
      losses.with_class_weights(losses.ls_objective(), WEIGHTS),
    ),
  ],
)
def test_configurations(config, objective):
  for mapping in (dict, ml_collections.ConfigDict):
    given = mapping(config)
    made = losses.make_objective(given, num_classes=4, **LENGTH)
    assert given == mapping(config)
    for step in (0, 25, 49):
      np.testing.assert_array_equal(
        *(x.apply((), LOGITS, LABELS, step=step)[0] for x in (made, objective))
      )


@pytest.mark.parametrize(
  ('config', 'message'),
  [
    ('maxsup', "objective is 'maxsup'; expected a mapping"),
    (None, 'objective is None; expected a mapping'),
    ({'alpha': 0.1}, 'objective.name is None; expected one of ce, ls, maxsup'),
    ({'name': 'mxsup'}, "objective.name is 'mxsup'; did you mean 'maxsup'"),
    ({'name': ['ls']}, r"objective.name is \['ls'\]; expected one of"),
    (
      {'name': 'ce', 'alpha': 0.1},
      "objective: a field of 'ce' is 'alpha'; expected one of name, class_wei",
    ),
    (
      {'name': 'ols', 'num_classes': 3},
      "objective: a field of 'ols' is 'num_classes'",
    ),
    ({'name': 'ls', 'alpha': 1.5}, 'objective: alpha is 1.5; expected'),
    ({'name': 'maxsup', 'alpha': 'x'}, "objective: alpha is 'x'; expected"),
    ({'name': 'ls', 'convention': 'torch'}, "objective: convention is 'torch'"),
    (
      {'name': 'maxsup', 'alpha': {'begin': 0.1}},
      'objective.alpha.schedule is None; expected one of constant, linear',
    ),
    (
      {'name': 'maxsup', 'alpha': {'schedule': 'cosin'}},
      "objective.alpha.schedule is 'cosin'; did you mean 'cosine'",
    ),
    (
      linear_config(epochs=3),
      "objective.alpha: a field of 'linear' is 'epochs'; .* begin, end, denom",
    ),
    (
      {'name': 'focal', 'gamma': {'schedule': 'constant', 'value': -1}},
      'objective: gamma is -1.0; expected at least 0',
    ),
    (
      {'name': 'mbls', 'alpha': {'schedule': 'piecewise', 'values': [0.1]}},
      "objective.alpha: .*missing .*'boundaries'",
    ),
    ({'name': 'mbls', 'margin': '1'}, "objective: margin is '1'; expected"),
    ({'name': 'acls', 'rest_weight': -1}, 'objective: rest_weight is -1.0'),
    ({'name': 'maxsup', 'adaptive_alpha': 'yes'}, "adaptive_alpha is 'yes'"),
    (
      {'name': 'distillation', 'scale_by_squared_temperature': 'false'},
      "scale_by_squared_temperature is 'false'; expected True or False",
    ),
    ({'name': 'zipf', 'ranking': 'vote'}, "ranking is 'vote'; did you mean"),
    ({'name': 'ols', 'initial': 'random'}, "objective: initial is 'random'"),
    ({'name': 'ols', 'freeze_above': 2}, 'objective: freeze_above is 2'),
    ({'name': 'ols', 'smoothing': -1}, 'objective: smoothing is -1'),
    (
      {'name': 'ce', 'class_weights': [1.0, 1.0]},
      r'class_weights is \[1.0, 1.0\]; expected 4 numbers, one for each class',
    ),
    (
      {'name': 'ce', 'class_weights': [1.0, 1.0, 1.0, -1.0]},
      'objective: class_weights is -1.0; expected at least 0',
    ),
    ({'name': 'ce', 'class_weights': 2.0}, 'class_weights is 2.0; expected 4'),
    ({'name': 'ce', 'class_weights': ['a'] * 4}, 'objective: class_weights is'),
    (
      {'name': 'ce', 'class_weights': [1.0] * 4, 'class_weights_mean': 'sum'},
      "objective: mean is 'sum'; expected one of examples, weights",
    ),
    (
      {'name': 'ce', 'class_weights_mean': 'weights'},
      'class_weights_mean is set; expected objective.class_weights',
    ),
    (linear_config(end=-0.1), 'objective: alpha is -0.1; expected at least 0'),
    (linear_config(end='x'), "objective.alpha: end is 'x'; expected"),
    (linear_config(denominator='T'), "objective.alpha: denominator is 'T'"),
  ],
)
def test_bad_configurations(config, message):
  with pytest.raises(UsageError, match=message) as caught:
    losses.make_objective(config, num_classes=4, **LENGTH)
  assert '\n' not in str(caught.value)


def test_what_a_configuration_needs_to_be_told():
  for length, message in (
    (
      {'epochs': 5},
      'objective.alpha needs steps_per_epoch, which is not given',
    ),
    ({'steps_per_epoch': 5}, 'objective.alpha needs epochs'),
    ({'steps_per_epoch': 5, 'epochs': 0}, 'epochs is 0; expected'),
  ):
    with pytest.raises(UsageError, match=message):
      losses.make_objective(linear_config(), **length)
  for missing in ('num_classes', 'steps_per_epoch'):
    told = {'num_classes': 4, 'steps_per_epoch': 10, missing: None}
    with pytest.raises(UsageError, match=f'objective needs {missing}'):
      losses.make_objective({'name': 'ols'}, **told)


def test_axes_of_devices_reach_statistics_and_weights():
  logits = np.stack([LOGITS, LOGITS[:, ::-1]])
  labels = np.array([[0, 2, 3], [3, 3, 1]])
  weighted = {
    'class_weights': WEIGHTS.tolist(),
    'class_weights_mean': 'weights',
  }
  for config in ({'name': 'ols'}, {'name': 'ce', **weighted}):
    apart, together = (
      losses.make_objective(config, num_classes=4, axis_name=axis, **LENGTH)
      for axis in ('devices', None)
    )

    def over_devices(z, y, apart=apart):
      return apart.apply(apart.init(), z, y)

    mapped = jax.jit(jax.vmap(over_devices, axis_name='devices'))
    results = mapped(logits, labels)
    values, state = jax.jit(together.apply)(together.init(), logits, labels)
    np.testing.assert_allclose(results[0], values, rtol=1e-6)
    for apart_leaf, leaf in zip(
      jax.tree.leaves(results[1]), jax.tree.leaves(state)
    ):
      for device in range(2):
        np.testing.assert_allclose(apart_leaf[device], leaf, rtol=1e-6)
