"""Batches of a source; for training a pure function of (seed, step).

The order of an epoch depends on nothing but `(seed, epoch)`, and the random
numbers of an image on nothing but `(seed, epoch, index)`, its index being that
in the source. So a run that starts at step s reads what it would have read
there anyway, with any number of processes, workers and threads: the position in
the data *is* the step, and no iterator state needs saving.

grain does the reading ahead, in threads and in worker processes. The order is
not grain's: its `shuffle` (0.2.18) is a cipher of four rounds, made to need no
memory. Of 300 epochs of 1,437 examples, one was close to the unshuffled order
(their correlation ten standard deviations from 0), and with 50,000 examples the
classes are spread over the batches more evenly than by chance.
"""

import dataclasses
import functools
import os
import sys
from collections.abc import Callable
from typing import Any

import numpy as np

from maxsup_jax.data.decoding import DecodingError
from maxsup_jax.data.reading import UNREAD, Batch, BatchIterator, read_ahead
from maxsup_jax.data.sources import (
  IGNORED,
  TRIES,
  Source,
  first_readable,
  slice_of,
)
from maxsup_jax.errors import UsageError, integer, number, one_of

# Takes an image `[H, W, C]` and a generator, or None where nothing is random.
ImageTransform = Callable[[np.ndarray, np.random.Generator | None], np.ndarray]

# What to do with an example that cannot be read.
ON_ERROR = ('stop', 'skip')
# The second word of the Philox keys: one stream of numbers for each purpose.
_ORDER, _TRANSFORM, _HELD_OUT = 0, 1, 2**32
# What a set of examples that comes undivided is divided into; 'all' is both.
PARTS = ('train', 'test', 'all')


def train_batches(
  source: Source,
  *,
  batch_size: int,
  seed: int,
  start_step: int = 0,
  transform: ImageTransform | None = None,
  repeats: int = 1,
  process_index: int = 0,
  process_count: int = 1,
  num_threads: int | None = None,
  prefetch: int | None = None,
  workers: int = 0,
  on_error: str = 'stop',
) -> BatchIterator:
  """Endless shuffled batches for training.

  Every epoch is a fresh permutation of the source, cut into `N // batch_size`
  batches; the remainder, different in every epoch, is left out. Of each global
  batch, process p of P gets the rows `[p * b, (p + 1) * b)`, where b is
  `batch_size / P`.

  With `repeats` r > 1 (repeated augmentation) every example of the permutation
  comes r times in a row, each time transformed anew, and the epoch, as long as
  before, ends after N / r examples. Within a batch the copies are spread out,
  so that neighbours, which mixup mixes, are different images if the batch has
  at least 2 r.

  Args:
    source: the examples, with images of one shape (or which `transform` brings
      to one shape).
    batch_size: the global batch size B, over all processes.
    seed: chooses the orders and the random numbers; in `[0, 2**63)`.
    start_step: the step of the first batch.
    transform: a function of an image uint8 `[H, W, C]` and a NumPy generator
      that returns an image, uint8 or float32, such as `parse_transform` gives.
      It must not change its argument, and must take all its randomness from
      the generator. Where each pixel has a label, its method `with_labels` is
      used, which takes and returns both.
    repeats: how often an example comes in an epoch that it is in.
    process_index: the index p of this process.
    process_count: the number P of processes.
    num_threads: how many batches are made at once, ahead of time; 0 makes each
      when it is asked for. None for 1 with images in memory, where more help
      only a transform that is slow, and otherwise one for each CPU, but at
      most 16.
    prefetch: how many batches are kept ready; None for 2, or one for each
      thread if that is more.
    workers: processes that make batches, each with `num_threads` threads, for
      when Python itself is the bottleneck; 0 works in this process. A script
      that uses them needs `if __name__ == '__main__':`.
    on_error: 'stop' raises where an example cannot be read or transformed;
      'skip' takes the next one in the source in its place, in evaluation none,
      and tells with a warning which they were, when it is closed, too.

  Returns:
    An endless iterator of batches whose masks are all True. Its `close` stops
    the reading ahead.

  Raises:
    UsageError: if the source has fewer than `batch_size` examples, or an
      argument is out of range; while iterating, if an example is bad.

  Examples:
    >>> from maxsup_jax.data import ArraySource
    >>> images, labels = np.zeros((10, 8, 8, 1), np.uint8), np.arange(10)
    >>> source = ArraySource(images, labels, num_classes=10)
    >>> batches = train_batches(source, batch_size=4, seed=0)
    >>> [next(batches)['label'].tolist() for _ in range(3)]
    [[0, 2, 9, 1], [8, 5, 4, 3], [8, 7, 4, 2]]
    >>> resumed = train_batches(source, batch_size=4, seed=0, start_step=2)
    >>> next(resumed)['label'].tolist()
    [8, 7, 4, 2]
  """
  local_size = _local_size(batch_size, process_index, process_count)
  steps_per_epoch(len(source), batch_size)
  load = _TrainBatch(
    source=source,
    batch_size=batch_size,
    first_row=process_index * local_size,
    num_rows=local_size,
    transform=transform,
    skips=one_of('on_error', on_error, ON_ERROR) == 'skip',
    seed=integer('seed', seed, 0, 2**63 - 1),
    repeats=integer('repeats', repeats, 1),
  )
  return read_ahead(
    load,
    range(integer('start_step', start_step, 0), sys.maxsize),
    num_threads=_num_threads(source, num_threads),
    prefetch=prefetch,
    workers=workers,
  )


