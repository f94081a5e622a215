import hashlib
import os
import signal
import subprocess
import sys

import numpy as np
import pytest
import tensorflow_datasets as tfds

from maxsup_jax.data import _glyph_shapes, glyphs, open_source
from maxsup_jax.data._glyph_pictures import encode_png
from maxsup_jax.data.glyphs import GlyphsConfig

SMALL = 'glyphs/5x23x12_16_medium'

_OPEN = """
import hashlib, sys
from maxsup_jax.data import glyphs, open_source
data_dir, *names = sys.argv[1:]
for name in names:
  for split in ('train', 'test'):
    source = open_source(name, split, data_dir=data_dir)
    digest = hashlib.sha256()
    for example in source:
      digest.update(example['image'].tobytes() + bytes([example['label']]))
    print(name, split, len(source), digest.hexdigest())
"""

_DIE = """
import os, signal
from maxsup_jax.data import glyphs

def generate(config, split, index):
  if split == 'test':
    os.kill(os.getpid(), signal.SIGKILL)
  return original(config, split, index)

original = glyphs.generate
glyphs.generate = generate
"""


def _start(program, data_dir, *names, **environment):
  return subprocess.Popen(
    [sys.executable, '-W', 'error', '-c', program, str(data_dir), *names],
    env={**os.environ, **environment},
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
    text=True,
  )


def _examples(name, split, number=None):
  """Examples without a builder: (image, label)."""
  config = glyphs.parse_name(name.removeprefix('glyphs/'))
  number = number or getattr(config, f'num_{split}')
  return [glyphs.generate(config, split, index) for index in range(number)]


def _report(name, split):
  """What `_OPEN` prints of a dataset."""
  digest, examples = hashlib.sha256(), _examples(name, split)
  for image, label in examples:
    digest.update(image.tobytes() + bytes([label]))
  return f'{name} {split} {len(examples)} {digest.hexdigest()}\n'


class TestExamples:
  @pytest.mark.parametrize(
    ('name', 'labels', 'pixels', 'png'),
    [
      (
        '26x10000_32_medium',
        'ZSGDCOMENFIJBHKRWXLURIESXMUZBHYPNGVDKFCO',
        '2d48dff00cce7925738aeed396885de0578b875c51ea2a68c41b869884053899',
        '1439cab4ef99a03cdd3fd3d6b09f9ad6892bd250436e1697473b789e4afe33a4',
      ),
      (
        '62x10000_64_hard_seed7',
        'saMwzSmt1rHZDfp6xVJnFVoECIU1k9qOYyt3ldJT',
        '1cec26530e35986ef30b7152d609f687af618a580d8f721a55702cc331137e00',
        '0c1e379fc2e74e700cf1c01afee64653a708bc0d7db553f3468f51288714f5e9',
      ),
      (
        '36x10000_32_easy',
        'ZfcSjGDCOMENFIJBHKRaRaIESXMUhZBHYPNGVbeD',
        'e86708d9e2df27b5e40ed5d5084d506646ac9225abd3cc73d7ae8f14e6e7f141',
        '7fed103dce18b86ecb744b5842b4b42f8634bf082839ca0cacb39c27efe6d86c',
      ),
    ],
  )
  def test_bytes_never_change(self, name, labels, pixels, png):
    """Generated once; a change of any bit needs a new version."""
    examples = _examples(name, 'train', 20) + _examples(name, 'test', 20)
    images = np.stack([image for image, _ in examples])
    characters = [_glyph_shapes.CHARACTERS[label] for _, label in examples]
    files = b''.join(map(encode_png, images))
    assert ''.join(characters) == labels
    assert hashlib.sha256(images.tobytes()).hexdigest() == pixels
    assert hashlib.sha256(files).hexdigest() == png

  def test_classes_are_balanced(self):
    config = GlyphsConfig(num_classes=7, image_size=16, difficulty='easy')
    labels = [glyphs.generate(config, 'train', i)[1] for i in range(70)]
    for number in range(1, 71):
      counts = np.bincount(labels[:number], minlength=7)
      assert counts.max() - counts.min() <= 1
    blocks = np.reshape(labels, (10, 7))
    assert len(set(map(tuple, blocks))) == 10  # Not the same order each time.


