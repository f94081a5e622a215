"""From a configuration to everything that a run needs, all of it checked."""

from typing import Any

import jax
from flax import linen as nn
from ml_collections import ConfigDict

from maxsup_jax import data, errors, losses, models
from maxsup_jax.errors import UsageError
from maxsup_jax.tasks import fused, inputs
from maxsup_jax.tasks.classification import (
  Classification,
  check_fused,
  check_vectors,
  check_votes,
)
from maxsup_jax.tasks.segmentation import Segmentation
from maxsup_jax.tasks.segmentation import check as check_segmentation
from maxsup_jax.tasks.teachers import is_stored, open_teacher, with_teacher
from maxsup_jax.tasks.translation import build_translation
from maxsup_jax.training.parallel import AXIS, Devices
from maxsup_jax.training.run import Lengths, Run, make_run

# Options of a model that have a field of their own.
_SET_ELSEWHERE = 'batch_norm_axis'


def build(
  config: ConfigDict,
  *,
  data_dir: str | None = None,
  eval_split: str | None = None,
  devices: Devices | None = None,
  training: bool = True,
  model: nn.Module | None = None,
  sources: tuple[Any, Any] | None = None,
  encoder: Any = None,
) -> Run[Any]:
  """Builds a run, and refuses a configuration that cannot be trained.

  Args:
    config: complete, see `resolve`.
    data_dir: where datasets are prepared; None for the default of tfds.
    eval_split: evaluates another split than the configuration says.
    devices: by default all devices of all processes.
    training: False if the run is only to be evaluated, which any number of
      devices can do, and for which the training images are not read.
    model: a module of your own, in place of `config.model`: of
      classification as in `models.OwnModel`, of the others with the contract
      of `maxsup_jax.models`.
    sources: the examples to train on and those to evaluate, in place of the
      splits of `config.dataset`, which is not opened then: two `data.Source`,
      or two `data.text.Pairs` of translation.
    encoder: what makes numbers of texts or of the rows of a table, if it was
      learned before: a vocabulary or `data.Columns`.

  Returns:
    The run; its `task` is a `Classification`, a `Segmentation` or a
    `Translation`, as `config.task` says.

  Raises:
    UsageError: one line about the first thing that is wrong, before anything is
      compiled or written (embedded datasets are prepared on first use).
  """
  if config.task == 'translation':
    return _fits(
      build_translation(
        config,
        data_dir=data_dir,
        eval_split=eval_split,
        devices=devices,
        training=training,
        model=model,
        sources=sources,
        vocabulary=encoder,
      )
    )
  devices = devices or Devices()
  batch_size = config.batch_size
  parts = devices.count * config.accumulate
  if training and batch_size % parts:
    times = f' times accumulate={config.accumulate}' * (config.accumulate > 1)
    raise UsageError(
      f'config.batch_size is {batch_size}; expected a multiple of the '
      f'{devices.count} devices{times}'
    )
  train_transform, eval_transform = inputs.parse_transforms(config)
  train_source, eval_source, encoder, held_out = _sources(
    config, data_dir, eval_split, training, sources, encoder
  )
  image_shape = inputs.output_shape(
    train_source, train_transform, 'train_transform'
  )
  eval_shape = inputs.output_shape(
    eval_source, eval_transform, 'eval_transform'
  )
  if len(train_source) < batch_size:
    raise UsageError(
      f'config.batch_size is {batch_size}; expected at most '
      f'{len(train_source)}, the examples of {train_source.name}'
    )
  lengths = Lengths.of(
    config, data.steps_per_epoch(len(train_source), batch_size)
  )
  K = train_source.num_classes
  wanted = config.objective.to_dict()
  with errors.within('config.'):
    in_parts = fused.take(wanted)
    objective = losses.make_objective(
      wanted,
      num_classes=K,
      steps_per_epoch=lengths.steps_per_epoch,
      epochs=-(-lengths.total // lengths.steps_per_epoch),
      axis_name=AXIS,
    )
  shared: dict[str, Any] = {
    'config': config,
    'devices': devices,
    'train_source': train_source,
    'eval_source': eval_source,
    'train_transform': train_transform,
    'eval_transform': eval_transform,
    'image_shape': image_shape,
    'eval_shape': eval_shape,
    'model': _create_model(config, K, model),
  }
  if config.task == 'segmentation':
    if in_parts:
      raise UsageError(f'{fused.REFUSED}for segmentation')
    segments = Segmentation(**shared, objective=objective)
    check_segmentation(segments, wanted, training)
    run = _fits(_make_run(segments, lengths))
    _check_sizes(run)
    return run
  teacher = None
  if 'teacher_logits' in objective.needs:
    if config.teacher is None:
      raise UsageError(
        f'config.objective: {config.objective.name!r} needs a teacher; set '
        'config.teacher to the work directory of a trained run, or to its '
        'outputs on the training split'
      )
    if not is_stored(config):
      student = Classification(**shared, objective=objective, encoder=encoder)
      teacher = open_teacher(
        config.teacher, config, K, student.form, student.files
      )
      objective = teacher.beside(objective)
  elif config.teacher is not None:
    raise UsageError(
      f'config.teacher has no effect on the objective {config.objective.name!r}'
    )
  task = Classification(
    **shared,
    objective=objective,
    teacher=teacher,
    fused=in_parts,
    encoder=encoder,
    held_out=held_out,
  )
  check_votes(task)
  check_vectors(task)
  check_fused(task)
  run = _make_run(task, lengths)
  mixing = task.mixing  # It checks its own numbers.
  if mixing.active and task.unit != 'images':
    raise UsageError(
      f'config.mixing is for images; {train_source.name} has {task.unit}'
    )
  if training:
    mixing.check(
      objective,
      name=config.objective.name,
      num_classes=K,
      batch_size=batch_size,
      device_count=devices.count,
      repeats=config.dataset.repeats,
    )
  fresh = _fits(run).shapes
  _check_sizes(run)
  if training:
    _check_training(run)
  if run.diagnostics_every:
    if 'bias' not in fresh.params.get('head', {}):
      raise UsageError(
        'config.diagnostics_every needs a linear classifier; the head of '
        f'{config.model.name!r} is not linear'
      )
    _, outputs = jax.eval_shape(task.apply, fresh.variables(), task.eval_form)
    if 'penultimate' not in outputs:
      raise UsageError(
        'config.diagnostics_every needs features; '
        f"{config.model.name!r} gives no 'penultimate'"
      )
  return run


def _make_run(task: Any, lengths: Lengths) -> Run[Any]:
  """The run of a task of images."""
  optimizer = task.config.optimizer
  return make_run(
    task.config,
    task,
    lengths,
    task.devices,
    decay_mask=models.decay_mask(
      task.model,
      (task.form,),
      optimizer.decay,
      optimizer.decay_layers,
    ),
  )


def _fits(run: Run[Any]) -> Run[Any]:
  """Refuses a model that is larger than the memory of a device."""
  with errors.within('config.model: '):
    fresh = run.shapes
  needed = sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(fresh))
  there = run.devices.memory()
  if there is not None and needed > there:
    raise UsageError(
      f'config.model: weights and optimizer need {needed / 1e9:,.1f} GB; a '
      f'device has {there / 1e9:,.1f} GB'
    )
  return run


