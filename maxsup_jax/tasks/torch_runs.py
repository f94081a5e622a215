"""Weights of PyTorch as a work directory, and those of a run as a file."""

import hashlib
import os
import pathlib
from collections.abc import Mapping
from typing import Any

import jax

from maxsup_jax import models
from maxsup_jax.errors import UsageError
from maxsup_jax.models import torch_weights
from maxsup_jax.tasks.building import build
from maxsup_jax.tasks.config import open_workdir, resolve
from maxsup_jax.tasks.weights import head_of, load_variables
from maxsup_jax.training.checkpoints import Checkpoints
from maxsup_jax.training.state import first_state


def import_weights(
  config: Mapping[str, Any],
  workdir: str | os.PathLike,
  file: str | os.PathLike,
  *,
  key: str | None = None,
  prefix: str | None = None,
  class_order: str | os.PathLike | None = None,
  resize_positions: bool = False,
  data_dir: str | None = None,
) -> str:
  """Makes a work directory of a file of weights.

  It holds a checkpoint of step 0, in which everything but the weights is fresh,
  and all programs take it.

  Args:
    config: of the model, and of the data that it is for.
    workdir: the directory to make.
    file: of PyTorch weights, see `models.torch_weights.read`.
    key: see there.
    prefix: see `models.torch_weights.from_torch`.
    class_order: a text file with the order of the weights' classes; by default
      that of the dataset.
    resize_positions: see `models.torch_weights.from_torch`.
    data_dir: where datasets are prepared; None for the default of tfds.

  Returns:
    What was made, in one sentence.

  Raises:
    UsageError: if the directory exists, or the weights do not fit.
  """
  directory = open_workdir(workdir, writes=True)
  if directory.path.exists():
    hint = ''
    if not any(pathlib.Path(directory.checkpoints).glob('[0-9]*')):
      hint = (
        ', or delete it if an import was ended in the middle: it has no '
        'checkpoint'
      )
    raise UsageError(f'{directory.path} exists; choose another{hint}')
  given = resolve(config)
  if given.init_from is not None:
    raise UsageError(
      f'config.init_from is {given.init_from!r}; expected None, as the '
      'weights come from the file'
    )
  resolved = resolve({**given.to_dict(), 'init_from': str(directory.path)})
  state_dict = torch_weights.read(file, key=key)
  run = build(resolved, data_dir=data_dir, training=False)
  order = None
  if class_order is not None:
    names = run.task.train_source.label_names
    if names is None:
      raise UsageError(
        f'class_order: the classes of {run.task.train_name} have no names'
      )
    order = torch_weights.class_order(class_order, names)
  variables = torch_weights.from_torch(
    state_dict,
    run.task.model,
    run.shapes.variables(),
    prefix=prefix,
    class_order=order,
    resize_positions=resize_positions,
  )
  state = first_state(
    variables,
    run.optimizer,
    run.task.objective,
    ema=resolved.ema_decay is not None,
  )
  origin: dict[str, Any] = {
    'file': str(pathlib.Path(file).absolute()),
    'sha256': _sha256(file),
    'key': key,
    'prefix': prefix,
    'class_order': class_order
    and {
      'file': str(pathlib.Path(class_order).absolute()),
      'sha256': _sha256(class_order),
    },
    'resize_positions': resize_positions,
  }
  with directory.opened(resolved):
    directory.record_start(0, run.devices.count, imported=origin)
    with Checkpoints(directory.checkpoints) as checkpoints:
      checkpoints.save(
        0, jax.device_get(state), {'train_examples': run.task.train_examples}
      )
  dataset = resolved.dataset
  return (
    f'{directory.path}: the weights of {file} (SHA-256 '
    f'{origin["sha256"][:12]}...) as step 0 of a {resolved.model.name}, for '
    f'images normalised with mean {tuple(dataset.mean)} and standard deviation '
    f'{tuple(dataset.std)}'
  )


def export_weights(
  workdir: str | os.PathLike,
  out: str | os.PathLike,
  *,
  step: int | str | None = None,
  weights: str = 'raw',
) -> str:
  """Writes the weights of a run into a new file, which PyTorch loads.

  Args:
    workdir: of the run.
    out: .pth, .pt or .safetensors.
    step: which checkpoint; None for the newest.
    weights: 'raw' or 'ema'.

  Returns:
    What was written, in one sentence.

  Raises:
    UsageError: if there are no such weights, or the file exists.
  """
  directory = open_workdir(workdir)
  config = directory.config()
  step, variables = load_variables(directory, step, weights)
  options = config.model.to_dict()
  classes = head_of(directory, variables)['kernel'].shape[-1]
  model = models.create_model(options.pop('name'), classes, **options)
  state_dict = torch_weights.to_torch(variables, model, batches=step)
  torch_weights.write(out, state_dict)
  return (
    f'{out}: {len(state_dict)} arrays of a {config.model.name} for {classes} '
    f'classes, {weights} weights of step {step}, '
    f'{pathlib.Path(out).stat().st_size / 1e6:,.1f} MB'
  )


def _sha256(path: str | os.PathLike) -> str:
  with open(path, 'rb') as file:
    return hashlib.file_digest(file, 'sha256').hexdigest()
