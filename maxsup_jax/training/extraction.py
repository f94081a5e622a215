"""Logits and features of every example of a split, in its order."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np

from maxsup_jax.training.parallel import Devices


def extract(
  mapped_extract_step: Callable,
  variables: dict[str, Any],
  batches: Iterable[dict[str, np.ndarray]],
  devices: Devices,
) -> Iterator[dict[str, np.ndarray]]:
  """Applies a model to the batches of a split, one batch in memory at a time.

  Args:
    mapped_extract_step: `steps.make_extract_step`, mapped by `devices`.
    variables: those to apply the model with, on the devices, replicated.
    batches: this process's part of every batch, padding masked.
    devices: where the variables live.

  Yields:
    For each batch, without its padding, in the order of the examples: `logits`
    float32 [b, K], `features` float32 [b, D] (the penultimate ones, which the
    head sees) and `labels` int32 [b].
  """
  pending = deque()

  def collect():
    outputs = devices.gather(pending.popleft())
    mask = outputs.pop('mask')
    return {name: rows[mask] for name, rows in outputs.items()}

  for batch in devices.stream(batches):
    pending.append(mapped_extract_step(variables, batch))
    # One batch computes while the outputs of the one before travel.
    if len(pending) > 1:
      yield collect()
  while pending:
    yield collect()
