"""From a configuration to everything that a run needs, all of it checked."""

import dataclasses
import functools
from collections.abc import Callable, Iterator
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from ml_collections import ConfigDict

from maxsup_jax import data, losses, models
from maxsup_jax._errors import UsageError
from maxsup_jax.training import diagnostics, steps
from maxsup_jax.training.durations import to_steps
from maxsup_jax.training.optimizers import make_optimizer
from maxsup_jax.training.parallel import AXIS, Devices
from maxsup_jax.training.schedules import learning_rate_schedule
from maxsup_jax.training.state import TrainState, create_state


@dataclasses.dataclass(frozen=True)
class Run:
  """What `build` makes of a configuration. Nothing is compiled or written yet.

  Attributes:
    config: complete, see `config.resolve`.
    devices: what the steps are mapped over.
    train_source: examples of the training split, by index.
    eval_source: examples of the evaluation split, by index.
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
  def weights(self) -> tuple[str, ...]:
    """The sets of weights that are evaluated."""
    return ('raw',) if self.config.ema_decay is None else ('raw', 'ema')

  def summary(self) -> str:
    """What is trained, in one line."""
    params = jax.eval_shape(self.init_state).params
    return (
      f'{self.config.model.name}: {models.count_parameters(params):,} '
      f'parameters; objective {self.config.objective.name}; '
      f'{len(self.train_source):,} training images; {self.total_steps:,} steps '
      f'on {self.devices.count} {self.devices.local[0].device_kind} device(s)'
    )

  def init_state(self) -> TrainState:
    """The state of step 0, on one device."""
    return create_state(
      self.model,
      self.optimizer,
      self.objective,
      image_shape=self.train_source.image_shape,
      seed=self.config.seed,
      ema=self.config.ema_decay is not None,
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
    )

  def eval_step(self) -> Callable:
    """The per-device evaluation step, see `steps.make_eval_step`."""
    return steps.make_eval_step(
      self.model,
      self.objective,
      mean=self.config.dataset.mean,
      std=self.config.dataset.std,
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
      augment=data.Augment(**self.config.dataset.augment),
      **self._reading,
    )

  def eval_batches(
    self, source: data.Source | None = None
  ) -> Iterator[data.Batch]:
    """This process's part of a split, in its order, padded and masked.

    Args:
      source: the split; by default that of evaluation.
    """
    # Every device gets the same number of examples, padding among them.
    share = -(-self.config.eval_batch_size // self.devices.count)
    return data.eval_batches(
      self.eval_source if source is None else source,
      batch_size=share * self.devices.count,
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


def build(
  config: ConfigDict,
  *,
  data_dir: str | None = None,
  eval_split: str | None = None,
  devices: Devices | None = None,
  training: bool = True,
) -> Run:
  """Builds a run, and refuses a configuration that cannot be trained.

  Args:
    config: complete, see `config.resolve`.
    data_dir: where datasets are prepared; None for the default of tfds.
    eval_split: evaluates another split than the configuration says.
    devices: by default all devices of all processes.
    training: False if the run is only to be evaluated, which any number of
      devices can do, and for which the training images are not read.

  Returns:
    The run.

  Raises:
    UsageError: one line about the first thing that is wrong, before anything is
      compiled or written (embedded datasets are prepared on first use).
  """
  devices = devices or Devices()
  batch_size = config.batch_size
  if training and batch_size % devices.count:
    raise UsageError(
      f'config.batch_size is {batch_size}; expected a multiple of the '
      f'{devices.count} devices'
    )
  in_memory = config.dataset.in_memory
  train_source = _open_split(
    config, config.dataset.train_split, data_dir, in_memory and training
  )
  eval_source = _open_split(
    config, eval_split or config.dataset.eval_split, data_dir, in_memory
  )
  if len(train_source) < batch_size:
    raise UsageError(
      f'config.batch_size is {batch_size}; {train_source.name} has only '
      f'{len(train_source)} examples'
    )
  steps_per_epoch = data.steps_per_epoch(len(train_source), batch_size)

  in_steps = functools.partial(
    to_steps, batch_size=batch_size, steps_per_epoch=steps_per_epoch
  )
  total_steps = in_steps(config.duration, field='duration')
  schedule = config.schedule
  learning_rate = learning_rate_schedule(
    schedule.name,
    config.optimizer.learning_rate,
    total_steps=total_steps,
    warmup_steps=in_steps(schedule.warmup, field='schedule.warmup', minimum=0),
    warmup_start=schedule.warmup_start,
    end=schedule.end,
    milestones=[
      in_steps(m, field='schedule.milestones') for m in schedule.milestones
    ],
    factor=schedule.factor,
  )
  objective = losses.make_objective(
    config.objective.to_dict(),
    num_classes=train_source.num_classes,
    steps_per_epoch=steps_per_epoch,
    epochs=-(-total_steps // steps_per_epoch),
    axis_name=AXIS,
  )
  model = _create_model(config, train_source.num_classes)
  _check_needs(config, objective, model, train_source.image_shape)
  optimizer = make_optimizer(
    **{**config.optimizer, 'learning_rate': learning_rate},
    decay_mask=models.decay_mask(model, (1, *train_source.image_shape)),
  )
  return Run(
    config=config,
    devices=devices,
    train_source=train_source,
    eval_source=eval_source,
    model=model,
    objective=objective,
    optimizer=optimizer,
    learning_rate=learning_rate,
    steps_per_epoch=steps_per_epoch,
    total_steps=total_steps,
    log_every=in_steps(config.log_every, field='log_every'),
    eval_every=in_steps(config.eval_every, field='eval_every'),
    checkpoint_every=in_steps(
      config.checkpoint_every, field='checkpoint_every'
    ),
    diagnostics_every=None
    if config.diagnostics_every is None
    else in_steps(config.diagnostics_every, field='diagnostics_every'),
  )


def _open_split(
  config: ConfigDict, split: str, data_dir: str | None, in_memory: bool
) -> data.Source:
  dataset = config.dataset
  data.Augment(**dataset.augment)
  for field in ('num_threads', 'workers'):
    if (dataset[field] or 0) < 0:
      raise UsageError(
        f'config.dataset.{field} is {dataset[field]}; expected 0 or more'
      )
  source = data.open_source(
    dataset.name,
    split,
    data_dir=data_dir,
    image_key=dataset.image_key,
    label_key=dataset.label_key,
    num_classes=dataset.num_classes,
    image_size=dataset.image_size,
    channels=dataset.channels,
    in_memory=in_memory,
  )
  # Labels are checked as they are read: see at once if all of them are wrong,
  # as where a test split has none.
  source[0]
  if source.image_shape is None:
    raise UsageError(
      f'the images of {source.name} differ in size; set '
      'config.dataset.image_size'
    )
  for field in ('mean', 'std'):
    if len(dataset[field]) not in (1, source.image_shape[-1]):
      raise UsageError(
        f'config.dataset.{field} has {len(dataset[field])} numbers; the images '
        f'of {source.name} have {source.image_shape[-1]} channels'
      )
  return source


def _check_needs(
  config: ConfigDict,
  objective: losses.Objective,
  model: nn.Module,
  image_shape: tuple[int, ...],
) -> None:
  """Refuses an objective that needs what the steps cannot give it."""
  if 'teacher_logits' in objective.needs:
    raise UsageError(
      f'objective: {config.objective.name!r} needs the logits of a teacher, '
      'which the training program does not have; apply it in a step of your own'
    )
  if 'votes' in objective.needs:
    image = jnp.zeros((1, *image_shape))
    (_, outputs), _ = jax.eval_shape(
      lambda: model.init_with_output(jax.random.key(0), image, train=False)
    )
    if 'feature_map' not in outputs:
      raise UsageError(
        f"objective: ranking 'votes' needs a model with a feature map, which "
        f'{config.model.name!r} is not'
      )


def _create_model(config: ConfigDict, num_classes: int) -> nn.Module:
  options = config.model.to_dict()
  name = options.pop('name')
  known = models.MODELS[name].options if name in models.MODELS else {}
  if 'batch_norm_axis' in known:
    if 'batch_norm_axis' in options:
      raise UsageError(
        'config.model.batch_norm_axis is set by config.batch_norm, '
        'cross_device or per_device'
      )
    if config.batch_norm == 'cross_device':
      options['batch_norm_axis'] = AXIS
  return models.create_model(name, num_classes, batch_axis=AXIS, **options)
