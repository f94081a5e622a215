"""The curve, the areas under it, its points and thresholds."""

import itertools
import math

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from scipy import integrate, stats

from maxsup_jax.diagnostics import selective
from maxsup_jax.errors import UsageError

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


def all_metrics(confidence, errors):
  curve = selective.risk_coverage(confidence, errors)
  conventions = ('paper', 'torch_uncertainty', 'fd_shifts', 'mean')
  return [
    *(selective.aurc(curve, c) for c in conventions),
    *(selective.augrc(curve, c) for c in ('fd_shifts', 'torch_uncertainty')),
    *(selective.e_aurc(curve, r) for r in ('finite', 'closed_form')),
    selective.naurc(curve),
    selective.auroc(curve),
  ]


def some(seed, n=60, levels=None):
  rng = np.random.default_rng(seed)
  errors = rng.random(n) < 0.35
  confidence = rng.normal(size=n) - 0.8 * errors
  if levels:
    confidence = np.round(confidence * levels) / levels
  return confidence, errors


# From the published code of the paper and of FixSelectiveClassification
# (A0, NAURC, E-AURC finite), torch-uncertainty 0.13.0 and fd-shifts c4467ae.
def test_golden(golden):
  curve = selective.risk_coverage(golden.confidence, golden.errors)

  def close(value, expected, rtol=1e-9):
    assert_allclose(value, expected, rtol=rtol)

  close(selective.aurc(curve), 0.29765812890812887)
  close(selective.aurc(curve, 'torch_uncertainty'), 0.2792634133543224)
  close(selective.aurc(curve, 'fd_shifts'), 0.33932479557479556)
  close(selective.aurc(curve, 'mean'), 0.30807479557479556)
  close(selective.augrc(curve), 0.11458333333333334)
  close(selective.augrc(curve, 'torch_uncertainty'), 0.12121212121212119)
  close(selective.e_aurc(curve, 'closed_form'), 0.30508634991363104)
  # These two were computed in float32.
  close(selective.e_aurc(curve), 0.2637566099, rtol=3e-8)
  close(selective.naurc(curve), 1.2205389145, rtol=3e-8)
  # The perfect ranking has the risks 0, ..., 0, 1/10, 2/11, 3/12.
  reference = (1 / 10 + 2 / 11 + 3 / 12 / 2) / 12
  close(selective.e_aurc(curve), 0.29765812890812887 - reference)
  close(selective.auroc(curve), 0.5555555556)
  # The ranking by the log-odds is the same.
  msp = selective.scores(golden.logits)['msp']
  assert selective.aurc(selective.risk_coverage(msp, golden.errors)) == (
    selective.aurc(curve)
  )


# Cases of fd-shifts' own tests.
def test_fd_shifts():
  for confidence, errors, aurc, augrc, e_aurc in (
    ([1, 0] * 50, [0, 1] * 50, 0.125, 0.125, -0.0284264097),
    ([0, 1] * 50, [0, 1] * 50, 0.875, 0.375, None),
    ([0.5] * 100, [0, 1] * 50, 0.5, 0.25, 0.34657359028),
  ):
    curve = selective.risk_coverage(confidence, errors)
    assert_allclose(selective.aurc(curve, 'fd_shifts'), aurc)
    assert_allclose(selective.augrc(curve, 'fd_shifts'), augrc)
    if e_aurc is not None:
      assert_allclose(selective.e_aurc(curve, 'closed_form'), e_aurc)


@pytest.mark.parametrize('ties', ['expected', 'stable'])
@pytest.mark.parametrize('levels', [None, 3])
def test_areas_are_trapezoids(levels, ties):
  confidence, errors = some(1, levels=levels)
  curve = selective.risk_coverage(confidence, errors, ties=ties)
  c0 = np.append(0, curve.coverage)
  r, g = curve.risk, curve.generalized_risk
  trapezoid, n = integrate.trapezoid, len(curve)
  assert_allclose(
    [
      selective.aurc(curve),
      selective.aurc(curve, 'torch_uncertainty'),
      selective.aurc(curve, 'mean'),
      selective.augrc(curve, 'torch_uncertainty'),
    ],
    [
      trapezoid(np.append(0, r), c0),
      trapezoid(r, curve.coverage) / (1 - 1 / n),
      np.mean(r),
      trapezoid(g, curve.coverage) / (1 - 1 / n),
    ],
  )
  # Points at every distinct confidence, by the definition of a threshold.
  points = [(0, None, 0)]
  for t in sorted(set(confidence), reverse=True):
    accepted = confidence >= t
    points.append(
      (accepted.mean(), errors[accepted].mean(), (errors & accepted).mean())
    )
  c, s, g = (np.array(x, float) for x in zip(*points))
  s[0] = s[1]
  assert_allclose(selective.aurc(curve, 'fd_shifts'), trapezoid(s, c))
  assert_allclose(selective.augrc(curve, 'fd_shifts'), trapezoid(g, c))