def _sources(
  config: ConfigDict,
  data_dir: str | None,
  eval_split: str | None,
  training: bool,
  given: tuple[data.Source, data.Source] | None,
  encoder: Any,
) -> tuple[data.Source, data.Source, Any, tuple[str, ...]]:
  """The examples to train on and to evaluate, their encoder, those held out."""
  dataset = config.dataset
  eval_split = eval_split or dataset.eval_split

  def source_of(split, in_memory):
    if given is None:
      return inputs.open_split(config, split, data_dir, in_memory, encoder)
    source = given[split != dataset.train_split]
    inputs.check_channels(config, source)
    return source

  train = source_of(dataset.train_split, dataset.in_memory and training)
  encoder = getattr(train, 'encoder', None)
  held_out = getattr(train, 'held_out', ())
  if config.task == 'segmentation':
    if eval_split == dataset.train_split:
      return train, train, None, ()
    return train, source_of(eval_split, dataset.in_memory), None, ()
  if train.num_classes < 2:
    raise UsageError(
      f'{train.name} has {train.num_classes} class; expected two or more'
    )
  if training and is_stored(config):
    train = with_teacher(train, config)
  if dataset.imbalance is not None:
    train = data.LongTailedSource(train, dataset.imbalance, config.seed)
  if dataset.label_noise is not None:
    with errors.within('config.dataset.label_noise_'):
      train = data.NoisyLabels(
        train, dataset.label_noise, config.seed, dataset.label_noise_kind
      )
  if eval_split == dataset.train_split:
    # The same set under the same name: a long tail, where there is one.
    return train, train, encoder, held_out
  evaluated = source_of(eval_split, dataset.in_memory)
  if evaluated.label_names != train.label_names:
    # A split that lacks classes may number the others in its own way.
    evaluated = data.MatchedLabels(
      evaluated, train.label_names, train.num_classes
    )
  return train, evaluated, encoder, held_out


