import numpy as np
import pytest
from numpy.testing import assert_array_equal

from maxsup_jax.diagnostics import selective
from maxsup_jax.errors import UsageError


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
