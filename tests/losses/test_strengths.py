import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from maxsup_jax import losses
from maxsup_jax.errors import UsageError


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


def test_held_within_the_epoch_and_after_the_last():
  schedule = losses.linear_alpha(0.0, 1.0, epochs=4, steps_per_epoch=3)
  values = [float(schedule(step)) for step in range(15)]
  assert values == [0, 0, 0, 0.25, 0.25, 0.25, 0.5, 0.5, 0.5] + [0.75] * 6
  assert schedule(2**31 - 1) == 0.75
  assert schedule(-1) == 0
  falling = losses.linear_alpha(1.0, 0.0, epochs=4, steps_per_epoch=1)
  assert [float(falling(step)) for step in range(4)] == [1, 0.75, 0.5, 0.25]
  assert losses.constant_alpha(0.25)(10**6) == 0.25
  for denominator in ('epochs', 'epochs-1', 299):
    single = losses.linear_alpha(
      0.3, 0.9, epochs=1, steps_per_epoch=5, denominator=denominator
    )
    assert [single(step) for step in (0, 5)] == [np.float32(0.3)] * 2


@pytest.mark.usefixtures('x64')
def test_double_precision():
  schedule = losses.linear_alpha(0.1, 0.2, epochs=3, steps_per_epoch=1)
  assert schedule(1).dtype == jnp.float64
  np.testing.assert_allclose(schedule(1), 0.1 + 0.1 / 3, rtol=1e-15)


def test_a_fractional_step_is_refused():
  with pytest.raises(TypeError, match='step is float32; expected an integer'):
    losses.constant_alpha(0.1)(jnp.float32(1))


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


def test_piecewise_equals_optax():
  alpha = losses.piecewise_alpha([0.4, 0.1, 0.2], [2, 5], steps_per_epoch=10)
  join = optax.join_schedules(
    [optax.constant_schedule(v) for v in (0.4, 0.1, 0.2)], [20, 50]
  )
  for step in range(80):
    np.testing.assert_allclose(alpha(step), join(step), rtol=1e-6)


def test_what_is_refused():
  for changes, message in (
    ({'epochs': 0}, 'epochs is 0; expected'),
    ({'epochs': 1.5}, 'epochs is 1.5; expected an integer'),
    ({'steps_per_epoch': -1}, 'steps_per_epoch is -1'),
    ({'denominator': 0}, "denominator is 0; expected 'epochs', 'epochs-1' or"),
    ({'denominator': 'T'}, "denominator is 'T'"),
    ({'begin': '0.1'}, "begin is '0.1'; expected a finite number"),
    ({'end': np.nan}, 'end is nan'),
  ):
    arguments = {'epochs': 3, 'steps_per_epoch': 2, **changes}
    for make in (losses.linear_alpha, losses.cosine_alpha):
      with pytest.raises(UsageError, match=message):
        make(**arguments)
  for values, boundaries, message in (
    ([0.1], [2], 'there are 1 values; expected one more'),
    ([0.1, 0.2, 0.3], [5, 5], r'boundaries are \[5, 5\]; expected increasing'),
    ([0.1, 0.2], [0], 'boundaries is 0; expected an integer'),
    ([0.1, '0.2'], [1], "values is '0.2'; expected"),
  ):
    with pytest.raises(UsageError, match=message):
      losses.piecewise_alpha(values, boundaries, steps_per_epoch=1)
