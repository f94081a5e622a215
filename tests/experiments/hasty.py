"""`experiments.train`, which does not wait long for files of other hosts."""

from experiments import _cli, train
from maxsup_jax.training import agreement

if __name__ == '__main__':
  agreement.PATIENCE = 1
  _cli.run(train.main, config='configs/digits.py', several=True)