@pytest.mark.parametrize('ties', ['expected', 'stable'])
def test_augrc_and_auroc(ties):
  """AUROC is that of scikit-learn, and AUGRC follows from it."""
  metrics = pytest.importorskip('sklearn.metrics')
  for levels in (None, 1, 3):
    confidence, errors = some(4, levels=levels)
    curve = selective.risk_coverage(confidence, errors, ties=ties)
    auroc, e = selective.auroc(curve), curve.error_rate
    assert_allclose(auroc, metrics.roc_auc_score(~errors, confidence))
    expected = (1 - auroc) * (1 - e) * e + e**2 / 2
    assert_allclose(selective.augrc(curve), expected, rtol=1e-13)


NAN = np.nan


def test_defined_values():
  # paper, TU, fd, mean, AUGRC fd, TU, E-AURC finite, closed, NAURC, AUROC
  for confidence, errors, expected in (
    ([3, 2, 1], [0] * 3, [0] * 8 + [NAN, NAN]),
    ([3, 2, 1], [1] * 3, [5 / 6, 1, 1, 1, 1 / 2, 2 / 3, 0, 0, NAN, NAN]),
    ([1], [0], [0, NAN, 0, 0, 0, NAN, 0, 0, NAN, NAN]),
    ([1], [1], [1 / 2, NAN, 1, 1, 1 / 2, NAN, 0, 0, NAN, NAN]),
  ):
    assert_allclose(all_metrics(confidence, errors), expected, atol=1e-15)


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


def population(rng, n):
  """Confidences that say the probability of an error; 30% are wrong."""
  confidence = rng.beta(2.0, 0.8, n)
  return confidence, rng.uniform(size=n) > confidence


@pytest.mark.parametrize('delta', [0.05, 0.2])
def test_the_guaranteed_risk_is_exceeded_in_at_most_delta_of_the_draws(delta):
  rng = np.random.default_rng(0)
  confidence, wrong = population(rng, 400_000)
  exceeded, plain, coverage = 0, 0, []
  for _ in range(300):
    curve = selective.risk_coverage(*population(rng, 500))
    found = selective.guaranteed_threshold(curve, 0.1, delta=delta)
    seen = selective.threshold_for_risk(curve, 0.1)
    coverage.append(found.coverage)
    for threshold in (found, seen):
      accepted = confidence >= threshold.value
      over = accepted.any() and wrong[accepted].mean() > 0.1
      exceeded += over and threshold is found
      plain += over and threshold is seen
  # It is conservative, so no margin for chance.
  assert exceeded / 300 <= delta
  assert plain / 300 > 0.3
  assert np.mean(coverage) > 0.15


def test_the_bound_is_that_of_the_binomial_tail():
  rng = np.random.default_rng(1)
  curve = selective.risk_coverage(*population(rng, 700))
  found = selective.guaranteed_threshold(curve, 0.15, delta=0.1)
  m = round(found.coverage * 700)
  e = round(found.risk * m)
  # k = 10 tests.
  exact = stats.binomtest(e, m).proportion_ci(0.98, 'exact').high
  assert found.bound == pytest.approx(exact, rel=1e-9)
  assert found.bound == pytest.approx(stats.beta.ppf(0.99, e + 1, m - e))
  assert stats.binom.cdf(e, m, found.bound) == pytest.approx(0.01)
  assert found.bound <= 0.15


def test_a_guarantee_that_cannot_be_given():
  for errors in (np.ones(50), np.zeros(50)):
    curve = selective.risk_coverage(np.arange(50.0), errors)
    found = selective.guaranteed_threshold(curve, 0.05)
    assert found.value == np.inf
    assert found.coverage == 0
    assert np.isnan(found.bound)
  assert selective.guaranteed_threshold(curve, 0.2).coverage == 1
  tied = selective.risk_coverage(np.ones(50), np.zeros(50))
  assert selective.guaranteed_threshold(tied, 0.2).coverage == 1
  curve = selective.risk_coverage([0.1, 0.2], [0.5, 0.0])
  with pytest.raises(UsageError, match='not all 0 or 1, which the guarantee'):
    selective.guaranteed_threshold(curve, 0.2)
