"""`experiments.train`, altered as the environment says.

SLOW      seconds that each batch takes, so that a signal comes in time: several
          processes need some to agree on where to stop.
READS     a file that notes every example that is read from disk; the process's
          number is added to its name.
BAD       a split and an index: the example that cannot be read.
PATIENCE  seconds to wait for the files of other hosts.
"""

import os
import time

import jax

from experiments import _cli, train
from maxsup_jax.data import _tfds_source
from maxsup_jax.errors import UsageError
from maxsup_jax.tasks.classification import Classification
from maxsup_jax.training import agreement

_read = _tfds_source.TfdsSource.__getitem__
_batches = Classification.train_batches


def _noted(self, index):
  with open(f'{os.environ["READS"]}{jax.process_index()}', 'a') as file:
    file.write(f'{self.name} {index}\n')
  if f'{self.name} {index}' == os.environ.get('BAD'):
    raise UsageError(f'{self.name}: example {index} cannot be read')
  return _read(self, index)


def _late(self, start_step):
  for batch in _batches(self, start_step):
    time.sleep(float(os.environ['SLOW']))
    yield batch


if __name__ == '__main__':
  if 'READS' in os.environ:
    _tfds_source.TfdsSource.__getitem__ = _noted
  if 'SLOW' in os.environ:
    Classification.train_batches = _late
  agreement.PATIENCE = int(os.environ.get('PATIENCE', agreement.PATIENCE))
  _cli.run(train.main, config='configs/digits.py', several=True)
