import math

import jax
import numpy as np
import pytest

from maxsup_jax.diagnostics import unconstrained


def authors(K, alpha):
  """The setting of the authors' released scripts."""
  return unconstrained.Problem(
    K,
    50_000 // K,
    512,
    objective='ls',
    alpha=alpha,
    lambda_w=1e-3,
    lambda_h=1e-6,
    lambda_b=1e-2,
  )


# The norms for K = 10 and alpha up to 0.1 are constants in the code published
# with the paper; the rest is from the formulas, checked by L-BFGS.
@pytest.mark.parametrize(
  ('K', 'alpha', 'margin', 'weight_norm', 'feature_norm', 'ratio'),
  [
    (10, 0.0, 6.0827, 3.4987, 1.5647, 9.7988),
    (10, 0.05, 4.8613, 3.1278, 1.3988, 9.3488),
    (10, 0.1, 4.2867, 2.9371, 1.3135, 8.8988),
    (100, 0.0, 7.1818, 2.2422, 3.1710, 92.9996),
    (100, 0.4, 4.7313, 1.8199, 2.5737, 53.3996),
  ],
)
def test_golden(K, alpha, margin, weight_norm, feature_norm, ratio):
  best = unconstrained.minimizer(authors(K, alpha))
  got = (best.margin, best.weight_norm, best.feature_norm, K * best.probability)
  expected = (margin, weight_norm, feature_norm, ratio)
  np.testing.assert_allclose(got, expected, atol=5.1e-5)
  norms = np.linalg.norm(best.weights, axis=1)
  np.testing.assert_allclose(norms, best.weight_norm)
  norms = np.linalg.norm(best.class_features, axis=1)
  np.testing.assert_allclose(norms, best.feature_norm)


# From an independent derivation, and L-BFGS.
@pytest.mark.parametrize('objective', ['ls', 'maxsup'])
@pytest.mark.parametrize(
  ('K', 'n', 'alpha', 'lambda_w', 'lambda_h', 'margin', 'value'),
  [
    (4, 3, 0.1, 5e-3, 5e-3 / 3, 3.41224722, 0.40141293),
    (5, 2, 0.0, 4e-3, 1e-3, 5.85665631, 0.07763870),
    (10, 4, 0.2, 1e-3, 2e-4, 3.65995647, 0.89657057),
    (4, 3, 0.0, 5e-3, 2e-3, 5.1905884141, 0.1018582449),
    (4, 3, 0.1, 5e-3, 2e-3, 3.3948903873, 0.4062857099),
  ],
)
def test_golden_values(
  objective, K, n, alpha, lambda_w, lambda_h, margin, value
):
  problem = unconstrained.Problem(
    K,
    n,
    K + 2,
    objective=objective,
    alpha=alpha,
    lambda_w=lambda_w,
    lambda_h=lambda_h,
  )
  best = unconstrained.minimizer(problem)
  assert (best.margin, best.value) == pytest.approx((margin, value), abs=6e-9)
  # As written elsewhere: with q of all other classes together.
  q = (K - 1) * (alpha / K + math.sqrt(lambda_w * lambda_h * n))
  assert best.margin == pytest.approx(math.log((K - 1) * (1 - q) / q))
  weights = lambda_w * np.square(best.weights).sum()
  features = lambda_h * np.square(best.features).sum()
  assert weights == pytest.approx(features)


PROBLEMS = [
  unconstrained.Problem(
    K, n, K - 1 + more, objective=objective, alpha=alpha, lambda_b=lambda_b
  )
  for K, n, more, lambda_b in ((2, 1, 0, 0.1), (3, 4, 0, 0.0), (5, 2, 3, 0.1))
  for objective, alpha in (('ce', 0.0), ('ls', 0.3), ('maxsup', 0.3))
]


@pytest.mark.parametrize('problem', PROBLEMS, ids=str)
def test_it_is_stationary_and_a_simplex(x64, problem):
  best = unconstrained.minimizer(problem, seed=3)
  W, H, b = best.weights, best.features, best.bias

  def value(*parameters):
    return unconstrained.objective_value(problem, *parameters)

  got, gradient = jax.jit(jax.value_and_grad(value, (0, 1, 2)))(W, H, b)
  assert float(got) == pytest.approx(best.value, abs=1e-14)
  for g in gradient:
    np.testing.assert_allclose(g, 0, atol=1e-12)
  K = problem.num_classes
  centring = np.eye(K) - 1 / K
  ratio = math.sqrt(problem.per_class * problem.lambda_h / problem.lambda_w)
  np.testing.assert_allclose(
    W @ W.T, ratio * best.margin * centring, atol=1e-12
  )
  np.testing.assert_allclose(best.class_features, W / ratio, atol=1e-12)
  logits = best.class_features @ W.T
  np.testing.assert_allclose(logits, best.margin * centring, atol=1e-12)
  softmax = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
  expected = np.full((K, K), best.other_probability)
  np.fill_diagonal(expected, best.probability)
  np.testing.assert_allclose(softmax, expected, atol=1e-12)


def test_seeds_rotate():
  problem = unconstrained.Problem(4, 2, 6)
  plain, turned, again = (
    unconstrained.minimizer(problem, seed=s) for s in (None, 1, 1)
  )
  assert np.abs(plain.weights - turned.weights).max() > 0.1
  np.testing.assert_array_equal(turned.weights, again.weights)
  np.testing.assert_array_equal(plain.weights[:, 3:], 0)


@pytest.mark.parametrize('objective', ['ls', 'maxsup'])
def test_the_threshold_of_the_collapse(objective):
  def best(total):
    return unconstrained.minimizer(
      unconstrained.Problem(
        4,
        3,
        6,
        objective=objective,
        alpha=0.25,
        lambda_w=1e-2,
        lambda_h=((total - 0.25) / 4) ** 2 / 3 / 1e-2,
      )
    )

  below, at, above = best(1 - 1e-3), best(1.0), best(1 + 1e-3)
  assert below.margin == pytest.approx(4e-3, rel=1e-2)
  assert np.abs(below.weights).max() > 1e-3
  for collapsed in (at, above):
    assert collapsed.trivial
    assert collapsed.margin == collapsed.weight_norm == 0
    assert collapsed.probability == collapsed.other_probability == 0.25
    assert collapsed.value == math.log(4)
    assert not collapsed.weights.any()
    assert not collapsed.features.any()
  # Continuous in the strength.
  assert below.value == pytest.approx(math.log(4), abs=1e-5)


def test_maxsup_has_the_minimisers_of_ls():
  for alpha in (0.0, 0.1, 0.5, 0.9, 0.99):
    ls, maxsup = (
      unconstrained.minimizer(
        unconstrained.Problem(5, 2, 6, objective=objective, alpha=alpha)
      )
      for objective in ('ls', 'maxsup')
    )
    assert ls.value == maxsup.value
    np.testing.assert_array_equal(ls.weights, maxsup.weights)
    np.testing.assert_array_equal(ls.features, maxsup.features)


def test_weak_regularisation():
  """Without penalties CE has no bound on its margin, and LS has."""

  def margin(objective, alpha, penalty):
    return unconstrained.minimizer(
      unconstrained.Problem(
        10,
        5,
        9,
        objective=objective,
        alpha=alpha,
        lambda_w=penalty,
        lambda_h=penalty,
      )
    ).margin

  limit = math.log(10 / 0.1 - 9)
  assert margin('ls', 0.1, 1e-12) == pytest.approx(limit, abs=1e-8)
  epsilon = 10 * math.sqrt(5) * 1e-12
  assert margin('ce', 0.0, 1e-12) == pytest.approx(math.log(10 / epsilon))
