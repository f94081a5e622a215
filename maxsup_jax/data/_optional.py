"""Packages that make reading faster or safer, and change no pixels.

They are in the extra `fast`. Every function here gives the module, or what is
used of it, and None where it is not installed, cannot be imported, or is not to
be used.
"""

import contextlib
import functools
import importlib
import types
import warnings
from collections.abc import Callable, Iterator

from maxsup_jax.errors import one_line

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
  return module.value if module and module.implementation == 'c' else None


@contextlib.contextmanager
def without(*names: str) -> Iterator[None]:
  """Disables some of the packages, in all threads of this process."""
  added = set(names) - _banned
  _banned.update(added)
  try:
    yield
  finally:
    _banned.difference_update(added)


def _module(name: str) -> types.ModuleType | None:
  return None if name in _banned else _import(name)


# What becomes of a run without a package.
_EFFECTS = {
  'numba': 'images are scaled more slowly',
  'simplejpeg': 'images are decoded more slowly',
  'google_crc32c': 'the checksums of records are not compared',
}


@functools.cache
def _import(name: str) -> types.ModuleType | None:
  """A package; None, with a warning if it is there, if it does not import.

  Some do not, in many ways, beside a NumPy that is too new for them.
  """
  try:
    return importlib.import_module(name)
  except Exception as error:
    if isinstance(error, ModuleNotFoundError) and error.name == name:
      return None
    reason = one_line(error) or type(error).__name__
    warnings.warn(
      f'{name} is installed but cannot be imported ({reason}): '
      f'{_EFFECTS[name]}',
      stacklevel=2,
    )
    return None
