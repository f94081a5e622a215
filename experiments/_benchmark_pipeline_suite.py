"""The suite `pipeline`: from JPEG files to batches, beside PIL and others."""

import contextlib
import dataclasses
import functools
import importlib.util
import os
import pathlib
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

from experiments import _benchmark_photos as photos
from experiments import _benchmark_pipeline_peers as peers
from experiments import _benchmark_pipeline_stages as stages
from experiments import _benchmark_timing as timing
from maxsup_jax import data
from maxsup_jax.data import _jpeg, _optional, _resampling
from maxsup_jax.errors import UsageError

TARGET = 1.5

_SEED = 0
# All images of this size are in memory at once.
_LARGEST = 1024
_OTHERS = ('tensorflow', 'torchvision')


@dataclasses.dataclass(frozen=True)
class Settings:
  """What is measured.

  Attributes:
    image_size: side S of the images in a batch.
    batch_size: images in a batch.
    photos: how many files there are.
    rounds: how often all take turns.
    steps_per_round: batches of each in a round.
  """

  image_size: int = 224
  batch_size: int = 64
  photos: int = 384
  rounds: int = 9
  steps_per_round: int = 3


def choose_settings(**given: int | None) -> Settings:
  """The settings of the flags; None takes the default.

  Raises:
    UsageError: if there are not so many photographs, or not so large ones.
  """
  chosen = Settings(**{name: x for name, x in given.items() if x is not None})
  for name, most in (('image_size', _LARGEST), ('batch_size', chosen.photos)):
    value = getattr(chosen, name)
    if value > most:
      raise UsageError(f'--{name}={value}: expected at most {most}')
  return chosen


def measure(settings: Settings) -> dict[str, Any]:
  """Times everything, side by side in turns.

  Returns:
    The sections `settings` and `results` of the record.
  """
  _say('making photographs')
  files = photos.make_photos(settings.photos)
  with tempfile.TemporaryDirectory() as directory:
    directory = pathlib.Path(directory)
    paths = photos.write_files(files, directory / 'files')
    source = data.open_source(photos.write_dataset(files, directory), 'train')
    with _pinned() as cpu:
      results = {
        'per_core': _per_core(settings, paths, source),
        'evaluation': _evaluation(settings, paths, source),
        'stages': stages.measure(
          source,
          settings.image_size,
          rounds=settings.rounds,
          count=min(2 * settings.batch_size, settings.photos),
          say=_say,
        ),
      }
    results['all_cores'] = _all_cores(settings, paths, source)
  print('\r', end='', file=sys.stderr)
  installed = {
    'simplejpeg': _jpeg.usable(),
    'numba': _resampling.usable(),
    **{p: bool(importlib.util.find_spec(p)) for p in _OTHERS},
  }
  return {
    'settings': {
      **dataclasses.asdict(settings),
      'photographs': photos.SOURCES,
      'mean_bytes': float(np.mean([len(file) for file in files])),
      'pinned_to_cpu': cpu,
      'cpus': len(os.sched_getaffinity(0)),
      'installed': installed,
    },
    'results': {
      **results,
      'same_pixels': _same_pixels(settings, source),
      'target': {
        'speedup_at_least': TARGET,
        'speedup': results['per_core']['variants']['ours']['speedup']['median'],
      },
    },
  }


@contextlib.contextmanager
def _pinned() -> Iterator[int]:
  """Keeps this thread, and those that it starts, on one processor."""
  before = os.sched_getaffinity(0)
  cpu = max(before)
  os.sched_setaffinity(0, {cpu})
  try:
    yield cpu
  finally:
    os.sched_setaffinity(0, before)


def _ours(
  settings: Settings,
  source: data.Source,
  *,
  interpolation: str = 'bilinear',
  evaluation: bool = False,
  num_threads: int = 0,
  workers: int = 0,
) -> data.BatchIterator:
  size = settings.image_size
  arguments = {
    'batch_size': settings.batch_size,
    'num_threads': num_threads,
    'workers': workers,
  }
  if evaluation:
    resized = round(size * peers.EVAL_RESIZE)
    transform = f'resize({resized}) | center_crop({size})'
    return data.eval_batches(
      source, transform=data.parse_transform(transform), **arguments
    )
  transform = f'random_resized_crop({size}, interpolation={interpolation!r})'
  return data.train_batches(
    source,
    seed=_SEED,
    transform=data.parse_transform(f'{transform} | flip'),
    **arguments,
  )


