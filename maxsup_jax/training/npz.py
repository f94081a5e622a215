"""Writes an .npz archive row by row: for what does not fit into memory.

The members are plain .npy files, uncompressed, so that `numpy.load` reads the
archive as any other.
"""

import contextlib
import fcntl
import math
import os
import shutil
import tempfile
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.lib import format as npy
from numpy.typing import DTypeLike

from maxsup_jax.errors import UsageError

# Room for headers and for small members, in bytes: asked for, not taken.
SLACK = 2**24
# Read and written at once when members are joined.
CHUNK = 2**20


class NpzWriter:
  """An archive with members that grow row by row; a context manager.

  It is written under another name and gets its own when the context ends;
  nothing is left of it if that ends in an error. The largest member goes
  straight into the archive, the others wait in nameless files beside it.

  Examples:
    >>> path = Path(tempfile.mkdtemp()) / 'x.npz'
    >>> with NpzWriter(path, {'a': ((3, 2), np.float32)}) as file:
    ...   for row in range(3):
    ...     file.append('a', np.full((1, 2), row, np.float32))
    ...   file.write('b', np.array('text'))
    >>> with np.load(path) as arrays:
    ...   print(arrays['a'].tolist(), arrays['b'])
    [[0.0, 0.0], [1.0, 1.0], [2.0, 2.0]] text
  """

  def __init__(
    self,
    path: str | os.PathLike,
    members: Mapping[str, tuple[tuple[int, ...], DTypeLike]],
    *,
    overwrite: bool = False,
  ):
    """Names the archive; nothing is made before the context is entered.

    Args:
      path: of the archive.
      members: the final shape and the dtype of each member that grows along its
        first axis; at least one.
      overwrite: whether a file that is there is replaced, at the end.
    """
    self.path = Path(path).absolute()
    self._members = {
      name: (tuple(shape), np.dtype(dtype))
      for name, (shape, dtype) in members.items()
    }
    self._sizes = {
      name: math.prod(shape) * dtype.itemsize
      for name, (shape, dtype) in self._members.items()
    }
    self._overwrite = overwrite
    # The same name every time: what a killed process left does not add up.
    self._partial = self.path.with_name(f'.{self.path.name}.partial')
    self._rows = dict.fromkeys(self._members, 0)
    self._whole: dict[str, np.ndarray] = {}
    self._renamed = False

  def __enter__(self) -> 'NpzWriter':
    """Opens the files.

    Raises:
      UsageError: if the archive exists, cannot be written, does not fit onto
        the disk, or is being written by another process.
    """
    refuse_existing(self.path, overwrite=self._overwrite)
    with self._one_line_errors(), contextlib.ExitStack() as stack:
      self.path.parent.mkdir(parents=True, exist_ok=True)
      self._check_space()
      self._file = stack.enter_context(self._locked())
      stack.callback(self._remove_partial)
      self._file.truncate(0)
      self._zip = zipfile.ZipFile(self._file, 'w', zipfile.ZIP_STORED)
      self._largest = max(self._sizes, key=self._sizes.get)
      self._targets: dict[str, BinaryIO] = {}
      for name, (shape, dtype) in self._members.items():
        if name == self._largest:
          target = self._open_member(name)
        else:
          target = stack.enter_context(
            tempfile.TemporaryFile(dir=self.path.parent)
          )
        header = npy.header_data_from_array_1_0(np.empty(0, dtype))
        npy.write_array_header_1_0(target, header | {'shape': shape})
        self._targets[name] = target
      stack.callback(self._close_archive)
      self._stack = stack.pop_all()
    return self

  def append(self, name: str, rows: np.ndarray) -> None:
    """Adds rows to a member.

    Args:
      name: one of the members that grow.
      rows: `[n, ...]` for any n, of the dtype and the shape that were promised.

    Raises:
      ValueError: if they are not, or are too many.
      UsageError: if the disk is full.
    """
    shape, dtype = self._members[name]
    if rows.dtype != dtype or rows.shape[1:] != shape[1:]:
      raise ValueError(
        f'rows of {name!r} are {rows.dtype} {list(rows.shape[1:])}; expected '
        f'{dtype} {list(shape[1:])}'
      )
    self._rows[name] += len(rows)
    if self._rows[name] > shape[0]:
      raise ValueError(f'{name!r} has more rows than the {shape[0]} promised')
    with self._one_line_errors():
      self._targets[name].write(rows.tobytes())

  def write(self, name: str, array: np.ndarray) -> None:
    """Adds a small array as a member of its own, when the context ends.

    Args:
      name: of the member.
      array: numbers or text.

    Raises:
      ValueError: if the name is taken, or the array holds Python objects.
    """
    array = np.asarray(array)
    if name in self._members or name in self._whole:
      raise ValueError(f'there is a member {name!r} already')
    if array.dtype.hasobject:
      raise ValueError(f'{name!r} holds Python objects')
    self._whole[name] = array

  def __exit__(self, kind, *_) -> None:
    with self._one_line_errors(), self._stack:
      if kind is None:
        self._finish()

  def _finish(self) -> None:
    for name, (shape, _) in self._members.items():
      if self._rows[name] != shape[0]:
        raise ValueError(
          f'{name!r} has {self._rows[name]} rows; {shape[0]} were promised'
        )
    self._targets.pop(self._largest).close()
    for name, spool in self._targets.items():
      spool.seek(0)
      with self._open_member(name) as member:
        shutil.copyfileobj(spool, member, CHUNK)
      spool.close()
    for name, array in self._whole.items():
      with self._open_member(name) as member:
        npy.write_array(member, array, allow_pickle=False)
    self._zip.close()
    self._file.flush()
    os.fsync(self._file.fileno())
    refuse_existing(self.path, overwrite=self._overwrite)
    self._partial.replace(self.path)
    self._renamed = True

  def _remove_partial(self) -> None:
    # Once renamed, a file of that name is another process's.
    if not self._renamed:
      self._partial.unlink(missing_ok=True)

  def _open_member(self, name: str) -> BinaryIO:
    # With a date, as by default, equal contents would give unequal archives.
    info = zipfile.ZipInfo(f'{name}.npy', (1980, 1, 1, 0, 0, 0))
    return self._zip.open(info, 'w', force_zip64=True)

  def _close_archive(self) -> None:
    """Closes what is open of it; what that writes is of no use any more."""
    largest = self._targets.get(self._largest)
    with contextlib.suppress(OSError, ValueError):
      if largest:
        largest.close()
    with contextlib.suppress(OSError, ValueError):
      self._zip.close()

  def _locked(self) -> BinaryIO:
    descriptor = os.open(self._partial, os.O_RDWR | os.O_CREAT, 0o666)
    file = os.fdopen(descriptor, 'r+b')
    try:
      fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
      # Between opening and locking, another process may have renamed it.
      mine = os.path.samestat(os.fstat(descriptor), os.stat(self._partial))
    except (BlockingIOError, FileNotFoundError):
      mine = False
    if not mine:
      file.close()
      raise UsageError(f'another process is writing {self.path}')
    return file

  def _check_space(self) -> None:
    sizes = sorted(self._sizes.values())
    # Members that had to wait are there twice while they are joined, one after
    # the other.
    needed = sum(sizes) + max(sizes[:-1], default=0) + SLACK
    free = shutil.disk_usage(self.path.parent).free
    if self._partial.exists():
      free += self._partial.stat().st_blocks * 512
    if needed > free:
      raise UsageError(
        f'{self.path} needs {_gigabytes(needed)} while it is written; '
        f'{_gigabytes(free)} are free there'
      )

  @contextlib.contextmanager
  def _one_line_errors(self):
    try:
      yield
    except OSError as e:
      reason = e.strerror or e
      raise UsageError(f'{self.path} cannot be written: {reason}') from None


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
    raise UsageError(f'{path} exists; --overwrite replaces it')


def _gigabytes(size: int) -> str:
  return f'{size / 1e9:,.2f} GB'
