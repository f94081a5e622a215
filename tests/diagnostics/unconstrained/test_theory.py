"""The closed forms, against the losses, JAX's derivatives and the authors."""

import dataclasses
import math

import jax
import numpy as np
import pytest
from numpy.testing import assert_allclose

from maxsup_jax import losses
from maxsup_jax.diagnostics import unconstrained as ufm
from maxsup_jax.diagnostics.unconstrained.theory import regularized, strengths
from maxsup_jax.errors import UsageError


def make(K, n, D, objective, alpha, lambda_w, lambda_h, lambda_b=1e-3):
  names = {'lambda_w': lambda_w, 'lambda_h': lambda_h, 'lambda_b': lambda_b}
  return ufm.Problem(K, n, D, objective=objective, alpha=alpha, **names)


LOSSES = {
  'ce': lambda z, y, alpha: losses.cross_entropy(z, y),
  'ls': losses.label_smoothing_cross_entropy,
  'maxsup': losses.maxsup_cross_entropy,
}


@pytest.mark.parametrize(
  ('objective', 'alpha'), [('ce', 0.0), ('ls', 0.3), ('maxsup', 0.3)]
)
def test_the_objective_is_that_of_the_losses(x64, objective, alpha):
  problem = make(4, 3, 5, objective, alpha, 0.2, 0.03, 0.5)
  random = np.random.default_rng(0)
  W, H, b = (random.normal(size=s) for s in ((4, 5), (12, 5), 4))
  labels = np.repeat(np.arange(4), 3)

  def expected(W, H, b):
    loss = LOSSES[objective](H @ W.T + b, labels, alpha).mean()
    return (
      loss + 0.1 * (W**2).sum() + 0.015 * (H**2).sum() + 0.25 * (b**2).sum()
    )

  def value(*parameters):
    return regularized(problem.objective, strengths(problem), parameters)

  got, gradient = jax.jit(jax.value_and_grad(value, (0, 1, 2)))(W, H, b)
  reference, slope = jax.jit(jax.value_and_grad(expected, (0, 1, 2)))(W, H, b)
  assert got.dtype == np.float64
  assert_allclose(got, reference, rtol=1e-14)
  for a, b in zip(gradient, slope):
    assert_allclose(a, b, atol=1e-15)


def test_a_bad_problem_is_one_line():
  for changes, message in (
    ({'num_classes': 1}, 'num_classes is 1; expected an integer, from 2 to'),
    ({'per_class': 0}, 'per_class is 0'),
    ({'dim': 2}, 'dim is 2; expected an integer, from 3 to'),
    ({'objective': 'mse'}, "objective is 'mse'; expected one of ce, ls, max"),
    ({'alpha': 0.1}, 'alpha is 0.1; expected 0, as'),
    ({'objective': 'ls', 'alpha': 1.01}, 'alpha is 1.01; expected from 0 to 1'),
    ({'lambda_w': 0.0}, 'lambda_w is 0.0; expected from 1e-100 to 1e'),
    ({'lambda_h': None}, 'lambda_h is None'),
    ({'lambda_b': -1.0}, 'lambda_b is -1.0; expected from 0 to 1e'),
  ):
    settings = {'num_classes': 4, 'per_class': 3, 'dim': 6} | changes
    with pytest.raises(UsageError, match=message):
      ufm.Problem(**settings)
  trivial = ufm.Problem(4, 3, 6, objective='maxsup', alpha=1.0)
  for function in (ufm.hessian_spectrum, ufm.condition_numbers):
    with pytest.raises(UsageError, match='minimiser is W = H = 0'):
      function(trivial)


