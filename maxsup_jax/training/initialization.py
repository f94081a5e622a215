"""Starting from the weights of another run, as fine-tuning does."""

import os
from collections.abc import Mapping
from typing import Any

import flax
import jax.numpy as jnp

from maxsup_jax._errors import UsageError
from maxsup_jax.models import MODELS
from maxsup_jax.training.checkpoints import Checkpoints
from maxsup_jax.training.state import TrainState
from maxsup_jax.training.workdir import Workdir

# What every model calls its classifier.
_HEAD = 'head'


# Fields of config.model that leave the weights and what they compute alone.
_FREE = (
  'dtype',
  'drop_path',
  'dropout',
  'head_dropout',
  'zero_init_residual',
  'batch_norm_axis',
)


def init_from(
  state: TrainState, path: str | os.PathLike, model: Mapping[str, Any]
) -> TrainState:
  """Puts the newest weights of another run into a fresh state.

  These are its parameters and its running statistics of BatchNorm, as trained,
  not averaged. Nothing else of it counts: neither its dataset nor its optimizer
  needs to be there. If it was trained for another number of classes, the head
  stays as it is in the fresh state; for the same number it is taken over, even
  if they are other classes. Moving averages start from the new weights.

  Args:
    state: the state of step 0 of the run that is to start, or its shapes.
    path: the work directory of the other run.
    model: `config.model` of the run that is to start.

  Returns:
    `state` with other weights; its step, optimizer and objective stay fresh.

  Raises:
    UsageError: if there is no run or checkpoint, or if the models differ: in
      one line that names the option or the first parameter that does.
  """
  where = f'config.init_from: {os.fspath(path)}'
  step = newest_step(path)
  there = f'{where}, step {step}'
  directory = Workdir(path, writes=False)
  _check_models(there, _options(directory.config().model), _options(model))
  checkpoints = Checkpoints(directory.checkpoints)
  try:
    given = checkpoints.restore_part(step, ('params', 'batch_stats'))
  finally:
    checkpoints.close()
  fresh = state.variables()
  params = _merge('params', fresh['params'], given['params'], there)
  stats = _merge(
    'batch_stats', fresh['batch_stats'], given['batch_stats'], there
  )
  return state.replace(
    params=params,
    batch_stats=stats,
    ema=None if state.ema is None else {'params': params, 'batch_stats': stats},
  )


def newest_step(path: str | os.PathLike) -> int:
  """The step of the newest checkpoint of another run.

  Raises:
    UsageError: if there is no run or no checkpoint.
  """
  where = f'config.init_from: {os.fspath(path)}'
  directory = Workdir(path, writes=False)
  try:
    directory.config()
  except UsageError as error:
    raise UsageError(f'config.init_from: {error}') from error
  checkpoints = Checkpoints(directory.checkpoints)
  steps = checkpoints.steps()
  checkpoints.close()
  if not steps:
    raise UsageError(
      f'{where} has no checkpoint: there is none in {directory.checkpoints}'
    )
  return steps[-1]


def _options(model: Mapping[str, Any]) -> dict[str, Any]:
  """The name of a model and its options, defaults included."""
  name = model['name']
  defaults = MODELS[name].options if name in MODELS else {}
  return {n: v for n, v in {**defaults, **model}.items() if n not in _FREE}


def _check_models(
  there: str, given: Mapping[str, Any], own: Mapping[str, Any]
) -> None:
  """Refuses options that differ: not all of them change a shape."""
  for name in dict.fromkeys(['name', *given, *own]):
    if given.get(name) != own.get(name):
      raise UsageError(
        f'{there} has another model: its {name} is {given.get(name)!r}, here '
        f'it is {own.get(name)!r}'
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
    if keeps_head and name.startswith(f'{_HEAD}/'):
      continue
    shapes = [
      list(tree[name].shape) if name in tree else 'not there'
      for tree in (other, own)
    ]
    if shapes[0] != shapes[1]:
      what = 'parameter' if kind == 'params' else 'statistic'
      raise UsageError(
        f'{there} has another model: its {what} {name} is {shapes[0]}, here it '
        f'is {shapes[1]}'
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
