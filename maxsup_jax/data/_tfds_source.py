"""The examples of a dataset on disk, as tfds prepared it."""

import dataclasses
import operator
import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from tensorflow_datasets.proto import tf_example_pb2

from maxsup_jax.data import (
  _builders,
  _storage,
  _tfrecord,
  resizing,
  transforms,
)
from maxsup_jax.data.decoding import EncodedImage
from maxsup_jax.data.sources import Example, UndecodedExample, label_error
from maxsup_jax.errors import UsageError, one_line


class Examples:
  """Examples as tfds serialised them, parsed one by one; images stay encoded.

  Args:
    records: the serialised examples.
    features: of the dataset.
    image_key: the feature that is the image.
    label_key: the feature that is the label.
  """

  def __init__(
    self, records: Any, features: Any, image_key: str, label_key: str
  ):
    self.records, self._features = records, features
    self._image_key, self._label_key = image_key, label_key
    self._decoders = {
      key: tfds.decode.SkipDecoding()
      for key, feature in features.items()
      if isinstance(feature, tfds.features.Image)
    }
    # tfds parses all features and makes arrays of them: ten times as slow.
    label = features[label_key]
    self._plain = (
      isinstance(features[image_key], tfds.features.Image)
      and label.shape == ()
      and np.issubdtype(label.np_dtype, np.integer)
    )

  def __len__(self) -> int:
    return len(self.records)

  def __getitem__(self, index: int) -> dict[str, Any]:
    """The image, encoded or as an array, and the label, and perhaps more."""
    record = self.records[range(len(self))[index]]
    if not record:
      raise ValueError('it is empty; the file may have been cut off')
    if not self._plain:
      return self._features.deserialize_example_np(
        record, decoders=self._decoders or None
      )
    stored = tf_example_pb2.Example.FromString(record).features.feature
    for key in (self._image_key, self._label_key):
      if key not in stored:
        raise KeyError(f'it has no {key!r}')
    (image,) = stored[self._image_key].bytes_list.value
    (label,) = stored[self._label_key].int64_list.value
    return {self._image_key: image, self._label_key: label}


@dataclasses.dataclass(frozen=True)
class TfdsSource:
  """The examples of a prepared dataset, read and checked one by one.

  Attributes:
    examples: with images as they are stored, encoded; `decode` reads them.
  """

  examples: Examples | Sequence[dict[str, Any]]
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
    image = example['image']
    if isinstance(image, EncodedImage):
      image = image.decode()
    return {'image': image, 'label': example['label']}

  def undecoded(self, index: int) -> UndecodedExample:
    """An example whose image, if it is stored encoded, is still to decode."""
    index = range(len(self))[operator.index(index)]
    try:
      example = self.examples[index]
      # Examples that are files of their own say which.
      where = example.get('where', f'{self.name}: example {index}')
      image = self._fit(example[self.image_key], where)
    except UsageError:
      raise
    except Exception as error:  # Of Pillow, protobuf, ArrayRecord, ...
      raise UsageError(
        f'{self.name}: example {index} cannot be read: {one_line(error)}'
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
    self, stored: bytes | np.ndarray, where: str
  ) -> np.ndarray | EncodedImage:
    if isinstance(stored, np.ndarray):  # A tensor, or made up by tfds.
      image = stored[..., None] if stored.ndim == 2 else stored
      image = transforms.to_channels(image, self.channels)
    else:
      encoded = EncodedImage(stored, self.channels, where)
      if self.image_size is None:
        return encoded
      image = encoded.decode()
    if self.image_size is None:
      return image
    image = resizing.resize(image, self.image_size)
    return transforms.center_crop(image, self.image_size)


def examples_of(
  builder: tfds.core.DatasetBuilder,
  name: str,
  split: str,
  image_key: str,
  label_key: str,
  mock: int | None,
) -> Examples | Sequence[dict[str, Any]]:
  """The examples of a split; see `open_source` for the arguments and errors."""
  if mock is None:
    records = _records(builder, name, split)
    return Examples(records, builder.info.features, image_key, label_key)
  with tfds.testing.mock_data(num_examples=mock):
    return list(tfds.builder(name).as_data_source(str(split)))


def _records(builder: Any, name: str, split: str) -> Any:
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
      f'split is {split!r}, which gives no examples of {name}; its splits '
      f"are {', '.join(sizes)}, and slices of them, such as 'train[:90%]'"
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
  files = _storage.files_of(directory)
  paths = list(dict.fromkeys(str(i.filename) for i in instructions))
  try:
    starts = _tfrecord.record_starts(directory, paths, files)
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
        f'{name}: {path} has {count} records; dataset_info.json says {expected}'
      )
    first, last = instruction.skip, instruction.skip + instruction.take
    shards.append(_tfrecord.Shard(path, starts[path][first : last + 1]))
  return _tfrecord.Records(files, shards)
