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
from maxsup_jax.losses import OBJECTIVES

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


TEACHER = {'teacher_logits': OTHER}
HINTON = {
  'teacher_temperature': 3.0,
  'student_temperature': 2.0,
  'divergence': 'kl',
  'scale_by_squared_temperature': True,
}
ACLS = {'margin': 0.5, 'top_weight': 0.7, 'rest_weight': 0.3}
BELOW, TOP = {'normalization': 'below'}, {'normalization': 'max'}
# Fields besides the strength, the loss that it must be, and what `apply` needs.
CASES = (
  ('ce', {}, losses.cross_entropy, {}),
  ('ls', {'convention': 'others'}, losses.label_smoothing_cross_entropy, {}),
  ('maxsup', {'adaptive_alpha': True}, losses.maxsup_cross_entropy, {}),
  ('regularization_only', BELOW, losses.smoothing_regularization, {}),
  ('error_amplification_only', TOP, losses.error_amplification, {}),
  ('zipf', {'power': 2.0}, losses.zipf_cross_entropy, {}),
  ('zipf', {'ranking': 'votes'}, losses.zipf_cross_entropy, {'votes': OTHER}),
  (
    'adaptive_ls',
    {'temperature': 2.0},
    losses.adaptive_smoothing_cross_entropy,
    TEACHER,
  ),
  (
    'adaptive_ls',
    {'prior': 'self', 'adaptive_alpha': True},
    losses.adaptive_smoothing_cross_entropy,
    {},
  ),
  ('logit_penalty', {'form': 'full'}, losses.logit_penalty_cross_entropy, {}),
  (
    'confidence_penalty',
    {'form': 'kl'},
    losses.confidence_penalty_cross_entropy,
    {},
  ),
  ('logit_norm', {}, losses.logit_norm_cross_entropy, {}),
  ('focal', {}, losses.focal_cross_entropy, {}),
  ('mbls', {'margin': 1.5}, losses.mbls_cross_entropy, {}),
  ('acls', ACLS, losses.acls_cross_entropy, {}),
  ('distillation', HINTON, losses.distillation_cross_entropy, TEACHER),
  (
    'logit_matching',
    {'reduction': 'mean'},
    losses.logit_matching_cross_entropy,
    TEACHER,
  ),
)


def test_the_table_is_tested_whole():
  assert {name for name, *_ in CASES} == set(OBJECTIVES) - {'ols'}
  with pytest.raises(TypeError):
    OBJECTIVES['mine'] = OBJECTIVES['ce']
  # What is published, and what configurations leave out.
  for name, defaults in (
    ('regularization_only', {'alpha': 0.1, 'normalization': 'below'}),
    ('error_amplification_only', {'alpha': 0.1, 'normalization': 'above'}),
    ('zipf', {'alpha': 0.1, 'power': 1.0, 'ranking': 'logits'}),
    ('logit_penalty', {'alpha': 2e-3, 'form': 'half'}),
    ('logit_norm', {'temperature': 0.04}),
    ('focal', {'gamma': 2.0}),
    ('mbls', {'alpha': 0.1, 'margin': 10.0}),
    ('logit_matching', {'beta': 0.6, 'reduction': 'sum'}),
  ):
    parameters = inspect.signature(OBJECTIVES[name]).parameters
    assert {x: p.default for x, p in parameters.items()} == defaults


