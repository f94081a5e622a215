import flax.errors
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from maxsup_jax.errors import UsageError
from maxsup_jax.models.drop_path import Dropout, DropPath


def drop(x, *, key=0, axis=None, rate=0.4, train=True):
  rngs = {'drop_path': jax.random.key(key)}
  return DropPath(rate, axis).apply({}, x, train=train, rngs=rngs)


def test_an_example_is_dropped_whole_or_scaled():
  x = jnp.arange(1.0, 64 * 6 + 1).reshape(64, 2, 3)
  ratio = (drop(x) / x).reshape(64, 6)
  np.testing.assert_allclose(ratio, np.repeat(ratio[:, :1], 6, 1), rtol=1e-6)
  kept = ratio[:, 0] > 0
  np.testing.assert_allclose(ratio[kept, 0], 1 / 0.6, rtol=1e-6)
  assert 0 < kept.sum() < 64


@pytest.mark.parametrize('rate', [0.1, 0.5, 0.9])
def test_the_expectation_is_kept(rate):
  y = drop(jnp.ones((20_000, 1)), rate=rate)
  # Five standard errors of the mean.
  tolerance = 5 * (rate / (1 - rate) / 20_000) ** 0.5
  assert y.mean() == pytest.approx(1, abs=tolerance)
  assert (y == 0).mean() == pytest.approx(rate, abs=0.02)


def test_identity_at_evaluation_and_at_rate_zero():
  x = jnp.ones((8, 2))
  np.testing.assert_array_equal(DropPath(0.5).apply({}, x), x)
  np.testing.assert_array_equal(DropPath(0.0).apply({}, x, train=True), x)


def test_needs_a_key():
  with pytest.raises(flax.errors.InvalidRngError):
    DropPath(0.5).apply({}, jnp.ones((8, 2)), train=True)


def test_the_draw_of_an_example_depends_on_its_position_alone():
  x = jnp.ones((32, 1))
  np.testing.assert_array_equal(drop(x[:10]), drop(x)[:10])


def test_draws_differ_by_key_and_by_position():
  x = jnp.ones((64, 1))
  assert (drop(x, key=0) != drop(x, key=1)).any()
  np.testing.assert_array_equal(drop(x, key=1), drop(x, key=1))
  assert len(np.unique(drop(x))) == 2


def test_draws_differ_by_layer():
  class Two(nn.Module):
    @nn.compact
    def __call__(self, x):
      first = DropPath(0.5)(x, train=True)
      return first, DropPath(0.5)(x, train=True)

  a, b = Two().apply(
    {}, jnp.ones((64, 1)), rngs={'drop_path': jax.random.key(0)}
  )
  assert (a != b).any()


@pytest.mark.parametrize('shards', [1, 2, 8])
def test_any_split_of_the_batch_draws_the_same(shards):
  x = jnp.ones((32, 3))
  split = jax.vmap(lambda x: drop(x, axis='devices'), axis_name='devices')
  y = split(x.reshape(shards, -1, 3)).reshape(32, 3)
  np.testing.assert_array_equal(y, drop(x))


def test_without_the_axis_every_shard_draws_alike():
  split = jax.vmap(drop, axis_name='devices')
  y = split(jnp.ones((4, 16, 1)))
  np.testing.assert_array_equal(y[0], y[1])


@pytest.mark.parametrize('dtype', ['float32', 'bfloat16'])
def test_keeps_the_dtype(dtype):
  assert drop(jnp.ones((4, 2), dtype)).dtype == jnp.dtype(dtype)


def test_no_gradient_through_a_dropped_branch():
  x = jnp.ones((32, 1))
  gradient = jax.grad(lambda x: drop(x).sum())(x)
  np.testing.assert_array_equal(gradient, drop(x))


@pytest.mark.parametrize('rate', [-0.1, 1.0, '0.1', True, float('nan')])
def test_bad_rate(rate):
  with pytest.raises(UsageError, match=r'drop_path: expected a number in'):
    DropPath(rate)


def test_bad_axis():
  with pytest.raises(UsageError, match='batch_axis: expected an axis name'):
    DropPath(0.1, batch_axis=0)


# ---- Dropout of elements -----------------------------------------------------


def drop_elements(x, *, key=0, axis=None, rate=0.4, train=True):
  rngs = {'drop_path': jax.random.key(key)}
  return Dropout(rate, axis).apply({}, x, train=train, rngs=rngs)


def test_elements_are_dropped_or_scaled():
  x = jnp.arange(1.0, 64 * 6 + 1).reshape(64, 2, 3)
  ratio = drop_elements(x) / x
  kept = ratio > 0
  np.testing.assert_allclose(ratio[kept], 1 / 0.6, rtol=1e-6)
  # Elements of one example differ, and so do examples.
  assert 0 < kept.mean(0).min() < kept.mean(0).max() < 1
  assert kept.mean((1, 2)).std() > 0


@pytest.mark.parametrize('rate', [0.1, 0.9])
def test_the_expectation_of_elements_is_kept(rate):
  y = drop_elements(jnp.ones((200, 100)), rate=rate)
  tolerance = 5 * (rate / (1 - rate) / 20_000) ** 0.5
  assert y.mean() == pytest.approx(1, abs=tolerance)


def test_elements_stay_at_evaluation_and_at_rate_zero():
  x = jnp.ones((8, 2))
  np.testing.assert_array_equal(Dropout(0.5).apply({}, x), x)
  np.testing.assert_array_equal(Dropout(0.0).apply({}, x, train=True), x)


@pytest.mark.parametrize('shards', [1, 2, 8])
def test_any_split_of_the_batch_draws_the_same_elements(shards):
  x = jnp.ones((32, 3))
  split = jax.vmap(
    lambda x: drop_elements(x, axis='devices'), axis_name='devices'
  )
  y = split(x.reshape(shards, -1, 3)).reshape(32, 3)
  np.testing.assert_array_equal(y, drop_elements(x))
  assert (y[:4] != drop_elements(x, key=1)[:4]).any()


def test_elements_and_branches_draw_apart():
  x = jnp.ones((64, 1))
  assert (drop_elements(x) != drop(x)).any()


@pytest.mark.parametrize('dtype', ['float32', 'bfloat16'])
def test_elements_keep_the_dtype(dtype):
  assert drop_elements(jnp.ones((4, 2), dtype)).dtype == jnp.dtype(dtype)


def test_bad_dropout():
  with pytest.raises(UsageError, match=r'dropout: expected a number in'):
    Dropout(1.0)
  with pytest.raises(UsageError, match='batch_axis: expected an axis name'):
    Dropout(0.1, batch_axis=0)
