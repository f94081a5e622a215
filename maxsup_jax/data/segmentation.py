"""Images whose every pixel has a label: pairs of files, tfds, made-up ones.

Whatever ids the files have, an example has a class in `[0, K)` for each pixel,
or 255 where it does not count. How ids become classes is a `LabelMap`.
"""

import dataclasses
import operator
import os
import re
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from maxsup_jax.data.decoding import EncodedImage, decode_ids
from maxsup_jax.data.sources import (
  IGNORED,
  SUFFIXES,
  Example,
  Source,
  slice_of,
  to_arrays,
)
from maxsup_jax.errors import UsageError, integer, one_line, within

# What the names of pairs of directories begin with.
PAIRS = 'pairs:'
# The class of ids that nobody knows, in tables.
_UNKNOWN = 254
MOST_CLASSES = 254

# The classes of Cityscapes that count, in their order, by their ids in files.
CITYSCAPES: Mapping[int, str] = {
  7: 'road',
  8: 'sidewalk',
  11: 'building',
  12: 'wall',
  13: 'fence',
  17: 'pole',
  19: 'traffic light',
  20: 'traffic sign',
  21: 'vegetation',
  22: 'terrain',
  23: 'sky',
  24: 'person',
  25: 'rider',
  26: 'car',
  27: 'truck',
  28: 'bus',
  31: 'train',
  32: 'motorcycle',
  33: 'bicycle',
}
# A file of ADEChallengeData2016 that numbers and names its 150 classes.
_ADE20K = 'objectInfo150.txt'


@dataclasses.dataclass(frozen=True, eq=False)
class LabelMap:
  """What the ids in files mean.

  Attributes:
    num_classes: the number K of classes, at most 254.
    table: uint8 `[256]`, the class of each id: below K, 255 for what does not
      count, and 254 for ids that should not be there.
    names: of the classes, or None.
    colors: uint8 `[K, 3]`, of the classes, or None.
  """

  num_classes: int
  table: np.ndarray
  names: tuple[str, ...] | None = None
  colors: np.ndarray | None = None

  @classmethod
  def numbered(
    cls,
    classes: int | Sequence[str],
    *,
    ignore: int | Sequence[int] = (),
    reduce_zero_label: bool = False,
  ) -> 'LabelMap':
    """The map of ids that are the classes themselves; 255 does not count.

    Args:
      classes: their number, or their names.
      ignore: ids that do not count either.
      reduce_zero_label: whether 0 does not count and k is the class k - 1, as
        in ADE20K.

    Examples:
      >>> LabelMap.numbered(3, ignore=11).table[[0, 2, 3, 11, 255]].tolist()
      [0, 2, 254, 255, 255]
      >>> LabelMap.numbered(3, reduce_zero_label=True).table[:5].tolist()
      [255, 0, 1, 2, 254]
    """
    names = None if isinstance(classes, int) else tuple(classes)
    K = classes if isinstance(classes, int) else len(classes)
    integer('num_classes', K, 2, MOST_CLASSES)
    table = np.full(256, _UNKNOWN, np.uint8)
    first = int(reduce_zero_label)
    table[first : first + K] = np.arange(K)
    table[IGNORED] = IGNORED
    if reduce_zero_label:
      table[0] = IGNORED
    for i in (ignore,) if isinstance(ignore, int) else ignore:
      if table[integer('ignore', i, 0, 255)] < K:
        raise UsageError(f'ignore is {i}, which is one of the {K} classes')
      table[i] = IGNORED
    return cls(K, table, names)

  @classmethod
  def of_ids(
    cls,
    names: Mapping[int, str | None],
    colors: Mapping[int, tuple[int, ...]] | None = None,
    *,
    others: int = _UNKNOWN,
  ) -> 'LabelMap':
    """The map of ids that have names.

    Args:
      names: of ids; None for what does not count. The classes are the
        different names, in the order in which they come first.
      colors: of ids.
      others: 255 if ids that have no name do not count either.

    Examples:
      >>> classes = LabelMap.of_ids({7: 'road', 8: 'kerb', 9: 'road', 0: None})
      >>> classes.names, classes.table[[0, 7, 8, 9, 10]].tolist()
      (('road', 'kerb'), [255, 0, 1, 0, 254])
    """
    known = list(dict.fromkeys(n for n in names.values() if n is not None))
    integer('the number of classes', len(known), 2, MOST_CLASSES)
    table = np.full(256, others, np.uint8)
    table[IGNORED] = IGNORED
    painted = np.zeros((len(known), 3), np.uint8)
    for i, name in reversed(list(names.items())):
      table[i] = IGNORED if name is None else known.index(name)
      if name is not None and colors:
        painted[known.index(name)] = colors[i]
    return cls(len(known), table, tuple(known), painted if colors else None)

  def classes(self, encoded: bytes, where: str) -> np.ndarray:
    """Reads a PNG of ids.

    Args:
      encoded: the contents of the file.
      where: its name, for messages.

    Returns:
      The classes, uint8 `[H, W]`.

    Raises:
      UsageError: one line that names the file, and the id where one is wrong.
    """
    try:
      ids_HW, palette = decode_ids(encoded)
    except UsageError as error:
      raise UsageError(f'{where} cannot be read: {error}') from error
    classes_HW = self.table[ids_HW]
    if (classes_HW == _UNKNOWN).any():
      wrong = int(ids_HW[classes_HW == _UNKNOWN][0])
      known = np.flatnonzero(self.table != _UNKNOWN)
      raise UsageError(
        f'{where} has the id {wrong}; expected {_ranges(known.tolist())}'
      )
    if palette is not None and self.colors is not None:
      self._check_palette(ids_HW, palette, where)
    return classes_HW

  def _check_palette(
    self, ids_HW: np.ndarray, palette: np.ndarray, where: str
  ) -> None:
    """Refuses colours that are not those of the classes of the pixels."""
    assert self.colors is not None
    for i in np.flatnonzero(np.bincount(ids_HW.ravel())):
      k = self.table[i]
      if k >= self.num_classes:
        continue
      found = palette[i].tolist() if i < len(palette) else None
      if found != self.colors[k].tolist():
        raise UsageError(
          f'the palette of {where} gives the id {i} the colour {found}; '
          f'expected {self.colors[k].tolist()}, that of the class '
          f'{(self.names or range(256))[k]!r}'
        )


