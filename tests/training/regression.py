"""A second task: linear regression on arrays, as small as the contract lets."""

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from maxsup_jax import losses
from maxsup_jax.training import config as config_lib
from maxsup_jax.training.task import Aux, Measurement

RNG = np.random.default_rng(0)
X = RNG.normal(size=(96, 3)).astype(np.float32)
Y = X @ np.float32([1.0, -2.0, 0.5]) + 0.1 * RNG.normal(size=96)


def resolve(**changes):
  return config_lib.resolve(changes, ConfigDict(config_lib.common_fields()))


class Regression:
  """Least squares; 80 examples to train on, 16 to evaluate."""

  name, unit, train_name, made_up = 'line', 'rows', 'rows/train', False
  eval_split, measured_splits, device_dependent = 'rest', ('rest',), ()
  train_examples = 80
  scores = ('mse',)
  files = {}  # noqa: RUF012
  objective = losses.Objective(init=lambda: jnp.zeros(()), apply=None)

  def __init__(self, config):
    self.config = config

  def init_variables(self, key):
    return {'params': {'w': jax.random.normal(key, (3,)), 'b': jnp.zeros(())}}

  def initialized(self, state):
    return state

  def origin(self):
    return {}

  def _squares(self, variables, batch):
    params = variables['params']
    error = batch['x'] @ params['w'] + params['b'] - batch['y']
    return jnp.where(batch['mask'], error**2, 0)

  def train_loss(self, variables, batch, *, step, objective_state, key):
    del step, key
    squares = self._squares(variables, batch)
    sums = {'mse': (squares.sum(), batch['mask'].sum())}
    # The state counts steps, to see that it travels.
    return squares, batch['mask'], Aux(sums, {}, objective_state + 1)

  def eval_sums(self, variables, batch, *, step, objective_state):
    del step, objective_state
    return self._squares(variables, batch).sum(), batch['mask'].sum()

  def report(self, sums):
    return {'examples': int(sums[1]), 'mse': float(sums[0] / sums[1])}

  def headline(self, report):
    return f'MSE {report["mse"]:.4f}'

  def train_batches(self, start_step):
    size = self.config.batch_size
    for step in range(start_step, 10**6):
      order = np.random.default_rng((self.config.seed, step)).permutation(80)
      rows = order[:size]
      yield {'x': X[rows], 'y': Y[rows], 'mask': np.ones(size, bool)}

  def eval_batches(self, split=None):
    # Padded to 20 rows, so that some of any device's are masked.
    x, y = np.zeros((20, 3), np.float32), np.zeros(20)
    x[:16], y[:16] = X[80:], Y[80:]
    yield {'x': x, 'y': y, 'mask': np.arange(20) < 16}

  def measurement(self, devices):
    def measure(variables, split):
      w = devices.fetch(variables['params']['w'])
      return Measurement({'norm': float(np.linalg.norm(w))}, split)

    return measure


def check_contract(task):
  """Whether all members of the contract are there."""
  from maxsup_jax.training.task import Task

  members = {n for n in vars(Task) if not n.startswith('_')}
  members |= set(Task.__annotations__)
  assert all(hasattr(task, name) for name in members), members
