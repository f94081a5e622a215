"""The stages that an image goes through, each alone."""

import io
import itertools
import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from experiments import _benchmark_timing as timing
from maxsup_jax.data import (
  _jpeg,
  _optional,
  _resampling,
  decoding,
  transforms,
)
from maxsup_jax.data.resizing import draw_crop, resize_exact


def measure(
  source: Any, size: int, *, rounds: int, count: int, say: Callable[[str], Any]
) -> dict[str, Any]:
  """Times the stages in turn, by the processor's time.

  Args:
    source: see `stages`.
    size: see there.
    rounds: how often each has its turn.
    count: images of a turn.
    say: is told how far it is.

  Returns:
    A section of the results.
  """

  def timer(function):
    # From one round to the next it goes on: the whole has all files, too.
    files = itertools.cycle(range(len(source)))

    def run(count):
      chosen = list(itertools.islice(files, count))
      start = time.process_time()
      for i in chosen:
        function(i)
      return (time.process_time() - start) / count

    return run

  orders, seconds = timing.time_in_turn(
    {name: timer(function) for name, function in stages(source, size).items()},
    rounds,
    count,
    say,
  )
  return {
    'orders': orders,
    'seconds_per_image': {
      name: {'per_round': values, **timing.summary(values)}
      for name, values in seconds.items()
    },
  }


def stages(source: Any, size: int) -> Mapping[str, Callable[[int], Any]]:
  """What is done to an image, as functions of its index in the source.

  What a stage needs of the ones before it is made beforehand, and the crops are
  those that `draw_crop` draws.

  Args:
    source: of `write_dataset`.
    size: S of the batches.

  Returns:
    The stages by name. Those named `decode` and `resize` come in several ways.
  """
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

  def upper(i):
    top, _, height, _ = crops[i]
    return decoding.EncodedImage(files[i], 3).upper(top + height)

  def stack(i):
    batch[i] = small[i]

  made = {
    'read and parse': lambda i: source.examples[i],
    'draw the crop': lambda i: draw_crop(*images[i].shape[:2], rng),
    'decode, PIL': lambda i: _pil(files[i]),
    'decode, OpenCV': lambda i: _opencv(files[i]),
    'decode down to the crop': upper,
    'resize, PIL': _without(
      'numba', lambda i: resize_exact(windows[i], size, size)
    ),
    'resize, OpenCV area': lambda i: resize_exact(
      windows[i], size, size, 'area'
    ),
    'flip': lambda i: transforms.flip_left_right(small[i], rng),
    'stack': stack,
  }
  if _jpeg.usable():
    made['decode, simplejpeg'] = lambda i: decoding.decode(files[i], 3)
    made['decode at half size, simplejpeg'] = lambda i: _half(files[i])
  if _resampling.usable():
    made['resize, Numba'] = lambda i: resize_exact(windows[i], size, size)
  return made


def _without(package, function):
  def call(i):
    with _optional.without(package):
      return function(i)

  return call


def _pil(file):
  from PIL import Image

  return Image.open(io.BytesIO(file)).convert('RGB')


def _opencv(file):
  import cv2

  flags = cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION
  return cv2.imdecode(np.frombuffer(file, np.uint8), flags)


def _half(file):
  height, width, _, _ = _optional.simplejpeg().decode_jpeg_header(file)
  return _optional.simplejpeg().decode_jpeg(
    file, min_height=height // 2, min_width=width // 2, strict=False
  )
