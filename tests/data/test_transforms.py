import collections

import numpy as np
import pytest

from maxsup_jax.data import transforms


def _random(*shape, seed=0):
  return np.random.default_rng(seed).integers(0, 256, shape, np.uint8)


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


class TestResize:
  @pytest.mark.parametrize('channels', [1, 3])
  def test_shrinking_by_a_whole_factor_averages_blocks(self, channels):
    image = _random(12, 20, channels)
    blocks = image.reshape(3, 4, 5, 4, channels).astype(float)
    out = transforms.resize(image, 3)
    assert out.dtype == np.uint8
    np.testing.assert_allclose(out, blocks.mean((1, 3)), atol=0.501)

  def test_nothing_aliases(self):
    stripes = np.zeros((64, 64, 1), np.uint8)
    stripes[:, ::2] = 200
    # Picking or interpolating pixels would give 0 or 200 somewhere.
    out = transforms.resize(stripes, 16)
    np.testing.assert_array_equal(out, 100)

  def test_enlarging_interpolates(self):
    ramp = np.array([[0, 100]], np.uint8).repeat(2, 0)[..., None]
    out = transforms.resize(ramp, 4)[0, :, 0]
    np.testing.assert_array_equal(out, [0, 25, 75, 100])

  @pytest.mark.parametrize(
    ('shape', 'size', 'expected'),
    [
      ((30, 45, 3), 10, (10, 15, 3)),
      ((45, 30, 1), 10, (15, 10, 1)),
      ((7, 10, 1), 3, (3, 4, 1)),  # 10 * 3 / 7 = 4.29
      ((8, 10, 1), 2, (2, 3, 1)),  # 2.5 is rounded up
      ((4, 6, 3), 10, (10, 15, 3)),
    ],
  )
  def test_the_shorter_side_gets_the_size(self, shape, size, expected):
    assert transforms.resize(_random(*shape), size).shape == expected

  def test_the_right_size_is_kept(self):
    image = _random(5, 9, 3)
    assert transforms.resize(image, 5) is image


class TestCenterCrop:
  @pytest.mark.parametrize(
    ('length', 'size', 'start'), [(8, 4, 2), (7, 4, 1), (5, 5, 0), (5, 2, 1)]
  )
  def test_takes_the_middle(self, length, size, start):
    image = _random(length, length + 2, 3)
    np.testing.assert_array_equal(
      transforms.center_crop(image, size),
      image[start : start + size, start + 1 : start + 1 + size],
    )

  def test_too_small(self):
    with pytest.raises(ValueError, match='a 5x3 image has no 4x4 crop'):
      transforms.center_crop(_random(5, 3, 1), 4)


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


class TestAugment:
  def test_applies_both_with_one_generator(self):
    image, rng = _random(6, 6, 3), np.random.default_rng(3)
    expected = transforms.pad_and_crop(image, rng, 2)
    expected = transforms.flip_left_right(expected, rng)
    out = transforms.Augment(pad=2, flip=True)(image, np.random.default_rng(3))
    np.testing.assert_array_equal(out, expected)

  def test_nothing_by_default(self):
    image, rng = _random(6, 6, 3), np.random.default_rng(3)
    state = rng.bit_generator.state
    assert transforms.Augment()(image, rng) is image
    assert rng.bit_generator.state == state

  @pytest.mark.parametrize(
    'fields', [{'pad': -1}, {'pad': 1.5}, {'pad': True}, {'flip': 1}]
  )
  def test_refuses(self, fields, refused):
    with refused(f'augment.{next(iter(fields))} must be'):
      transforms.Augment(**fields)
