"""How the processes of a run tell each other to end.

A step needs all processes: where one is gone, the others would wait for it.
The timeouts of `jax.distributed.initialize` end them, too, but by aborting with
a dozen lines of C++, and they know nothing of a process that has failed and
still lives, such as one that could not read an image. What they cannot do is
done here: one line, an exit code that says whether the same command goes on,
and the reason that another process had.

Each process tells every second that it is there, and process 0, which has JAX's
coordination service, tells all of them to end when one has not been heard of
for a while; likewise when one of them has failed. Nothing here is a collective:
a process that waits in one still hears, and one that compiles still tells, from
a thread.

Where process 0 itself dies, the service is gone, and the others notice at once.

This is the one file that knows JAX's client and its key-value store, which have
no public names. Orbax uses the same store.
"""

import contextlib
import ctypes
import functools
import json
import multiprocessing
import os
import sys
import threading
import time
import traceback
from collections.abc import Callable, Collection, Iterator
from typing import Any, NoReturn

import jax
from jax._src import distributed
from tqdm import tqdm

from maxsup_jax.errors import UsageError

# The exit code where another process is gone. The same command goes on.
GONE_EXIT_CODE = 3
# The one message that ends all processes. The first one counts.
_END = 'maxsup_jax/end'
# Process 0 has printed it; how long the others wait for that.
_SAID = 'maxsup_jax/said'
_SAID_MS = 5000
_BEATS = 'maxsup_jax/beat/'
_DONE = 'maxsup_jax/done/'
_SUSPICIONS = 'maxsup_jax/suspicion/'
_CXX = 'libstdc++.so.6'
# Between two signs of life.
_BEAT_MS = 1000
# Seconds without a sign of life once a collective has failed: somebody is gone.
_SUSPECT_TIMEOUT = 4.0
# How long process 0, the others' way to hear, waits until they have ended.
_LINGER = 10.0


# What watches over this process, once it has joined.
_watching: 'Peers | None' = None
# What C++ did before with an error that nobody caught.
_before: Callable[[], None]


@contextlib.contextmanager
def told_of_errors() -> Iterator[None]:
  """Joins so that the end of JAX's service ends this process in one line.

  By itself JAX aborts, with a dozen lines and another exit code, in a thread of
  C++ that nobody can be sure to outrun; no public option changes that
  (`jax_enable_recoverability` makes everybody wait for ever instead). It would
  rather call a function of ours, but cannot translate what that is told, so
  that C++ terminates: what it does then can be chosen. Any other error of C++
  is left to the handler that was there before.
  """
  jaxlib = distributed._jax
  make = jaxlib.get_distributed_runtime_client
  try:
    set_terminate = ctypes.CDLL(_CXX)._ZSt13set_terminatePFvvE
  except (OSError, AttributeError):
    yield
    return
  global _before
  set_terminate.restype = ctypes.c_void_p
  _before = ctypes.CFUNCTYPE(None)(set_terminate(_TERMINATE))
  jaxlib.get_distributed_runtime_client = functools.partial(
    make, missed_heartbeat_callback=lambda _: _end_without_service()
  )
  try:
    yield
  finally:
    jaxlib.get_distributed_runtime_client = make


def _terminate() -> None:
  """What C++ does with an error that nobody caught, in whatever thread."""
  if _untranslated():
    _end_without_service()
  _before()


def _end_without_service() -> None:
  """Ends this process with one line, in a thread of JAX."""
  if _watching is not None:
    _watching.end_without_service()
  print(
    'error: another process has ended while this one joined; start all of '
    'them together',
    file=sys.stderr,
    flush=True,
  )
  _leave(GONE_EXIT_CODE)


def _untranslated() -> bool:
  """Whether C++ ends for an argument that Python cannot be told."""
  find = ctypes.CDLL(_CXX).__cxa_current_exception_type
  find.restype = ctypes.POINTER(ctypes.c_void_p)
  kind = find()
  # The second word of `std::type_info` is its name.
  return bool(kind) and ctypes.string_at(kind[1]) == b'St8bad_cast'


