"""The loop trains a task that it has never heard of."""

import jax
import numpy as np
import pytest

from maxsup_jax import tasks
from maxsup_jax.training import loop
from maxsup_jax.training.checkpoints import Checkpoints
from maxsup_jax.training.parallel import Devices
from maxsup_jax.training.run import Lengths, make_run
from maxsup_jax.training.workdir import Workdir
from tests.runs import assert_same_bits, last_state, timeless
from tests.training.regression import Regression, X, Y, check_contract, resolve

CONFIG = {
  'duration': '60 steps',
  'batch_size': 16,
  'optimizer': {'learning_rate': 0.05, 'weight_decay': 0.0, 'momentum': 0.0},
  'schedule': {'name': 'constant'},
  'log_every': '20 steps',
  'eval_every': '30 steps',
  'checkpoint_every': '15 steps',
  'diagnostics_every': '30 steps',
}


def train(path, devices=1, task=Regression, **changes):
  config = resolve(**CONFIG | changes)
  run = make_run(
    config,
    task(config),
    Lengths.of(config, 80 // config.batch_size),
    Devices(jax.devices()[:devices]),
  )
  return run, loop.train(run, Workdir(path))


class Dying(Regression):
  """Ends in an error before a step."""

  def train_batches(self, start_step):
    for step, batch in enumerate(super().train_batches(start_step), start_step):
      if step == 40:
        raise KeyboardInterrupt
      yield batch


def test_both_tasks_have_the_contract():
  check_contract(Regression(resolve()))
  run = tasks.build(tasks.resolve({}))
  check_contract(run.task)


@pytest.mark.parametrize('devices', [1, 4])
def test_it_learns_and_reports(tmp_path, devices):
  run, records = train(tmp_path / 'run', devices)
  (record,) = records
  state, _ = last_state(run, tmp_path / 'run')
  error = X[80:] @ state.params['w'] + state.params['b'] - Y[80:]
  assert record['mse'] == pytest.approx((error**2).mean(), rel=1e-5)
  assert record['mse'] < 0.05
  assert record['examples'] == 16
  assert int(state.objective_state) == 60
  kinds = [(r['kind'], r['step']) for r in timeless(tmp_path / 'run')]
  assert kinds == [
    ('train', 20),
    ('eval', 30),
    ('diagnostics', 30),
    ('train', 40),
    ('train', 60),
    ('eval', 60),
    ('diagnostics', 60),
  ]
  lines = Workdir(tmp_path / 'run').metrics()
  assert lines[1]['split'] == 'rest'
  assert lines[2]['norm'] > 0
  assert 'rows_per_second' in lines[0]


@pytest.mark.parametrize(
  'changes',
  [
    {},
    {'ema_decay': 0.9, 'optimizer': {'learning_rate': 0.05, 'sam_rho': 0.1}},
  ],
)
def test_killed_and_resumed_it_ends_with_the_same_bits(tmp_path, changes):
  run, _ = train(tmp_path / 'whole', **changes)
  with pytest.raises(KeyboardInterrupt):
    train(tmp_path / 'cut', task=Dying, **changes)
  assert Checkpoints(tmp_path / 'cut' / 'checkpoints').steps() == [15, 30]
  train(tmp_path / 'cut', **changes)
  assert_same_bits(
    last_state(run, tmp_path / 'whole'), last_state(run, tmp_path / 'cut')
  )
  assert timeless(tmp_path / 'whole') == timeless(tmp_path / 'cut')


def test_four_devices_train_as_one_does(tmp_path):
  states = []
  for devices in (1, 4):
    run, _ = train(tmp_path / str(devices), devices)
    states.append(last_state(run, tmp_path / str(devices))[0])
  one, four = states
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6),
    one.params,
    four.params,
  )
