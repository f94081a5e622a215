"""Sources: random access to the labelled images of one split."""

import contextlib
import re
import unicodedata
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NotRequired, Protocol, TypedDict

import numpy as np

from maxsup_jax.data.decoding import EncodedImage
from maxsup_jax.errors import UsageError

# The label of pixels that do not count.
IGNORED = 255

# How the names of files of images end.
SUFFIXES = ('.bmp', '.gif', '.jpeg', '.jpg', '.png', '.webp')


class Example(TypedDict):
  """One labelled image, or what there is in its place.

  Attributes:
    image: uint8 `[H, W, C]`; of a row of a table its features, float32 `[F]`;
      of a text the ids of its tokens, int32 `[T]`, 0 where it has ended.
    label: the class, in `[0, K)`; or the class of each pixel, uint8 `[H, W]`,
      255 for those that do not count.
    teacher_logits: float32 `[K]`, of a `TaughtSource`.
  """

  image: np.ndarray
  label: Any
  teacher_logits: NotRequired[np.ndarray]


class UndecodedExample(TypedDict):
  """One labelled image that may still be encoded."""

  image: np.ndarray | EncodedImage
  label: int
  teacher_logits: NotRequired[np.ndarray]


class Source(Protocol):
  """What the pipelines need to know about a split.

  More attributes are optional: a method `undecoded(index)`, which gives an
  example whose image is not decoded yet, so that transforms that need a part of
  it decode no more; `labels()`, all labels, int32 `[N]`, which need not read
  the images; `in_memory`, True where reading takes no time; `encoder`, what
  made the numbers of a table or a text, see `tables.Columns`; and `held_out`,
  the names of the examples that a share of an undivided set is without.
  """

  @property
  def name(self) -> str:
    """For messages, such as `'digits/train'`."""

  @property
  def num_classes(self) -> int:
    """The number of classes K."""

  @property
  def label_names(self) -> tuple[str, ...] | None:
    """The K names of the classes, or None if they have none."""

  @property
  def image_shape(self) -> tuple[int, ...] | None:
    """`(H, W, C)` of every image; None for H and W that vary."""

  def __len__(self) -> int:
    """The number of examples N."""

  def __getitem__(self, index: int) -> Example:
    """The example at an index in `[-N, N)`; IndexError outside."""


def all_labels(source: Source) -> np.ndarray:
  """All labels of a source, int32 `[N]`."""
  if hasattr(source, 'labels'):
    return np.asarray(source.labels(), np.int32)
  return np.array([source[i]['label'] for i in range(len(source))], np.int32)


def slice_of(split: str, count: int) -> slice:
  """The part of a split that a text such as 'train[:80%]' names."""
  match = re.fullmatch(r'[^\[]+(?:\[(\d+%?)?:(\d+%?)?\])?', split)
  if not match:
    raise UsageError(
      f"split is {split!r}; expected a name, or a slice such as 'train[:80%]'"
    )

  def edge(text: str | None) -> int | None:
    if text is None:
      return None
    number = int(text.rstrip('%'))
    return round(number * count / 100) if text.endswith('%') else number

  return slice(edge(match[1]), edge(match[2]))


def check_spellings(where: str, names: Iterable[str]) -> None:
  """Refuses classes that differ in case or in the form of accents alone."""
  seen: dict[str, str] = {}
  for name in names:
    first = seen.setdefault(unicodedata.normalize('NFC', name).casefold(), name)
    if first != name:
      raise UsageError(
        f'{where} has {first!r} and {name!r}, two spellings of one class'
      )


