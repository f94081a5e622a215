import os
import signal
import threading

import pytest

from maxsup_jax.training.signals import StopRequest


@pytest.mark.parametrize('number', StopRequest.SIGNALS)
def test_notes_the_first_signal_and_gives_the_handlers_back(number):
  before = signal.getsignal(number)
  with StopRequest() as request:
    assert request.signal is None
    os.kill(os.getpid(), number)
    assert request.signal is number
    # A second one acts at once.
    assert signal.getsignal(number) is before
  assert signal.getsignal(number) is before


@pytest.fixture
def interruptible():
  """Ctrl-C, also where the tests run in the background of a shell."""
  before = signal.signal(signal.SIGINT, signal.default_int_handler)
  yield
  signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures('interruptible')
def test_a_second_interrupt_is_an_interrupt():
  with StopRequest() as request:
    os.kill(os.getpid(), signal.SIGINT)
    assert request.signal is signal.SIGINT
    with pytest.raises(KeyboardInterrupt):
      os.kill(os.getpid(), signal.SIGINT)


def test_only_the_signals_that_were_asked_for():
  before = signal.getsignal(signal.SIGTERM)
  with StopRequest((signal.SIGINT,)):
    assert signal.getsignal(signal.SIGTERM) is before


def test_outside_the_main_thread_it_notes_nothing():
  found = []

  def work():
    with StopRequest() as request:
      found.append(request.signal)

  thread = threading.Thread(target=work)
  thread.start()
  thread.join()
  assert found == [None]


def test_passes_the_first_one_on():
  """As something other than Python, which notes it, would get it."""
  with StopRequest((signal.SIGTERM,)) as outer:
    with StopRequest((signal.SIGINT,), passes_on=signal.SIGTERM) as request:
      os.kill(os.getpid(), signal.SIGINT)
      assert request.signal is signal.SIGINT
    assert outer.signal is signal.SIGTERM
