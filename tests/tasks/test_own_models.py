"""Modules of a user's own, by their names."""

import jax
import numpy as np
import pytest
from flax import linen as nn

from maxsup_jax import outputs, tasks
from maxsup_jax.errors import UsageError
from maxsup_jax.tasks.extraction import extract
from maxsup_jax.training import loop
from maxsup_jax.training.parallel import Devices

pytestmark = pytest.mark.usefixtures('cached_compilation')


class Perceptron(nn.Module):
  """Logits alone, with dropout and BatchNorm as Flax has them."""

  num_classes: int
  width: int = 8

  @nn.compact
  def __call__(self, images, train=False):
    x = nn.Dense(self.width)(images.reshape(len(images), -1))
    x = nn.relu(nn.BatchNorm(use_running_average=not train)(x))
    x = nn.Dropout(0.5, deterministic=not train)(x)
    return nn.Dense(self.num_classes, name='top')(x)


class NoTrain(nn.Module):
  num_classes: int = 10

  @nn.compact
  def __call__(self, images):
    return nn.Dense(self.num_classes)(images.reshape(len(images), -1))


def broken(num_classes):
  raise RuntimeError(f'no such backbone\nof {num_classes}')


class WithFeatures(nn.Module):
  num_classes: int

  @nn.compact
  def __call__(self, images, train=False):
    x = nn.tanh(nn.Dense(6)(images.reshape(len(images), -1)))
    return nn.Dense(self.num_classes, name='head')(x), {'penultimate': x}


class Normalised(nn.Module):
  num_classes: int

  @nn.compact
  def __call__(self, images, train=False):
    x = images.reshape(len(images), -1)
    x = nn.BatchNorm(use_running_average=not train, name='norm')(x)
    return nn.Dense(self.num_classes, name='head')(x), {'penultimate': x}


class HeadAlone(nn.Module):
  num_classes: int

  @nn.compact
  def __call__(self, images, train=False):
    return nn.Dense(self.num_classes, name='head')(
      images.reshape(len(images), -1)
    )


class Raises(nn.Module):
  num_classes: int
  when: bool = False

  @nn.compact
  def __call__(self, images, train=False):
    if train == self.when:
      images = images.no_such_attribute
    return nn.Dense(self.num_classes)(images.reshape(len(images), -1))


def wrong_shape(num_classes):
  return Perceptron(num_classes + 1)


def no_module(num_classes):
  return 'a text'


HERE = 'tests.tasks.test_own_models'
CONFIG = {
  'duration': '4 steps',
  'batch_size': 32,
  'eval_batch_size': 355,
  'dataset': {'name': 'digits', 'mean': (0.3,), 'std': (0.4,)},
  'model': {'name': f'{HERE}:Perceptron', 'width': 4},
  'checkpoint_every': '2 steps',
  'optimizer': {'learning_rate': 0.01},
}


def build(data_dir, **changes):
  return tasks.build(
    tasks.resolve(CONFIG | changes),
    data_dir=data_dir,
    devices=Devices(jax.devices()[:1]),
  )


def test_logits_alone_are_enough(data_dir, tmp_path):
  run = build(data_dir)
  params = run.shapes.params
  assert params['top']['kernel'].shape == (4, 10)
  assert params.keys() == {'Dense_0', 'BatchNorm_0', 'top'}
  directory = tasks.open_workdir(tmp_path / 'run', writes=True)
  (record,) = loop.train(run, directory)
  loaded = tasks.load_run(tmp_path / 'run', data_dir=data_dir)
  assert loaded.evaluate()[0]['nll'] == pytest.approx(record['nll'], rel=1e-5)
  found = outputs.read(extract(loaded, tmp_path / 'test.npz').path)
  assert (found.features, found.weights) == (None, None)
  assert (found.logits.argmax(1) == found.labels).mean() == record['accuracy']
  # What needs features says so.
  with pytest.raises(UsageError, match='needs a linear classifier'):
    build(data_dir, diagnostics_every='2 steps')
  with pytest.raises(UsageError, match="gives no 'penultimate'"):
    build(
      data_dir,
      model={'name': f'{HERE}:HeadAlone'},
      diagnostics_every='2 steps',
    )
  teacher = {'teacher': str(tmp_path / 'run')}
  with pytest.raises(UsageError, match="has no linear layer 'head'"):
    build(data_dir, objective={'name': 'distillation'}, **teacher)


