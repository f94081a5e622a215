import dataclasses
import math

import jax
import numpy as np
import pytest

from maxsup_jax import data, tasks
from maxsup_jax.errors import UsageError
from maxsup_jax.tasks import resolve
from maxsup_jax.tasks.classification import Classification
from maxsup_jax.training import loop
from maxsup_jax.training.checkpoints import Checkpoints
from maxsup_jax.training.parallel import Devices
from maxsup_jax.training.workdir import Workdir
from tests.runs import assert_same_bits, last_state, timeless

pytestmark = pytest.mark.usefixtures('cached_compilation')

CONFIG = {
  'duration': '20 steps',
  'batch_size': 32,
  'dataset': {
    'name': 'digits',
    'in_memory': True,
    'train_transform': 'pad_and_crop(1)',
  },
  'model': {'name': 'resnet8', 'width': 4},
  'optimizer': {'learning_rate': 0.05},
  'log_every': '4 steps',
  'eval_every': '10 steps',
  'checkpoint_every': '5 steps',
  'keep_checkpoints': 10,
}


@pytest.fixture
def train(data_dir):
  def train(path, devices=1, **changes):
    run = tasks.build(
      resolve(CONFIG | changes),
      data_dir=data_dir,
      devices=Devices(jax.devices()[:devices]),
    )
    return run, loop.train(run, Workdir(path))

  return train


def interrupt_at(monkeypatch, step):
  """Makes the data end in an error before a step."""
  batches = Classification.train_batches

  def ending(self, start_step):
    for i, batch in enumerate(batches(self, start_step), start_step):
      if i == step:
        raise KeyboardInterrupt
      yield batch

  monkeypatch.setattr(Classification, 'train_batches', ending)


def test_writes_what_it_promises(train, tmp_path):
  run, records = train(tmp_path / 'run')
  lines = timeless(tmp_path / 'run')
  found = [(line['kind'], line['step']) for line in lines]
  assert found == [
    ('train', 4),
    ('train', 8),
    ('eval', 10),
    ('train', 12),
    ('train', 16),
    ('train', 20),
    ('eval', 20),
  ]
  assert lines[-1].items() <= records[0].items()
  assert lines[0].keys() >= {
    'nll',
    'accuracy',
    'top5',
    'objective',
    'learning_rate',
    'grad_norm',
    'param_norm',
    'update_norm',
    'epoch',
  }
  # What is reported as NLL is plain cross-entropy; MaxSup only adds to it.
  assert all(line['objective'] > line['nll'] for line in lines)
  schedule = np.mean([float(run.learning_rate(s)) for s in range(4)])
  assert lines[0]['learning_rate'] == pytest.approx(schedule, rel=1e-6)
  assert lines[-1]['examples'] == len(run.task.eval_source)
  checkpoints = Checkpoints(tmp_path / 'run' / 'checkpoints')
  assert checkpoints.steps() == [5, 10, 15, 20]


def test_a_finished_run_is_not_trained_again(train, tmp_path, monkeypatch):
  _, records = train(tmp_path / 'run')
  before = timeless(tmp_path / 'run')
  interrupt_at(monkeypatch, 0)
  _, again = train(tmp_path / 'run')
  assert again == records
  assert timeless(tmp_path / 'run') == before


def test_resuming_is_exact_with_an_objective_that_has_state(
  train, tmp_path, monkeypatch
):
  """Within the second epoch: statistics and soft labels are restored."""
  changes = {
    'objective': {'name': 'ols', 'initial': 'smoothed'},
    'batch_size': 200,
  }
  run, _ = train(tmp_path / 'whole', **changes)
  assert run.steps_per_epoch == 7
  with monkeypatch.context() as patch:
    interrupt_at(patch, 12)
    with pytest.raises(KeyboardInterrupt):
      train(tmp_path / 'cut', **changes)
  train(tmp_path / 'cut', **changes)
  whole, cut = (last_state(run, tmp_path / x) for x in ('whole', 'cut'))
  assert_same_bits(whole, cut)
  assert timeless(tmp_path / 'whole') == timeless(tmp_path / 'cut')
  state = whole[0].objective_state
  # Step 20 is the sixth of the third epoch.
  assert 0 < state.counts.sum() <= 6 * 200
  np.testing.assert_allclose(state.targets.sum(-1), 1, rtol=1e-5)
  assert not np.allclose(state.targets, run.task.objective.init().targets)


@pytest.mark.parametrize('step', [3, 6, 10, 19])
def test_resuming_is_exact(train, tmp_path, monkeypatch, step):
  """In and between log windows, and before the first checkpoint."""
  run, _ = train(tmp_path / 'whole')
  with monkeypatch.context() as patch:
    interrupt_at(patch, step)
    with pytest.raises(KeyboardInterrupt):
      train(tmp_path / 'cut')
  train(tmp_path / 'cut')
  assert_same_bits(
    last_state(run, tmp_path / 'whole'), last_state(run, tmp_path / 'cut')
  )
  assert timeless(tmp_path / 'whole') == timeless(tmp_path / 'cut')


