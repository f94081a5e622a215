import collections
import zlib

import numpy as np
import pytest

from maxsup_jax.data import transforms
from maxsup_jax.data.transforms import Flip, PadAndCrop, RandomCrop, Rotate


def _random(*shape, seed=0):
  return np.random.default_rng(seed).integers(0, 256, shape, np.uint8)


def _pattern():
  i, j, c = np.ogrid[:45, :60, :3]
  return ((3 * i + 2 * j + 40 * c + i * j // 16) % 256).astype(np.uint8)


def _assert_equally_likely(outcomes, expected):
  """Every outcome is as likely as any other."""
  counts, n, k = collections.Counter(outcomes), len(outcomes), len(expected)
  assert set(counts) == set(expected)
  deviation = 5 * np.sqrt(n / k * (1 - 1 / k))
  assert all(abs(c - n / k) < deviation for c in counts.values())


def test_grey_becomes_colour():
  image = _random(5, 6, 1)
  out = transforms.to_channels(image, 3)
  np.testing.assert_array_equal(out, np.concatenate([image] * 3, axis=-1))
  assert transforms.to_channels(out, 3) is out
  with pytest.raises(ValueError, match='4 channels cannot be converted to 3'):
    transforms.to_channels(_random(5, 6, 4), 3)


class TestCenterCrop:
  def test_takes_the_middle(self):
    # torchvision: round((length - size) / 2), a half to the even one.
    for length, size, start in ((8, 4, 2), (7, 4, 2), (5, 2, 2), (5, 4, 0)):
      image = _random(length, length, 3)
      out = transforms.center_crop(image, size)
      end = start + size
      np.testing.assert_array_equal(out, image[start:end, start:end])
      assert np.shares_memory(out, image)

  def test_pads_with_zeros(self):
    image = 1 + _random(5, 9, 1) // 2
    expected = np.pad(image, ((1, 2), (0, 0), (0, 0)))[:, 0:8]
    np.testing.assert_array_equal(transforms.center_crop(image, 8), expected)

  # torchvision 0.28, on the image of `_pattern`:
  # zlib.crc32(np.asarray(F.center_crop(Image.fromarray(image), 32)).tobytes())
  @pytest.mark.parametrize(
    ('size', 'crc'), [(32, 1841110714), (50, 3314770104)]
  )
  def test_equals_torchvision(self, size, crc):
    out = transforms.center_crop(_pattern(), size)
    assert zlib.crc32(out.tobytes()) == crc


class TestRandomCrop:
  def test_every_place_is_equally_likely(self):
    image = np.arange(12, dtype=np.uint8).reshape(3, 4, 1)
    rng, crop = np.random.default_rng(0), RandomCrop(2)
    outs = [crop(image, rng) for _ in range(6000)]
    _assert_equally_likely([out[0, 0, 0] for out in outs], (0, 1, 2, 4, 5, 6))
    for out in outs[:20]:
      np.testing.assert_array_equal(out[..., 0] - out[0, 0], [[0, 1], [4, 5]])

  def test_pads_first(self):
    image = 1 + _random(3, 3, 1) // 2
    padded = np.pad(image, ((2, 2), (2, 2), (0, 0)))
    windows = {
      padded[i : i + 5, j : j + 5].tobytes() for i in range(3) for j in range(3)
    }
    rng = np.random.default_rng(0)
    outs = [RandomCrop(5, padding=2)(image, rng) for _ in range(200)]
    assert {out.tobytes() for out in outs} == windows

  def test_too_small(self, refused):
    image, rng = _random(9, 7, 1), np.random.default_rng(0)
    with refused(r'^random_crop: a 9x7 image has no 8x8 crop$'):
      RandomCrop(8)(image, rng)
    with refused(r'a 11x9 image \(with padding=1\) has no 10x10 crop'):
      RandomCrop(10, padding=1)(image, rng)


class TestRotate:
  @pytest.mark.parametrize('channels', [1, 3])
  def test_quarter_turns(self, channels):
    image = _random(8, 8, channels)
    for turns in range(4):
      out = Rotate((90 * turns, 90 * turns))(image, np.random.default_rng(0))
      np.testing.assert_array_equal(out, np.rot90(image, turns))

  def test_equals_torchvision(self):
    # torchvision 0.28: F.rotate(Image.fromarray(image), 17), as above.
    out = Rotate((17, 17))(_pattern(), np.random.default_rng(0))
    assert zlib.crc32(out.tobytes()) == 2528745060

  def test_the_angle_is_uniform(self):
    image = _random(31, 31, 1)
    for degrees, low, high in ((30, -30, 30), ((10, 20), 10, 20)):
      for seed in range(5):
        angle = np.random.default_rng(seed).uniform(low, high)
        np.testing.assert_array_equal(
          Rotate(degrees)(image, np.random.default_rng(seed)),
          Rotate((angle, angle))(image, np.random.default_rng(0)),
        )


class TestPadAndCrop:
  def test_equals_padding_then_cropping(self):
    for padding, image in ((2, _random(6, 9, 3)), (5, _random(2, 3, 1))):
      rng, same = np.random.default_rng(1), np.random.default_rng(1)
      padded = np.pad(image, ((padding, padding), (padding, padding), (0, 0)))
      height, width, _ = image.shape
      for _ in range(50):
        top, left = (
          padding - same.integers(-padding, padding + 1) for _ in range(2)
        )
        np.testing.assert_array_equal(
          PadAndCrop(padding)(image, rng),
          padded[top : top + height, left : left + width],
        )

  def test_every_shift_is_equally_likely(self):
    image = np.zeros((5, 5, 1), np.uint8)
    image[2, 2] = 1
    rng, shift = np.random.default_rng(0), PadAndCrop(1)
    places = [
      tuple(np.argwhere(shift(image, rng)[..., 0])[0].tolist())
      for _ in range(9000)
    ]
    near = (1, 2, 3)
    _assert_equally_likely(places, [(i, j) for i in near for j in near])


class TestFlip:
  @pytest.mark.parametrize('probability', [0.5, 0.2])
  def test_mirrors_now_and_then(self, probability):
    # A view, which is mirrored as well.
    image = transforms.center_crop(_random(8, 9, 1), 4)
    image.flags.writeable = False
    rng, n = np.random.default_rng(0), 4000
    outs = [Flip(probability)(image, rng).tobytes() for _ in range(n)]
    mirrored = image[:, ::-1].tobytes()
    assert set(outs) == {image.tobytes(), mirrored}
    share = np.mean([out == mirrored for out in outs])
    assert abs(share - probability) < 5 * np.sqrt(
      probability * (1 - probability) / n
    )

  def test_never_and_always(self):
    image, rng = _random(4, 6, 3).astype(np.float32), np.random.default_rng(0)
    assert Flip(0.0)(image, rng) is image
    np.testing.assert_array_equal(Flip(1.0)(image, rng), image[:, ::-1])
