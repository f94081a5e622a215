import concurrent.futures
import pickle

import numpy as np
import pytest

from maxsup_jax.data import (
  color,
  erasing,
  rand_augment,
  resizing,
  transforms,
)
from maxsup_jax.data.preprocessing import (
  OPERATIONS,
  parse_transform,
)

_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)

# One call of each operation, and what it must be.
_CALLS = {
  'center_crop(24)': transforms.CenterCrop(24),
  'color_jitter(0.3, 0.3, saturation=(0.5, 1.5), hue=0.1)': color.ColorJitter(
    0.3, 0.3, (0.5, 1.5), 0.1
  ),
  'flip': transforms.Flip(),
  "pad(24, 48, fill='mean')": transforms.Pad(24, 48, mean=_MEAN),
  'pad_and_crop(4)': transforms.PadAndCrop(4),
  'photometric_distortion(hue=9)': color.PhotometricDistortion(hue=9),
  "rand_augment('m9-mstd0.5-inc1')": rand_augment.RandAugment(
    'm9-mstd0.5-inc1', mean=_MEAN
  ),
  'random_crop(28, padding=2)': transforms.RandomCrop(28, 2),
  'random_erasing(0.25)': erasing.RandomErasing(0.25, mean=_MEAN, std=_STD),
  'random_resize((64, 32), ratio=(0.5, 1))': resizing.RandomResize(
    (64, 32), (0.5, 1)
  ),
  "random_resized_crop(24, interpolation='bicubic')": (
    resizing.RandomResizedCrop(24, interpolation='bicubic')
  ),
  'resize(28)': resizing.Resize(28),
  "resize_exact(28, 30, 'area')": resizing.ResizeExact(28, 30, 'area'),
  'resize_within(64, 32, antialias=True)': resizing.ResizeWithin(64, 32, True),
  'rotate((-10, 15))': transforms.Rotate((-10, 15)),
  'standardize': color.Standardize(),
  'tf_distort(contrast=(0.5, 1))': color.TfDistort(contrast=(0.5, 1)),
}


def _parse(text):
  return parse_transform(text, mean=list(_MEAN), std=list(_STD))


def _image():
  return np.random.default_rng(0).integers(0, 256, (32, 40, 3), np.uint8)


