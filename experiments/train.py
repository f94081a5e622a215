"""Trains a classifier, or resumes its training.

  python -m experiments.train --config=configs/digits.py:loss=ls --workdir=DIR

Exit codes: 0 finished, 1 a number became NaN or infinite, 2 the input is
wrong, 3 another process is gone (if it is process 0, most often 134, by JAX),
130 and 143 stopped by Ctrl-C or SIGTERM after saving. The same command goes on
after 3, 130, 134 and 143.
"""

import hashlib
import os
import sys

from absl import flags

from experiments import _cli, _compilation, _processes

_WORKDIR = flags.DEFINE_string(
  'workdir',
  None,
  'Where to write. A run of the same config that is there is resumed. By '
  'default a directory under runs/, named after the config.',
)
_DATA_DIR = flags.DEFINE_string(
  'data_dir', None, "Where datasets are; tfds's own default if not given."
)

flags.declare_key_flag('compilation_cache')


def main():
  _processes.join_processes(saves=True)
  import jax

  from maxsup_jax.training import loop, setup, workdir
  from maxsup_jax.training.config import resolve

  first = jax.process_index() == 0
  config = resolve(flags.FLAGS.config)
  directory = workdir.Workdir(
    _WORKDIR.value or default_workdir(config), writes=first
  )
  _processes.advise(directory.advice)
  directory.check(config)
  run = setup.build(config, data_dir=_DATA_DIR.value)
  if not directory.has_checkpoints:
    # Before anything is written.
    run.check_first_state()
  _compilation.keep_compiled(directory.path)
  try:
    records = loop.train(run, directory, began=_cli.BEGAN)
  except loop.Stopped as e:
    if first:
      print(e, file=sys.stderr)
    return 128 + e.signal
  except loop.NonFiniteError as e:
    if first:
      print(f'error: {e}', file=sys.stderr)
    return 1
  if first:
    _cli.print_table(records, made_up=config.dataset.mock is not None)
    print(f'\nwork directory: {directory.path}')
  return 0


def default_workdir(config):
  """The same command finds the same directory; another config another."""
  from maxsup_jax.training import config as config_lib

  identity = {
    name: value
    for name, value in config_lib.fields(config).items()
    if name not in config_lib.SPEED_FIELDS
  }
  text = config_lib.to_json(dict(sorted(identity.items())))
  digest = hashlib.sha256(text.encode()).hexdigest()[:8]
  # Of a directory, the dataset's name and its version.
  dataset = '-'.join(config.dataset.name.rstrip('/').split('/')[-2:])
  name = '-'.join(
    [
      dataset.replace(':', '_'),
      *(['made_up'] if config.dataset.mock is not None else []),
      config.model.name,
      config.objective.name,
      f'seed{config.seed}',
      digest,
    ]
  )
  return os.path.join('runs', name)


if __name__ == '__main__':
  _cli.run(main, config='configs/digits.py', several=True)
