"""The examples of a dataset on disk, as tfds prepared it."""

import dataclasses
import operator
import os
import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from maxsup_jax.data import (
  _builders,
  _record_files,
  _record_index,
  _tfrecord,
  resizing,
  transforms,
)
from maxsup_jax.data._examples import Examples
from maxsup_jax.data.decoding import DecodingError, EncodedImage
from maxsup_jax.data.sources import Example, UndecodedExample, label_error
from maxsup_jax.errors import UsageError


@dataclasses.dataclass(frozen=True)
class TfdsSource:
  """The examples of a prepared dataset, read and checked one by one.

  Attributes:
    examples: with images as they are stored, encoded; `decode` reads them.
  """

  examples: Sequence[dict[str, Any]]
  name: str
  image_key: str
  label_key: str
  num_classes: int
  label_names: tuple[str, ...] | None
  image_shape: tuple[int, int, int] | None
  image_size: int | None
  channels: int

  def __len__(self) -> int:
    return len(self.examples)

  def __getitem__(self, index: int) -> Example:
    example = self.undecoded(index)
    if isinstance(example['image'], EncodedImage):
      example['image'] = example['image'].decode()
    return example

  def undecoded(self, index: int) -> UndecodedExample:
    """An example whose image, if it is stored encoded, is still to decode."""
    index = range(len(self))[operator.index(index)]
    try:
      example = self.examples[index]
      image = self._fit(example[self.image_key], index)
    except DecodingError:
      raise
    except Exception as error:  # Of Pillow, protobuf, ArrayRecord, ...
      reason = (str(error).splitlines() or [''])[0]
      raise UsageError(
        f'{self.name}: example {index} cannot be read: {reason}'
      ) from error
    return {'image': image, 'label': self._label(index, example)}

  def labels(self) -> np.ndarray:
    """All labels, int32 `[N]`, without decoding an image."""
    return np.fromiter(
      (self._label(index, self.examples[index]) for index in range(len(self))),
      np.int32,
      len(self),
    )

  def _label(self, index: int, example: dict[str, Any]) -> int:
    label = int(example[self.label_key])
    if not 0 <= label < self.num_classes:
      raise label_error(self.name, index, label, self.num_classes)
    return label

  def _fit(
    self, stored: bytes | np.ndarray, index: int
  ) -> np.ndarray | EncodedImage:
    if isinstance(stored, np.ndarray):  # A tensor, or made up by tfds.
      image = stored[..., None] if stored.ndim == 2 else stored
      image = transforms.to_channels(image, self.channels)
    else:
      image = EncodedImage(
        stored, self.channels, f'{self.name}: example {index}'
      )
      if self.image_size is None:
        return image
      image = image.decode()
    if self.image_size is not None:
      image = resizing.resize(image, self.image_size)
      image = transforms.center_crop(image, self.image_size)
    return image


def open_split(
  name: str,
  split: str,
  *,
  data_dir: str | os.PathLike | None,
  image_key: str,
  label_key: str,
  num_classes: int | None,
  image_size: int | None,
  channels: int | None,
  download: bool,
  mock: int | None,
) -> TfdsSource:
  """Opens a split; see `open_source` for the arguments and the errors."""
  builder = _builders.find_builder(
    name, data_dir=data_dir, download=download, mock=mock is not None
  )
  features = builder.info.features
  for argument, key in (('image_key', image_key), ('label_key', label_key)):
    if key not in features:
      raise UsageError(
        f'{name} has no feature {key!r} ({argument}): it has '
        f'{", ".join(sorted(features))}'
      )
  height, width, channels = _image_shape(
    name, image_key, features[image_key], channels
  )
  if image_size is not None:
    height = width = image_size
  varies = height is None or width is None
  num_classes, label_names = _classes(
    name, label_key, features[label_key], num_classes
  )
  source = TfdsSource(
    examples=Examples(
      _records(builder, name, split), features, image_key, label_key
    )
    if mock is None
    else _mock_examples(name, split, mock),
    name=f'{name}/{split}' if mock is None else f'{name}/{split}, made up',
    image_key=image_key,
    label_key=label_key,
    num_classes=num_classes,
    label_names=label_names,
    image_shape=None if varies else (height, width, channels),
    image_size=image_size,
    channels=channels,
  )
  if label_names is None:
    # tfds promises nothing about plain integers; the labels of a ClassLabel
    # feature were checked when it was prepared.
    source.labels()
  return source


