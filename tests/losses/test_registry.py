import inspect

import jax
import ml_collections
import numpy as np
import pytest

from maxsup_jax import losses
from maxsup_jax.errors import UsageError

LOGITS = np.array([[2.0, 1.0, 0.1, -1.0], [0.5, 1.5, 1.0, -0.5]], np.float32)
LABELS = np.array([0, 2], np.int32)
LENGTH = {'steps_per_epoch': 10, 'epochs': 5}


def values(objective, step=0):
  return np.asarray(objective.apply((), LOGITS, LABELS, step=step)[0])


@pytest.mark.parametrize(
  ('config', 'objective'),
  [
    ({'name': 'ce'}, losses.ce_objective()),
    ({'name': 'ls'}, losses.ls_objective(0.1)),
    (
      {'name': 'ls', 'alpha': 0.3, 'convention': 'others'},
      losses.ls_objective(0.3, convention='others'),
    ),
    ({'name': 'maxsup'}, losses.maxsup_objective(0.1)),
    ({'name': 'maxsup', 'alpha': 1}, losses.maxsup_objective(1.0)),
    (
      {'name': 'maxsup', 'alpha': {'schedule': 'constant', 'value': 0.4}},
      losses.maxsup_objective(0.4),
    ),
    (
      {'name': 'maxsup', 'alpha': {'schedule': 'linear'}},
      losses.maxsup_objective(losses.linear_alpha(0.1, 0.2, **LENGTH)),
    ),
    (
      {
        'name': 'ls',
        'alpha': {
          'schedule': 'linear',
          'begin': 0.3,
          'end': 0.0,
          'denominator': 'epochs-1',
        },
      },
      losses.ls_objective(
        losses.linear_alpha(0.3, 0.0, denominator='epochs-1', **LENGTH)
      ),
    ),
    (
      {
        'name': 'maxsup',
        'alpha': {'schedule': 'linear', 'denominator': 299},
      },
      losses.maxsup_objective(losses.linear_alpha(denominator=299, **LENGTH)),
    ),
    (
      {'name': 'regularization_only', 'alpha': 0.2},
      losses.regularization_only_objective(0.2),
    ),
    (
      {'name': 'error_amplification_only', 'normalization': 'max'},
      losses.error_amplification_only_objective(0.1, normalization='max'),
    ),
  ],
)
@pytest.mark.parametrize('mapping', [dict, ml_collections.ConfigDict])
def test_configurations(config, objective, mapping):
  made = losses.make_objective(mapping(config), **LENGTH)
  assert isinstance(made, losses.Objective)
  assert made.init() == ()
  for step in (0, 25, 49):
    np.testing.assert_array_equal(values(made, step), values(objective, step))


def test_the_configuration_is_not_changed():
  config = {'name': 'maxsup', 'alpha': {'schedule': 'linear', 'end': 0.3}}
  losses.make_objective(config, **LENGTH)
  assert config == {
    'name': 'maxsup',
    'alpha': {'schedule': 'linear', 'end': 0.3},
  }


@pytest.mark.parametrize('name', losses.OBJECTIVES)
def test_every_objective_works_without_other_fields(name):
  objective = losses.make_objective({'name': name}, num_classes=4, **LENGTH)
  inputs = dict.fromkeys(objective.needs, 0.5 * LOGITS)
  value, _ = objective.apply(objective.init(), LOGITS, LABELS, **inputs)
  assert np.isfinite(value).all()


@pytest.mark.parametrize('name', losses.OBJECTIVES)
def test_every_field_and_its_default_is_documented(name):
  documentation = losses.make_objective.__doc__
  parameters = inspect.signature(losses.OBJECTIVES[name]).parameters
  told = ('num_classes', 'steps_per_epoch', 'axis_name')
  defaults = {
    field: parameter.default
    for field, parameter in parameters.items()
    if field not in told
  }
  line = documentation.split(f"* ``'{name}'``:")[1].split('* ``')[0]
  for field, default in defaults.items():
    shown = f"``'{default}'``" if isinstance(default, str) else default
    assert f'``{field}`` ({shown})' in ' '.join(line.split())


def linear(**fields):
  return {'name': 'maxsup', 'alpha': {'schedule': 'linear', **fields}}


