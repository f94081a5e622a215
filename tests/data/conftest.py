"""Datasets on disk, as tfds writes them, and what the tests of data share."""

import contextlib
import pathlib
from typing import ClassVar

import cv2
import numpy as np
import pytest
import tensorflow_datasets as tfds

from maxsup_jax.data import ArraySource
from maxsup_jax.errors import UsageError


@pytest.fixture(autouse=True)
def _no_home(tmp_path, monkeypatch):
  """A test that forgets data_dir must not write to the home directory."""
  default = str(tmp_path / 'default_data_dir')
  monkeypatch.setattr(tfds.core.constants, 'DATA_DIR', default)


@pytest.fixture
def write_dataset(tmp_path):
  """A function that writes examples to `tmp_path` as a dataset of tfds."""

  def write(features, splits, name='tiny', config=None):
    class Written(tfds.core.GeneratorBasedBuilder, skip_registration=True):
      VERSION = tfds.core.Version('1.0.0')
      BUILDER_CONFIGS = [tfds.core.BuilderConfig(name=config)] if config else []
      url_infos: ClassVar = {}  # As in `Digits`.

      def _info(self):
        return tfds.core.DatasetInfo(
          builder=self, features=tfds.features.FeaturesDict(features)
        )

      def _split_generators(self, dl_manager):
        return {
          split: self._generate_examples(examples)
          for split, examples in splits.items()
        }

      def _generate_examples(self, examples):
        for key, example in enumerate(examples):
          yield (
            key,
            {
              k: _png(v) if isinstance(v, np.ndarray) and v.ndim == 3 else v
              for k, v in example.items()
            },
          )

    Written.name = name
    builder = Written(data_dir=tmp_path, file_format='array_record')
    builder.download_and_prepare()
    return pathlib.Path(builder.data_dir)

  return write


def _png(image):
  rgb_to_bgr = image[..., ::-1] if image.shape[-1] == 3 else image
  return cv2.imencode('.png', rgb_to_bgr)[1].tobytes()


@pytest.fixture(scope='session')
def make_images():
  """A function that makes random images of the given shapes."""

  def make(*shapes):
    rng = np.random.default_rng(0)
    return [rng.integers(0, 256, shape, np.uint8) for shape in shapes]

  return make


@pytest.fixture(scope='session')
def refused():
  """A context that must end in a UsageError of one line."""

  @contextlib.contextmanager
  def context(match):
    with pytest.raises(UsageError, match=match) as info:
      yield
    assert '\n' not in str(info.value)

  return context


@pytest.fixture(scope='session')
def numbered():
  """A function that makes n grey images: image i is full of i."""

  def make(n, size=4):
    images_NHWC = np.empty((n, size, size, 1), np.uint8)
    images_NHWC[:] = np.arange(n).reshape(n, 1, 1, 1)
    return ArraySource(images_NHWC, np.arange(n), num_classes=n)

  return make
