"""Starting from the weights of another run, as fine-tuning does."""

import os
from typing import Any

import flax
import jax.numpy as jnp

from maxsup_jax._errors import UsageError
from maxsup_jax.training.checkpoints import Checkpoints
from maxsup_jax.training.state import TrainState
from maxsup_jax.training.workdir import Workdir

# What every model calls its classifier.
_HEAD = 'head'


def init_from(
  state: TrainState, path: str | os.PathLike, *, ema: bool = False
) -> TrainState:
  """Puts the newest weights of another run into a fresh state.

  These are its parameters and its running statistics of BatchNorm. Nothing else
  of it counts: neither its dataset nor its optimizer needs to be there. If it
  was trained for another number of classes, the head stays as it is in the
  fresh state. Moving averages start from the new weights.

  Args:
    state: the state of step 0 of the run that is to start.
    path: the work directory of the other run.
    ema: whether to take the averaged weights of the other run.

  Returns:
    `state` with other weights; its step, optimizer and objective stay fresh.

  Raises:
    UsageError: if there is no run or checkpoint, or if the models differ: in
      one line that names the first parameter that does.
  """
  where = f'config.init_from: {os.fspath(path)}'
  given, step = _read(path, ema, where)
  there = f'{where}, step {step}'
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


def _read(
  path: str | os.PathLike, ema: bool, where: str
) -> tuple[dict[str, Any], int]:
  """The variables in the newest checkpoint of a run, and its step."""
  directory = Workdir(path, writes=False).checkpoints
  checkpoints = Checkpoints(directory)
  try:
    steps = checkpoints.steps()
    if not steps:
      raise UsageError(
        f'{where} has no checkpoint: there is none in {directory}'
      )
    if not ema:
      names = ('params', 'batch_stats')
      return checkpoints.restore_part(steps[-1], names), steps[-1]
    averages = checkpoints.restore_part(steps[-1], ('ema',))['ema']
  finally:
    checkpoints.close()
  if averages is None:
    raise UsageError(
      f'{where} keeps no averaged weights: its config.ema_decay is None'
    )
  return averages, steps[-1]


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
