"""Writes files whole or not at all, and never over others unasked.

It is also what knows that a path may be an address in a bucket.
"""

import contextlib
import errno
import glob
import importlib.util
import math
import os
import re
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from maxsup_jax.errors import UsageError, one_line, unknown

# What figures can be written as.
FIGURES = ('.png', '.svg', '.pdf')


# The kinds of buckets, with the package that reads each, besides tensorstore,
# and the extra that installs it.
BUCKETS = {'gs': ('gcsfs', 'gcs'), 's3': ('s3fs', 's3')}


class WriteError(UsageError):
  """Something cannot be written, as where a disk is full."""


def is_remote(path: str | os.PathLike) -> bool:
  """Whether a path is an address such as gs://bucket/name, not on the disk."""
  return '://' in os.fspath(path)


def located(path: str | os.PathLike) -> Path:
  """A path on the disk, absolute, or in a bucket.

  A bucket has no directories, and nothing in it is appended to or renamed: a
  file is written whole, by one request, or not at all.

  Args:
    path: of a file or a directory; gs:// and s3:// are buckets.

  Raises:
    UsageError: for another kind of address, or where the package that reads it
      is not installed.
  """
  if not is_remote(path):
    return Path(path).absolute()
  kind = os.fspath(path).split('://')[0]
  if kind not in BUCKETS:
    raise unknown(f'kind of address {path}', kind, BUCKETS)
  package, extra = BUCKETS[kind]
  if importlib.util.find_spec(package) is None:
    raise UsageError(
      f'{path} needs the package {package}, which is not installed: pip '
      f"install 'maxsup_jax[{extra}]'"
    )
  import fsspec
  from etils import epath

  # Other processes write there, too: a list of before is not what is there.
  options = fsspec.config.conf.setdefault(kind, {})
  options.setdefault('use_listings_cache', False)
  return cast(Path, epath.Path(path))


def listed(path: Path) -> dict[str, int]:
  """The files below a directory, by their names relative to it, with sizes."""
  if not is_remote(path):
    return {
      str(p.relative_to(path)): p.stat().st_size
      for p in sorted(path.rglob('*'))
      if p.is_file()
    }
  import fsspec

  fs, prefix = fsspec.core.url_to_fs(os.fspath(path))
  found = fs.find(prefix, detail=True)
  return {
    name.removeprefix(prefix.rstrip('/') + '/'): about['size']
    for name, about in sorted(found.items())
    if about['type'] == 'file'
  }


def size(path: Path) -> int:
  """The bytes of a file."""
  found: Any = path.stat()
  return found.length if is_remote(path) else found.st_size


def upload(file: Path, path: str | os.PathLike) -> None:
  """Writes a file of the disk into a bucket, whatever its size."""
  import fsspec

  fs, target = fsspec.core.url_to_fs(os.fspath(path))
  with one_line_errors(path):
    fs.put_file(str(file), target)


def require_disk(name: str, path: str | os.PathLike) -> None:
  """Refuses an address in a bucket, where only a path on the disk will do."""
  if is_remote(path):
    raise UsageError(f'{name} is {path}; expected a path on the disk')


def remove_all(path: Path) -> None:
  """Removes what is below a directory in a bucket."""
  for name in listed(path):
    (path / name).unlink()


def write(path: str | os.PathLike, content: str | bytes) -> None:
  """Writes a file so that a reader sees the old content or the new, whole.

  Args:
    path: of the file; its directory exists.
    content: text, written as UTF-8, or bytes.

  Raises:
    UsageError: if it cannot be written; nothing is left of the attempt.
  """
  encoded = content.encode() if isinstance(content, str) else content
  if is_remote(path):
    with one_line_errors(path):
      located(path).write_bytes(encoded)
    return
  path = Path(path)
  # Nobody writes for so long what is in memory already.
  remove_leftovers(path, older_than=3600)
  temporary = path.with_name(f'.{path.name}.{os.getpid()}')
  with one_line_errors(path):
    try:
      with temporary.open('wb') as file:
        file.write(encoded)
        file.flush()
        os.fsync(file.fileno())
      temporary.replace(path)
    except OSError:
      temporary.unlink(missing_ok=True)
      raise


def remove_leftovers(path: str | os.PathLike, *, older_than: float) -> None:
  """Removes what `write` left beside a file where its process was killed.

  Args:
    path: of the file.
    older_than: seconds since it was last written to.
  """
  path = Path(path)
  for left in path.parent.glob(f'.{glob.escape(path.name)}.*'):
    with contextlib.suppress(OSError):  # Another process was first.
      age = time.time() - left.stat().st_mtime
      if left.suffix[1:].isdigit() and age >= older_than:
        left.unlink()


