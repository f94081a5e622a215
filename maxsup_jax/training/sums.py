"""Sums over examples: any split of the data gives the same means."""

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np


def add_sums(total: Any, sums: Any) -> Any:
  """Adds a tree of sums to another, in float64 on the host.

  Args:
    total: what was added before; None for nothing.
    sums: of one batch, arrays on the host.

  Examples:
    >>> total = add_sums(None, {'nll': (np.float32(1.5), np.int32(2))})
    >>> total = add_sums(total, {'nll': (np.float32(0.5), np.int32(1))})
    >>> [float(x) for x in total['nll']]
    [2.0, 3.0]
  """
  if total is None:
    return jax.tree.map(lambda x: np.asarray(x, np.float64), sums)
  return jax.tree.map(lambda t, x: t + np.asarray(x, np.float64), total, sums)


class Window:
  """Adds up the sums of consecutive steps on the host, in float64.

  Addition happens in the order of the steps, so the means are the same bit for
  bit when a run is interrupted and the window travels in the checkpoint.
  """

  def __init__(self, totals: Mapping[str, tuple[float, float]] | None = None):
    self.totals = {k: tuple(v) for k, v in (totals or {}).items()}

  def add(self, sums: Mapping[str, tuple[np.ndarray, np.ndarray]]) -> None:
    """Adds the sums of one step; they must be on the host."""
    for name, (value, count) in sums.items():
      total, n = self.totals.get(name, (0.0, 0.0))
      self.totals[name] = (total + float(value), n + float(count))

  def means(self) -> dict[str, float]:
    """The mean of each metric so far; NaN where nothing was counted."""
    return {
      name: total / n if n else float('nan')
      for name, (total, n) in self.totals.items()
    }