def _mock_examples(
  name: str, split: str, count: int
) -> Sequence[dict[str, Any]]:
  """Random examples in the form of a dataset that need not be on disk."""
  with tfds.testing.mock_data(num_examples=count):
    return list(tfds.builder(name).as_data_source(str(split)))


def _records(builder: Any, name: str, split: str) -> Sequence[bytes]:
  """The serialised examples of a split, its files being there."""
  split = str(split)  # Without one tfds would return all.
  tfrecord = _builders.is_tfrecord(builder)
  try:
    if tfrecord:
      # Of several formats the files of the main one would be named.
      builder.info.set_file_format(
        'tfrecord', override=True, override_if_initialized=True
      )
      instructions = builder.info.splits[split].file_instructions
      if not instructions:
        raise ValueError('no examples')
    else:
      records = builder.as_data_source(
        split, deserialize_method=tfds.decode.DeserializeMethod.RAW_BYTES
      )
      len(records)  # A slice that runs backwards fails only here.
  except (ValueError, TypeError) as error:
    sizes = [f'{s} ({i.num_examples})' for s, i in builder.info.splits.items()]
    raise UsageError(
      f'{name} has no examples for split {split!r}: its splits are '
      f"{', '.join(sizes)}, and slices of them such as 'train[:90%]'"
    ) from error
  if tfrecord:
    return _tfrecords(str(builder.data_dir), name, instructions)
  splits = builder.info.splits  # Known of every dataset that is on disk.
  for instruction in splits[split].file_instructions if splits else ():
    if not pathlib.Path(instruction.filename).exists():
      raise UsageError(
        f'{name} is incomplete: {instruction.filename} is missing'
      )
  return records


def _tfrecords(
  directory: str, name: str, instructions: Sequence[Any]
) -> _tfrecord.Records:
  """The records of TFRecord files that a split consists of."""
  files = _record_files.files_of(directory)
  paths = list(dict.fromkeys(str(i.filename) for i in instructions))
  try:
    starts = _record_index.record_starts(directory, paths, files)
  except FileNotFoundError as error:
    raise UsageError(
      f'{name} is incomplete: {error.filename} is missing'
    ) from error
  except _tfrecord.DamagedError as error:
    raise UsageError(f'{name}: {error}') from error
  shards = []
  for instruction in instructions:
    path = str(instruction.filename)
    count, expected = len(starts[path]) - 1, instruction.examples_in_shard
    if count != expected:
      raise UsageError(
        f'{name}: {path} has {count} records, but {expected} according to '
        'dataset_info.json'
      )
    first, last = instruction.skip, instruction.skip + instruction.take
    shards.append(_tfrecord.Shard(path, starts[path][first : last + 1]))
  return _tfrecord.Records(files, shards)


def _image_shape(
  name: str, key: str, feature: Any, channels: int | None
) -> tuple[int | None, int | None, int]:
  """The shape of the images as they come; None for a side that varies."""
  shape = feature.shape
  if not isinstance(shape, tuple) or len(shape) not in (2, 3):
    raise UsageError(
      f'the feature {key!r} of {name} is no image: {type(feature).__name__}'
    )
  if feature.np_dtype != np.uint8:
    raise UsageError(
      f'the images of {name} ({key!r}) are {np.dtype(feature.np_dtype)}; only '
      'uint8 is supported'
    )
  height, width, stored = (*shape, 1)[:3]
  if channels is None and stored is None:
    raise UsageError(
      f'{name} does not say how many channels its images have: set channels'
    )
  if None not in (channels, stored) and stored not in (1, channels):
    raise UsageError(
      f'the images of {name} have {stored} channels: channels={channels} is '
      'only possible for grey images'
    )
  return height, width, channels or stored


def _classes(
  name: str, key: str, feature: Any, num_classes: int | None
) -> tuple[int, tuple[str, ...] | None]:
  """The number of classes and their names, where a dataset has names."""
  if feature.shape != () or not np.issubdtype(feature.np_dtype, np.integer):
    raise UsageError(
      f'the feature {key!r} of {name} is no class, which is one integer: '
      f'{type(feature).__name__}'
    )
  known = getattr(feature, 'num_classes', None)
  if known is None and num_classes is None:
    raise UsageError(
      f'{name} does not say how many classes {key!r} has: set num_classes'
    )
  if None not in (known, num_classes) and known != num_classes:
    raise UsageError(
      f'{key!r} of {name} has {known} classes, not num_classes={num_classes}'
    )
  names = tuple(feature.names) if known is not None else None
  return known or num_classes, names
