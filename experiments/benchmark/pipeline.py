"""The suite `pipeline`: from JPEG files to batches, beside PIL and others."""

import contextlib
import functools
import importlib.util
import io
import itertools
import os
import pathlib
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

from experiments.benchmark import peers, photos, report, timing
from maxsup_jax import data
from maxsup_jax.data import _jpeg, _optional, _resampling, decoding
from maxsup_jax.data.resizing import draw_crop, resize_exact
from maxsup_jax.data.transforms import Flip
from maxsup_jax.errors import UsageError, integer

TARGET = 1.5

_PHOTOS = 384
# All images of this size are in memory at once.
_LARGEST = 1024
_FASTER = ('simplejpeg', 'numba')


def measure(*, count: int = _PHOTOS, **given: int | None) -> dict[str, Any]:
  """Times everything, side by side in turns, on `count` photographs."""
  s = timing.filled(
    {'image_size': 224, 'batch_size': 64, 'rounds': 9, 'steps_per_round': 3},
    given,
  )
  integer('--image_size', s.image_size, 1, _LARGEST)
  integer('--batch_size', s.batch_size, 1, count)
  timing.say('making photographs')
  files = photos.make_photos(count)
  with tempfile.TemporaryDirectory() as directory:
    directory = pathlib.Path(directory)
    paths = photos.write_files(files, directory / 'files')
    source = data.open_source(photos.write_dataset(files, directory), 'train')
    check_pixels(s, source)
    with _pinned() as cpu:
      results = {
        'per_core': _per_core(s, paths, source),
        'evaluation': _evaluation(s, paths, source),
        'stages': _time_stages(s, source),
      }
    results['all_cores'] = _all_cores(s, paths, source)
  installed = {
    'simplejpeg': _jpeg.usable() is not None,
    'numba': _resampling.usable() is not None,
  }
  for package in ('tensorflow', 'torchvision'):
    installed[package] = bool(importlib.util.find_spec(package))
  speedup = results['per_core']['variants']['ours']['speedup']['median']
  return {
    'settings': {
      **vars(s),
      'photos': count,
      'photographs': photos.SOURCES,
      'mean_bytes': float(np.mean([len(file) for file in files])),
      'pinned_to_cpu': cpu,
      'cpus': len(os.sched_getaffinity(0)),
      'installed': installed,
    },
    'results': {
      **results,
      'same_pixels': True,
      'target': {'speedup_at_least': TARGET, 'speedup': speedup},
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


def ours(s: Any, source: Any, *, more: str = '', **workers: int) -> Any:
  """The batches of training; `more` are arguments of the crop."""
  return data.train_batches(
    source,
    seed=0,
    transform=data.parse_transform(
      f'random_resized_crop({s.image_size}{more}) | flip'
    ),
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
  plain, size = ours(s, source), (s.batch_size, s.image_size)
  area = ours(s, source, more=", interpolation='area'")
  batches = {
    'pil': peers.pil(paths, *size),
    'ours': functools.partial(next, plain),
    "ours, interpolation='area'": functools.partial(next, area),
  }
  for name, packages in (
    ('simplejpeg', _FASTER[:1]),
    ('numba', _FASTER[1:]),
    ('either', _FASTER),
  ):
    batches[f'ours, without {name}'] = functools.partial(
      _without, packages, next, plain
    )
  others = {
    'torchvision': lambda: peers.torchvision(paths, *size),
    'tf.data': lambda: peers.tf_data(paths, *size),
  }
  with contextlib.closing(plain), contextlib.closing(area):
    return compared(s, batches, others)


def _evaluation(s, paths, source):
  size = s.batch_size, s.image_size
  resized = round(s.image_size * peers.EVAL_RESIZE)
  transform = data.parse_transform(
    f'resize({resized}) | center_crop({s.image_size})'
  )

  def evaluation():
    while True:
      yield from data.eval_batches(
        source,
        transform=transform,
        batch_size=s.batch_size,
        num_threads=0,
        workers=0,
      )

  batches = {
    'pil': peers.pil_eval(paths, *size),
    'ours': functools.partial(next, evaluation()),
  }
  others = {'tf.data': lambda: peers.tf_data(paths, *size, train=False)}
  return compared(s, batches, others)


def _all_cores(s, paths, source):
  size, cpus = (s.batch_size, s.image_size), len(os.sched_getaffinity(0))
  threads = ours(s, source, num_threads=cpus)
  workers = ours(s, source, num_threads=1, workers=cpus)
  batches = {
    'pil': peers.pil(paths, *size, threads=cpus),
    'ours, threads': functools.partial(next, threads),
    'ours, workers': functools.partial(next, workers),
  }
  others = {'tf.data': lambda: peers.tf_data(paths, *size, threads=cpus)}
  with contextlib.closing(threads), contextlib.closing(workers):
    # What is ready when a turn begins was made in the others' turns.
    return compared(s, batches, others, time.perf_counter, skip=8 * cpus)


def compared(
  s: Any,
  batches: Mapping[str, peers.NextBatch],
  others: Mapping[str, Callable[[], peers.NextBatch]],
  clock: Callable[[], float] = time.process_time,
  skip: int = 0,
) -> dict[str, Any]:
  """Times batches in turn; those of `others` may need what is not installed.

  On one core what counts is the processor's time, so that what else runs on it
  takes no part. Before a turn, `skip` batches are not timed.
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

  def timer(name, next_batch):
    timed = timing.timer(next_batch, clock=clock)

    def seconds_per_image(count):
      for _ in range(0 if name == 'pil' else skip):
        next_batch()
      return timed(count) / s.batch_size

    return seconds_per_image

  orders, seconds = timing.time_in_turn(
    {name: timer(name, x) for name, x in batches.items()},
    s.rounds,
    s.steps_per_round,
  )
  variants = {}
  for name, values in seconds.items():
    summary = timing.summary(values)
    variants[name] = {
      'seconds_per_image': summary,
      'images_per_second': 1 / summary['median'],
      'speedup': timing.ratios(seconds['pil'], values),
    }
  return {'orders': orders, 'variants': variants, 'missing': missing}


def _time_stages(s, source):
  def timer(function):
    # From one round to the next it goes on: the whole has all files, too.
    files = itertools.cycle(range(len(source)))
    return timing.timer(lambda: function(next(files)), clock=time.process_time)

  orders, seconds = timing.time_in_turn(
    {n: timer(stage) for n, stage in stages(source, s.image_size).items()},
    s.rounds,
    min(2 * s.batch_size, len(source)),
  )
  seconds = {name: timing.summary(x) for name, x in seconds.items()}
  return {'orders': orders, 'seconds_per_image': seconds}


def stages(source: Any, size: int) -> Mapping[str, Callable[[int], Any]]:
  """What is done to an image, as functions of its index in the source.

  What a stage needs of the ones before it is made beforehand. Those named
  `decode` and `resize` come in several ways.
  """
  from PIL import Image

  rng = np.random.default_rng(0)
  files = [example['image'] for example in source.examples]
  headers = [_jpeg.read_header(file) for file in files]
  crops = [draw_crop(h.height, h.width, rng) for h in headers]
  images = [decoding.decode(file, 3) for file in files]
  windows = [
    image[top : top + height, left : left + width]
    for image, (top, left, height, width) in zip(images, crops)
  ]
  small = [resize_exact(window, size, size) for window in windows]
  batch = np.zeros((len(small), size, size, 3), np.uint8)

  def opencv(i):
    import cv2

    flags = cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION
    return cv2.imdecode(np.frombuffer(files[i], np.uint8), flags)

  def upper(i):
    top, _, height, _ = crops[i]
    return decoding.EncodedImage(files[i], 3).upper(top + height)

  def half(i):
    height, width, _, _ = _optional.simplejpeg().decode_jpeg_header(files[i])
    return _optional.simplejpeg().decode_jpeg(
      files[i], min_height=height // 2, min_width=width // 2, strict=False
    )

  def resize(i, *interpolation):
    return resize_exact(windows[i], size, size, *interpolation)

  made = {
    'read and parse': lambda i: source.examples[i],
    'draw the crop': lambda i: draw_crop(*images[i].shape[:2], rng),
    'decode, PIL': lambda i: Image.open(io.BytesIO(files[i])).convert('RGB'),
    'decode, OpenCV': opencv,
    'decode down to the crop': upper,
    'resize, PIL': functools.partial(_without, ('numba',), resize),
    'resize, OpenCV area': lambda i: resize(i, 'area'),
    'flip': lambda i: Flip()(small[i], rng),
    'stack': lambda i: np.copyto(batch[i], small[i]),
  }
  if _jpeg.usable():
    made['decode, simplejpeg'] = lambda i: decoding.decode(files[i], 3)
    made['decode at half size, simplejpeg'] = half
  if _resampling.usable():
    made['resize, Numba'] = resize
  return made


def describe(record: Mapping[str, Any]) -> list[str]:
  """What ran on what, the tables, and what they mean; at most 80 columns."""
  results = record['results']
  speedup = results['per_core']['variants']['ours']['speedup']
  target = results['target']['speedup_at_least']
  lines = report.wrapped(
    'One core: processor time, random_resized_crop | flip, or resize | '
    'center_crop to evaluate. All cores: time on the clock.'
  )
  columns = (
    ('images/s', 'images_per_second', ',.0f'),
    ('x PIL', 'speedup', report.spread('.2f')),
  )
  missing = {}
  for part in ('per_core', 'evaluation', 'all_cores'):
    title = part.replace('_', ' ')
    lines += [
      '',
      *report.table(results[part]['variants'], columns, title=title),
    ]
    missing |= results[part]['missing']
  rows = {
    n: {'x': x} for n, x in results['stages']['seconds_per_image'].items()
  }
  columns = (('us/image', 'x', report.spread('.0f', 1e6)),)
  return [
    *lines,
    '',
    *report.table(rows, columns, title='one stage alone, one core'),
    *report.wrapped(
      f'Target: {target:g} times PIL on one core: '
      f'{"met" if speedup["median"] >= target else "missed"}.',
      'The pixels are the same with and without simplejpeg and Numba; area '
      'and tf.data have others.',
      *(f'Not measured: {n} ({why})' for n, why in missing.items()),
    ),
  ]