@contextlib.contextmanager
def one_line_errors(path: str | os.PathLike) -> Iterator[None]:
  """Turns the failure to write a file into a one-line error."""
  try:
    yield
  except Exception as e:
    if isinstance(e, OSError) or is_of_storage(e):
      raise unwritable(path, e) from None
    raise


def is_of_storage(error: BaseException) -> bool:
  """Whether a bucket has refused something: each kind has errors of its own."""
  if isinstance(error, ValueError):
    # TensorStore's begin with a code, such as PERMISSION_DENIED.
    return re.match('[A-Z_]+: ', str(error)) is not None
  modules, trace = [type(error).__module__], error.__traceback__
  while trace and isinstance(error, OSError):
    modules[1:] = [trace.tb_frame.f_globals.get('__name__', '')]
    trace = trace.tb_next
  known = {'aiohttp', 'botocore', 'gcsfs', 'google', 's3fs'}
  return not known.isdisjoint(m.partition('.')[0] for m in modules)


def unwritable(path: str | os.PathLike, error: Exception) -> WriteError:
  """The error that says what cannot be written, and how much room there is."""
  reason = getattr(error, 'strerror', None) or one_line(error)
  code = getattr(error, 'errno', None)
  # TensorStore has no numbers.
  if code in (errno.ENOSPC, errno.EDQUOT) or 'RESOURCE_EXHAUSTED' in reason:
    if is_remote(path):
      return WriteError(f'{os.fspath(path)} cannot be written: {reason[:300]}')
    there = next(p for p in Path(path).absolute().parents if p.exists())
    free = shutil.disk_usage(there).free / 1e6
    reason = f'no space is left on the disk ({free:,.1f} MB are free)'
  return WriteError(f'{os.fspath(path)} cannot be written: {reason[:300]}')


def check_writable(path: str | os.PathLike) -> Path:
  """Refuses a file that cannot be written, before minutes are spent.

  Returns:
    The path; its directory is made.
  """
  path = Path(path)
  with one_line_errors(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    refuse_irregular(path)
    new = not path.exists()
    path.open('a').close()
    if new:
      # Nothing is there until there is something to write.
      path.unlink()
  return path


def refuse_irregular(path: str | os.PathLike) -> None:
  """Refuses what is there and is no file, as a directory or a device.

  To replace /dev/null would leave none; /dev/zero has no end, and a pipe has
  none before somebody writes.
  """
  if os.path.isdir(path):
    raise UsageError(f'{path} is a directory')
  if os.path.exists(path) and not os.path.isfile(path):
    raise UsageError(f'{path} is not a regular file')


def check_ending(path: str | os.PathLike, known: Sequence[str]) -> str:
  """The ending of a name in lower case; refuses unknown ones."""
  ending = Path(path).suffix.lower()
  if ending not in known:
    raise UsageError(
      f'{path} has an unknown ending; expected one of {", ".join(known)}'
    )
  return ending


def refuse_existing(
  path: str | os.PathLike, *, overwrite: bool = False
) -> None:
  """Refuses to replace a file unasked, and a directory always.

  Args:
    path: of what is to be written.
    overwrite: whether a file that is there may be replaced.

  Raises:
    UsageError: if there is one.
  """
  path = located(path)
  with one_line_errors(path):
    refuse_irregular(path)
  if path.exists() and not overwrite:
    raise UsageError(f'{path} exists; overwrite=True replaces it')


def jsonable(value: Any, digits: int | None = None) -> Any:
  """JSON has no NaN: null stands for a number that is not defined.

  Args:
    value: mappings, lists and plain values.
    digits: significant ones that numbers keep; None for all.

  Examples:
    >>> jsonable({'nc1': float('nan'), 'step': 3})
    {'nc1': None, 'step': 3}
    >>> jsonable([1 / 3, 2], digits=3)
    [0.333, 2]
  """
  if isinstance(value, Mapping):
    return {k: jsonable(v, digits) for k, v in value.items()}
  if isinstance(value, list | tuple):
    return [jsonable(v, digits) for v in value]
  if isinstance(value, float):
    if not math.isfinite(value):
      return None
    return value if digits is None else float(f'{value:.{digits}g}')
  return value
