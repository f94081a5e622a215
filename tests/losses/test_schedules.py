import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from maxsup_jax import losses


@pytest.mark.parametrize(
  ('denominator', 'divisor'),
  [('epochs', 90), ('epochs-1', 89), (299, 299), (40, 40)],
)
def test_every_epoch_is_the_nearest_float(denominator, divisor):
  schedule = losses.linear_alpha(
    0.1, 0.2, epochs=90, steps_per_epoch=7, denominator=denominator
  )
  exact = [0.1 + 0.1 * (epoch / divisor) for epoch in range(90)]
  steps = np.arange(90 * 7)
  values = jax.jit(jax.vmap(schedule))(steps)
  assert values.dtype == jnp.float32
  np.testing.assert_allclose(
    values, np.repeat(exact, 7).astype(np.float32), rtol=1e-7
  )


def test_the_ends_of_the_published_schedules():
  def ends(epochs, denominator):
    schedule = losses.linear_alpha(
      epochs=epochs, steps_per_epoch=10, denominator=denominator
    )
    return float(schedule(0)), float(schedule(epochs * 10 - 1))

  first, last = np.float32(0.1), np.float32(0.2)
  assert ends(90, 'epochs') == (first, np.float32(0.1 + 0.1 * 89 / 90))
  assert ends(90, 'epochs-1') == (first, last)
  assert ends(300, 299) == (first, last)
  assert ends(300, 'epochs-1') == ends(300, 299)


@pytest.mark.parametrize('denominator', ['epochs', 'epochs-1', 1, 299])
def test_a_single_epoch_begins_and_ends_at_the_beginning(denominator):
  schedule = losses.linear_alpha(
    0.3, 0.9, epochs=1, steps_per_epoch=5, denominator=denominator
  )
  for step in (0, 4, 5, 100):
    assert schedule(step) == np.float32(0.3)


def test_held_within_the_epoch_and_after_the_last():
  schedule = losses.linear_alpha(0.0, 1.0, epochs=4, steps_per_epoch=3)
  values = [float(schedule(step)) for step in range(15)]
  assert values == [0, 0, 0, 0.25, 0.25, 0.25, 0.5, 0.5, 0.5] + [0.75] * 6
  assert schedule(2**31 - 1) == 0.75
  assert schedule(-1) == 0


def test_a_traced_step_compiles_once():
  schedule = losses.linear_alpha(0.0, 1.0, epochs=4, steps_per_epoch=3)
  traces = 0

  @jax.jit
  def alpha(step):
    nonlocal traces
    traces += 1
    return schedule(step)

  for step in (0, 3, 100):
    assert alpha(jnp.int32(step)) == schedule(step)
  assert traces == 1


@pytest.mark.usefixtures('x64')
def test_double_precision():
  schedule = losses.linear_alpha(0.1, 0.2, epochs=3, steps_per_epoch=1)
  assert schedule(1).dtype == jnp.float64
  np.testing.assert_allclose(schedule(1), 0.1 + 0.1 / 3, rtol=1e-15)


def test_falling_and_constant():
  falling = losses.linear_alpha(1.0, 0.0, epochs=4, steps_per_epoch=1)
  assert [float(falling(step)) for step in range(4)] == [1, 0.75, 0.5, 0.25]
  constant = losses.constant_alpha(0.25)
  assert [float(constant(step)) for step in (0, 1, 10**6)] == [0.25] * 3


def test_a_fractional_step_is_refused():
  with pytest.raises(TypeError, match='step must be an integer, got float32'):
    losses.constant_alpha(0.1)(jnp.float32(1))


