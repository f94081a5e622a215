import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from scipy import stats

from maxsup_jax.diagnostics import bootstrap
from maxsup_jax.errors import UsageError


def test_resamples_count_draws():
  weights = np.stack(list(bootstrap.resamples(20, 4000, seed=1)))
  assert weights.shape == (4000, 20)
  assert weights.dtype == np.int64
  assert (weights.sum(1) == 20).all()
  # Moments of the multinomial distribution: 1, 1 - 1/n and -1/n.
  assert_allclose(weights.mean(0), 1, atol=0.07)
  covariance = np.cov(weights.T)
  assert_allclose(np.diag(covariance), 1 - 1 / 20, atol=0.12)
  off_diagonal = covariance[~np.eye(20, dtype=bool)]
  assert off_diagonal.mean() == pytest.approx(-1 / 20, abs=0.005)
  share = np.bincount(weights.ravel(), minlength=4)[:4] / weights.size
  expected = stats.binom.pmf(np.arange(4), 20, 1 / 20)
  assert_allclose(share, expected, atol=0.01)


def test_resamples_depend_on_the_seed_alone():
  a, b = (list(bootstrap.resamples(30, count, seed=4)) for count in (5, 3))
  assert_array_equal(a[:3], b)
  assert not np.array_equal(a[0], a[1])
  c = next(bootstrap.resamples(30, 1, seed=5))
  assert not np.array_equal(a[0], c)


def test_intervals_cover_the_truth_as_often_as_they_say():
  rng, covered = np.random.default_rng(0), 0
  for seed in range(300):
    x = rng.uniform(size=80) < 0.4
    samples = bootstrap.bootstrap(
      {'mean': lambda w, x=x: w @ x / 80}, 80, resamples=200, seed=seed
    )
    low, high = bootstrap.interval(samples['mean'], 0.9)
    covered += low <= 0.4 <= high
  # 300 intervals: a standard deviation of 0.017.
  assert covered / 300 == pytest.approx(0.9, abs=0.05)


def test_statistics_share_their_resamples():
  seen = {'a': [], 'b': []}

  def statistic(name):
    return lambda w: seen[name].append(w) or w[0]

  samples = bootstrap.bootstrap(
    {name: statistic(name) for name in seen}, 10, resamples=50, seed=3
  )
  assert_array_equal(seen['a'], seen['b'])
  assert_array_equal(seen['a'], list(bootstrap.resamples(10, 50, seed=3)))
  assert_array_equal(samples['a'], [w[0] for w in seen['a']])
  alone = bootstrap.bootstrap({'c': lambda w: w[0]}, 10, resamples=50, seed=3)
  assert_array_equal(alone['c'], samples['a'])
  assert samples['a'].dtype == np.float64


def test_undefined_samples():
  samples = np.append(np.arange(11.0), np.full(5, np.nan))
  assert bootstrap.undefined_share(samples) == 5 / 16
  # Left out, not sorted to the end.
  assert bootstrap.interval(samples, 0.8) == pytest.approx((1, 9))
  half = np.array([1.0, np.nan])
  assert bootstrap.interval(half) == (1, 1)
  assert np.isnan(bootstrap.interval(np.append(half, np.nan))).all()
  nothing = np.full(3, np.nan)
  assert np.isnan(bootstrap.interval(nothing)).all()


def test_a_pair_is_undefined_where_either_is():
  a = np.array([1.0, np.nan, 3.0, 4.0, 5.0, 6.0])
  b = np.array([0.0, 0.0, np.nan, 1.0, 1.0, 1.0])
  assert bootstrap.undefined_share(a - b) == 1 / 3
  low, high = bootstrap.paired_interval(a, b, 0.5)
  assert_allclose((low, high), np.quantile([1, 3, 4, 5], (0.25, 0.75)))


def test_bad_input_is_one_line():
  sample, interval = bootstrap.bootstrap, bootstrap.interval
  for call, message in (
    (lambda: bootstrap.resamples(0, 1), 'n is 0'),
    (lambda: sample({}, 3), 'statistics is empty'),
    (
      lambda: sample({'a': lambda w: np.inf}, 3),
      "statistic 'a' returned inf; expected a finite number or NaN",
    ),
    (lambda: interval([0.0, 1.0], 1.0), 'level is 1.0'),
    (lambda: interval([[1.0]]), r'samples have the shape \(1, 1\)'),
    (lambda: interval([1.0, np.inf]), 'samples contain an infinity'),
    (
      lambda: bootstrap.paired_interval([1.0, 2.0], [1.0]),
      'differ: samples_a 2, samples_b 1',
    ),
  ):
    with pytest.raises(UsageError, match=message):
      call()
