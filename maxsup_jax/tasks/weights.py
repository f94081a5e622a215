"""The weights of runs, and training that starts from them or from a file."""

import dataclasses
import hashlib
import math
import os
from collections.abc import Mapping
from typing import Any

import flax
import jax
import jax.numpy as jnp
import numpy as np

from maxsup_jax import errors
from maxsup_jax.errors import UsageError
from maxsup_jax.models import (
  MODELS,
  SEGMENTERS,
  create_model,
  create_segmenter,
  resampling,
  torch_weights,
)
from maxsup_jax.tasks.config import check_task, open_workdir
from maxsup_jax.training.best import best_step
from maxsup_jax.training.checkpoints import Checkpoints
from maxsup_jax.training.state import TrainState
from maxsup_jax.training.workdir import Workdir

# What every model calls its classifier.
_HEAD = 'head'
# What depends on the number of classes.
_HEADS = f'{_HEAD}/', f'auxiliary_head/{_HEAD}/'


# Fields of config.model that leave the weights and what they compute alone.
_FREE = (
  'dtype',
  'drop_path',
  'dropout',
  'head_dropout',
  'zero_init_residual',
  'batch_norm_axis',
)


# Fields of a classifier that do not show in its features at evaluation, and of
# every module.
_NOT_IN_BACKBONES = (
  *_FREE,
  'num_classes',
  'batch_axis',
  'batch_norm_momentum',
  'parent',
  'name',
)


def load_variables(
  directory: Workdir,
  step: int | str | None = None,
  weights: str = 'raw',
  task: str = 'classification',
) -> tuple[int, dict[str, Any]]:
  """The weights of a run alone, without its dataset.

  Args:
    directory: of the run.
    step: likewise, see `load_run`.
    weights: likewise.
    task: what the run must be of.

  Returns:
    The step, and 'params' and 'batch_stats', host arrays.

  Raises:
    UsageError: as `load_run`.
  """
  config = directory.config()
  check_task(config, task)
  check_weights(directory, config, weights)
  names = ('ema',) if weights == 'ema' else ('params', 'batch_stats')
  with Checkpoints(directory.checkpoints) as checkpoints:
    step = chosen_step(directory, checkpoints, step)
    found = checkpoints.restore_part(step, names)
  found = found['ema'] if weights == 'ema' else found
  check_finite(f'step {step} of {directory.path}', found)
  return step, {name: tree or {} for name, tree in found.items()}


def chosen_step(
  directory: Workdir, checkpoints: Checkpoints, step: int | str | None
) -> int:
  """The step that `load_run` is asked for.

  Raises:
    UsageError: if there is no checkpoint, or none is known to be the best.
  """
  if isinstance(step, str):
    if step.isdecimal():
      return checkpoints.chosen(int(step))
    errors.one_of('step', step, ('latest', 'best'))
  if step != 'best':
    return checkpoints.chosen(None if isinstance(step, str) else step)
  rule = directory.config().keep_best
  if rule is None:
    raise UsageError(
      f"step is 'best', but the run in {directory.path} keeps no best "
      'checkpoint (its config.keep_best is None)'
    )
  found = best_step(rule, directory.metrics(), checkpoints.steps())
  if found is None:
    raise UsageError(
      f"step is 'best', but no checkpoint of {directory.path} was evaluated"
    )
  return checkpoints.chosen(found)


def head_of(directory: Workdir, variables: Any) -> Any:
  """The classifier's weights; refuses a model without such a layer."""
  head = variables['params'].get(_HEAD, {})
  if not isinstance(head, Mapping) or 'kernel' not in head:
    raise UsageError(
      f'the model of {directory.path} has no linear layer {_HEAD!r}, which is '
      'needed here'
    )
  return head


def check_finite(there: str, variables: Any) -> None:
  """Refuses weights with NaN or infinity, at the first array that has some."""
  for path, array in jax.tree.leaves_with_path(variables):
    if not np.isfinite(array).all():
      name = jax.tree_util.keystr(path, simple=True, separator='/')
      raise UsageError(f'{there}: {name} has numbers that are not finite')