def eval_batches(
  source: Source,
  *,
  batch_size: int,
  transform: ImageTransform | None = None,
  process_index: int = 0,
  process_count: int = 1,
  num_threads: int | None = None,
  prefetch: int | None = None,
  workers: int = 0,
  on_error: str = 'stop',
) -> BatchIterator:
  """Every example exactly once, in the order of the source.

  The last batch is filled up with zeros, where `mask` is False; all processes
  get the same number of batches, `ceil(N / batch_size)`.

  Arguments, result and errors are those of `train_batches`, but nothing in
  `transform` may be random: it is given None for a generator.

  Examples:
    >>> from maxsup_jax.data import ArraySource
    >>> source = ArraySource(np.zeros((5, 8, 8), np.uint8), [3, 1, 2, 0, 4], 5)
    >>> for batch in eval_batches(source, batch_size=4):
    ...   print(batch['label'], batch['mask'])
    [3 1 2 0] [ True  True  True  True]
    [4 0 0 0] [ True False False False]
  """
  local_size = _local_size(batch_size, process_index, process_count)
  load = _EvalBatch(
    source=source,
    batch_size=batch_size,
    first_row=process_index * local_size,
    num_rows=local_size,
    transform=transform,
    skips=one_of('on_error', on_error, ON_ERROR) == 'skip',
  )
  return read_ahead(
    load,
    range(-(-len(source) // batch_size)),
    num_threads=_num_threads(source, num_threads),
    prefetch=prefetch,
    workers=workers,
  )


def steps_per_epoch(num_examples: int, batch_size: int) -> int:
  """The number `N // B` of training batches in an epoch.

  Raises:
    UsageError: if that is zero.

  Examples:
    >>> steps_per_epoch(1442, 128)
    11
  """
  if num_examples < batch_size:
    raise UsageError(
      f'batch_size is {batch_size}; expected at most {num_examples}, the '
      'number of training examples'
    )
  return num_examples // batch_size


def batch_indices(
  num_examples: int,
  *,
  batch_size: int,
  seed: int,
  step: int,
  repeats: int = 1,
) -> np.ndarray:
  """Which examples of its source `train_batches` puts into a batch.

  Returns:
    int64 `[B]`: the indices of the rows of the global batch.

  Examples:
    >>> batch_indices(10, batch_size=4, seed=0, step=0, repeats=2)
    array([0, 2, 0, 2])
  """
  _, indices, _ = _rows(num_examples, batch_size, seed, step, repeats)
  return indices


def _rows(
  num_examples: int, batch_size: int, seed: int, step: int, repeats: int
) -> tuple[int, np.ndarray, np.ndarray]:
  """The epoch, and of every row its example and which copy of it this is."""
  epoch, batch = divmod(step, steps_per_epoch(num_examples, batch_size))
  order = _epoch_order(num_examples, seed, epoch)
  positions = np.arange(batch * batch_size, (batch + 1) * batch_size)
  # First all of the first copies, then all of the second ones, ...
  positions = positions[np.argsort(positions % repeats, kind='stable')]
  return epoch, order[positions // repeats], positions % repeats


# Reading ahead may cross into the next epoch.
@functools.lru_cache(maxsize=2)
def _epoch_order(num_examples: int, seed: int, epoch: int) -> np.ndarray:
  return random_order(num_examples, seed, epoch, _ORDER)


def random_order(
  num_examples: int, seed: int, epoch: int, stream: int
) -> np.ndarray:
  """A uniformly random permutation; another one in every stream.

  Sorting raw bits rather than `Generator.permutation`, because NumPy promises
  that the bits stay the same in all its versions.
  """
  bits = np.random.Philox(key=(seed, stream), counter=(0, 0, 0, epoch))
  order = np.argsort(bits.random_raw(num_examples), kind='stable')
  order.flags.writeable = False
  return order


def rows_of_part(
  labels: np.ndarray, split: str, held_out: float, seed: int
) -> np.ndarray:
  """Which examples of an undivided set are in a part, or a slice, of it.

  Of each class of n examples, `held_out` n are for 'test', rounded, but at
  least one and never all: a single one is for 'train'.

  Args:
    labels: of all examples, integers `[N]`.
    split: one of `PARTS`, or a slice of one, such as 'train[:90%]'. Which
      examples are in a slice is drawn, unless it is one of 'all'.
    held_out: the share for 'test', in (0, 1).
    seed: draws which these are.

  Returns:
    Their indices, int64, in ascending order.

  Raises:
    UsageError: for another split, or a share that is out of range.

  Examples:
    >>> labels = np.array([0, 0, 0, 0, 1, 1, 2])
    >>> rows_of_part(labels, 'test', held_out=0.4, seed=0)
    array([0, 3, 5])
    >>> rows_of_part(labels, 'train', held_out=0.4, seed=0)
    array([1, 2, 4, 6])
  """
  number('held_out', held_out, above=0, below=1)
  part = one_of('split', split.partition('[')[0], PARTS)
  order_N = np.arange(len(labels))
  if part != 'all':
    order_N = random_order(len(labels), seed, 0, _HELD_OUT)
    test_N = np.zeros(len(labels), bool)
    for k in np.unique(labels):
      members = order_N[labels[order_N] == k]
      count = max(1, round(held_out * len(members)))
      test_N[members[: min(count, len(members) - 1)]] = True
    order_N = order_N[test_N[order_N] == (part == 'test')]
  return np.sort(order_N[slice_of(split, len(order_N))])


@dataclasses.dataclass(frozen=True, kw_only=True)
class _BatchRows:
  """The rows `[first_row, first_row + num_rows)` of the batch of a step."""

  source: Source
  batch_size: int
  first_row: int
  num_rows: int
  transform: ImageTransform | None
  skips: bool = False

  def transformed(
    self, index: int, example: Any, rng: np.random.Generator | None
  ) -> tuple[np.ndarray, Any]:
    """The image and the label of an example, transformed."""
    image, label = example['image'], example['label']
    if self.transform is None:
      return image, label
    try:
      if np.ndim(label):
        both = getattr(self.transform, 'with_labels', None)
        if both is None:
          raise UsageError(
            'transform is a function of images; expected one with a method '
            'with_labels, as each pixel has a label'
          )
        return both(image, label, rng)
      return self.transform(image, rng), label
    except DecodingError:  # It names the example already.
      raise
    except ValueError as error:
      raise UsageError(
        f'{self.source.name}: example {index}, an image of '
        f'{list(image.shape)}, cannot be transformed: {error}'
      ) from error

  def stacked(self, examples: list[tuple[np.ndarray, Any]]) -> Batch:
    """A batch of `num_rows` rows: those after the last image are zeros.

    The labels of their pixels, where pixels have labels, do not count.
    """
    name = self.source.name
    if examples:
      first, label = examples[0]
    else:
      first, label = self.transformed(0, first_readable(self.source), None)
    if first.dtype not in (np.uint8, np.float32, np.int32):
      raise UsageError(
        f'{name}: images are {first.dtype}; expected uint8, or float32 after '
        'a transform (or int32, the tokens of texts)'
      )
    batch = {
      'image': np.zeros((self.num_rows, *first.shape), first.dtype),
      'label': (
        np.full((self.num_rows, *first.shape[:2]), IGNORED, np.uint8)
        if np.ndim(label)
        else np.zeros(self.num_rows, np.int32)
      ),
      'mask': np.arange(self.num_rows) < len(examples),
    }
    for row, (image, label) in enumerate(examples):
      if image.shape != first.shape or image.dtype != first.dtype:
        raise UsageError(
          f'{name}: the images of a batch are {first.dtype} '
          f'{list(first.shape)} and {image.dtype} {list(image.shape)}; '
          'expected one shape: set image_size, or crop and pad them'
        )
      batch['image'][row] = image
      batch['label'][row] = label
    return batch


@dataclasses.dataclass(frozen=True, kw_only=True)
class _TrainBatch(_BatchRows):
  seed: int
  repeats: int

  def __call__(self, step: int) -> Batch:
    epoch, indices, copies = _rows(
      len(self.source), self.batch_size, self.seed, step, self.repeats
    )
    mine = slice(self.first_row, self.first_row + self.num_rows)
    bits = np.random.Philox(key=(self.seed, _TRANSFORM))
    rng, state = np.random.Generator(bits), bits.state
    # Not decoded yet where the transform does that.
    read: Callable[[int], Any] = self.source.__getitem__
    if getattr(self.transform, 'takes_encoded', False):
      read = getattr(self.source, 'undecoded', read)
    examples, taught = [], []
    unread: dict[int, str] = {}
    for index, copy in zip(indices[mine].tolist(), copies[mine].tolist()):
      for other in range(index, index + TRIES):
        # Setting the counter is 8 times faster than making a new generator.
        state['state']['counter'][1:] = copy, index, epoch
        bits.state = state
        try:
          example = read(other % len(self.source))
          examples.append(self.transformed(index, example, rng))
          break
        except UsageError as error:
          if not self.skips:
            raise
          unread[other % len(self.source)] = str(error)
      else:
        raise UsageError(
          f'{self.source.name}: {TRIES} examples from {index} on cannot be '
          f'read; {next(iter(unread.values()))}'
        )
      if 'teacher_logits' in example:
        taught.append(example['teacher_logits'])
    batch = self.stacked(examples)
    if taught:
      batch['teacher_logits'] = np.stack(taught)
    if unread:
      batch[UNREAD] = np.array([unread[i] for i in sorted(unread)])
    return batch


@dataclasses.dataclass(frozen=True, kw_only=True)
class _EvalBatch(_BatchRows):
  def __call__(self, step: int) -> Batch:
    start = step * self.batch_size + self.first_row
    examples, unread = [], []
    for index in range(start, min(start + self.num_rows, len(self.source))):
      try:
        examples.append(self.transformed(index, self.source[index], None))
      except UsageError as error:
        if not self.skips:
          raise
        unread.append(str(error))
    batch = self.stacked(examples)
    if unread:
      batch[UNREAD] = np.array(unread)
    return batch


def _local_size(batch_size: int, process_index: int, process_count: int) -> int:
  integer('process_count', process_count, 1)
  integer('process_index', process_index, 0, process_count - 1)
  expected = f'a positive multiple of process_count={process_count}'
  integer('batch_size', batch_size, 1, expected=expected)
  if batch_size % process_count:
    raise UsageError(f'batch_size is {batch_size}; expected {expected}')
  return batch_size // process_count


def _num_threads(source: Source, num_threads: int | None) -> int:
  if num_threads is not None:
    return num_threads
  in_memory = getattr(source, 'in_memory', False)
  return 1 if in_memory else min(os.cpu_count() or 1, 16)
