"""The loop, on a task that it has never heard of."""

import math
import time

import jax
import numpy as np
import pytest

from maxsup_jax import tasks
from maxsup_jax.errors import UsageError
from maxsup_jax.tasks.weights import chosen_step
from maxsup_jax.training import loop
from maxsup_jax.training.checkpoints import Checkpoints
from maxsup_jax.training.parallel import Devices
from maxsup_jax.training.run import Lengths, make_run
from maxsup_jax.training.task import Measurement
from maxsup_jax.training.workdir import Workdir
from tests.runs import assert_same_bits, last_state, timeless
from tests.training.regression import Regression, X, Y, check_contract, resolve

pytestmark = pytest.mark.usefixtures('cached_compilation')

CONFIG = {
  'duration': '60 steps',
  'batch_size': 16,
  'optimizer': {'learning_rate': 0.05, 'weight_decay': 0.0, 'momentum': 0.0},
  'schedule': {'name': 'constant'},
  'log_every': '20 steps',
  'eval_every': '30 steps',
  'checkpoint_every': '15 steps',
  'keep_checkpoints': 10,
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


def steps(path):
  with Checkpoints(path / 'checkpoints') as checkpoints:
    return checkpoints.steps()


def assert_same_run(run, a, b):
  assert_same_bits(last_state(run, a), last_state(run, b))
  assert timeless(a) == timeless(b)


def failing(step, change):
  """A task whose batch of a step is changed, or raises."""

  class Failing(Regression):
    def train_batches(self, start_step):
      batches = super().train_batches(start_step)
      for at, batch in enumerate(batches, start_step):
        yield change(batch) if at == step else batch

  return Failing


def dies(batch):
  raise KeyboardInterrupt


def test_both_tasks_have_the_contract():
  check_contract(Regression(resolve()))
  check_contract(tasks.build(tasks.resolve({})).task)


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
  lines = timeless(tmp_path / 'run')
  assert [(r['kind'], r['step']) for r in lines] == [
    ('train', 20),
    ('eval', 30),
    ('diagnostics', 30),
    ('train', 40),
    ('train', 60),
    ('eval', 60),
    ('diagnostics', 60),
  ]
  assert lines[-2].items() <= record.items()
  assert lines[1]['split'] == 'rest'
  assert lines[2]['norm'] > 0
  names = {'mse', 'learning_rate', 'grad_norm', 'param_norm', 'update_norm'}
  assert lines[0].keys() >= names
  assert steps(tmp_path / 'run') == [15, 30, 45, 60]


def test_four_devices_train_as_one_does(tmp_path):
  one, four = (
    last_state(train(tmp_path / str(n), n)[0], tmp_path / str(n))[0].params
    for n in (1, 4)
  )
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6),
    one,
    four,
  )


@pytest.mark.parametrize(
  ('step', 'changes'),
  [
    (3, {}),
    (40, {}),
    (45, {}),
    (
      59,
      {'ema_decay': 0.9, 'optimizer': {'learning_rate': 0.05, 'sam_rho': 0.1}},
    ),
  ],
)
def test_resuming_is_exact(tmp_path, step, changes):
  """In and between log windows, and before the first checkpoint."""
  run, _ = train(tmp_path / 'whole', **changes)
  with pytest.raises(KeyboardInterrupt):
    train(tmp_path / 'cut', task=failing(step, dies), **changes)
  assert steps(tmp_path / 'cut') == list(range(15, step, 15))
  train(tmp_path / 'cut', **changes)
  assert_same_run(run, tmp_path / 'whole', tmp_path / 'cut')


def unreadable(batch):
  raise UsageError('example 7 cannot be read')


def test_a_bad_training_example_costs_no_steps(tmp_path):
  run, _ = train(tmp_path / 'whole')
  for _ in range(2):  # Still bad when it is started again.
    with pytest.raises(UsageError, match='example 7 cannot be read'):
      train(tmp_path / 'cut', task=failing(25, unreadable))
    # The batch before it was on its way.
    assert steps(tmp_path / 'cut') == [15, 24]
  train(tmp_path / 'cut')
  assert_same_run(run, tmp_path / 'whole', tmp_path / 'cut')


