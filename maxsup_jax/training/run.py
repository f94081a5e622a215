"""Everything that a run needs: what `setup.build` makes of a configuration."""

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import flax.linen as nn
import jax
import optax
from ml_collections import ConfigDict

from maxsup_jax import data, losses, models
from maxsup_jax.training import diagnostics, steps
from maxsup_jax.training.evaluation import shot_groups
from maxsup_jax.training.initialization import init_from, origin_of
from maxsup_jax.training.mixing import Mixing
from maxsup_jax.training.parallel import Devices
from maxsup_jax.training.state import TrainState, create_state


@dataclasses.dataclass(frozen=True)
class Run:
  """What `build` makes of a configuration. Nothing is compiled or written yet.

  Attributes:
    config: complete, see `config.resolve`.
    devices: what the steps are mapped over.
    train_source: examples of the training split, by index.
    eval_source: examples of the evaluation split, by index.
    train_transform: what is done to every training image.
    eval_transform: what is done to every image that is evaluated.
    image_shape: of the transformed training images.
    eval_shape: of the transformed images that are evaluated.
    model: a module with the contract of `maxsup_jax.models`.
    objective: what is minimised.
    optimizer: the optax transformation.
    learning_rate: its schedule.
    steps_per_epoch: training examples divided by the batch size, rounded down.
    total_steps: the length of training.
    log_every: steps between lines of training metrics.
    eval_every: steps between evaluations.
    checkpoint_every: steps between checkpoints.
    diagnostics_every: steps between measurements of neural collapse; None for
      no such measurements.
  """

  config: ConfigDict
  devices: Devices
  train_source: data.Source
  eval_source: data.Source
  train_transform: data.Transform
  eval_transform: data.Transform
  image_shape: tuple[int, int, int]
  eval_shape: tuple[int, int, int]
  model: nn.Module
  objective: losses.Objective
  optimizer: optax.GradientTransformation
  learning_rate: Callable
  steps_per_epoch: int
  total_steps: int
  log_every: int
  eval_every: int
  checkpoint_every: int
  diagnostics_every: int | None

  @property
  def mixing(self) -> Mixing:
    """How training images are mixed."""
    return Mixing(**self.config.mixing)

  @property
  def groups(self) -> dict[str, tuple[int, ...]] | None:
    """Classes with many, medium and few training examples, of a long tail."""
    if self.config.dataset.imbalance is None:
      return None
    return shot_groups(self.train_source.counts)

  @property
  def weights(self) -> tuple[str, ...]:
    """The sets of weights that are evaluated."""
    return ('raw',) if self.config.ema_decay is None else ('raw', 'ema')

  @property
  def device_dependent(self) -> tuple[str, ...]:
    """What makes the results depend on the number of devices."""
    config, optimizer = self.config, self.config.optimizer
    options = models.MODELS[config.model.name].options
    found = []
    if 'batch_norm_axis' in options and config.batch_norm == 'per_device':
      found.append("config.batch_norm 'per_device'")
    if optimizer.sam_rho is not None and not optimizer.sam_synced:
      found.append('config.optimizer.sam_synced False')
    return tuple(found)

  def summary(self) -> str:
    """What is trained, in one line."""
    params = jax.eval_shape(self.init_state).params
    made_up = ' (random, made up)' if self.config.dataset.mock else ''
    return (
      f'{self.config.model.name}: {models.count_parameters(params):,} '
      f'parameters; objective {self.config.objective.name}; '
      f'{len(self.train_source):,} training images{made_up}; '
      f'{self.total_steps:,} steps on {self.devices.count} '
      f'{self.devices.local[0].device_kind} device(s)'
    )

  def init_state(self) -> TrainState:
    """The state of step 0, on one device."""
    return create_state(
      self.model,
      self.optimizer,
      self.objective,
      image_shape=self.image_shape,
      seed=self.config.seed,
      ema=self.config.ema_decay is not None,
    )

  def first_state(self) -> TrainState:
    """The state that training starts from: that of `config.init_from`."""
    state = self.init_state()
    if self.config.init_from is None:
      return state
    return init_from(state, self.config.init_from, self.config.model)

  def origin(self) -> dict[str, Any]:
    """Where the weights of the first state come from, for `run.json`."""
    path = self.config.init_from
    return {} if path is None else {'init_from': origin_of(path)}

  def check_first_state(self) -> None:
    """Refuses a `config.init_from` that does not fit; computes nothing."""
    if self.config.init_from is not None:
      init_from(
        jax.eval_shape(self.init_state),
        self.config.init_from,
        self.config.model,
      )

  def train_step(self) -> Callable:
    """The per-device training step, see `steps.make_train_step`."""
    return steps.make_train_step(
      self.model,
      self.objective,
      self.optimizer,
      self.learning_rate,
      seed=self.config.seed,
      mean=self.config.dataset.mean,
      std=self.config.dataset.std,
      ema_decay=self.config.ema_decay,
      mixing=self.mixing,
      loss_scale=self.config.loss_scale,
      sam_rho=self.config.optimizer.sam_rho,
      sam_synced=self.config.optimizer.sam_synced,
      sam_clip_value=self.config.optimizer.clip_value,
    )

  def eval_step(self) -> Callable:
    """The per-device evaluation step, see `steps.make_eval_step`."""
    return steps.make_eval_step(
      self.model,
      self.objective,
      mean=self.config.dataset.mean,
      std=self.config.dataset.std,
      per_class=self.groups is not None,
    )

  def extract_step(self) -> Callable:
    """The per-device outputs of the model, see `steps.make_extract_step`."""
    return steps.make_extract_step(
      self.model, mean=self.config.dataset.mean, std=self.config.dataset.std
    )

  def diagnostic_passes(self) -> diagnostics.Passes:
    """The per-device passes over a split, see `diagnostics.make_passes`."""
    return diagnostics.make_passes(
      self.model, mean=self.config.dataset.mean, std=self.config.dataset.std
    )

  def train_batches(self, start_step: int) -> Iterator[data.Batch]:
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
    source: data.Source | None = None,
    *,
    transform: data.ImageTransform | None = None,
  ) -> Iterator[data.Batch]:
    """This process's part of a split, in its order, padded and masked.

    Args:
      source: the split; by default that of evaluation.
      transform: what is done to its images; by default `eval_transform`.
    """
    # Every device gets the same number of examples, padding among them.
    share = -(-self.config.eval_batch_size // self.devices.count)
    return data.eval_batches(
      self.eval_source if source is None else source,
      batch_size=share * self.devices.count,
      transform=transform or self.eval_transform,
      **self._reading,
    )

  @property
  def _reading(self) -> dict[str, Any]:
    return {
      'process_index': jax.process_index(),
      'process_count': jax.process_count(),
      'num_threads': self.config.dataset.num_threads,
      'workers': self.config.dataset.workers,
    }
