import math

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from maxsup_jax.diagnostics import selective
from maxsup_jax.errors import UsageError


def ranked(errors):
  """A curve of examples given from the surest on."""
  return selective.risk_coverage(-np.arange(len(errors)), errors)


@pytest.mark.parametrize('seed', range(2))
@pytest.mark.parametrize('ties', [False, True])
def test_by_the_definitions(seed, ties):
  rng = np.random.default_rng(seed)
  n = 40
  confidence, errors = rng.random(n), rng.random(n) < 0.2
  if ties:
    confidence = np.round(confidence, 1)
  curve = selective.risk_coverage(confidence, errors)
  for limit in (0.0, 0.05, 0.1, 0.2, 1.0):
    within = [i / n for i in range(1, n + 1) if curve.risk[i - 1] <= limit]
    coverage = selective.coverage_at_risk(curve, limit)
    sac = selective.selective_accuracy_coverage(curve, 1 - limit)
    if within:
      assert coverage == sac == max(within)
    else:
      assert math.isnan(coverage)
      assert sac == 0
  for k in range(1, n + 1):
    assert selective.risk_at_coverage(curve, k / n) == curve.risk[k - 1]
    assert selective.risk_at_coverage(curve, (k - 0.5) / n) == curve.risk[k - 1]


def test_rounding_does_not_take_another_example():
  for n in (7, 100, 50_000):
    curve = ranked(np.arange(n) % 2)
    for percent in range(1, 101):
      k = -(-n * percent // 100)
      risk = selective.risk_at_coverage(curve, percent / 100)
      assert risk == curve.risk[k - 1], percent


def test_bad_limits():
  for function, name, value in (
    (selective.coverage_at_risk, 'risk', -0.1),
    (selective.risk_at_coverage, 'coverage', math.nan),
    (selective.selective_accuracy_coverage, 'accuracy', 1.1),
    (selective.threshold_for_risk, 'risk', math.nan),
    (selective.threshold_for_coverage, 'coverage', -0.1),
  ):
    with pytest.raises(UsageError, match=f'{name} is .*; expected from 0 to 1'):
      function(ranked([0, 1]), value)


@pytest.mark.parametrize('seed', range(2))
@pytest.mark.parametrize('ties', ['expected', 'stable'])
def test_thresholds_are_the_best_that_can_be_reached(seed, ties):
  rng = np.random.default_rng(seed)
  confidence = rng.integers(12, size=50) / 12
  errors = rng.random(50) < 0.35 - 0.3 * confidence
  curve = selective.risk_coverage(confidence, errors, ties=ties)
  reachable = []
  for t in sorted(set(confidence)):
    accepted = confidence >= t
    reachable.append((accepted.mean(), errors[accepted].mean(), t))
  for limit in (0.0, 0.05, 0.1, 0.2, 0.3, 1.0):
    threshold = selective.threshold_for_risk(curve, limit)
    good = [point for point in reachable if point[1] <= limit]
    if good:
      assert (threshold.coverage, threshold.risk, threshold.value) == max(good)
    else:
      assert threshold.value == math.inf
      assert threshold.coverage == 0
      assert math.isnan(threshold.risk)
  for share in (0.0, 0.1, 0.33, 0.5, 0.9, 1.0):
    threshold = selective.threshold_for_coverage(curve, share)
    good = [point for point in reachable if point[0] >= share]
    assert (threshold.coverage, threshold.risk, threshold.value) == min(good)


def test_apply_threshold_elsewhere():
  curve = selective.risk_coverage([0.9, 0.6, 0.3], [0, 0, 1])
  threshold = selective.threshold_for_risk(curve, 0.1)
  assert threshold == selective.Threshold(value=0.6, coverage=2 / 3, risk=0.0)
  selection = selective.apply_threshold(
    threshold, [0.6, 0.59, 0.7, 0.8], [1, 0, 0, 0]
  )
  assert_array_equal(selection.accepted, [1, 0, 1, 1])
  assert (selection.coverage, selection.risk) == (0.75, 1 / 3)
  unlabelled = selective.apply_threshold(0.6, [0.6, 0.59])
  assert unlabelled.coverage == 0.5
  assert math.isnan(unlabelled.risk)


def test_nothing_is_accepted():
  curve = selective.risk_coverage([0.9, 0.6], [1, 1])
  threshold = selective.threshold_for_risk(curve, 0.1)
  selection = selective.apply_threshold(threshold, [1e300, 2.0], [0, 0])
  assert not selection.accepted.any()
  assert selection.coverage == 0
  assert math.isnan(selection.risk)
  with pytest.raises(UsageError, match='the threshold is nan; expected a fin'):
    selective.apply_threshold(math.nan, [1.0], [0])