class TestParse:
  def test_every_operation(self):
    assert sorted(c.split('(')[0] for c in _CALLS) == sorted(OPERATIONS)
    for text, operation in _CALLS.items():
      assert _parse(text).operations == (operation,)
      assert _parse(text).random == operation.random

  @pytest.mark.parametrize('text', ['', ' \n'])
  def test_nothing_is_the_identity(self, text):
    transform, image = parse_transform(text), _image()
    assert transform.operations == ()
    assert not transform.random
    assert transform(image) is image

  @pytest.mark.parametrize(
    'text',
    [
      'resize(28)|center_crop(24)|flip',
      ' resize( size = 28 ) | center_crop(24) | flip() ',
      'resize(28)\n  | (center_crop(24))\n  | flip(0.5)  # As in the paper.',
    ],
  )
  def test_ways_of_writing(self, text):
    expected = (
      resizing.Resize(28),
      transforms.CenterCrop(24),
      transforms.Flip(),
    )
    assert parse_transform(text).operations == expected
    assert parse_transform(text).text == text

  def test_literals(self):
    text = 'flip(1/4) | rotate([-5, +5]) | resize_exact(8, None)'
    assert parse_transform(text).operations == (
      transforms.Flip(0.25),
      transforms.Rotate((-5, 5)),
      resizing.ResizeExact(8),
    )

  def test_statistics_of_the_data_set(self):
    text = "rand_augment('m9') | random_erasing(1.0)"
    for operation in _parse(text).operations:
      assert operation.mean == _MEAN
    assert _parse(text).operations[1].std == _STD
    assert parse_transform(text).operations[1].std == (1.0,)

  @pytest.mark.parametrize(
    ('text', 'match'),
    [
      # Names and calls.
      ('flip | Flip', "unknown operation 'Flip' .* Known: center_crop, color_"),
      (
        'resize()',
        r'resize: got no size; expected resize\(size, inter',
      ),
      ('resize(8, 9, 10)', r'resize: got 3 arguments; expected resize\(size'),
      ('resize(8, size=8)', 'resize: got size twice'),
      ('resize(8, crop=1)', "resize: got an unknown argument 'crop'; expected"),
      ('resize(**{})', 'resize: got'),
      ("rand_augment('m9', mean=(1,))", "an unknown argument 'mean'"),
      ("rand_augment('m9', 'area', 3)", 'got 3 arguments'),
      ('random_erasing(1, std=(1,))', "an unknown argument 'std'"),
      ('random_erasing(1, _=1)', "an unknown argument '_'"),
      # Literals.
      ('resize(size)', 'resize: size is size; expected a literal such as 0.5'),
      ('resize(*[8])', 'resize: size is .*; expected a literal'),
      ('resize(2 * 8)', r'resize: size is 2 \* 8; expected a literal'),
      ('flip(1 / 0)', 'flip: probability is .*; expected a literal'),
      ("flip('a' / 2)", 'flip: probability is .*; expected a literal'),
      ('rotate((1, open))', 'rotate: degrees is open; expected a literal'),
      ("flip(__import__('os'))", 'probability is .*; expected a literal'),
      # Syntax.
      ('flip |', "a transform is 'flip |'; expected a chain such as"),
      ('| flip', 'expected a chain such as'),
      ('flip, flip', 'expected a chain such as'),
      ('flip & flip', 'expected a chain such as'),
      ('flip\n| resize(', r"is 'flip \| resize\('; expected a chain"),
      ("'flip'", 'expected a chain such as'),
      ('a.b(3)', 'expected a chain such as'),
      ('flip()()', 'expected a chain such as'),
      ('flip\0', 'expected a chain such as'),
      ('lambda: flip', 'expected a chain such as'),
      (
        'flip | rand_augment(m9-mstd0.5-inc1)',
        "^rand_augment: .*'rand_augment\\(m9-mstd0.5-inc1\\)'; text needs",
      ),
      ('rand_augment(m9)', r'rand_augment: spec is m9; .* \(text in quotes\)'),
      # Values.
      ('resize(0)', 'resize: size is 0; expected .* from 1 to 65536'),
      ('resize(True)', 'resize: size is True'),
      (f'center_crop({10**30})', 'center_crop: size is 10*; expected'),
      ("resize_exact('8')", "resize_exact: height is '8'"),
      ('resize_exact(8, 0)', 'resize_exact: width is 0'),
      ('random_crop(8, -1)', 'random_crop: padding is -1; expected'),
      ('pad_and_crop(1.5)', 'pad_and_crop: padding is 1.5'),
      (
        "resize(8, 'cubic')",
        "is 'cubic'; did you mean 'bicubic'",
      ),
      (
        "rand_augment('m9', 'area')",
        "interpolation is 'area'; expected one of",
      ),
      ('rand_augment(9)', "spec is 9; expected text such as 'm9-"),
      ('flip(2)', 'flip: probability is 2; expected from 0 to 1'),
      ('flip(True)', 'flip: probability is True'),
      ('rotate(1e308)', 'rotate: degrees is 1e.308; expected from 0 to 360'),
      (
        'rotate((5, 1))',
        r'degrees is \(5, 1\); expected two numbers \(low, hi',
      ),
      ('rotate((1, 2, 3))', 'degrees is .*; expected two numbers'),
      ('random_resized_crop(8, (0, 1))', 'scale .*, above 0 and up to 1'),
      ('random_resized_crop(8, 0.5)', 'scale is 0.5; expected two numbers'),
      ('random_resized_crop(8, ratio=(0, 1))', 'ratio .* from 0.001 to 1000'),
      ('random_erasing(1.5)', 'random_erasing: probability is 1.5'),
      ('random_erasing(1, (0.5, 1.5))', 'area is .* expected two numbers'),
      ('random_erasing(1, aspect=(1e-9, 1))', 'aspect .* from 0.001 to 1000'),
      ("random_erasing(1, mode='noise')", 'one of pixel, rand, const'),
      ('color_jitter(-0.1)', 'color_jitter: brightness is -0.1; expected from'),
      ('color_jitter(saturation=(-1, 1))', 'saturation is .* two numbers'),
      ('color_jitter(hue=0.6)', 'hue is 0.6; expected from 0 to 0.5'),
      ('color_jitter(hue=(-0.6, 0))', 'hue is .* from -0.5 to 0.5'),
      ('tf_distort(1e308)', 'brightness is 1e.308; expected from 0 to 255'),
      ('tf_distort(1, (1, 1e308))', 'contrast is .* from 0 to 1000'),
      # Floats.
      (
        'standardize | resize(8)',
        'resize needs a uint8 image, but follows',
      ),
      (
        'tf_distort | flip | color_jitter(0.4)',
        'color_jitter needs a uint8 image, but follows tf_distort, which',
      ),
      (None, 'a transform is None; expected text'),
    ],
  )
  def test_refuses(self, text, match, refused):
    with refused(match):
      parse_transform(text)

  def test_floats_may_be_cropped_and_mirrored(self):
    transform = parse_transform(
      'tf_distort | flip | pad_and_crop(2) | random_crop(24) | center_crop(20)'
      ' | tf_distort | standardize'
    )
    out = transform(_image(), np.random.default_rng(0))
    assert out.dtype == np.float32
    assert out.shape == (20, 20, 3)
    assert abs(out.mean()) < 1e-6


