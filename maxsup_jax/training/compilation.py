"""The cache of programs that JAX compiled, and a count of compilations.

JAX keeps compiled programs in a directory if it is told one, and a later start
reads them instead of compiling again. Who can write there can make a run do
anything, so a directory that others can write is refused.
"""

import hashlib
import os
import pathlib
import stat
import zlib
from typing import Any

import jax

from maxsup_jax.errors import UsageError

# Touched when the entries have been looked at; see `_drop_damaged`.
_STAMP = '.checked'


def keep_compiled(directory: str | os.PathLike) -> None:
  """Makes JAX keep all compiled programs of this process in a directory.

  On CPUs they go into a subdirectory for this kind of processor: a program that
  was compiled for another one may crash. What a process that was killed left
  half-written there is removed.

  Args:
    directory: made if need be; or the address of a bucket, as JAX knows it.

  Raises:
    UsageError: if it cannot be written, or users other than this one can write
      there.

  References:
    docs.jax.dev/en/latest/persistent_compilation_cache.html
  """
  path = os.fspath(directory)
  if '://' not in path:
    local = pathlib.Path(path).absolute()
    _make(local)
    if jax.default_backend() == 'cpu':
      local = local / f'cpu-{_processor()}'
      _make(local)
      # The directory of a cache for GPUs is part of what a program is known by:
      # in a copy of this directory none would be found.
      jax.config.update('jax_persistent_cache_enable_xla_caches', 'none')
    _drop_damaged(local)
    path = str(local)
  jax.config.update('jax_compilation_cache_dir', path)
  # JAX leaves out what compiles within a second; a run has dozens of those.
  jax.config.update('jax_persistent_cache_min_compile_time_secs', 0.0)
  jax.config.update('jax_persistent_cache_min_entry_size_bytes', -1)


class Compilations:
  """Counts the programs that JAX needs, in a `with` block.

  Attributes:
    requested: programs that were compiled or read from where they are kept.
    read: those of them that were read.

  Examples:
    >>> with Compilations() as programs:
    ...   _ = jax.jit(lambda x: 3 * x - 1)(2.0)
    >>> programs.requested >= 1
    True
  """

  def __init__(self):
    self.requested = 0
    self.read = 0

  @property
  def compiled(self) -> int:
    """Programs that were compiled."""
    return self.requested - self.read

  def __enter__(self) -> 'Compilations':
    jax.monitoring.register_event_listener(self._event)
    jax.monitoring.register_event_duration_secs_listener(self._duration)
    return self

  def __exit__(self, *_):
    jax.monitoring.unregister_event_listener(self._event)
    jax.monitoring.unregister_event_duration_listener(self._duration)

  def _event(self, event: str, **kwargs: Any) -> None:
    del kwargs
    self.read += event == '/jax/compilation_cache/cache_hits'

  def _duration(self, event: str, duration_secs: float, **kwargs: Any) -> None:
    del duration_secs, kwargs
    # Also for a program that is read in the end.
    self.requested += event == '/jax/core/compile/backend_compile_duration'


def _make(directory: pathlib.Path) -> None:
  """Makes a directory that only this user can write, or checks one."""
  try:
    directory.mkdir(parents=True, exist_ok=True, mode=0o700)
    status = directory.stat()
  except OSError as e:
    raise UsageError(
      f'compiled programs cannot be kept in {directory}: {e.strerror}'
    ) from None
  if not os.access(directory, os.W_OK):
    raise UsageError(
      f'compiled programs cannot be kept in {directory}: it is not writable'
    )
  others = stat.S_IWGRP | stat.S_IWOTH
  if status.st_uid != os.getuid() or status.st_mode & others:
    raise UsageError(
      f'compiled programs are not kept in {directory}: other users can write '
      'there and could make this program run anything'
    )


def _processor() -> str:
  """A short name for what this kind of processor can do."""
  try:
    lines = pathlib.Path('/proc/cpuinfo').read_text().splitlines()
  except OSError:  # Not on Linux.
    lines = []
  # On ARM the instructions are called Features.
  words = ('model name', 'flags', 'Features')
  kind = sorted({x for x in lines if x.startswith(words)})
  text = '\n'.join([os.uname().machine, *kind])
  return hashlib.sha256(text.encode()).hexdigest()[:8]


def _drop_damaged(directory: pathlib.Path) -> None:
  """Removes entries that a process was killed over, since the last look.

  JAX writes an entry in place and never writes it again, so half of one would
  be a warning and a compilation at every start.
  """
  stamp = directory / _STAMP
  since = stamp.stat().st_mtime if stamp.exists() else 0.0
  stamp.touch()
  for entry in directory.glob('*-cache'):
    try:
      if entry.stat().st_mtime >= since:
        _check(entry.read_bytes())
    except (zlib.error, EOFError):
      entry.unlink(missing_ok=True)
    except FileNotFoundError:
      continue  # Another process was first.


def _check(entry: bytes) -> None:
  """Raises an error for an entry that is cut short."""
  # JAX compresses with zlib, but with zstandard where that is installed, whose
  # frames this cannot read.
  if entry[:4] == b'\x28\xb5\x2f\xfd':
    return
  stream = zlib.decompressobj()
  stream.decompress(entry)
  if not stream.eof:
    raise EOFError
