"""What the input pipeline is compared with: PIL, torchvision and tf.data.

Each maker returns a function without arguments that gives the next batch, uint8
`[B, S, S, 3]`, from JPEG files in a random order: a random crop of the usual
kind, bilinear, mirrored every other time; or for evaluation the central square.
"""

import concurrent.futures
import contextlib
import itertools
import os
import random
from collections.abc import Callable, Sequence

import numpy as np

from maxsup_jax.data.resizing import draw_crop

NextBatch = Callable[[], np.ndarray]

# In evaluation the shorter side has so many pixels for each of the crop.
EVAL_RESIZE = 8 / 7


def _batches(load, paths, batch_size, threads=0) -> NextBatch:
  """Batches of what `load` gives for a path and a generator."""

  def endless():
    draw = random.Random(0)
    while True:
      yield from draw.sample(paths, len(paths))

  order, mapped = endless(), map
  rngs = itertools.repeat(np.random.default_rng(0))
  if threads:
    rngs = map(np.random.default_rng, itertools.count())
    mapped = concurrent.futures.ThreadPoolExecutor(threads).map
  return lambda: np.stack(
    list(mapped(load, itertools.islice(order, batch_size), rngs))
  )


def _open(path):
  from PIL import Image

  with open(path, 'rb') as file:
    return Image.open(file).convert('RGB')


def pil(
  paths: Sequence[str], batch_size: int, size: int, *, threads: int = 0
) -> NextBatch:
  """Random crops by PIL, in the steps of torchvision's transforms.

  Several threads share a batch; 0 for none but the caller.
  """
  from PIL import Image

  def load(path, rng):
    image = _open(path)
    top, left, height, width = draw_crop(image.height, image.width, rng)
    image = image.crop((left, top, left + width, top + height))
    image = image.resize((size, size), Image.Resampling.BILINEAR)
    if rng.random() < 0.5:
      image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    return np.asarray(image)

  return _batches(load, paths, batch_size, threads)


def pil_eval(paths: Sequence[str], batch_size: int, size: int) -> NextBatch:
  """The central square by PIL, in the steps of torchvision's transforms."""
  from PIL import Image

  resized = round(size * EVAL_RESIZE)

  def load(path, _):
    image = _open(path)
    scale = resized / min(image.size)
    shape = [max(resized, int(side * scale)) for side in image.size]
    image = image.resize(shape, Image.Resampling.BILINEAR)
    left, top = (round((side - size) / 2) for side in shape)
    return np.asarray(image.crop((left, top, left + size, top + size)))

  return _batches(load, paths, batch_size)


def torchvision(paths: Sequence[str], batch_size: int, size: int) -> NextBatch:
  """What a worker of torch's DataLoader does with an `ImageFolder`."""
  import torch
  from torchvision import transforms

  torch.set_num_threads(1)
  transform = transforms.Compose(
    [
      transforms.RandomResizedCrop(size),
      transforms.RandomHorizontalFlip(),
      transforms.PILToTensor(),
    ]
  )
  return _batches(
    lambda path, _: transform(_open(path)).numpy(), paths, batch_size
  )


def tf_data(
  paths: Sequence[str],
  batch_size: int,
  size: int,
  *,
  train: bool = True,
  threads: int = 1,
) -> NextBatch:
  """As TensorFlow's and Flax's ImageNet examples do it, with exact decoding.

  Their bilinear filter does not widen where an image shrinks. Their crops would
  be smaller on average, so they get those that all others have.
  """
  os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '3')
  import tensorflow as tf
  from PIL import Image

  with contextlib.suppress(RuntimeError):
    tf.config.set_visible_devices([], 'GPU')

  def load(path, window):
    encoded = tf.io.read_file(path)
    if not train:
      shape = tf.io.extract_jpeg_shape(encoded)[:2]
      # The square of the original that becomes the picture.
      side = tf.cast(tf.reduce_min(shape), tf.float32) / EVAL_RESIZE
      side = tf.cast(side, tf.int32)
      top, left = (shape[0] - side) // 2, (shape[1] - side) // 2
      window = tf.stack([top, left, side, side])
    image = tf.image.decode_and_crop_jpeg(
      encoded, window, channels=3, dct_method='INTEGER_ACCURATE'
    )
    image = tf.image.resize(image, (size, size))
    if train:
      image = tf.image.random_flip_left_right(image)
    return tf.cast(image, tf.uint8)

  options = tf.data.Options()
  options.threading.private_threadpool_size = threads
  options.threading.max_intra_op_parallelism = 1
  if threads == 1:
    # Or it would work ahead while others are timed.
    options.autotune.enabled = False
    options.experimental_optimization.apply_default_optimizations = False
  paths, rng, windows = 10 * list(paths), np.random.default_rng(0), []
  for path in paths:
    with Image.open(path) as image:
      windows.append(draw_crop(image.height, image.width, rng))
  dataset = tf.data.Dataset.from_tensor_slices(
    (paths, np.array(windows, np.int32))
  )
  dataset = dataset.shuffle(len(paths), seed=0).repeat()
  dataset = dataset.map(
    load, num_parallel_calls=threads if threads > 1 else None
  )
  dataset = dataset.batch(batch_size).with_options(options)
  if threads > 1:
    dataset = dataset.prefetch(2)
  batches = dataset.as_numpy_iterator()
  return lambda: next(batches)