def authors(K, alpha):
  """The setting of the authors' released scripts."""
  return make(K, 50_000 // K, 512, 'ls', alpha, 1e-3, 1e-6, 1e-2)


# The norms for K = 10 and alpha up to 0.1 are constants in the code published
# with the paper; the rest is from the formulas, checked by L-BFGS.
def test_golden_norms():
  for K, alpha, *expected in (
    (10, 0.0, 6.0827, 3.4987, 1.5647, 9.7988),
    (10, 0.05, 4.8613, 3.1278, 1.3988, 9.3488),
    (10, 0.1, 4.2867, 2.9371, 1.3135, 8.8988),
    (100, 0.4, 4.7313, 1.8199, 2.5737, 53.3996),
  ):
    best = ufm.minimizer(authors(K, alpha))
    norms = best.weight_norm, best.feature_norm
    got = (best.margin, *norms, K * best.probability)
    assert_allclose(got, expected, atol=5.1e-5)
    for rows, norm in zip((best.weights, best.class_features), norms):
      assert_allclose(np.linalg.norm(rows, axis=1), norm)


# From an independent derivation, and L-BFGS.
def test_golden_margins():
  for K, n, alpha, lambda_w, lambda_h, *expected in (
    (4, 3, 0.1, 5e-3, 5e-3 / 3, 3.41224722, 0.40141293),
    (5, 2, 0.0, 4e-3, 1e-3, 5.85665631, 0.07763870),
    (10, 4, 0.2, 1e-3, 2e-4, 3.65995647, 0.89657057),
  ):
    for objective in ('ls', 'maxsup'):
      problem = make(K, n, K + 2, objective, alpha, lambda_w, lambda_h)
      best = ufm.minimizer(problem)
      assert (best.margin, best.value) == pytest.approx(expected, abs=6e-9)


PROBLEMS = [
  ufm.Problem(2, 1, 1, lambda_w=5e-3, lambda_h=2e-3),
  ufm.Problem(3, 2, 4, objective='maxsup', alpha=0.1, lambda_b=0.0),
  ufm.Problem(4, 3, 6, lambda_w=5e-3, lambda_h=2e-3, lambda_b=1e-2),
  ufm.Problem(5, 2, 6, objective='ls', alpha=0.1, lambda_w=3e-2),
]


@pytest.mark.parametrize('problem', PROBLEMS, ids=str)
def test_it_is_stationary_and_a_simplex(x64, problem):
  best = ufm.minimizer(problem)
  W, H, b = best.weights, best.features, best.bias

  def value(*parameters):
    return regularized(problem.objective, strengths(problem), parameters)

  got, gradient = jax.jit(jax.value_and_grad(value, (0, 1, 2)))(W, H, b)
  assert float(got) == pytest.approx(best.value, abs=1e-14)
  for g in gradient:
    assert_allclose(g, 0, atol=1e-12)
  K = problem.num_classes
  centring = np.eye(K) - 1 / K
  ratio = math.sqrt(problem.per_class * problem.lambda_h / problem.lambda_w)
  assert_allclose(W @ W.T, ratio * best.margin * centring, atol=1e-12)
  assert_allclose(best.class_features, W / ratio, atol=1e-12)
  logits = best.class_features @ W.T
  assert_allclose(logits, best.margin * centring, atol=1e-12)
  softmax = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
  expected = np.full((K, K), best.other_probability)
  np.fill_diagonal(expected, best.probability)
  assert_allclose(softmax, expected, atol=1e-12)


@pytest.mark.parametrize('objective', ['ls', 'maxsup'])
def test_the_threshold_of_the_collapse(objective):
  def best(total):
    lambda_h = ((total - 0.25) / 4) ** 2 / 3 / 1e-2
    return ufm.minimizer(make(4, 3, 6, objective, 0.25, 1e-2, lambda_h))

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


def listed(eigenvalues):
  return np.sort(
    np.concatenate([np.full(e.multiplicity, e.value) for e in eigenvalues])
  )


@pytest.mark.parametrize('problem', PROBLEMS, ids=str)
def test_the_spectrum_is_that_of_automatic_differentiation(x64, problem):
  K, D = problem.num_classes, problem.dim
  best = ufm.minimizer(problem)
  split = K * D

  def value(flat):
    parameters = (
      flat[:split].reshape(K, D),
      flat[split:-K].reshape(-1, D),
      flat[-K:],
    )
    return regularized(problem.objective, strengths(problem), parameters)

  parts = best.weights, best.features, best.bias
  flat = np.concatenate([p.ravel() for p in parts])
  hessian = np.asarray(jax.jit(jax.hessian(value))(flat))
  spectrum = ufm.hessian_spectrum(problem)
  for got, block in (
    (spectrum.weights, hessian[:split, :split]),
    (spectrum.features, hessian[split:-K, split:-K]),
    (spectrum.joint, hessian),
  ):
    assert all(e.multiplicity > 0 for e in got)
    assert_allclose(listed(got), np.linalg.eigvalsh(block), rtol=0, atol=1e-12)


def measured_by_others(alpha, penalty):
  return make(10, 5000, 512, 'ls', alpha, penalty, penalty, penalty)


def test_golden_condition_numbers():
  for penalty, alpha, joint, block, curved in (
    (1e-5, 0.0, 149, 8.2, 4.8),
    (1e-5, 0.1, 2087, 61.7, 8.0),
    (5e-4, 0.0, 201, None, None),
    (5e-4, 0.1, 217, None, None),
  ):
    kappa = ufm.condition_numbers(measured_by_others(alpha, penalty))
    assert kappa.joint == pytest.approx(joint, abs=0.51)
    if block:
      found = kappa.block, kappa.curved
      assert found == pytest.approx((block, curved), abs=0.051)


@pytest.mark.parametrize('objective', ['ls', 'maxsup'])
def test_the_condition_of_the_data_falls_by_a_line(objective):
  alphas = np.linspace(0, 0.9, 7)
  kappa = [
    ufm.condition_numbers(
      dataclasses.replace(measured_by_others(a, 1e-5), objective=objective)
    ).data
    for a in alphas
  ]
  assert_allclose(np.diff(kappa) / np.diff(alphas), -9)
  epsilon = measured_by_others(0, 1e-5).epsilon
  assert kappa[0] == pytest.approx(10 - 9 * epsilon)


def test_two_classes_have_one_curvature():
  kappa = ufm.condition_numbers(ufm.Problem(2, 3, 4, objective='ls', alpha=0.2))
  assert kappa.data == kappa.curved == 1
  assert kappa.block > 1