@pytest.mark.parametrize(
  ('bad_at', 'bad'), [(8, 2), pytest.param(20, 1, marks=pytest.mark.slow)]
)
def test_a_bad_image_in_evaluation_costs_no_steps(
  train, tmp_path, monkeypatch, bad_at, bad
):
  """In the diagnostics after an evaluation, and after the last step."""
  changes = {
    'eval_every': '4 steps',
    'checkpoint_every': '6 steps',
    'diagnostics_every': '4 steps',
  }
  batches, passes, path = Classification.eval_batches, [], tmp_path / 'cut'
  fails_at = None

  def failing(self, *args, **kwargs):
    passes.append(1)
    if len(passes) == fails_at:
      raise UsageError('example 7 cannot be read')
    return batches(self, *args, **kwargs)

  with monkeypatch.context() as patch:
    patch.setattr(Classification, 'eval_batches', failing)
    run, records = train(tmp_path / 'whole', **changes)
    fails_at = len(passes) // 5 * (bad_at // 4 - 1) + bad
    for _ in range(2):  # Still bad when it is started again.
      passes.clear()
      with pytest.raises(UsageError, match='example 7 cannot be read'):
        train(path, **changes)
      checkpoints = Checkpoints(path / 'checkpoints')
      assert max(checkpoints.steps()) == bad_at
      checkpoints.close()
      fails_at = bad
  if bad_at < 20:  # Interrupted before the next checkpoint.
    with monkeypatch.context() as patch:
      interrupt_at(patch, bad_at + 1)
      with pytest.raises(KeyboardInterrupt):
        train(path, **changes)
  _, again = train(path, **changes)
  whole, cut = last_state(run, tmp_path / 'whole'), last_state(run, path)
  assert_same_bits(whole, cut)
  assert timeless(tmp_path / 'whole') == timeless(path)
  assert [r['nll'] for r in again] == [r['nll'] for r in records]


@pytest.mark.filterwarnings('ignore:the checkpoint')
def test_a_damaged_newest_checkpoint_costs_only_time(
  train, tmp_path, monkeypatch
):
  run, _ = train(tmp_path / 'whole')
  with monkeypatch.context() as patch:
    interrupt_at(patch, 13)
    with pytest.raises(KeyboardInterrupt):
      train(tmp_path / 'cut')
  newest = tmp_path / 'cut/checkpoints/10/state/manifest.ocdbt'
  newest.write_bytes(newest.read_bytes()[:-10])
  with pytest.warns(UserWarning, match=r'checkpoints/10 is damaged'):
    train(tmp_path / 'cut')
  assert_same_bits(
    last_state(run, tmp_path / 'whole'), last_state(run, tmp_path / 'cut')
  )
  assert timeless(tmp_path / 'whole') == timeless(tmp_path / 'cut')


def test_nan_stops_the_run_and_names_the_last_good_checkpoint(
  train, tmp_path, monkeypatch
):
  batches = Classification.train_batches

  def poisoned(self, start_step):
    for i, batch in enumerate(batches(self, start_step), start_step):
      image = batch['image'].astype(np.float32)
      yield batch | {'image': np.where(i == 13, np.nan, image)}

  monkeypatch.setattr(Classification, 'train_batches', poisoned)
  path = tmp_path / 'run'
  with pytest.raises(
    loop.NonFiniteError,
    match=r'is nan at step 14; the last good checkpoint is that of step 10 in ',
  ):
    train(path)
  assert Checkpoints(path / 'checkpoints').steps() == [5, 10]
  assert max(line['step'] for line in timeless(path)) == 12


def test_diverging_is_found_before_the_first_checkpoint(train, tmp_path):
  with pytest.raises(loop.NonFiniteError, match='no checkpoint was saved'):
    train(tmp_path / 'run', optimizer={'learning_rate': 1e30})
  assert Checkpoints(tmp_path / 'run' / 'checkpoints').steps() == []


def test_another_config_is_refused(train, tmp_path):
  train(tmp_path / 'run', duration='2 steps')
  before = sorted(tmp_path.rglob('*'))
  with pytest.raises(UsageError, match=r"config\.duration: '2 steps' there"):
    train(tmp_path / 'run', duration='3 steps')
  assert sorted(tmp_path.rglob('*')) == before


def test_what_depends_on_the_number_of_devices_is_said(
  train, tmp_path, monkeypatch, capsys
):
  changes = {'batch_norm': 'per_device', 'duration': '8 steps'}
  line = (
    'trained on 1 devices before and on 2 now; with config.batch_norm '
    "'per_device', the results depend on their number"
  )
  interrupt_at(monkeypatch, 6)
  for devices, resumes in ((1, False), (1, True), (2, True)):
    with pytest.raises(KeyboardInterrupt):
      train(tmp_path / 'run', devices=devices, **changes)
    err = capsys.readouterr().err
    assert ('resuming from the checkpoint of step 5' in err) == resumes
    assert (line in err) == (devices == 2)


