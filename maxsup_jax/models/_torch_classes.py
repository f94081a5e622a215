"""The order of the classes that somebody else's classifier has."""

import os
from collections.abc import Iterable, Sequence

import numpy as np

from maxsup_jax.errors import UsageError


def class_order(
  source: str | os.PathLike | Iterable[str], names: Sequence[str]
) -> np.ndarray:
  """Finds each class of a dataset among the rows of another classifier.

  The lines are either files with the index of their class, such as

      val/n03146219/ILSVRC2012_val_00027260.JPEG    0

  in any order, of which some part of the path names the class: the
  `train_map.txt` and `val_map.txt` of the DeiT code of the authors of MaxSup,
  whose indices are not the usual ones. Or they are the names of the classes
  alone, one a line, in the order of the rows.

  Args:
    source: the path of a text file, or its lines.
    names: the classes in the order wanted. For ImageNet in tfds these are
      WordNet ids in alphabetical order, as in torchvision.

  Returns:
    int64 [K]: for each of `names`, which row of the classifier is its own.

  Raises:
    UsageError: in one line, at the first line that cannot be read or
      contradicts one before, or for a class without a row.

  Examples:
    >>> lines = ['val/n03/a.JPEG 0', 'val/n01/b.JPEG 1', 'val/n01/c.JPEG 1']
    >>> print(class_order(lines, ['n01', 'n03']))
    [1 0]
    >>> print(class_order(['n03', 'n01'], ['n01', 'n03']))
    [1 0]
  """
  if isinstance(source, str | os.PathLike):
    where = os.fspath(source)
    try:
      with open(source, encoding='utf-8') as file:
        lines = file.read().splitlines()
    except (OSError, UnicodeDecodeError) as error:
      raise UsageError(f'{where} cannot be read: {error}') from None
  else:
    where, lines = 'the order of classes', list(source)
  known = set(names)
  if len(known) != len(names):
    raise UsageError('names: a class is named twice')
  indices: dict[str, int] = {}
  owners: dict[int, str] = {}
  bare = None  # Whether the lines are names alone.
  for number, line in enumerate(lines, 1):
    if not line.strip():
      continue
    here = f'{where}, line {number}'
    path, index = _split(line, here)
    if bare not in (None, index is None):
      raise UsageError(
        f'{here}: some lines have an index and others none: {line!r}'
      )
    bare = index is None
    name = _class_in(path, known, here)
    if bare:
      if name in indices:
        raise UsageError(f'{here}: class {name} comes a second time')
      index = len(indices)
    if indices.setdefault(name, index) != index:
      raise UsageError(
        f'{here}: class {name} has index {index}, and {indices[name]} before'
      )
    if owners.setdefault(index, name) != name:
      raise UsageError(
        f'{here}: index {index} is of class {name}, and of {owners[index]} '
        'before'
      )
  missing = [name for name in names if name not in indices]
  if missing:
    raise UsageError(
      f'{where}: {len(missing)} of the {len(names)} classes have no line, '
      f'{missing[0]} is the first'
    )
  order = np.array([indices[name] for name in names], np.int64)
  if order.max() >= len(names) or order.min() < 0:
    raise UsageError(
      f'{where}: the indices are from {order.min()} to {order.max()}; expected '
      f'from 0 to {len(names) - 1}'
    )
  return order


def _split(line: str, here: str) -> tuple[str, int | None]:
  """The path and the index of a line; None if there is no index."""
  line = line.strip()
  path, *rest = line.rsplit('\t' if '\t' in line else None, 1)
  if not rest:
    return path, None
  try:
    return path, int(rest[0])
  except ValueError:
    raise UsageError(
      f'{here}: expected a path and an index, or the name of a class, got '
      f'{line!r}'
    ) from None


def _class_in(path: str, known: set[str], here: str) -> str:
  found = {part for part in path.strip().split('/') if part in known}
  if len(found) != 1:
    what = 'no class' if not found else 'more than one class'
    raise UsageError(
      f'{here}: {path!r} names {what} of the {len(known)} of the dataset'
    )
  return found.pop()
