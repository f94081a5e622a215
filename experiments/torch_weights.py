r"""Weights of PyTorch as a work directory, and those of a run as a file.

  python -m experiments.torch_weights --file=resnet50.safetensors \
    --config=configs/imagenet_convnet.py:recipe=b --workdir=runs/imported
  python -m experiments.torch_weights --workdir=runs/mine --out=mine.pth

With --file the work directory is new. It holds a checkpoint of step 0, in which
everything but the weights is fresh, and all programs take it: evaluate,
extract, gradcam, corruptions, and the field config.init_from of other runs. Its
own config.init_from names the directory itself, so that it is not taken for a
run from scratch; run.json says from which file it came, and its SHA-256. The
card must be that of the model: names, sizes, blur_pool, and how images are
normalised. Which names and files are understood: docs/weights.md.

With --out the file is new. The PyTorch model loads it with strict=True.
"""

import hashlib
import pathlib
import re
import sys

from absl import flags

from experiments import _cli, _processes

CARD = 'configs/imagenet_convnet.py'

_WORKDIR = flags.DEFINE_string(
  'workdir', None, 'The directory to make, with --file; or the run, with --out.'
)
_FILE = flags.DEFINE_string(
  'file',
  None,
  'Read these weights: .pth, .pt, .ckpt, .tar, .bin or .safetensors.',
)
_KEY = flags.DEFINE_string(
  'key',
  None,
  'With --file: under which key a .pth has the weights, such as model_ema; by '
  'default state_dict or model, if it has one of them.',
)
_PREFIX = flags.DEFINE_string(
  'prefix',
  None,
  'With --file: take the names that begin with it, and no others; by default '
  'module., model. and _orig_mod. are taken off where all names have them.',
)
_CLASS_ORDER = flags.DEFINE_string(
  'class_order',
  None,
  "With --file: a text file with the order of the weights' classes, such as "
  'train_map.txt; by default it is that of the dataset.',
)
_RESIZE_POSITIONS = flags.DEFINE_bool(
  'resize_positions',
  False,
  'With --file: resample positions that are for another size of images.',
)
_DATA_DIR = flags.DEFINE_string(
  'data_dir', None, "Where datasets are; tfds's own default if not given."
)
_OUT = flags.DEFINE_string(
  'out', None, 'Write the weights of the run: .pth, .pt or .safetensors.'
)
_STEP = flags.DEFINE_integer(
  'step', None, 'With --out: which checkpoint; by default the newest.'
)
_WEIGHTS = flags.DEFINE_enum(
  'weights',
  'raw',
  ['raw', 'ema'],
  'With --out: the weights themselves or their averages.',
)
_IMPORTS = (_KEY, _PREFIX, _CLASS_ORDER, _RESIZE_POSITIONS, _DATA_DIR)
_EXPORTS = (_STEP, _WEIGHTS)


def main():
  if _WORKDIR.value is None:
    raise _cli.UsageError('--workdir is needed: of weights to read or to write')
  if (_FILE.value is None) == (_OUT.value is None):
    raise _cli.UsageError('expected --file, to import, or --out, to export')
  others, needed = (_IMPORTS, _FILE) if _OUT.value else (_EXPORTS, _OUT)
  for holder in others:
    if flags.FLAGS[holder.name].present:
      raise _cli.UsageError(f'--{holder.name} belongs to --{needed.name}')
  if _OUT.value and flags.FLAGS['config'].present:
    raise _cli.UsageError('--config belongs to --file: a run has its own')
  _processes.refuse_several('torch_weights')
  if _OUT.value:
    print(
      export_weights(
        _WORKDIR.value, _OUT.value, step=_STEP.value, weights=_WEIGHTS.value
      )
    )
    return 0
  print(
    import_weights(
      flags.FLAGS.config,
      _WORKDIR.value,
      _FILE.value,
      key=_KEY.value,
      prefix=_PREFIX.value,
      class_order=_CLASS_ORDER.value,
      resize_positions=_RESIZE_POSITIONS.value,
      data_dir=_DATA_DIR.value,
    )
  )
  return 0


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
  import jax

  from maxsup_jax.models import torch_weights
  from maxsup_jax.training import setup
  from maxsup_jax.training.checkpoints import Checkpoints
  from maxsup_jax.training.config import resolve
  from maxsup_jax.training.state import first_state
  from maxsup_jax.training.workdir import Workdir

  directory = Workdir(workdir)
  if directory.path.exists():
    hint = ''
    if not any(pathlib.Path(directory.checkpoints).glob('[0-9]*')):
      hint = (
        ', or delete it if an import was ended in the middle: it has no '
        'checkpoint'
      )
    raise _cli.UsageError(
      f'{directory.path} is there already; choose another{hint}'
    )
  config = resolve(config)
  if config.init_from is not None:
    raise _cli.UsageError(
      f'config.init_from is {config.init_from!r}; expected None with --file'
    )
  config = resolve({**config.to_dict(), 'init_from': str(directory.path)})
  state_dict = torch_weights.read(file, key=key)
  run = setup.build(config, data_dir=data_dir, training=False)
  order = None
  if class_order is not None:
    names = run.train_source.label_names
    if names is None:
      raise _cli.UsageError(
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
  from maxsup_jax import models
  from maxsup_jax.models import torch_weights
  from maxsup_jax.training.checkpoints import Checkpoints
  from maxsup_jax.training.workdir import Workdir

  directory = Workdir(workdir, writes=False)
  config = directory.config()
  checkpoints = Checkpoints(directory.checkpoints)
  steps = checkpoints.steps()
  if not steps:
    raise _cli.UsageError(f'no checkpoint in {directory.checkpoints}')
  step = steps[-1] if step is None else step
  names = ('ema',) if weights == 'ema' else ('params', 'batch_stats')
  found = checkpoints.restore_part(step, names)
  checkpoints.close()
  variables = found['ema'] if weights == 'ema' else found
  if variables is None:
    raise _cli.UsageError(
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


def card_of(argv):
  """The default run card; None where none is read, nor need be there."""
  if any(re.match(r'--?(file|help)', argument) for argument in argv[1:]):
    return CARD
  return None


if __name__ == '__main__':
  if card_of(sys.argv) is None:
    flags.DEFINE_string('config', None, 'With --file: the run card.')
  _cli.run(main, config=card_of(sys.argv))