def check_weights(
  directory: Workdir, config: Mapping[str, Any], weights: str
) -> None:
  """Refuses weights that a run does not have."""
  errors.one_of('weights', weights, ('raw', 'ema'))
  if weights == 'ema' and config['ema_decay'] is None:
    raise UsageError(
      f"weights is 'ema', but the run in {directory.path} has no averaged "
      'weights (its config.ema_decay is None)'
    )


def init_from(
  state: TrainState,
  path: str | os.PathLike,
  model: Mapping[str, Any],
  *,
  key: str | None = None,
  prefix: str | None = None,
  resize_positions: bool = False,
) -> TrainState:
  """Puts the newest weights of another run, or of a file, into a fresh state.

  Those of a run are its parameters and its running statistics of BatchNorm, as
  trained, not averaged. Nothing else of it counts: neither its dataset nor its
  optimizer needs to be there. If the weights are for another number of classes,
  the head stays as it is in the fresh state; for the same number it is taken
  over, even if they are other classes. Moving averages start from the new
  weights.

  A file is one that `torch_weights.read` reads, of a model that
  `torch_weights.from_torch` knows, with classes in the order of the dataset.

  A model of `SEGMENTERS` takes its backbone from a run or a file that
  classifies images, whose head and final norm are left out and whose positions
  are resized, and everything from a run of segmentation or a file of
  mmsegmentation.

  Args:
    state: the state of step 0 of the run that is to start, or its shapes.
    path: the work directory of the other run, or a file of PyTorch weights.
    model: `config.model` of the run that is to start.
    key: of a file, see `torch_weights.read`.
    prefix: of a file, see `torch_weights.from_torch`.
    resize_positions: whether to resample the positions of a ViT that are for
      another size of images, as timm does; a segmenter always does, as
      mmsegmentation does.

  Returns:
    `state` with other weights; its step, optimizer and objective stay fresh.

  Raises:
    UsageError: if there is no run, checkpoint or file, or if the models differ:
      in one line that names the option or the first parameter that does.
  """
  segments = model['name'] in SEGMENTERS
  if torch_weights.is_torch_file(path):
    if segments:
      return _segmenter_from(state, path, model, key, prefix)
    return _from_file(state, path, model, key, prefix, resize_positions)
  for name, value in (('key', key), ('prefix', prefix)):
    if value is not None:
      raise UsageError(
        f'config.init.{name} is {value!r}; expected None: config.init_from is '
        'a work directory, and only files have names of PyTorch'
      )
  directory, step = _checkpoint(path)
  task = 'segmentation' if segments else 'classification'
  if segments and directory.config().task != task:
    return _segmenter_from(state, path, model)
  there = f'config.init_from: {os.fspath(path)}, step {step}'
  _check_models(there, _options(directory.config().model), _options(model))
  _, given = load_variables(directory, step, task=task)
  fresh = state.variables()
  if resize_positions:
    given['params'] = _resized(given['params'], fresh['params'], 'antialias')
  params = _merge('params', fresh['params'], given['params'], there)
  stats = _merge(
    'batch_stats', fresh['batch_stats'], given['batch_stats'], there
  )
  return _replaced(state, params, stats)


def origin_of(path: str | os.PathLike) -> dict[str, Any]:
  """What `run.json` says of the weights, or outputs, that a run starts from.

  Args:
    path: see `init_from`; or an .npz of outputs.

  Returns:
    The absolute path, and the step of the checkpoint or the SHA-256 of the
    file.

  Raises:
    UsageError: if there is no run or no checkpoint.
  """
  found = {'path': os.path.abspath(path)}
  if torch_weights.is_torch_file(path) or os.fspath(path).endswith('.npz'):
    with open(path, 'rb') as file:
      digest = hashlib.file_digest(file, 'sha256')
    return {**found, 'sha256': digest.hexdigest()}
  return {**found, 'step': _checkpoint(path)[1]}


