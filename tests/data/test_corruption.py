"""Images that are noisy, blurred, pale or coarse."""

import numpy as np
import pytest

from maxsup_jax import data
from maxsup_jax.data.corruption import CORRUPTIONS, SEVERITIES
from maxsup_jax.errors import UsageError

IMAGES = np.random.default_rng(0).integers(60, 190, (4, 16, 16, 3), np.uint8)
SOURCE = data.ArraySource(IMAGES, [0, 1, 0, 1], 2)


@pytest.mark.parametrize('kind', CORRUPTIONS)
def test_images_get_worse_with_the_severity(kind):
  distances = []
  for severity in SEVERITIES:
    corrupted = data.CorruptedSource(SOURCE, kind, severity)
    images = np.stack([corrupted[i]['image'] for i in range(4)])
    assert images.dtype == np.uint8
    assert images.shape == IMAGES.shape
    distances.append(np.abs(images.astype(float) - IMAGES).mean())
  assert distances[0] > 1
  assert (np.diff(distances) > 0).all()
  assert corrupted.labels().tolist() == [0, 1, 0, 1]


def test_noise_and_contrast_are_what_their_names_say():
  grey = data.ArraySource(np.full((2, 64, 64, 1), 128, np.uint8), [0, 1], 2)
  noisy = data.CorruptedSource(grey, 'noise', 3)
  first, second = (noisy[i]['image'].astype(float) for i in range(2))
  assert first.std() == pytest.approx(0.12 * 255, rel=0.05)
  # Nor is it the same noise a few numbers on.
  a, b = first.ravel()[:-32], second.ravel()
  for lag in range(33):
    for x, y in (
      (a, b[lag : lag + len(a)]),
      (b[: len(a)], first.ravel()[lag:]),
    ):
      assert abs(np.corrcoef(x, y[: len(x)])[0, 1]) < 0.1
  pale = data.CorruptedSource(SOURCE, 'contrast', 4)[1]['image']
  mean = IMAGES[1].mean((0, 1))
  expected = np.rint(mean + 0.3 * (IMAGES[1] - mean))
  np.testing.assert_array_equal(pale, expected)


def test_noise_depends_on_seed_and_index_alone():
  one = data.CorruptedSource(SOURCE, 'noise', 1, seed=5)
  again = data.CorruptedSource(SOURCE, 'noise', 1, seed=5, limit=3)
  other = data.CorruptedSource(SOURCE, 'noise', 1, seed=6)
  np.testing.assert_array_equal(one[2]['image'], again[2]['image'])
  assert (one[2]['image'] != other[2]['image']).any()
  assert len(again) == len(again.labels()) == 3
  with pytest.raises(IndexError):
    again[3]


@pytest.mark.parametrize(
  ('change', 'match'),
  [
    ({'kind': 'blurr'}, "did you mean 'blur'"),
    ({'severity': 6}, 'from 1 to 5'),
    ({'limit': 0}, 'at least 1'),
  ],
)
def test_wrong_arguments_are_refused(change, match):
  given = {'kind': 'noise', 'severity': 1} | change
  with pytest.raises(UsageError, match=match):
    data.CorruptedSource(SOURCE, **given)
