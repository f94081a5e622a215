"""From a configuration to splits, transforms and the shapes that they give."""

import json
import re

import jax
import numpy as np
import pytest

from maxsup_jax import data, tasks
from maxsup_jax.errors import UsageError
from maxsup_jax.tasks import inputs, metrics, resolve
from maxsup_jax.tasks.mixing import Mixing
from maxsup_jax.training import loop
from maxsup_jax.training import run as run_lib
from maxsup_jax.training.parallel import Devices
from maxsup_jax.training.workdir import Workdir

TINY = {
  'duration': '4 steps',
  'batch_size': 32,
  'dataset': {'name': 'digits', 'in_memory': True},
  'model': {'name': 'tests.nets:Small'},
  'eval_every': '4 steps',
  'checkpoint_every': '4 steps',
  'log_every': '4 steps',
}


def build(data_dir, **changes):
  dataset = TINY['dataset'] | changes.pop('dataset', {})
  return tasks.build(
    resolve(TINY | {'dataset': dataset} | changes),
    data_dir=data_dir,
    devices=Devices(jax.devices()[:1]),
  )


class Varying:
  """Images of three sizes."""

  name, num_classes, label_names, image_shape = 'varying', 3, None, None

  def __len__(self):
    return 3

  def __getitem__(self, index):
    size = [(9, 30), (30, 9), (5, 5)][index]
    return {'image': np.zeros((*size, 3), np.uint8), 'label': index}


def own_sources(channels=3):
  rng = np.random.default_rng(0)
  return [
    data.ArraySource(
      rng.integers(0, 256, (n, 6, 6, channels), np.uint8),
      np.arange(n) % 5,
      num_classes=5,
      name=f'own {n}',
    )
    for n in (40, 16)
  ]


def test_sources_of_the_users_own_replace_the_dataset():
  train, evaluation = own_sources()
  config = resolve(TINY | {'dataset': {'name': 'not there'}})
  run = tasks.build(config, sources=(train, evaluation))
  assert (run.task.train_source, run.task.eval_source) == (train, evaluation)
  assert run.task.model.num_classes == 5
  assert run.task.image_shape == run.task.eval_shape == (6, 6, 3)
  assert run.steps_per_epoch == 1
  run = tasks.build(config, sources=(train, evaluation), eval_split='train')
  assert run.task.eval_source is train


def test_a_tail_is_made_of_the_users_own_source():
  config = resolve(TINY | {'batch_size': 4, 'dataset': {'imbalance': 0.5}})
  run = tasks.build(config, sources=own_sources())
  assert run.task.train_source.counts == (8, 6, 5, 4, 4)


def test_a_mean_that_is_not_for_the_users_own_source():
  config = resolve(TINY | {'dataset': {'mean': (0.5, 0.5)}})
  with pytest.raises(UsageError, match='2 numbers; the images of own 40 have'):
    tasks.build(config, sources=own_sources())


@pytest.mark.parametrize(
  ('text', 'shape'),
  [
    ('resize(8) | center_crop(6)', (6, 6, 3)),
    ('random_resized_crop(7)', (7, 7, 3)),
    ('resize_exact(4, 5) | standardize', (4, 5, 3)),
    ('center_crop(64)', (64, 64, 3)),  # Padded, as in torchvision.
  ],
)
def test_shapes_of_varying_images(text, shape):
  transform = data.parse_transform(text)
  assert inputs.output_shape(Varying(), transform, 'eval_transform') == shape


@pytest.mark.parametrize('text', ['', 'flip', 'resize(8)', 'pad_and_crop(2)'])
def test_images_that_still_vary(text):
  transform = data.parse_transform(text)
  with pytest.raises(UsageError, match='varying differ in size; set') as error:
    inputs.output_shape(Varying(), transform, 'train_transform')
  assert 'end config.dataset.train_transform with one size' in str(error.value)
  assert '\n' not in str(error.value)


def test_crops_that_do_not_fit(data_dir):
  with pytest.raises(UsageError, match=r'train_transform .*8x8.*random_crop'):
    build(data_dir, dataset={'train_transform': 'random_crop(9)'})


