"""Reading ahead: batches that threads and processes of grain make."""

import atexit
import contextlib
import functools
import os
import signal
import sys
import threading
import time
import warnings
import weakref
from collections.abc import Callable, Iterator
from multiprocessing import resource_tracker
from typing import TYPE_CHECKING

import numpy as np
from absl import flags

from maxsup_jax.errors import UsageError, integer

if TYPE_CHECKING:
  import grain

# Beyond these nothing gets faster, and a machine may stop to answer.
MOST_THREADS, MOST_WORKERS, _MOST_READY = 1024, 256, 4096
# A worker looks this often whether the process that it works for is there.
_PARENT_SECONDS = 1.0

# One process's rows of a batch, C-contiguous: 'image' uint8 `[b, H, W, C]`, or
# float32 where a transform gives floats, float32 `[b, F]` of tables, int32
# `[b, T]` of texts; 'label' int32 `[b]`, or uint8
# `[b, H, W]` where each pixel has one; 'mask' bool `[b]`, False for rows that
# only fill up the last batch.
Batch = dict[str, np.ndarray]


# Under this a batch may bring what was wrong with examples that it lacks.
UNREAD = 'unread'


class BatchIterator(Iterator[Batch]):
  """Batches that are read ahead, until the last one or `close`.

  Attributes:
    unread: what was wrong with each of the examples that were left out.
  """

  def __init__(self, iterator: 'grain.DatasetIterator'):
    self._iterator: grain.DatasetIterator | None = iterator
    self._started = False
    self.unread: dict[str, None] = {}
    self._told = False
    _open.add(self)
    # After grain's own, so that it runs before them.
    atexit.unregister(_close_all)
    atexit.register(_close_all)

  def __next__(self) -> Batch:
    if self._iterator is None:
      raise StopIteration
    # The first call starts the workers. What is sent to this process meanwhile
    # arrives afterwards.
    shield = contextlib.nullcontext() if self._started else _signals_blocked()
    self._started = True
    try:
      with shield:
        batch = next(self._iterator)
    except StopIteration:
      self._tell()
      raise
    except RuntimeError as error:  # Of grain: the message is all there is.
      if 'Worker process was terminated' not in str(error):
        raise
      raise UsageError(
        'a worker process that makes batches was killed, perhaps because '
        'memory ran out; try fewer workers or a smaller prefetch'
      ) from error
    for problem in batch.pop(UNREAD, ()):
      if not self.unread:
        warnings.warn(f'left out: {problem}', stacklevel=2)
      self.unread[str(problem)] = None
    return batch

  def close(self) -> None:
    """Stops the threads and processes that read ahead."""
    if self._iterator is not None:
      self._iterator.close()
      self._iterator = None
      self._tell()

  def _tell(self) -> None:
    """Says once which examples are missing, where it is more than the first."""
    told, self._told = self._told, True
    if not told and len(self.unread) > 1:
      problems = '\n  '.join(self.unread)
      warnings.warn(
        f'{len(self.unread)} examples were left out:\n  {problems}',
        stacklevel=3,
      )


def read_ahead(
  load: Callable[[int], Batch],
  indices: range,
  *,
  num_threads: int,
  prefetch: int | None = None,
  workers: int = 0,
) -> BatchIterator:
  """Iterates over batches that threads or processes make ahead of time.

  `load` makes the batch of an index; the rest is as in `train_batches`.

  Raises:
    UsageError: if a number is negative, or far beyond any use.
  """
  integer('num_threads', num_threads, 0, MOST_THREADS)
  integer('workers', workers, 0, MOST_WORKERS)
  if prefetch is not None:
    integer('prefetch', prefetch, 0, _MOST_READY)
  if prefetch is None:
    prefetch = max(2, num_threads)
  # It takes long to import, which a wrong transform should not wait for.
  import grain

  batches = grain.MapDataset.range(indices.start, indices.stop).map(load)
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
    start = functools.partial(_start_worker, os.getpid())
    dataset = dataset.mp_prefetch(options, worker_init_fn=start)
  return BatchIterator(iter(dataset))


@contextlib.contextmanager
def _signals_blocked() -> Iterator[None]:
  """Processes that are started meanwhile never get SIGTERM or Ctrl-C.

  Both are often sent to all processes of a group, by a terminal, `timeout` or
  a scheduler. They are for the process that trains: it still needs the workers
  to end in order.
  """
  both = signal.SIGTERM, signal.SIGINT
  # Else the first worker would start it, which unblocks them.
  resource_tracker.ensure_running()
  before = signal.pthread_sigmask(signal.SIG_BLOCK, both)
  try:
    yield
  finally:
    signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _start_worker(parent: int, index: int, count: int) -> None:
  """Makes a worker end when the process that it works for does, not before."""
  del index, count
  for number in (signal.SIGTERM, signal.SIGINT):
    signal.signal(number, signal.SIG_IGN)

  def watch():
    while os.getppid() == parent:
      time.sleep(_PARENT_SECONDS)
    os._exit(1)

  threading.Thread(target=watch, daemon=True).start()


# Iterators that are still open when Python ends. Left alone, they would stop
# their threads and processes when grain is torn down already, and print errors.
_open: weakref.WeakSet[BatchIterator] = weakref.WeakSet()


def _close_all() -> None:
  for batches in list(_open):
    batches.close()
