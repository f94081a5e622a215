"""Writes files whole or not at all, and never over others unasked."""

import contextlib
import math
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from maxsup_jax.errors import UsageError


def write(path: str | os.PathLike, content: str | bytes) -> None:
  """Writes a file so that a reader sees the old content or the new, whole.

  Args:
    path: of the file; its directory exists.
    content: text, written as UTF-8, or bytes.

  Raises:
    UsageError: if it cannot be written; nothing is left of the attempt.
  """
  path = Path(path)
  temporary = path.with_name(f'.{path.name}.{os.getpid()}')
  encoded = content.encode() if isinstance(content, str) else content
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


@contextlib.contextmanager
def one_line_errors(path: str | os.PathLike) -> Iterator[None]:
  """Turns the failure to write a file into a one-line error."""
  try:
    yield
  except OSError as e:
    raise UsageError(
      f'{os.fspath(path)} cannot be written: {e.strerror or e}'
    ) from None


def check_writable(path: str | os.PathLike) -> Path:
  """Refuses a file that cannot be written, before minutes are spent.

  Returns:
    The path; its directory is made.
  """
  path = Path(path)
  with one_line_errors(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    new = not path.exists()
    path.open('a').close()
    if new:
      # Nothing is there until there is something to write.
      path.unlink()
  return path


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
  path = Path(path)
  if path.is_dir():
    raise UsageError(f'{path} is a directory')
  if path.exists() and not overwrite:
    raise UsageError(f'{path} exists; overwrite=True replaces it')


def jsonable(value: Any) -> Any:
  """JSON has no NaN: null stands for a number that is not defined.

  Examples:
    >>> jsonable({'nc1': float('nan'), 'step': 3})
    {'nc1': None, 'step': 3}
  """
  if isinstance(value, Mapping):
    return {k: jsonable(v) for k, v in value.items()}
  if isinstance(value, float) and not math.isfinite(value):
    return None
  return value