@pytest.mark.parametrize(
  ('config', 'message'),
  [
    ('maxsup', "objective must be a mapping, got 'maxsup'"),
    (None, 'objective must be a mapping, got None'),
    ({}, "objective: field 'name' is missing, one of: ce, ls, maxsup, reg"),
    ({'alpha': 0.1}, "objective: field 'name' is missing, one of: ce, ls"),
    ({'name': 'mxsup'}, "objective: unknown name 'mxsup', known: ce, ls, max"),
    ({'name': None}, 'objective: unknown name None, known: ce'),
    ({'name': ['ls']}, r"objective: unknown name \['ls'\], known: ce"),
    (
      {'name': 'ce', 'alpha': 0.1},
      "objective: 'ce' has no field 'alpha', known: name, class_weights, class"
      '_weights_mean$',
    ),
    (
      {'name': 'ls', 'smoothing': 0.1},
      "'ls' has no field 'smoothing', known: name, alpha, convention",
    ),
    (
      {'name': 'ls', 'alpha': 1.5},
      r'objective: alpha must be in \(-inf, 1\], got 1.5',
    ),
    (
      {'name': 'maxsup', 'alpha': -0.5},
      r'objective: alpha must be in \[0, inf\), got -0.5',
    ),
    (
      {'name': 'maxsup', 'alpha': 'x'},
      'objective: alpha must be a number, got',
    ),
    ({'name': 'maxsup', 'alpha': None}, 'objective: alpha must be a number'),
    (
      {'name': 'ls', 'convention': 'torch'},
      "objective: convention must be one of 'uniform', 'others', 'kl', got",
    ),
    (
      {'name': 'error_amplification_only', 'normalization': 'below'},
      "objective: normalization must be one of .* got 'below'",
    ),
    (
      {'name': 'maxsup', 'alpha': {'begin': 0.1}},
      "objective.alpha: field 'schedule' is missing, one of: constant, linear",
    ),
    (
      {'name': 'maxsup', 'alpha': {'schedule': 'cosin'}},
      "objective.alpha: unknown schedule 'cosin', known: constant, linear",
    ),
    (
      linear(epochs=3),
      "objective.alpha: 'linear' has no field 'epochs', known: schedule, begin,"
      ' end, denominator$',
    ),
    (
      {'name': 'focal', 'gamma': {'schedule': 'constant', 'value': -1}},
      r'objective: gamma must be in \[0, inf\), got -1',
    ),
    (
      {'name': 'focal', 'gamma': {'begin': 0.1}},
      "objective.gamma: field 'schedule' is missing",
    ),
    (
      {'name': 'mbls', 'alpha': {'schedule': 'piecewise', 'values': [0.1]}},
      "objective.alpha: .*missing .*'boundaries'",
    ),
    (
      {'name': 'mbls', 'margin': -1},
      r'objective: margin must be in \[0, inf\), got -1',
    ),
    ({'name': 'mbls', 'margin': '1'}, "margin must be a number, got '1'"),
    (
      {'name': 'acls', 'rest_weight': -1},
      r'objective: rest_weight must be in \[0, inf\), got -1',
    ),
    (
      {'name': 'logit_norm', 'temperature': 0},
      r'objective: temperature must be in \(0, inf\), got 0',
    ),
    (
      {'name': 'distillation', 'student_temperature': 0},
      r'objective: student_temperature must be in \(0, inf\), got 0',
    ),
    (
      {'name': 'logit_penalty', 'form': 'squared'},
      "objective: form must be one of 'half', 'full', got 'squared'",
    ),
    (
      {'name': 'maxsup', 'adaptive_alpha': 'yes'},
      "objective: adaptive_alpha must be a bool, got 'yes'",
    ),
    (
      {'name': 'ols', 'initial': 'random'},
      "objective: initial must be one of 'uniform', 'smoothed', 'zeros', got",
    ),
    (
      {'name': 'ols', 'freeze_above': 2},
      r'objective: freeze_above must be in \[0, 1\], got 2',
    ),
    (
      {'name': 'ols', 'smoothing': -1},
      r'objective: smoothing must be in \[0, 1\], got -1',
    ),
    (
      {'name': 'ols', 'num_classes': 3},
      "objective: 'ols' has no field 'num_classes', known: name, alpha, init",
    ),
    (
      {'name': 'ce', 'class_weights': [1.0, 1.0]},
      'class_weights must be 4 numbers, one for each class, got 2',
    ),
    (
      {'name': 'ce', 'class_weights': [1.0, 1.0, 1.0, -1.0]},
      r'objective: class_weights must be in \[0, inf\), got -1.0',
    ),
    (
      {'name': 'ce', 'class_weights': 2.0},
      'objective: class_weights must be a list of numbers, got 2.0',
    ),
    (
      {'name': 'ce', 'class_weights': ['a', 'b', 'c', 'd']},
      'objective: class_weights must be a real number',
    ),
    (
      {'name': 'ce', 'class_weights': [1.0] * 4, 'class_weights_mean': 'sum'},
      "objective: mean must be one of 'examples', 'weights', got 'sum'",
    ),
    (
      {'name': 'ce', 'class_weights_mean': 'weights'},
      'objective: class_weights_mean without class_weights',
    ),
    (linear(begin=-0.1), r'objective: alpha must be in \[0, inf\), got -0.1'),
    (linear(end=-0.1), r'objective: alpha must be in \[0, inf\), got -0.1'),
    (linear(end='x'), "objective.alpha: end must be a number, got 'x'"),
    (linear(denominator='T'), "objective.alpha: denominator must be 'epochs'"),
    (linear(denominator=-1), 'objective.alpha: denominator must be at least 1'),
  ],
)
def test_bad_configurations(config, message):
  with pytest.raises(UsageError, match=message) as caught:
    losses.make_objective(config, num_classes=4, **LENGTH)
  assert '\n' not in str(caught.value)