def test_training_and_evaluation_see_their_transforms(data_dir):
  run = build(
    data_dir,
    dataset={
      'train_transform': 'random_crop(6)',
      'eval_transform': 'resize(16)',
    },
  )
  assert run.task.image_shape == (6, 6, 1)
  assert run.task.eval_shape == (16, 16, 1)
  train, evaluated = (
    next(run.task.train_batches(0)),
    next(run.task.eval_batches()),
  )
  assert (train['image'].dtype, train['image'].shape) == (
    np.uint8,
    (32, 6, 6, 1),
  )
  assert evaluated['image'].dtype == np.uint8
  run = build(
    data_dir,
    dataset={
      'train_transform': 'tf_distort | standardize',
      'eval_transform': 'standardize',
    },
  )
  evaluated = next(run.task.eval_batches())
  assert evaluated['image'].dtype == np.float32
  np.testing.assert_allclose(evaluated['image'].mean((1, 2, 3)), 0, atol=1e-5)
  np.testing.assert_allclose(evaluated['image'].std((1, 2, 3)), 1, atol=1e-5)


@pytest.mark.parametrize(
  ('train', 'evaluated', 'message'),
  [
    (
      'tf_distort | flip',
      '',
      "train_transform is 'tf_distort .* not normalise",
    ),
    ('standardize | tf_distort', 'standardize', 'train_transform .* normalis'),
    ('tf_distort | standardize', '', 'dataset.train_transform standardises'),
    ('flip', 'standardize', 'eval_transform standardises .* train_transform'),
  ],
)
def test_training_and_evaluation_see_one_scale(train, evaluated, message):
  dataset = {'train_transform': train, 'eval_transform': evaluated}
  with pytest.raises(UsageError, match=message) as error:
    inputs.parse_transforms(resolve(TINY | {'dataset': dataset}))
  assert '\n' not in str(error.value)
  assert "add '| standardize'" in str(error.value)


def test_transforms_know_the_statistics():
  dataset = {
    'train_transform': "rand_augment('m9') | random_erasing(1.0)",
    'mean': (0.1, 0.2, 0.3),
    'std': (0.4, 0.5, 0.6),
  }
  transform, _ = inputs.parse_transforms(resolve(TINY | {'dataset': dataset}))
  augment, erase = transform.operations
  assert augment.mean == erase.mean == (0.1, 0.2, 0.3)
  assert erase.std == (0.4, 0.5, 0.6)


def test_what_may_fail_where_sizes_vary():
  transform = data.parse_transform('random_crop(32)')
  with pytest.raises(
    UsageError,
    match=r'^the images of varying vary in size, and config\.dataset\.'
    r'train_transform would fail for one of 1x2 .*; set .*image_size, or start',
  ):
    inputs.output_shape(Varying(), transform, 'train_transform')


def test_a_long_tail_is_reported_by_shots(data_dir, tmp_path):
  run = build(data_dir, dataset={'imbalance': 0.15})
  counts = run.task.train_source.counts
  assert len(run.task.train_source) == sum(counts)
  assert len(run.task.eval_source) == 355  # Evaluation keeps all.
  (record,) = loop.train(run, Workdir(tmp_path / 'run'))
  groups = {
    'many': [k for k, n in enumerate(counts) if n > 100],
    'medium': [k for k, n in enumerate(counts) if 20 <= n <= 100],
    'few': [k for k, n in enumerate(counts) if n < 20],
  }
  assert not groups['few']
  labels = run.task.eval_source.labels()
  sizes = {n: np.isin(labels, ids).sum() for n, ids in groups.items()}
  assert record['accuracy_few'] is None  # Not 0: there is nothing to average.
  total = sum(
    record[f'accuracy_{name}'] * sizes[name] for name in ('many', 'medium')
  )
  assert total / 355 == pytest.approx(record['accuracy'], abs=1e-6)
  lines = (tmp_path / 'run' / 'metrics.jsonl').read_text().splitlines()
  assert json.loads(lines[-1])['accuracy_few'] is None
  assert re.search(r'few shots +undefined', metrics.table([record]))


def test_mock_examples_are_called_made_up(data_dir):
  run = build(
    data_dir,
    dataset={'name': 'cifar10', 'mock': 40},
    model={'name': 'resnet8', 'width': 4},
  )
  assert '40 training images (random, made up)' in run.summary()
  assert 'random' not in build(data_dir).summary()


@pytest.fixture(scope='module')
def trained(data_dir, tmp_path_factory):
  path = tmp_path_factory.mktemp('runs') / 'trained'
  loop.train(build(data_dir), Workdir(path))
  return path


