import dataclasses

import numpy as np
import pytest

from maxsup_jax.data import _glyph_pictures, _glyph_random, _glyph_shapes
from maxsup_jax.data._glyph_pictures import DIFFICULTIES, Difficulty, draw
from maxsup_jax.data._glyph_random import NOISE, ORDER, SCENE, Draws

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

  def test_noise_is_nearly_normal(self):
    noise = Draws(0, 0, NOISE, 0).noise(200_000)
    assert abs(noise.mean()) < 1.5
    assert noise.std() == pytest.approx(_glyph_random.NOISE_SD, rel=0.01)
    within = (abs(noise) < _glyph_random.NOISE_SD).mean()
    assert within == pytest.approx(0.683, abs=0.02)

  def test_permutations(self):
    orders = [Draws(0, 0, ORDER, i).permutation(5) for i in range(2000)]
    assert all(sorted(order) == list(range(5)) for order in orders)
    first = np.bincount([order[0] for order in orders])
    assert abs(first - 400).max() < 80

  def test_ranges_are_filled_evenly(self):
    draws = Draws(0, 0, SCENE, 0)
    counts = np.bincount([draws.below(7) for _ in range(7000)], minlength=7)
    assert abs(counts - 1000).max() < 120
    values = [draws.uniform(-3.0, 5.0) for _ in range(4000)]
    assert min(values) == pytest.approx(-3, abs=0.02)
    assert max(values) == pytest.approx(5, abs=0.02)
    assert np.mean(values) == pytest.approx(1, abs=0.15)

  def test_streams_differ(self):
    keys = [
      (seed, split, stream, index)
      for seed in (0, 1)
      for split in (0, 1)
      for stream in (SCENE, NOISE, ORDER)
      for index in (0, 1, 2)
    ]
    assert len({Draws(*key).uniform(0.0, 1.0) for key in keys}) == len(keys)


class TestPlaces:
  def test_affine_maps_fill_their_ranges(self):
    """Rotation times (stretch, shear and height), by a QR decomposition."""
    difficulty = DIFFICULTIES['medium']
    shape = _glyph_shapes.load_shapes()[0][0]
    points = shape.reshape(-1, 2)
    found = []
    for index in range(1500):
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
      assert values.min() < low + 0.02 * (high - low), name
      assert values.max() > high - 0.02 * (high - low), name
      assert abs(values.mean() - (low + high) / 2) < 0.03 * (high - low), name

  def test_directions_are_unit_vectors(self):
    for index in range(50):
      cos, sin = _glyph_pictures._direction(Draws(0, 0, SCENE, index), 1.0)
      assert cos**2 + sin**2 == pytest.approx(1, abs=1e-15)
      assert cos >= 0

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

  def test_height(self):
    image = _draw(_plain(height=(0.5, 0.5)), 64, _index('I'))
    rows = np.flatnonzero((image != image[0, 0]).any(axis=1))
    assert rows.min() in (15, 16)
    assert rows.max() in (47, 48)

  def test_noise_has_the_standard_deviation_it_says(self):
    for noise in (5.0, 12.0):
      difficulty = _plain(noise=noise, height=(1e-6, 1e-6), contrast=(0, 0))
      images = [_draw(difficulty, 64, index=i) for i in range(20)]
      # Away from black and white, where it is cut off.
      spread = [i.std() for i in images if 60 < i.mean() < 195]
      assert np.mean(spread) == pytest.approx(np.hypot(noise, 0.29), rel=0.007)

  def test_gradient(self):
    difficulty = _plain(gradient=0.5, height=(1e-6, 1e-6))
    changes = []
    for index in range(100):
      image = _draw(difficulty, 16, index=index)
      # A plane: the middle is the mean of opposite points.
      assert abs(image + image[::-1, ::-1] - 2 * image.mean()).max() <= 2 or (
        image.min() == 0 or image.max() == 255
      )
      changes.append(np.hypot(*(np.diff(image, axis=a).mean() for a in (0, 1))))
    assert 16 * max(changes) == pytest.approx(0.5 * 200, rel=0.1)
    assert min(changes) < 1

  @pytest.mark.parametrize('field', ['clutter', 'occluders'])
  def test_clutter_and_occluders_lie_between_the_levels(self, field):
    clean = [_draw(PLAIN, index=i) for i in range(30)]
    full = [_draw(_plain(**{field: 2}), index=i) for i in range(30)]
    changed = [(a != b).mean() for a, b in zip(clean, full)]
    assert 0.02 < np.mean(changed) < 0.4
    for a, b in zip(clean, full):
      assert b.min() >= a.min()
      assert b.max() <= a.max()

  def test_clutter_is_beside(self):
    changed = np.zeros((32, 32))
    for index in range(60):
      clean = _draw(PLAIN, index=index, character=_index('I'))
      other = _draw(_plain(clutter=1), index=index, character=_index('I'))
      # What the letter itself covers cannot change.
      changed += clean != other
    middle = changed[12:20, 6:26].mean()
    border = (changed.sum() - changed[4:28, 4:28].sum()) / (32**2 - 24**2)
    assert border > 2 * middle

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

  def test_difficulty_grows_in_every_respect(self):
    easy, medium, hard = (
      dataclasses.asdict(DIFFICULTIES[d]) for d in ('easy', 'medium', 'hard')
    )
    for a, b in ((easy, medium), (medium, hard)):
      for field in a:
        if field in ('height', 'contrast'):
          assert a[field] > b[field]
        else:
          assert a[field] < b[field], field

  def test_difficulty_is_measurable(self):
    """Noise against the pixels beside; the contrast left in blocks of 4x4."""
    noise, contrast = [], []
    for difficulty in ('easy', 'medium', 'hard'):
      images = np.stack(
        [
          _draw(DIFFICULTIES[difficulty], index=i, character=i % 26)
          for i in range(100)
        ]
      )
      noise.append(np.median(abs(np.diff(images[:, :3]))))
      blocks = images.reshape(-1, 8, 4, 8, 4).mean((2, 4))
      contrast.append(blocks.std((1, 2)).mean())
    assert noise == sorted(noise)
    assert noise[0] * 1.5 < noise[1]
    assert contrast == sorted(contrast, reverse=True)


def _index(character):
  return _glyph_shapes.CHARACTERS.index(character)
