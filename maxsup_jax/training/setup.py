"""From a configuration to everything that a run needs, all of it checked."""

import functools
from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from ml_collections import ConfigDict

from maxsup_jax import data, losses, models
from maxsup_jax.errors import UsageError
from maxsup_jax.training import inputs, steps
from maxsup_jax.training.durations import to_steps
from maxsup_jax.training.optimizers import make_optimizer
from maxsup_jax.training.parallel import AXIS, Devices
from maxsup_jax.training.run import Run
from maxsup_jax.training.schedules import learning_rate_schedule


def build(
  config: ConfigDict,
  *,
  data_dir: str | None = None,
  eval_split: str | None = None,
  devices: Devices | None = None,
  training: bool = True,
  sources: tuple[data.Source, data.Source] | None = None,
) -> Run:
  """Builds a run, and refuses a configuration that cannot be trained.

  Args:
    config: complete, see `config.resolve`.
    data_dir: where datasets are prepared; None for the default of tfds.
    eval_split: evaluates another split than the configuration says.
    devices: by default all devices of all processes.
    training: False if the run is only to be evaluated, which any number of
      devices can do, and for which the training images are not read.
    sources: the examples to train on and those to evaluate, in place of the
      splits of `config.dataset`, which is not opened then.

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
  train_transform, eval_transform = inputs.parse_transforms(config)
  in_memory = config.dataset.in_memory

  def source_of(split, in_memory):
    if sources is None:
      return inputs.open_split(config, split, data_dir, in_memory)
    source = sources[split != config.dataset.train_split]
    inputs.check_channels(config, source)
    return source

  train_source = source_of(config.dataset.train_split, in_memory and training)
  if config.dataset.imbalance is not None:
    train_source = data.LongTailedSource(
      train_source, config.dataset.imbalance, config.seed
    )
  eval_split = eval_split or config.dataset.eval_split
  if eval_split == config.dataset.train_split:
    # The same set under the same name: a long tail, where there is one.
    eval_source = train_source
  else:
    eval_source = source_of(eval_split, in_memory)
  image_shape = inputs.output_shape(
    train_source, train_transform, 'train_transform'
  )
  eval_shape = inputs.output_shape(
    eval_source, eval_transform, 'eval_transform'
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
    per=schedule.per,
    cosine_from=schedule.cosine_from,
    steps_per_epoch=steps_per_epoch,
  )
  objective = losses.make_objective(
    config.objective.to_dict(),
    num_classes=train_source.num_classes,
    steps_per_epoch=steps_per_epoch,
    epochs=-(-total_steps // steps_per_epoch),
    axis_name=AXIS,
  )
  model = _create_model(config, train_source.num_classes)
  _check_needs(config, objective, model, image_shape)
  _check_sizes(model, image_shape, eval_shape)
  run = Run(
    config=config,
    devices=devices,
    train_source=train_source,
    eval_source=eval_source,
    train_transform=train_transform,
    eval_transform=eval_transform,
    image_shape=image_shape,
    eval_shape=eval_shape,
    model=model,
    objective=objective,
    optimizer=_make_optimizer(config, model, learning_rate, image_shape),
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
  if training:
    run.mixing.check(
      objective,
      name=config.objective.name,
      num_classes=train_source.num_classes,
      batch_size=batch_size,
      device_count=devices.count,
      repeats=config.dataset.repeats,
    )
  fresh = jax.eval_shape(run.init_state)
  if run.diagnostics_every and 'bias' not in fresh.params['head']:
    raise UsageError(
      f'config.diagnostics_every needs a linear classifier, which the head of '
      f'{config.model.name!r} is not'
    )
  return run


def _check_sizes(
  model: nn.Module,
  image_shape: tuple[int, int, int],
  eval_shape: tuple[int, int, int],
) -> None:
  """Refuses evaluation at a size that the model cannot see."""

  def run():
    variables = model.init(
      jax.random.key(0), jnp.zeros((1, *image_shape)), train=False
    )
    return model.apply(variables, jnp.zeros((1, *eval_shape)), train=False)

  if image_shape != eval_shape:
    try:
      jax.eval_shape(run)
    except UsageError as error:
      raise UsageError(
        f'config.dataset.eval_transform gives images of {list(eval_shape)}, '
        f'train_transform of {list(image_shape)}: {error}'
      ) from error


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
    (_, outputs), variables = jax.eval_shape(
      lambda: model.init_with_output(jax.random.key(0), image, train=False)
    )
    if 'feature_map' not in outputs:
      raise UsageError(
        f"objective: ranking 'votes' needs a model with a feature map, which "
        f'{config.model.name!r} is not'
      )
    steps.check_votes(variables['params'])
    channels = outputs['feature_map'].shape[-1]
    if channels != outputs['penultimate'].shape[-1]:
      raise UsageError(
        f"objective: ranking 'votes' applies the classifier at every position; "
        f'the one of {config.model.name!r} is not for the {channels} channels '
        'of its feature map'
      )


def _make_optimizer(
  config: ConfigDict,
  model: nn.Module,
  learning_rate: Callable,
  image_shape: tuple[int, ...],
) -> optax.GradientTransformation:
  given = {**config.optimizer, 'learning_rate': learning_rate}
  for field in ('sam_rho', 'sam_synced'):  # The step ascends, not this.
    given.pop(field)
  mask = models.decay_mask(
    model, (1, *image_shape), given.pop('decay'), given.pop('decay_layers')
  )
  return make_optimizer(**given, decay_mask=mask)


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