@pytest.mark.parametrize(('name', 'fields', 'loss', 'inputs'), CASES)
def test_computes_its_loss(name, fields, loss, inputs):
  """By number and schedule, over a mask, with weights of the classes."""
  strength = list(inspect.signature(OBJECTIVES[name]).parameters)[:1]
  schedule = losses.linear_alpha(0.1, 0.5, epochs=4, steps_per_epoch=10)
  make = functools.partial(OBJECTIVES[name], **fields)
  objective = make(**dict.fromkeys(strength, schedule))
  assert objective.needs == tuple(inputs)
  assert objective.init() == ()
  common = {'where': WHERE, 'class_weights': WEIGHTS}
  labels = np.array([0, -1, 3])
  values, state = objective.apply(
    (), LOGITS, labels, step=10, **common, **inputs
  )
  assert state == ()
  options = {k: v for k, v in fields.items() if k not in ('ranking', 'prior')}
  alpha = np.float32(0.2)
  if options.pop('adaptive_alpha', False):
    alpha = alpha * losses.confidence_alpha(LOGITS, where=WHERE)
  plain = 0
  if name.endswith('_only'):
    plain = losses.cross_entropy(LOGITS, labels, **common)
    common.pop('class_weights')
  expected = loss(
    LOGITS, labels, *[alpha] * len(strength), **common, **options, **inputs
  )
  np.testing.assert_allclose(values, plain + expected, rtol=1e-6)
  constant = make(**dict.fromkeys(strength, 0.2))
  values, scheduled = (
    x.apply((), LOGITS, LABELS, step=10, **inputs)[0]
    for x in (constant, objective)
  )
  np.testing.assert_array_equal(values, scheduled)


def test_an_objective_gets_what_it_needs_and_nothing_else():
  for objective, inputs, expected in (
    (OBJECTIVES['adaptive_ls'](), {}, 'got nothing .* teacher_logits'),
    (
      OBJECTIVES['distillation'](),
      {'votes': OTHER},
      'got votes .* teacher',
    ),
    (OBJECTIVES['zipf'](ranking='votes'), {}, 'expected votes'),
    (
      OBJECTIVES['adaptive_ls'](prior='self'),
      TEACHER,
      'expected nothing',
    ),
    (OBJECTIVES['mbls'](), {'margin': 0.0}, 'got margin .* nothing'),
  ):
    with pytest.raises(TypeError, match=expected):
      objective.apply((), LOGITS, LABELS, **inputs)


def test_a_traced_step_compiles_once_on_all_devices():
  # Any function of the step is a schedule.
  objective = OBJECTIVES['maxsup'](lambda step: 0.1 + step / 100)
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


def test_what_is_refused_when_made():
  ls, maxsup = OBJECTIVES['ls'], OBJECTIVES['maxsup']
  for make, alpha, message in (
    (ls, 1.5, 'alpha is 1.5; expected at most 1'),
    (maxsup, -0.1, 'alpha is -0.1; expected at least 0'),
    (
      functools.partial(losses.ols_objective, 4, steps_per_epoch=1),
      1.5,
      'alpha is 1.5; expected from 0 to 1',
    ),
    # The end is out of range, though never reached.
    (maxsup, linear(0.1, -0.1, epochs=1), 'alpha is -0.1'),
    # The end is in range, but passed.
    (ls, linear(0, 1, epochs=9, denominator=5), 'alpha is 1.6'),
    (maxsup, '0.1', "alpha is '0.1'; expected a real number"),
    (maxsup, [0.1], r'alpha has shape \(1,\); expected a sca'),
    (functools.partial(ls, convention='kl'), -0.5, 'expected from 0 to 1'),
  ):
    with pytest.raises((TypeError, ValueError), match=message):
      make(alpha)
  ls(-0.5, convention='others')


# Weights of the classes


def test_mean_with_class_weights():
  for where in (None, WHERE[:, 0], WHERE[:, :1]):
    real = np.ones(3, bool) if where is None else WHERE[:, 0]
    for labels, total in ((LABELS, WEIGHTS[LABELS[real]].sum()), (MIXED, None)):
      expected = losses.maxsup_cross_entropy(
        LOGITS[real], labels[real], 0.3, class_weights=WEIGHTS
      ).sum()
      # Of distributions PyTorch takes the mean over the examples.
      for mean, divisor in (('examples', None), ('weights', total)):
        objective = losses.with_class_weights(
          OBJECTIVES['maxsup'](0.3), WEIGHTS, mean=mean
        )
        values, _ = objective.apply((), LOGITS, labels, where=where)
        actual = values.sum() / real.sum()
        np.testing.assert_allclose(
          actual, expected / (divisor or real.sum()), rtol=1e-6
        )


# From a configuration


def linear_config(**fields):
  return {'name': 'maxsup', 'alpha': {'schedule': 'linear', **fields}}


