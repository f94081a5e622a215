"""Images, or feature vectors, and labels in files of arrays, by split."""

import contextlib
import functools
import glob
import os
import zipfile
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np

from maxsup_jax.data.pipeline import PARTS, rows_of_part
from maxsup_jax.data.sources import ArraySource, Example, slice_of
from maxsup_jax.data.tables import Columns, vectors
from maxsup_jax.errors import UsageError, one_line

_CHANNELS = (1, 3, 4)


class _Arrays(NamedTuple):
  """What files have of a split."""

  path: str
  inputs: str  # What messages call the images, ...
  targets: str  # ... and the labels.
  images: np.ndarray
  labels: np.ndarray
  label_names: list[str] | None
  largest: int
  undivided: bool


def open_archive(
  name: str,
  split: str,
  *,
  num_classes: int | None = None,
  channels: int | None = None,
  held_out: float = 0.2,
  split_seed: int = 0,
  encoder: Columns | None = None,
) -> ArraySource:
  """Opens arrays of images and labels, in one .npz or in two .npy.

  'npz:FILE' has `SPLIT_images` and `SPLIT_labels`, as MedMNIST has them, with
  the splits `train`, `val` and `test`. All of it is in memory. K names may be
  in `class_names`.

  'npy:IMAGES,LABELS' names two files, in which '{split}' stands for the split.
  The images stay on the disk, and are read as they are asked for.

  Of a file with `images` and `labels` alone, or of names without '{split}', the
  split is `all`, or one of its parts, `train` and `test`.

  The images are uint8 `[N, H, W]` or `[N, H, W, C]`, the labels integers `[N]`
  or `[N, 1]`. In place of images there may be `SPLIT_features`, or an .npy of
  numbers `[N, F]`, as in what `experiments.extract` writes: in memory and
  standardised, as the columns of a table are, NaN being a missing number.

  Args:
    name: 'npz:FILE' or 'npy:IMAGES,LABELS'.
    split: its name, or a slice of it, such as `train[:80%]`.
    num_classes: K; by default the number of names, or one more than the largest
      label of all splits.
    channels: 3 repeats the channel of grey images.
    held_out: where there are no splits, the share of the examples of each class
      that is for `test`, see `pipeline.rows_of_part`.
    split_seed: draws which examples these are.
    encoder: of features, see `tables.open_table`.

  Raises:
    UsageError: one line, which names the file and what is wrong with it.

  Examples:
    >>> import tempfile
    >>> images, labels = np.zeros((6, 8, 8), np.uint8), np.arange(6) % 3
    >>> with tempfile.TemporaryDirectory() as directory:
    ...   path = f'{directory}/mine.npz'
    ...   np.savez(path, train_images=images, train_labels=labels)
    ...   source = open_archive(f'npz:{path}', 'train[:50%]')
    >>> len(source), source.num_classes, source.image_shape
    (3, 3, (8, 8, 1))
  """
  kind, _, path = name.partition(':')
  read = _read_npy if kind == 'npy' else _read_npz
  found = read(path, split.partition('[')[0])
  images, labels, names = found.images, found.labels, found.label_names
  where = f'{found.path}: {found.inputs}'
  if images.ndim < 2 or not len(images):
    raise UsageError(
      f'{where} are {images.dtype} {list(images.shape)}; expected an example '
      'or more'
    )
  if images.ndim == 4:
    first, _, last = images.shape[1:]
    if last not in _CHANNELS and first in _CHANNELS:
      raise UsageError(
        f'{where} are {images.dtype} {list(images.shape)}; expected channels '
        'last, as np.moveaxis(images, 1, -1) gives'
      )
  if labels.ndim == 2 and labels.shape[1] == 1:
    labels = labels[:, 0]
  if labels.shape != images.shape[:1] or labels.dtype.kind not in 'iu':
    raise UsageError(
      f'{found.path}: {found.targets} are {labels.dtype} {list(labels.shape)}; '
      f'expected integers [{len(images)}]'
    )
  K = num_classes or len(names or ()) or found.largest + 1
  name = f'{found.path}/{split}'
  rows: Any = slice_of(split, len(images))
  kept: tuple[str, ...] = ()
  if found.undivided:
    part = functools.partial(
      rows_of_part, labels, held_out=held_out, seed=split_seed
    )
    rows = part(split)
    if not split.startswith('all'):
      kept = tuple(map(str, part('test')))
  if not labels[rows].size:
    raise UsageError(f'{name} has no examples')
  if images.ndim == 2 or found.inputs.endswith('features'):
    return _vectors(images[rows], labels[rows], K, names, encoder, name=name)
  if kind == 'npy':
    rows = np.arange(len(images))[rows]
    return MappedSource(found.path, rows, labels, K, channels, name, kept)
  images = images[rows]
  if channels == 3 and (images.ndim == 3 or images.shape[-1] == 1):
    images = images.reshape(*images.shape[:3], 1).repeat(3, axis=-1)
  return ArraySource(
    images, labels[rows], K, label_names=names, name=name, held_out=kept
  )


