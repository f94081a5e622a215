"""Images, or feature vectors, and labels in one .npz, by split."""

import os
import zipfile

import numpy as np

from maxsup_jax.data.sources import ArraySource, slice_of
from maxsup_jax.data.tables import Columns, vectors
from maxsup_jax.errors import UsageError, one_line


def open_archive(
  path: str | os.PathLike,
  split: str,
  *,
  num_classes: int | None = None,
  channels: int | None = None,
  encoder: Columns | None = None,
) -> ArraySource:
  """Opens the arrays `SPLIT_images` and `SPLIT_labels` of a file.

  So MedMNIST has them, with the splits `train`, `val` and `test`. Of a file
  with `images` and `labels` alone, the split is `all`. The images are uint8
  `[N, H, W]` or `[N, H, W, C]`, the labels integers `[N]` or `[N, 1]`; K names
  may be in `class_names`. All of it is in memory.

  In place of images there may be `SPLIT_features`, numbers `[N, F]`, as in what
  `experiments.extract` writes: standardised, as the columns of a table are, NaN
  being a missing number.

  Args:
    path: of the .npz.
    split: its name, or a slice of it, such as `train[:80%]`.
    num_classes: K; by default the number of names, or one more than the largest
      label of all splits.
    channels: 3 repeats the channel of grey images.
    encoder: of features, see `tables.open_table`.

  Raises:
    UsageError: one line, which names the file and what is wrong with it.

  Examples:
    >>> import tempfile
    >>> images, labels = np.zeros((6, 8, 8), np.uint8), np.arange(6) % 3
    >>> with tempfile.TemporaryDirectory() as directory:
    ...   path = f'{directory}/mine.npz'
    ...   np.savez(path, train_images=images, train_labels=labels)
    ...   source = open_archive(path, 'train[:50%]')
    >>> len(source), source.num_classes, source.image_shape
    (3, 3, (8, 8, 1))
  """
  path = os.path.expanduser(path)
  name = split.partition('[')[0]
  before = '' if name == 'all' else f'{name}_'
  try:
    opened = np.load(path, allow_pickle=False)
    if isinstance(opened, np.ndarray):
      raise UsageError(
        f'{path} is one array; expected an npz file with {before}images and '
        f'{before}labels'
      )
    with opened as file:
      is_table = f'{before}images' not in file and f'{before}features' in file
      inputs = f'{before}{"features" if is_table else "images"}'
      missing = [k for k in (inputs, f'{before}labels') if k not in file]
      if missing:
        raise UsageError(
          f'{path} has no array {missing[0]!r}; it has '
          f'{", ".join(file.files) or "none"}'
        )
      images, labels = file[inputs], file[f'{before}labels']
      names = file.get('class_names', None)
      largest = [
        int(file[key].max())
        for key in file.files
        if key.endswith('labels')
        and file[key].size
        and file[key].dtype.kind in 'iuf'
      ]
  except FileNotFoundError:
    raise UsageError(f'no file {path}') from None
  except (OSError, ValueError, zipfile.BadZipFile, EOFError) as error:
    if isinstance(error, UsageError):
      raise
    raise UsageError(
      f'{path} cannot be read as an npz file of plain arrays: {one_line(error)}'
    ) from None
  if images.ndim < 2 or not len(images):
    raise UsageError(
      f'{path}: {inputs} are {images.dtype} {list(images.shape)}; expected an '
      'example or more'
    )
  if labels.dtype.kind not in 'iu':
    raise UsageError(
      f'{path}: {before}labels are {labels.dtype}; expected integers'
    )
  if not labels.size:
    raise UsageError(f'{path}: {before}labels are empty')
  if labels.ndim == 2 and labels.shape[1] == 1:
    labels = labels[:, 0]
  label_names = None if names is None else [str(n) for n in names.flat]
  if num_classes is None:
    num_classes = len(label_names) if label_names else max(largest) + 1
  rows = slice_of(split, len(images))
  if is_table:
    return _vectors(
      images[rows],
      labels[rows],
      num_classes,
      label_names,
      encoder,
      name=f'{path}/{split}',
    )
  if channels == 3 and (images.ndim == 3 or images.shape[-1] == 1):
    images = images.reshape(*images.shape[:3], 1).repeat(3, axis=-1)
  return ArraySource(
    images[rows],
    labels[rows],
    num_classes,
    label_names=label_names,
    name=f'{path}/{split}',
  )


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
