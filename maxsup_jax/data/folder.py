"""Images in directories, one for each class."""

import os
import re
import unicodedata
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from maxsup_jax.data._tfds_source import TfdsSource
from maxsup_jax.data.sources import SUFFIXES, slice_of
from maxsup_jax.errors import UsageError, one_line


class _Files(Sequence[dict[str, Any]]):
  """The encoded images of files, read when they are asked for."""

  def __init__(self, root: Path, files: list[tuple[str, int]]):
    self._root, self._files = root, files

  def __len__(self) -> int:
    return len(self._files)

  @property
  def labels(self) -> np.ndarray:
    return np.array([label for _, label in self._files], np.int32)

  def __getitem__(self, index: Any) -> Any:
    name, label = self._files[index]
    path = self._root / name
    try:
      return {'image': path.read_bytes(), 'label': label, 'where': str(path)}
    except OSError as e:
      raise UsageError(f'{path}: {e.strerror}') from None


class FolderSource(TfdsSource):
  """What `open_folder` gives; a message about an image names its file."""

  def labels(self) -> np.ndarray:
    """All labels, int32 `[N]`; no file is read."""
    files: Any = self.examples
    return files.labels


def open_folder(
  path: str | os.PathLike,
  split: str,
  *,
  image_size: int | None = None,
  channels: int | None = None,
) -> 'FolderSource':
  """Opens `PATH/SPLIT/CLASS/*`, or a part of it.

  Classes are in natural order ('c2' before 'c10'): those of `PATH/train` where
  there is one, so that a split that lacks some has the same numbers. A file
  `PATH/classes.txt` gives another order: on each line the name of a directory,
  and after a blank whatever else, as ImageNet's `LOC_synset_mapping.txt` has
  it. Images may lie in directories of a class, too, and be linked. Their order
  is that of a checksum of their names: a slice mixes the classes.

  Args:
    path: of the directory.
    split: the name of a directory in it, or `all` for a directory that holds
      the classes themselves; or a slice of one, as tfds writes it: `all[:80%]`,
      `train[100:]`.
    image_size: see `open_source`.
    channels: 1 or 3, by default 3.

  Raises:
    UsageError: if there is no such directory, no two classes, a class without
      an image, or one that training or classes.txt does not have.
  """
  root = Path(path).expanduser()
  name = split.partition('[')[0]
  where = root if name == 'all' else root / name
  if not where.is_dir():
    own = sorted(p.name for p in root.glob('*/')) if root.is_dir() else []
    raise UsageError(
      f'{where} is not a directory; expected the images of a split as '
      f'{where}/CLASS/*' + (f'; there are {", ".join(own)}' if own else '')
    )
  there = {p.name for p in root.glob('*/')} & {'train', 'val', 'validation'}
  if name == 'all' and len(there) > 1:
    raise UsageError(
      f'split is {split!r}, but {root} has {" and ".join(sorted(there))}, '
      'which are no classes; expected one of these'
    )
  first = root / 'train'
  listed = root / 'classes.txt'
  if listed.is_file():
    first, classes = listed, _listed(listed)
  else:
    classes = _classes(first if first.is_dir() and name != 'all' else where)
  files: list[tuple[str, int]] = []
  for directory in _classes(where):
    if directory not in classes:
      raise UsageError(
        f'{where} has a class {directory!r}, which {first} does not have'
      )
    found = sorted(
      os.path.relpath(os.path.join(base, file), where)
      for base, names in _walk(where / directory)
      for file in names
      if file.lower().endswith(SUFFIXES)
    )
    if not found:
      raise UsageError(
        f'{where / directory} has no image; expected {", ".join(SUFFIXES)}'
      )
    files += [(f, classes.index(directory)) for f in found]
  files.sort(key=lambda f: (zlib.crc32(f[0].encode()), f))
  files = files[slice_of(split, len(files))]
  channels = channels or 3
  size = image_size
  return FolderSource(
    examples=_Files(where, files),
    name=f'{root}/{split}',
    image_key='image',
    label_key='label',
    num_classes=len(classes),
    label_names=tuple(classes),
    image_shape=None if size is None else (size, size, channels),
    image_size=size,
    channels=channels,
  )


def _walk(directory: Path) -> Iterator[tuple[str, list[str]]]:
  """Directories and their files; links in a circle end."""
  seen = {os.path.realpath(directory)}
  for base, inner, names in os.walk(directory, followlinks=True):
    real = {d: os.path.realpath(os.path.join(base, d)) for d in sorted(inner)}
    inner[:] = [d for d in real if real[d] not in seen]
    seen.update(real.values())
    yield base, names


def _listed(path: Path) -> list[str]:
  """The first word of each line."""
  try:
    lines = path.read_text(encoding='utf-8-sig').splitlines()
  except (OSError, UnicodeDecodeError) as error:
    raise UsageError(f'{path} cannot be read: {one_line(error)}') from None
  names = [line.split()[0] for line in lines if line.strip()]
  twice = [name for name in names if names.count(name) > 1]
  if twice or len(names) < 2:
    what = f'has {twice[0]!r} twice' if twice else f'has {len(names)} classes'
    raise UsageError(f'{path} {what}; expected a line for each class')
  return names


def _classes(directory: Path) -> list[str]:
  """The directories in it, in natural order."""

  def natural(name: str) -> list[tuple[int, str]]:
    return [
      (int(part), '') if part.isdigit() else (-1, part)
      for part in re.split(r'(\d+)', name)
    ]

  names = [
    p.name
    for p in directory.iterdir()
    if p.is_dir() and not p.name.startswith('.')
  ]
  if len(names) < 2:
    raise UsageError(
      f'{directory} has {len(names)} directories; expected one for each class'
    )
  seen: dict[str, str] = {}
  for other in names:
    same = unicodedata.normalize('NFC', other).casefold()
    if same in seen:
      raise UsageError(
        f'{directory} has {seen[same]!r} and {other!r}, two spellings of one '
        'class'
      )
    seen[same] = other
  return sorted(names, key=natural)
