"""Work directories made of PyTorch weights, and files made of runs."""

import hashlib
import json

import jax
import numpy as np
import pytest

from maxsup_jax import tasks
from maxsup_jax.errors import UsageError
from maxsup_jax.models import torch_weights
from maxsup_jax.tasks import resolve
from maxsup_jax.tasks import torch_runs as program
from maxsup_jax.training.checkpoints import Checkpoints
from maxsup_jax.training.workdir import Workdir
from tests.runs import assert_same_bits, timeless

CONFIG = {
  'dataset': {'name': 'digits', 'in_memory': True},
  'model': {'name': 'resnet8', 'width': 4},
  'ema_decay': 0.5,
}


@pytest.fixture(scope='module')
def run(data_dir):
  return tasks.build(resolve(CONFIG), data_dir=data_dir, training=False)


@pytest.fixture(scope='module')
def file(run, tmp_path_factory):
  """Random weights under the names of PyTorch."""
  rng = np.random.default_rng(0)
  variables = jax.tree.map(
    lambda x: rng.uniform(0.1, 1, x.shape).astype(x.dtype),
    run.shapes.variables(),
  )
  path = tmp_path_factory.mktemp('weights') / 'weights.safetensors'
  torch_weights.write(path, torch_weights.to_torch(variables, run.task.model))
  return path


def saved(run, path):
  """The state of step 0, and what is beside it."""
  checkpoints = Checkpoints(path / 'checkpoints')
  try:
    return checkpoints.restore(0, run.shapes)
  finally:
    checkpoints.close()


def imported(file, path, data_dir, config=CONFIG, **options):
  return program.import_weights(
    config, path, file, data_dir=data_dir, **options
  )


def test_there_and_back(run, file, data_dir, tmp_path):
  path = tmp_path / 'imported'
  assert 'step 0 of a resnet8' in imported(file, path, data_dir)
  state, extra = saved(run, path)
  given = torch_weights.read(file)
  np.testing.assert_array_equal(
    state.params['conv1']['kernel'], given['conv1.weight'].transpose(2, 3, 1, 0)
  )
  assert_same_bits(state.ema, state.variables())
  like = run.shapes
  assert jax.tree.structure(state) == jax.tree.structure(like)
  # The optimizer has taken no step and remembers no gradient.
  for leaf in jax.tree.leaves((state.step, state.opt_state)):
    assert not leaf.any()
  assert extra == {'train_examples': len(run.task.train_source)}

  (start,) = json.loads((path / 'run.json').read_text())['starts']
  digest = hashlib.sha256(file.read_bytes()).hexdigest()
  assert start['step'] == 0
  assert start['imported']['file'] == str(file)
  assert start['imported']['sha256'] == digest

  for weights in ('raw', 'ema'):
    out = tmp_path / f'{weights}.safetensors'
    said = program.export_weights(path, out, weights=weights)
    assert f'{weights} weights of step 0' in said
    found = torch_weights.read(out)
    assert found.keys() == given.keys()
    for name, value in given.items():
      np.testing.assert_array_equal(found[name], value, err_msg=name)


def test_a_run_without_averages(file, data_dir, tmp_path):
  config = CONFIG | {'ema_decay': None}
  path = tmp_path / 'imported'
  imported(file, path, data_dir, config)
  state, _ = saved(
    tasks.build(resolve(config), data_dir=data_dir, training=False), path
  )
  assert state.ema is None
  out = tmp_path / 'out.safetensors'
  for options, message in (
    ({'weights': 'ema'}, 'the run in .* has no averaged'),
    ({'step': 3}, 'no checkpoint of step 3'),
  ):
    with pytest.raises(UsageError, match=message):
      program.export_weights(path, out, **options)
  (path / 'checkpoints' / '0').rename(path / 'elsewhere')
  with pytest.raises(UsageError, match='no checkpoint in'):
    program.export_weights(path, out)
  assert not out.exists()