class TestTransform:
  @pytest.mark.parametrize(
    ('text', 'gives_floats', 'standardizes'),
    [
      ('', False, False),
      ('flip | resize(8)', False, False),
      ('standardize', True, True),
      ('tf_distort', True, False),
      ('tf_distort | flip | standardize | center_crop(8)', True, True),
      ('standardize | tf_distort', True, False),
    ],
  )
  def test_floats(self, text, gives_floats, standardizes):
    transform = parse_transform(text)
    assert transform.gives_floats == gives_floats
    assert transform.standardizes == standardizes
    out = transform(_image(), np.random.default_rng(0))
    assert (out.dtype == np.float32) == gives_floats

  def test_from_left_to_right_with_one_generator(self):
    rng, expected = np.random.default_rng(3), _image()
    transform = parse_transform('pad_and_crop(2)|flip|random_resized_crop(24)')
    for operation in transform.operations:
      expected = operation(expected, rng)
    out = transform(_image(), np.random.default_rng(3))
    np.testing.assert_array_equal(out, expected)

  @pytest.mark.parametrize('text', _CALLS)
  def test_the_contract_of_an_operation(self, text, refused):
    transform, image = _parse(text), _image()
    before = image.copy()
    image.flags.writeable = False
    outs = [transform(image, np.random.default_rng(7)) for _ in range(2)]
    np.testing.assert_array_equal(*outs)
    np.testing.assert_array_equal(image, before)
    is_float = text.startswith(('standardize', 'tf_distort'))
    assert outs[0].dtype == (np.float32 if is_float else np.uint8)
    assert outs[0].ndim == 3
    assert outs[0].shape[-1] == 3
    others = [transform(image, np.random.default_rng(s)) for s in range(9)]
    varies = any(
      other.shape != outs[0].shape or (other != outs[0]).any()
      for other in others
    )
    assert varies == transform.random
    if not transform.random:
      np.testing.assert_array_equal(transform(image), outs[0])
    for shape in ((32, 40, 1), (1, 1, 3), (1, 5, 1)):
      if not text.startswith('random_crop') or shape[0] > 1:
        small = np.zeros(shape, np.uint8)
        out = parse_transform(text, mean=(0.5,))(
          small, np.random.default_rng(7)
        )
        assert out.shape[-1] == shape[-1]
    # OpenCV would scale floats as well.
    if not transform.operations[0].takes_floats and 'area' not in text:
      with refused('image.*; expected uint8'):
        for seed in range(20):  # Some do nothing, now and then.
          transform(np.float32(image), np.random.default_rng(seed))

  def test_pickles(self):
    transform = _parse(' | '.join(c for c in _CALLS if 'standard' not in c))
    copy = pickle.loads(pickle.dumps(transform))
    assert copy == transform
    np.testing.assert_array_equal(
      copy(_image(), np.random.default_rng(2)),
      transform(_image(), np.random.default_rng(2)),
    )
    assert hash(copy) == hash(transform)

  def test_threads(self):
    transform = _parse(
      "random_resized_crop(24) | flip | rand_augment('m9-mstd0.5-inc1') | "
      'color_jitter(0.4, 0.4, 0.4, 0.1) | random_erasing(0.5)'
    )

    def load(seed):
      return transform(_image(), np.random.default_rng(seed))

    with concurrent.futures.ThreadPoolExecutor(8) as pool:
      outs = list(pool.map(load, range(100)))
    for seed, out in enumerate(outs):
      np.testing.assert_array_equal(out, load(seed))