def _checkpoint(path: str | os.PathLike) -> tuple[Workdir, int]:
  """The directory that `init_from` names, and its newest step."""
  if os.path.isfile(path):
    raise UsageError(
      f'config.init_from is {os.fspath(path)}; expected a work directory, or '
      f'a file whose name ends with {", ".join(torch_weights.SUFFIXES)}'
    )
  with errors.within('config.init_from: '):
    directory = open_workdir(path)
    directory.config()
    with Checkpoints(directory.checkpoints) as checkpoints:
      return directory, checkpoints.chosen()


def _from_file(
  state: TrainState,
  path: str | os.PathLike,
  model: Mapping[str, Any],
  key: str | None,
  prefix: str | None,
  resize_positions: bool,
) -> TrainState:
  """`init_from` of a file of PyTorch weights."""
  fresh = state.variables()
  classes = fresh['params'][_HEAD]['kernel'].shape[-1]
  module = create_model(**{**model, 'num_classes': classes})
  with errors.within(f'config.init_from: {os.fspath(path)}: '):
    given = torch_weights.read(path, key=key)
    count = torch_weights.count_classes(given, module, prefix=prefix)
    found = torch_weights.from_torch(
      given,
      module,
      fresh,
      prefix=prefix,
      head=count == classes,
      resize_positions=resize_positions,
    )
  found = jax.tree.map(jnp.asarray, found)
  params = {n: found['params'].get(n, v) for n, v in fresh['params'].items()}
  return _replaced(state, params, found['batch_stats'])


def _segmenter_from(
  state: TrainState,
  path: str | os.PathLike,
  model: Mapping[str, Any],
  key: str | None = None,
  prefix: str | None = None,
) -> TrainState:
  """`init_from` of a model that classifies pixels."""
  fresh = state.variables()
  classes = fresh['params'][_HEAD]['kernel'].shape[-1]
  module: Any = create_segmenter(**{**model, 'num_classes': classes})
  backbone = module.make_backbone()
  positions = getattr(module, 'positions', 'bicubic')
  part = {kind: tree.get('backbone', {}) for kind, tree in fresh.items()}
  if not torch_weights.is_torch_file(path):
    found = _backbone_of_run(path, backbone, part, positions, model['name'])
    found = {kind: {'backbone': tree} for kind, tree in found.items()}
  else:
    with errors.within(f'config.init_from: {os.fspath(path)}: '):
      given = torch_weights.read(path, key=key)
      how: dict[str, Any] = {'prefix': prefix, 'resize_positions': positions}
      if any('decode_head.' in name for name in given):
        count = torch_weights.count_classes(given, module, prefix=prefix)
        same = count == classes
        found = torch_weights.from_torch(given, module, fresh, head=same, **how)
      else:
        found = torch_weights.from_torch(
          given, backbone, part, head=False, **how
        )
        found = {kind: {'backbone': tree} for kind, tree in found.items()}
  flat = flax.traverse_util.flatten_dict(fresh, keep_empty_nodes=True)
  for name, value in flax.traverse_util.flatten_dict(found).items():
    flat[name] = jnp.asarray(value)
  merged = flax.traverse_util.unflatten_dict(flat)
  return _replaced(state, merged['params'], merged['batch_stats'])


def _backbone_of_run(
  path: str | os.PathLike,
  backbone: Any,
  fresh: Mapping[str, Any],
  positions: str,
  name: str,
) -> dict[str, Any]:
  """The variables of a backbone, from a run that classifies images."""
  directory, step = _checkpoint(path)
  there = f'config.init_from: {os.fspath(path)}, step {step}'
  config = directory.config()
  check_task(config)
  classifier: Any = create_model(**{**config.model.to_dict(), 'num_classes': 1})
  if not isinstance(backbone, type(classifier)):
    raise UsageError(
      f'{there} is of {config.model.name!r}, which is not the backbone of '
      f'{name!r}'
    )
  fields = [f.name for f in dataclasses.fields(classifier)]
  theirs, own = (
    {f: getattr(net, f) for f in fields if f not in _NOT_IN_BACKBONES}
    for net in (classifier, backbone)
  )
  _check_models(there, theirs, own)
  _, given = load_variables(directory, step)
  params = {
    layer: tree
    for layer, tree in given['params'].items()
    if layer in fresh['params'] or layer not in (_HEAD, 'norm')
  }
  params = _resized(params, fresh['params'], positions)
  stats = given['batch_stats']
  return {
    'params': _merge('params', fresh['params'], params, there),
    'batch_stats': _merge('batch_stats', fresh['batch_stats'], stats, there),
  }


