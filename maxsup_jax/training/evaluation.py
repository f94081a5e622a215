"""Evaluation that counts every example of a split exactly once."""

from collections.abc import Callable, Iterable

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
  window = metrics.Window()
  bins: dict[str, np.ndarray] = {}
  variables = state.variables(ema=ema)
  pending = []

  def collect():
    sums = devices.fetch(pending.pop(0))
    window.add(sums['classification'])
    for name, value in sums['calibration'].items():
      bins[name] = bins.get(name, 0) + value.astype(np.float64)

  for batch in devices.stream(batches):
    pending.append(mapped_eval_step(state, variables, batch))
    # One batch computes while the sums of the one before travel.
    if len(pending) > 1:
      collect()
  while pending:
    collect()
  means = window.means()
  order = [n for n in ('accuracy', 'top5', 'nll') if n in means]
  return {
    'examples': int(window.totals['nll'][1]),
    **{name: means[name] for name in order},
    'ece': metrics.expected_calibration_error(bins),
    'objective': means['objective'],
  }
