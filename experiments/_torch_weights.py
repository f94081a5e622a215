"""Weights of PyTorch as a work directory, and those of a run as a file."""

import hashlib
import pathlib

import jax

from maxsup_jax import models
from maxsup_jax.errors import UsageError
from maxsup_jax.models import torch_weights
from maxsup_jax.training import setup
from maxsup_jax.training.checkpoints import Checkpoints
from maxsup_jax.training.config import resolve
from maxsup_jax.training.state import first_state
from maxsup_jax.training.workdir import Workdir


def import_weights(
  config,
  workdir,
  file,
  *,
  key=None,
  prefix=None,
  class_order=None,
  resize_positions=False,
  data_dir=None,
):
  """Makes a work directory of a file of weights; returns what to say of it."""
  directory = Workdir(workdir)
  if directory.path.exists():
    hint = ''
    if not any(pathlib.Path(directory.checkpoints).glob('[0-9]*')):
      hint = (
        ', or delete it if an import was ended in the middle: it has no '
        'checkpoint'
      )
    raise UsageError(f'{directory.path} is there already; choose another{hint}')
  config = resolve(config)
  if config.init_from is not None:
    raise UsageError(
      f'config.init_from is {config.init_from!r}; expected None with --file'
    )
  config = resolve({**config.to_dict(), 'init_from': str(directory.path)})
  state_dict = torch_weights.read(file, key=key)
  run = setup.build(config, data_dir=data_dir, training=False)
  order = None
  if class_order is not None:
    names = run.train_source.label_names
    if names is None:
      raise UsageError(
        f'--class_order: the classes of {run.train_source.name} have no names'
      )
    order = torch_weights.class_order(class_order, names)
  variables = torch_weights.from_torch(
    state_dict,
    run.model,
    jax.eval_shape(run.init_state).variables(),
    prefix=prefix,
    class_order=order,
    resize_positions=resize_positions,
  )
  state = first_state(
    variables, run.optimizer, run.objective, ema=config.ema_decay is not None
  )
  origin = {
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
  with directory.opened(config):
    directory.record_start(0, run.devices.count, imported=origin)
    checkpoints = Checkpoints(directory.checkpoints)
    checkpoints.save(
      0, jax.device_get(state), {'train_examples': len(run.train_source)}
    )
    checkpoints.close()
  dataset = config.dataset
  return (
    f'{directory.path}: the weights of {file} (SHA-256 '
    f'{origin["sha256"][:12]}...) as step 0 of a {config.model.name}, for '
    f'images normalised with mean {tuple(dataset.mean)} and standard deviation '
    f'{tuple(dataset.std)}'
  )


def export_weights(workdir, out, *, step=None, weights='raw'):
  """Writes the weights of a run into a file; returns what to say of it."""
  directory = Workdir(workdir, writes=False)
  config = directory.config()
  checkpoints = Checkpoints(directory.checkpoints)
  steps = checkpoints.steps()
  if not steps:
    raise UsageError(f'no checkpoint in {directory.checkpoints}')
  step = steps[-1] if step is None else step
  names = ('ema',) if weights == 'ema' else ('params', 'batch_stats')
  found = checkpoints.restore_part(step, names)
  checkpoints.close()
  variables = found['ema'] if weights == 'ema' else found
  if variables is None:
    raise UsageError(
      f'--weights=ema: the run in {directory.path} keeps no averaged weights '
      '(its config.ema_decay is None)'
    )
  variables = {name: tree or {} for name, tree in variables.items()}
  options = config.model.to_dict()
  classes = variables['params']['head']['kernel'].shape[-1]
  model = models.create_model(options.pop('name'), classes, **options)
  state_dict = torch_weights.to_torch(variables, model, batches=step)
  torch_weights.write(out, state_dict)
  return (
    f'{out}: {len(state_dict)} arrays of a {config.model.name} for {classes} '
    f'classes, {weights} weights of step {step}, '
    f'{pathlib.Path(out).stat().st_size / 1e6:,.1f} MB'
  )


def _sha256(path):
  with open(path, 'rb') as file:
    return hashlib.file_digest(file, 'sha256').hexdigest()