_TERMINATE = ctypes.CFUNCTYPE(None)(_terminate)


class Peers:
  """Ends all processes when one has failed or is gone.

  Attributes:
    advice: gives what to say where a process is gone, such as which checkpoint
      there is.
  """

  def __init__(self, client: Any, index: int, count: int, *, timeout: float):
    """Starts to watch.

    Args:
      client: of JAX's coordination service.
      index: which process this one is.
      count: how many there are.
      timeout: seconds without a sign of life after which one is gone.
    """
    self.advice: Callable[[], str] = lambda: ''
    self._client, self._index, self._count = client, index, count
    self._timeout = timeout
    # The line of this process's own error, once it has one.
    self._own: str | None = None
    self._failed = threading.Event()
    self._closed = threading.Event()
    self._thread = threading.Thread(target=self._watch, daemon=True)
    self._thread.start()

  def fail(self, error: BaseException) -> NoReturn:
    """Ends all processes because of an error in this one.

    Every process ends with the same code, 2 for a `UsageError`; process 0
    prints one line. Where the error is but the consequence of another process's
    end, it is that one's line which is printed. The traceback of a fault of the
    program is printed where it happened.
    """
    text, code = _described(error)
    if _may_follow(error):
      # Which process is gone, or what it said, will be known soon.
      self._set(f'{_SUSPICIONS}{self._index}', '')
      time.sleep(_SUSPECT_TIMEOUT + 3)
    if code == 1:
      traceback.print_exception(error)
    self._own = text
    message = {'process': self._index, 'text': text, 'code': code}
    self._set(_END, json.dumps(message))
    self._failed.set()
    # The thread that listens ends this process.
    time.sleep(_LINGER + 5)
    _leave(code)

  def close(self) -> None:
    """Stops watching, before a process ends normally."""
    self._closed.set()
    self._set(f'{_DONE}{self._index}', '')
    self._thread.join()

  def _set(self, key: str, value: str) -> None:
    # Another one was first, or process 0 is gone; the listening thread knows.
    with contextlib.suppress(jax.errors.JaxRuntimeError):
      self._client.key_value_set(key, value)

  def _watch(self) -> None:
    """Hears the message that ends all, and gives signs of life."""
    beats, listener = 0, _Listener(self._count)
    while not self._closed.is_set():
      try:
        message = self._client.blocking_key_value_get(_END, _BEAT_MS)
      except jax.errors.JaxRuntimeError as e:
        if 'DEADLINE_EXCEEDED' not in str(e):
          if not self._closed.is_set():
            self.end_without_service()
          return
        beats += 1
        self._beat(beats) if self._index > 0 else self._judge(listener)
      else:
        self._end(**json.loads(message))

  def _beat(self, number: int) -> None:
    # Where it fails, the next attempt to listen will, too.
    with contextlib.suppress(jax.errors.JaxRuntimeError):
      self._client.key_value_set(
        f'{_BEATS}{self._index}', str(number), allow_overwrite=True
      )

  def _judge(self, listener: '_Listener') -> None:
    timeout = self._timeout
    if self._read(_SUSPICIONS):
      timeout = min(timeout, _SUSPECT_TIMEOUT)
    gone = listener.silent(self._read(_BEATS), self._read(_DONE), timeout)
    if gone is not None:
      text = self._gone(gone)
      message = {'process': gone, 'text': text, 'code': GONE_EXIT_CODE}
      self._set(_END, json.dumps(message))

  def end_without_service(self) -> None:
    """Ends this process where JAX's service, which is in process 0, is gone."""
    # Process 0 prints everything else. Who of the others is left, nobody knows.
    here = "JAX's coordination service, in this process, has failed"
    self._say(self._gone(0) if self._index else here, GONE_EXIT_CODE)
    _leave(GONE_EXIT_CODE)

  def _end(self, process: int, text: str, code: int) -> NoReturn:
    if self._index > 0:
      # mpirun ends process 0, too, as soon as one has failed.
      with contextlib.suppress(jax.errors.JaxRuntimeError):
        self._client.blocking_key_value_get(_SAID, _SAID_MS)
      self._set(f'{_DONE}{self._index}', '')
      _leave(code)
    if process > 0 and code != GONE_EXIT_CODE:
      # Where all of them fail alike, it is not the fault of one.
      self._failed.wait(1)
      if text != self._own:
        text = f'process {process} of {self._count}: {text}'
    self._say(text, code)
    self._set(_SAID, '')
    until = time.monotonic() + _LINGER
    gone = 1 if code == GONE_EXIT_CODE else 0
    while time.monotonic() < until:
      if len(self._read(_DONE)) >= self._count - 1 - gone:
        break
      time.sleep(0.1)
    time.sleep(0.2)
    _leave(code)

  def _read(self, directory: str) -> dict[int, str]:
    """What the processes have set, by their numbers."""
    try:
      found = self._client.key_value_dir_get(directory)
    except jax.errors.JaxRuntimeError:
      return {}
    return {int(key.rsplit('/', 1)[1]): value for key, value in found}

  def _say(self, text: str, code: int) -> None:
    """Prints why this process ends, and nothing that comes of it."""
    # What is wrong with the input is not mended by the same command.
    advice = '' if code == 2 else self.advice()
    # A progress bar has no end of line: it is removed first, and what restores
    # it finds no stderr.
    with tqdm.external_write_mode(file=sys.stderr):
      line = f'error: {text}' + (f'; {advice}' if advice else '')
      print(line, file=sys.stderr, flush=True)
      os.dup2(os.open(os.devnull, os.O_WRONLY), 2)

  def _gone(self, index: int) -> str:
    return f'process {index} of {self._count} is gone'