def read_label_map(path: str | os.PathLike) -> LabelMap:
  """Reads a file that names ids, one a line: `ID NAME`, or `ID NAME #RRGGBB`.

  `-` for a name says that an id does not count; ids of one name are one class.
  Classes are numbered in the order in which their names come first. Empty lines
  and those that begin with # are left out. If one class has a colour, all have;
  a palette in the files must then agree with them.

  Also read is `objectInfo150.txt` of ADEChallengeData2016, whose ids are 1 to
  150 and where 0 does not count; of several names the first one is taken.

  Raises:
    UsageError: one line that names the file and the line.
  """
  path = Path(path).expanduser()
  try:
    lines = path.read_text('utf-8').splitlines()
  except (OSError, UnicodeDecodeError) as error:
    raise UsageError(f'{path} cannot be read: {one_line(error)}') from None
  if path.name == _ADE20K:
    rows = [line.split('\t') for line in lines[1:] if line.strip()]
    names = [row[-1].split(',')[0].strip() for row in rows]
    if [row[0].strip() for row in rows] != [str(i) for i in range(1, 151)]:
      raise UsageError(f'{path} does not list the ids 1 to 150')
    return LabelMap.numbered(names, reduce_zero_label=True)
  ids: dict[int, str | None] = {}
  colors: dict[int, tuple[int, ...]] = {}
  for number, line in enumerate(lines, 1):
    if not line.strip() or line.lstrip().startswith('#'):
      continue
    where = f'line {number} of {path}'
    match = re.fullmatch(r'\s*(\d{1,9})\s+(.*?)\s*(#[0-9a-fA-F]{6})?\s*', line)
    if not match or not match[2]:
      raise UsageError(
        f'{where} is {line.strip()!r}; expected ID NAME, or ID NAME #RRGGBB'
      )
    i = integer(f'the id in {where}', int(match[1]), 0, 255)
    if i in ids:
      raise UsageError(f'{where} names the id {i} a second time')
    ids[i] = None if match[2] == '-' else match[2]
    if match[3]:
      colors[i] = tuple(bytes.fromhex(match[3][1:]))
  bare = [i for i, name in ids.items() if name and i not in colors]
  if colors and bare:
    raise UsageError(f'{path} has no colour for the id {bare[0]}')
  with within(f'{path}: '):
    return LabelMap.of_ids(ids, colors)


