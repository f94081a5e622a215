"""Who writes into a work directory in a bucket.

No lock of a bucket ends with its process, so the writer holds a lease: a small
object that it writes anew every `RENEWED` seconds, each time on condition that
nobody else has. Who finds one that stays as it is for `EXPIRED` seconds takes
it over. No clock is compared with another machine's.
"""

import contextlib
import json
import os
import secrets
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from maxsup_jax import files
from maxsup_jax.errors import UsageError

RENEWED = 10.0
EXPIRED = 45.0


class Lease:
  """One that this process holds; a thread renews it."""

  def __init__(self, path: Path):
    """Takes it, if need be after `EXPIRED` seconds.

    Args:
      path: of the object.

    Raises:
      UsageError: if another process holds it.
    """
    self._path = path
    self._store = _store(path)
    self._lost: str | None = None
    self._ended = threading.Event()
    self._renewals = 0
    self._name = f'{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(4)}'
    self._generation = self._take()
    self._thread = threading.Thread(target=self._renew, daemon=True)
    self._thread.start()

  def check(self) -> None:
    """Refuses to go on where another process has taken over.

    Raises:
      UsageError: if so.
    """
    if self._lost:
      raise UsageError(
        f'another process has taken over {self._path.parent}: {self._lost}'
      )

  def release(self) -> None:
    """Removes it, so that the next process need not wait."""
    self._ended.set()
    self._thread.join()
    if not self._lost:
      with contextlib.suppress(Exception):  # It then expires.
        key = self._path.name.encode()
        self._store.write(key, None, if_equal=self._generation).result()

  def _take(self) -> bytes:
    found = self._read()
    if found is not None:
      # Whoever holds it renews it in this time.
      until = time.monotonic() + EXPIRED
      while (now := self._read()) == found and time.monotonic() < until:
        time.sleep(min(1.0, EXPIRED / 10))
      if now not in (None, found):
        raise UsageError(
          f'another process is training in the work directory '
          f'{self._path.parent}'
        )
      found = now
    generation = self._write(b'' if found is None else found)
    if generation is None:
      raise UsageError(
        f'another process is training in the work directory {self._path.parent}'
      )
    return generation

  def _read(self) -> bytes | None:
    """The generation of the object; None if there is none."""
    with files.one_line_errors(self._path):
      read = self._store.read(self._path.name.encode()).result()
    return read.stamp.generation if read.state == 'value' else None

  def _write(self, generation: bytes) -> bytes | None:
    """Writes it if it is of this generation; returns the new one, or None."""
    self._renewals += 1
    content = json.dumps({'holder': self._name, 'renewals': self._renewals})
    key = self._path.name.encode()
    with files.one_line_errors(self._path):
      self._store.write(key, content.encode(), if_equal=generation).result()
      read = self._store.read(key).result()
    # The condition is met, or our request was sent twice and met it at first.
    return read.stamp.generation if read.value == content.encode() else None

  def _renew(self) -> None:
    while not self._ended.wait(RENEWED):
      try:
        generation = self._write(self._generation)
      except UsageError:
        # The next time may do; if not, whoever takes over is seen then.
        continue
      if generation is None:
        self._lost = 'this one did not renew its lease in time'
        return
      self._generation = generation


@contextlib.contextmanager
def held(path: Path) -> Iterator[Lease]:
  """Holds a lease for as long as the context lasts; see `Lease`."""
  lease = Lease(path)
  try:
    yield lease
  finally:
    lease.release()


def check_bucket(path: Path) -> None:
  """Refuses a bucket that is not there, or that this process may not use.

  Args:
    path: of anything in it.

  Raises:
    UsageError: one line.
  """
  with files.one_line_errors(path):
    _store(path).read(b'.lock').result()


def _store(path: Path) -> Any:
  """The directory of an object, for reading and for conditional writing."""
  import tensorstore as ts

  with files.one_line_errors(path):
    return ts.KvStore.open(os.fspath(path.parent) + '/').result()