def _check_sizes(run: Run[Any]) -> None:
  """Refuses evaluation at a size that the model cannot see."""
  task = run.task
  if task.image_shape != task.eval_shape:
    try:
      jax.eval_shape(task.apply, run.shapes.variables(), task.eval_form)
    except UsageError as error:
      raise UsageError(
        f'config.dataset.eval_transform gives {list(task.eval_shape)} '
        f'images, train_transform {list(task.image_shape)}: {error}'
      ) from error


def _check_training(run: Run[Classification]) -> None:
  """Calls a module of the user's as training does, without computing."""
  task = run.task
  if not isinstance(task.model, models.OwnModel):
    return
  key = jax.random.key(0)

  def apply(variables, images):
    return task.model.apply(
      variables,
      images,
      train=not task.probes,
      mutable=['batch_stats'],
      rngs={'drop_path': key, 'dropout': key},
    )

  share = task.config.batch_size // task.devices.count // task.config.accumulate
  form = task.form.update(shape=(1, share, *task.image_shape))
  mapped = jax.vmap(apply, in_axes=(None, 0), axis_name=AXIS)
  jax.eval_shape(mapped, run.shapes.variables(), form)


def _create_model(
  config: ConfigDict, num_classes: int, given: Any
) -> nn.Module:
  segments = config.task == 'segmentation'
  if given is not None:
    # What is of this package has the contract.
    if segments or type(given).__module__.startswith('maxsup_jax.'):
      return given
    return models.checked_model(given, num_classes, type(given).__name__)
  options = config.model.to_dict()
  name = options.pop('name')
  if name in models.READERS:
    options.setdefault('frozen', config.dataset.vectors is not None)
  for others, what in (
    (models.TRANSFORMERS, 'translates'),
    (models.MODELS, 'classifies images')
    if segments
    else (models.SEGMENTERS, 'classifies pixels'),
  ):
    if name in others:
      raise UsageError(
        f'config.model.name is {name!r}, which {what}; expected a model that '
        f'classifies {"pixels" if segments else "images"}'
      )
  table = models.SEGMENTERS if segments else models.MODELS
  known = table[name].options if name in table else {}
  if _SET_ELSEWHERE in known:
    if _SET_ELSEWHERE in options:
      raise UsageError(
        f'config.model.{_SET_ELSEWHERE} cannot be set; set config.batch_norm '
        'to cross_device or per_device'
      )
    if config.batch_norm == 'cross_device':
      options[_SET_ELSEWHERE] = AXIS
  elif ':' in name and config.batch_norm == 'cross_device':
    options.setdefault(_SET_ELSEWHERE, AXIS)  # Only passed where it is taken.
  create = models.create_segmenter if segments else models.create_model
  with errors.within('config.model: '):
    return create(name, num_classes, batch_axis=AXIS, **options)
