"""How many images a second the input pipeline makes, with nothing else on."""

import contextlib
import importlib
import time
from typing import Any

import jax
import numpy as np

from experiments import _benchmark_timing
from experiments._benchmark_step import CHANNELS, Settings

# Enough that the images do not all stay in the processor's caches.
_IMAGES = 1024

# A round lasts at least as long, whatever the size of the batch.
_ROUND_SECONDS = 0.2

# Batches that are ready before anyone asks are no measure of the speed.
_WARMUP_BATCHES = 4

_SEED = 0


def measure(settings: Settings) -> dict[str, Any]:
  """Times `maxsup_jax.data.train_batches` alone, on this process's host.

  Args:
    settings: of the step; the batches are those that it would take.

  Returns:
    `images_per_second` of each round with their summary, or None and the
    `reason`, where a package is missing.
  """
  try:
    importlib.import_module('grain')
    data = importlib.import_module('maxsup_jax.data')
  except ModuleNotFoundError as e:
    if (e.name or '').startswith('maxsup_jax'):
      raise
    return {'images_per_second': None, 'reason': f'{e.name} is not installed'}
  transform = 'pad_and_crop(4) | flip'
  batches = data.train_batches(
    _source(data, settings),
    batch_size=settings.batch_size,
    seed=_SEED,
    transform=data.parse_transform(transform),
    process_index=jax.process_index(),
    process_count=jax.process_count(),
  )
  with contextlib.closing(batches):
    for _ in range(_WARMUP_BATCHES):
      next(batches)
    per_round = [_round(batches) for _ in range(settings.rounds)]
  return {
    'images_per_second': {
      'per_round': per_round,
      **_benchmark_timing.summary(per_round),
    },
    'reason': None,
    'transform': transform,
    'images_in_memory': max(_IMAGES, settings.batch_size),
  }


def _source(data: Any, settings: Settings) -> Any:
  rng = np.random.default_rng(_SEED)
  count = max(_IMAGES, settings.batch_size)
  shape = (count, settings.image_size, settings.image_size, CHANNELS)
  return data.ArraySource(
    rng.integers(0, 256, shape, dtype=np.uint8),
    rng.integers(0, settings.num_classes, count, dtype=np.int32),
    settings.num_classes,
    name='noise',
  )


def _round(batches: Any) -> float:
  """Draws batches for a while; the images a second."""
  images, start = 0, time.perf_counter()
  while (seconds := time.perf_counter() - start) < _ROUND_SECONDS:
    images += len(next(batches)['label'])
  return images / seconds
