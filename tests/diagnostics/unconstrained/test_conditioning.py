import dataclasses

import numpy as np
import pytest

from maxsup_jax.diagnostics import unconstrained


def problem(alpha, penalty, K=10, n=5000, D=512):
  return unconstrained.Problem(
    K,
    n,
    D,
    objective='ls',
    alpha=alpha,
    lambda_w=penalty,
    lambda_h=penalty,
    lambda_b=penalty,
  )


@pytest.mark.parametrize(
  ('penalty', 'alpha', 'block', 'curved', 'joint'),
  [
    (1e-5, 0.0, 8.2, 4.8, 149),
    (1e-5, 0.05, 40.2, 7.8, 1149),
    (1e-5, 0.1, 61.7, 8.0, 2087),
    (5e-4, 0.0, None, None, 201),
    (5e-4, 0.05, None, None, 209),
    (5e-4, 0.1, None, None, 217),
  ],
)
def test_golden(penalty, alpha, block, curved, joint):
  kappa = unconstrained.condition_numbers(problem(alpha, penalty))
  assert kappa.joint == pytest.approx(joint, abs=0.51)
  if block:
    assert kappa.block == pytest.approx(block, abs=0.051)
    assert kappa.curved == pytest.approx(curved, abs=0.051)


@pytest.mark.parametrize('objective', ['ls', 'maxsup'])
def test_of_the_data_falls_by_a_line(objective):
  alphas = np.linspace(0, 0.9, 7)
  kappa = [
    unconstrained.condition_numbers(
      dataclasses.replace(problem(a, 1e-5), objective=objective)
    ).data
    for a in alphas
  ]
  np.testing.assert_allclose(np.diff(kappa) / np.diff(alphas), -9)
  epsilon = problem(0, 1e-5).epsilon
  assert kappa[0] == pytest.approx(10 - 9 * epsilon)


def test_two_classes_have_one_curvature():
  kappa = unconstrained.condition_numbers(
    unconstrained.Problem(2, 3, 4, objective='ls', alpha=0.2)
  )
  assert kappa.data == kappa.curved == 1
  assert kappa.block > 1


def test_they_are_those_of_the_spectrum():
  setting = unconstrained.Problem(5, 2, 6, objective='ls', alpha=0.1)
  spectrum = unconstrained.hessian_spectrum(setting)
  kappa = unconstrained.condition_numbers(setting)
  W = [e.value for e in spectrum.weights]
  H = [e.value for e in spectrum.features]
  assert kappa.block == pytest.approx(max(W) / min(W))
  assert kappa.block == pytest.approx(max(H) / min(H))
  curved = [v for v in W if v > setting.lambda_w * 1.0001]
  assert kappa.curved == pytest.approx(max(curved) / min(curved))
  positive = [e.value for e in spectrum.joint if e.value]
  assert kappa.joint == pytest.approx(max(positive) / min(positive))