@pytest.mark.parametrize(
  ('length', 'message'),
  [
    ({}, 'objective.alpha: this schedule needs to be told steps_per_epoch'),
    ({'epochs': 5}, 'this schedule needs to be told steps_per_epoch'),
    ({'steps_per_epoch': 5}, 'this schedule needs to be told epochs'),
    ({'steps_per_epoch': 5, 'epochs': 0}, 'epochs must be at least 1'),
  ],
)
def test_a_linear_schedule_needs_the_length_of_the_training(length, message):
  with pytest.raises(UsageError, match=message):
    losses.make_objective(linear(), **length)


@pytest.mark.parametrize('missing', ['num_classes', 'steps_per_epoch'])
def test_an_objective_with_state_needs_to_be_told_sizes(missing):
  told = {'num_classes': 4, 'steps_per_epoch': 10}
  del told[missing]
  message = f'objective: this objective needs to be told {missing}'
  with pytest.raises(UsageError, match=message):
    losses.make_objective({'name': 'ols'}, **told)


def test_axes_of_devices_reach_statistics_and_weights():
  logits = np.stack([LOGITS, LOGITS[:, ::-1]])
  labels = np.array([[0, 2], [3, 3]])
  for config in (
    {'name': 'ols'},
    {
      'name': 'ce',
      'class_weights': np.array([1.0, 2.0, 3.0, 4.0]),
      'class_weights_mean': 'weights',
    },
  ):
    apart, together = (
      losses.make_objective(
        config, num_classes=4, axis_name=axis_name, **LENGTH
      )
      for axis_name in ('devices', None)
    )
    values, state = jax.vmap(
      lambda z, y, apart=apart: apart.apply(apart.init(), z, y),
      axis_name='devices',
    )(logits, labels)
    expected, expected_state = together.apply(together.init(), logits, labels)
    np.testing.assert_allclose(values, expected, rtol=1e-6)
    for device in range(2):
      jax.tree.map(
        lambda a, b, i=device: np.testing.assert_allclose(a[i], b, rtol=1e-6),
        state,
        expected_state,
      )


@pytest.mark.parametrize(
  ('name', 'field'),
  [
    ('focal', 'gamma'),
    ('logit_norm', 'temperature'),
    ('distillation', 'beta'),
    ('ols', 'alpha'),
  ],
)
def test_every_strength_may_be_a_schedule(name, field):
  schedule = {
    'schedule': 'piecewise',
    'values': [0.2, 0.8],
    'boundaries': [2],
  }
  told = {'num_classes': 4, **LENGTH}
  scheduled = losses.make_objective({'name': name, field: schedule}, **told)
  inputs = dict.fromkeys(scheduled.needs, 0.5 * LOGITS)
  for step, value in ((19, 0.2), (20, 0.8)):
    constant = losses.make_objective({'name': name, field: value}, **told)
    actual, expected = (
      objective.apply(objective.init(), LOGITS, LABELS, step=step, **inputs)[0]
      for objective in (scheduled, constant)
    )
    np.testing.assert_array_equal(actual, expected)


def test_class_weights_are_those_of_the_function():
  weights = [1.0, 2.0, 3.0, 0.0]
  objective = losses.make_objective(
    {'name': 'ls', 'class_weights': weights}, num_classes=4
  )
  expected = losses.label_smoothing_cross_entropy(
    LOGITS, LABELS, 0.1, class_weights=np.array(weights, np.float32)
  )
  np.testing.assert_array_equal(values(objective), expected)


def test_the_tables_cannot_be_changed():
  with pytest.raises(TypeError):
    losses.OBJECTIVES['mine'] = losses.ce_objective