@pytest.mark.parametrize(
  ('config', 'objective'),
  [
    ({'name': 'ce'}, OBJECTIVES['ce']()),
    (
      {'name': 'ls', 'alpha': 0.3, 'convention': 'others'},
      OBJECTIVES['ls'](0.3, convention='others'),
    ),
    ({'name': 'maxsup', 'alpha': 1}, OBJECTIVES['maxsup'](1.0)),
    (
      linear_config(end=0.3, denominator='epochs-1'),
      OBJECTIVES['maxsup'](
        losses.linear_alpha(0.1, 0.3, denominator='epochs-1', **LENGTH)
      ),
    ),
    (
      {
        'name': 'focal',
        'gamma': {'schedule': 'piecewise', 'values': [1, 2], 'boundaries': [2]},
      },
      OBJECTIVES['focal'](
        losses.piecewise_alpha([1, 2], [2], steps_per_epoch=10)
      ),
    ),
    (
      {'name': 'ls', 'class_weights': WEIGHTS.tolist()},
      losses.with_class_weights(OBJECTIVES['ls'](), WEIGHTS),
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
    ({'alpha': 0.1}, 'objective.name is None; expected one of ce, ls, maxsup'),
    ({'name': 'mxsup'}, "objective.name is 'mxsup'; did you mean 'maxsup'"),
    (
      {'name': 'ce', 'alpha': 0.1},
      "objective: a field of 'ce' is 'alpha'; expected one of name, class_wei",
    ),
    (
      {'name': 'ols', 'num_classes': 3},
      "objective: a field of 'ols' is 'num_classes'",
    ),
    ({'name': 'ls', 'alpha': 1.5}, 'objective: alpha is 1.5; expected'),
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
      {'name': 'mbls', 'alpha': {'schedule': 'piecewise', 'values': [0.1]}},
      "objective.alpha: .*missing .*'boundaries'",
    ),
    (
      {'name': 'distillation', 'scale_by_squared_temperature': 'false'},
      "scale_by_squared_temperature is 'false'; expected True or False",
    ),
    ({'name': 'zipf', 'ranking': 'vote'}, "ranking is 'vote'; did you mean"),
    (
      {'name': 'ce', 'class_weights': [1.0, 1.0]},
      r'class_weights is \[1.0, 1.0\]; expected 4 numbers, one for each class',
    ),
    (
      {'name': 'ce', 'class_weights': [1.0, 1.0, 1.0, -1.0]},
      'objective: class_weights is -1.0; expected at least 0',
    ),
    ({'name': 'ce', 'class_weights': ['a'] * 4}, 'objective: class_weights is'),
    (
      {'name': 'ce', 'class_weights_mean': 'weights'},
      'class_weights_mean is set; expected objective.class_weights',
    ),
    (linear_config(end=-0.1), 'objective: alpha is -0.1; expected at least 0'),
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


def test_objectives_of_a_linear_layer():
  """The losses of their logits, at the strength of the step, and the rows."""
  rng = np.random.default_rng(0)
  features, kernel = rng.normal(size=(3, 4)), rng.normal(size=(4, 5))
  labels, where = np.array([0, 4, 2]), np.array([True, True, False])
  logits, linear = features @ kernel, {'begin': 0.1, 'end': 0.3}
  alpha = {'schedule': 'linear', **linear}
  for config in (
    {'name': 'ce'},
    {'name': 'ls', 'alpha': alpha, 'convention': 'others'},
    {'name': 'maxsup', 'alpha': alpha},
  ):
    objective = losses.make_objective(config, steps_per_epoch=4, epochs=5)
    expected, _ = objective.apply((), logits, labels, step=12, where=where)
    actual, state, rows = objective.apply_linear(
      (), features, kernel, labels, step=12, where=where, block_size=2
    )
    assert state == ()
    np.testing.assert_allclose(actual, expected, 1e-5)
    correct = (logits.argmax(-1) == labels) & where
    np.testing.assert_array_equal(rows.correct, correct)
  weights = [1.0, 2.0, 1.0, 1.0, 1.0]
  weighted = losses.with_class_weights(objective, weights)
  assert weighted.apply_linear is None
  assert losses.focal_objective().apply_linear is None