class ArraySource:
  """Images, feature vectors or texts, and labels, in memory.

  Args:
    images: uint8 `[N, H, W, C]`, or `[N, H, W]` for grey images; or vectors,
      float32 `[N, F]`; or ids of tokens, int32 `[N, T]`. Not copied.
    labels: integers `[N]` in `[0, num_classes)`; or, of each pixel, uint8
      `[N, H, W]`, 255 for those that do not count.
    num_classes: the number of classes K.
    label_names: their names.
    name: what messages call this source.
    encoder: what made the vectors or ids, see `tables.Columns`.
    held_out: see `Source`.

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
    encoder: Any = None,
    held_out: Sequence[str] = (),
  ):
    images, labels = np.asarray(images), np.asarray(labels)
    if images.ndim == 3:
      images = images[..., None]
    kinds = {2: (np.float32, np.int32), 4: (np.uint8,)}.get(images.ndim, ())
    if images.dtype not in kinds:
      raise UsageError(
        f'{name}: images are {images.dtype} {list(images.shape)}; expected '
        'uint8 [N, H, W, C], vectors float32 [N, F], or tokens int32 [N, T]'
      )
    per_pixel = labels.ndim == 3 and labels.dtype == np.uint8
    if labels.shape != images.shape[: 3 if per_pixel else 1] or (
      labels.dtype.kind not in 'iu'
    ):
      raise UsageError(
        f'{name}: labels are {labels.dtype} {list(labels.shape)}; expected '
        f'integers [{len(images)}], or uint8 {list(images.shape[:3])}'
      )
    bad = (labels < 0) | (labels >= num_classes)
    if per_pixel:
      bad &= labels != IGNORED
    if bad.any():
      index = np.argwhere(bad)[0]
      raise label_error(name, index[0], labels[tuple(index)], num_classes)
    self.name = name
    self.num_classes = num_classes
    self.label_names = None if label_names is None else tuple(label_names)
    self.image_shape: tuple[int, ...] = images.shape[1:]
    self.encoder, self.held_out = encoder, tuple(held_out)
    self._images_NHWC = images.view()
    self._images_NHWC.flags.writeable = False  # Examples are views of it.
    self._labels_N = labels if per_pixel else labels.astype(np.int32)

  def __len__(self) -> int:
    """The number of examples."""
    return len(self._labels_N)

  def __getitem__(self, index: int) -> Example:
    """One example; its image is a read-only view."""
    label = self._labels_N[index]
    return {
      'image': self._images_NHWC[index],
      'label': label if label.ndim else int(label),
    }

  def labels(self) -> np.ndarray:
    """All labels, int32 `[N]` or uint8 `[N, H, W]`."""
    return self._labels_N.copy()


# So many in a row that cannot be read are no accident.
TRIES = 100


def first_readable(source: Source) -> Any:
  """The first example that can be read: what the others look like.

  Raises:
    UsageError: that of the first one, if none of the first `TRIES` can be.
  """
  try:
    return source[0]
  except UsageError:
    for index in range(1, min(TRIES, len(source))):
      with contextlib.suppress(UsageError):
        return source[index]
    raise


def to_arrays(source: Source) -> ArraySource:
  """Reads a whole source, of images of one shape, into memory.

  Raises:
    UsageError: if the images differ in shape, or a label is out of range.

  Examples:
    >>> source = ArraySource(np.zeros((3, 8, 8), np.uint8), [0, 1, 0], 2)
    >>> len(to_arrays(source))
    3
  """
  first = source[0]
  shape = first['image'].shape
  images_NHWC = np.empty((len(source), *shape), first['image'].dtype)
  per_pixel = np.ndim(first['label']) > 0
  labels_N = np.empty(
    (len(source), *np.shape(first['label'])),
    np.uint8 if per_pixel else np.int32,
  )
  for index in range(len(source)):
    example = source[index]
    if example['image'].shape != shape:
      raise UsageError(
        f'{source.name}: in_memory needs images of one shape; example 0 is '
        f'{list(shape)}, example {index} is {list(example["image"].shape)}: '
        'set image_size'
      )
    images_NHWC[index] = example['image']
    labels_N[index] = example['label']
  return ArraySource(
    images_NHWC,
    labels_N,
    source.num_classes,
    label_names=source.label_names,
    name=source.name,
    held_out=getattr(source, 'held_out', ()),
  )


def label_error(
  name: str, index: int, label: int, num_classes: int
) -> UsageError:
  """The error for an example whose label is out of range."""
  return UsageError(
    f'{name}: the label of example {index} is {label}; expected at least 0 '
    f'and below {num_classes}'
  )


class AugmentedSource:
  """A source whose example `i * count + j` is augmentation j of an example.

  The pixels depend on the seed, the example's index and j alone.

  Args:
    source: the examples.
    indices: which of them, as many as there shall be groups.
    count: augmentations of each.
    transform: a function of an image and a NumPy generator, such as
      `parse_transform` gives.
    seed: at least 0.

  Examples:
    >>> from maxsup_jax.data import parse_transform
    >>> images, labels = np.zeros((10, 8, 8, 1), np.uint8), np.arange(10)
    >>> source = ArraySource(images, labels, num_classes=10)
    >>> shift = parse_transform('pad_and_crop(1)')
    >>> twice = AugmentedSource(source, [7, 3], 2, shift, seed=0)
    >>> [int(twice[i]['label']) for i in range(len(twice))]
    [7, 7, 3, 3]
  """

  def __init__(
    self,
    source: Source,
    indices: Sequence[int],
    count: int,
    transform: Callable[[np.ndarray, np.random.Generator], np.ndarray],
    seed: int,
  ):
    self.name = f'{source.name}, augmented'
    self.num_classes = source.num_classes
    self.label_names = source.label_names
    # The transform may change it.
    self.image_shape: tuple[int, ...] | None = None
    self._source, self._indices = source, indices
    self._count, self._transform, self._seed = count, transform, seed

  def __len__(self) -> int:
    return len(self._indices) * self._count

  def __getitem__(self, index: int) -> Example:
    group, number = divmod(range(len(self))[index], self._count)
    original = int(self._indices[group])
    example = self._source[original]
    rng = np.random.default_rng((self._seed, original, number))
    return {**example, 'image': self._transform(example['image'], rng)}

  def labels(self) -> np.ndarray:
    """All labels, int32 `[N]`."""
    return np.repeat(
      all_labels(self._source)[np.asarray(self._indices)], self._count
    )