def test_what_depends_on_the_number_of_devices(data_dir):
  norm, vit = {'batch_norm': 'per_device'}, {'name': 'vit_tiny'}
  sam = {'learning_rate': 0.1, 'sam_rho': 0.05, 'sam_synced': False}
  synced = {'optimizer': sam | {'sam_synced': True}}
  for changes, found in (
    ({}, ()),
    (norm, ("config.batch_norm 'per_device'",)),
    (norm | {'model': vit | {'patch_size': 4}}, ()),
    (synced, ()),
    ({'optimizer': sam}, ('config.optimizer.sam_synced False',)),
  ):
    run = tasks.build(resolve(CONFIG | changes), data_dir=data_dir)
    assert run.device_dependent == found


def test_averaged_weights_are_evaluated_beside_the_raw(train, tmp_path):
  _, records = train(tmp_path / 'run', ema_decay=0.5, duration='5 steps')
  assert [r['weights'] for r in records] == ['raw', 'ema']
  assert records[0]['nll'] != records[1]['nll']
  assert all(math.isfinite(r['nll']) for r in records)


@pytest.mark.parametrize('name', ['ce', 'ls', 'maxsup'])
def test_objectives_train_with_a_schedule_of_alpha(train, tmp_path, name):
  objective = {'name': name}
  if name != 'ce':
    objective['alpha'] = {
      'schedule': 'linear',
      'begin': 0.1,
      'end': 0.2,
      'denominator': 'epochs',
    }
  _, records = train(tmp_path / 'run', objective=objective, duration='5 steps')
  gap = records[0]['objective'] - records[0]['nll']
  assert (gap == 0) == (name == 'ce')


@pytest.mark.parametrize(
  'objective',
  [
    {'name': 'zipf', 'ranking': 'votes'},
    {'name': 'ce', 'class_weights': [1.0] * 9 + [5.0]},
    {
      'name': 'mbls',
      'margin': 0.0,
      'class_weights': [2.0] * 10,
      'class_weights_mean': 'weights',
    },
  ],
)
def test_objectives_with_more_than_logits_and_labels(
  train, tmp_path, objective
):
  _, records = train(tmp_path / 'run', objective=objective, duration='5 steps')
  gap = records[0]['objective'] - records[0]['nll']
  assert math.isfinite(gap)
  assert gap > 0


def test_what_the_program_cannot_give_an_objective_is_refused(train, tmp_path):
  resnet, vit = {'name': 'resnet8'}, {'name': 'vit_tiny', 'patch_size': 4}
  for objective, model, message in (
    ({'name': 'distillation'}, resnet, "'distillation' needs the logits of"),
    (
      {'name': 'zipf', 'ranking': 'votes'},
      vit,
      "needs a model with a feature map; 'vit_tiny' has none",
    ),
    (
      {'name': 'ce', 'class_weights': [1.0, 2.0]},
      resnet,
      r'class_weights is \[1.0, 2.0\]; expected 10 numbers',
    ),
  ):
    with pytest.raises(UsageError, match=message):
      train(tmp_path / 'run', objective=objective, model=model)
  assert not (tmp_path / 'run').exists()


def test_another_dataset_under_the_same_name_is_refused(
  train, tmp_path, monkeypatch
):
  with monkeypatch.context() as patch:
    interrupt_at(patch, 7)
    with pytest.raises(KeyboardInterrupt):
      train(tmp_path / 'run')
  build = tasks.build

  def smaller(*args, **kwargs):
    run = build(*args, **kwargs)
    images = np.zeros((900, 8, 8, 1), np.uint8)
    source = data.ArraySource(images, np.zeros(900, int), num_classes=10)
    task = dataclasses.replace(run.task, train_source=source)
    return dataclasses.replace(run, task=task)

  monkeypatch.setattr(tasks, 'build', smaller)
  with pytest.raises(UsageError, match=r'900 examples; .* started with 1442'):
    train(tmp_path / 'run')


def test_the_compiling_step_has_no_rate(train, tmp_path):
  train(tmp_path / 'run', duration='3 steps', log_every='1 step')
  rates = [
    r['images_per_second']
    for r in Workdir(tmp_path / 'run').metrics()
    if r['kind'] == 'train'
  ]
  assert rates[0] is None
  assert all(rate > 0 for rate in rates[1:])


def test_a_finished_run_without_its_metrics_says_so(train, tmp_path):
  train(tmp_path / 'run', duration='2 steps')
  (tmp_path / 'run' / 'metrics.jsonl').unlink()
  with pytest.raises(UsageError, match=r'metrics\.jsonl is gone'):
    train(tmp_path / 'run', duration='2 steps')