def test_features_are_used_where_they_are(data_dir, tmp_path):
  name = f'{HERE}:WithFeatures'
  run = build(data_dir, model={'name': name}, diagnostics_every='4 steps')
  directory = tasks.open_workdir(tmp_path / 'run', writes=True)
  loop.train(run, directory)
  kinds = [r['kind'] for r in directory.metrics()]
  assert kinds.count('diagnostics') == 2
  loaded = tasks.load_run(tmp_path / 'run', data_dir=data_dir)
  found = outputs.read(extract(loaded, tmp_path / 'test.npz').path)
  assert found.linear
  assert found.features.shape == (355, 6)
  np.testing.assert_array_equal(
    found.weights.T, loaded.variables['params']['head']['kernel']
  )


def test_a_probe_leaves_what_it_reads_alone(data_dir, tmp_path):
  optimizer = {'learning_rate': 0.01, 'weight_decay': 0.1, 'decay': ('kernel',)}
  model = {'name': f'{HERE}:Normalised'}
  states = []
  for name, only in (('all', ()), ('probe', ('head',))):
    run = build(
      data_dir, model=model, optimizer={**optimizer, 'train_only': only}
    )
    loop.train(run, tasks.open_workdir(tmp_path / name, writes=True))
    loaded = tasks.load_run(tmp_path / name, data_dir=data_dir)
    states.append(loaded.variables)
  begin = run.init_state().variables()
  every, probe = states
  assert (every['params']['norm']['scale'] != 1).any()
  np.testing.assert_array_equal(probe['params']['norm']['scale'], 1)
  jax.tree.map(
    np.testing.assert_array_equal, probe['batch_stats'], begin['batch_stats']
  )
  kernels = [v['params']['head']['kernel'] for v in (begin, probe)]
  assert (kernels[0] != kernels[1]).any()


@pytest.mark.parametrize(
  ('model', 'message'),
  [
    ({'name': 'no_such.module:make'}, 'no_such.module cannot be imported'),
    ({'name': f'{HERE}:Perceptrn'}, "did you mean 'Perceptron'"),
    ({'name': f'{HERE}:no_module'}, 'is of type str; expected a flax'),
    (
      {'name': f'{HERE}:Perceptron', 'depth': 2},
      'cannot be called with .*depth',
    ),
    ({'name': f'{HERE}:NoTrain'}, 'takes images; expected to call it as'),
    (
      {'name': f'{HERE}:broken'},
      'cannot be called with .*: RuntimeError: no such backbone of 10 '
      r'\(.*test_own_models\.py:\d+\)',
    ),
    (
      {'name': f'{HERE}:Raises'},
      r'Raises fails for images \[1, 8, 8, 1\]: AttributeError: .*_attribute.*'
      r' \(.*test_own_models\.py:\d+\)',
    ),
    (
      {'name': f'{HERE}:Raises', 'when': True},
      r'Raises fails for images \[32, 8, 8, 1\]: AttributeError: .*\)',
    ),
    ({'name': f'{HERE}:wrong_shape'}, r'gives logits \[1, 11\] .*\[1, 10\]'),
  ],
)
def test_what_cannot_be_used_is_one_line(data_dir, model, message):
  with pytest.raises(UsageError, match=message) as error:
    build(data_dir, model=model)
  assert '\n' not in str(error.value)


def test_a_module_is_checked_alike(data_dir):
  given = {'data_dir': data_dir, 'devices': Devices(jax.devices()[:1])}
  config = tasks.resolve({**CONFIG, 'model': {'name': 'resnet8'}})
  run = tasks.build(config, model=HeadAlone(10), **given)
  assert run.summary().startswith('HeadAlone: 650 parameters')
  for model, message in (
    (HeadAlone(11), r'HeadAlone gives logits \[1, 11\] for images'),
    (nn.Dense(10), 'Dense is a module that takes inputs; expected'),
    (Raises(10), 'Raises fails for images'),
    ('resnet8', 'str is of type str; expected a flax'),
  ):
    with pytest.raises(UsageError, match=message):
      tasks.build(config, model=model, **given)