class MappedSource(ArraySource):
  """Some images of an .npy file that stays on the disk; see `open_archive`."""

  in_memory = False

  def __init__(
    self,
    path: str,
    rows: np.ndarray,
    labels: np.ndarray,
    num_classes: int,
    channels: int | None,
    name: str,
    held_out: tuple[str, ...],
  ):
    self._args = path, rows, labels, num_classes, channels, name, held_out
    super().__init__(
      _load(path), labels, num_classes, name=name, held_out=held_out
    )
    self._rows = rows
    height, width, stored = self.image_shape
    self._repeats = 3 if (channels, stored) == (3, 1) else 1
    self.image_shape = height, width, stored * self._repeats

  def __reduce__(self) -> Any:
    # Other processes open the file: they must not be sent the images.
    return MappedSource, self._args

  def __len__(self) -> int:
    return len(self._rows)

  def __getitem__(self, index: int) -> Example:
    example = super().__getitem__(self._rows[index])
    image = np.repeat(example['image'], self._repeats, axis=-1)
    return {'image': image, 'label': example['label']}

  def labels(self) -> np.ndarray:
    """All labels, int32 `[N]`."""
    return super().labels()[self._rows]


def _read_npz(path: str, base: str) -> _Arrays:
  path = os.path.expanduser(path)
  before = f'{base}_'
  opened = _load(path)
  if isinstance(opened, np.ndarray):
    raise UsageError(
      f'{path} is one array; expected an npz file with {before}images and '
      f'{before}labels, or npy:IMAGES,LABELS'
    )
  with _one_line_errors(path), opened as file:
    undivided = (
      base in PARTS and 'labels' in file and f'{before}labels' not in file
    )
    if undivided:
      before = ''
    is_table = f'{before}images' not in file and f'{before}features' in file
    inputs = f'{before}{"features" if is_table else "images"}'
    targets = f'{before}labels'
    missing = [key for key in (inputs, targets) if key not in file]
    if missing:
      raise UsageError(
        f'{path} has no array {missing[0]!r}; it has '
        f'{", ".join(file.files) or "none"}'
      )
    names = file.get('class_names', None)
    return _Arrays(
      path,
      inputs,
      targets,
      file[inputs],
      file[targets],
      None if names is None else [str(n) for n in names.flat],
      _largest(file[key] for key in file.files if key.endswith('labels')),
      undivided,
    )


def _read_npy(paths: str, base: str) -> _Arrays:
  both = [os.path.expanduser(path) for path in paths.split(',')]
  divided = ['{split}' in path for path in both]
  if len(both) != 2 or divided[0] != divided[1]:
    raise UsageError(
      f'dataset is npy:{paths}; expected npy:IMAGES,LABELS, two files, with '
      "'{split}' in both names or neither"
    )
  path, own = (path.replace('{split}', base) for path in both)
  opened = [_load(path), _load(own)]
  for array, where in zip(opened, (path, own)):
    if not isinstance(array, np.ndarray):
      raise UsageError(f'{where} is an npz file; expected npz:FILE')
  # The classes are those of all splits.
  pattern = glob.escape(both[1]).replace(glob.escape('{split}'), '*')
  others = [_load(p) for p in glob.glob(pattern)] if divided[0] else []
  return _Arrays(
    path,
    'images',
    f'labels ({own})',
    opened[0],
    np.array(opened[1]),
    None,
    _largest([opened[1], *others]),
    not divided[0],
  )


def _largest(labels: Iterable[Any]) -> int:
  return max(
    (
      int(ids.max())
      for ids in labels
      if isinstance(ids, np.ndarray) and ids.size and ids.dtype.kind in 'iu'
    ),
    default=0,
  )


def _load(path: str) -> Any:
  """An array that stays on the disk, or an open .npz."""
  with _one_line_errors(path):
    return np.load(path, mmap_mode='r', allow_pickle=False)


@contextlib.contextmanager
def _one_line_errors(path: str) -> Iterator[None]:
  try:
    yield
  except UsageError:
    raise
  except FileNotFoundError:
    raise UsageError(f'no file {path}') from None
  except (OSError, ValueError, zipfile.BadZipFile, EOFError) as error:
    raise UsageError(
      f'{path} cannot be read as plain arrays: {one_line(error)}'
    ) from None


def _vectors(
  features: np.ndarray,
  labels: np.ndarray,
  num_classes: int,
  label_names: list[str] | None,
  encoder: Columns | None,
  *,
  name: str,
) -> ArraySource:
  if features.ndim != 2 or features.dtype.kind not in 'fiu':
    raise UsageError(
      f'{name}: features are {features.dtype} {list(features.shape)}; expected '
      'numbers [N, F]'
    )
  table = {str(i): x for i, x in enumerate(features.T.astype(np.float64))}
  if encoder is None:
    rows = np.arange(len(features))
    encoder = Columns.learned(table, rows, name=name)
  return vectors(table, labels, num_classes, label_names, encoder, name=name)
