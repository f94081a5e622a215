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
from collections.abc import Callable, Iterator, Sequence

import numpy as np

NextBatch = Callable[[], np.ndarray]

# In evaluation the shorter side has so many pixels for each of the crop.
EVAL_RESIZE = 8 / 7


def _endless(paths: Sequence[str]) -> Iterator[str]:
  draw = random.Random(0)
  while True:
    yield from draw.sample(paths, len(paths))


def pil(
  paths: Sequence[str], batch_size: int, size: int, *, threads: int = 0
) -> NextBatch:
  """Random crops by PIL, in the steps of torchvision's transforms.

  Args:
    paths: of the files.
    batch_size: B.
    size: S.
    threads: how many share a batch; 0 for none but the caller.
  """
  from PIL import Image

  from maxsup_jax.data.resizing import draw_crop

  rngs = map(np.random.default_rng, itertools.count())

  def load(path, rng):
    image = _open(path)
    top, left, height, width = draw_crop(image.height, image.width, rng)
    image = image.crop((left, top, left + width, top + height))
    image = image.resize((size, size), Image.Resampling.BILINEAR)
    if rng.random() < 0.5:
      image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    return np.asarray(image)

  order = _endless(paths)
  if not threads:
    rng = next(rngs)
    return lambda: np.stack(
      [load(path, rng) for path in itertools.islice(order, batch_size)]
    )
  pool = concurrent.futures.ThreadPoolExecutor(threads)

  def next_batch():
    paths = itertools.islice(order, batch_size)
    return np.stack(list(pool.map(load, paths, rngs)))

  return next_batch


def pil_eval(paths: Sequence[str], batch_size: int, size: int) -> NextBatch:
  """The central square by PIL, in the steps of torchvision's transforms."""
  from PIL import Image

  resized = round(size * EVAL_RESIZE)
  order = _endless(paths)

  def load(path):
    image = _open(path)
    scale = resized / min(image.size)
    shape = [max(resized, int(side * scale)) for side in image.size]
    image = image.resize(shape, Image.Resampling.BILINEAR)
    left, top = (round((side - size) / 2) for side in shape)
    return np.asarray(image.crop((left, top, left + size, top + size)))

  return lambda: np.stack(
    [load(path) for path in itertools.islice(order, batch_size)]
  )


def _open(path):
  from PIL import Image

  with open(path, 'rb') as file:
    return Image.open(file).convert('RGB')


def torchvision(paths: Sequence[str], batch_size: int, size: int) -> NextBatch:
  """What a worker of torch's DataLoader does with an `ImageFolder`."""
  import torch
  from torchvision import transforms

  transform = transforms.Compose(
    [
      transforms.RandomResizedCrop(size),
      transforms.RandomHorizontalFlip(),
      transforms.PILToTensor(),
    ]
  )
  order = _endless(paths)

  def next_batch():
    chosen = itertools.islice(order, batch_size)
    return torch.stack([transform(_open(path)) for path in chosen]).numpy()

  return _with_one_torch_thread(next_batch)


def torchvision_v2(
  paths: Sequence[str], batch_size: int, size: int
) -> NextBatch:
  """Tensors throughout: torchvision's own decoder, and its transforms v2."""
  import torch
  from torchvision import io
  from torchvision.transforms import v2

  transform = v2.Compose(
    [v2.RandomResizedCrop(size, antialias=True), v2.RandomHorizontalFlip()]
  )
  order = _endless(paths)

  def load(path):
    return transform(io.decode_jpeg(io.read_file(path), io.ImageReadMode.RGB))

  def next_batch():
    chosen = itertools.islice(order, batch_size)
    return torch.stack([load(path) for path in chosen]).numpy()

  return _with_one_torch_thread(next_batch)


def _with_one_torch_thread(next_batch):
  import torch

  def in_one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
      return next_batch()
    finally:
      torch.set_num_threads(before)

  return in_one_thread


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

  with contextlib.suppress(RuntimeError):
    tf.config.set_visible_devices([], 'GPU')

  def crop(path, window):
    encoded = tf.io.read_file(path)
    image = tf.image.decode_and_crop_jpeg(
      encoded, window, channels=3, dct_method='INTEGER_ACCURATE'
    )
    image = tf.image.resize(image, (size, size))
    return tf.cast(tf.image.random_flip_left_right(image), tf.uint8)

  def center(path, window):
    encoded = tf.io.read_file(path)
    shape = tf.io.extract_jpeg_shape(encoded)[:2]
    # The square of the original that becomes the picture.
    side = tf.cast(tf.reduce_min(shape), tf.float32) / EVAL_RESIZE
    side = tf.cast(side, tf.int32)
    top, left = (shape[0] - side) // 2, (shape[1] - side) // 2
    image = tf.image.decode_and_crop_jpeg(
      encoded,
      tf.stack([top, left, side, side]),
      channels=3,
      dct_method='INTEGER_ACCURATE',
    )
    return tf.cast(tf.image.resize(image, (size, size)), tf.uint8)

  options = tf.data.Options()
  options.threading.private_threadpool_size = threads
  options.threading.max_intra_op_parallelism = 1
  if threads == 1:
    # Or it would work ahead while others are timed.
    options.autotune.enabled = False
    options.experimental_optimization.apply_default_optimizations = False
  paths = 10 * list(paths)
  dataset = tf.data.Dataset.from_tensor_slices((paths, _windows(paths)))
  dataset = dataset.shuffle(len(paths), seed=0).repeat()
  dataset = dataset.map(
    crop if train else center,
    num_parallel_calls=threads if threads > 1 else None,
  )
  dataset = dataset.batch(batch_size).with_options(options)
  if threads > 1:
    dataset = dataset.prefetch(2)
  batches = dataset.as_numpy_iterator()
  return lambda: next(batches)


def _windows(paths: Sequence[str]) -> np.ndarray:
  """A random crop of each file: its top, left, height and width."""
  from PIL import Image

  from maxsup_jax.data.resizing import draw_crop

  rng = np.random.default_rng(0)
  windows = []
  for path in paths:
    with Image.open(path) as image:
      windows.append(draw_crop(image.height, image.width, rng))
  return np.array(windows, np.int32)