@pytest.mark.parametrize('bad_at', [30, 60])
def test_a_bad_example_in_evaluation_costs_no_steps(tmp_path, bad_at):
  """Nor what was measured: all of that step is measured again."""

  class Failing(Regression):
    def measurement(self, devices):
      measure = super().measurement(devices)

      def failing(variables, split):
        if Workdir(path).metrics()[-1]['step'] == bad_at:
          unreadable(None)
        return measure(variables, split)

      return failing

  changes, path = {'checkpoint_every': '40 steps'}, tmp_path / 'cut'
  run, records = train(tmp_path / 'whole', **changes)
  for _ in range(2):
    with pytest.raises(UsageError, match='example 7 cannot be read'):
      train(path, task=Failing, **changes)
    assert max(steps(path)) == bad_at
  if bad_at < 60:  # Killed before the next checkpoint.
    with pytest.raises(KeyboardInterrupt):
      train(path, task=failing(35, dies), **changes)
  _, again = train(path, **changes)
  assert_same_run(run, tmp_path / 'whole', path)
  assert [r['mse'] for r in again] == [r['mse'] for r in records]


def test_what_cannot_be_written_says_where_to_go_on(tmp_path, monkeypatch):
  """At once, though checkpoints are written in the background."""
  wait = Checkpoints.wait

  def full(self):
    wait(self)
    if self.steps() == [15, 30]:
      with self._one_line_errors():
        self._saving = 30
        raise ValueError('RESOURCE_EXHAUSTED: no room')

  monkeypatch.setattr(Checkpoints, 'wait', full)
  monkeypatch.setattr(loop.Checkpoints, 'check', Checkpoints.wait)
  message = (
    r'checkpoints/30 cannot be written: no space is left on the disk \(.* MB '
    r'are free\); the last checkpoint in .*/run is that of step 30; the same '
    'command resumes'
  )
  with pytest.raises(UsageError, match=message):
    train(tmp_path / 'run')
  assert len(Workdir(tmp_path / 'run').metrics()) == 3


@pytest.mark.filterwarnings('ignore:the checkpoint')
def test_a_damaged_newest_checkpoint_costs_only_time(tmp_path):
  run, _ = train(tmp_path / 'whole')
  with pytest.raises(KeyboardInterrupt):
    train(tmp_path / 'cut', task=failing(33, dies))
  newest = tmp_path / 'cut/checkpoints/30/state/manifest.ocdbt'
  newest.write_bytes(newest.read_bytes()[:-10])
  with pytest.warns(UserWarning, match=r'checkpoints/30 is damaged'):
    train(tmp_path / 'cut')
  assert_same_run(run, tmp_path / 'whole', tmp_path / 'cut')


def test_nan_stops_the_run_and_names_the_last_good_checkpoint(tmp_path):
  poisoned = failing(33, lambda batch: batch | {'y': batch['y'] * np.nan})
  with pytest.raises(
    loop.NonFiniteError,
    match=r'is nan at step 34; the last good checkpoint is that of step 30 in ',
  ):
    train(tmp_path / 'run', task=poisoned)
  assert steps(tmp_path / 'run') == [15, 30]
  assert max(line['step'] for line in timeless(tmp_path / 'run')) == 30


def test_diverging_is_found_before_the_first_checkpoint(tmp_path):
  with pytest.raises(loop.NonFiniteError, match='no checkpoint was saved'):
    train(tmp_path / 'run', optimizer={'learning_rate': 1e30})
  assert steps(tmp_path / 'run') == []


def test_a_finished_run_is_not_trained_again(tmp_path):
  _, records = train(tmp_path / 'run')
  before = timeless(tmp_path / 'run')
  _, again = train(tmp_path / 'run', task=failing(0, dies))
  assert again == records
  assert timeless(tmp_path / 'run') == before
  files = sorted(tmp_path.rglob('*'))
  with pytest.raises(UsageError, match=r"config\.duration: '60 steps' there"):
    train(tmp_path / 'run', duration='3 steps')
  assert sorted(tmp_path.rglob('*')) == files
  (tmp_path / 'run' / 'metrics.jsonl').unlink()
  with pytest.raises(UsageError, match=r'metrics\.jsonl is gone'):
    train(tmp_path / 'run')