def test_every_field_reaches_its_step(data_dir, monkeypatch):
  """What a run builds its steps from; what they do is tested elsewhere."""
  told = {}
  monkeypatch.setattr(
    run_lib.step, 'make_train_step', lambda *a, **k: told.update(step=k)
  )
  monkeypatch.setattr(
    run_lib, 'make_optimizer', lambda **k: told.update(optimizer=k)
  )
  monkeypatch.setattr(
    run_lib, 'learning_rate_schedule', lambda *a, **k: told.update(schedule=k)
  )
  monkeypatch.setattr(run_lib.Run, 'init_state', lambda self: None)
  run = build(
    data_dir,
    seed=3,
    loss_scale=3.0,
    ema_decay=0.5,
    ema_warmup='tensorflow',
    accumulate=2,
    mixing={'mixup': 0.8, 'cutmix': 1.0, 'switch': 0.25, 'mode': 'pair'},
    dataset={'mean': (0.3,), 'std': (0.4,), 'imbalance': 0.5},
    optimizer={
      'sam_rho': 0.2,
      'sam_synced': False,
      'clip_value': 1.5,
      'clip_norm': 2.0,
      'clip_decayed': True,
      'weight_decay': 0.25,
      'decay': ('kernel', 'bias'),
      'decay_layers': ('head',),
    },
    schedule={'per': 'epoch', 'cosine_from': 'start'},
    model={'name': 'resnet8', 'width': 4},
  )
  assert told['step'] == {
    'seed': 3,
    'accumulate': 2,
    'ema_decay': 0.5,
    'ema_warmup': 'tensorflow',
    'loss_scale': 3.0,
    'sam_rho': 0.2,
    'sam_synced': False,
    'sam_clip_value': 1.5,
    'train_only': (),
  }
  assert run.task.mixing == Mixing(
    mixup=0.8, cutmix=1.0, switch=0.25, mode='pair'
  )
  assert run.task.groups
  optimizer = told['optimizer']
  assert (optimizer['clip_value'], optimizer['clip_norm']) == (1.5, 2.0)
  assert (optimizer['clip_decayed'], optimizer['weight_decay']) == (True, 0.25)
  decayed = jax.tree_util.tree_leaves_with_path(optimizer['decay_mask'])
  assert {path[0].key for path, decays in decayed if decays} == {'head'}
  assert sum(decays for _, decays in decayed) == 2
  schedule = told['schedule']
  assert (schedule['per'], schedule['cosine_from']) == ('epoch', 'start')
  assert schedule['steps_per_epoch'] == run.steps_per_epoch


def test_the_training_split_is_the_same_set_in_evaluation(data_dir):
  run = tasks.build(
    resolve(TINY | {'dataset': TINY['dataset'] | {'imbalance': 0.2}}),
    data_dir=data_dir,
    eval_split='train',
    training=False,
  )
  assert len(run.task.eval_source) == len(run.task.train_source) < 1000


@pytest.mark.usefixtures('cached_compilation')
class TestInitFrom:
  def test_starts_with_these_weights(self, trained, data_dir, tmp_path):
    run = build(
      data_dir, init_from=str(trained), optimizer={'learning_rate': 1e-30}
    )
    loop.train(run, Workdir(tmp_path / 'tuned'))
    fresh = run.init_state()
    first = run.first_state()
    assert int(first.step) == 0
    before = jax.tree.leaves(fresh.params), jax.tree.leaves(first.params)
    assert any((a != b).any() for a, b in zip(*before))
    (start,) = json.loads((tmp_path / 'tuned/run.json').read_text())['starts']
    assert start['init_from'] == {'path': str(trained), 'step': 4}

  @pytest.mark.slow
  def test_resuming_needs_them_no_more(self, trained, data_dir, tmp_path):
    import shutil

    source = tmp_path / 'source'
    shutil.copytree(trained, source)
    run = build(data_dir, init_from=str(source))
    loop.train(run, Workdir(tmp_path / 'tuned'))
    shutil.rmtree(source)
    again = build(data_dir, init_from=str(source))
    assert loop.train(again, Workdir(tmp_path / 'tuned'))

  @pytest.mark.parametrize(
    ('width', 'message'),
    [(8, 'width is None there and 8 here'), (4, 'not the work directory')],
  )
  def test_refuses_before_it_writes(
    self, trained, data_dir, tmp_path, width, message
  ):
    path = trained if width == 8 else tmp_path / 'nothing'
    run = build(
      data_dir,
      init_from=str(path),
      model={'name': 'tests.nets:Small', 'width': width},
    )
    with pytest.raises(UsageError, match=message):
      loop.train(run, Workdir(tmp_path / 'run'))
    assert not (tmp_path / 'run').exists()
