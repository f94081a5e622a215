"""What the tasks of images share: the data, the weights, the batches."""

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from maxsup_jax import data, losses, models
from maxsup_jax.data.opening import FOLDER
from maxsup_jax.data.segmentation import PAIRS
from maxsup_jax.errors import UsageError
from maxsup_jax.tasks import weights
from maxsup_jax.training.parallel import Devices
from maxsup_jax.training.state import TrainState


@dataclasses.dataclass(frozen=True)
class ImageTask:
  """A model of images, its data and its objective; see `training.task`.

  Attributes:
    config: complete, see `config.resolve`.
    devices: what the steps are mapped over.
    train_source: examples of the training split, by index.
    eval_source: examples of the evaluation split, by index.
    train_transform: what is done to every training image.
    eval_transform: what is done to every image that is evaluated.
    image_shape: of the transformed training images, [H, W, C]; [F] of feature
      vectors, [T] of texts.
    eval_shape: of the transformed images that are evaluated.
    model: a module with the contract of `maxsup_jax.models`.
    objective: what is minimised.
  """

  config: ConfigDict
  devices: Devices
  train_source: data.Source
  eval_source: data.Source
  train_transform: data.Transform
  eval_transform: data.Transform
  image_shape: tuple[int, ...]
  eval_shape: tuple[int, ...]
  model: nn.Module
  objective: losses.Objective

  @property
  def name(self) -> str:
    """What the configuration calls the model, or the class of one given."""
    own = isinstance(self.model, models.OwnModel)
    return self.model.source if own else self.config.model.name

  @property
  def unit(self) -> str:
    """What examples are called."""
    if len(self.image_shape) == 3:
      return 'images'
    return 'texts' if self.form.dtype == jnp.int32 else 'rows'

  @functools.cached_property
  def form(self) -> jax.ShapeDtypeStruct:
    """One example as the model sees it in training: floats, or ids of tokens.

    Nothing else here depends on what the examples are.
    """
    dtype = jnp.float32
    if len(self.image_shape) == 1:
      stored = data.first_readable(self.train_source)['image'].dtype
      dtype = jnp.int32 if stored == np.int32 else jnp.float32
    return jax.ShapeDtypeStruct((1, *self.image_shape), dtype)

  @property
  def eval_form(self) -> jax.ShapeDtypeStruct:
    """Likewise, in evaluation."""
    return jax.ShapeDtypeStruct((1, *self.eval_shape), self.form.dtype)

  @property
  def train_name(self) -> str:
    """The training split, for messages."""
    return self.train_source.name

  @property
  def train_examples(self) -> int:
    """The size of the training split."""
    return len(self.train_source)

  @property
  def made_up(self) -> bool:
    """Whether the images are random."""
    return self.config.dataset.mock is not None

  @property
  def eval_split(self) -> str:
    """The split that is evaluated during training."""
    return self.config.dataset.eval_split

  @property
  def splits(self) -> tuple[str, ...]:
    """Those that are read; one, where they are the same."""
    dataset = self.config.dataset
    return tuple(dict.fromkeys((dataset.train_split, dataset.eval_split)))

  @property
  def device_dependent(self) -> tuple[str, ...]:
    """BatchNorm's statistics, where each device has its own."""
    known = {**models.MODELS, **models.SEGMENTERS}
    entry = known.get(self.name)
    named = entry is not None and 'batch_norm_axis' in entry.options
    if named and self.config.batch_norm == 'per_device':
      return ("config.batch_norm 'per_device'",)
    return ()

  def init_variables(self, key: jax.Array) -> dict[str, Any]:
    """Fresh parameters and statistics."""
    images = jnp.zeros(self.form.shape, self.form.dtype)
    return dict(self.model.init(key, images, train=False))

  def initialized(self, state: TrainState) -> TrainState:
    """The state with the weights of `config.init_from`."""
    path = self.config.init_from
    if path is None:
      return state
    given = self.config.init.to_dict()
    return weights.init_from(state, path, self.config.model, **given)

  def origin(self) -> dict[str, Any]:
    """What `run.json` says of `config.init_from`, `config.teacher`, classes."""
    found: dict[str, Any] = {
      name: weights.origin_of(path)
      for name in ('init_from', 'teacher')
      if (path := self.config.get(name)) is not None
    }
    if self.config.dataset.name.startswith((FOLDER, PAIRS)):
      # Their numbers are those of the directories, or of the file, there.
      found['classes'] = list(self.train_source.label_names or ())
    return found

  def normalize(self, images: jax.Array) -> jax.Array:
    """The images as the model sees them, see `normalize`."""
    dataset = self.config.dataset
    return normalize(images, dataset.mean, dataset.std)

  def apply(
    self, variables: Mapping[str, Any], images: jax.Array
  ) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Logits `[B, K]` and what led to them, in evaluation mode.

    Args:
      variables: 'params' and, where the model has them, 'batch_stats'.
      images: `[B, H, W, C]`, bytes as the pipeline gives them, or normalised
        floats; `[B, F]` or `[B, T]` where they are no images.
    """
    result: Any = self.model.apply(
      variables, self.normalize(images), train=False
    )
    return result

  def train_batches(self, start_step: int) -> data.BatchIterator:
    """This process's part of the batches from a step on."""
    return data.train_batches(
      self.train_source,
      batch_size=self.config.batch_size,
      seed=self.config.seed,
      start_step=start_step,
      transform=self.train_transform,
      repeats=self.config.dataset.repeats,
      **self._reading,
    )

  def eval_batches(
    self,
    split: str | data.Source | None = None,
    *,
    transform: data.ImageTransform | None = None,
  ) -> data.BatchIterator:
    """This process's part of a split, in its order, padded and masked.

    Args:
      split: the training split, by its name, or other examples; by default the
        split of evaluation.
      transform: what is done to the images; by default `eval_transform`.
    """
    if isinstance(split, str) and split not in self.splits:
      raise UsageError(
        f'split is {split!r}; expected {" or ".join(self.splits)} '
        '(load_run(split=...) opens others)'
      )
    trains = split == self.config.dataset.train_split
    source = self.train_source if trains else self.eval_source
    if split is not None and not isinstance(split, str):
      source = split
    # Every device gets the same number of examples, padding among them.
    batch_size = min(self.config.eval_batch_size, len(source))
    share = -(-batch_size // self.devices.count)
    return data.eval_batches(
      source,
      batch_size=share * self.devices.count,
      transform=transform or self.eval_transform,
      **self._reading,
    )

  @property
  def probes(self) -> bool:
    """Whether only the classifier on top learns."""
    return tuple(self.config.optimizer.train_only) == ('head',)

  @property
  def _reading(self) -> dict[str, Any]:
    return {
      'process_index': jax.process_index(),
      'process_count': jax.process_count(),
      'num_threads': self.config.dataset.num_threads,
      'workers': self.config.dataset.workers,
      'on_error': self.config.dataset.on_error,
    }


def normalize(
  images: jax.Array, mean: Sequence[float], std: Sequence[float]
) -> jax.Array:
  """Maps uint8 images to float32: `(images / 255 - mean) / std`.

  Floats pass through as float32; they are taken to be normalised. So do ids of
  tokens, int32, as they are.

  Args:
    images: `[..., H, W, C]`, or anything but uint8.
    mean: one number per channel, or one for all, of images in [0, 1].
    std: likewise.

  Returns:
    The shape of `images`.

  Examples:
    >>> import numpy as np
    >>> print(normalize(np.full((1, 1, 1), 255, np.uint8), (0.5,), (0.25,)))
    [[[2.]]]
  """
  if images.dtype != jnp.uint8:
    ids = jnp.issubdtype(images.dtype, jnp.integer)
    return images if ids else images.astype(jnp.float32)
  unit = images.astype(jnp.float32) / 255
  return (unit - jnp.asarray(mean, jnp.float32)) / jnp.asarray(std, jnp.float32)