def test_it_is_not_taken_for_a_run_from_scratch(file, data_dir, tmp_path):
  path = tmp_path / 'imported'
  imported(file, path, data_dir)
  directory = tasks.open_workdir(path)
  assert directory.config().init_from == str(path)
  with pytest.raises(UsageError, match=r'init_from: .*imported. there, None'):
    directory.check(resolve(CONFIG))
  directory.check(resolve({**CONFIG, 'init_from': str(path)}))
  with pytest.raises(UsageError, match=r'imported exists; choose another$'):
    imported(file, path, data_dir)


def test_classes_in_another_order(run, file, data_dir, tmp_path):
  names = run.task.train_source.label_names
  order = tmp_path / 'order.txt'
  order.write_text('\n'.join(names[::-1]))
  imported(file, tmp_path / 'imported', data_dir, class_order=str(order))
  state, _ = saved(run, tmp_path / 'imported')
  np.testing.assert_array_equal(
    state.params['head']['bias'], torch_weights.read(file)['fc.bias'][::-1]
  )
  record = json.loads((tmp_path / 'imported/run.json').read_text())
  digest = hashlib.sha256(order.read_bytes()).hexdigest()
  assert record['starts'][0]['imported']['class_order']['sha256'] == digest


@pytest.mark.parametrize(
  ('changes', 'options', 'message'),
  [
    (
      {'init_from': 'runs/other'},
      {},
      'init_from is .runs/other.; exp',
    ),
    ({'model': {'name': 'resnet8', 'width': 8}}, {}, r'\[4\] in the weights'),
    ({'model': {'name': 'alexnet_cifar'}}, {}, 'has no known PyTorch names'),
    ({}, {'key': 'model'}, "key is 'model'"),
    ({}, {'prefix': 'net.'}, "prefix is 'net.', but no name"),
    ({}, {'class_order': 'no_such.txt'}, r'no_such\.txt cannot be read'),
  ],
)
def test_refuses_before_it_writes(
  file, data_dir, tmp_path, changes, options, message
):
  with pytest.raises(UsageError, match=message):
    imported(file, tmp_path / 'new', data_dir, CONFIG | changes, **options)
  assert not (tmp_path / 'new').exists()


def test_an_import_that_was_ended_in_the_middle(file, data_dir, tmp_path):
  path = tmp_path / 'half'
  with Workdir(path).opened(resolve({**CONFIG, 'init_from': str(path)})):
    pass  # Its checkpoint is still to come.
  with pytest.raises(UsageError, match='or delete it if an import was ended'):
    imported(file, path, data_dir)


@pytest.mark.slow
def test_a_run_its_file_and_what_starts_from_it(run_program, tmp_path):
  """A run, its file, and a directory of that file have the same numbers."""
  card = (
    '--config=configs/digits.py',
    '--config.model.width=8',
    '--config.duration=4 steps',
    '--config.log_every=1 step',
    '--config.schedule.warmup=0 steps',
  )

  def run(name, *arguments):
    code, out, err = run_program(name, *arguments)
    assert code == 0, err
    return out

  def numbers(path):
    out = tmp_path / 'numbers.json'
    run('evaluate', f'--workdir={path}', f'--out={out}')
    return json.loads(out.read_text())

  first, second = tmp_path / 'first', tmp_path / 'second'
  file = tmp_path / 'weights.safetensors'
  run('train', *card, f'--workdir={first}')
  run('torch_weights', f'--workdir={first}', f'--out={file}')
  run('torch_weights', *card, f'--workdir={second}', f'--file={file}')
  there, here = numbers(first), numbers(second)
  assert (there.pop('step'), here.pop('step')) == (4, 0)
  assert there == here
  # Training goes on from them, and says so.
  run('train', *card, f'--config.init_from={second}', f'--workdir={second}')
  starts = json.loads((second / 'run.json').read_text())['starts']
  assert [s['step'] for s in starts] == [0, 0]
  assert 'imported' in starts[0]
  # So does a run that starts from the file.
  third = tmp_path / 'third'
  run('train', *card, f'--config.init_from={file}', f'--workdir={third}')
  assert timeless(third) == timeless(second) != timeless(first)
