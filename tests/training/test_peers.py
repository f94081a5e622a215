"""What tells that a process is gone. Real ones: experiments/test_train."""

import signal
import subprocess
import sys

import jax

from maxsup_jax.errors import UsageError
from maxsup_jax.training import peers
from tests.conftest import ROOT


class Clock:
  now = 100.0

  def __call__(self):
    return self.now


def listen(clock, listener, seconds, beats=(), done=()):
  """Second by second, with new signs of life of `beats`; the first silent."""
  for _ in range(seconds):
    clock.now += 1
    found = listener.silent(
      {i: str(clock.now) for i in beats} | dict.fromkeys(done, ''), done, 5
    )
    if found is not None:
      return found
  return None


def test_silent_for_too_long_is_gone():
  clock = Clock()
  listener = peers._Listener(4, now=clock)
  assert listen(clock, listener, 60, beats=(1, 2, 3)) is None
  assert listen(clock, listener, 5, beats=(1, 3)) is None
  assert listen(clock, listener, 1, beats=(1, 3)) == 2


def test_one_that_never_came_is_gone_and_one_that_ended_is_not():
  clock = Clock()
  listener = peers._Listener(3, now=clock)
  assert listen(clock, listener, 60, beats=(2,), done=(1,)) is None
  listener = peers._Listener(3, now=clock)
  assert listen(clock, listener, 60, beats=(2,)) == 1


def test_who_was_stopped_accuses_nobody():
  clock = Clock()
  listener = peers._Listener(2, now=clock)
  assert listen(clock, listener, 4) is None
  clock.now += 60
  assert listen(clock, listener, 5) is None
  assert listen(clock, listener, 2) == 1


def test_errors_become_a_line_and_a_code():
  assert peers._described(UsageError('a\n  b')) == ('a b', 2)
  assert peers._described(KeyboardInterrupt()) == ('interrupted', 130)
  text, code = peers._described(TypeError('x'))
  assert (text, code) == ('failed with TypeError: x', 1)


def test_what_the_end_of_another_process_may_cause():
  assert peers._may_follow(jax.errors.JaxRuntimeError('UNAVAILABLE'))
  assert peers._may_follow(ValueError('UNKNOWN: Gloo AllGather failed'))
  assert not peers._may_follow(ValueError('expected 3'))


def test_a_single_process_needs_no_watch():
  assert peers.watch(timeout=1) is None


def test_another_error_of_cpp_is_not_spoken_for():
  code = """if True:
    import ctypes
    from maxsup_jax.training import peers
    with peers.told_of_errors():
      ctypes.CDLL(peers._CXX)._ZSt9terminatev()
  """
  done = subprocess.run(
    [sys.executable, '-c', code], cwd=ROOT, capture_output=True, text=True
  )
  assert done.returncode == -signal.SIGABRT
  assert 'terminate called without an active exception' in done.stderr
  assert 'error: ' not in done.stderr