@dataclasses.dataclass(frozen=True)
class SegmentationSource:
  """What `open_segmentation` gives.

  Attributes:
    examples: mappings with `image` and `label`, encoded, and `image_where` and
      `label_where`, their names.
    name: for messages.
    label_map: what the ids mean.
    image_shape: see `Source`.
    channels: 1, 3, or None for what is stored.
  """

  examples: Sequence[Mapping[str, Any]]
  name: str
  label_map: LabelMap
  image_shape: tuple[int, int, int] | None = None
  channels: int | None = 3

  @property
  def num_classes(self) -> int:
    """The number of classes K."""
    return self.label_map.num_classes

  @property
  def label_names(self) -> tuple[str, ...] | None:
    """Their names."""
    return self.label_map.names

  def __len__(self) -> int:
    return len(self.examples)

  def __getitem__(self, index: int) -> Example:
    example = self.examples[range(len(self))[operator.index(index)]]
    image = EncodedImage(
      example['image'], self.channels, example['image_where']
    ).decode()
    label = self.label_map.classes(example['label'], example['label_where'])
    if label.shape != image.shape[:2]:
      sizes = ['x'.join(map(str, a.shape[:2])) for a in (label, image)]
      raise UsageError(
        f'{example["label_where"]} has {sizes[0]} pixels, and '
        f'{example["image_where"]} {sizes[1]}; expected the same'
      )
    return {'image': image, 'label': label}


