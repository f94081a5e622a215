"""Time spent and images per second, without what is not training."""

import contextlib
import time
from collections.abc import Iterator


class Clock:
  """Counts the seconds of a run over all its starts, and its throughput.

  A lap is the training between two calls of `lap`; what happens inside
  `paused` does not count.
  """

  def __init__(self, seconds: float = 0.0):
    """Starts the clock.

    Args:
      seconds: what earlier starts of the run took.
    """
    self._start = time.perf_counter()
    self._before = seconds
    self._paused = 0.0
    self._lap_start = self._start

  @property
  def seconds(self) -> float:
    """Seconds of the run so far, evaluation and compilation included."""
    return self._before + time.perf_counter() - self._start

  @contextlib.contextmanager
  def paused(self) -> Iterator[None]:
    """Time that is not training."""
    began = time.perf_counter()
    yield
    self._paused += time.perf_counter() - began

  def lap(self) -> float:
    """Ends a lap: its seconds, and a new one begins."""
    now = time.perf_counter() - self._paused
    seconds, self._lap_start = now - self._lap_start, now
    return seconds
