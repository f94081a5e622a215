"""Images and labels in one .npz, by split."""

import os
import zipfile

import numpy as np

from maxsup_jax.data.sources import ArraySource, slice_of
from maxsup_jax.errors import UsageError, one_line


def open_archive(
  path: str | os.PathLike,
  split: str,
  *,
  num_classes: int | None = None,
  channels: int | None = None,
) -> ArraySource:
  """Opens the arrays `SPLIT_images` and `SPLIT_labels` of a file.

  So MedMNIST has them, with the splits `train`, `val` and `test`. Of a file
  with `images` and `labels` alone, the split is `all`. The images are uint8
  `[N, H, W]` or `[N, H, W, C]`, the labels integers `[N]` or `[N, 1]`; K names
  may be in `class_names`. All of it is in memory.

  Args:
    path: of the .npz.
    split: its name, or a slice of it, such as `train[:80%]`.
    num_classes: K; by default the number of names, or one more than the largest
      label of all splits.
    channels: 3 repeats the channel of grey images.

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
    with np.load(path, allow_pickle=False) as file:
      missing = [
        key for key in (f'{before}images', f'{before}labels') if key not in file
      ]
      if missing:
        raise UsageError(
          f'{path} has no array {missing[0]!r}; it has '
          f'{", ".join(file.files) or "none"}'
        )
      images, labels = file[f'{before}images'], file[f'{before}labels']
      names = file.get('class_names', None)
      largest = [
        int(file[key].max())
        for key in file.files
        if key.endswith('labels') and file[key].size
      ]
  except FileNotFoundError:
    raise UsageError(f'no file {path}') from None
  except (OSError, ValueError, zipfile.BadZipFile, EOFError) as error:
    if isinstance(error, UsageError):
      raise
    raise UsageError(
      f'{path} cannot be read as an npz file of plain arrays: {one_line(error)}'
    ) from None
  if labels.ndim == 2 and labels.shape[1] == 1:
    labels = labels[:, 0]
  label_names = None if names is None else [str(n) for n in names.flat]
  if num_classes is None:
    num_classes = len(label_names) if label_names else max(largest) + 1
  if channels == 3 and (images.ndim == 3 or images.shape[-1] == 1):
    images = images.reshape(*images.shape[:3], 1).repeat(3, axis=-1)
  rows = slice_of(split, len(images))
  return ArraySource(
    images[rows],
    labels[rows],
    num_classes,
    label_names=label_names,
    name=f'{path}/{split}',
  )
