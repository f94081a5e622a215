"""Images in directories, one for each class."""

import operator
import os
from pathlib import Path

import numpy as np

from maxsup_jax.data.decoding import DecodingError, decode
from maxsup_jax.data.sources import Example
from maxsup_jax.errors import UsageError, one_line

SUFFIXES = ('.jpeg', '.jpg', '.png', '.webp', '.bmp')


class FolderSource:
  """The images of `PATH/CLASS/`, classes and images in sorted order.

  Args:
    path: of the directory.
    channels: see `data.open_source`.

  Attributes:
    label_names: the names of the directories.
    image_shape: that of the first image; another one is refused.

  Raises:
    UsageError: if there are no two classes, or one has no image.
  """

  def __init__(self, path: str | os.PathLike, channels: int | None = None):
    self._path, self._channels = Path(path), channels
    self.name = str(path)
    try:
      classes = sorted(p.name for p in self._path.iterdir() if p.is_dir())
    except OSError as e:
      raise UsageError(f'{path} cannot be read: {e.strerror}') from None
    if len(classes) < 2:
      raise UsageError(
        f'{path} has {len(classes)} directories; expected one for each class'
      )
    self.label_names = tuple(classes)
    self.num_classes = len(classes)
    self._files: list[str] = []
    labels: list[int] = []
    for label, name in enumerate(classes):
      files = sorted(
        f'{name}/{p.name}'
        for p in (self._path / name).iterdir()
        if p.suffix.lower() in SUFFIXES
      )
      if not files:
        raise UsageError(
          f'{self._path / name} has no image; expected {", ".join(SUFFIXES)}'
        )
      self._files += files
      labels += [label] * len(files)
    self._labels = np.array(labels, np.int32)
    self.image_shape: tuple[int, int, int] | None = None
    self.image_shape = self[0]['image'].shape

  def __len__(self) -> int:
    return len(self._files)

  def __getitem__(self, index: int) -> Example:
    index = range(len(self))[operator.index(index)]
    path = self._path / self._files[index]
    try:
      image = decode(path.read_bytes(), self._channels)
    except (OSError, DecodingError) as e:
      raise UsageError(f'{path} cannot be read: {one_line(e)}') from None
    if self.image_shape not in (None, image.shape):
      raise UsageError(
        f'{path} is {list(image.shape)}; expected {list(self.image_shape)}, as '
        'the first image'
      )
    return {'image': image, 'label': int(self._labels[index])}

  def labels(self) -> np.ndarray:
    """All labels, int32 `[N]`."""
    return self._labels.copy()
