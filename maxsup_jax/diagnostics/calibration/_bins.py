"""Which bin a confidence falls into, and sums over bins that are exact."""

import numpy as np
from numpy.typing import ArrayLike

from maxsup_jax.diagnostics import _checks
from maxsup_jax.errors import UsageError

BINNINGS = ('equal_width', 'equal_mass')
CONVENTIONS = ('right', 'left', 'torchmetrics')

# Two parts of a number from 0 to 1, each an integer below or equal to 2**26.
_PART = float(1 << 26)


def equal_width_edges(bins: int, convention: str) -> np.ndarray:
  """The edges; the convention of torchmetrics adds a bin of width 0 at 1."""
  edges = np.linspace(0, 1, bins + 1)
  return np.append(edges, 1.0) if convention == 'torchmetrics' else edges


def equal_width(
  confidence_N: np.ndarray, edges: np.ndarray, convention: str
) -> np.ndarray:
  """The bins of confidences, int `[N]`."""
  # Outer edges are left out: whatever lies there belongs to an outer bin.
  side = 'left' if convention == 'right' else 'right'
  return np.searchsorted(edges[1:-1], confidence_N, side)


def equal_mass(
  confidence_N: np.ndarray, weights_N: np.ndarray, bins: int
) -> tuple[np.ndarray, np.ndarray]:
  """The edges and the bins of confidences, which share a bin where equal."""
  values, group_N = np.unique(confidence_N, return_inverse=True)
  mass = sums(group_N, None, weights_N, len(values))
  # The bin in which the middle of the group would fall, in whole numbers.
  middle = 2 * np.cumsum(mass) - mass
  bin_of_group = np.minimum(bins * middle // (2 * mass.sum()), bins - 1)
  largest = np.zeros(bins)
  # Values are in ascending order, so the last one to be stored is the largest.
  present = mass > 0
  largest[bin_of_group[present]] = values[present]
  edges = np.append(0.0, np.maximum.accumulate(largest))
  edges[-1] = 1.0
  return edges, bin_of_group[group_N]


def sums(
  bin_N: np.ndarray,
  values_N: np.ndarray | None,
  weights_N: np.ndarray | None,
  bins: int,
) -> np.ndarray:
  """Sums values from 0 to 1 in each bin, as integers that never round.

  The order of the examples, how they are split and whether an example is
  repeated or has a weight therefore make no difference, not even in the last
  bit. A value keeps 52 binary digits after the point.

  Args:
    bin_N: the bins.
    values_N: the values; None counts the examples.
    weights_N: how often each counts; None is once.
    bins: how many bins there are.

  Returns:
    Int64 `[bins]` if the examples are counted, otherwise int64 `[2, bins]`,
    for `total`.
  """
  if values_N is None:
    # Whole numbers below 2**53 add up without rounding in float64 too.
    return np.bincount(bin_N, weights_N, bins).astype(np.int64)
  high_N = np.floor(values_N * _PART)
  low_N = np.rint((values_N * _PART - high_N) * _PART)
  if weights_N is not None:
    high_N, low_N = high_N * weights_N, low_N * weights_N
  return np.stack(
    [np.bincount(bin_N, part, bins) for part in (high_N, low_N)]
  ).astype(np.int64)


def total(parts: np.ndarray) -> np.ndarray:
  """The sums of which `sums` returned the integers, float64 `[bins]`."""
  high, low = parts
  return (high + low / _PART) / _PART


def confidence_and_correct(
  confidence: ArrayLike, correct: ArrayLike
) -> tuple[np.ndarray, np.ndarray]:
  """Checks numbers from 0 to 1, `[N]` each, and makes them float64."""
  arrays = []
  for name, values in (('confidence', confidence), ('correct', correct)):
    values = _checks.array(values, name)
    if values.ndim != 1:
      raise UsageError(
        f'{name} has the shape {values.shape}; expected [examples]'
      )
    if values.dtype.kind in 'biu':
      values = values.astype(np.float64)
    values = _checks.finite(values, name).astype(np.float64)
    bad = (values < 0) | (values > 1)
    if bad.any():
      i = int(bad.argmax())
      raise UsageError(f'{name}[{i}] is {values[i]}; expected from 0 to 1')
    arrays.append(values)
  _checks.same_length(confidence=arrays[0], correct=arrays[1])
  return arrays[0], arrays[1]
