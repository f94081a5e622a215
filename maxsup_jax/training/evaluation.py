"""Evaluation that counts every example of a split exactly once."""

from collections.abc import Callable, Iterable, Mapping, Sequence
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
  groups: Mapping[str, Sequence[int]] | None = None,
) -> dict[str, float]:
  """Evaluates a replicated state on the batches of a split.

  Args:
    mapped_eval_step: `steps.make_eval_step`, mapped by `devices`.
    state: on the devices, replicated.
    batches: this process's part of every batch, padding masked.
    devices: where the state lives.
    ema: whether to evaluate the averaged weights.
    groups: names of groups of classes, see `Totals.means`.

  Returns:
    `examples`, and the means `accuracy`, `top5` (more than five classes only),
    `accuracy_NAME` of each group, `nll`, `ece` and `objective`.
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
  return totals.means(groups)


class Totals:
  """Adds up the sums of the batches of a split, on the host, in float64."""

  def __init__(self):
    self._window = metrics.Window()
    self._bins: dict[str, np.ndarray] = {}
    self._classes: dict[str, np.ndarray] = {}

  def add(self, sums: dict[str, Any]) -> None:
    """Adds the sums of one batch: what `steps.make_eval_step` gives."""
    self._window.add(sums['classification'])
    for totals, added in (
      (self._bins, sums['calibration']),
      (self._classes, sums.get('classes', {})),
    ):
      for name, value in added.items():
        totals[name] = totals.get(name, 0) + value.astype(np.float64)

  def means(
    self, groups: Mapping[str, Sequence[int]] | None = None
  ) -> dict[str, float]:
    """The number of examples, and the means over them.

    Args:
      groups: names of groups of classes, and the ids of these. For each
        `accuracy_NAME` is added: that of the examples of its classes, every
        example with the same weight. It is NaN, not 0, where there are none.
        The step must have counted `per_class`.
    """
    means = self._window.means()
    order = [n for n in ('accuracy', 'top5') if n in means]
    return {
      'examples': int(self._window.totals['nll'][1]),
      **{name: means[name] for name in order},
      **{
        f'accuracy_{name}': self._accuracy(name, ids)
        for name, ids in (groups or {}).items()
      },
      'nll': means['nll'],
      'ece': metrics.expected_calibration_error(self._bins),
      **{n: means[n] for n in ('objective',) if n in means},
    }

  def _accuracy(self, name: str, ids: Sequence[int]) -> float:
    if not self._classes:
      raise ValueError(
        f'the accuracy of the group {name!r} needs an evaluation per class; '
        'see per_class of steps.make_eval_step'
      )
    K, ids = len(self._classes['count']), sorted(set(ids))
    if ids and not 0 <= ids[0] <= ids[-1] < K:
      raise ValueError(
        f'the group {name!r} has the classes {ids}; expected from 0 to below '
        f'{K}'
      )
    correct, count = (
      float(self._classes[n][ids].sum()) for n in ('correct', 'count')
    )
    return correct / count if count else float('nan')


def shot_groups(
  counts: Sequence[int], *, many: int = 100, few: int = 20
) -> dict[str, tuple[int, ...]]:
  """Groups classes by their number of training images.

  Args:
    counts: training images of each class.
    many: a class with more of them is one of 'many'.
    few: a class with fewer of them is one of 'few'; the rest is 'medium'.

  Returns:
    The ids of the classes of 'many', 'medium' and 'few', in this order. A group
    may be empty.

  Examples:
    >>> shot_groups([500, 101, 100, 20, 19])
    {'many': (0, 1), 'medium': (2, 3), 'few': (4,)}

  References:
    Liu et al., `Large-Scale Long-Tailed Recognition in an Open World
    <https://arxiv.org/abs/1904.05160>`_, 2019.
  """

  def group(count):
    return 'many' if count > many else 'few' if count < few else 'medium'

  return {
    name: tuple(i for i, count in enumerate(counts) if group(count) == name)
    for name in ('many', 'medium', 'few')
  }
