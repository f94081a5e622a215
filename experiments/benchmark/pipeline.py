"""The suite `pipeline`: from JPEG files to batches, beside PIL.

ImageNet cannot be downloaded here and now, so these are crops, hardly scaled,
of three real photographs that scikit-learn and matplotlib bring along, written
as JPEG with the sampling of colours and about the size of ImageNet's files.
"""

import concurrent.futures
import contextlib
import functools
import io
import itertools
import os
import pathlib
import random
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import matplotlib
import numpy as np
import sklearn.datasets
import tensorflow_datasets as tfds
from PIL import Image

from experiments.benchmark import timing
from maxsup_jax import data
from maxsup_jax.data import _jpeg, _optional, _resampling
from maxsup_jax.data.resizing import draw_crop
from maxsup_jax.errors import UsageError

_FASTER = ('simplejpeg', 'numba')
_ALL_CORES = len(os.sched_getaffinity(0))
# Width and height, and how many of a hundred have them.
_SIZES = {(500, 375): 60, (500, 333): 15, (375, 500): 15}
_SIZES |= {(333, 500): 5, (400, 300): 5}


_SETTINGS = {'image_size': 224, 'batch_size': 64, 'photos': 384}
_SETTINGS |= {'rounds': 9, 'steps_per_round': 3}


def measure(**given: int | None) -> dict[str, Any]:
  """Times everything, side by side in turns, on made photographs."""
  s = timing.filled(_SETTINGS, given)
  timing.say('making photographs')
  photos, before = make_photos(s.photos), os.sched_getaffinity(0)
  with tempfile.TemporaryDirectory() as directory:
    paths = _files(pathlib.Path(directory, 'folder'), photos)
    source = data.open_source(f'folder:{paths[0].parents[2]}', 'train')
    records = _array_records(directory, photos)
    check_pixels(s, source)
    # This thread, and those that it starts, on one processor.
    os.sched_setaffinity(0, {max(before)})
    try:
      results = {'per_core': _per_core(s, paths, source, records)}
    finally:
      os.sched_setaffinity(0, before)
    results['all_cores'] = _all_cores(s, paths, source)
  return {
    'settings': {
      **vars(s),
      'mean_bytes': float(np.mean([len(photo) for photo in photos])),
      'cpus': _ALL_CORES,
      'simplejpeg': _jpeg.usable() is not None,
      'numba': _resampling.usable() is not None,
    },
    'results': results,
  }


def make_photos(count: int) -> list[bytes]:
  """The contents of so many JPEG files, always the same."""
  originals = [
    *map(Image.fromarray, sklearn.datasets.load_sample_images().images)
  ]
  path = pathlib.Path(matplotlib.get_data_path(), 'sample_data')
  with Image.open(path / 'grace_hopper.jpg') as grace_hopper:
    originals.append(grace_hopper.convert('RGB'))
  rng = np.random.default_rng(0)
  sizes = [size for size, share in _SIZES.items() for _ in range(share)]
  photos = []
  for _ in range(count):
    width, height = sizes[rng.integers(len(sizes))]
    large = [x for x in originals if x.width >= width and x.height >= height]
    original = large[rng.integers(len(large))]
    most = min(original.width / width, original.height / height)
    scale = rng.uniform(1, most)
    w, h = int(scale * width), int(scale * height)
    left = int(rng.integers(original.width - w + 1))
    top = int(rng.integers(original.height - h + 1))
    photo = original.crop((left, top, left + w, top + h))
    if rng.random() < 0.5:
      photo = photo.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    # High, because these photographs have less detail than most.
    file, quality = io.BytesIO(), int(rng.integers(97, 101))
    photo = photo.resize((width, height), Image.Resampling.BICUBIC)
    photo.save(file, 'JPEG', quality=quality, subsampling='4:2:0')
    photos.append(file.getvalue())
  return photos


def _files(root: pathlib.Path, photos: Sequence[bytes]) -> list[pathlib.Path]:
  """Writes the photographs as a directory of images in two classes."""
  paths = [root / f'train/{i % 2}/{i:06}.JPEG' for i in range(len(photos))]
  for path, photo in zip(paths, photos):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(photo)
  return paths


