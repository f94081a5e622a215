import numpy as np
import pytest
from scipy import optimize

from maxsup_jax.diagnostics.smooth_calibration import smooth_ece
from maxsup_jax.errors import UsageError


def definition(f, y):
  """The integral over a fine grid, of five reflections, at its fixed point."""
  t = (np.arange(3000) + 0.5) / 3000

  def error(sigma):
    kernel = sum(
      np.exp(-((t[:, None] - s * f - 2 * j) ** 2) / (2 * sigma**2))
      for j in range(-2, 3)
      for s in (1, -1)
    )
    kernel /= np.sqrt(2 * np.pi) * sigma
    return np.abs(kernel @ (y - f) / len(f)).mean()

  return optimize.brentq(lambda s: error(s) - s, 1e-3, 1)


@pytest.mark.parametrize('power', [0.5, 1.0, 3.0])
def test_the_error_is_that_of_the_definition(power):
  rng = np.random.default_rng(0)
  f = rng.uniform(0, 1, 150)
  f[:20] = 1  # at the edge, where the kernel is reflected
  y = rng.random(150) < f**power
  found = smooth_ece(f, y, draws=0)
  assert found.value == pytest.approx(definition(f, y), rel=2e-3)
  assert np.isnan(found.interval).all()
  # The closed form of a single confidence, far from the edges.
  gap = smooth_ece(np.full(10, 0.5), np.arange(10) < 6, draws=0).value
  assert gap == pytest.approx(0.1, abs=1e-6)


def coverage(shift, n, count):
  """How often the interval has the truth: of a large sample, in closed form."""
  rng = np.random.default_rng(1)
  f = rng.uniform(0.3, 1, 200_000)
  truth = smooth_ece(f, np.clip(f - shift, 0, 1), draws=0).value
  hits = []
  for seed in range(count):
    f = rng.uniform(0.3, 1, n)
    y = rng.random(n) < f - shift
    low, high = smooth_ece(f, y, draws=100, seed=seed).interval
    hits.append(low <= truth <= high)
  return np.mean(hits)


def test_the_interval_covers_the_truth_of_a_calibrated_model():
  # Nominal 0.95, of 80: two standard deviations are 0.05.
  assert coverage(0.0, 300, 80) >= 0.9


@pytest.mark.slow
@pytest.mark.parametrize('n', [200, 1000, 4000])
@pytest.mark.parametrize('shift', [0.0, 0.03, 0.15])
def test_the_interval_covers_the_truth(shift, n):
  assert coverage(shift, n, 300) >= 0.925


def test_groups_widen_the_interval():
  rng = np.random.default_rng(0)
  groups = np.repeat(np.arange(50), 20)
  f = rng.uniform(0.5, 1, 1000)
  y = rng.random(50)[groups] < f
  alone, together = (
    np.ptp(smooth_ece(f, y, groups=g).interval) for g in (None, groups)
  )
  assert together > 1.5 * alone
  with pytest.raises(UsageError, match='confidence'):
    smooth_ece([1.2], [1])