class TestNames:
  @pytest.mark.parametrize(
    ('text', 'name'),
    [
      ('', '26x10000_32_medium'),
      ('26x10000x10000_32_medium_seed0', '26x10000_32_medium'),
      ('64', '26x10000_64_medium'),
      ('hard', '26x10000_32_hard'),
      ('62x100000_seed3', '62x100000_32_medium_seed3'),
      ('10x500x20_48_easy_seed12', '10x500x20_48_easy_seed12'),
    ],
  )
  def test_short_and_canonical(self, text, name):
    config = glyphs.parse_name(text)
    assert config.name == name
    again = glyphs.parse_name(name)
    for field in ('num_classes', 'num_train', 'num_test', 'image_size', 'seed'):
      assert getattr(again, field) == getattr(config, field)
    assert again.difficulty == config.difficulty

  @pytest.mark.parametrize(
    ('name', 'message'),
    [
      ('glyphs/26', 'image_size .* is 26; .* multiple of 8 from 16 to 128'),
      ('glyphs/26x', "'26x' in 'glyphs/26x' .* such as 'glyphs/26x10000_32_me"),
      ('glyphs/', "needs a config, as in 'glyphs/26x10000_32_medium'"),
      ('glyphs/medium_32', "'32' in .* cannot be read"),
      ('glyphs/026x100', "'026x100' in .* cannot be read"),
      ('glyphs/26x100_32_medium_', "'' in .* cannot be read"),
      ('glyphs/26x100_32_medium/1.0.0', "'medium/1.0.0' in .* cannot be"),
      ('glyphs/../digits', 'cannot be read'),
      ('glyphs/26x' + 5000 * '9', 'cannot be read'),
      ('glyphs/tiny', "is 'tiny'; expected one of easy, medium, hard"),
      ('glyphs/63x100', 'num_classes .* 63; expected an integer from 2 to 62'),
      ('glyphs/26x9x99999999', 'num_test .* 99999999; .* from 1 to 10000000'),
      (
        'glyphs:1.0.0',
        "expected 'glyphs' or a config such as 'glyphs/26x10000",
      ),
      ('glyph', 'did you mean glyphs'),
      ('digits/26x10000', "has no 'digits/26x10000'; expected 'digits'"),
    ],
  )
  def test_refused(self, name, message, tmp_path, refused):
    with refused(message):
      open_source(name, 'train', data_dir=tmp_path)
    assert not list(tmp_path.iterdir())

  @pytest.mark.parametrize(
    ('arguments', 'message'),
    [
      ({'num_classes': 26.0}, 'num_classes .* is 26.0; expected an integer'),
      ({'difficulty': None}, 'is None; expected one of easy, medium, hard'),
      ({'name': 'mine'}, "is 'mine'; expected one of 26x10000_32_medium"),
    ],
  )
  def test_refused_fields(self, arguments, message, refused):
    with refused(message):
      GlyphsConfig(**arguments)


@pytest.fixture(scope='module')
def small_dir(tmp_path_factory):
  """A data directory with `SMALL` prepared."""
  path = tmp_path_factory.mktemp('glyphs')
  open_source(SMALL, 'train', data_dir=path)
  return path


class TestBuilder:
  def test_reads_what_was_generated_in_its_order(self, small_dir):
    for split, number in (('train', 23), ('test', 12)):
      source = open_source(SMALL, split, data_dir=small_dir)
      assert len(source) == number
      assert source.num_classes == 5
      assert source.label_names == tuple('ABCDE')
      assert source.image_shape == (16, 16, 1)
      for example, (image, label) in zip(source, _examples(SMALL, split)):
        assert example['image'].dtype == np.uint8
        np.testing.assert_array_equal(example['image'], image)
        assert example['label'] == label

  def test_a_larger_split_begins_with_the_smaller(self, small_dir):
    small = open_source(SMALL, 'train', data_dir=small_dir)
    name = 'glyphs/5x40x12_16_medium'
    large = open_source(name, 'train', data_dir=small_dir)
    assert len(large) == 40
    for a, b in zip(small, large):  # The smaller one ends first.
      np.testing.assert_array_equal(a['image'], b['image'])
      assert a['label'] == b['label']

  def test_known_to_tfds(self, small_dir):
    """By every form of the name, and as a config."""
    config = GlyphsConfig(
      num_classes=5, num_train=23, num_test=12, image_size=16
    )
    for builder in (
      tfds.builder(SMALL, data_dir=small_dir),
      tfds.builder('glyphs', config=config, data_dir=small_dir),
      glyphs.Glyphs(config=SMALL.removeprefix('glyphs/'), data_dir=small_dir),
      tfds.builder_from_directory(small_dir / SMALL / '1.0.0'),
    ):
      assert builder.info.full_name == f'{SMALL}/1.0.0'
      assert builder.info.splits['train[:50%]'].num_examples == 12
    default = tfds.builder('glyphs', data_dir=small_dir)
    assert default.info.full_name == 'glyphs/26x10000_32_medium/1.0.0'

  def test_names_of_one_config_share_a_directory(self, small_dir, monkeypatch):
    monkeypatch.setattr(glyphs, 'Glyphs', None)  # Nothing is generated again.
    for name in (f'{SMALL}_seed0', f'{small_dir}/{SMALL}/1.0.0'):
      assert len(open_source(name, 'test', data_dir=small_dir)) == 12
    assert [path.name for path in (small_dir / 'glyphs').glob('5x23*')] == [
      SMALL.removeprefix('glyphs/')
    ]


class TestProcesses:
  def test_several_at_once_generate_the_same(self, tmp_path):
    """The same config, and a second one; and neither says anything."""
    other = 'glyphs/3x7x5_32_hard'
    processes = [
      _start(_OPEN, tmp_path, *names) for names in ((SMALL, other), (SMALL,))
    ]
    expected = {
      name: _report(name, 'train') + _report(name, 'test')
      for name in (SMALL, other)
    }
    outputs = [process.communicate() for process in processes]
    assert [errors for _, errors in outputs] == ['', '']
    assert [output for output, _ in outputs] == [
      expected[SMALL] + expected[other],
      expected[SMALL],
    ]
    assert not list((tmp_path / 'glyphs').glob('**/incomplete*'))

  def test_recovers_from_a_killed_preparation(self, tmp_path):
    process = _start(_DIE + _OPEN, tmp_path, SMALL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    assert not (tmp_path / SMALL / '1.0.0').exists()
    assert len(open_source(SMALL, 'test', data_dir=tmp_path)) == 12
