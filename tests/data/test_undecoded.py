"""Batches whose images are decoded by the transform, as far as it needs."""

import cv2
import numpy as np
import pytest
import tensorflow_datasets as tfds

from maxsup_jax.data import (
  LongTailedSource,
  _optional,
  open_source,
  parse_transform,
  train_batches,
)
from maxsup_jax.data.decoding import EncodedImage

CROP = 'random_resized_crop(16) | flip'


def _jpeg(image):
  return cv2.imencode('.jpg', image)[1].tobytes()


@pytest.fixture
def write(write_dataset, make_images):
  def write(change=lambda files: files, **features):
    images = make_images(*[(40 + 3 * i, 60 - i, 3) for i in range(20)])
    files = change([_jpeg(image) for image in images])
    features = {
      'image': tfds.features.Image(shape=(None, None, 3)),
      'label': tfds.features.ClassLabel(num_classes=2),
      **features,
    }
    examples = [{'image': f, 'label': i % 2} for i, f in enumerate(files)]
    return str(write_dataset(features, {'train': examples}))

  return write


def _batches(source, transform, count=6):
  stream = train_batches(
    source, batch_size=5, seed=3, transform=transform, num_threads=0
  )
  return [next(stream) for _ in range(count)]


def _assert_equal(first, second):
  for a, b in zip(first, second, strict=True):
    for key in a:
      np.testing.assert_array_equal(a[key], b[key])


@pytest.mark.parametrize('packages', [(), ('numba', 'simplejpeg')])
def test_the_pixels_are_those_of_whole_images(write, packages):
  source = LongTailedSource(open_source(write(), 'train'), 0.5, seed=0)
  assert isinstance(source.undecoded(2)['image'], EncodedImage)
  crop = parse_transform(CROP)
  # A function that does not say so gets whole images.
  with _optional.without('numba', 'simplejpeg'):
    expected = _batches(source, lambda image, rng: crop(image, rng))
  with _optional.without(*packages):
    _assert_equal(_batches(source, crop), expected)


def test_a_golden_batch(write):
  """What earlier versions made of the same files."""
  (batch,) = _batches(open_source(write(), 'train'), parse_transform(CROP), 1)
  assert batch['label'].tolist() == GOLDEN['label']
  assert batch['image'][:, 3, 4].tolist() == GOLDEN['pixels']


GOLDEN = {
  'label': [1, 0, 0, 1, 1],
  'pixels': [
    [114, 102, 135],
    [132, 130, 110],
    [106, 106, 116],
    [136, 137, 110],
    [143, 91, 119],
  ],
}


def test_a_bad_image_is_named(write, refused):
  source = open_source(write(lambda files: [f[:-20] for f in files]), 'train')
  message = r'/train: example \d+ cannot be read: a damaged JPEG file'
  for transform in (CROP, 'resize(20) | center_crop(20)'):
    with refused(message):
      _batches(source, parse_transform(transform))
  with refused(message):
    source[3]


def test_labels_that_are_lists(write_dataset, make_images):
  """What cannot be parsed the short way is parsed as tfds does."""
  (image,) = make_images((8, 8))
  directory = write_dataset(
    {
      'image': tfds.features.Tensor(shape=(8, 8), dtype=np.uint8),
      'label': tfds.features.ClassLabel(num_classes=2),
    },
    {'train': [{'image': image, 'label': 1}]},
  )
  source = open_source(str(directory), 'train')
  assert not source.examples._plain
  assert source[0]['label'] == 1
  np.testing.assert_array_equal(source[0]['image'][..., 0], image)