def _array_records(directory: str, photos: Sequence[bytes]) -> data.Source:
  """The same photographs as tfds prepares them."""

  class Photos(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    name = 'photos'
    VERSION = tfds.core.Version('1.0.0')
    url_infos: ClassVar[dict[str, Any]] = {}  # As in `data.digits`.

    def _info(self):
      features = {
        'image': tfds.features.Image(encoding_format='jpeg'),
        'label': tfds.features.ClassLabel(num_classes=2),
      }
      return tfds.core.DatasetInfo(
        builder=self, features=tfds.features.FeaturesDict(features)
      )

    def _split_generators(self, dl_manager):
      return {'train': self._generate_examples()}

    def _generate_examples(self):
      for i, photo in enumerate(photos):
        yield i, {'image': photo, 'label': i % 2}

  builder = Photos(data_dir=directory, file_format='array_record')
  with contextlib.redirect_stdout(sys.stderr):
    builder.download_and_prepare()
  return data.open_source(builder.data_dir, 'train')


def pil(
  paths: Sequence[Any], size: int, batch_size: int, threads: int = 0
) -> Callable[[], np.ndarray]:
  """Mirrored random crops by PIL, in the steps of torchvision's transforms."""

  def load(path, rng):
    image = Image.open(path).convert('RGB')
    top, left, height, width = draw_crop(image.height, image.width, rng)
    image = image.crop((left, top, left + width, top + height))
    image = image.resize((size, size), Image.Resampling.BILINEAR)
    if rng.random() < 0.5:
      image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    return np.asarray(image)

  draw, mapped = random.Random(0), map
  shuffled = (draw.sample(paths, len(paths)) for _ in itertools.count())
  order = itertools.chain.from_iterable(shuffled)
  rngs = itertools.repeat(np.random.default_rng(0))
  if threads:  # They share a batch.
    rngs = map(np.random.default_rng, itertools.count())
    mapped = concurrent.futures.ThreadPoolExecutor(threads).map
  return lambda: np.stack(
    list(mapped(load, itertools.islice(order, batch_size), rngs))
  )


def ours(s: Any, source: Any, **workers: int) -> Any:
  """The batches of training."""
  crop = f'random_resized_crop({s.image_size}) | flip'
  return data.train_batches(
    source,
    seed=0,
    transform=data.parse_transform(crop),
    batch_size=s.batch_size,
    **{'num_threads': 0, 'workers': 0, **workers},
  )


def _without(packages: Sequence[str], stream: Any) -> Any:
  with _optional.without(*packages):
    return next(stream)


def check_pixels(s: Any, source: Any) -> None:
  """Refuses packages that make a batch sooner, and other."""
  batches = []
  for packages in ((), _FASTER):
    with contextlib.closing(ours(s, source)) as stream:
      batches.append(_without(packages, stream)['image'])
  if not np.array_equal(*batches):
    raise UsageError(
      f'the pixels differ with and without {" and ".join(_FASTER)}; expected '
      'equal ones'
    )


def _per_core(
  s: Any, paths: Sequence[Any], source: Any, records: Any
) -> dict[str, Any]:
  with (
    contextlib.closing(ours(s, source)) as stream,
    contextlib.closing(ours(s, records)) as other,
  ):
    batches = {
      'pil': pil(paths, s.image_size, s.batch_size),
      'ours': functools.partial(next, stream),
      'ours, ArrayRecord': functools.partial(next, other),
    }
    missing = {package: (package,) for package in _FASTER}
    for name, packages in {**missing, 'either': _FASTER}.items():
      without = functools.partial(_without, packages, stream)
      batches[f'ours, without {name}'] = without
    return _compared(s, batches)


def _all_cores(s: Any, paths: Sequence[Any], source: Any) -> dict[str, Any]:
  with (
    contextlib.closing(ours(s, source, num_threads=_ALL_CORES)) as threads,
    contextlib.closing(
      ours(s, source, num_threads=1, workers=_ALL_CORES)
    ) as workers,
  ):
    batches = {
      'pil': pil(paths, s.image_size, s.batch_size, _ALL_CORES),
      'ours, threads': functools.partial(next, threads),
      'ours, workers': functools.partial(next, workers),
    }
    # What is ready when a turn begins was made in the others' turns.
    return _compared(s, batches, time.perf_counter, skip=8 * _ALL_CORES)


def _compared(
  s: Any,
  batches: Mapping[str, Callable[[], Any]],
  clock: Callable[[], float] = time.process_time,
  skip: int = 0,
) -> dict[str, Any]:
  """Times batches in turn, each time after `skip` that are not timed.

  On one core what counts is the processor's time, so that what else runs on it
  takes no part.
  """

  def timer(name):
    def seconds_per_image(count):
      for _ in range(0 if name == 'pil' else skip):
        batches[name]()
      return timing.timer(batches[name], clock=clock)(count) / s.batch_size

    return seconds_per_image

  seconds = timing.time_in_turn(
    {name: timer(name) for name in batches}, s.rounds, s.steps_per_round
  )
  variants = {}
  for name, values in seconds.items():
    summary = timing.summary(values)
    variants[name] = {
      'seconds_per_image': summary,
      'images_per_second': 1 / summary['median'],
      'speedup': timing.ratios(seconds['pil'], values),
    }
  return {'variants': variants}
