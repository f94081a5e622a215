import math

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from maxsup_jax.diagnostics.mutual_information import (
  class_logit_difference,
  mutual_information,
)
from maxsup_jax.errors import UsageError

FAR = 1000.0


def simulate(kind, seed, N=600, L=6):
  """Samples [N, L] of N examples in two classes."""
  rng = np.random.default_rng(seed)
  side = np.repeat([-FAR, FAR], N // 2)
  mean = {
    'identical': np.zeros(N),
    'two points': side,
    'two clusters, 1': side + rng.normal(size=N),
    'two clusters, 5': side + 5 * rng.normal(size=N),
  }[kind]
  return mean[:, None] + rng.normal(size=(N, L))


def naive(y, means):
  """The formula, with loops: y and means [N, L], one sigma for all."""
  N, L = y.shape
  sigma2 = ((y - means) ** 2).mean()
  total = 0.0
  for i in range(L):
    for x in range(N):
      q = [-((y[x, i] - means[other, i]) ** 2) / (2 * sigma2)
           for other in range(N)]  # fmt: skip
      mixture = sum(math.exp(v) for v in q) / N
      total += q[x] - math.log(mixture)
  return total / (N * L)


@pytest.mark.parametrize(
  ('kind', 'in_sample', 'cross_fitted'),
  [
    ('identical', 0.110, -0.063),
    ('two points', 0.80, 0.63),
    ('two clusters, 1', 1.14, 0.94),
    ('two clusters, 5', 2.41, 2.22),
  ],
)
def test_simulated_truths(kind, in_sample, cross_fitted):
  # Where the means of the examples are random, too, seeds differ by 0.03.
  rows = []
  for seed in range(12):
    # Leaving one of six out: means of five, too.
    six = simulate(kind, seed)
    five = mutual_information(six[:, :5])
    rows.append((five.in_sample, mutual_information(six).cross_fitted))
  assert_allclose(np.mean(rows, axis=0), [in_sample, cross_fitted], atol=0.03)
  assert np.std(rows, axis=0).max() < 0.05


def test_equals_the_formula_with_loops():
  rng = np.random.default_rng(0)
  y = 2 * rng.normal(size=(23, 1)) + rng.normal(size=(23, 4))
  means = np.repeat(y.mean(1, keepdims=True), 4, 1)
  result = mutual_information(y)
  assert result.in_sample == pytest.approx(naive(y, means), rel=1e-12)
  assert result.sigma == pytest.approx(y.std(1, ddof=0).mean(), rel=0.1)
  assert result.sigma**2 == pytest.approx(y.var(1).mean(), rel=1e-12)
  left_out = np.stack([np.delete(y, i, 1).mean(1) for i in range(4)], 1)
  assert result.cross_fitted == pytest.approx(naive(y, left_out), rel=1e-12)
  assert result.cross_fitted_sigma**2 == pytest.approx(
    ((y - left_out) ** 2).mean(), rel=1e-12
  )
  assert result.maximum == math.log(23)


@pytest.mark.parametrize(
  ('values', 'expected'),
  [
    ([0.1, 0.1, 0.1, 0.1], 0.0),
    ([0.1, 0.1, 0.7, 0.7], math.log(2)),
    ([0.1, 0.2, 0.3, 0.7], math.log(4)),
    ([0.1, 0.7, 0.7, 0.7], math.log(4) - 0.75 * math.log(3)),
  ],
)
def test_without_noise_it_is_the_entropy_of_the_values(values, expected):
  samples = np.repeat(np.array(values)[:, None], 3, 1)
  for noise in (0.0, 1e-9):
    # The limit is approached, too: noise that is the same for all examples.
    wiggle = noise * np.array([-1.0, 0.0, 1.0])
    result = mutual_information(samples + wiggle)
    assert result.in_sample == pytest.approx(expected, abs=1e-6)
    assert result.cross_fitted == pytest.approx(expected, abs=1e-6)
  exact = mutual_information(np.array([[0.0, 0], [0, 0], [4, 4], [8, 8]]))
  assert exact.sigma == 0
  assert exact.in_sample == pytest.approx(1.5 * math.log(2))


def test_class_logit_difference_has_a_sign():
  logits = np.random.default_rng(0).normal(size=(4, 3, 5)).astype(np.float32)
  difference = class_logit_difference(logits, 1, 3)
  assert difference.dtype == np.float64
  assert_array_equal(
    difference,
    logits[..., 1].astype(np.float64) - logits[..., 3].astype(np.float64),
  )
  assert_array_equal(class_logit_difference(logits, 3, 1), -difference)


@pytest.mark.parametrize(
  ('call', 'message'),
  [
    (lambda: mutual_information(np.ones((5, 1))), 'at least 2 samples'),
    (lambda: mutual_information([[0.0, np.nan]]), r'\[0, 1\] is nan'),
    (lambda: class_logit_difference(np.ones((5, 2)), 0, 1), r'\(5, 2\)'),
    (lambda: class_logit_difference(np.ones((5, 2, 3)), 0, 3), 'is 3'),
  ],
)
def test_what_is_refused(call, message):
  with pytest.raises(UsageError, match=message) as e:
    call()
  assert '\n' not in str(e.value)