def _without(packages: tuple[str, ...], function: Callable[[], Any]) -> Any:
  with _optional.without(*packages):
    return function()


def _per_core(settings, paths, source):
  size = settings.batch_size, settings.image_size
  plain = _ours(settings, source)
  area = _ours(settings, source, interpolation='area')
  batches = {
    'pil': peers.pil(paths, *size),
    'ours': functools.partial(next, plain),
    'ours, without simplejpeg': functools.partial(
      _without, ('simplejpeg',), functools.partial(next, plain)
    ),
    'ours, without numba': functools.partial(
      _without, ('numba',), functools.partial(next, plain)
    ),
    'ours, without either': functools.partial(
      _without, ('simplejpeg', 'numba'), functools.partial(next, plain)
    ),
    "ours, interpolation='area'": functools.partial(next, area),
  }
  others = {
    'torchvision': lambda: peers.torchvision(paths, *size),
    'torchvision, tensors': lambda: peers.torchvision_v2(paths, *size),
    'tf.data': lambda: peers.tf_data(paths, *size),
  }
  with contextlib.closing(plain), contextlib.closing(area):
    return _compared(settings, batches, others)


def _evaluation(settings, paths, source):
  size = settings.batch_size, settings.image_size

  def ours():
    while True:
      yield from _ours(settings, source, evaluation=True)

  batches = {
    'pil': peers.pil_eval(paths, *size),
    'ours': functools.partial(next, ours()),
  }
  others = {'tf.data': lambda: peers.tf_data(paths, *size, train=False)}
  return _compared(settings, batches, others)


def _all_cores(settings, paths, source):
  size = settings.batch_size, settings.image_size
  cpus = len(os.sched_getaffinity(0))
  threads = _ours(settings, source, num_threads=cpus)
  workers = _ours(settings, source, num_threads=1, workers=cpus)
  batches = {
    'pil': peers.pil(paths, *size, threads=cpus),
    'ours, threads': functools.partial(next, threads),
    'ours, workers': functools.partial(next, workers),
  }
  others = {'tf.data': lambda: peers.tf_data(paths, *size, threads=cpus)}
  with contextlib.closing(threads), contextlib.closing(workers):
    # What is ready when a turn begins was made in the others' turns.
    return _compared(
      settings, batches, others, clock=time.perf_counter, skip=8 * cpus
    )


def _compared(
  settings: Settings,
  batches: Mapping[str, peers.NextBatch],
  others: Mapping[str, Callable[[], peers.NextBatch]],
  clock: Callable[[], float] = time.process_time,
  skip: int = 0,
) -> dict[str, Any]:
  """Times batches in turn; those of `others` may need what is not installed.

  On one core what counts is the processor's time, so that what else runs on it
  takes no part.
  """
  batches, missing = dict(batches), {}
  for name, make in others.items():
    try:
      next_batch = make()
      next_batch()
    except Exception as error:  # Packages that do not fit each other, too.
      missing[name] = ' '.join(str(error).split())[:200]
    else:
      batches[name] = next_batch
  timers = {
    name: _timer(
      next_batch, settings.batch_size, clock, 0 if name == 'pil' else skip
    )
    for name, next_batch in batches.items()
  }
  orders, seconds = timing.time_in_turn(
    timers, settings.rounds, settings.steps_per_round, _say
  )
  variants = {}
  for name, values in seconds.items():
    summary = timing.summary(values)
    variants[name] = {
      'seconds_per_image': {'per_round': values, **summary},
      'images_per_second': 1 / summary['median'],
      'speedup': timing.ratios(seconds['pil'], values),
    }
  return {'orders': orders, 'variants': variants, 'missing': missing}


def _timer(
  next_batch: peers.NextBatch,
  batch_size: int,
  clock: Callable[[], float],
  skip: int,
) -> Callable[[int], float]:
  """Gives the seconds of an image, after batches that are not timed."""

  def run(count):
    for _ in range(skip):
      next_batch()
    start = clock()
    for _ in range(count):
      next_batch()
    return (clock() - start) / (count * batch_size)

  return run


def _same_pixels(settings, source):
  """Whether what is installed changes the pixels of a batch."""
  batches = []
  for packages in ((), ('simplejpeg', 'numba')):
    with contextlib.closing(_ours(settings, source)) as stream:
      batches.append(_without(packages, functools.partial(next, stream)))
  return bool(np.array_equal(batches[0]['image'], batches[1]['image']))


def _say(text: str) -> None:
  print(f'\r{text} ', end='', file=sys.stderr, flush=True)
