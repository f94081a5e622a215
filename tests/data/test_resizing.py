import math
import zlib

import numpy as np
import pytest
from PIL import Image

from maxsup_jax.data import resizing
from maxsup_jax.data.resizing import RandomResizedCrop

_PILLOW = {
  'nearest': Image.Resampling.NEAREST,
  'bilinear': Image.Resampling.BILINEAR,
  'bicubic': Image.Resampling.BICUBIC,
}


def _random(*shape, seed=0):
  return np.random.default_rng(seed).integers(0, 256, shape, np.uint8)


def _pattern():
  i, j, c = np.ogrid[:45, :60, :3]
  return ((3 * i + 2 * j + 40 * c + i * j // 16) % 256).astype(np.uint8)


class TestResizeExact:
  @pytest.mark.parametrize('interpolation', _PILLOW)
  @pytest.mark.parametrize('channels', [1, 3])
  def test_equals_pillow(self, interpolation, channels):
    shape = (12, 50) if channels == 1 else (70, 9)
    image = _random(33, 20, channels)
    pillow = Image.fromarray(image.squeeze())
    expected = pillow.resize(shape[::-1], _PILLOW[interpolation])
    out = resizing.resize_exact(image, *shape, interpolation)
    np.testing.assert_array_equal(out.squeeze(), np.asarray(expected).squeeze())
    assert out.shape == (*shape, channels)

  def test_area_averages_blocks(self):
    image = _random(12, 20, 3)
    blocks = image.reshape(3, 4, 5, 4, 3).astype(float)
    out = resizing.resize_exact(image, 3, 5, 'area')
    np.testing.assert_allclose(out, blocks.mean((1, 3)), atol=0.501)

  def test_area_interpolates_where_a_side_grows(self):
    ramp = np.array([[0, 100]], np.uint8).repeat(8, 0)[..., None]
    out = resizing.resize_exact(ramp, 4, 4, 'area')
    np.testing.assert_array_equal(out[..., 0], [[0, 25, 75, 100]] * 4)

  @pytest.mark.parametrize('interpolation', resizing.INTERPOLATIONS)
  def test_other_channels_are_scaled_alike(self, interpolation):
    image = _random(9, 8, 5)
    out = resizing.resize_exact(image, 5, 11, interpolation)
    assert out.shape == (5, 11, 5)
    assert resizing.resize_exact(image, 9, 8, interpolation) is image
    for c in range(5):
      np.testing.assert_array_equal(
        out[..., c : c + 1],
        resizing.resize_exact(image[..., c : c + 1], 5, 11, interpolation),
      )

  def test_too_large(self, refused):
    with refused(
      'would make 224x448000 pixels of an image of 1x2000; expected'
    ):
      resizing.resize(np.zeros((1, 2000, 1), np.uint8), 224)


class TestResize:
  def test_the_shorter_side_gets_the_size(self):
    for shape, size, expected in (
      ((30, 45, 3), 10, (10, 15, 3)),
      ((45, 30, 1), 10, (15, 10, 1)),
      ((3, 5, 1), 7, (7, 11, 1)),  # 11.67 is rounded down.
      ((4, 6, 3), 10, (10, 15, 3)),
    ):
      assert resizing.resize(_random(*shape), size).shape == expected

  # torchvision 0.28 with Pillow 13, on the image of `_pattern`:
  # zlib.crc32(np.asarray(F.resize(Image.fromarray(image), 20)).tobytes())
  @pytest.mark.parametrize(
    ('size', 'interpolation', 'crc'),
    [
      (20, 'bilinear', 1614773747),
      (20, 'bicubic', 1883783422),
      (91, 'bicubic', 1422468593),
    ],
  )
  def test_equals_torchvision(self, size, interpolation, crc):
    out = resizing.resize(_pattern(), size, interpolation)
    assert zlib.crc32(out.tobytes()) == crc


class TestDrawCrop:
  def test_area_and_ratio(self):
    # Wide limits keep the share of rejected attempts, which bends the
    # distributions, small.
    rng, n = np.random.default_rng(0), 4000
    crops = np.array(
      [
        resizing.draw_crop(400, 400, rng, (0.1, 0.5), (0.8, 1.25))
        for _ in range(n)
      ]
    )
    top, left, height, width = crops.T
    area = height * width / 400**2
    log_ratio = np.log(width / height)
    assert np.all((top + height <= 400) & (left + width <= 400))
    for values, low, high in (
      (area, 0.1, 0.5),
      (log_ratio, math.log(0.8), math.log(1.25)),
      (top / (400 - height + 1), 0, 1),
      (left / (400 - width + 1), 0, 1),
    ):
      # The largest distance to the uniform distribution (Kolmogorov), beyond
      # 1.95 / sqrt(n) once in a thousand times.
      uniform = np.sort((values - low) / (high - low))
      distance = np.abs(uniform - np.arange(n) / n).max()
      assert distance < 1.95 / math.sqrt(n) + 0.006  # Whole pixels.
    assert abs(np.corrcoef(area, log_ratio)[0, 1]) < 5 / math.sqrt(n)

  def test_the_ratio_is_that_of_width_to_height(self):
    rng = np.random.default_rng(0)
    for shape in ((300, 300), (900, 100), (100, 900)):
      for _ in range(50):
        crop = resizing.draw_crop(*shape, rng, (0.05, 0.1), (0.5, 0.8))
        assert 0.48 < crop[3] / crop[2] < 0.83
    # No attempt fits: a share of 1 of a wide image.
    crop = resizing.draw_crop(100, 900, rng, (1, 1), (0.5, 0.8))
    assert crop == (0, 410, 100, 80)
    crop = resizing.draw_crop(900, 100, rng, (1, 1), (0.5, 0.8))
    assert crop == (350, 0, 200, 100)

  @pytest.mark.parametrize(
    ('shape', 'expected'),
    [
      ((1000, 2), (498, 0, 3, 2)),  # 2 / (3 / 4) = 2.67
      ((2, 1000), (0, 498, 2, 3)),  # 2 * 4 / 3 = 2.67
    ],
  )
  def test_what_never_fits_is_central(self, shape, expected):
    for seed in range(5):
      rng = np.random.default_rng(seed)
      assert resizing.draw_crop(*shape, rng) == expected

  def test_ten_attempts(self):
    class Largest:
      count = 0

      def uniform(self, low, high):
        self.count += 1
        return high

    rng = Largest()
    # The whole area with an aspect of 4/3 does not fit a square.
    assert resizing.draw_crop(90, 90, rng) == (0, 0, 90, 90)
    assert rng.count == 20


class TestRandomResizedCrop:
  @pytest.mark.parametrize('interpolation', _PILLOW)
  @pytest.mark.parametrize('channels', [1, 3])
  def test_equals_pillow(self, interpolation, channels):
    image = _random(50, 70, channels)
    image.flags.writeable = False
    pillow = Image.fromarray(image.squeeze())
    operation = RandomResizedCrop(24, interpolation=interpolation)
    for seed in range(20):
      rng = np.random.default_rng(seed)
      top, left, height, width = resizing.draw_crop(50, 70, rng)
      expected = pillow.crop((left, top, left + width, top + height)).resize(
        (24, 24), _PILLOW[interpolation]
      )
      out = operation(image, np.random.default_rng(seed))
      assert out.shape == (24, 24, channels)
      np.testing.assert_array_equal(out.squeeze(), expected)

  def test_equals_torchvision(self):
    # torchvision 0.28 with Pillow 13: F.resized_crop(Image.fromarray(image),
    # 5, 7, 30, 41, [24, 24], InterpolationMode.BICUBIC), as above.
    class Given:
      uniforms = iter([30 * 41 / 45 / 60, math.log(41 / 30)])
      integers_ = iter([5, 7])

      def uniform(self, low, high):
        return next(self.uniforms)

      def integers(self, high):
        return next(self.integers_)

    out = RandomResizedCrop(24, interpolation='bicubic')(_pattern(), Given())
    assert zlib.crc32(out.tobytes()) == 429691633
