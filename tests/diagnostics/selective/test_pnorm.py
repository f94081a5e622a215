import math

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from maxsup_jax.diagnostics import selective
from maxsup_jax.errors import UsageError

GRID = (0, 0.5, 1, 2, 3, 4.5, 7, 10, 40, 200, math.inf)


def naive(logits, p, centered):
  v = logits - centered * logits.mean(1, keepdims=True)
  norm = v.shape[1] if p == 0 else np.linalg.norm(v, p, axis=1)
  return v.max(1) / norm


def random_logits(seed=0, n=50, K=6):
  return np.random.default_rng(seed).normal(size=(n, K)) * 2 + 1


@pytest.mark.parametrize('centered', [True, False])
def test_by_the_definition(centered):
  logits = random_logits()
  for p in GRID:
    # At these sizes NumPy's own norm does not overflow up to p = 200.
    actual = selective.max_logit_pnorm(logits, p, centered=centered)
    assert_allclose(actual, naive(logits, p, centered), rtol=1e-12)


def test_golden(golden):
  def score(p, centered):
    return selective.max_logit_pnorm(golden.logits, p, centered=centered)

  for p, centered, first, last in (
    (2, True, 0.8017837257, 0.4496795419),
    (5, True, 0.9748536864, 0.5443876001),
    (2, False, 0.9701425001, 0.7301527432),
  ):
    assert_allclose(score(p, centered)[[0, 11]], [first, last], rtol=1e-9)
  for p, centered, aurc in (
    *((p, True, 0.1327801828) for p in range(2, 11)),
    (1, False, 0.1503727754),
    *((p, False, 0.1700487013) for p in range(2, 11)),
  ):
    curve = selective.risk_coverage(score(p, centered), golden.errors)
    assert_allclose(selective.aurc(curve), aurc, rtol=1e-9)
  fit = selective.fit_pnorm(golden.logits, golden.labels)
  assert fit.p == 2
  assert_allclose(fit.aurc[1:], 0.1327801828, rtol=1e-9)
  assert_allclose(fit.msp_aurc, 0.29765812890812887)
  fit = selective.fit_pnorm(golden.logits, golden.labels, centered=False)
  assert fit.p == 1


def test_p_1_ties_are_exact():
  rng = np.random.default_rng(4)
  logits = rng.random((500, 7))
  logits[:, 2] += 7
  score = selective.max_logit_pnorm(logits, 1)
  assert_array_equal(score, 0.5)


def test_equal_logits():
  # The mean of seven times 0.1 is not 0.1 in floating point.
  rows = np.array([[0.1] * 7, [0.0] * 7, [-3.3] * 7, [1e30] * 7])
  for p in GRID:
    for dtype in (np.float32, np.float64):
      score = selective.max_logit_pnorm(rows.astype(dtype), p)
      assert_array_equal(score, 0)
    uncentred = selective.max_logit_pnorm(rows, p, centered=False)
    assert uncentred[1] == 0
    if p:
      expected = 7 ** (-1 / p)
      assert_allclose(uncentred[[0, 2]], [expected, -expected])


def test_large_logits_do_not_overflow():
  logits = np.array([[3e38, 1e38, -3e38], [3, 1, -3]], np.float32)
  for p in (1, 2, 10, 100):
    score = selective.max_logit_pnorm(logits, p)
    assert_allclose(score[0], score[1], rtol=1e-6)


def test_bad_input():
  logits, z = random_logits(), np.array([[1.0], [-2.0]])
  score, fit = selective.max_logit_pnorm, selective.fit_pnorm
  for call, message in (
    (lambda: score(logits, -1), r'p is .*; expected 0, or from'),
    (lambda: score(logits, math.nan), r'p is .*; expected 0, or from'),
    (lambda: fit(logits, logits.argmax(1), grid=(1, 0.05)), 'p is 0.05'),
    (lambda: score(z, 2), 'the single logit of a binary'),
    (lambda: fit(z, [0, 1], centered=False), 'the single logit of a binary'),
  ):
    with pytest.raises(UsageError, match=message):
      call()


def test_two_classes():
  logits = random_logits(8, K=2)
  labels = np.arange(50) % 2
  with pytest.raises(UsageError, match='the centred score of two classes is c'):
    selective.max_logit_pnorm(logits, 2)
  assert np.ptp(selective.max_logit_pnorm(logits, 2, centered=False)) > 0.1
  fit = selective.fit_pnorm(logits, labels, grid=(1, 2))
  assert fit.p is None
  assert np.isnan(fit.aurc).all()
  assert_array_equal(fit.score(logits), selective.scores(logits)['msp'])
  assert selective.fit_pnorm(logits[:, 1] - logits[:, 0], labels).p is None


def noisy(seed, n=400, K=5):
  """Wrong predictions have larger logits, at equal confidence."""
  rng = np.random.default_rng(seed)
  logits = rng.gamma(1.0, size=(n, K)) * rng.gamma(2.0, size=(n, 1))
  labels = np.where(
    rng.random(n) < 0.6, logits.argmax(1), rng.integers(K, size=n)
  )
  logits += 3 * (labels != logits.argmax(1))[:, None]
  return logits, labels


def test_fit_takes_the_first_of_the_best():
  centered = False
  logits, labels = noisy(0)
  grid = (7, 3, 0, 2.5, 1, 3, 2, 40)
  fit = selective.fit_pnorm(logits, labels, grid=grid, centered=centered)
  wrong = logits.argmax(1) != labels
  aurcs = [
    selective.aurc(
      selective.risk_coverage(
        selective.max_logit_pnorm(logits, p, centered=centered), wrong
      )
    )
    for p in grid
  ]
  assert_array_equal(fit.aurc, aurcs)
  assert fit.grid == grid
  best = int(np.argmin(aurcs))
  assert aurcs[best] < fit.msp_aurc
  assert fit.p == grid[best]
  held_out, _ = noisy(1)
  assert_array_equal(
    fit.score(held_out),
    selective.max_logit_pnorm(held_out, grid[best], centered=centered),
  )
