"""Images in directories, one for each class."""

import collections
import functools
import os
import re
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from maxsup_jax.data._tfds_source import TfdsSource
from maxsup_jax.data.pipeline import PARTS, rows_of_part
from maxsup_jax.data.sources import SUFFIXES, check_spellings, slice_of
from maxsup_jax.errors import UsageError, one_line

# Directories of these names are splits, not classes.
_SPLITS = {
  *('test', 'testing', 'train', 'training', 'val', 'valid', 'validation'),
}


class _Files(Sequence[dict[str, Any]]):
  """The encoded images of files, read when they are asked for."""

  def __init__(
    self,
    root: Path,
    files: list[tuple[str, int]],
    held_out: tuple[str, ...] = (),
  ):
    self._root, self._files, self.held_out = root, files, held_out

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

  @property
  def held_out(self) -> tuple[str, ...]:
    """The files that are kept for 'test', where one directory has both."""
    files: Any = self.examples
    return files.held_out


def open_folder(
  path: str | os.PathLike,
  split: str,
  *,
  image_size: int | None = None,
  channels: int | None = None,
  held_out: float = 0.2,
  split_seed: int = 0,
) -> 'FolderSource':
  """Opens `PATH/SPLIT/CLASS/*`, or a part of `PATH/CLASS/*`.

  Classes are in natural order ('c2' before 'c10'): those of `PATH/train` where
  there is one, so that a split that lacks some has the same numbers. A file
  `PATH/classes.txt` gives another order: a line for each class, with the name
  of its directory and, after a blank, whatever else, as ImageNet's
  `LOC_synset_mapping.txt` has it. If that is an integer in every line, these
  are the numbers of the classes. Images may lie in directories of a class, too,
  and be linked; what is hidden is left out. Their order is that of a checksum
  of their names: a slice mixes the classes.

  Args:
    path: of the directory.
    split: the name of a directory in it; or, of a directory that holds the
      classes themselves, 'train' or 'test', its parts, or 'all', both of them;
      or a slice of one, as tfds writes it: `all[:80%]`, `train[100:]`.
    image_size: see `open_source`.
    channels: 1 or 3, by default 3.
    held_out: where there are no splits, the share of the images of each class
      that is for 'test', see `pipeline.rows_of_part`.
    split_seed: draws which images these are.

  Raises:
    UsageError: if there is no such directory, no class, a class without an
      image, or one that training or classes.txt does not have.
  """
  root = Path(path).expanduser()
  name = split.partition('[')[0]
  own = _directories(root)
  splits = sorted(_SPLITS.intersection(own))
  if name == 'all' and len(splits) > 1:
    raise UsageError(
      f'split is {split!r}, but {root} has {" and ".join(splits)}, which are '
      'no classes; expected one of these'
    )
  undivided = name == 'all' or (name in PARTS and not splits)
  where = root if undivided else root / name
  if not where.is_dir():
    hint = f'; there are {", ".join(own[:5])}' if own else ''
    hint += ', ...' * (len(own) > 5)
    if splits == ['train']:
      hint += f'; folder:{root}/train is divided into train and test'
    elif own and not splits:
      hint += '; without splits expected train, test or all'
    raise UsageError(
      f'{where} is not a directory; expected the images of a split as '
      f'{where}/CLASS/*{hint}'
    )
  here = _classes(where)
  first, listed = root / 'train', root / 'classes.txt'
  if listed.is_file():
    known = here
    if not undivided:
      known = [d for s in own for d in _directories(root / s)]
    first, classes = listed, _listed(listed, set(known))
  elif undivided or not first.is_dir():
    classes = here
  else:
    classes = _classes(first)
  numbers = {directory: k for k, directory in enumerate(classes)}
  files: list[tuple[str, int]] = []
  for directory in here:
    if directory not in numbers:
      raise UsageError(
        f'{where} has a class {directory!r}, which {first} does not have'
      )
    found = [
      os.path.relpath(os.path.join(base, file), where)
      for base, names in _walk(where / directory)
      for file in names
      if file.lower().endswith(SUFFIXES) and not file.startswith('.')
    ]
    if not found:
      raise UsageError(
        f'{where / directory} has no image; expected {", ".join(SUFFIXES)}'
      )
    files += [(f, numbers[directory]) for f in found]
  files.sort(key=lambda f: (zlib.crc32(os.fsencode(f[0])), f))
  kept: tuple[str, ...] = ()
  if undivided:
    labels = np.array([label for _, label in files])
    part = functools.partial(
      rows_of_part, labels, held_out=held_out, seed=split_seed
    )
    if name != 'all':
      kept = tuple(files[i][0] for i in part('test'))
    files = [files[i] for i in part(split)]
  else:
    files = files[slice_of(split, len(files))]
  if not files:
    raise UsageError(f'{root}/{split} has no images')
  size, channels = image_size, channels or 3
  return FolderSource(
    examples=_Files(where, files, kept),
    name=f'{root}/{split}',
    image_key='image',
    label_key='label',
    num_classes=len(classes),
    label_names=tuple(classes),
    image_shape=None if size is None else (size, size, channels),
    image_size=size,
    channels=channels,
  )


