"""Turns SIGTERM and Ctrl-C into a request to save and stop."""

import os
import signal
import threading
from typing import Any


class StopRequest:
  """Notes the first SIGTERM or SIGINT; the second one acts at once.

  A context manager. Outside the main thread, where Python allows no handlers,
  it notes nothing.

  Attributes:
    signal: the signal that came, or None.
  """

  SIGNALS = (signal.SIGTERM, signal.SIGINT)

  def __init__(
    self,
    signals: tuple[signal.Signals, ...] = SIGNALS,
    *,
    passes_on: signal.Signals | None = None,
  ):
    """Nothing is noted until the context is entered.

    Args:
      signals: which ones.
      passes_on: what this process is sent when the first of them comes.
    """
    self.signal: signal.Signals | None = None
    self._signals = signals
    self._passes_on = passes_on
    self._previous: dict[signal.Signals, Any] = {}

  def __enter__(self) -> 'StopRequest':
    if threading.current_thread() is threading.main_thread():
      for number in self._signals:
        self._previous[number] = signal.signal(number, self._note)
    return self

  def __exit__(self, *_):
    self._restore()

  def _note(self, number, _frame):
    self.signal = signal.Signals(number)
    self._restore()
    if self._passes_on:
      os.kill(os.getpid(), self._passes_on)

  def _restore(self):
    while self._previous:
      signal.signal(*self._previous.popitem())
