"""Reading ahead: batches that threads and processes of grain make."""

import atexit
import sys
import weakref
from collections.abc import Iterator

import grain
import numpy as np
from absl import flags

from maxsup_jax.errors import integer

# One process's rows of a batch, C-contiguous: 'image' uint8 `[b, H, W, C]`, or
# float32 where a transform gives floats; 'label' int32 `[b]`; 'mask' bool
# `[b]`, False for rows that only fill up the last batch.
Batch = dict[str, np.ndarray]


class BatchIterator(Iterator[Batch]):
  """Batches that are read ahead, until the last one or `close`."""

  def __init__(self, iterator: grain.DatasetIterator):
    self._iterator: grain.DatasetIterator | None = iterator
    _open.add(self)

  def __next__(self) -> Batch:
    if self._iterator is None:
      raise StopIteration
    return next(self._iterator)

  def close(self) -> None:
    """Stops the threads and processes that read ahead."""
    if self._iterator is not None:
      self._iterator.close()
      self._iterator = None


def read_ahead(
  batches: grain.MapDataset,
  *,
  num_threads: int,
  prefetch: int | None = None,
  workers: int = 0,
) -> BatchIterator:
  """Iterates over batches that threads or processes make ahead of time.

  `batches` gives the batch of an index; the rest is as in `train_batches`.

  Raises:
    UsageError: if a number is negative.
  """
  integer('num_threads', num_threads, 0)
  integer('workers', workers, 0)
  if prefetch is not None:
    integer('prefetch', prefetch, 0)
  if prefetch is None:
    prefetch = max(2, num_threads)
  dataset = batches.to_iter_dataset(
    grain.ReadOptions(num_threads=num_threads, prefetch_buffer_size=prefetch)
  )
  if workers:
    # grain reads its command-line flags here; where there is no command line,
    # as in a notebook, they have their defaults.
    if not flags.FLAGS.is_parsed():
      flags.FLAGS.mark_as_parsed()
    # Batches come through a pipe. In shared memory they would be faster (11
    # instead of 20 ms for 128 images of 224x224), but grain (0.2.18) does not
    # give all of it back when data end, so Python complains when it ends
    # itself; and containers often have only 64 MB of it.
    dataset = grain.experimental.WithOptionsIterDataset(
      dataset, grain.experimental.DatasetOptions(min_shm_size=sys.maxsize)
    )
    options = grain.MultiprocessingOptions(
      num_workers=workers, per_worker_buffer_size=max(1, prefetch)
    )
    dataset = dataset.mp_prefetch(options)
  return BatchIterator(iter(dataset))


# Iterators that are still open when Python ends. Left alone, they would stop
# their threads and processes when grain is torn down already, and print errors.
_open: weakref.WeakSet[BatchIterator] = weakref.WeakSet()


@atexit.register
def _close_all() -> None:
  for batches in list(_open):
    batches.close()
