import itertools

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from maxsup_jax.diagnostics import selective

FIELDS = ('coverage', 'risk', 'generalized_risk', 'threshold', 'errors', 'ends')


def naive_risks(confidence, errors):
  """Selective risks in one order, by the definition."""
  order = sorted(range(len(errors)), key=lambda i: -confidence[i])
  errors = [float(errors[i]) for i in order]
  return [sum(errors[:i]) / i for i in range(1, len(errors) + 1)]


def with_ties(rng, n, levels=6):
  return rng.integers(levels, size=n) / levels, rng.random(n) < 0.4


def test_without_ties():
  rng = np.random.default_rng(0)
  confidence, errors = rng.permutation(30) / 7, rng.random(30) < 0.3
  n = np.arange(1, 31)
  for ties in ('expected', 'stable'):
    curve = selective.risk_coverage(confidence, errors, ties=ties)
    expected = np.array(naive_risks(confidence, errors))
    assert_allclose(curve.risk, expected, rtol=1e-15)
    assert_allclose(curve.generalized_risk, expected * n / 30)
    assert_array_equal(curve.coverage, n / 30)
    assert_array_equal(curve.threshold, np.sort(confidence)[::-1])
    assert_array_equal(curve.ends, n)
    assert len(curve) == 30
    assert curve.error_rate == errors.mean()


def test_ties_are_the_mean_over_all_orders():
  confidence = [0.5, 0.9, 0.5, 0.1, 0.5, 0.9, 0.1]
  errors = [1, 0, 0, 1, 1, 1, 0]
  orders = [
    naive_risks([confidence[i] for i in order], [errors[i] for i in order])
    for order in itertools.permutations(range(7))
  ]
  curve = selective.risk_coverage(confidence, errors)
  assert_allclose(curve.risk, np.mean(orders, 0), rtol=1e-12)
  assert_array_equal(curve.ends, [2, 5, 7])


def test_stable_ties_keep_the_order():
  confidence, errors = [0.5, 0.9, 0.5, 0.5], [1, 0, 0, 0]
  curve = selective.risk_coverage(confidence, errors, ties='stable')
  assert_array_equal(curve.errors, [0, 1, 0, 0])
  assert_allclose(curve.risk, [0, 1 / 2, 1 / 3, 1 / 4])
  assert_array_equal(curve.ends, [1, 4])


@pytest.mark.parametrize('ties', ['expected', 'stable'])
@pytest.mark.parametrize('seed', range(3))
def test_a_resample_is_the_curve_of_the_repeated_examples(seed, ties):
  rng = np.random.default_rng(seed)
  if seed == 0:
    confidence, errors = rng.random(50), rng.random(50) < 0.5
  else:
    confidence, errors = with_ties(rng, 50)
  weights = rng.multinomial(50, np.full(50, 1 / 50))
  ranking = selective.Ranking(confidence, errors, ties=ties)
  resample = ranking.curve(weights)
  repeated = selective.risk_coverage(
    np.repeat(confidence, weights), np.repeat(errors, weights), ties=ties
  )
  for field in FIELDS:
    assert_array_equal(
      getattr(resample, field), getattr(repeated, field), err_msg=field
    )
  if ties == 'expected':
    # In any order: the examples as they were drawn.
    drawn = rng.permutation(np.repeat(np.arange(50), weights))
    shuffled = selective.risk_coverage(confidence[drawn], errors[drawn])
    assert_array_equal(resample.risk, shuffled.risk)


def test_real_valued_errors_and_a_negative_zero():
  curve = selective.risk_coverage([3.0, 0.0, -0.0, -1], [0.5, 0.0, 0.25, 1.0])
  assert_allclose(curve.risk, [0.5, 0.625 / 2, 0.75 / 3, 1.75 / 4])


def test_rounding_errors_of_ties_do_not_add_up():
  # Every tie has 49 examples of which one is wrong.
  assert 1 / 49 * 49 < 1
  n = 49_000
  confidence, errors = np.arange(n) // 49, np.arange(n) % 49 == 0
  curve = selective.risk_coverage(confidence, errors)
  assert_array_equal(curve.generalized_risk[48::49], np.arange(1, 1001) / n)
