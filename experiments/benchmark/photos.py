"""Photographs to measure with: about as large as those of ImageNet.

ImageNet cannot be downloaded here and now, so these are crops, hardly scaled,
of three real photographs that scikit-learn and matplotlib bring along, written
as JPEG with the sampling of colours and about the size of ImageNet's files.
"""

import contextlib
import io
import pathlib
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np

SOURCES = "china.jpg and flower.jpg of scikit-learn, matplotlib's grace_hopper"

# Width and height, and how many of a hundred have them.
_SIZES = {
  (500, 375): 60,
  (500, 333): 15,
  (375, 500): 15,
  (333, 500): 5,
  (400, 300): 5,
}
# High, because these photographs have less detail than most.
_QUALITIES = (97, 101)
_CLASSES = 10


def make_photos(count: int) -> list[bytes]:
  """The contents of so many JPEG files, always the same."""
  from PIL import Image

  originals = _originals()
  rng = np.random.default_rng(0)
  sizes = [size for size, share in _SIZES.items() for _ in range(share)]
  photos = []
  for _ in range(count):
    width, height = sizes[rng.integers(len(sizes))]
    large_enough = [
      original
      for original in originals
      if original.width >= width and original.height >= height
    ]
    original = large_enough[rng.integers(len(large_enough))]
    most = min(original.width / width, original.height / height)
    scale = rng.uniform(1, most)
    crop_width, crop_height = int(scale * width), int(scale * height)
    left = int(rng.integers(original.width - crop_width + 1))
    top = int(rng.integers(original.height - crop_height + 1))
    photo = original.crop((left, top, left + crop_width, top + crop_height))
    if rng.random() < 0.5:
      photo = photo.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    file = io.BytesIO()
    photo.resize((width, height), Image.Resampling.BICUBIC).save(
      file, 'JPEG', quality=int(rng.integers(*_QUALITIES)), subsampling='4:2:0'
    )
    photos.append(file.getvalue())
  return photos


def _originals() -> list[Any]:
  import matplotlib
  import sklearn.datasets
  from PIL import Image

  photos = sklearn.datasets.load_sample_images().images
  path = pathlib.Path(matplotlib.get_data_path(), 'sample_data')
  with Image.open(path / 'grace_hopper.jpg') as grace_hopper:
    return [*map(Image.fromarray, photos), grace_hopper.convert('RGB')]


def write_files(photos: Sequence[bytes], directory: pathlib.Path) -> list[str]:
  """Writes each photograph to a file; gives the paths."""
  directory.mkdir()
  paths = []
  for number, photo in enumerate(photos):
    path = directory / f'{number:06}.JPEG'
    path.write_bytes(photo)
    paths.append(str(path))
  return paths


def write_dataset(photos: Sequence[bytes], directory: pathlib.Path) -> str:
  """Writes them as tfds does its `imagenet2012`; gives the directory."""
  import tensorflow_datasets as tfds

  class Photos(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """Photographs."""

    name = 'photos'
    VERSION = tfds.core.Version('1.0.0')
    url_infos: ClassVar = {}  # tfds would look for a file of checksums.

    def _info(self):
      features = tfds.features.FeaturesDict(
        {
          'file_name': tfds.features.Text(),
          'image': tfds.features.Image(encoding_format='jpeg'),
          'label': tfds.features.ClassLabel(num_classes=_CLASSES),
        }
      )
      return tfds.core.DatasetInfo(builder=self, features=features)

    def _split_generators(self, dl_manager):
      return {'train': self._generate_examples()}

    def _generate_examples(self):
      for number, photo in enumerate(photos):
        yield (
          number,
          {
            'file_name': f'{number:06}.JPEG',
            'image': photo,
            'label': number % _CLASSES,
          },
        )

  builder = Photos(data_dir=directory, file_format='array_record')
  silence = io.StringIO()
  with (
    contextlib.redirect_stdout(silence),
    contextlib.redirect_stderr(silence),
  ):
    builder.download_and_prepare()
  return str(builder.data_dir)
