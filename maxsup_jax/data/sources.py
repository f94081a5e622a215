"""Sources: random access to the labelled images of one split.

A source has a length, gives `{'image': uint8 [H, W, C], 'label': int}` for an
index, and knows `num_classes`, `label_names`, `image_shape` and its `name`. The
pipelines take any such object; `open_source` opens the datasets of tfds, and
`ArraySource` wraps arrays.
"""

import os
from collections.abc import Sequence
from typing import Protocol, TypedDict

import numpy as np

from maxsup_jax.data.decoding import EncodedImage
from maxsup_jax.errors import UsageError


class Example(TypedDict):
  """One labelled image.

  Attributes:
    image: uint8 `[H, W, C]`.
    label: the class, in `[0, K)`.
  """

  image: np.ndarray
  label: int


class UndecodedExample(TypedDict):
  """One labelled image that may still be to decode.

  Attributes:
    image: uint8 `[H, W, C]`, or an encoded image.
    label: the class, in `[0, K)`.
  """

  image: np.ndarray | EncodedImage
  label: int


class Source(Protocol):
  """What the pipelines need to know of a split.

  A source may also have a method `undecoded(index)`, which gives the example of
  an index with an image that is not decoded yet: transforms that need a part of
  it decode no more.

  Attributes:
    name: for messages, such as `'digits/train'`.
    num_classes: the number of classes K.
    label_names: the K names of the classes, or None if they have none.
    image_shape: `(H, W, C)` of every image; None for H and W that vary.
  """

  name: str
  num_classes: int
  label_names: tuple[str, ...] | None
  image_shape: tuple[int, int, int] | None

  def __len__(self) -> int:
    """The number of examples N."""

  def __getitem__(self, index: int) -> Example:
    """The example at an index in `[-N, N)`; IndexError outside."""

  def labels(self) -> np.ndarray:
    """All labels, int32 `[N]`; needed of long-tailed splits only."""


class ArraySource:
  """Images and labels in memory.

  Attributes:
    in_memory: True; a source may say so if reading from it takes no time.

  Args:
    images: uint8 `[N, H, W, C]`, or `[N, H, W]` for grey images. Not copied.
    labels: integers `[N]` in `[0, num_classes)`.
    num_classes: the number of classes K.
    label_names: their names.
    name: what messages call this source.

  Raises:
    UsageError: for a wrong dtype or shape, or a label out of range.

  Examples:
    >>> images = np.zeros((5, 8, 8), np.uint8)
    >>> source = ArraySource(images, [0, 1, 2, 1, 0], num_classes=3)
    >>> len(source), source.image_shape, source[2]['label']
    (5, (8, 8, 1), 2)
  """

  in_memory = True

  def __init__(
    self,
    images: np.ndarray,
    labels: Sequence[int] | np.ndarray,
    num_classes: int,
    *,
    label_names: Sequence[str] | None = None,
    name: str = 'arrays',
  ):
    images, labels = np.asarray(images), np.asarray(labels)
    if images.ndim == 3:
      images = images[..., None]
    if images.ndim != 4 or images.dtype != np.uint8:
      raise UsageError(
        f'{name}: images must be uint8 [N, H, W, C], not {images.dtype} '
        f'{list(images.shape)}'
      )
    if labels.shape != images.shape[:1] or labels.dtype.kind not in 'iu':
      raise UsageError(
        f'{name}: labels must be integers [{len(images)}], not {labels.dtype} '
        f'{list(labels.shape)}'
      )
    bad = np.flatnonzero((labels < 0) | (labels >= num_classes))
    if bad.size:
      raise label_error(name, bad[0], labels[bad[0]], num_classes)
    self.name = name
    self.num_classes = num_classes
    self.label_names = None if label_names is None else tuple(label_names)
    self.image_shape = images.shape[1:]
    self._images_NHWC = images.view()
    self._images_NHWC.flags.writeable = False  # Examples are views of it.
    self._labels_N = labels.astype(np.int32)

  def __len__(self) -> int:
    """The number of examples."""
    return len(self._labels_N)

  def __getitem__(self, index: int) -> Example:
    """One example; its image is a read-only view."""
    return {
      'image': self._images_NHWC[index],
      'label': int(self._labels_N[index]),
    }

  def labels(self) -> np.ndarray:
    """All labels, int32 `[N]`."""
    return self._labels_N.copy()


