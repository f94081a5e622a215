import jax
import numpy as np
import pytest

from maxsup_jax.diagnostics import unconstrained
from maxsup_jax.errors import UsageError


def listed(eigenvalues):
  return np.sort(
    np.concatenate([np.full(e.multiplicity, e.value) for e in eigenvalues])
  )


@pytest.mark.parametrize(
  'problem',
  [
    unconstrained.Problem(2, 1, 1, lambda_w=5e-3, lambda_h=2e-3),
    unconstrained.Problem(3, 2, 4, objective='maxsup', alpha=0.1, lambda_b=0.0),
    unconstrained.Problem(4, 3, 6, lambda_w=5e-3, lambda_h=2e-3, lambda_b=1e-2),
    unconstrained.Problem(5, 2, 6, objective='ls', alpha=0.1, lambda_w=3e-2),
  ],
  ids=str,
)
def test_it_is_that_of_automatic_differentiation(x64, problem):
  K, D = problem.num_classes, problem.dim
  best = unconstrained.minimizer(problem, seed=0)
  split = K * D

  def value(flat):
    return unconstrained.objective_value(
      problem,
      flat[:split].reshape(K, D),
      flat[split:-K].reshape(-1, D),
      flat[-K:],
    )

  parts = best.weights, best.features, best.bias
  flat = np.concatenate([p.ravel() for p in parts])
  hessian = np.asarray(jax.jit(jax.hessian(value))(flat))
  spectrum = unconstrained.hessian_spectrum(problem)
  for got, block in (
    (spectrum.weights, hessian[:split, :split]),
    (spectrum.features, hessian[split:-K, split:-K]),
    (spectrum.joint, hessian),
  ):
    assert all(e.multiplicity > 0 for e in got)
    np.testing.assert_allclose(
      listed(got), np.linalg.eigvalsh(block), rtol=0, atol=1e-12
    )


def golden(alpha):
  return unconstrained.Problem(
    4,
    3,
    6,
    objective='ls',
    alpha=alpha,
    lambda_w=5e-3,
    lambda_h=2e-3,
    lambda_b=1e-2,
  )


def merged(eigenvalues):
  """Value to multiplicity, equal values together, the largest first."""
  values, counts = np.unique(listed(eigenvalues).round(12), return_counts=True)
  return dict(zip(values[::-1].tolist(), counts[::-1].tolist()))


def test_golden():
  spectrum = unconstrained.hessian_spectrum(golden(0.0))
  W, H, joint = (
    merged(s) for s in (spectrum.weights, spectrum.features, spectrum.joint)
  )
  assert list(W.values()) == [1, 3, 5, 15]
  np.testing.assert_allclose(
    list(W), [0.030526492, 0.024180406, 0.011488236, 0.005], atol=6e-10
  )
  assert list(H.values()) == [12, 24, 36]
  np.testing.assert_allclose(
    list(H), [0.012210597, 0.004595294, 0.002], atol=6e-10
  )
  assert joint[0.0] == 12
  assert max(joint) == pytest.approx(0.038149904, abs=6e-10)
  assert golden(0.0).epsilon == pytest.approx(0.0219089023, abs=6e-11)

  spectrum = unconstrained.hessian_spectrum(golden(0.1))
  np.testing.assert_allclose(
    list(merged(spectrum.weights)),
    [0.090815978, 0.070081641, 0.028612968, 0.005],
    atol=6e-10,
  )
  np.testing.assert_allclose(
    list(merged(spectrum.features)),
    [0.036326391, 0.011445187, 0.002],
    atol=6e-10,
  )
  largest = max(e.value for e in spectrum.joint)
  assert largest == pytest.approx(0.133167349, abs=6e-10)


def test_maxsup_has_the_spectrum_of_ls():
  ls, maxsup = (
    unconstrained.hessian_spectrum(
      unconstrained.Problem(4, 3, 6, objective=objective, alpha=0.3)
    )
    for objective in ('ls', 'maxsup')
  )
  assert ls == maxsup


def test_there_is_none_at_the_collapse():
  problem = unconstrained.Problem(4, 3, 6, objective='maxsup', alpha=1.0)
  for function in (
    unconstrained.hessian_spectrum,
    unconstrained.condition_numbers,
  ):
    with pytest.raises(UsageError, match='minimiser is W = H = 0') as e:
      function(problem)
    assert '\n' not in str(e.value)
