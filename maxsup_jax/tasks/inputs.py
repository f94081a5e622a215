"""From a configuration to the splits of a dataset and their transforms."""

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from maxsup_jax import data
from maxsup_jax.data import reading
from maxsup_jax.data.pipeline import ON_ERROR
from maxsup_jax.errors import UsageError, integer, one_of


def parse_transforms(
  config: ConfigDict,
) -> tuple[data.Transform, data.Transform]:
  """The transforms of training images and of evaluation images.

  Bytes are normalised on the device, floats pass as they are. So either both
  transforms give bytes, or both give floats that are standardised.

  Raises:
    UsageError: for a transform that cannot be parsed, a random one for
      evaluation, or pixels of different scales.
  """
  dataset = config.dataset
  transforms = []
  fields = ('train_transform', 'eval_transform')
  for field in fields:
    try:
      transforms.append(
        data.parse_transform(
          dataset[field],
          mean=dataset.mean,
          std=dataset.std,
          labels=config.task == 'segmentation',
        )
      )
    except UsageError as error:
      raise UsageError(f'config.dataset.{field}: {error}') from error
  if transforms[1].random:
    raise UsageError(
      f'config.dataset.eval_transform is {dataset.eval_transform!r}, which '
      'is random; evaluation needs one that is not'
    )
  for field, transform in zip(fields, transforms):
    if transform.gives_floats and not transform.standardizes:
      raise UsageError(
        f'config.dataset.{field} is {dataset[field]!r}, which makes floats '
        "but does not normalise them; add '| standardize'"
      )
  if transforms[0].gives_floats != transforms[1].gives_floats:
    with_it, without = fields if transforms[0].gives_floats else fields[::-1]
    raise UsageError(
      f'config.dataset.{with_it} standardises images and {without} does not, '
      "so training and evaluation would differ; add '| standardize' to the "
      'latter'
    )
  train, evaluation = transforms
  return train, evaluation


def open_split(
  config: ConfigDict,
  split: str,
  data_dir: str | None,
  in_memory: bool,
  encoder: Any = None,
) -> data.Source:
  """Opens a split of `config.dataset`.

  Args:
    config: complete.
    split: its name, or a slice.
    data_dir: where datasets are prepared; None for the default of tfds.
    in_memory: whether to decode all of it now.
    encoder: of other examples of the same run, see `open_source`.

  Raises:
    UsageError: if there is no such split, or its images are not what the
      configuration expects.
  """
  dataset = config.dataset
  for field, most in (
    ('num_threads', reading.MOST_THREADS),
    ('workers', reading.MOST_WORKERS),
  ):
    integer(f'config.dataset.{field}', dataset[field] or 0, 0, most)
  one_of('config.dataset.on_error', dataset.on_error, ON_ERROR)
  names = ['image_key', 'label_key', 'num_classes', 'channels']
  opener: Callable[..., data.Source] = data.open_source
  if config.task == 'segmentation':
    names += ['classes', 'ignore', 'reduce_zero_label']
    opener = data.open_segmentation
  else:
    names += ['image_size', 'held_out', 'split_seed', 'length', 'vocabulary']
    size = config.model.get('vocabulary_size')
    if dataset.length is not None:
      integer('config.model.vocabulary_size', size, 3, 2**24)
    opener = functools.partial(
      data.open_source, encoder=encoder, vocabulary_size=size
    )
  try:
    source = opener(
      dataset.name,
      split,
      data_dir=data_dir,
      in_memory=in_memory,
      mock=dataset.mock,
      **{name: dataset[name] for name in names},
    )
  except UsageError as error:
    # The fields that its arguments come from.
    fields = {name: name for name in names} | {'dataset': 'name'}
    for field in ('eval_split', 'train_split'):
      if dataset[field] == split:
        fields['split'] = field
    argument, *rest = str(error).split(' ', 1)
    if argument not in fields or not rest[0].startswith('is '):
      raise
    field = f'config.dataset.{fields[argument]}'
    raise UsageError(f'{field} {rest[0]}') from error
  check_channels(config, source)
  return source


def check_channels(config: ConfigDict, source: data.Source) -> None:
  """Refuses a mean or standard deviation for another number of channels."""
  # Labels are checked as they are read: see at once if all of them are wrong,
  # as where a test split has none.
  shape = data.first_readable(source)['image'].shape
  channels = shape[-1]
  for field, neutral in (('mean', 0), ('std', 1)):
    count = len(config.dataset[field])
    if len(shape) != 3 and set(config.dataset[field]) != {neutral}:
      raise UsageError(
        f'config.dataset.{field} is {config.dataset[field]}; expected '
        f'({neutral:.1f},), as {source.name} has no images'
      )
    if count not in (1, channels):
      raise UsageError(
        f'config.dataset.{field} has {count} numbers; the images of '
        f'{source.name} have {channels} channels'
      )


def output_shape(
  source: data.Source, transform: data.Transform, field: str
) -> tuple[int, ...]:
  """The shape of all images of a split once they are transformed.

  Args:
    source: the split.
    transform: what is done to its images.
    field: of `config.dataset`, where the transform comes from.

  Returns:
    Height, width and channels; the shape as it is of what are no images.

  Raises:
    UsageError: if the images differ in shape, or cannot be transformed.
  """
  example = data.first_readable(source)
  first, labels = example['image'], np.ndim(example['label']) > 0
  if first.ndim != 3:
    if transform.operations:
      raise UsageError(
        f"config.dataset.{field} is {transform.text!r}; expected '', as "
        f'{source.name} has no images'
      )
    return first.shape
  # Where sizes vary: one tall, one wide, one smaller than most crops.
  sizes = (
    [first.shape[:2]] if source.image_shape else [(90, 40), (50, 130), (1, 2)]
  )
  shapes = []
  for size in sizes:
    image = np.zeros((*size, first.shape[-1]), np.uint8)
    try:
      rng = np.random.default_rng(0)
      if labels:
        out, _ = transform.with_labels(image, image[..., 0], rng)
      else:
        out = transform(image, rng)
    except ValueError as error:
      if not source.image_shape:
        raise UsageError(
          f'the images of {source.name} vary in size, and config.dataset.'
          f'{field} would fail for one of {size[0]}x{size[1]} ({error}); '
          + (
            "end with one size, as in 'random_crop(512) | pad(512)'"
            if labels
            else "set config.dataset.image_size, or start with 'resize(256)', "
            "'resize_exact(256)' or 'random_resized_crop(224)'"
          )
        ) from error
      raise UsageError(
        f'config.dataset.{field} fails for an image of {size[0]}x{size[1]}: '
        f'{error}'
      ) from error
    shapes.append(out.shape)
  if len(set(shapes)) > 1:
    raise UsageError(
      f'the images of {source.name} differ in size; '
      + ('' if labels else 'set config.dataset.image_size, or ')
      + f'end config.dataset.{field} with one size, as in '
      + (
        "'random_crop(512) | pad(512)'"
        if labels
        else "'resize(256) | center_crop(224)'"
      )
    )
  return shapes[0]
