"""The suite `pipeline`: from JPEG files to batches, beside PIL."""

import concurrent.futures
import contextlib
import functools
import itertools
import os
import pathlib
import random
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from experiments.benchmark import photos, report, timing
from maxsup_jax import data
from maxsup_jax.data import _jpeg, _optional, _resampling
from maxsup_jax.data._tfds_source import TfdsSource
from maxsup_jax.data.resizing import draw_crop
from maxsup_jax.errors import UsageError

_FASTER = ('simplejpeg', 'numba')
_ALL_CORES = len(os.sched_getaffinity(0))


def measure(rounds: int | None = None, **given: int) -> dict[str, Any]:
  """Times everything, side by side in turns, on made photographs."""
  s = timing.filled(
    {
      'image_size': 224,
      'batch_size': 64,
      'rounds': rounds or 9,
      'steps_per_round': 3,
      'photos': 384,
    },
    given,
  )
  timing.say('making photographs')
  files = photos.make_photos(s.photos)
  with tempfile.TemporaryDirectory() as directory:
    paths = photos.write_files(files, pathlib.Path(directory))
    source = TfdsSource(
      examples=photos.Files(paths),
      name='photos',
      image_key='image',
      label_key='label',
      num_classes=10,
      label_names=None,
      image_shape=None,
      image_size=None,
      channels=3,
    )
    check_pixels(s, source)
    with _pinned():
      results = {'per_core': _per_core(s, paths, source)}
    results['all_cores'] = _all_cores(s, paths, source)
  return {
    'settings': {
      **vars(s),
      'photographs': photos.SOURCES,
      'mean_bytes': float(np.mean([len(file) for file in files])),
      'cpus': _ALL_CORES,
      'simplejpeg': _jpeg.usable() is not None,
      'numba': _resampling.usable() is not None,
    },
    'results': results,
  }


@contextlib.contextmanager
def _pinned() -> Iterator[None]:
  """Keeps this thread, and those that it starts, on one processor."""
  before = os.sched_getaffinity(0)
  os.sched_setaffinity(0, {max(before)})
  try:
    yield
  finally:
    os.sched_setaffinity(0, before)


def pil(
  paths: Sequence[str], size: int, batch_size: int, threads: int = 0
) -> Callable[[], np.ndarray]:
  """Mirrored random crops by PIL, in the steps of torchvision's transforms."""
  from PIL import Image

  def load(path, rng):
    image = Image.open(path).convert('RGB')
    top, left, height, width = draw_crop(image.height, image.width, rng)
    image = image.crop((left, top, left + width, top + height))
    image = image.resize((size, size), Image.Resampling.BILINEAR)
    if rng.random() < 0.5:
      image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    return np.asarray(image)

  draw = random.Random(0)
  shuffled = (draw.sample(paths, len(paths)) for _ in itertools.count())
  order, mapped = itertools.chain.from_iterable(shuffled), map
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


def _without(packages, function, *args):
  with _optional.without(*packages):
    return function(*args)


def check_pixels(s: Any, source: Any) -> None:
  """Refuses packages that make a batch sooner, and other."""
  batches = []
  for packages in ((), _FASTER):
    with contextlib.closing(ours(s, source)) as stream:
      batches.append(_without(packages, next, stream)['image'])
  if not np.array_equal(*batches):
    raise UsageError(
      f'the pixels differ with and without {" and ".join(_FASTER)}; expected '
      'equal ones'
    )


def _per_core(s, paths, source):
  with contextlib.closing(ours(s, source)) as stream:
    batches = {
      'pil': pil(paths, s.image_size, s.batch_size),
      'ours': functools.partial(next, stream),
    }
    for package, missing in (
      *((package, (package,)) for package in _FASTER),
      ('either', _FASTER),
    ):
      batches[f'ours, without {package}'] = functools.partial(
        _without, missing, next, stream
      )
    return _compared(s, batches)


def _all_cores(s, paths, source):
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


def _compared(s, batches, clock=time.process_time, skip=0):
  """Times batches in turn, each time after `skip` that are not timed.

  On one core what counts is the processor's time, so that what else runs on it
  takes no part.
  """

  def timer(name, next_batch):
    timed = timing.timer(next_batch, clock=clock)

    def seconds_per_image(count):
      for _ in range(0 if name == 'pil' else skip):
        next_batch()
      return timed(count) / s.batch_size

    return seconds_per_image

  timers = {name: timer(name, x) for name, x in batches.items()}
  seconds = timing.time_in_turn(timers, s.rounds, s.steps_per_round)
  variants = {}
  for name, values in seconds.items():
    summary = timing.summary(values)
    variants[name] = {
      'seconds_per_image': summary,
      'images_per_second': 1 / summary['median'],
      'speedup': timing.ratios(seconds['pil'], values),
    }
  return {'variants': variants}


def describe(record: Mapping[str, Any]) -> list[str]:
  """A table for each part, and what they mean."""
  lines = []
  columns = (
    ('images/s', 'images_per_second', ',.0f'),
    ('x PIL', 'speedup', report.spread('.2f')),
  )
  for part, found in record['results'].items():
    title = part.replace('_', ' ')
    lines += [*report.table(found['variants'], columns, title=title), '']
  return [*lines, 'One core: processor time. All cores: time on the clock.']
