import collections
import math
import zlib

import numpy as np
import pytest
from PIL import Image, ImageEnhance, ImageOps

from maxsup_jax.data import rand_augment
from maxsup_jax.data.rand_augment import NAMES, RandAugment, Spec, parse_spec

_IMAGENET = (0.485, 0.456, 0.406)
_BICUBIC = Image.Resampling.BICUBIC
_OPTIONS = {'fill': (124, 116, 104), 'resampling': _BICUBIC}


def _random(*shape, seed=0):
  return np.random.default_rng(seed).integers(0, 256, shape, np.uint8)


def _pattern():
  i, j, c = np.ogrid[:45, :60, :3]
  return ((3 * i + 2 * j + 40 * c + i * j // 16) % 256).astype(np.uint8)


class TestParseSpec:
  @pytest.mark.parametrize(
    ('text', 'expected'),
    [
      ('m9-mstd0.5-inc1', Spec(9, 0.5, True, 2)),
      ('rand-m9-mstd0.5-inc1', Spec(9, 0.5, True, 2)),
      ('inc1-n3-m7', Spec(7, 0.0, True, 3)),
      ('mstd1', Spec(10, 1.0, False, 2)),
      ('m0-inc0-n1', Spec(0, 0.0, False, 1)),
      ('rand', Spec()),
    ],
  )
  def test_reads(self, text, expected):
    assert parse_spec(text) == expected

  @pytest.mark.parametrize(
    ('text', 'match'),
    [
      ('', "rand_augment: '' in '' is not one of mN, mstdX, incN and nN"),
      ('m9-p0.5', "'p0.5' in 'm9-p0.5' is not one of"),
      ('m9-mmax20', "'mmax20'"),
      ('m9-tweights', "'tweights'"),
      ('m9.5', "'m9.5' in 'm9.5'"),
      ('m', "'m' in"),
      ('m-9', "'m' in"),
      ('mstd', "'mstd' in"),
      ('M9', "'M9' in"),
      ('m9 -inc1', "'m9 ' in"),
      ('augmix-m3', "'augmix' in"),
      ('m9-rand', "'rand' in"),
      ('m11', r"m must be in \[0, 10\], not 11 as in 'm11'"),
      ('m9-mstd101', r'mstd must be in \[0, 100\], not 101.0'),
      ('inc2', r'inc must be in \[0, 1\], not 2'),
      ('n0', r'n must be in \[1, 100\], not 0'),
      ('m9-m8', "m comes twice in 'm9-m8'"),
    ],
  )
  def test_refuses(self, text, match, refused):
    with refused(match):
      RandAugment(text)


class TestStrength:
  # timm 1.0.31: LEVEL_TO_ARG[name](level, {}) with random.random = lambda: 0,
  # and with random.random = lambda: 1 for `negative`; see `TestApply` too.
  @pytest.mark.parametrize(
    ('name', 'magnitude', 'increasing', 'plain'),
    [
      ('Rotate', 9, (27.0, -27.0), 27.0),
      ('ShearX', 9, (0.27, -0.27), 0.27),
      ('ShearY', 5, (0.15, -0.15), 0.15),
      ('TranslateX', 9, (0.405, -0.405), 0.405),
      ('TranslateY', 10, (0.45, -0.45), 0.45),
      ('Posterize', 9, (1, 1), 3),
      ('Posterize', 10, (0, 0), 4),
      ('Posterize', 2.4, (4, 4), 0),
      ('Solarize', 9, (26, 26), 230),
      ('Solarize', 0, (256, 256), 0),
      ('SolarizeAdd', 9, (99, 99), 99),
      ('SolarizeAdd', 10, (110, 110), 110),
      ('Color', 9, (1.81, 0.19), 1.72),
      ('Contrast', 10, (1.9, 0.1), 1.9),
      ('Brightness', 0, (1.0, 1.0), 0.1),
      ('Sharpness', 5, (1.45, 0.55), 1.0),
      ('Invert', 9, (None, None), None),
      ('Equalize', 9, (None, None), None),
      ('AutoContrast', 9, (None, None), None),
    ],
  )
  def test_equals_timm(self, name, magnitude, increasing, plain):
    def strength(increasing, negative):
      return rand_augment.strength(
        name, magnitude, increasing=increasing, negative=negative
      )

    for argument, expected in (
      (strength(True, False), increasing[0]),
      (strength(True, True), increasing[1]),
      (strength(False, False), plain),
    ):
      if expected is None:
        assert argument is None
      else:
        assert type(argument) is type(expected)
        assert argument == pytest.approx(expected, rel=1e-12)


class TestApply:
  # timm 1.0.31 with Pillow 13, on the image of `_pattern`: the CRC-32 of
  # AugmentOp(name, prob=1, magnitude=7, hparams={'img_mean': (124, 116, 104),
  # 'interpolation': Image.BICUBIC})(image), random.random being lambda: 0.
  @pytest.mark.parametrize(
    ('name', 'crc'),
    [
      ('AutoContrast', 272101789),
      ('Equalize', 3079905666),
      ('Invert', 2575625156),
      ('Rotate', 4117068969),
      ('Posterize', 116570245),
      ('Solarize', 3743738186),
      ('SolarizeAdd', 2256490867),
      ('Color', 1381344694),
      ('Contrast', 2056750451),
      ('Brightness', 458076115),
      ('Sharpness', 1189747026),
      ('ShearX', 757502709),
      ('ShearY', 2824034587),
      ('TranslateX', 2421162278),
      ('TranslateY', 621364389),
    ],
  )
  def test_equals_timm(self, name, crc):
    argument = rand_augment.strength(name, 7, increasing=True, negative=False)
    image = Image.fromarray(_pattern())
    out = rand_augment.apply(name, image, argument, **_OPTIONS)
    assert zlib.crc32(out.tobytes()) == crc

  @pytest.mark.parametrize('mode', ['L', 'RGB'])
  def test_equals_the_definitions(self, mode):
    pixels = _random(12, 10, 3).squeeze()
    image = Image.fromarray(pixels).convert(mode)
    x = np.asarray(image).astype(int)
    fill = 7 if mode == 'L' else (7, 8, 9)
    nearest = {'fill': fill, 'resampling': Image.Resampling.NEAREST}

    def check(name, argument, expected):
      out = rand_augment.apply(name, image, argument, **nearest)
      assert out.mode == mode
      np.testing.assert_array_equal(np.asarray(out), expected, name)

    def moved(di, dj):
      out = np.empty_like(x)
      out[:] = fill
      for i in range(12):
        for j in range(10):
          if 0 <= i + di(i, j) < 12 and 0 <= j + dj(i, j) < 10:
            out[i, j] = x[i + di(i, j), j + dj(i, j)]
      return out

    check('Invert', None, 255 - x)
    for bits in range(5):
      check('Posterize', bits, x >> (8 - bits) << (8 - bits))
    for threshold in (0, 26, 256):
      check('Solarize', threshold, np.where(x < threshold, x, 255 - x))
    check('SolarizeAdd', 99, np.where(x < 128, np.minimum(x + 99, 255), x))
    check('TranslateX', 0.3, moved(lambda i, j: 0, lambda i, j: 3))
    check('TranslateX', -0.3, moved(lambda i, j: 0, lambda i, j: -3))
    check('TranslateY', 0.25, moved(lambda i, j: 3, lambda i, j: 0))
    shear = 0.3
    check(
      'ShearX',
      shear,
      moved(lambda i, j: 0, lambda i, j: math.floor(shear * (i + 0.5) + 0.5)),
    )
    check(
      'ShearY',
      shear,
      moved(lambda i, j: math.floor(shear * (j + 0.5) + 0.5), lambda i, j: 0),
    )
    for name, expected in (
      ('AutoContrast', ImageOps.autocontrast(image)),
      ('Equalize', ImageOps.equalize(image)),
    ):
      check(name, None, expected)
    for name in ('Color', 'Contrast', 'Brightness', 'Sharpness'):
      check(name, 1.6, getattr(ImageEnhance, name)(image).enhance(1.6))
    check('Rotate', 20.0, image.rotate(20.0, fillcolor=fill))

  @pytest.mark.parametrize('size', [(1, 1), (1, 3), (2, 1)])
  @pytest.mark.parametrize('mode', ['L', 'RGB'])
  @pytest.mark.parametrize('name', NAMES)
  def test_tiny(self, name, mode, size):
    for magnitude in (0, 9, 10):
      argument = rand_augment.strength(
        name, magnitude, increasing=True, negative=True
      )
      image = Image.new(mode, size, 77 if mode == 'L' else (7, 77, 200))
      fill = 3 if mode == 'L' else (1, 2, 3)
      out = rand_augment.apply(
        name, image, argument, fill=fill, resampling=_BICUBIC
      )
      assert out.size == size
      assert out.mode == mode


class TestRandAugment:
  def _calls(self, monkeypatch, spec, n, **fields):
    calls = []
    monkeypatch.setattr(
      rand_augment,
      'apply',
      lambda name, image, argument, **options: (
        calls.append((name, argument, options)) or image
      ),
    )
    augment, image = RandAugment(spec, **fields), _random(2, 2, 3)
    rng = np.random.default_rng(0)
    for _ in range(n):
      augment(image, rng)
    return calls

  def test_each_operation_has_its_probability(self, monkeypatch):
    n = 6000
    calls = self._calls(monkeypatch, 'm9-mstd0.5-inc1', n)
    counts = collections.Counter(name for name, _, _ in calls)
    assert set(counts) == set(NAMES)
    assert len(NAMES) == 15
    # Two layers, each applied half of the time.
    assert abs(len(calls) - n) < 5 * math.sqrt(2 * n / 4)
    for count in counts.values():
      assert abs(count - n / 15) < 5 * math.sqrt(n / 15)

  def test_magnitudes_and_signs(self, monkeypatch):
    calls = self._calls(monkeypatch, 'm9-mstd0.5-inc1', 20_000)
    angles = np.array([a for name, a, _ in calls if name == 'Rotate'])
    magnitudes, n = np.abs(angles) / 3, len(angles)
    assert abs(np.mean(angles < 0) - 0.5) < 5 * math.sqrt(0.25 / n)
    # Normal, and those above 10 (2.3%) are 10.
    clipped = np.mean(magnitudes == 10)
    assert abs(clipped - 0.0228) < 5 * math.sqrt(0.0228 / n)
    assert magnitudes.max() == 10
    assert abs(np.median(magnitudes) - 9) < 5 * 1.25 * 0.5 / math.sqrt(n)
    below = 9 - magnitudes[magnitudes < 9]  # Half of a normal distribution.
    assert abs(np.sqrt(np.mean(below**2)) - 0.5) < 0.5 * 5 / math.sqrt(n)

  def test_layers_and_fixed_magnitude(self, monkeypatch):
    n = 2000
    calls = self._calls(monkeypatch, 'm3-n5', n)
    assert abs(len(calls) - 5 * n / 2) < 5 * math.sqrt(5 * n / 4)
    for name, argument, _ in calls:
      if name == 'Color':
        assert argument == pytest.approx(0.64)  # 0.1 + 1.8 * 0.3
      if name == 'Rotate':
        assert abs(argument) == pytest.approx(9)

  def test_the_colour_from_outside(self, monkeypatch):
    calls = self._calls(
      monkeypatch, 'm9', 10, mean=_IMAGENET, interpolation='bilinear'
    )
    options = {
      'fill': (124, 116, 104),
      'resampling': Image.Resampling.BILINEAR,
    }
    assert all(call[2] == options for call in calls)
    assert calls

  def test_one_mean_for_all_channels(self):
    image = np.zeros((9, 9, 3), np.uint8)
    augment = RandAugment('m10', mean=(0.5,), interpolation='nearest')
    outs = [augment(image, np.random.default_rng(s)) for s in range(60)]
    assert any((out == 128).all(-1).any() for out in outs)

  def test_two_operations_in_order(self):
    image = _pattern()
    image.flags.writeable = False
    augment = RandAugment('m9-mstd0.5-inc1', mean=_IMAGENET)
    changed = 0
    for seed in range(60):
      rng = np.random.default_rng(seed)
      expected = Image.fromarray(image)
      for index in rng.integers(15, size=2):
        if rng.random() < 0.5:
          magnitude = np.clip(rng.normal(9, 0.5), 0, 10)
          argument = rand_augment.strength(
            NAMES[index],
            magnitude,
            increasing=True,
            negative=rng.random() < 0.5,
          )
          expected = rand_augment.apply(
            NAMES[index], expected, argument, **_OPTIONS
          )
      out = augment(image, np.random.default_rng(seed))
      np.testing.assert_array_equal(out, expected)
      changed += (out != image).any()
    assert 30 < changed < 60  # Three quarters, and some change nothing.

  @pytest.mark.parametrize('shape', [(8, 8, 1), (1, 1, 3), (1, 1, 1)])
  def test_other_shapes(self, shape):
    image = _random(*shape)
    for seed in range(60):
      out = RandAugment('m9-mstd0.5-inc1')(image, np.random.default_rng(seed))
      assert out.shape == shape
      assert out.dtype == np.uint8

  def test_refuses(self, refused):
    with refused('rand_augment: interpolation must be one of nearest, bilin'):
      RandAugment('m9', interpolation='area')
    with refused('rand_augment: spec must be a string such as'):
      RandAugment(9)
    with refused('mean has 3 values, but the image has 1 channels'):
      RandAugment('m9', mean=_IMAGENET)(
        _random(2, 2, 1), np.random.default_rng(0)
      )
    with refused('rand_augment needs a uint8 image of 1 or 3 channels'):
      RandAugment('m9')(_random(2, 2, 4), np.random.default_rng(0))