def test_what_depends_on_the_number_of_devices_is_said(tmp_path, capsys):
  class Dependent(failing(20, dies)):
    device_dependent = ("config.batch_norm 'per_device'",)

  line = (
    'trained on 1 devices before and on 2 now; with config.batch_norm '
    "'per_device', the results depend on their number"
  )
  for devices, resumes in ((1, False), (1, True), (2, True)):
    with pytest.raises(KeyboardInterrupt):
      train(tmp_path / 'run', devices, Dependent)
    err = capsys.readouterr().err
    assert ('resuming from the checkpoint of step 15' in err) == resumes
    assert (line in err) == (devices == 2)


def test_averaged_weights_are_evaluated_beside_the_raw(tmp_path):
  _, records = train(tmp_path / 'run', ema_decay=0.5, duration='5 steps')
  assert [r['weights'] for r in records] == ['raw', 'ema']
  assert records[0]['mse'] != records[1]['mse']
  assert all(math.isfinite(r['mse']) for r in records)


def test_the_best_checkpoint_stays_beside_the_newest(tmp_path):
  """The worst, of an error that falls; it need not be a checkpoint's step."""
  changes = {
    'keep_best': 'max mse',
    'keep_checkpoints': 1,
    'eval_every': '20 steps',
  }
  run, _ = train(tmp_path / 'whole', **changes)
  assert steps(tmp_path / 'whole') == [20, 60]
  with pytest.raises(KeyboardInterrupt):
    train(tmp_path / 'cut', task=failing(50, dies), **changes)
  assert steps(tmp_path / 'cut') == [20, 45]
  train(tmp_path / 'cut', **changes)
  assert_same_run(run, tmp_path / 'whole', tmp_path / 'cut')
  directory = Workdir(
    tmp_path / 'whole', resolve=lambda config: resolve(**config)
  )
  with Checkpoints(directory.checkpoints) as checkpoints:
    for step, expected in (
      *(('best', 20), ('latest', 60), (None, 60), ('20', 20), (20, 20)),
    ):
      assert chosen_step(directory, checkpoints, step) == expected
    with pytest.raises(UsageError, match="step is 'first'; expected"):
      chosen_step(directory, checkpoints, 'first')
  for rule, message in (
    ('mse', "expected 'max' or 'min' and a metric"),
    ('max accuracy', "the metric is 'accuracy'; expected"),
  ):
    with pytest.raises(UsageError, match=message):
      train(tmp_path / 'other', keep_best=rule)


def test_only_what_is_named_learns(tmp_path):
  changes = {'learning_rate': 0.05, 'weight_decay': 0.1, 'train_only': ('w',)}
  run, _ = train(tmp_path / 'run', optimizer=changes)
  first = run.init_state().params
  last = last_state(run, tmp_path / 'run')[0].params
  assert (last['w'] != first['w']).all()
  assert (last['b'] == first['b']).all()
  with pytest.raises(UsageError, match=r"train_only is 'x'; expected one of b"):
    train(tmp_path / 'other', optimizer={'train_only': ('x',)})


def test_another_dataset_under_the_same_name_is_refused(tmp_path):
  class Smaller(Regression):
    train_examples = 64

  with pytest.raises(KeyboardInterrupt):
    train(tmp_path / 'run', task=failing(20, dies))
  with pytest.raises(UsageError, match=r'64 examples; .* started with 80'):
    train(tmp_path / 'run', task=Smaller)


def test_the_compiling_step_has_no_rate(tmp_path):
  train(tmp_path / 'run', duration='3 steps', log_every='1 step')
  rates = [
    r['rows_per_second']
    for r in Workdir(tmp_path / 'run').metrics()
    if r['kind'] == 'train'
  ]
  assert rates[0] is None
  assert all(rate > 0 for rate in rates[1:])


def test_time_that_is_measured_in_is_not_training(tmp_path):
  class Slow(Regression):
    def measurement(self, devices):
      def measure(variables, split):
        time.sleep(1)
        return Measurement({}, 'slow')

      return measure

  changes = {'log_every': '2 steps', 'diagnostics_every': '2 steps'}
  train(tmp_path / 'run', task=Slow, duration='4 steps', **changes)
  lines = Workdir(tmp_path / 'run').metrics()
  (last,) = (r for r in lines if (r['kind'], r['step']) == ('train', 4))
  # Two steps between two lines; the second in between does not count.
  assert 2 * CONFIG['batch_size'] / last['rows_per_second'] < 0.8
