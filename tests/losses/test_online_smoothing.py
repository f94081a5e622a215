import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from maxsup_jax import losses

B, K = 16, 4


def batches(count, seed=0):
  """Logits that are often right, and their labels."""
  rng = np.random.default_rng(seed)
  labels = rng.integers(K, size=(count, B))
  logits = rng.normal(size=(count, B, K)) + 1.5 * np.eye(K)[labels]
  return logits.astype(np.float32), labels.astype(np.int32)


def softmax(logits):
  weights = np.exp(np.float64(logits))
  return weights / weights.sum(-1, keepdims=True)


def soft_labels(logits, labels, real=None):
  """The rule of the paper, example by example, in double precision."""
  sums, counts = np.zeros((K, K)), np.zeros(K)
  for i in np.ndindex(labels.shape):
    if real is not None and not real[i]:
      continue
    probabilities = softmax(logits[i])
    if probabilities.argmax() == labels[i]:
      sums[labels[i]] += probabilities
      counts[labels[i]] += 1
  targets = np.full((K, K), 1 / K)
  for c in range(K):
    if counts[c]:
      targets[c] = sums[c] / counts[c]
  return targets, counts


def test_initial_state():
  for initial, row in (
    ('uniform', [0.25, 0.25, 0.25, 0.25]),
    ('smoothed', [0.7, 0.1, 0.1, 0.1]),
    ('zeros', [0, 0, 0, 0]),
  ):
    state = losses.ols_init(K, initial=initial, smoothing=0.3)
    expected = [np.roll(row, c) for c in range(K)]
    np.testing.assert_allclose(state.targets, expected, rtol=1e-6)
    assert not any(x.any() for x in (state.sums, state.counts))
    assert {x.dtype for x in state} == {jnp.dtype('float32')}


@jax.jit
def epoch(state, logits, labels, where):
  for z, y, w in zip(logits, labels, where):
    state = losses.ols_update(state, z, y, where=w)
  return losses.ols_end_of_epoch(state)


def test_an_epoch_equals_the_rule():
  logits, labels = batches(3)
  labels[labels == 3] = 2  # A class that is never seen.
  real = np.random.default_rng(1).random(labels.shape) < 0.8
  expected, counts = soft_labels(logits, labels, real)
  assert 0 < counts[:3].min() < B
  # What is masked does not matter.
  spoilt = np.where(real[..., None], logits, np.nan)
  padded = np.where(real, labels, -1)
  state = epoch(losses.ols_init(K), spoilt, padded, real)
  np.testing.assert_allclose(state.targets, expected, rtol=1e-5)
  np.testing.assert_allclose(state.targets[3], 1 / K)
  assert not state.sums.any()
  assert not state.counts.any()


def test_what_adds_nothing():
  """Labels that are unknown, rows that overflow; of ties the first counts."""
  good = [2.0, 1, 0, 0]
  rows = [[np.nan, 1, 2, 0], [np.inf, 1, 2, 0], good, good, good, [0.0] * 4]
  labels = np.array([0, 0, -1, K, -100, 1])
  logits = np.array([good, [0.0] * 4, *rows], np.float32)
  state = losses.ols_update(losses.ols_init(K), logits, np.r_[[0, 0], labels])
  np.testing.assert_array_equal(state.counts, [2, 0, 0, 0])
  assert np.isfinite(state.sums).all()


def test_masked_classes_are_not_on_top_and_have_no_part():
  logits = np.array([[9.0, 1, 2, 0]], np.float32)
  where = np.array([[False, True, True, True]])
  state = losses.ols_update(
    losses.ols_init(K), logits, np.array([2]), where=where
  )
  np.testing.assert_array_equal(state.counts, [0, 0, 1, 0])
  expected = np.insert(softmax(logits[0, 1:]), 0, 0)
  np.testing.assert_allclose(state.sums[2], expected, rtol=1e-6)


def test_any_number_of_batch_axes_and_any_class_axis():
  logits, labels = batches(3)
  state = losses.ols_init(K)
  update = jax.jit(losses.ols_update, static_argnames='axis')
  together = update(state, logits, labels)
  moved = update(state, np.moveaxis(logits, -1, 0), labels, axis=0)
  for z, y in zip(logits, labels):
    state = update(state, z, y)
  for other in (together, moved):
    for actual, expected in zip(other, state):
      np.testing.assert_allclose(actual, expected, rtol=1e-5)


