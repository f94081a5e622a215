"""Prepares an embedded dataset on disk, once, whichever process asks first."""

import contextlib
import fcntl
import io
import pathlib
import sys
from collections.abc import Iterable, Iterator
from typing import TextIO, TypeVar

import tensorflow_datasets as tfds
from etils import epath

from maxsup_jax.errors import UsageError, one_line

T = TypeVar('T')

# Work that takes less than so many seconds says nothing.
_QUIET_SECONDS = 5.0
# Where progress is shown while tfds is silenced; None for sys.stderr.
_visible: TextIO | None = None


def prepare(builder: tfds.core.DatasetBuilder) -> None:
  """Prepares an embedded dataset, unless it is already prepared.

  Several processes of one machine may call this at once: the first one writes,
  the others wait for it. tfds writes to a temporary directory and renames that
  at the end, so a process that is killed meanwhile leaves nothing that could be
  taken for the dataset.

  Raises:
    UsageError: if the directory cannot be written or holds something else, or
      if a package is missing that the builder needs.
  """
  directory = pathlib.Path(builder.data_dir).expanduser()
  try:
    if is_prepared(directory):
      return
    with _locked(directory.parent / '.lock'):
      if not is_prepared(directory):
        _write(builder, directory)
  except OSError as error:
    raise UsageError(
      f'cannot prepare {builder.name!r} in {directory}: '
      f'{error.strerror or one_line(error)}; '
      'set data_dir or TFDS_DATA_DIR to a writable directory'
    ) from error
  except ImportError as error:
    raise missing_package(builder.name, error) from error


def is_prepared(directory: pathlib.Path | epath.Path) -> bool:
  """Whether tfds finished writing the dataset in `directory`."""
  return (directory / 'dataset_info.json').exists()


def missing_package(name: str, error: ImportError) -> UsageError:
  """The error for preparing a dataset without a package that it needs."""
  return UsageError(
    f'preparing {name!r} needs {error.name}, which is not installed: pip '
    'install "maxsup_jax[train,prepare]"'
  )


def _write(builder: tfds.core.DatasetBuilder, directory: pathlib.Path) -> None:
  if directory.exists():  # tfds would take it for the whole dataset.
    raise UsageError(
      f'{directory} is an incomplete copy of a dataset (it has no '
      'dataset_info.json); remove it or copy it again'
    )
  try:
    with _silence():
      builder.download_and_prepare()
  except OSError:
    # Another machine that shares the directory may have been first: locks do
    # not reach across every network file system, but a rename is atomic.
    if not is_prepared(directory):
      raise


@contextlib.contextmanager
def _locked(path: pathlib.Path) -> Iterator[None]:
  """Holds an exclusive lock; the system releases it if the process dies."""
  path.parent.mkdir(parents=True, exist_ok=True)
  with open(path, 'w') as file:
    fcntl.flock(file, fcntl.LOCK_EX)
    yield


def track(
  items: Iterable[T], description: str, unit: str, total: int | None = None
) -> Iterator[T]:
  """Passes items on, and shows progress and remaining time if it takes long."""
  import tqdm

  stream = _visible or sys.stderr
  return iter(
    tqdm.tqdm(
      items,
      desc=description,
      total=total,
      unit=f' {unit}',
      file=stream,
      delay=_QUIET_SECONDS,
      # In a file every update is kept.
      mininterval=0.5 if stream.isatty() else 10.0,
      leave=False,
      position=0,  # Not below the bars of tfds, which nobody sees.
    )
  )


@contextlib.contextmanager
def _silence() -> Iterator[None]:
  """Hides the messages and progress bars of tfds, but not those of `track`."""
  global _visible
  _visible = sys.stderr
  try:
    with (
      contextlib.redirect_stdout(io.StringIO()),
      contextlib.redirect_stderr(io.StringIO()),
    ):
      yield
  finally:
    _visible = None
