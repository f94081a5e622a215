import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from maxsup_jax import losses
from tests.losses import reference


@pytest.fixture
def rng():
  return np.random.default_rng(0)


# Ranks


def test_ranks_equal_scipy(rng):
  # Few values, so that most of them tie.
  scores = rng.integers(-3, 4, size=(50, 17)).astype(np.float32)
  expected = scipy.stats.rankdata(-scores, method='min', axis=-1)
  np.testing.assert_array_equal(jax.jit(losses.min_ranks)(scores), expected)
  np.testing.assert_array_equal(losses.min_ranks(scores.T, axis=0), expected.T)
  np.testing.assert_array_equal(
    losses.min_ranks(scores.reshape(5, 10, 17)), expected.reshape(5, 10, 17)
  )


def test_zeros_of_both_signs_tie():
  scores = np.array([-0.0, 1.0, 0.0, -0.0], np.float32)
  np.testing.assert_array_equal(losses.min_ranks(scores), [2, 1, 2, 2])


def test_infinite_scores():
  scores = np.array([-np.inf, 1.0, np.inf, -np.inf], np.float32)
  np.testing.assert_array_equal(losses.min_ranks(scores), [3, 2, 1, 3])


def test_ranks_of_the_classes_that_take_part(rng):
  scores = rng.normal(size=(20, 9)).astype(np.float32)
  where = rng.random((20, 9)) < 0.6
  actual = losses.min_ranks(np.where(where, scores, np.nan), where=where)
  for row, mask, ranks in zip(scores, where, actual):
    expected = scipy.stats.rankdata(-row[mask], method='min')
    np.testing.assert_array_equal(ranks[mask], expected)


def test_ranks_have_no_gradient(rng):
  scores = rng.normal(size=9).astype(np.float32)

  def weighted(scores):
    return jnp.sum(scores * losses.min_ranks(scores))

  gradient = jax.grad(weighted)(scores)
  np.testing.assert_array_equal(gradient, losses.min_ranks(scores))


# The distribution


@pytest.mark.parametrize('power', [0.0, 1.0, 2.5])
def test_distribution(rng, power):
  scores = np.round(rng.normal(size=(8, 7)), 1).astype(np.float32)
  weights = scipy.stats.rankdata(-scores, method='min', axis=-1) ** -power
  np.testing.assert_allclose(
    losses.zipf_distribution(scores, power),
    weights / weights.sum(-1, keepdims=True),
    rtol=1e-6,
  )


def test_distribution_over_a_mask(rng):
  scores = rng.normal(size=(4, 5)).astype(np.float32)
  where = np.ones((4, 5), bool)
  where[0, :3] = where[1] = False
  actual = losses.zipf_distribution(scores, where=where)
  np.testing.assert_array_equal(actual[~where], 0)
  np.testing.assert_allclose(actual[0, 3:].sum(), 1, rtol=1e-6)
  np.testing.assert_allclose(
    actual[2:], losses.zipf_distribution(scores[2:]), rtol=1e-6
  )


def test_as_a_prior_it_smooths_by_ranks(golden):
  zipf = losses.zipf_distribution(golden.logits)
  actual = losses.prior_smoothing_cross_entropy(
    golden.logits, golden.labels, zipf, 0.3
  )
  for z, label, value in zip(golden.logits, golden.labels, actual):
    law = 1 / np.array(reference.ranks(z))
    target = 0.7 * np.eye(4)[label] + 0.3 * law / law.sum()
    expected = reference.target_cross_entropy(z, target)
    np.testing.assert_allclose(value, expected, rtol=1e-13)


# The penalty


def test_the_logit_of_the_label_has_no_gradient(golden):
  gradient = jax.grad(lambda z: jnp.sum(losses.zipf_penalty(z, golden.labels)))(
    golden.logits
  )
  label = np.eye(4, dtype=bool)[golden.labels]
  np.testing.assert_array_equal(gradient[label], 0)
  assert (gradient[~label] != 0).all()


def test_it_is_zero_where_the_other_classes_follow_the_law():
  ranks = np.array([1, 2, 3, 4], np.float32)
  # The label is first, and the others have what is left by the same law.
  logits = -np.log(ranks)
  np.testing.assert_allclose(losses.zipf_penalty(logits, 0), 0, atol=1e-6)
  assert losses.zipf_penalty(2 * logits, 0) > 0.01


def test_one_class_has_no_others():
  value, gradient = jax.value_and_grad(losses.zipf_penalty)(jnp.ones(1), 0)
  assert value == gradient == 0


def test_correct_examples_only(golden):
  correct = golden.logits.argmax(-1) == golden.labels
  penalty = losses.zipf_penalty(golden.logits, golden.labels)
  assert 0 < correct.sum() < len(correct)
  np.testing.assert_allclose(
    losses.weighted_mean(penalty, where=correct), penalty[correct].mean()
  )


# Votes


def test_votes_equal_a_loop(rng):
  feature_map = rng.normal(size=(3, 4, 5, 6)).astype(np.float32)
  kernel = rng.normal(size=(6, 7)).astype(np.float32)
  bias = rng.normal(size=7).astype(np.float32)
  votes = losses.dense_votes(feature_map, kernel, bias, upsample=1)
  expected = np.zeros((3, 7))
  for b, h, w in np.ndindex(3, 4, 5):
    expected[b, np.argmax(feature_map[b, h, w] @ kernel + bias)] += 1
  np.testing.assert_array_equal(votes, expected)
  assert votes.dtype == np.float32


def test_votes_equal_torch(rng):
  torch = pytest.importorskip('torch')
  feature_map = rng.normal(size=(4, 7, 7, 6)).astype(np.float32)
  kernel = rng.normal(size=(6, 7)).astype(np.float32)
  enlarged = torch.nn.functional.interpolate(
    torch.tensor(feature_map).movedim(-1, 1),
    scale_factor=2,
    mode='bilinear',
    align_corners=False,
  )
  classes = torch.einsum('bchw,ck->bhwk', enlarged, torch.tensor(kernel))
  top = classes.argmax(-1).reshape(4, -1).numpy()
  expected = [np.bincount(row, minlength=7) for row in top]
  votes = jax.jit(losses.dense_votes)(feature_map, kernel)
  np.testing.assert_array_equal(votes, expected)
  np.testing.assert_array_equal(votes.sum(-1), 14 * 14)


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
  message = 'feature_map, kernel and bias must have shapes'
  with pytest.raises(ValueError, match=message):
    losses.dense_votes(
      np.ones(feature_map), np.ones(kernel), bias and np.ones(bias)
    )


@pytest.mark.parametrize(
  ('votes', 'error', 'message'),
  [
    (np.ones((2, 3)), ValueError, r'votes must have shape \(3, 4\) like the l'),
    (np.ones((3, 4), int), TypeError, 'votes must be floating point, got int'),
  ],
)
def test_bad_votes(golden, votes, error, message):
  with pytest.raises(error, match=message):
    losses.zipf_cross_entropy(golden.logits, golden.labels, votes=votes)


def test_distributions_are_refused(golden):
  for function in (losses.zipf_penalty, losses.zipf_cross_entropy):
    with pytest.raises(ValueError, match=r'labels must be .*: Zipf'):
      function(golden.logits, golden.mixed)
