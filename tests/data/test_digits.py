import os
import subprocess
import sys

import numpy as np
import pytest
import sklearn.datasets
import tensorflow_datasets as tfds

from maxsup_jax.data import digits, open_source

_OPEN = """
import sys
from maxsup_jax.data import open_source
source = open_source('digits', 'train', data_dir=sys.argv[1])
assert len(source) == 1442 and source[0]['image'].shape == (8, 8, 1)
"""


def _start(program, data_dir, **environment):
  return subprocess.Popen(
    [sys.executable, '-W', 'error', '-c', program, str(data_dir)],
    env={**os.environ, **environment},
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
    text=True,
  )


def _records(source):
  """The examples as sorted rows of pixels and label."""
  return sorted((*e['image'].ravel().tolist(), e['label']) for e in source)


@pytest.fixture(scope='module')
def splits(data_dir):
  return {
    split: open_source('digits', split, data_dir=data_dir)
    for split in ('train', 'test')
  }


def test_sizes_and_features(splits):
  assert {split: len(source) for split, source in splits.items()} == {
    'train': 1442,
    'test': 355,
  }
  for source in splits.values():
    assert source.num_classes == 10
    assert source.image_shape == (8, 8, 1)
    assert source.label_names == tuple('0123456789')
    assert source[0]['image'].dtype == np.uint8


def test_every_fifth_of_each_class_is_a_test_example():
  labels = sklearn.datasets.load_digits().target
  seen, expected = np.zeros(10, int), []
  for label in labels:
    seen[label] += 1
    expected.append(seen[label] % 5 == 0)
  _, actual_labels, test = digits.load_digits()
  np.testing.assert_array_equal(actual_labels, labels)
  np.testing.assert_array_equal(test, expected)


def test_grey_levels_are_spread_by_rounding():
  raw = sklearn.datasets.load_digits().images
  images, _, _ = digits.load_digits()
  assert images.dtype == np.uint8
  np.testing.assert_allclose(images[..., 0], raw * 255 / 16, rtol=0, atol=0.5)
  assert len(np.unique(images)) == 17
  assert (images.min(), images.max()) == (0, 255)


def test_the_files_hold_the_digits_of_scikit_learn(splits):
  images, labels, test = digits.load_digits()
  for split, chosen in (('train', ~test), ('test', test)):
    expected = sorted(
      (*image.ravel().tolist(), label)
      for image, label in zip(images[chosen], labels[chosen].tolist())
    )
    assert _records(splits[split]) == expected


def test_known_to_tfds_by_name(data_dir):
  builder = tfds.builder('digits', data_dir=data_dir)
  assert builder.info.splits['train[:90%]'].num_examples == 1298


def test_first_use_by_several_processes_at_once(data_dir, tmp_path):
  """One prepares, in silence and without TensorFlow, what every one would."""
  program = _OPEN + "assert 'tensorflow' not in sys.modules"
  processes = [
    _start(program, tmp_path / 'data', HOME=str(tmp_path / 'home'))
    for _ in range(2)
  ]
  for process in processes:
    output, errors = process.communicate()
    assert (process.returncode, output, errors) == (0, '', '')
  assert not (tmp_path / 'home').exists()
  # The same PNG bytes in the same order. Not the same record files: protobuf
  # writes the features of an example in an order that differs.
  first, second = (d / 'digits' for d in (data_dir, tmp_path / 'data'))
  assert {path.name for path in second.iterdir()} == {'1.0.0', '.lock'}
  first, second = first / '1.0.0', second / '1.0.0'
  for name in ('features.json', 'dataset_info.json'):
    assert (first / name).read_bytes() == (second / name).read_bytes()
  stored = [
    list(
      tfds.builder_from_directory(directory).as_data_source(
        'test', decoders={'image': tfds.decode.SkipDecoding()}
      )
    )
    for directory in (first, second)
  ]
  assert isinstance(stored[0][0]['image'], bytes)
  assert stored[0] == stored[1]
