import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_array_equal

from maxsup_jax.diagnostics import unconstrained as ufm
from maxsup_jax.diagnostics.neural_collapse import neural_collapse
from maxsup_jax.diagnostics.unconstrained import descent
from maxsup_jax.errors import UsageError

SMALL = ufm.Problem(
  3, 4, 5, objective='ls', alpha=0.2, lambda_w=2e-2, lambda_h=1e-2
)


def reference(problem, steps, learning_rate, seed):
  """The same descent, with the gradients of LS written out."""
  random = np.random.default_rng(seed)
  K, n, D = problem.num_classes, problem.per_class, problem.dim
  W = random.standard_normal((K, D)) / math.sqrt(D)
  H = random.standard_normal((K * n, D)) / math.sqrt(D)
  b = np.zeros(K)
  onehot = np.repeat(np.eye(K), n, axis=0)
  target = (1 - problem.alpha) * onehot + problem.alpha / K
  for _ in range(steps):
    Z = H @ W.T + b
    softmax = np.exp(Z) / np.exp(Z).sum(1, keepdims=True)
    G = (softmax - target) / len(H)
    W, H, b = (
      W - learning_rate * (G.T @ H + problem.lambda_w * W),
      H - learning_rate * (G @ W + problem.lambda_h * H),
      b - learning_rate * (G.sum(0) + problem.lambda_b * b),
    )
  return W, H, b


def nc(W, H):
  result = neural_collapse(H, np.repeat(range(len(W)), len(H) // len(W)), W)
  return {name: getattr(result, name) for name in descent.METRICS}


def test_it_is_gradient_descent(x64):
  record = [1, 7, 40]
  path = ufm.gradient_descent(
    SMALL, steps=40, learning_rate=0.5, seed=2, record=record
  )
  assert_array_equal(path.steps, record)
  objective = jax.jit(descent.regularized, static_argnums=0)
  for i, step in enumerate(path.steps):
    W, H, b = reference(SMALL, step, 0.5, 2)
    means = H.reshape(3, 4, 5).mean(1)
    expected = {
      'value': objective('ls', descent.strengths(SMALL), (W, H, b)),
      'weight_norm': np.linalg.norm(W, axis=1).mean(),
      'feature_norm': np.linalg.norm(means - means.mean(0), axis=1).mean(),
      'error': np.mean((H @ W.T + b).argmax(1) != np.repeat(range(3), 4)),
      **nc(W, H),
    }
    for name, value in expected.items():
      assert getattr(path, name)[i] == pytest.approx(float(value), rel=1e-9)
  assert path.error[0] > 0
  assert path.error.dtype == np.float64
  assert (path.learning_rate, path.seed) == (0.5, 2)
  assert path.scale == pytest.approx(5**-0.5)


def test_collapse_at_a_step_is_that_of_the_measures(x64):
  """Also where the class means span less, or nothing."""
  random = np.random.default_rng(0)
  collapse = jax.jit(descent._collapse)
  W, noise = random.normal(size=(4, 6)), random.normal(size=(12, 6))
  means = random.normal(size=(4, 6))
  noise -= np.repeat(noise.reshape(4, 3, 6).mean(1), 3, 0)
  line, equal = means[:, :1] * means[0], np.full((4, 6), 0.1)
  for centres, spread in ((means, noise), (line, noise), (equal, 0)):
    H = np.repeat(centres, 3, 0) + spread
    for name, value in nc(W, H).items():
      found = float(collapse(W, H)[name])
      assert found == pytest.approx(value, abs=1e-9, nan_ok=True), name


def test_thresholds():
  assert_array_equal(ufm.log_spaced_steps(1000, 5), [0, 1, 10, 100, 1000])
  path = ufm.gradient_descent(SMALL, steps=3)
  path = dataclasses.replace(
    path,
    steps=np.array([0, 5, 10, 20]),
    nc1=np.array([1.0, 0.1, 0.05, 0.2]),
    nc2=np.array([math.nan, 3.0, 2.0, 1.0]),
  )
  assert ufm.steps_to_threshold(path, 'nc1', 0.1) == 10
  assert ufm.steps_to_threshold(path, 'nc2', 2.5) == 10
  assert math.isnan(ufm.steps_to_threshold(path, 'nc1', 0.05))
  assert ufm.metric_at_threshold(path, 'nc2', 'nc1', 0.1) == 2
  assert math.isnan(ufm.metric_at_threshold(path, 'nc2', 'nc1', 0.01))
  with pytest.raises(UsageError, match='expected one of nc1, nc2, nc3'):
    ufm.steps_to_threshold(path, 'loss', 1)


def test_bad_arguments_are_one_line():
  tiny = ufm.Problem(2, 1, 2)
  for function, problem, arguments, message in (
    (ufm.gradient_descent, SMALL, {'steps': 0}, 'steps is 0'),
    (ufm.gradient_descent, SMALL, {'learning_rate': 0.0}, 'learning_rate is 0'),
    (ufm.gradient_descent, SMALL, {'scale': math.nan}, 'scale is nan'),
    (ufm.gradient_descent, SMALL, {'seed': None}, 'seed is None'),
    (ufm.gradient_descent, SMALL, {'record': [2, 2]}, 'is not increasing'),
    (
      ufm.gradient_descent,
      SMALL,
      {'steps': 4, 'record': [0, 5]},
      'record.1. is 5; expected from 0 to 4',
    ),
    (
      ufm.gradient_descent,
      SMALL,
      {'learning_rate': 1e9, 'steps': 200, 'record': [200]},
      'diverged before step',
    ),
    (ufm.solve, tiny, {'tolerance': 0.0}, 'tolerance is 0.0'),
    (ufm.solve, tiny, {'max_steps': 0}, 'max_steps is 0'),
    (ufm.solve, tiny, {'scale': 1e200}, 'diverged; scale is 1e.200'),
    (ufm.solve, tiny, {'seed': -1}, 'seed is -1'),
  ):
    with pytest.raises(UsageError, match=message):
      function(problem, **arguments)


def test_lbfgs_finds_the_closed_form():
  problem = ufm.Problem(
    4, 3, 6, objective='maxsup', alpha=0.1, lambda_w=5e-3, lambda_h=5e-3 / 3
  )
  before = jax.config.jax_enable_x64
  solution = ufm.solve(problem)
  gap = ufm.gap(solution)
  assert solution.converged
  assert solution.weights.dtype == solution.features.dtype == np.float64
  assert abs(gap.value) < 1e-12
  assert max(gap.logits, gap.weights, gap.features, gap.bias) < 1e-5
  # The gap sees what is wrong.
  for name in ('weights', 'features', 'bias'):
    value = getattr(solution, name).copy()
    value.flat[0] += 0.1
    gap = ufm.gap(dataclasses.replace(solution, **{name: value}))
    assert getattr(gap, name) > 1e-2
    assert gap.logits > 1e-2
  # The global precision stays.
  assert jax.config.jax_enable_x64 == before
  assert jnp.ones(()).dtype == jnp.float32
