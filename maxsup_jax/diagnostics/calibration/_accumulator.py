"""The reliability curve of data that comes in parts."""

import dataclasses

import numpy as np
from numpy.typing import ArrayLike

from maxsup_jax.diagnostics import _checks
from maxsup_jax.diagnostics.calibration import _bins
from maxsup_jax.diagnostics.calibration._curve import (
  ReliabilityCurve,
  from_sums,
)
from maxsup_jax.errors import UsageError


@dataclasses.dataclass(frozen=True, eq=False)
class ReliabilityAccumulator:
  """Adds up a reliability curve with bins of equal width, part by part.

  `update` and `merge` return a new accumulator. The result is that of
  `reliability_curve` on all the data at once, bit for bit, whatever the parts
  and their order: the sums are whole numbers. They hold up to 10^8 examples in
  one update, and up to 10^11 in all.

  Bins of equal mass need all confidences at once; there is no accumulator for
  them.

  Attributes:
    bins: the number of bins.
    convention: as in `reliability_curve`.
    sums: what has been added up so far, int64 `[5, M]`: the count, and two
      parts each of the number of correct examples and of the confidence; None
      before the first update.

  Raises:
    UsageError: if the number of bins is not positive, the convention not
      known, the confidences or accumulators do not fit.

  Examples:
    >>> import numpy as np
    >>> from maxsup_jax.diagnostics import calibration
    >>> empty = calibration.ReliabilityAccumulator(bins=2)
    >>> first = empty.update(np.array([0.2, 0.9]), np.array([0, 1]))
    >>> second = empty.update(np.array([0.7]), np.array([0]))
    >>> curve = first.merge(second).compute()
    >>> curve.count.tolist(), curve.accuracy.tolist()
    ([1, 2], [0.0, 0.5])
  """

  bins: int = 15
  convention: str = 'right'
  sums: np.ndarray | None = None

  def __post_init__(self):
    object.__setattr__(self, 'bins', _checks.at_least(self.bins, 'bins', 1))
    _checks.one_of(self.convention, 'convention', _bins.CONVENTIONS)

  def update(
    self, confidence: ArrayLike, correct: ArrayLike
  ) -> 'ReliabilityAccumulator':
    """Adds examples.

    Args:
      confidence: from 0 to 1, `[B]`.
      correct: bool `[B]`, or numbers from 0 to 1.

    Returns:
      The accumulator with these examples.
    """
    confidence_B, correct_B = _bins.confidence_and_correct(confidence, correct)
    edges = _bins.equal_width_edges(self.bins, self.convention)
    bin_B = _bins.equal_width(confidence_B, edges, self.convention)
    M = len(edges) - 1
    sums = np.concatenate(
      [
        _bins.sums(bin_B, None, None, M)[None],
        _bins.sums(bin_B, correct_B, None, M),
        _bins.sums(bin_B, confidence_B, None, M),
      ]
    )
    return dataclasses.replace(self, sums=sums).merge(self)

  def merge(self, other: 'ReliabilityAccumulator') -> 'ReliabilityAccumulator':
    """Adds another accumulator with the same bins."""
    if (self.bins, self.convention) != (other.bins, other.convention):
      raise UsageError(
        f'accumulators with {self.bins} bins ({self.convention}) and '
        f'{other.bins} bins ({other.convention}) cannot be merged'
      )
    if self.sums is None or other.sums is None:
      return other if self.sums is None else self
    return dataclasses.replace(self, sums=self.sums + other.sums)

  def compute(self) -> ReliabilityCurve:
    """The curve of all examples so far; all NaN, with counts of 0, if none."""
    edges = _bins.equal_width_edges(self.bins, self.convention)
    sums = self.sums
    if sums is None:
      sums = np.zeros((5, len(edges) - 1), np.int64)
    return from_sums(edges, sums[0], sums[1:3], sums[3:5])
