"""Random numbers that are the same with every NumPy, on every machine.

Only the raw bits of the Philox generator are used, which NumPy promises never
to change, and elementary arithmetic, whose results IEEE 754 determines.
"""

import numpy as np

# What a stream of random numbers is for. Different streams never overlap.
SCENE, NOISE, ORDER = 0, 1, 2


class Draws:
  """A stream of random numbers, one after the other.

  Args:
    seed: in `[0, 2**64)`.
    split: the number of the split.
    stream: `SCENE`, `NOISE` or `ORDER`.
    index: the number of the example, or of whatever the stream is for.

  Examples:
    >>> draws = Draws(seed=0, split=0, stream=SCENE, index=7)
    >>> draws.below(6), draws.uniform(10.0, 20.0)
    (4, 17.557912993906637)
  """

  def __init__(self, seed: int, split: int, stream: int, index: int):
    self._bits = np.random.Philox(
      key=np.array([seed, split], np.uint64),
      # A stream may take 2**128 steps before it runs into the next.
      counter=np.array([0, 0, stream, index], np.uint64),
    )

  def below(self, number: int) -> int:
    """An integer in `[0, number)`, for numbers up to 2**32."""
    return ((int(self._bits.random_raw()) >> 32) * number) >> 32

  def uniform(self, low: float, high: float) -> float:
    """A number in `[low, high)`, one of 2**53 equally spaced ones."""
    unit = (int(self._bits.random_raw()) >> 11) * 2.0**-53
    return low + (high - low) * unit

  def permutation(self, number: int) -> list[int]:
    """The numbers below `number` in a random order."""
    raw = self._bits.random_raw(number)
    return np.argsort(raw, kind='stable').tolist()

  def noise(self, count: int) -> np.ndarray:
    """Nearly normal integers of mean 0 and standard deviation 147.8.

    Sums of four bytes, so from -510 to 510.

    Returns:
      int64 `[count]`.
    """
    raw = self._bits.random_raw((count + 1) // 2).astype('<u8')
    total = raw.view(np.uint8).reshape(-1, 4).astype(np.int64).sum(axis=1)
    return total[:count] - 510


# The standard deviation of `Draws.noise`: of four bytes, each (256^2 - 1) / 12.
NOISE_SD = 147.80054127104035
