import jax
import jax.numpy as jnp
import numpy as np
import pytest

from maxsup_jax.diagnostics import unconstrained
from maxsup_jax.errors import UsageError


def largest(gap):
  return max(gap.logits, gap.weights, gap.features, gap.bias)


# As in the closed form's test: three settings of another derivation, and the
# smallest dimension, a bias without penalty, one example a class.
@pytest.mark.parametrize('objective', ['ls', 'maxsup'])
@pytest.mark.parametrize(
  ('K', 'n', 'dim', 'alpha', 'lambda_w', 'lambda_h', 'lambda_b'),
  [
    (4, 3, 6, 0.1, 5e-3, 5e-3 / 3, 1e-3),
    (3, 1, 2, 0.4, 5e-3, 2e-3, 0.0),
    (4, 3, 3, 0.7, 1e-3, 2e-2, 1e-2),
  ],
)
def test_lbfgs_finds_the_closed_form(
  objective, K, n, dim, alpha, lambda_w, lambda_h, lambda_b
):
  problem = unconstrained.Problem(
    K,
    n,
    dim,
    objective=objective,
    alpha=alpha,
    lambda_w=lambda_w,
    lambda_h=lambda_h,
    lambda_b=lambda_b,
  )
  solution = unconstrained.solve(problem)
  gap = unconstrained.gap(solution)
  assert solution.converged
  assert solution.weights.dtype == solution.features.dtype == np.float64
  assert abs(gap.value) < 1e-12
  assert largest(gap) < 1e-5


def near_the_threshold(objective, distance):
  return unconstrained.Problem(
    4,
    3,
    6,
    objective=objective,
    alpha=0.3,
    lambda_w=((0.7 + distance) / 4) ** 2 / 3 / 1e-2,
    lambda_h=1e-2,
  )


@pytest.mark.parametrize('objective', ['ls', 'maxsup'])
def test_the_threshold_of_the_collapse(objective):
  problem = near_the_threshold(objective, -1e-3)
  solution = unconstrained.solve(problem)
  assert abs(unconstrained.gap(solution).value) < 1e-12
  assert largest(unconstrained.gap(solution)) < 1e-5
  assert np.abs(solution.weights).max() > 1e-2
  problem = near_the_threshold(objective, 1e-3)
  solution = unconstrained.solve(problem)
  assert 0 <= unconstrained.gap(solution).value + 1e-14 < 1e-8
  assert np.abs(solution.weights).max() < 2e-3


def test_the_gap_sees_what_is_wrong():
  problem = unconstrained.Problem(3, 2, 4)
  solution = unconstrained.solve(problem)
  for name, member in (
    ('weights', 'weights'),
    ('features', 'features'),
    ('bias', 'bias'),
  ):
    value = getattr(solution, name).copy()
    value.flat[0] += 0.1
    parts = {n: getattr(solution, n) for n in solution.__dataclass_fields__}
    wrong = unconstrained.Solution(**(parts | {name: value}))
    gap = unconstrained.gap(wrong)
    assert getattr(gap, member) > 1e-2
    assert gap.logits > 1e-2


def test_the_global_precision_stays():
  before = jax.config.jax_enable_x64
  problem = unconstrained.Problem(4, 3, 6, objective='ls')
  unconstrained.solve(problem, max_steps=2)
  unconstrained.gradient_descent(problem, steps=2)
  assert jax.config.jax_enable_x64 == before
  assert jnp.ones(()).dtype == jnp.float32


@pytest.mark.parametrize(
  ('arguments', 'message'),
  [
    ({'tolerance': 0.0}, 'tolerance is 0.0'),
    ({'max_steps': 0}, 'max_steps is 0'),
    ({'scale': 0.0}, 'scale is 0.0'),
    ({'scale': 1e200}, 'diverged; scale is 1e.200'),
    ({'seed': -1}, 'seed is -1'),
  ],
)
def test_bad_arguments_are_one_line(arguments, message):
  with pytest.raises(UsageError, match=message):
    unconstrained.solve(unconstrained.Problem(2, 1, 2), **arguments)
