"""`experiments.train`, which notes every example that is read from disk.

The lines of the file `$READS`, with the process's number after it, are names of
splits and indices. The example `$BAD` of the training split cannot be read.
"""

import os

import jax

from experiments import _cli, train
from maxsup_jax.data import _tfds_source
from maxsup_jax.errors import UsageError

_read = _tfds_source.TfdsSource.__getitem__


def _noted(self, index):
  path = f'{os.environ["READS"]}{jax.process_index()}'
  with open(path, 'a') as file:
    file.write(f'{self.name} {index}\n')
  if f'{self.name} {index}' == os.environ.get('BAD'):
    raise UsageError(f'{self.name}: example {index} cannot be read')
  return _read(self, index)


if __name__ == '__main__':
  _tfds_source.TfdsSource.__getitem__ = _noted
  _cli.run(train.main, config='configs/digits.py', several=True)