def open_source(
  name: str,
  split: str,
  *,
  data_dir: str | os.PathLike | None = None,
  image_key: str = 'image',
  label_key: str = 'label',
  num_classes: int | None = None,
  image_size: int | None = None,
  channels: int | None = None,
  in_memory: bool = False,
  download: bool = False,
  mock: int | None = None,
) -> Source:
  """Opens one split of an image classification dataset.

  Embedded datasets (`digits`, `glyphs`) are generated on first use. Others
  must have been prepared by tfds, as ArrayRecord or TFRecord: nothing is
  downloaded unasked. TFRecord can be in object storage, too.

  Args:
    name: an embedded dataset, the tfds name of another (`cifar10`,
      `name/config`, `name:1.2.3`), or the path of the directory of a prepared
      version (starting with `/`, `./`, `../`, `~`, or `gs://` and its like).
    split: `train`, or a slice in the syntax of tfds, such as `train[:90%]`.
    data_dir: where the prepared datasets are, also `gs://...`; None for the
      default of tfds, `$TFDS_DATA_DIR` or `~/tensorflow_datasets`.
    image_key: the feature that holds the image.
    label_key: the feature that holds the label.
    num_classes: the number of classes, where the dataset does not say it.
    image_size: scale the shorter side of each image to this and crop the
      central square; None leaves the images as they are.
    channels: 3 repeats the channel of grey images; None keeps what there is.
    in_memory: decode the split once, now, and check every label. For what fits
      into memory this makes training much faster.
    download: prepare what is not there, with tfds (which may need TensorFlow
      for it); only one process may do so at a time.
    mock: give so many random examples in the form of the dataset, which need
      not be on disk: to try out a program. tfds must know the name.

  Returns:
    The source. Without `in_memory` a label is checked when it is read, and
    reading raises a UsageError that names the example.

  Raises:
    UsageError: if the dataset, the split or a feature does not exist or is not
      what it should be; the message is one line.

  Examples:
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as path:
    ...   source = open_source('digits', 'test', data_dir=path, in_memory=True)
    >>> len(source), source.num_classes, source.image_shape
    (355, 10, (8, 8, 1))
  """
  for argument, value in (
    ('num_classes', num_classes),
    ('image_size', image_size),
    ('channels', channels),
    ('mock', mock),
  ):
    if value is not None and value < 1:
      raise UsageError(f'{argument} must be positive, but is {value}')
  from maxsup_jax.data import _tfds_source  # tfds takes long to import.

  source = _tfds_source.open_split(
    name,
    split,
    data_dir=data_dir,
    image_key=image_key,
    label_key=label_key,
    num_classes=num_classes,
    image_size=image_size,
    channels=channels,
    download=download,
    mock=mock,
  )
  return to_arrays(source) if in_memory else source


def to_arrays(source: Source) -> ArraySource:
  """Reads a whole source into memory.

  Args:
    source: a source of images of one shape.

  Returns:
    The same examples as an `ArraySource`.

  Raises:
    UsageError: if the images differ in shape, or a label is out of range.

  Examples:
    >>> source = ArraySource(np.zeros((3, 8, 8), np.uint8), [0, 1, 0], 2)
    >>> len(to_arrays(source))
    3
  """
  shape = source[0]['image'].shape
  images_NHWC = np.empty((len(source), *shape), np.uint8)
  labels_N = np.empty(len(source), np.int32)
  for index in range(len(source)):
    example = source[index]
    if example['image'].shape != shape:
      raise UsageError(
        f'{source.name}: in_memory needs images of one shape, but example 0 is '
        f'{list(shape)} and example {index} is '
        f'{list(example["image"].shape)}: set image_size'
      )
    images_NHWC[index] = example['image']
    labels_N[index] = example['label']
  return ArraySource(
    images_NHWC,
    labels_N,
    source.num_classes,
    label_names=source.label_names,
    name=source.name,
  )


def label_error(
  name: str, index: int, label: int, num_classes: int
) -> UsageError:
  """What to tell about an example whose label is out of range."""
  return UsageError(
    f'{name}: example {index} has label {label}, outside [0, {num_classes})'
  )
