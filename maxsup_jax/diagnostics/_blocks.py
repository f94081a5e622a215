"""Row by row in blocks that stay in the cache, on all cores."""

import functools
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

# Numbers in a block: a few such arrays in float64 fit in a core's cache.
_BLOCK_SIZE = 1 << 16


def map_rows(function: Callable, *arrays: np.ndarray) -> Any:
  """Applies a function of rows to blocks of rows, and joins what it returns.

  It takes a block of every array, float64 where the array is floating point,
  and returns an array with the block's length, or a tuple of them. The first
  array is `[N, K]`, the others are as long. The result of a row must not depend
  on the other rows of its block.
  """
  N, K = arrays[0].shape
  rows = max(1, _BLOCK_SIZE // K)

  def block(start: int) -> Any:
    parts = [a[start : start + rows] for a in arrays]
    return function(
      *[p.astype(np.float64) if p.dtype.kind == 'f' else p for p in parts]
    )

  # NumPy releases the interpreter's lock within its loops.
  blocks = list(pool().map(block, range(0, N, rows)))
  if isinstance(blocks[0], tuple):
    return tuple(np.concatenate(parts) for parts in zip(*blocks))
  return np.concatenate(blocks)


@functools.cache
def pool() -> ThreadPoolExecutor:
  """A thread for every core, for what NumPy computes without the lock."""
  return ThreadPoolExecutor(os.cpu_count())


# Threads do not survive a fork: a child that used the pool would wait for ever.
if hasattr(os, 'register_at_fork'):
  os.register_at_fork(after_in_child=pool.cache_clear)