def _directories(path: Path) -> list[str]:
  """The names of those in it that are not hidden, in natural order."""

  def natural(name: str) -> list[tuple[int, str]]:
    return [
      (int(part), '') if part.isdecimal() else (-1, part)
      for part in re.split(r'(\d+)', name)
    ]

  if not path.is_dir():
    return []
  names = [p.name for p in path.iterdir() if p.is_dir()]
  return sorted((n for n in names if not n.startswith('.')), key=natural)


def _classes(directory: Path) -> list[str]:
  names = _directories(directory)
  if not names:
    raise UsageError(
      f'{directory} has no directories; expected one for each class'
    )
  check_spellings(str(directory), names)
  return names


def _listed(path: Path, known: set[str]) -> list[str]:
  """The directory that each line begins with, by their numbers if given."""
  try:
    lines = path.read_text(encoding='utf-8-sig').splitlines()
  except (OSError, UnicodeDecodeError) as error:
    raise UsageError(f'{path} cannot be read: {one_line(error)}') from None
  names, rests = [], []
  for line in filter(None, map(str.strip, lines)):
    # The longest that there is: names may have blanks themselves.
    ends = [len(line), *(m.start() for m in re.finditer(r'\s', line))]
    heads = sorted((line[:end] for end in ends), key=len, reverse=True)
    word = line.split('\t' if '\t' in line else None, 1)[0].rstrip()
    head = next((h for h in heads if h in known), word)
    names.append(head)
    rests.append(line[len(head) :].strip())
  twice = [n for n, count in collections.Counter(names).items() if count > 1]
  if twice or len(names) < 2:
    what = f'has {twice[0]!r} twice' if twice else f'has {len(names)} classes'
    raise UsageError(f'{path} {what}; expected a line for each class')
  if all(rest.isdecimal() for rest in rests):
    ids = [int(rest) for rest in rests]
    if sorted(ids) != list(range(len(ids))):
      raise UsageError(
        f'{path} numbers {len(ids)} classes from {min(ids)} to {max(ids)}; '
        f'expected each of 0 to {len(ids) - 1} once'
      )
    names = [name for _, name in sorted(zip(ids, names))]
  return names


def _walk(directory: Path) -> Iterator[tuple[str, list[str]]]:
  """Directories and their files; links in a circle end."""
  seen = {os.path.realpath(directory)}
  for base, inner, names in os.walk(directory, followlinks=True):
    real = {
      d: os.path.realpath(os.path.join(base, d))
      for d in sorted(inner)
      if not d.startswith('.')
    }
    inner[:] = [d for d in real if real[d] not in seen]
    seen.update(real.values())
    yield base, names