def test_devices_sum_their_statistics():
  logits, labels = batches(4)
  real = np.random.default_rng(1).random(labels.shape) < 0.8
  real[2] = False
  state = losses.ols_init(K)

  def update(logits, labels, real):
    return losses.ols_update(
      state, logits, labels, where=real, axis_name='devices'
    )

  over_devices = jax.pmap(update, axis_name='devices')
  states = over_devices(logits, labels, real)
  expected = losses.ols_update(state, logits, labels, where=real)
  for device in range(4):
    for actual, desired in zip(states, expected):
      np.testing.assert_allclose(actual[device], desired, rtol=1e-5)


def test_frozen_rows_stay():
  logits, labels = batches(1)
  before = losses.ols_init(K, initial='smoothed', smoothing=0.25)
  # An entry of exactly this is enough.
  assert before.targets[0, 0] == 0.75
  rows = before.targets.at[2:].set(0.25)
  state = losses.ols_update(before._replace(targets=rows), logits[0], labels[0])
  learnt, _ = soft_labels(logits[0], labels[0])
  for freeze, frozen in ((None, 0), (0.75, 2), (0.0, 4)):
    after = losses.ols_end_of_epoch(state, freeze_above=freeze).targets
    np.testing.assert_array_equal(after[:frozen], rows[:frozen])
    np.testing.assert_allclose(after[frozen:], learnt[frozen:], rtol=1e-5)
  objective = losses.ols_objective(K, steps_per_epoch=1, freeze_above=0.0)
  state = objective.init()
  _, after = objective.apply(state, logits[0], labels[0])
  np.testing.assert_array_equal(after.targets, state.targets)


def test_nothing_has_a_gradient_but_the_loss():
  logits, labels = batches(1)
  objective = losses.ols_objective(K, steps_per_epoch=1)
  state = objective.init()

  def total(logits, targets):
    values, after = objective.apply(
      state._replace(targets=targets), logits, labels[0]
    )
    return values.sum(), after.targets.sum()

  slopes, of_targets = jax.jit(jax.jacrev(lambda z: total(z, state.targets)))(
    logits[0]
  )
  assert np.abs(slopes).max() > 0.1
  assert not of_targets.any()
  gradient = jax.jit(jax.grad(lambda t: total(logits[0], t)[0]))
  assert not gradient(state.targets).any()


# The objective


def test_epochs_begin_inside_the_compiled_step():
  steps_per_epoch, epochs = 3, 3
  logits, labels = batches(steps_per_epoch * epochs)
  objective = losses.ols_objective(K, 0.3, steps_per_epoch=steps_per_epoch)
  traces = 0

  @jax.jit
  def step_function(state, logits, labels, step):
    nonlocal traces
    traces += 1
    return objective.apply(state, logits, labels, step=step)

  state, targets = objective.init(), np.full((K, K), 1 / K)
  for step in range(len(logits)):
    epoch = slice(step // 3 * 3, step + 1)
    values, state = step_function(state, logits[step], labels[step], step)
    hard = -np.log(softmax(logits[step])[np.arange(B), labels[step]])
    soft = -np.sum(targets[labels[step]] * np.log(softmax(logits[step])), -1)
    np.testing.assert_allclose(values, 0.3 * hard + 0.7 * soft, rtol=1e-5)
    learnt, counts = soft_labels(logits[epoch], labels[epoch])
    if (step + 1) % steps_per_epoch == 0:
      targets, counts = learnt, np.zeros(K)
    np.testing.assert_allclose(state.targets, targets, rtol=1e-5)
    np.testing.assert_array_equal(state.counts, counts)
  assert traces == 1


def test_a_fractional_step_is_refused():
  objective = losses.ols_objective(K, lambda step: 0.5, steps_per_epoch=1)
  logits, labels = batches(1)
  with pytest.raises(TypeError, match='step is float32; expected an integer'):
    objective.apply(objective.init(), logits[0], labels[0], step=1.5)


def test_a_warning_says_how_much_memory_many_classes_take():
  with warnings.catch_warnings():
    warnings.simplefilter('error')
    jax.eval_shape(lambda: losses.ols_init(1000))
  for make in (
    lambda: jax.eval_shape(lambda: losses.ols_init(21843)),
    lambda: losses.ols_objective(21843, steps_per_epoch=1),
  ):
    with pytest.warns(UserWarning, match='21843 classes keeps 3.8 GB on every'):
      make()


def test_a_state_of_other_classes():
  with pytest.raises(
    ValueError, match='state has 3 classes; expected 2 for logits'
  ):
    losses.ols_update(losses.ols_init(3), np.ones((1, 2)), np.zeros(1, int))
