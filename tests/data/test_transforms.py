import collections
import zlib

import numpy as np
import pytest

from maxsup_jax.data import transforms
from maxsup_jax.data.transforms import (
  CenterCrop,
  Flip,
  PadAndCrop,
  RandomCrop,
  Rotate,
)


def _random(*shape, seed=0):
  return np.random.default_rng(seed).integers(0, 256, shape, np.uint8)


def _pattern():
  i, j, c = np.ogrid[:45, :60, :3]
  return ((3 * i + 2 * j + 40 * c + i * j // 16) % 256).astype(np.uint8)


class TestToChannels:
  def test_grey_is_repeated(self):
    image = _random(5, 6, 1)
    out = transforms.to_channels(image, 3)
    np.testing.assert_array_equal(out, np.concatenate([image] * 3, axis=-1))

  def test_what_fits_is_kept(self):
    image = _random(5, 6, 3)
    assert transforms.to_channels(image, 3) is image

  def test_others_are_refused(self):
    with pytest.raises(ValueError, match='4 channels cannot become one of 3'):
      transforms.to_channels(_random(5, 6, 4), 3)


class TestCenterCrop:
  # torchvision's offsets: round((length - size) / 2), a half to the even one.
  @pytest.mark.parametrize(
    ('length', 'size', 'start'),
    [(8, 4, 2), (7, 4, 2), (5, 5, 0), (5, 2, 2), (5, 4, 0), (9, 4, 2)],
  )
  def test_takes_the_middle(self, length, size, start):
    image = _random(length, length, 3)
    out = transforms.center_crop(image, size)
    np.testing.assert_array_equal(
      out, image[start : start + size, start : start + size]
    )
    assert np.shares_memory(out, image)

  def test_pads_with_zeros(self):
    image = 1 + _random(5, 9, 1) // 2
    out = transforms.center_crop(image, 8)
    expected = np.pad(image, ((1, 2), (0, 0), (0, 0)))[:, 0:8]
    np.testing.assert_array_equal(out, expected)
    one = np.full((1, 1, 3), 9, np.uint8)
    expected = np.pad(one, ((1, 2), (1, 2), (0, 0)))
    np.testing.assert_array_equal(transforms.center_crop(one, 4), expected)

  # torchvision 0.28, on the image of `_pattern`:
  # zlib.crc32(np.asarray(F.center_crop(Image.fromarray(image), 32)).tobytes())
  @pytest.mark.parametrize(
    ('size', 'crc'), [(32, 1841110714), (50, 3314770104)]
  )
  def test_equals_torchvision(self, size, crc):
    out = transforms.center_crop(_pattern(), size)
    assert zlib.crc32(out.tobytes()) == crc

  def test_operation(self):
    image = _random(9, 7, 3).astype(np.float32)
    out = CenterCrop(4)(image)
    np.testing.assert_array_equal(out, transforms.center_crop(image, 4))
    assert not CenterCrop.random


class TestRandomCrop:
  def test_every_place_is_equally_likely(self):
    image = np.arange(12, dtype=np.uint8).reshape(3, 4, 1)
    rng, n = np.random.default_rng(0), 6000
    outs = [transforms.random_crop(image, rng, 2) for _ in range(n)]
    assert all(np.shares_memory(out, image) for out in outs)
    counts = collections.Counter(out[0, 0, 0] for out in outs)
    assert set(counts) == {0, 1, 2, 4, 5, 6}
    deviation = 5 * np.sqrt(n * 1 / 6 * 5 / 6)
    assert all(abs(c - n / 6) < deviation for c in counts.values())
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
      out = transforms.rotate(image, 90 * turns)
      np.testing.assert_array_equal(out, np.rot90(image, turns))

  def test_corners_are_zeros(self):
    out = transforms.rotate(np.full((31, 31, 1), 9, np.uint8), 45)[..., 0]
    i, j = np.ogrid[-15:16, -15:16]
    distance = np.abs(i) + np.abs(j)  # The rotated square is a diamond.
    limit = 15.5 * np.sqrt(2)
    assert np.all(out[distance < limit - 1] == 9)
    assert np.all(out[distance > limit + 1] == 0)

  def test_equals_torchvision(self):
    # torchvision 0.28: F.rotate(Image.fromarray(image), 17), as above.
    out = transforms.rotate(_pattern(), 17)
    assert zlib.crc32(out.tobytes()) == 2528745060

  @pytest.mark.parametrize(
    ('degrees', 'low', 'high'), [(15, -15, 15), ((10, 20), 10, 20), (0, 0, 0)]
  )
  def test_the_angle_is_uniform(self, degrees, low, high, monkeypatch):
    angles = []
    monkeypatch.setattr(transforms, 'rotate', lambda i, a: angles.append(a))
    rng = np.random.default_rng(0)
    for _ in range(1000):
      Rotate(degrees)(None, rng)
    assert low <= min(angles) <= low + (high - low) / 50
    assert high - (high - low) / 50 <= max(angles) <= high
    assert abs(np.mean(angles) - (low + high) / 2) <= (high - low) / 20

  def test_operation(self):
    image = _random(9, 7, 3)
    angle = np.random.default_rng(3).uniform(-30, 30)
    np.testing.assert_array_equal(
      Rotate(30)(image, np.random.default_rng(3)),
      transforms.rotate(image, angle),
    )


class TestPadAndCrop:
  def test_equals_padding_then_cropping(self):
    image, padding = _random(6, 9, 3), 2
    rng, same = np.random.default_rng(1), np.random.default_rng(1)
    padded = np.pad(image, ((padding, padding), (padding, padding), (0, 0)))
    for _ in range(50):
      top, left = (
        padding - same.integers(-padding, padding + 1) for _ in range(2)
      )
      np.testing.assert_array_equal(
        transforms.pad_and_crop(image, rng, padding),
        padded[top : top + 6, left : left + 9],
      )

  def test_every_shift_is_equally_likely(self):
    image = np.zeros((5, 5, 1), np.uint8)
    image[2, 2] = 1
    rng, n = np.random.default_rng(0), 9000
    counts = collections.Counter(
      tuple(np.argwhere(transforms.pad_and_crop(image, rng, 1)[..., 0])[0])
      for _ in range(n)
    )
    assert set(counts) == {(i, j) for i in (1, 2, 3) for j in (1, 2, 3)}
    deviation = 5 * np.sqrt(n * 1 / 9 * 8 / 9)
    assert all(abs(c - n / 9) < deviation for c in counts.values())

  def test_padding_beyond_the_image(self):
    rng = np.random.default_rng(0)
    outs = [
      transforms.pad_and_crop(_random(2, 3, 1), rng, 5) for _ in range(99)
    ]
    assert all(out.shape == (2, 3, 1) for out in outs)
    assert any(out.any() for out in outs)
    assert any(not out.any() for out in outs)

  def test_the_image_is_not_changed(self):
    image = _random(4, 4, 1)
    image.flags.writeable = False
    out = transforms.pad_and_crop(image, np.random.default_rng(0), 1)
    assert not np.shares_memory(out, image)

  def test_operation(self):
    image = _random(6, 9, 3).astype(np.float32)
    np.testing.assert_array_equal(
      PadAndCrop(2)(image, np.random.default_rng(1)),
      transforms.pad_and_crop(image, np.random.default_rng(1), 2),
    )


class TestFlip:
  @pytest.mark.parametrize('channels', [1, 3])
  def test_mirrors_half_of_the_time(self, channels):
    image, rng, n = _random(4, 6, channels), np.random.default_rng(0), 4000
    image.flags.writeable = False
    flipped = 0
    for _ in range(n):
      out = transforms.flip_left_right(image, rng)
      is_mirrored = not np.array_equal(out, image)
      np.testing.assert_array_equal(
        out, image[:, ::-1] if is_mirrored else image
      )
      flipped += is_mirrored
    assert abs(flipped - n / 2) < 5 * np.sqrt(n / 4)

  def test_operation(self):
    image, n = _random(4, 6, 3).astype(np.float32), 2000
    mirrored = image[:, ::-1]
    rng = np.random.default_rng(0)
    assert Flip(0.0)(image, rng) is image
    np.testing.assert_array_equal(Flip(1.0)(image, rng), mirrored)
    flip = Flip(probability=0.2)
    share = np.mean([(flip(image, rng) == mirrored).all() for _ in range(n)])
    assert abs(share - 0.2) < 5 * np.sqrt(0.2 * 0.8 / n)

  def test_a_view_is_mirrored_too(self):
    image = transforms.center_crop(_random(8, 9, 1), 4)
    outs = [
      transforms.flip_left_right(image, np.random.default_rng(seed))
      for seed in range(9)
    ]
    assert {o.tobytes() for o in outs} == {
      image.tobytes(),
      image[:, ::-1].tobytes(),
    }


@pytest.mark.parametrize(
  ('make', 'match'),
  [
    (lambda: PadAndCrop(-1), 'pad_and_crop: padding must be an integer >= 0'),
    (lambda: PadAndCrop(1.5), 'pad_and_crop: padding must be'),
    (lambda: Flip(1.1), r'flip: probability must be a number in \[0, 1\]'),
    (lambda: Flip(True), 'flip: probability must be'),
    (lambda: Flip(float('nan')), 'flip: probability must be'),
    (lambda: CenterCrop(0), 'center_crop: size must be an integer >= 1'),
    (lambda: CenterCrop('8'), 'center_crop: size must be'),
    (lambda: RandomCrop(0), 'random_crop: size must be'),
    (lambda: RandomCrop(8, -1), 'random_crop: padding must be'),
    (lambda: Rotate(-1), 'rotate: degrees must be a number in .*, not -1'),
    (lambda: Rotate((5, 1)), r'degrees must be two numbers \(low, high\) in'),
    (lambda: Rotate((1, 2, 3)), 'rotate: degrees must be two numbers'),
  ],
)
def test_refuses(make, match, refused):
  with refused(match):
    make()