@pytest.mark.parametrize(
  ('changes', 'error', 'message'),
  [
    ({'epochs': 0}, ValueError, 'epochs must be at least 1, got 0'),
    ({'epochs': 1.5}, TypeError, 'epochs must be an integer, got 1.5'),
    ({'epochs': True}, TypeError, 'epochs must be an integer, got True'),
    ({'steps_per_epoch': -1}, ValueError, 'steps_per_epoch must be at least 1'),
    ({'denominator': 0}, ValueError, 'denominator must be at least 1, got 0'),
    ({'denominator': 2.0}, TypeError, 'denominator must be an integer'),
    ({'denominator': 'T'}, ValueError, "denominator .* 'epochs-1' .* got 'T'"),
    ({'begin': '0.1'}, TypeError, "begin must be a number, got '0.1'"),
    ({'end': None}, TypeError, 'end must be a number, got None'),
    ({'end': np.nan}, ValueError, 'end must be finite, got nan'),
  ],
)
def test_bad_arguments(changes, error, message):
  arguments = {'epochs': 3, 'steps_per_epoch': 2, **changes}
  with pytest.raises(error, match=message):
    losses.linear_alpha(**arguments)


def test_numpy_numbers_are_numbers():
  schedule = losses.linear_alpha(
    np.float32(0.5),
    np.int64(1),
    epochs=np.int32(2),
    steps_per_epoch=np.int64(1),
  )
  assert schedule(1) == 0.75


# Other shapes


@pytest.mark.parametrize('denominator', ['epochs', 'epochs-1', 3, 9])
def test_cosine_equals_optax(denominator):
  epochs = 6
  divisor = {'epochs': 6, 'epochs-1': 5}.get(denominator, denominator)
  alpha = losses.cosine_alpha(
    0.4, 0.1, epochs=epochs, steps_per_epoch=10, denominator=denominator
  )
  decay = optax.cosine_decay_schedule(0.4, divisor, alpha=0.1 / 0.4)
  for epoch in range(epochs):
    for step in (10 * epoch, 10 * epoch + 9):
      np.testing.assert_allclose(alpha(step), decay(epoch), rtol=1e-5)


def test_cosine_of_one_epoch():
  alpha = losses.cosine_alpha(0.4, 0.1, epochs=1, steps_per_epoch=10)
  np.testing.assert_allclose(alpha(5), 0.4, rtol=1e-6)


def test_piecewise_equals_optax():
  alpha = losses.piecewise_alpha([0.4, 0.1, 0.2], [2, 5], steps_per_epoch=10)
  join = optax.join_schedules(
    [optax.constant_schedule(v) for v in (0.4, 0.1, 0.2)], [20, 50]
  )
  for step in range(80):
    np.testing.assert_allclose(alpha(step), join(step), rtol=1e-6)


def test_piecewise_without_a_boundary_is_constant():
  assert losses.piecewise_alpha([0.25], [], steps_per_epoch=10)(99) == 0.25


@pytest.mark.parametrize(
  ('values', 'boundaries', 'error', 'message'),
  [
    ([0.1], [2], ValueError, 'values must be one more than boundaries, got 1'),
    ([0.1, 0.2, 0.3], [5, 5], ValueError, r'must increase, got \[5, 5\]'),
    ([0.1, 0.2], [0], ValueError, 'boundaries must be at least 1, got 0'),
    ([0.1, 0.2], [1.5], TypeError, 'boundaries must be an integer, got 1.5'),
    ([0.1, '0.2'], [1], TypeError, "values must be a number, got '0.2'"),
  ],
)
def test_bad_pieces(values, boundaries, error, message):
  with pytest.raises(error, match=message):
    losses.piecewise_alpha(values, boundaries, steps_per_epoch=1)


def test_the_range_of_alpha_is_checked_for_every_shape():
  for schedule in (
    losses.cosine_alpha(0.1, -0.1, epochs=2, steps_per_epoch=1),
    losses.piecewise_alpha([0.1, -0.1], [1], steps_per_epoch=1),
  ):
    with pytest.raises(ValueError, match=r'alpha must be in \[0, inf\)'):
      losses.maxsup_objective(schedule)
