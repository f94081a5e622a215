"""Scores of logits, and the pixels that are examples."""

import decimal

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from maxsup_jax.diagnostics import selective
from maxsup_jax.errors import UsageError


def exact(row):
  """The scores of one row by their definitions, with 400 digits."""
  with decimal.localcontext(prec=400):
    v = sorted((decimal.Decimal(float(x)) for x in row), reverse=True)
    exp = [x.exp() for x in v]
    total = sum(exp)
    pi = [e / total for e in exp]
    margin = pi[0] - pi[1]
    return {
      'msp': float((pi[0] / sum(pi[1:])).ln()),
      'entropy': float(sum(p * p.ln() for p in pi)),
      'gini': float(sum(p * p for p in pi) - 1),
      'max_logit': float(v[0]),
      'energy': float(total.ln()),
      'probability_margin': float(((1 + margin) / (1 - margin)).ln()),
      'logit_margin': float(v[0] - v[1]),
    }


ROWS = [
  [0.3, -1.2, 0.8, 0.1],
  [2.0, 2.0, 2.0, 2.0],
  [5.0, 5.0, -1.0, 0.0],
  [5.0, 5.0 - 1e-12, -1.0, 0.0],
  [17.5, 0.0, 0.0, 0.0],
  [18.0, 0.0, 0.0, 0.0],
  [60.0, 20.0, 20.0, -30.0],
  [600.0, -20.0, -20.0, -30.0],
  [-600.0, -620.0, -1000.0, -601.0],
]


def test_scores_follow_their_definitions():
  for row in ROWS:
    for name, expected in exact(row).items():
      score = selective.scores([row], name)[name]
      assert score.dtype == np.float64
      # Relative to the score: nothing saturates. 2e-16 of a margin of 0.
      assert_allclose(score, expected, rtol=2e-12, atol=2e-16)


def test_large_float32_gaps_do_not_tie():
  gaps = np.arange(15, 300, 1, np.float32)
  logits = np.stack([gaps, 0 * gaps, 0 * gaps - 1], 1)
  for name, confidence in selective.scores(logits).items():
    assert (np.diff(confidence) > 0).all(), name


def test_gaps_beyond_all_exponents_are_finite():
  logits = np.array([[3e38, -3e38, -3e38], [1e5, 1e5, -1e5]], np.float32)
  of = selective.scores(logits)
  for name, confidence in of.items():
    assert np.isfinite(confidence).all(), name
    assert confidence[0] > confidence[1], name


def test_a_single_logit():
  z = np.array([-3.0, 0.0, 0.5, 40.0])
  of = selective.scores(z)
  assert_allclose(of['msp'], abs(z), atol=1e-16)
  assert_allclose(of['logit_margin'], abs(z))
  # m = tanh(|z| / 2), whose log-odds are |z|.
  assert_allclose(of['probability_margin'], abs(z), atol=1e-16)
  # Both grow with the distance from the boundary: of (0, z) they would not.
  assert_allclose(of['max_logit'], abs(z) / 2)
  assert_allclose(of['energy'], np.logaddexp(-z / 2, z / 2))


def test_errors(golden):
  assert_array_equal(
    selective.errors(golden.logits, golden.labels), golden.errors
  )
  assert golden.errors.mean() == 0.25
  # The first of equal logits is the prediction.
  assert_array_equal(
    selective.errors([[1.0, 1.0], [1.0, 1.0]], [0, 1]), [False, True]
  )
  assert_array_equal(selective.errors([-1.0, 2.0], [0, 0]), [False, True])


def test_scores_of_the_largest_logits_can_be_ranked():
  rng = np.random.default_rng(0)
  logits, labels = rng.uniform(-1e150, 1e150, (50, 4)), rng.integers(0, 4, 50)
  wrong = selective.errors(logits, labels)
  for confidence in selective.scores(logits).values():
    assert 0 <= selective.aurc(selective.risk_coverage(confidence, wrong)) <= 1
  assert selective.fit_pnorm(logits, labels).msp_aurc > 0


def images(seed=0):
  rng = np.random.default_rng(seed)
  labels = np.random.default_rng(9).integers(0, 4, size=(3, 5, 6))
  labels = np.where(labels == 3, 255, labels).astype(np.uint8)
  return rng.normal(size=(3, 5, 6, 3)).astype(np.float32), labels


def test_every_labelled_pixel_is_an_example():
  logits, labels = images()
  logits[labels == 255] = np.nan  # What is ignored may hold anything.
  pixel_logits, pixel_labels = selective.pool_pixels(logits, labels)
  expected = [
    (logits[i], labels[i]) for i in np.ndindex(labels.shape) if labels[i] != 255
  ]
  assert_array_equal(pixel_logits, [e[0] for e in expected])
  assert_array_equal(pixel_labels, [e[1] for e in expected])
  assert pixel_logits.dtype == np.float32


def test_the_same_pixels_for_all_models():
  a, labels = images(0)
  b, _ = images(1)
  part_a, labels_a = selective.pool_pixels(a, labels, limit=20, seed=3)
  part_b, labels_b = selective.pool_pixels(b, labels, limit=20, seed=3)
  assert part_a.shape == (20, 3)
  assert_array_equal(labels_a, labels_b)
  pool_a, _ = selective.pool_pixels(a, labels)
  pool_b, _ = selective.pool_pixels(b, labels)

  def rows(part, pool):
    return [int(np.flatnonzero((pool == row).all(1))[0]) for row in part]

  chosen = rows(part_a, pool_a)
  assert chosen == rows(part_b, pool_b)
  assert chosen == sorted(set(chosen))
  other, _ = selective.pool_pixels(a, labels, limit=20, seed=4)
  assert rows(other, pool_a) != chosen


def test_bad_input():
  logits, labels = images()
  with pytest.raises(UsageError, match=r'the shapes of logits, \(3, 5, 6, 3\)'):
    selective.pool_pixels(logits, labels[:, :4])
  with pytest.raises(UsageError, match='no pixel is labelled'):
    selective.pool_pixels(logits, np.full_like(labels, 255))
  with pytest.raises(UsageError, match='limit is 0'):
    selective.pool_pixels(logits, labels, limit=0)
  with pytest.raises(UsageError, match='is 255; expected from 0 to 2'):
    selective.pool_pixels(logits, labels, ignore_label=None)
