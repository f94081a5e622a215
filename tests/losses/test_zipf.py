import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from maxsup_jax import losses


@pytest.fixture
def rng():
  return np.random.default_rng(0)


# Ranks


def test_ranks_equal_scipy(rng):
  # Few values, so that most of them tie.
  scores = rng.integers(-3, 4, size=(50, 17)).astype(np.float32)
  expected = scipy.stats.rankdata(-scores, method='min', axis=-1)
  np.testing.assert_array_equal(jax.jit(losses.min_ranks)(scores), expected)
  at_axis_1 = jax.jit(functools.partial(losses.min_ranks, axis=1))
  moved = scores.reshape(5, 10, 17).swapaxes(1, 2)
  np.testing.assert_array_equal(
    at_axis_1(moved), expected.reshape(5, 10, 17).swapaxes(1, 2)
  )


def test_ranks_of_the_classes_that_take_part(rng):
  scores = rng.normal(size=(20, 9)).astype(np.float32)
  where = rng.random((20, 9)) < 0.6
  spoilt = np.where(where, scores, np.nan)
  actual = jax.jit(losses.min_ranks)(spoilt, where=where)
  for row, mask, ranks in zip(scores, where, actual):
    expected = scipy.stats.rankdata(-row[mask], method='min')
    np.testing.assert_array_equal(ranks[mask], expected)


# The distribution


def test_distribution_over_a_mask(rng):
  scores = np.round(rng.normal(size=(8, 7)), 1).astype(np.float32)
  where = np.ones((8, 7), bool)
  where[0, :3] = where[1] = False
  zipf = jax.jit(losses.zipf_distribution)
  for power in (0.0, 1.0, 2.5):
    actual = zipf(scores, power, where=where)
    weights = scipy.stats.rankdata(-scores, method='min', axis=-1) ** -power
    expected = weights / weights.sum(-1, keepdims=True)
    np.testing.assert_allclose(actual[2:], expected[2:], rtol=1e-6)
    np.testing.assert_array_equal(actual[~where], 0)
    np.testing.assert_allclose(actual[0].sum(), 1, rtol=1e-6)


# Votes


def test_votes_equal_torch(rng):
  torch = pytest.importorskip('torch')
  feature_map = rng.normal(size=(4, 7, 7, 6)).astype(np.float32)
  kernel = rng.normal(size=(6, 7)).astype(np.float32)
  bias = rng.normal(size=7).astype(np.float32)
  votes = jax.jit(losses.dense_votes, static_argnames='upsample')
  for upsample, shift in ((1, bias), (2, None)):
    enlarged = torch.nn.functional.interpolate(
      torch.tensor(feature_map).movedim(-1, 1),
      scale_factor=upsample,
      mode='bilinear',
      align_corners=False,
    )
    classes = torch.einsum('bchw,ck->bhwk', enlarged, torch.tensor(kernel))
    classes = classes.numpy() + (0 if shift is None else shift)
    top = classes.argmax(-1).reshape(4, -1)
    expected = [np.bincount(row, minlength=7) for row in top]
    actual = votes(feature_map, kernel, shift, upsample=upsample)
    np.testing.assert_array_equal(actual, expected)
    assert actual.dtype == np.float32


def test_votes_have_no_gradient(rng):
  feature_map = rng.normal(size=(1, 2, 2, 3)).astype(np.float32)
  gradient = jax.grad(
    lambda x: jnp.sum(losses.dense_votes(x, np.eye(3)) * x.sum())
  )(feature_map)
  # Of the factor alone: there are 16 votes.
  np.testing.assert_allclose(gradient, np.full((1, 2, 2, 3), 16))


@pytest.mark.parametrize(
  ('feature_map', 'kernel', 'bias'),
  [
    ((2, 2, 3), (3, 4), (4,)),
    ((1, 2, 2, 3), (4, 3), None),
    ((1, 2, 2, 3), (3, 4), (3,)),
  ],
)
def test_shapes_of_votes(feature_map, kernel, bias):
  message = 'feature_map, kernel and bias have shapes .*; expected'
  with pytest.raises(ValueError, match=message):
    losses.dense_votes(
      np.ones(feature_map), np.ones(kernel), bias and np.ones(bias)
    )
