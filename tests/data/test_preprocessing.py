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
  Transform,
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
  'pad_and_crop(4)': transforms.PadAndCrop(4),
  "rand_augment('m9-mstd0.5-inc1')": rand_augment.RandAugment(
    'm9-mstd0.5-inc1', mean=_MEAN
  ),
  'random_crop(28, padding=2)': transforms.RandomCrop(28, 2),
  'random_erasing(0.25)': erasing.RandomErasing(0.25, mean=_MEAN, std=_STD),
  "random_resized_crop(24, interpolation='bicubic')": (
    resizing.RandomResizedCrop(24, interpolation='bicubic')
  ),
  'resize(28)': resizing.Resize(28),
  "resize_exact(28, 30, 'area')": resizing.ResizeExact(28, 30, 'area'),
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

  @pytest.mark.parametrize('text', ['', '  ', '\n'])
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
      'resize(28)\n  | center_crop(24)\n  | flip\n',
      'resize(28) | (center_crop(24)) | flip(0.5)  # As in the paper.',
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

  @pytest.mark.parametrize(
    ('text', 'operation'),
    [
      ('flip(1/4)', transforms.Flip(0.25)),
      ('rotate([-5, +5])', transforms.Rotate((-5, 5))),
      (
        'random_resized_crop(24, (0.25, 1), (3/4, 4/3))',
        resizing.RandomResizedCrop(24, (0.25, 1), (3 / 4, 4 / 3)),
      ),
      ('resize_exact(8, None)', resizing.ResizeExact(8)),
      (
        "rand_augment('m9', 'bilinear')",
        rand_augment.RandAugment('m9', 'bilinear'),
      ),
    ],
  )
  def test_literals(self, text, operation):
    assert parse_transform(text).operations == (operation,)

  def test_statistics_of_the_data_set(self):
    text = "rand_augment('m9') | random_erasing(1.0)"
    for operation in _parse(text).operations:
      assert operation.mean == _MEAN
    assert _parse(text).operations[1].std == _STD
    assert parse_transform(text).operations[1].std == (1.0,)

  @pytest.mark.parametrize(
    ('text', 'match'),
    [
      (
        'blur(3)',
        "unknown operation 'blur' in a transform: known are center_c",
      ),
      ('flip | Flip', "unknown operation 'Flip'"),
      (
        'resize',
        r'resize needs the argument size: resize\(size, interpolation=',
      ),
      ('resize()', 'resize needs the argument size'),
      ('resize(8, 9, 10)', 'resize takes at most 2 arguments, not 3: resize'),
      ('resize(8, size=8)', 'resize: size is given twice'),
      (
        'resize(8, crop=1)',
        "resize has no argument 'crop': resize\\(size, int",
      ),
      ('resize(**{})', "resize has no argument '\\*\\*'"),
      ("rand_augment('m9', mean=(1,))", "rand_augment has no argument 'mean'"),
      ("rand_augment('m9', 'area', 3)", 'at most 2 arguments, not 3'),
      ('random_erasing(1, std=(1,))', "random_erasing has no argument 'std'"),
      ('random_erasing(1, _=1)', "random_erasing has no argument '_'"),
      (
        'resize(size)',
        'resize: size must be a literal such as 0.5, .* not size',
      ),
      ('resize(*[8])', 'resize: size must be a literal'),
      ('resize(2 * 8)', r'resize: size must be a literal .* not 2 \* 8'),
      ('flip(1 / 0)', 'flip: probability must be a literal'),
      ("flip('a' / 2)", 'flip: probability must be a literal'),
      ('rotate((1, open))', 'rotate: degrees must be a literal .* not open'),
      ("flip(__import__('os'))", 'flip: probability must be a literal'),
      ('resize(0)', 'resize: size must be an integer >= 1, not 0'),
      ('flip(2)', r'flip: probability must be a number in \[0, 1\], not 2'),
      ("rand_augment('m99')", r'rand_augment: m must be in \[0, 10\], not 99'),
      ('flip |', "a transform must read like .*, not 'flip |'"),
      ('| flip', 'a transform must read like'),
      ('flip flip', 'a transform must read like'),
      ('flip, flip', 'a transform must read like'),
      ('flip & flip', 'a transform must read like'),
      ('flip\n| resize(', r"must read like .*, not 'flip \| resize\('"),
      ('3', 'a transform must read like'),
      ("'flip'", 'a transform must read like'),
      ('flip.probability', 'a transform must read like'),
      ('a.b(3)', 'a transform must read like'),
      ('flip()()', 'a transform must read like'),
      ('flip\0', 'a transform must read like'),
      ('lambda: flip', 'a transform must read like'),
      ('x := flip', 'a transform must read like'),
      (
        'flip | rand_augment(m9-mstd0.5-inc1)',
        "^rand_augment: .*'rand_augment\\(m9-mstd0.5-inc1\\)' .* needs quotes",
      ),
      ('rand_augment(m9)', r'rand_augment: spec must .* \(text in quotes\)'),
      ('rotate(1e308)', r'rotate: degrees must be a number in \[0, 360\]'),
      ('rotate((0, 1e308))', r'rotate: degrees .* in \[-360, 360\]'),
      ('tf_distort(1e308)', r'brightness must be a number in \[0, 255\]'),
      ('tf_distort(1, (1, 1e308))', r'contrast must .* in \[0, 1000.0\]'),
      ('color_jitter(1e308)', r'brightness must .* in \[0.0, 1000.0\]'),
      ('random_erasing(1, aspect=(1e-9, 1))', r'aspect .* in \[0.001, 1000'),
      (f'center_crop({10**30})', 'size must be at most 65536 pixels'),
      ('pad_and_crop(65537)', 'padding must be at most 65536 pixels'),
      (
        'standardize | resize(8)',
        'resize needs a uint8 image, but stands after',
      ),
      (
        'tf_distort | flip | color_jitter(0.4)',
        'color_jitter needs a uint8 image, but stands after tf_distort, which',
      ),
    ],
  )
  def test_refuses(self, text, match, refused):
    with refused(match):
      parse_transform(text)

  @pytest.mark.parametrize('text', [None, 3, b'flip', ('flip',)])
  def test_refuses_other_types(self, text, refused):
    with refused('a transform must be text, not '):
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
    image = _image()
    rng = np.random.default_rng(3)
    expected = transforms.pad_and_crop(image, rng, 2)
    expected = transforms.flip_left_right(expected, rng)
    expected = resizing.random_resized_crop(expected, rng, 24)
    transform = parse_transform('pad_and_crop(2)|flip|random_resized_crop(24)')
    out = transform(image, np.random.default_rng(3))
    np.testing.assert_array_equal(out, expected)

  @pytest.mark.parametrize('text', _CALLS)
  def test_the_contract_of_an_operation(self, text):
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
    grey = parse_transform(text, mean=(0.5,))(
      image[..., :1], np.random.default_rng(7)
    )
    assert grey.shape[-1] == 1

  def test_no_global_randomness(self):
    transform = _parse(' | '.join(c for c in _CALLS if 'standard' not in c))
    np.random.seed(0)
    first = transform(_image(), np.random.default_rng(1))
    np.random.seed(1)
    state = np.random.get_state()[1].copy()
    second = transform(_image(), np.random.default_rng(1))
    np.testing.assert_array_equal(first, second)
    np.testing.assert_array_equal(np.random.get_state()[1], state)

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

  def test_the_default_is_the_identity(self):
    assert Transform() == parse_transform('')
