"""Turns SIGTERM and Ctrl-C into a request to save and stop."""

import signal
import threading


class StopRequest:
  """Notes the first SIGTERM or SIGINT; the second one acts at once.

  A context manager. Outside the main thread, where Python allows no handlers,
  it notes nothing.

  Attributes:
    signal: the signal that came, or None.
  """

  SIGNALS = (signal.SIGTERM, signal.SIGINT)

  def __init__(self, signals: tuple[signal.Signals, ...] = SIGNALS):
    self.signal: signal.Signals | None = None
    self._signals = signals
    self._previous = {}

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

  def _restore(self):
    while self._previous:
      signal.signal(*self._previous.popitem())
