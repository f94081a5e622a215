import math

import numpy as np
import pytest
from scipy import stats

from maxsup_jax.data import erasing
from maxsup_jax.data.erasing import RandomErasing

_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def _rng(seed=0):
  return np.random.default_rng(seed)


class TestDrawBox:
  def test_area_and_aspect(self):
    rng, n = _rng(), 4000
    boxes = np.array(
      [
        erasing.draw_box(500, 500, rng, (0.02, 1 / 3), (0.5, 2))
        for _ in range(n)
      ]
    )
    top, left, height, width = boxes.T
    assert np.all((top + height <= 500) & (left + width <= 500))
    for values, low, high in (
      (height * width / 500**2, 0.02, 1 / 3),
      (np.log(height / width), math.log(0.5), math.log(2)),
      (top / (500 - height + 1), 0, 1),
      (left / (500 - width + 1), 0, 1),
    ):
      uniform = np.sort((values - low) / (high - low))
      distance = np.abs(uniform - np.arange(n) / n).max()
      assert distance < 1.95 / math.sqrt(n) + 0.006  # Whole pixels.

  def test_timms_defaults(self):
    # With all draws at the upper end: a third of 90 x 90 with a height of
    # 10/3 widths would be 95 high; at the lower end 7 high and 23 wide.
    class End:
      def __init__(self, high):
        self.high = high

      def uniform(self, *limits):
        return limits[self.high]

      def integers(self, high):
        return high - 1

    assert erasing.draw_box(90, 90, End(True)) is None
    assert erasing.draw_box(90, 90, End(False)) == (83, 67, 7, 23)

  def test_ten_attempts(self):
    class Counting:
      count = 0

      def uniform(self, low, high):
        self.count += 1
        return high

    rng = Counting()
    assert erasing.draw_box(8, 8, rng, (1, 1), (1, 1)) is None
    assert rng.count == 20


class TestRandomErasing:
  def test_probability(self):
    image, rng, n = np.zeros((16, 16, 1), np.uint8), _rng(), 2000
    erase = RandomErasing(0.25, mode='const', mean=(1.0,))
    erased = sum(erase(image, rng) is not image for _ in range(n))
    assert abs(erased - n / 4) < 5 * math.sqrt(n * 3 / 16)
    assert RandomErasing(0.0)(image, rng) is image

  @pytest.mark.parametrize('mode', ['pixel', 'rand', 'const'])
  def test_only_the_box_changes(self, mode):
    image = np.random.default_rng(5).integers(0, 256, (40, 50, 3), np.uint8)
    image.flags.writeable = False
    for seed in range(20):
      rng = _rng(seed)
      rng.random()
      top, left, height, width = erasing.draw_box(40, 50, rng)
      out = RandomErasing(1.0, mode=mode, mean=_MEAN, std=_STD)(
        image, _rng(seed)
      )
      inside = np.s_[top : top + height, left : left + width]
      box = out[inside]
      kept = out.copy()
      kept[inside] = image[inside]
      np.testing.assert_array_equal(kept, image)
      if mode == 'const':
        np.testing.assert_array_equal(
          box, np.broadcast_to([124, 116, 104], box.shape)
        )
      else:
        number = len(np.unique(box.reshape(-1, 3), axis=0))
        assert number == 1 if mode == 'rand' else number > box.size / 6

  def test_the_noise_is_normal_after_normalisation(self):
    erase = RandomErasing(1.0, (0.3, 1 / 3), mean=_MEAN, std=_STD)
    image = np.full((300, 300, 3), 7, np.uint8)
    rng = _rng(1)
    rng.random()
    top, left, height, width = erasing.draw_box(300, 300, rng, (0.3, 1 / 3))
    out = erase(image, _rng(1))[top : top + height, left : left + width]
    n = height * width
    for c in range(3):
      # The distribution at the middle between two bytes is exact.
      values = out[..., c]
      edges = np.arange(255) + 0.5
      expected = stats.norm.cdf((edges / 255 - _MEAN[c]) / _STD[c])
      share = np.cumsum(np.bincount(values.ravel(), minlength=256))[:-1] / n
      assert np.abs(share - expected).max() < 1.95 / math.sqrt(n)
    flat = out.reshape(-1, 3).astype(float)
    correlation = np.corrcoef(flat.T)[np.triu_indices(3, 1)]
    assert np.abs(correlation).max() < 5 / math.sqrt(n)

  def test_statistics_of_other_channels(self, refused):
    with refused('std has 2 values; expected one for each of the 3 channels'):
      RandomErasing(1.0, std=(1.0, 1.0))(np.zeros((9, 9, 3), np.uint8), _rng())