class _Listener:
  """How long each process has been silent."""

  def __init__(self, count: int, now: Callable[[], float] = time.monotonic):
    self._now = now
    self._last = now()
    # The last sign of life of every process but the first, and when it came.
    self._heard = dict.fromkeys(range(1, count), ('', self._last))

  def silent(
    self, beats: dict[int, str], done: Collection[int], timeout: float
  ) -> int | None:
    """The process that has been silent for longest, if that is too long.

    Args:
      beats: the newest sign of life of each process.
      done: processes that have ended as they should.
      timeout: how long is too long, in seconds.
    """
    now = self._now()
    # Where this process itself was stopped, it has heard nothing either.
    paused = now - self._last > 3
    self._last = now
    for index, (beat, _) in self._heard.items():
      newest = beats.get(index, beat)
      if paused or newest != beat:
        self._heard[index] = newest, now
    waited = {
      index: now - when
      for index, (_, when) in self._heard.items()
      if index not in done
    }
    longest = max(waited, key=waited.__getitem__, default=None)
    return longest if longest and waited[longest] > timeout else None


def watch(*, timeout: float) -> Peers | None:
  """Watches over the processes that `jax.distributed.initialize` has joined.

  Args:
    timeout: seconds without a sign of life after which a process is gone.

  Returns:
    None where there is only one process.
  """
  state = distributed.global_state
  if state.client is None or state.num_processes < 2:
    return None
  global _watching
  _watching = Peers(
    state.client, state.process_id, state.num_processes, timeout=timeout
  )
  return _watching


def _described(error: BaseException) -> tuple[str, int]:
  """One line and an exit code."""
  text = ' '.join(str(error).split())
  if isinstance(error, UsageError):
    return text, 2
  if isinstance(error, KeyboardInterrupt):
    return 'interrupted', 130
  return f'failed with {type(error).__name__}: {text[:200]}', 1


def _may_follow(error: BaseException) -> bool:
  """Whether the end of another process can have caused it."""
  return isinstance(error, jax.errors.JaxRuntimeError) or 'Gloo' in str(error)


def _leave(code: int) -> NoReturn:
  """Ends this process at once: an orderly end would wait for the others."""
  for child in multiprocessing.active_children():
    child.kill()  # They do not hear SIGTERM.
  sys.stdout.flush()
  sys.stderr.flush()
  os._exit(code)
