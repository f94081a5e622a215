"""Evaluation that counts every example of a split exactly once."""

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from maxsup_jax.training.parallel import Devices
from maxsup_jax.training.state import TrainState
from maxsup_jax.training.sums import add_sums


def evaluate(
  mapped_eval_step: Callable,
  state: TrainState,
  batches: Iterable[dict[str, np.ndarray]],
  devices: Devices,
  *,
  ema: bool = False,
) -> Any:
  """Adds up what a replicated state gives on the batches of a split.

  Args:
    mapped_eval_step: `step.make_eval_step`, mapped by `devices`.
    state: on the devices, replicated.
    batches: this process's part of every batch, padding masked.
    devices: where the state lives.
    ema: whether to evaluate the averaged weights.

  Returns:
    The sums over the split, float64; the task's `report` makes means of them.
  """
  total: Any = None
  pending: list[Any] = []
  variables = state.variables(ema=ema)
  for batch in devices.stream(batches):
    pending.append(mapped_eval_step(state, variables, batch))
    # One batch computes while the sums of the one before travel.
    if len(pending) > 1:
      total = add_sums(total, devices.fetch(pending.pop(0)))
  while pending:
    total = add_sums(total, devices.fetch(pending.pop(0)))
  return total
