import jax
import numpy as np
import pytest
from scipy import linalg

from maxsup_jax.diagnostics import neural_collapse, unconstrained

COLLAPSE = jax.jit(unconstrained.collapse)


def textbook(W, H, K):
  """From the definitions, with matrices of [D, D] and SciPy's inverse."""
  by_class = H.reshape(K, -1, H.shape[1])
  means = by_class.mean(1)
  centred = means - means.mean(0)
  deviations = (by_class - means[:, None]).reshape(len(H), -1)
  within = deviations.T @ deviations / len(H)
  between = centred.T @ centred / K
  simplex = (np.eye(K) - np.ones((K, K)) / K) / np.sqrt(K - 1)
  product = W @ centred.T
  return {
    'nc1': np.trace(within @ linalg.pinv(between)) / K,
    'nc2': linalg.norm(product / linalg.norm(product) - simplex),
    'nc3': linalg.norm(W / linalg.norm(W) - centred / linalg.norm(centred)),
  }


@pytest.mark.parametrize(('K', 'n', 'D'), [(2, 3, 1), (4, 5, 3), (5, 2, 12)])
def test_it_is_that_of_the_textbook(x64, K, n, D):
  random = np.random.default_rng(K)
  W, H = random.normal(size=(K, D)), random.normal(size=(K * n, D)) + 3
  got = COLLAPSE(W, H)
  for name, expected in textbook(W, H, K).items():
    np.testing.assert_allclose(got[name], expected, rtol=1e-10)


def test_golden(x64):
  H = [[3, 0, 1, 0], [2, 1, 0, 0], [0, 3, 0, 1]]
  H += [[1, 2, 1, 0], [0, 0, 3, 2], [0, 1, 2, 1]]
  W = [[1, 0, -0.5, 0], [-0.5, 1, 0, 0.25], [0, -0.5, 1, 0.5]]
  got = COLLAPSE(np.array(W), np.array(H, float))
  expected = {
    'nc1': 0.1635911397,
    'nc2': 0.4154598349,
    'nc3': 0.5359593453,
  }
  for name, value in expected.items():
    assert float(got[name]) == pytest.approx(value, abs=6e-11)


def test_the_minimiser_is_collapsed(x64):
  best = unconstrained.minimizer(unconstrained.Problem(6, 3, 8), seed=0)
  for value in COLLAPSE(best.weights, best.features).values():
    assert float(value) < 1e-7


def test_equal_class_means_are_undefined(x64):
  got = COLLAPSE(np.ones((3, 2)), np.ones((6, 2)))
  assert all(np.isnan(value) for value in got.values())


def test_in_single_precision():
  """A pseudo-inverse that keeps the K-th singular value fails here."""
  random = np.random.default_rng(0)
  means = np.repeat(random.normal(size=(10, 128)), 20, axis=0)
  H = (means + 0.3 * random.normal(size=means.shape)).astype(np.float32)
  W = random.normal(size=(10, 128)).astype(np.float32)
  got = COLLAPSE(W, H)
  expected = textbook(W.astype(np.float64), H.astype(np.float64), 10)
  np.testing.assert_allclose(got['nc1'], expected['nc1'], rtol=1e-4)


@pytest.mark.parametrize('jit', [False, True])
def test_class_means_that_span_less(x64, jit):
  """The rank of the pseudo-inverse is that of the class means, not K - 1."""
  rng = np.random.default_rng(0)
  means = np.eye(6)[[0, 0, 1, 1]] * np.array([[1], [-1], [1], [-1]])
  W = rng.normal(size=(4, 6))
  noise = 0.1 * rng.normal(size=(4, 3, 6))
  # The noise of each class is centred: its means stay as they are.
  noise -= noise.mean(1, keepdims=True)
  H = (means[:, None] + noise).reshape(12, 6)
  found = (COLLAPSE if jit else unconstrained.collapse)(W, H)
  known = neural_collapse.neural_collapse(H, np.repeat(range(4), 3), W)
  assert known.rank == 2
  for name in ('nc1', 'nc2', 'nc3'):
    assert float(found[name]) == pytest.approx(getattr(known, name), rel=1e-9)
  assert 1e-3 < found['nc1'] < 0.1


def test_class_means_that_are_equal_up_to_rounding(x64):
  H = np.full((10, 4), 0.1)
  H[:5] = np.nextafter(0.1, 1)
  assert np.ptp(H.reshape(2, 5, 4).mean(1), 0).max() > 0
  got = COLLAPSE(np.ones((2, 4)), H)
  assert all(np.isnan(value) for value in got.values())
