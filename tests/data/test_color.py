import math
import zlib

import numpy as np
import pytest
from PIL import Image, ImageEnhance

from maxsup_jax.data.color import ColorJitter, Standardize, TfDistort


def _random(*shape, seed=0):
  return np.random.default_rng(seed).integers(0, 256, shape, np.uint8)


def _pattern():
  i, j, c = np.ogrid[:45, :60, :3]
  return ((3 * i + 2 * j + 40 * c + i * j // 16) % 256).astype(np.uint8)


def _rng(seed=0):
  return np.random.default_rng(seed)


_WEIGHTS = np.array([299, 587, 114]) / 1000  # ITU-R 601.


class TestColorJitter:
  def test_hue_and_saturation_leave_grey_alone(self):
    image = _random(6, 6, 1)
    out = ColorJitter(saturation=0.9, hue=0.5)(image, _rng())
    np.testing.assert_array_equal(out, image)

  def test_equals_pillow_in_the_order_of_the_permutation(self):
    image = _random(9, 8, 3)
    image.flags.writeable = False
    jitter = ColorJitter(0.4, (0.5, 0.9), 1.5, 0.1)
    orders = set()
    for seed in range(40):
      rng = _rng(seed)
      order = rng.permutation(4)
      factors = [
        rng.uniform(0.6, 1.4),
        rng.uniform(0.5, 0.9),
        rng.uniform(0, 2.5),
        rng.uniform(-0.1, 0.1),
      ]
      out = Image.fromarray(image)
      for k in order:
        if k < 3:
          kind = ('Brightness', 'Contrast', 'Color')[k]
          out = getattr(ImageEnhance, kind)(out).enhance(factors[k])
        else:
          h, s, v = out.convert('HSV').split()
          h = h.point([(i + int(255 * factors[3])) % 256 for i in range(256)])
          out = Image.merge('HSV', (h, s, v)).convert('RGB')
      np.testing.assert_array_equal(jitter(image, _rng(seed)), out)
      orders.add(tuple(order))
    assert len(orders) > 15

  def test_equals_torchvision(self):
    # torchvision 0.28 with Pillow 13, on the image of `_pattern`: the CRC-32 of
    # F.adjust_hue(F.adjust_saturation(F.adjust_contrast(
    #   F.adjust_brightness(image, 1.3), 0.7), 1.4), -0.1)
    class InOrder:
      def permutation(self, n):
        return range(n)

      def uniform(self, low, high):
        assert low == high
        return low

    jitter = ColorJitter((1.3, 1.3), (0.7, 0.7), (1.4, 1.4), (-0.1, -0.1))
    out = jitter(_pattern(), InOrder())
    assert zlib.crc32(out.tobytes()) == 1601258731


class TestTfDistort:
  @pytest.mark.parametrize('dtype', [np.uint8, np.float32])
  def test_equals_the_definition(self, dtype):
    image = _random(6, 5, 3).astype(dtype)
    image.flags.writeable = False
    rng = _rng(4)
    delta, factor = rng.uniform(-63, 63), rng.uniform(0.2, 1.8)
    brighter = image.astype(float) + delta
    mean = brighter.mean((0, 1))
    expected = (brighter - mean) * factor + mean
    out = TfDistort()(image, _rng(4))
    assert out.dtype == np.float32
    np.testing.assert_allclose(out, expected, rtol=1e-5, atol=1e-4)


class TestStandardize:
  @pytest.mark.parametrize('dtype', [np.uint8, np.float32])
  def test_equals_the_definition(self, dtype):
    image = _random(6, 5, 3).astype(dtype)
    out = Standardize()(image, None)
    assert out.dtype == np.float32
    values = image.astype(float)
    expected = (values - values.mean()) / values.std()
    np.testing.assert_allclose(out, expected, atol=1e-6)

  def test_small_deviations(self):
    image = np.full((5, 5, 3), 100, np.uint8)
    assert not Standardize()(image).any()
    nearly = image.astype(np.float32)
    nearly[0, 0, 0] += 0.01  # A standard deviation of 0.0011 < 1 / sqrt(75).
    expected = (nearly.astype(float) - nearly.mean(dtype=float)) * math.sqrt(75)
    np.testing.assert_allclose(Standardize()(nearly), expected, atol=1e-6)
