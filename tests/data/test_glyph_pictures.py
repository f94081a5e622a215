import dataclasses

import numpy as np
import pytest

from maxsup_jax.data import _glyph_pictures, _glyph_shapes
from maxsup_jax.data._glyph_pictures import (
  DIFFICULTIES,
  NOISE,
  SCENE,
  Difficulty,
  Draws,
  draw,
)

PLAIN = Difficulty(
  height=(0.7, 0.7),
  rotation=0.0,
  shear=0.0,
  stretch=1.0,
  shift=0.0,
  contrast=(200.0, 200.0),
  gradient=0.0,
  clutter=0,
  occluders=0,
  noise=0.0,
)


def _draw(difficulty, size=32, character=0, index=0, seed=0, split=0):
  image = draw(character, size, difficulty, seed=seed, split=split, index=index)
  return image[..., 0].astype(int)


def _plain(**changes):
  return dataclasses.replace(PLAIN, **changes)


def _philox(key, counter):
  """Philox4x64-10 (Salmon et al., 2011), one block of four numbers."""
  mask = 2**64 - 1
  k0, k1 = key
  x0, x1, x2, x3 = counter
  for _ in range(10):
    high0, low0 = divmod(x0 * 0xD2E7470EE14C6C93, 2**64)
    high1, low1 = divmod(x2 * 0xCA5A826395121157, 2**64)
    x0, x1, x2, x3 = high1 ^ x1 ^ k0, low1, high0 ^ x3 ^ k1, low0
    k0 = (k0 + 0x9E3779B97F4A7C15) & mask
    k1 = (k1 + 0xBB67AE8584CAA73B) & mask
  return x0, x1, x2, x3


class TestDraws:
  def test_bits_are_those_of_philox(self):
    seed, split, index = 2**62 + 1, 1, 12345
    raw = _philox((seed, split), (1, 0, SCENE, index))
    raw += _philox((seed, split), (2, 0, SCENE, index))
    draws = Draws(seed, split, SCENE, index)
    for bits in raw[:3]:
      assert draws.uniform(0.0, 1.0) == (bits >> 11) / 2**53
    for bits in raw[3:]:
      assert draws.below(1000) == (bits >> 32) * 1000 // 2**32

  def test_noise_is_the_sum_of_four_bytes(self):
    raw = _philox((3, 0), (1, 0, NOISE, 9))
    numbers = b''.join(bits.to_bytes(8, 'little') for bits in raw)
    expected = [sum(numbers[i : i + 4]) - 510 for i in range(0, 32, 4)]
    assert Draws(3, 0, NOISE, 9).noise(7).tolist() == expected[:7]


class TestPlaces:
  def test_affine_maps_fill_their_ranges(self):
    """Rotation times (stretch, shear and height), by a QR decomposition."""
    difficulty = DIFFICULTIES['medium']
    shape = _glyph_shapes.load_shapes()[0][0]
    points = shape.reshape(-1, 2)
    found = []
    for index in range(500):
      draws = Draws(0, 0, SCENE, index)
      placed = _glyph_pictures._place(shape, draws, difficulty).reshape(-1, 2)
      columns = np.c_[points, np.ones(len(points))]
      solution = np.linalg.lstsq(columns, placed, rcond=None)[0]
      np.testing.assert_allclose(columns @ solution, placed, atol=1e-12)
      (a, c), (b, d), shift = solution
      width = np.hypot(a, c)
      height = (a * d - b * c) / width
      found.append(
        [
          np.arctan2(c, a),
          -(a * b + c * d) / width / height,
          np.log(width / height),
          height,
          *shift,
        ]
      )
    assert np.linalg.det(solution[:2]) > 0  # No letter is mirrored.
    angle = 2 * np.arctan(difficulty.rotation)
    stretch = np.log(difficulty.stretch)
    expected = {
      'rotation': (-angle, angle),
      'shear': (-difficulty.shear, difficulty.shear),
      'stretch': (-stretch, stretch),
      'height': difficulty.height,
      'right': (-difficulty.shift, difficulty.shift),
      'down': (-difficulty.shift, difficulty.shift),
    }
    for values, (name, (low, high)) in zip(
      np.transpose(found), expected.items()
    ):
      assert low - 1e-9 <= values.min(), name
      assert values.max() <= high + 1e-9, name
      assert values.min() < low + 0.03 * (high - low), name
      assert values.max() > high - 0.03 * (high - low), name
      assert abs(values.mean() - (low + high) / 2) < 0.05 * (high - low), name

  def test_the_scene_does_not_depend_on_the_size(self):
    difficulty = dataclasses.replace(DIFFICULTIES['medium'], noise=0.0)
    for index in range(5):
      small = _draw(difficulty, 32, index=index)
      large = _draw(difficulty, 64, index=index)
      averaged = large.reshape(32, 2, 32, 2).mean((1, 3))
      assert abs(small - averaged).mean() < 3


class TestPixels:
  def test_a_plain_letter_has_two_levels(self):
    seen = set()
    for index in range(20):
      image = _draw(PLAIN, index=index, character=7)
      corner, centre = image[0, 0], image.min() + image.max() - image[0, 0]
      assert image.max() - image.min() == 200
      assert {corner, centre} == {image.min(), image.max()}
      draws = Draws(0, 0, SCENE, index)
      draws.uniform(0.0, 1.0)  # The contrast, which is fixed here.
      assert image.min() == round(draws.uniform(0.0, 55.0))
      seen.add(bool(centre > corner))
    assert seen == {True, False}  # Light on dark, and dark on light.

  def test_noise_has_the_standard_deviation_it_says(self):
    for noise in (5.0, 12.0):
      difficulty = _plain(noise=noise, height=(1e-6, 1e-6), contrast=(0, 0))
      images = [_draw(difficulty, 64, index=i) for i in range(20)]
      # Away from black and white, where it is cut off.
      spread = [i.std() for i in images if 60 < i.mean() < 195]
      assert np.mean(spread) == pytest.approx(np.hypot(noise, 0.29), rel=0.007)

  def test_clutter_is_behind_and_occluders_are_in_front(self):
    letter_changes = {}
    for field in ('clutter', 'occluders'):
      changed = 0
      for index in range(30):
        clean = _draw(PLAIN, index=index, character=_index('H'))
        other = _draw(_plain(**{field: 3}), index=index, character=_index('H'))
        levels = {clean.min(), clean.max()} - {clean[0, 0]}
        changed += (other[np.isin(clean, list(levels))] != levels.pop()).sum()
      letter_changes[field] = changed
    assert letter_changes['clutter'] == 0
    assert letter_changes['occluders'] > 100


def _index(character):
  return _glyph_shapes.CHARACTERS.index(character)
