import zlib

import numpy as np
import pytest
from PIL import Image

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


def test_specifications():
  assert parse_spec('m9-mstd0.5-inc1') == Spec(9, 0.5, True, 2)
  assert parse_spec('rand-m9-mstd0.5-inc1') == Spec(9, 0.5, True, 2)
  assert parse_spec('inc1-n3-m7') == Spec(7, 0.0, True, 3)
  assert parse_spec('mstd1') == Spec(10, 1.0, False, 2)
  assert parse_spec('rand') == Spec()


@pytest.mark.parametrize(
  ('text', 'match'),
  [
    ('', "rand_augment: '' in '' is unknown; expected mN, mstdX, incN or nN"),
    ('m9-p0.5', "'p0.5' in 'm9-p0.5' is unknown"),
    ('m9.5', "'m9.5' in 'm9.5'"),
    ('m9-rand', "'rand' in"),
    ('m11', "m in 'm11' is 11; expected .* from 0 to 10"),
    ('m9-mstd101', 'is 101.0; expected from 0 to 100'),
    ('n0', "n in 'n0' is 0; expected .* from 1 to 100"),
    ('m9-m8', "m appears twice in 'm9-m8'"),
  ],
)
def test_specifications_that_are_refused(text, match, refused):
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


class TestRandAugment:
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

  def test_a_mean_of_other_channels(self, refused):
    with refused('rand_augment: mean has 3 values; .* the 1 channels'):
      RandAugment('m9', mean=_IMAGENET)(
        _random(2, 2, 1), np.random.default_rng(0)
      )
