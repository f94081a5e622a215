import jax
import numpy as np
import pytest
from numpy.testing import assert_allclose

from maxsup_jax.diagnostics.representation import (
  CosineVariation,
  cosine_variation,
)
from maxsup_jax.errors import UsageError

K, D = 4, 6


@pytest.fixture(scope='module')
def data():
  rng = np.random.default_rng(0)
  labels = rng.permutation(np.repeat(np.arange(K), [3, 20, 9, 8]))
  features = rng.normal(size=(K, D))[labels] + rng.normal(size=(40, D))
  return (10 * features).astype(np.float32), labels


def double_sum(features, labels, K):
  """The definition: every pair of examples, with loops over the classes."""
  norms = np.linalg.norm(features, axis=1)
  distance = 1 - features @ features.T / np.outer(norms, norms)
  means = np.array(
    [
      [distance[labels == j][:, labels == k].mean() for k in range(K)]
      for j in range(K)
    ]
  )
  return np.diag(means), means.mean()


@pytest.mark.parametrize('balanced', [True, False])
def test_equals_the_double_sum(data, balanced):
  features, labels = data
  if balanced:
    labels = np.arange(40) % K
  within_K, total = double_sum(features.astype(np.float64), labels, K)
  result = cosine_variation(features, labels)
  assert_allclose(result.within_per_class, within_K, atol=1e-12)
  assert result.within == pytest.approx(within_K.mean(), abs=1e-12)
  assert result.total == pytest.approx(total, abs=1e-12)
  assert result.r_squared == pytest.approx(1 - within_K.mean() / total)


def test_the_length_of_a_feature_does_not_matter(data):
  features, labels = data
  scale = np.float32(10) ** np.random.default_rng(1).uniform(-30, 20, (40, 1))
  scaled = cosine_variation((features * scale).astype(np.float32), labels)
  plain = cosine_variation(features, labels)
  assert scaled.within == pytest.approx(plain.within, rel=1e-5)
  variation = CosineVariation.init(K, D)
  variation = variation.update((features * scale).astype(np.float32), labels)
  assert variation.compute().total == pytest.approx(plain.total, rel=1e-5)


def test_padding_and_devices(data):
  features, labels = data
  h = features.reshape(4, 10, D).copy()
  y = labels.reshape(4, 10).copy()
  real = np.ones((4, 10), bool)
  real[3, 7:] = False
  h[3, 7:] = [[np.nan], [0.0], [np.inf]]
  y[3, 7:] = -1
  expected = cosine_variation(features[:37], labels[:37])

  def step(state, h, y, w):
    sums = CosineVariation.batch_sums(h, y, w, K)
    return state.add(jax.lax.psum(sums, 'devices'))

  mapped = jax.pmap(step, 'devices', in_axes=(None, 0, 0, 0))
  states = mapped(CosineVariation.init(K, D), h, y, real)
  state = jax.tree.map(lambda a: a[1], states)
  assert state.compute().within == pytest.approx(expected.within, abs=3e-7)


def test_one_direction_has_no_separation():
  rng = np.random.default_rng(0)
  labels = np.arange(30) % 3
  for _ in range(5):
    features = rng.gamma(2.0, size=(30, 1)) * rng.normal(size=50)
    result = cosine_variation(features, labels)
    assert result.total == pytest.approx(0, abs=1e-12)
    assert np.isnan(result.r_squared)
    state = CosineVariation.init(3, 50).update(features, labels)
    assert state.compute().total == pytest.approx(0, abs=1e-6)
    assert np.isnan(state.compute().r_squared)


def test_features_of_zero_are_left_out_and_counted(data):
  features, labels = data
  kept = np.ones(40, bool)
  kept[[5, 7]] = False
  for whole_class in (False, True):
    if whole_class:
      kept &= labels != 3
    zeroed = np.where(kept[:, None], features, 0)
    expected = cosine_variation(features[kept], labels[kept])
    state = CosineVariation.init(K, D).update(zeroed, labels)
    for got, atol in (
      (cosine_variation(zeroed, labels), 1e-12),
      (state.compute(), 3e-7),
    ):
      assert got.zeros == (~kept).sum()
      assert got.counts.sum() == kept.sum()
      assert np.isnan(got.within_per_class[3]) == whole_class
      assert got.r_squared == pytest.approx(expected.r_squared, abs=10 * atol)
      assert got.within == pytest.approx(expected.within, abs=atol)


def test_bad_input_is_one_line(data):
  features, labels = data
  bad, empty = features.copy(), CosineVariation.init(K, D)
  zero = np.zeros_like(features)
  bad[labels == 1, 0] = np.nan
  for call, message in (
    (lambda: cosine_variation(zero, labels), 'the features are all 0, so'),
    (empty.update(zero, labels).compute, 'the features are all 0, so none'),
    (lambda: cosine_variation(features, labels, 5), 'class 4 has no examples'),
    (empty.compute, 'there are no examples'),
    (lambda: cosine_variation(features, labels[1:]), 'features 40, labels 39'),
    (empty.update(bad, labels).compute, 'features of class 1 are not all fin'),
  ):
    with pytest.raises(UsageError, match=message):
      call()
