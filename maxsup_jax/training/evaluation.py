"""Evaluation that counts every example of a split exactly once."""

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from maxsup_jax.training import metrics
from maxsup_jax.training.parallel import Devices
from maxsup_jax.training.state import TrainState


def evaluate(
  mapped_eval_step: Callable,
  state: TrainState,
  batches: Iterable[dict[str, np.ndarray]],
  devices: Devices,
  *,
  ema: bool = False,
) -> dict[str, float]:
  """Evaluates a replicated state on the batches of a split.

  Args:
    mapped_eval_step: `steps.make_eval_step`, mapped by `devices`.
    state: on the devices, replicated.
    batches: this process's part of every batch, padding masked.
    devices: where the state lives.
    ema: whether to evaluate the averaged weights.

  Returns:
    `examples`, and the means `accuracy`, `top5` (more than five classes only),
    `nll`, `ece` and `objective`.
  """
  totals = Totals()
  variables = state.variables(ema=ema)
  pending = []
  for batch in devices.stream(batches):
    pending.append(mapped_eval_step(state, variables, batch))
    # One batch computes while the sums of the one before travel.
    if len(pending) > 1:
      totals.add(devices.fetch(pending.pop(0)))
  while pending:
    totals.add(devices.fetch(pending.pop(0)))
  return totals.means()


class Totals:
  """Adds up the sums of the batches of a split, on the host, in float64."""

  def __init__(self):
    self._window = metrics.Window()
    self._bins: dict[str, np.ndarray] = {}

  def add(self, sums: dict[str, Any]) -> None:
    """Adds the sums of one batch: what `steps.make_eval_step` gives."""
    self._window.add(sums['classification'])
    for name, value in sums['calibration'].items():
      self._bins[name] = self._bins.get(name, 0) + value.astype(np.float64)

  def means(self) -> dict[str, float]:
    """The number of examples, and the means over them."""
    means = self._window.means()
    order = [n for n in ('accuracy', 'top5', 'nll') if n in means]
    return {
      'examples': int(self._window.totals['nll'][1]),
      **{name: means[name] for name in order},
      'ece': metrics.expected_calibration_error(self._bins),
      **{n: means[n] for n in ('objective',) if n in means},
    }
