import numpy as np
import pytest
import scipy.special
import scipy.stats
from numpy.testing import assert_allclose, assert_array_equal

from maxsup_jax.diagnostics.representation import (
  logit_density,
  near_zero_share,
  stability,
)
from maxsup_jax.errors import UsageError


@pytest.fixture(scope='module')
def logits():
  rng = np.random.default_rng(0)
  z = rng.normal(size=(300, 7)) - 0.3
  z[np.arange(300), np.arange(300) % 5] += 3
  return z.astype(np.float32)


@pytest.fixture(scope='module')
def labels():
  rng = np.random.default_rng(1)
  return rng.permutation(np.repeat(np.arange(7), [90, 1, 9, 50, 60, 60, 30]))


def test_stability_equals_the_definition(logits, labels):
  logits = 20 * logits
  p = scipy.special.softmax(logits.astype(np.float64), 1)
  variance = []
  for c in range(7):
    rows = [p[i] for i in range(300) if labels[i] == c]
    center = sum(rows) / len(rows)
    variance.append(sum(((r - center) ** 2).sum() for r in rows) / len(rows))
  result = stability(logits, labels)
  assert_allclose(result.variance_per_class, variance, atol=1e-12)
  assert result.value == pytest.approx(1 - np.mean(variance), abs=1e-12)
  assert result.variance == pytest.approx(np.mean(variance), abs=1e-12)
  assert result.variance > 0.1
  assert result.variance_per_class[1] == 0
  assert result.counts.tolist() == [90, 1, 9, 50, 60, 60, 30]


def test_stability_of_an_empty_class_is_refused(logits):
  with pytest.raises(UsageError, match='classes 2, 3, 4, 5, 6 have no'):
    stability(logits, np.arange(300) % 2)


def test_near_zero_share(logits):
  expected = [np.mean([abs(float(z)) < 0.5 for z in row]) for row in logits]
  share = near_zero_share(logits, 0.5)
  assert_array_equal(share, expected)
  assert share.dtype == np.float64
  edge = np.array([[0.01, -0.01, 0.0099, 0.0]])
  assert near_zero_share(edge).tolist() == [0.5]
  with pytest.raises(UsageError, match=r'threshold is 0; expected above 0'):
    near_zero_share(logits, 0)


@pytest.mark.parametrize('bandwidth', [None, 0.07, 2.5])
def test_density_equals_scipy(logits, bandwidth):
  values = logits.reshape(-1).astype(np.float64)
  rule = bandwidth and bandwidth / values.std(ddof=1)
  exact = scipy.stats.gaussian_kde(values, rule)
  grid, density = logit_density(logits, bandwidth=bandwidth)
  assert_allclose(density, exact(grid), atol=2e-3 * density.max())
  assert (density >= 0).all()
  assert np.trapezoid(density, grid) == pytest.approx(1, abs=1e-9)
  assert np.diff(grid) == pytest.approx(grid[1] - grid[0])
  mean = np.trapezoid(grid * density, grid)
  assert mean == pytest.approx(values.mean(), abs=0.02 * exact.factor)


def test_far_outliers_do_not_need_endless_bins():
  values = np.random.default_rng(0).normal(size=(1000, 5))
  values[0, 0] = 1e5
  grid, density = logit_density(values, bandwidth=0.3)
  assert np.trapezoid(density, grid) == pytest.approx(1, abs=1e-9)
  values[0, 0] = 1e17
  with pytest.raises(UsageError, match='expected at least two bins of'):
    logit_density(values, bandwidth=0.3)


def test_bad_input_is_one_line(logits):
  for arguments, message in (
    ({'bandwidth': 0}, 'bandwidth is 0; expected above 0'),
    ({'logits': logits * np.nan}, r'logits\[0, 0\] is nan'),
    ({'logits': np.ones((4, 3))}, 'the logits are all equal, so'),
  ):
    with pytest.raises(UsageError, match=message):
      logit_density(**{'logits': logits} | arguments)
  grid, density = logit_density(np.ones((4, 3)), bandwidth=0.1)
  assert grid[density.argmax()] == pytest.approx(1, abs=0.05)


def test_a_single_logit_is_refused():
  for function in (near_zero_share, logit_density):
    with pytest.raises(UsageError, match='holds the single logit of a binary'):
      function(np.array([0.1, -0.2]))
