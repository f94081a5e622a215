"""`experiments.train`, whose steps take so long that a signal comes in time.

Several processes need seconds to agree on where to stop.
"""

import time

from experiments import _cli, train
from maxsup_jax.tasks.classification import Classification

_batches = Classification.train_batches


def _late(self, start_step):
  for batch in _batches(self, start_step):
    time.sleep(0.3)
    yield batch


if __name__ == '__main__':
  Classification.train_batches = _late
  _cli.run(train.main, config='configs/digits.py', several=True)
