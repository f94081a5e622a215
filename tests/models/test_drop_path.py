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


@pytest.mark.parametrize('dtype', ['float32', 'bfloat16'])
def test_the_expectation_is_kept(dtype):
  rate = 0.1
  x = jnp.ones((20_000, 1), dtype)
  for y in (drop(x, rate=rate), drop_elements(x, rate=rate)):
    assert y.dtype == x.dtype
    # Five standard errors of the mean, and the rounding of 1 / 0.9.
    tolerance = 5 * (rate / (1 - rate) / 20_000) ** 0.5 + 3e-3
    assert y.astype('float32').mean() == pytest.approx(1, abs=tolerance)
  for layer in (DropPath, Dropout):
    np.testing.assert_array_equal(layer(0.5).apply({}, x), x)
    np.testing.assert_array_equal(layer(0.0).apply({}, x, train=True), x)


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


@pytest.mark.parametrize('shards', [2, 8])
def test_any_split_of_the_batch_draws_the_same(shards):
  x = jnp.ones((32, 3))
  split = jax.vmap(lambda x: drop(x, axis='devices'), axis_name='devices')
  y = split(x.reshape(shards, -1, 3)).reshape(32, 3)
  np.testing.assert_array_equal(y, drop(x))


def test_without_the_axis_every_shard_draws_alike():
  split = jax.vmap(drop, axis_name='devices')
  y = split(jnp.ones((4, 16, 1)))
  np.testing.assert_array_equal(y[0], y[1])


def test_no_gradient_through_a_dropped_branch():
  x = jnp.ones((32, 1))
  gradient = jax.grad(lambda x: drop(x).sum())(x)
  np.testing.assert_array_equal(gradient, drop(x))


# ---- Dropout of elements -----------------------------------------------------


def drop_elements(x, *, key=0, axis=None, rate=0.4, train=True):
  rngs = {'drop_path': jax.random.key(key)}
  return Dropout(rate, axis).apply({}, x, train=train, rngs=rngs)


@pytest.mark.parametrize('shards', [2, 8])
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


def test_bad_fields():
  for layer in (DropPath, Dropout):
    for rate in (-0.1, 1.0, '0.1', True, float('nan')):
      with pytest.raises(UsageError, match='expected at least 0 and below 1'):
        layer(rate)
    with pytest.raises(UsageError, match='batch_axis is 0; expected the name'):
      layer(0.1, batch_axis=0)