def open_segmentation(
  name: str,
  split: str,
  *,
  data_dir: str | os.PathLike | None = None,
  image_key: str | None = None,
  label_key: str | None = None,
  classes: str | os.PathLike | Sequence[str] | None = None,
  num_classes: int | None = None,
  ignore: int | Sequence[int] = (),
  reduce_zero_label: bool = False,
  channels: int | None = None,
  in_memory: bool = False,
  download: bool = False,
  mock: int | None = None,
) -> Source:
  """Opens one split of images with a label for each pixel.

  `pairs:PATH` is a tree of images and of PNG files of class ids, 8-bit grey or
  the indices of a palette, which belong together by their names without the
  endings. For the split `train` it has one of

  * `PATH/train/*` and `PATH/trainannot/*` (CamVid as SegNet has it);
  * `PATH/images/train/*` and `PATH/labels/train/*` or
    `PATH/annotations/train/*` (ADEChallengeData2016: splits `training` and
    `validation`);
  * `PATH/images/*` and `PATH/labels/*` or `PATH/annotations/*`, for the split
    `all`.

  What ids mean says `classes`, or else a file `PATH/classes.txt` (see
  `read_label_map`) or `PATH/objectInfo150.txt`; or else they are numbers below
  `num_classes`.

  Other names are those of tfds, as for `open_source`: `glyph_scenes` is
  embedded, and `cityscapes/semantic_segmentation` has its 19 classes.

  Args:
    name: what to open.
    split: its name, or a slice such as `train[:80%]`. The order of pairs is
      that of a checksum of their names.
    data_dir: see `open_source`.
    image_key: the feature of tfds that holds the image; None for `image`, or
      `image_left` where there is one.
    label_key: the feature that holds the ids; None for `label`, or
      `segmentation_label` where there is one.
    classes: the names of the classes 0, 1, ..., also as text with commas
      between them; or the path of a file, see `read_label_map`.
    num_classes: their number, where they have no names.
    ignore: ids, besides 255, that do not count, where the classes have numbers.
    reduce_zero_label: whether the id 0 does not count and k means class k - 1.
    channels: of the images, 1 or 3; None for 3 of pairs, and else for what is
      stored.
    in_memory: see `open_source`.
    download: see `open_source`.
    mock: give so many random images and labels, a tenth of which do not count.
      Pairs vary in size and need not exist.

  Returns:
    The source. Its examples have labels uint8 `[H, W]`: classes, or 255 for
    what does not count. Files are checked when they are read.

  Raises:
    UsageError: if there is no such split, an image has no labels or the other
      way round, or the classes are not known; while reading, one line that
      names the file, and the id if one is wrong.

  Examples:
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as path:
    ...   source = open_segmentation(
    ...     'glyph_scenes/2x3x3_32', 'train', data_dir=path, in_memory=True)
    >>> source.label_names, source[0]['label'].shape
    (('background', 'O', 'Q'), (32, 32))
  """
  if mock is not None:
    integer('mock', mock, 1)
  if channels not in (None, 1, 3):
    raise UsageError(f'channels is {channels}; expected 1, 3 or None')
  label_map: LabelMap | None = None
  if isinstance(classes, str) and ',' in classes:
    classes = [name.strip() for name in classes.split(',')]
  if isinstance(classes, str | os.PathLike):
    label_map = read_label_map(classes)
    if ignore != () or reduce_zero_label:
      raise UsageError(
        f'{classes} says what does not count; ignore and reduce_zero_label '
        'cannot'
      )
  elif classes or num_classes:
    label_map = LabelMap.numbered(
      classes or integer('num_classes', num_classes, 2, MOST_CLASSES),
      ignore=ignore,
      reduce_zero_label=reduce_zero_label,
    )
  elif ignore != () or reduce_zero_label:
    raise UsageError(
      'ignore and reduce_zero_label need classes or num_classes; else a file '
      'or the data set says what does not count'
    )
  if label_map and num_classes not in (None, label_map.num_classes):
    raise UsageError(
      f'num_classes is {num_classes}; expected {label_map.num_classes}, the '
      'number of classes'
    )
  shape: tuple[int, int, int] | None = None
  examples: Sequence[Mapping[str, Any]] = ()
  if name.startswith(PAIRS):
    root = Path(name.removeprefix(PAIRS)).expanduser()
    title, channels = f'{root}/{split}', channels or 3
    for file in ('classes.txt', _ADE20K):
      if label_map is None and (root / file).is_file():
        label_map = read_label_map(root / file)
    if label_map is None:
      raise UsageError(f'{root} has no classes.txt; set classes or num_classes')
    if mock is None:
      examples = _Pairs(root, split)
  else:
    # tfds takes long to import.
    from maxsup_jax.data import _builders, _tfds_source

    title = f'{name}/{split}'
    builder = _builders.find_builder(
      name, data_dir=data_dir, download=download, mock=mock is not None
    )
    features = builder.info.features
    image_key = _key('image_key', image_key, ('image_left', 'image'), builder)
    label_key = _key(
      'label_key', label_key, ('segmentation_label', 'label'), builder
    )
    if label_map is None:
      label_map = _known_classes(name, features[label_key])
    height, width, stored = features[image_key].shape
    channels = channels or stored
    if height and width:
      shape = (height, width, channels or 3)
    if mock is None:
      examples = _Records(
        _tfds_source.examples_of(
          builder, name, split, image_key, label_key, None
        ),
        (image_key, label_key),
        title,
      )
  if mock is not None:
    return _MadeUp(f'{title}, made up', label_map, shape, channels or 3, mock)
  source = SegmentationSource(examples, title, label_map, shape, channels)
  return to_arrays(source) if in_memory else source


def _key(
  argument: str, given: str | None, usual: Sequence[str], builder: Any
) -> str:
  """The feature that holds images or ids."""
  import tensorflow_datasets as tfds

  there = [
    key
    for key, feature in builder.info.features.items()
    if isinstance(feature, tfds.features.Image)
  ]
  for key in (given,) if given else usual:
    if key in there:
      return key
  raise UsageError(
    f'{argument} is {given!r}; expected an image of {builder.name}: '
    f'{", ".join(there) or "it has none"}'
  )


def _known_classes(name: str, feature: Any) -> LabelMap:
  """The classes that a data set of tfds knows, or that are known of it."""
  if name.startswith('cityscapes'):
    return LabelMap.of_ids(CITYSCAPES, others=IGNORED)
  known = getattr(feature, 'num_classes', None)
  if known is None:
    raise UsageError(
      f'{name} does not say how many classes there are; set classes or '
      'num_classes'
    )
  return LabelMap.numbered(getattr(feature, 'names', None) or known)


