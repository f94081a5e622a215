"""Photographs to measure with: about as large as those of ImageNet.

ImageNet cannot be downloaded here and now, so these are crops, hardly scaled,
of three real photographs that scikit-learn and matplotlib bring along, written
as JPEG with the sampling of colours and about the size of ImageNet's files.
"""

import io
import pathlib
from collections.abc import Sequence
from typing import Any

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


def make_photos(count: int) -> list[bytes]:
  """The contents of so many JPEG files, always the same."""
  from PIL import Image

  originals = _originals()
  rng = np.random.default_rng(0)
  sizes = [size for size, share in _SIZES.items() for _ in range(share)]
  photos = []
  for _ in range(count):
    width, height = sizes[rng.integers(len(sizes))]
    large = [x for x in originals if x.width >= width and x.height >= height]
    original = large[rng.integers(len(large))]
    most = min(original.width / width, original.height / height)
    scale = rng.uniform(1, most)
    crop_width, crop_height = int(scale * width), int(scale * height)
    left = int(rng.integers(original.width - crop_width + 1))
    top = int(rng.integers(original.height - crop_height + 1))
    photo = original.crop((left, top, left + crop_width, top + crop_height))
    if rng.random() < 0.5:
      photo = photo.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    file, quality = io.BytesIO(), int(rng.integers(*_QUALITIES))
    photo = photo.resize((width, height), Image.Resampling.BICUBIC)
    photo.save(file, 'JPEG', quality=quality, subsampling='4:2:0')
    photos.append(file.getvalue())
  return photos


def _originals():
  import matplotlib
  import sklearn.datasets
  from PIL import Image

  photos = sklearn.datasets.load_sample_images().images
  path = pathlib.Path(matplotlib.get_data_path(), 'sample_data')
  with Image.open(path / 'grace_hopper.jpg') as grace_hopper:
    return [*map(Image.fromarray, photos), grace_hopper.convert('RGB')]


def write_files(photos: Sequence[bytes], directory: pathlib.Path) -> list[str]:
  """Writes each photograph to a file; gives the paths."""
  paths = [directory / f'{number:06}.JPEG' for number in range(len(photos))]
  for path, photo in zip(paths, photos):
    path.write_bytes(photo)
  return [str(path) for path in paths]


class Files:
  """Reads the photographs one by one, as a dataset of tfds its records."""

  def __init__(self, paths: Sequence[str]):
    self._paths = paths

  def __len__(self) -> int:
    return len(self._paths)

  def __getitem__(self, index: int) -> dict[str, Any]:
    path = pathlib.Path(self._paths[index])
    return {'image': path.read_bytes(), 'label': index % 10}
