"""Opens the splits of datasets: embedded ones, and those that tfds prepared."""

import os
from collections.abc import Callable
from typing import Any

import numpy as np

from maxsup_jax.data import tables, texts
from maxsup_jax.data.sources import Source, to_arrays
from maxsup_jax.errors import UsageError, integer

# What the names of directories of images begin with, and of files of arrays.
FOLDER, ARCHIVES = 'folder:', ('npz:', 'npy:')


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
  length: int | None = None,
  vocabulary: str = 'words',
  vocabulary_size: int | None = None,
  held_out: float = 0.2,
  split_seed: int = 0,
  encoder: Any = None,
) -> Source:
  """Opens one split of a classification dataset.

  Embedded datasets (`digits`, `glyphs`) are generated on first use. Others
  must have been prepared by tfds, as ArrayRecord or TFRecord: nothing is
  downloaded unasked. TFRecord can be in object storage, too.

  Args:
    name: an embedded dataset, the tfds name of another (`cifar10`,
      `name/config`, `name:1.2.3`), or the path of the directory of a prepared
      version (starting with `/`, `./`, `../`, `~`, or `gs://` and its like);
      or `folder:PATH`, a directory of images, see `folder.open_folder`, or
      `npz:FILE` or `npy:IMAGES,LABELS`, arrays, see `archive.open_archive`; or
      a table, `csv:FILE`, `parquet:FILE` or `breast_cancer`, see
      `tables.open_table`; or `swapped_phrases` or `lines:TEXTS,LABELS`, see
      `texts.open_texts`.
    split: `train`, or a slice in the syntax of tfds, such as `train[:90%]`.
    data_dir: where the prepared datasets are, also `gs://...`; None for the
      default of tfds, `$TFDS_DATA_DIR` or `~/tensorflow_datasets`.
    image_key: the feature that holds the image, or the text.
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
    length: of texts: how many tokens of each are read, its end among them; see
      `texts.encoded`. None for what is no text.
    vocabulary: of texts: 'words' or 'bpe', see `text.make_vocabulary`.
    vocabulary_size: of texts: how many ids there may be.
    held_out: of what comes undivided, a table in one file, a directory of
      classes or one array: the share of each class that is for 'test', see
      `pipeline.rows_of_part`.
    split_seed: likewise.
    encoder: of tables and texts: that of the source that a model was trained
      on, for other examples of the same model. None learns it from these.

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
    if value is not None:
      integer(argument, value, 1)

  def as_texts(found, labels, classes):
    if length is None:
      raise UsageError(
        f'length is None; expected how many tokens of each text of {name} are '
        'read, such as 256'
      )
    if vocabulary_size is None and encoder is None:
      raise UsageError(
        'vocabulary_size is None; expected how many ids of tokens there are'
      )
    return texts.encoded(
      found,
      labels,
      classes,
      name=f'{name}/{split}',
      length=length,
      kind=vocabulary,
      size=vocabulary_size or 0,
      encoder=encoder,
    )

  is_table = name.startswith((tables.CSV, tables.PARQUET)) or (
    name == tables.BREAST_CANCER
  )
  is_text = texts.is_texts(name)
  if length is not None:
    given = {'mock': mock, 'image_size': image_size, 'channels': channels}
    for argument, value in given.items():
      if value is not None:
        raise UsageError(f'{argument} is {value}; {name} has texts, not images')
    if is_table or name.startswith((*ARCHIVES, FOLDER)):
      raise UsageError(f'length is {length}; {name} has no texts')
  if is_text:
    return as_texts(*texts.open_texts(name, split, num_classes))
  if is_table or name.startswith(ARCHIVES):
    given = {'mock': mock, 'image_size': image_size}
    if is_table:
      given |= {'channels': channels, 'num_classes': num_classes}
    for argument, value in given.items():
      if value is not None:
        has = 'rows, not images' if is_table else 'images of its own size'
        raise UsageError(f'{argument} is {value}; {name} has {has}')
  if is_table:
    return tables.open_table(
      name,
      split,
      label_key=label_key,
      held_out=held_out,
      split_seed=split_seed,
      encoder=encoder,
    )
  if name.startswith(FOLDER):
    from maxsup_jax.data.folder import open_folder

    if mock is not None:
      raise UsageError(f'mock is {mock}; {name} has no form to make images of')
    folder = open_folder(
      name.removeprefix(FOLDER),
      split,
      image_size=image_size,
      channels=channels,
      held_out=held_out,
      split_seed=split_seed,
    )
    return to_arrays(folder) if in_memory else folder
  if name.startswith(ARCHIVES):
    from maxsup_jax.data.archive import open_archive

    arrays = open_archive(
      name,
      split,
      num_classes=num_classes,
      channels=channels,
      held_out=held_out,
      split_seed=split_seed,
      encoder=encoder,
    )
    return to_arrays(arrays) if in_memory and not arrays.in_memory else arrays
  # tfds takes long to import.
  from maxsup_jax.data import _builders, _tfds_source

  builder = _builders.find_builder(
    name, data_dir=data_dir, download=download, mock=mock is not None
  )
  features = builder.info.features
  for argument, key in (('image_key', image_key), ('label_key', label_key)):
    if key not in features:
      raise UsageError(
        f'{argument} is {key!r}; expected a feature of {name}: '
        f'{", ".join(sorted(features))}'
      )
  if length is not None:
    return _tfds_texts(
      builder, name, split, image_key, label_key, num_classes, as_texts
    )
  height, width, channels = _image_shape(
    name, image_key, features[image_key], channels
  )
  if image_size is not None:
    height = width = image_size
  num_classes, label_names = _classes(
    name, label_key, features[label_key], num_classes
  )
  source = _tfds_source.TfdsSource(
    examples=_tfds_source.examples_of(
      builder, name, split, image_key, label_key, mock
    ),
    name=f'{name}/{split}' if mock is None else f'{name}/{split}, made up',
    image_key=image_key,
    label_key=label_key,
    num_classes=num_classes,
    label_names=label_names,
    image_shape=(height, width, channels) if height and width else None,
    image_size=image_size,
    channels=channels,
  )
  if label_names is None:
    # tfds promises nothing about plain integers; the labels of a ClassLabel
    # feature were checked when it was prepared.
    source.labels()
  return to_arrays(source) if in_memory else source


def _tfds_texts(
  builder: Any,
  name: str,
  split: str,
  text_key: str,
  label_key: str,
  num_classes: int | None,
  as_texts: Callable[..., Source],
) -> Source:
  from maxsup_jax.data import _tfds_source

  features = builder.info.features
  if features[text_key].np_dtype not in (str, object, bytes):
    raise UsageError(
      f'the feature {text_key!r} of {name} is '
      f'{type(features[text_key]).__name__}; expected a text'
    )
  count, names = _classes(name, label_key, features[label_key], num_classes)
  examples = _tfds_source.examples_of(
    builder, name, split, text_key, label_key, None
  )
  read = [examples[i] for i in range(len(examples))]
  return as_texts(
    [example[text_key].decode() for example in read],
    np.array([int(example[label_key]) for example in read], np.int32),
    names or count,
  )


def _image_shape(
  name: str, key: str, feature: Any, channels: int | None
) -> tuple[int | None, int | None, int]:
  """The shape of the images as they come; None for a side that varies."""
  shape = feature.shape
  if not isinstance(shape, tuple) or len(shape) not in (2, 3):
    raise UsageError(
      f'the feature {key!r} of {name} is {type(feature).__name__}; expected '
      'an image (or set length, if it is a text)'
    )
  if feature.np_dtype != np.uint8:
    raise UsageError(
      f'the images of {name} ({key!r}) are {np.dtype(feature.np_dtype)}; only '
      'uint8 is supported'
    )
  height, width, stored = (*shape, 1)[:3]
  channels = channels or stored
  if channels is None:
    raise UsageError(
      f'{name} does not say how many channels its images have; set channels'
    )
  if stored not in (None, 1, channels):
    raise UsageError(
      f'the images of {name} have {stored} channels: channels={channels} '
      'needs grey images'
    )
  return height, width, channels


def _classes(
  name: str, key: str, feature: Any, num_classes: int | None
) -> tuple[int, tuple[str, ...] | None]:
  """The number of classes and their names, where a dataset has names."""
  if feature.shape != () or not np.issubdtype(feature.np_dtype, np.integer):
    raise UsageError(
      f'the feature {key!r} of {name} is {type(feature).__name__}; expected '
      'a class, one integer'
    )
  known: int | None = getattr(feature, 'num_classes', None)
  if num_classes is not None and known not in (None, num_classes):
    raise UsageError(
      f'num_classes is {num_classes}; expected {known}, as many as {key!r} of '
      f'{name} has'
    )
  count = known or num_classes
  if count is None:
    raise UsageError(
      f'{name} does not say how many classes {key!r} has; set num_classes'
    )
  return count, tuple(feature.names) if known is not None else None
