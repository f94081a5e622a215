"""A run: a task, how it is optimised, for how long, and on which devices."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, Generic, TypeVar

import jax
import optax
from ml_collections import ConfigDict

from maxsup_jax import errors
from maxsup_jax.training import step
from maxsup_jax.training.best import parse_best
from maxsup_jax.training.durations import to_steps
from maxsup_jax.training.optimizers import make_optimizer
from maxsup_jax.training.parallel import Devices
from maxsup_jax.training.schedules import learning_rate_schedule
from maxsup_jax.training.state import TrainState, create_state
from maxsup_jax.training.task import Task

TaskT = TypeVar('TaskT', bound=Task)


@dataclasses.dataclass(frozen=True)
class Run(Generic[TaskT]):
  """What `make_run` gives. Nothing is compiled or written yet.

  Attributes:
    config: complete.
    devices: what the steps are mapped over.
    task: what is trained.
    optimizer: the optax transformation.
    learning_rate: its schedule.
    steps_per_epoch: training examples divided by the batch size, rounded down.
    total_steps: the length of training.
    log_every: steps between lines of training metrics.
    eval_every: steps between evaluations.
    checkpoint_every: steps between checkpoints.
    diagnostics_every: steps between the task's measurements; None for none.
  """

  config: ConfigDict
  devices: Devices
  task: TaskT
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

  @property
  def device_dependent(self) -> tuple[str, ...]:
    """What makes the results depend on the number of devices."""
    optimizer, found = self.config.optimizer, self.task.device_dependent
    if optimizer.sam_rho is not None and not optimizer.sam_synced:
      found += ('config.optimizer.sam_synced False',)
    return found

  def summary(self) -> str:
    """What is trained, in one line."""
    count = sum(x.size for x in jax.tree.leaves(self.shapes.params))
    made_up = ' (random, made up)' if self.task.made_up else ''
    return (
      f'{self.task.name}: {count:,} parameters; objective '
      f'{self.config.objective.name}; {self.task.train_examples:,} training '
      f'{self.task.unit}{made_up}; {self.total_steps:,} steps on '
      f'{self.devices.count} {self.devices.local[0].device_kind} device(s)'
    )

  @functools.cached_property
  def shapes(self) -> TrainState:
    """The shapes and types of the state; the model is traced only once."""
    return jax.eval_shape(self.init_state)

  def init_state(self) -> TrainState:
    """The state of step 0 with fresh weights, on one device."""
    return create_state(
      self.task.init_variables,
      self.optimizer,
      self.task.objective,
      seed=self.config.seed,
      ema=self.config.ema_decay is not None,
    )

  def first_state(self) -> TrainState:
    """The state that training starts from: that of `config.init_from`."""
    return self.task.initialized(self.init_state())

  def check_first_state(self) -> None:
    """Refuses a `config.init_from` that does not fit; computes nothing."""
    self.task.initialized(self.shapes)

  def train_step(self) -> Callable:
    """The per-device training step, see `step.make_train_step`."""
    return step.make_train_step(
      self.task,
      self.optimizer,
      self.learning_rate,
      seed=self.config.seed,
      accumulate=self.config.accumulate,
      ema_decay=self.config.ema_decay,
      ema_warmup=self.config.ema_warmup,
      loss_scale=self.config.loss_scale,
      sam_rho=self.config.optimizer.sam_rho,
      sam_synced=self.config.optimizer.sam_synced,
      sam_clip_value=self.config.optimizer.clip_value,
      train_only=self.config.optimizer.train_only,
    )

  def eval_step(self) -> Callable:
    """The per-device evaluation step, see `step.make_eval_step`."""
    return step.make_eval_step(self.task)


@dataclasses.dataclass(frozen=True)
class Lengths:
  """The durations of a configuration in steps.

  Attributes:
    steps_per_epoch: training examples divided by the batch size, rounded down.
    total: the length of training.
    in_steps: converts another field, see `durations.to_steps`.
  """

  steps_per_epoch: int
  total: int
  in_steps: Callable[..., int]

  @classmethod
  def of(cls, config: ConfigDict, steps_per_epoch: int) -> 'Lengths':
    """Reads `config.duration`."""
    in_steps = functools.partial(
      to_steps, batch_size=config.batch_size, steps_per_epoch=steps_per_epoch
    )
    total = in_steps(config.duration, field='duration')
    return cls(steps_per_epoch, total, in_steps)


def make_run(
  config: ConfigDict,
  task: TaskT,
  lengths: Lengths,
  devices: Devices,
  *,
  decay_mask: Any = None,
) -> Run[TaskT]:
  """Adds to a task how it is optimised, and for how long.

  Args:
    config: complete: it has the sections of `config.common_fields`.
    task: what is trained.
    lengths: of an epoch and of training.
    devices: what the steps are mapped over.
    decay_mask: a tree like the parameters, True where weight decay applies;
      None for everywhere.

  Raises:
    UsageError: one line about the first field that is wrong.
  """
  in_steps, schedule = lengths.in_steps, config.schedule
  peak = config.optimizer.learning_rate
  warmup = in_steps(schedule.warmup, field='schedule.warmup', minimum=0)
  milestones = [
    in_steps(m, field='schedule.milestones') for m in schedule.milestones
  ]
  with errors.within('config.schedule.'):
    learning_rate = learning_rate_schedule(
      schedule.name,
      peak,
      total_steps=lengths.total,
      warmup_steps=warmup,
      warmup_start=schedule.warmup_start,
      end=schedule.end,
      milestones=milestones,
      factor=schedule.factor,
      per=schedule.per,
      cosine_from=schedule.cosine_from,
      steps_per_epoch=lengths.steps_per_epoch,
    )
  given = {**config.optimizer, 'learning_rate': learning_rate}
  # The step ascends, and the mask says what decays.
  for field in (
    *('sam_rho', 'sam_synced', 'decay', 'decay_layers', 'train_only'),
  ):
    given.pop(field, None)
  every = {
    name: in_steps(config[name], field=name)
    for name in ('log_every', 'eval_every', 'checkpoint_every')
  }
  if config.keep_best is not None:
    parse_best(config.keep_best, task.scores)
  measures = config.diagnostics_every
  with errors.within('config.optimizer.'):
    optimizer = make_optimizer(**given, decay_mask=decay_mask)
  run = Run(
    config=config,
    devices=devices,
    task=task,
    optimizer=optimizer,
    learning_rate=learning_rate,
    steps_per_epoch=lengths.steps_per_epoch,
    total_steps=lengths.total,
    diagnostics_every=None
    if measures is None
    else in_steps(measures, field='diagnostics_every'),
    **every,
  )
  for name in config.optimizer.train_only:
    errors.one_of('config.optimizer.train_only', name, run.shapes.params)
  # It checks its own numbers: before anything is written.
  run.train_step()
  return run
