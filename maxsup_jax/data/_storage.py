"""Parts of files, on a disk or in object storage."""

import os
import resource
import threading
import weakref
from typing import Any, BinaryIO, Protocol

from maxsup_jax.errors import UsageError, one_line


class Files(Protocol):
  """Files of one kind. All methods may be called from several threads."""

  def fingerprint(self, path: str) -> tuple[int, int]:
    """The size in bytes, and the time of the last change where known, or 0."""

  def stream(self, path: str) -> BinaryIO:
    """The file, to be read from its start with few jumps."""

  def read(self, path: str, start: int, length: int) -> bytes:
    """Some of its bytes; fewer where it ends."""


def files_of(path: str) -> Files:
  """The reader of the files below a directory, such as `gs://bucket/mnist`.

  Raises:
    UsageError: if no package is installed that reads such files.
  """
  if '://' not in str(path):
    return LocalFiles()
  check_scheme(path)
  return FsspecFiles()


def check_scheme(path: object) -> None:
  """Refuses a remote path that no installed package can read."""
  scheme = str(path).partition('://')[0]
  if scheme not in _PACKAGES:
    raise UsageError(
      f'the scheme of {path} is unknown; expected a local path or '
      f'{", ".join(f"{s}://" for s in _PACKAGES)}'
    )
  if _filesystem_class(scheme) is None:
    raise UsageError(
      f'no installed package reads {path}: pip install {_PACKAGES[scheme]}'
    )


def remote_exists(path: str) -> bool:
  """Whether a file is in object storage.

  Raises:
    UsageError: with the reason, if the storage does not say.
  """
  files = files_of(path)
  try:
    files.fingerprint(path)
  except FileNotFoundError:
    return False
  except Exception as error:  # Each storage has its own.
    raise refusal(path, error) from error
  return True


def refusal(path: object, error: Exception) -> UsageError:
  """The error that says why object storage cannot be read."""
  reason = one_line(error) or type(error).__name__
  return UsageError(f'{path} cannot be read: {reason[:300]}')


# The packages of fsspec for each kind of remote path.
_PACKAGES = {'gs': 'gcsfs', 's3': 's3fs', 'az': 'adlfs'}


def _filesystem_class(scheme: str) -> type | None:
  import fsspec

  try:
    return fsspec.get_filesystem_class(scheme)
  except (ImportError, ValueError):
    return None


class LocalFiles:
  """Files of the operating system; some stay open while this object lives."""

  def __init__(self) -> None:
    self._open: dict[str, int] = {}
    self._lock = threading.Lock()
    # Datasets have a thousand files, and a process may open as many.
    self._limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0] // 4
    # Not when Python ends: threads may still read ahead.
    weakref.finalize(self, _close, self._open).atexit = False

  def __reduce__(self) -> Any:
    return LocalFiles, ()

  def fingerprint(self, path: str) -> tuple[int, int]:
    status = os.stat(path)
    return status.st_size, status.st_mtime_ns

  def stream(self, path: str) -> BinaryIO:
    # Nothing is read beyond what is asked for.
    return open(path, 'rb', buffering=0)

  def read(self, path: str, start: int, length: int) -> bytes:
    descriptor = self._open.get(path)
    if descriptor is not None:
      return _read_at(descriptor, start, length)
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    with self._lock:
      kept = path not in self._open and len(self._open) < self._limit
      if kept:
        self._open[path] = descriptor
    try:
      return _read_at(descriptor, start, length)
    finally:
      if not kept:
        os.close(descriptor)


def _read_at(descriptor: int, start: int, length: int) -> bytes:
  data = os.pread(descriptor, length, start)
  while len(data) < length:  # Rare: the system may give less.
    more = os.pread(descriptor, length - len(data), start + len(data))
    if not more:
      break
    data += more
  return data


def _close(descriptors: dict[str, int]) -> None:
  while descriptors:
    os.close(descriptors.popitem()[1])


class FsspecFiles:
  """Files in object storage, through fsspec: gcsfs, s3fs, adlfs."""

  # Of the files while they are indexed: most of each is read anyway.
  _BLOCK_BYTES = 8 * 2**20

  def fingerprint(self, path: str) -> tuple[int, int]:
    fs, path = _fsspec(path)
    return int(fs.info(path)['size']), 0

  def stream(self, path: str) -> BinaryIO:
    fs, path = _fsspec(path)
    return fs.open(path, 'rb', block_size=self._BLOCK_BYTES)

  def read(self, path: str, start: int, length: int) -> bytes:
    fs, path = _fsspec(path)
    return fs.cat_file(path, start=start, end=start + length)


def _fsspec(path: str) -> tuple[Any, str]:
  import fsspec

  return fsspec.core.url_to_fs(path)  # It keeps the file systems.
