import jax
import numpy as np
import pytest

from maxsup_jax import losses
from maxsup_jax.diagnostics import unconstrained
from maxsup_jax.errors import UsageError

LOSSES = {
  'ce': lambda z, y, alpha: losses.cross_entropy(z, y),
  'ls': losses.label_smoothing_cross_entropy,
  'maxsup': losses.maxsup_cross_entropy,
}


@pytest.mark.parametrize(
  ('objective', 'alpha'), [('ce', 0.0), ('ls', 0.3), ('maxsup', 0.3)]
)
def test_the_objective_is_that_of_the_losses(x64, objective, alpha):
  problem = unconstrained.Problem(
    4,
    3,
    5,
    objective=objective,
    alpha=alpha,
    lambda_w=0.2,
    lambda_h=0.03,
    lambda_b=0.5,
  )
  random = np.random.default_rng(0)
  W, H, b = (random.normal(size=s) for s in ((4, 5), (12, 5), 4))
  labels = np.repeat(np.arange(4), 3)

  def expected(W, H, b):
    loss = LOSSES[objective](H @ W.T + b, labels, alpha).mean()
    return (
      loss + 0.1 * (W**2).sum() + 0.015 * (H**2).sum() + 0.25 * (b**2).sum()
    )

  def value(*parameters):
    return unconstrained.objective_value(problem, *parameters)

  got, gradient = jax.jit(jax.value_and_grad(value, (0, 1, 2)))(W, H, b)
  reference, slope = jax.jit(jax.value_and_grad(expected, (0, 1, 2)))(W, H, b)
  assert got.dtype == np.float64
  np.testing.assert_allclose(got, reference, rtol=1e-14)
  for a, b in zip(gradient, slope):
    np.testing.assert_allclose(a, b, atol=1e-15)


@pytest.mark.parametrize(
  ('changes', 'message'),
  [
    ({'num_classes': 1}, 'num_classes is 1; expected an integer, at least 2'),
    ({'per_class': 0}, 'per_class is 0'),
    ({'dim': 2}, 'dim is 2; expected an integer, at least 3'),
    ({'objective': 'mse'}, "objective is 'mse'; expected one of ce, ls, max"),
    ({'alpha': 0.1}, 'alpha is 0.1; the objective ce has none'),
    ({'objective': 'ls', 'alpha': 1.01}, 'alpha is 1.01; expected from 0 to 1'),
    ({'lambda_w': 0.0}, 'lambda_w is 0.0; expected from 1e-100 to 1e'),
    ({'lambda_h': None}, 'lambda_h is None'),
    ({'lambda_b': -1.0}, 'lambda_b is -1.0; expected from 0 to 1e'),
  ],
)
def test_a_bad_problem_is_one_line(changes, message):
  settings = {'num_classes': 4, 'per_class': 3, 'dim': 6} | changes
  with pytest.raises(UsageError, match=message) as e:
    unconstrained.Problem(**settings)
  assert '\n' not in str(e.value)


def test_what_is_at_the_bounds_is_taken():
  unconstrained.Problem(4, 3, 3, objective='ls', alpha=1.0, lambda_b=0.0)
  unconstrained.Problem(2, 1, 1, objective='maxsup', alpha=5.0)


@pytest.mark.parametrize('size', [1e-100, 1e100])
def test_the_smallest_and_largest_penalties(size):
  for other in (1e-100, 1e100):
    problem = unconstrained.Problem(4, 3, 6, lambda_w=size, lambda_h=other)
    best = unconstrained.minimizer(problem)
    assert np.isfinite([best.value, best.weight_norm, best.feature_norm]).all()
    assert best.trivial == (size * other >= 1)


def test_shapes_are_checked():
  problem = unconstrained.Problem(3, 2, 4)
  with pytest.raises(UsageError, match=r'features has the shape \(2, 4\)'):
    unconstrained.objective_value(
      problem, np.zeros((3, 4)), np.zeros((2, 4)), np.zeros(3)
    )
