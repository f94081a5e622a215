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

import os
import re
import sys

from absl import flags

from experiments import _cli, _processes
from maxsup_jax import files

CARD = 'configs/imagenet_convnet.py'

_WORKDIR = flags.DEFINE_string(
  'workdir', None, 'The directory to make, with --file; or the run, with --out.'
)
_FILE = flags.DEFINE_string(
  'file',
  None,
  'Read these weights: .pth, .pt, .th, .ckpt, .tar, .bin or .safetensors.',
)
flags.DEFINE_string(
  'key',
  None,
  'With --file: key of the weights in a .pth, such as model_ema; by default '
  'state_dict or model, where present.',
)
flags.DEFINE_string(
  'prefix',
  None,
  'With --file: read only the names that begin with this; by default '
  'module., model. and _orig_mod. are stripped if all names have them; empty '
  'for all names as they are.',
)
flags.DEFINE_string(
  'class_order',
  None,
  'With --file: text file with the class order of the weights, such as '
  'train_map.txt; by default that of the dataset.',
)
flags.DEFINE_bool(
  'resize_positions',
  False,
  'With --file: resample position embeddings learned at another image size.',
)
_cli.define_data_dir()
_OUT = flags.DEFINE_string(
  'out', None, 'Write the weights of the run: .pth, .pt or .safetensors.'
)
_cli.define_step(
  'With --out: which checkpoint: its step, latest (the default) or best.'
)
flags.DEFINE_enum(
  'weights',
  'raw',
  ['raw', 'ema'],
  'With --out: the weights as trained, or their moving average.',
)
_IMPORTS = ('key', 'prefix', 'class_order', 'resize_positions', 'data_dir')
_EXPORTS = ('step', 'weights')


def main():
  what = 'the run to make, with --file, or to export, with --out'
  _cli.needed('workdir', what)
  if (_FILE.value is None) == (_OUT.value is None):
    raise _cli.UsageError('expected --file, to import, or --out, to export')
  others, needed = (_IMPORTS, _FILE) if _OUT.value else (_EXPORTS, _OUT)
  for name in others:
    if flags.FLAGS[name].present:
      raise _cli.UsageError(f'--{name} needs --{needed.name}')
  if _OUT.value and flags.FLAGS['config'].present:
    raise _cli.UsageError('--config needs --file: a run has its own config')
  _processes.refuse_several('torch_weights')
  if _OUT.value:
    _cli.check_runs(_WORKDIR.value)
    if os.path.lexists(_OUT.value):
      raise _cli.UsageError(f'{_OUT.value} exists; choose another file')
  else:
    files.refuse_irregular(_FILE.value)
    if not os.path.exists(_FILE.value):
      raise _cli.UsageError(f'no file {_FILE.value}')
    from maxsup_jax import tasks

    tasks.check_names(tasks.resolve(flags.FLAGS.config))
  from maxsup_jax.tasks import torch_runs

  if _OUT.value:
    given = _cli.values(*_EXPORTS)
    print(torch_runs.export_weights(_WORKDIR.value, _OUT.value, **given))
    return 0
  given, card = _cli.values(*_IMPORTS), flags.FLAGS.config
  print(torch_runs.import_weights(card, _WORKDIR.value, _FILE.value, **given))
  return 0


def card_of(argv):
  """The default run card; None where none is read, nor need be there."""
  if any(re.match(r'--?(file|help)', argument) for argument in argv[1:]):
    return CARD
  return None


if __name__ == '__main__':
  if card_of(sys.argv) is None:
    flags.DEFINE_string('config', None, 'With --file: the run card.')
  _cli.run(main, config=card_of(sys.argv))
