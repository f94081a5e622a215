"""Packages that make reading faster or safer, and change no pixels.

They are in the extra `fast`. Every function here gives the module, or what is
used of it, and None where it is not installed, or not to be used.
"""

import contextlib
import functools
import importlib
import types
from collections.abc import Callable, Iterator

_banned: set[str] = set()


def numba() -> types.ModuleType | None:
  """Compiles the filters that scale images."""
  return _module('numba')


def simplejpeg() -> types.ModuleType | None:
  """Decodes JPEG files: libjpeg-turbo without Pillow around it."""
  return _module('simplejpeg')


def crc32c() -> Callable[[bytes], int] | None:
  """Computes the checksums of TFRecord files."""
  module = _module('google_crc32c')
  # Its version in Python would take longer than everything else.
  if module is None or module.implementation != 'c':
    return None
  return module.value


@contextlib.contextmanager
def without(*names: str) -> Iterator[None]:
  """Does without some of the packages, in all threads of this process.

  Examples:
    >>> with without('numba', 'simplejpeg'):
    ...   print(numba(), simplejpeg())
    None None
  """
  added = set(names) - _banned
  _banned.update(added)
  try:
    yield
  finally:
    _banned.difference_update(added)


def _module(name: str) -> types.ModuleType | None:
  return None if name in _banned else _import(name)


@functools.cache
def _import(name: str) -> types.ModuleType | None:
  try:
    return importlib.import_module(name)
  except ModuleNotFoundError as error:
    if error.name != name:
      raise  # It is there, and something that it needs is not.
    return None