@dataclasses.dataclass(frozen=True)
class _Records(Sequence[Mapping[str, Any]]):
  """Examples of tfds, with the names that they have here."""

  records: Any
  keys: tuple[str, str]
  name: str

  def __len__(self) -> int:
    return len(self.records)

  def __getitem__(self, index: Any) -> Any:
    try:
      record = self.records[index]
    except Exception as error:  # Of protobuf, ArrayRecord, ...
      raise UsageError(
        f'{self.name}: example {index} cannot be read: {one_line(error)}'
      ) from error
    found: dict[str, Any] = {}
    for what, key in zip(('image', 'label'), self.keys):
      found[what] = record[key]
      found[f'{what}_where'] = f'the {what} of {self.name}: example {index}'
    return found


class _Pairs(Sequence[Mapping[str, Any]]):
  """The files of a split, read when they are asked for."""

  def __init__(self, root: Path, split: str):
    images, labels = _directories(root, split.partition('[')[0])
    found = {d: _by_stem(d, s) for d, s in ((images, SUFFIXES), (labels, None))}
    first, second = found[images], found[labels]
    for a, b, there in ((first, second, labels), (second, first, images)):
      if alone := sorted(a.keys() - b.keys()):
        raise UsageError(
          f'{a[alone[0]]} has no partner; expected {there / alone[0]}.*'
        )
    stems = sorted(first, key=lambda s: (zlib.crc32(s.encode()), s))
    stems = stems[slice_of(split, len(stems))]
    if not stems:
      raise UsageError(f'split is {split!r}, which gives no pairs of {root}')
    self._files = [(first[stem], second[stem]) for stem in stems]

  def __len__(self) -> int:
    return len(self._files)

  def __getitem__(self, index: Any) -> Any:
    found: dict[str, Any] = {}
    for what, path in zip(('image', 'label'), self._files[index]):
      try:
        found[what] = path.read_bytes()
      except OSError as error:
        raise UsageError(f'{path}: {error.strerror}') from None
      found[f'{what}_where'] = str(path)
    return found


def _directories(root: Path, split: str) -> tuple[Path, Path]:
  """The directories of the images and of the labels of a split."""
  part = '' if split == 'all' else split
  choices = [
    (root / 'images' / part, root / labels / part)
    for labels in ('labels', 'annotations')
  ]
  if part:
    choices.insert(0, (root / split, root / f'{split}annot'))
  for pair in choices:
    if all(directory.is_dir() for directory in pair):
      return pair
  wanted = ', or '.join(f'{a} and {b}' for a, b in choices)
  raise UsageError(f'{root} has no split {split!r}; expected {wanted}')


def _by_stem(
  directory: Path, suffixes: Sequence[str] | None
) -> dict[str, Path]:
  """The files below a directory by their names, without the endings."""
  found: dict[str, Path] = {}
  for path in sorted(directory.rglob('*')):
    if path.name.startswith('.') or not path.is_file():
      continue
    if suffixes and path.suffix.lower() not in suffixes:
      continue
    stem = str(path.relative_to(directory).with_suffix(''))
    if stem in found:
      raise UsageError(f'{found[stem]} and {path} have the same name')
    found[stem] = path
  if not found:
    raise UsageError(f'{directory} has no files; expected images')
  return found


@dataclasses.dataclass(frozen=True)
class _MadeUp:
  """Random images and labels, the same ones every time."""

  name: str
  label_map: LabelMap
  image_shape: tuple[int, int, int] | None
  channels: int
  count: int

  @property
  def num_classes(self) -> int:
    return self.label_map.num_classes

  @property
  def label_names(self) -> tuple[str, ...] | None:
    return self.label_map.names

  def __len__(self) -> int:
    return self.count

  def __getitem__(self, index: int) -> Example:
    rng = np.random.default_rng(range(self.count)[operator.index(index)])
    size = tuple(rng.integers(48, 128, 2).tolist())
    if self.image_shape:
      size = self.image_shape[:2]
    label = rng.integers(0, self.num_classes, size, np.uint8)
    label[rng.random(size, np.float32) < 0.1] = IGNORED
    image = rng.integers(0, 256, (*size, self.channels), np.uint8)
    return {'image': image, 'label': label}


def _ranges(numbers: Sequence[int]) -> str:
  """Sorted numbers as text: '0 to 10, 255'."""
  parts: list[list[int]] = []
  for n in numbers:
    if parts and parts[-1][1] == n - 1:
      parts[-1][1] = n
    else:
      parts.append([n, n])
  return ', '.join(f'{a} to {b}' if a < b else str(a) for a, b in parts)