def _resized(
  params: dict[str, Any], fresh: Mapping[str, Any], method: str
) -> dict[str, Any]:
  """The parameters with the positions of a ViT, if any, for other images."""
  if 'pos_embed' not in params or 'pos_embed' not in fresh:
    return params
  side = math.isqrt(fresh['pos_embed'].shape[1] - 1)
  positions = jnp.asarray(params['pos_embed'])
  return {
    **params,
    'pos_embed': resampling.resize_positions(positions, (side, side), method),
  }


def _replaced(state: TrainState, params: Any, stats: Any) -> TrainState:
  """The state with other weights, which the moving averages start from."""
  return dataclasses.replace(
    state,
    params=params,
    batch_stats=stats,
    ema=None if state.ema is None else {'params': params, 'batch_stats': stats},
  )


def _options(model: Mapping[str, Any]) -> dict[str, Any]:
  """The name of a model and its options, defaults included."""
  name = model['name']
  known = {**MODELS, **SEGMENTERS}
  defaults = known[name].options if name in known else {}
  return {n: v for n, v in {**defaults, **model}.items() if n not in _FREE}


def _check_models(
  there: str, given: Mapping[str, Any], own: Mapping[str, Any]
) -> None:
  """Refuses options that differ: not all of them change a shape."""
  for name in dict.fromkeys(['name', *given, *own]):
    if given.get(name) != own.get(name):
      raise UsageError(
        f'{there} has another model: {name} is {given.get(name)!r} there and '
        f'{own.get(name)!r} here'
      )


def _merge(
  kind: str, fresh: dict[str, Any], given: dict[str, Any], there: str
) -> dict[str, Any]:
  """The arrays of `given` in the form of `fresh`; a head of other classes not.

  Raises:
    UsageError: at the first array of the one that the other does not have.
  """
  own = flax.traverse_util.flatten_dict(dict(fresh), sep='/')
  other = flax.traverse_util.flatten_dict(dict(given or {}), sep='/')
  keeps_head = kind == 'params' and _classes_differ(own, other)
  merged = dict(own)
  for name in dict.fromkeys([*own, *other]):
    if keeps_head and name.startswith(_HEADS):
      continue
    shapes = [
      list(tree[name].shape) if name in tree else 'not there'
      for tree in (other, own)
    ]
    if shapes[0] != shapes[1]:
      what = 'parameter' if kind == 'params' else 'statistic'
      hint = ''
      if name == 'pos_embed' and 'not there' not in shapes:
        hint = (
          ', for another size of images; config.init.resize_positions=true '
          'resamples them'
        )
      raise UsageError(
        f'{there} has another model: {what} {name} is {shapes[0]} there and '
        f'{shapes[1]} here{hint}'
      )
    merged[name] = jnp.asarray(other[name], own[name].dtype)
  return flax.traverse_util.unflatten_dict(merged, sep='/')


def _classes_differ(own: dict[str, Any], other: dict[str, Any]) -> bool:
  """Whether the heads differ in the number of classes, and in nothing else."""
  heads = [
    {n: x.shape for n, x in tree.items() if n.startswith(f'{_HEAD}/')}
    for tree in (own, other)
  ]
  return (
    heads[0] != heads[1]
    and heads[0].keys() == heads[1].keys()
    and all(a[:-1] == heads[1][n][:-1] for n, a in heads[0].items())
  )
