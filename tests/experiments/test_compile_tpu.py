"""Steps that are compiled for a TPU, on a machine without one."""

import json
import types

import jax
import numpy as np
import pytest

from experiments import compile_tpu
from experiments.benchmark import costs
from maxsup_jax.tasks import resolve
from maxsup_jax.training.parallel import Devices
from tests.experiments.quickly import compiled_quickly
from tests.experiments.test_benchmark import run, told

DATASET = {
  'name': 'cifar10',
  'train_transform': 'resize_exact(8)',
  'eval_transform': 'resize_exact(8)',
}
TINY = {
  'batch_size': 16,
  'dataset': DATASET,
  'model': {'name': 'resnet8', 'width': 4},
}


def compile_steps(*arguments):
  return run(
    *arguments,
    program=('-m', 'experiments.compile_tpu'),
    XLA_FLAGS='',
    JAX_DISABLE_MOST_OPTIMIZATIONS='0',
  )


def built(**dataset):
  """A run on the four CPU devices, which stand for those of a TPU."""
  config = resolve({**TINY, 'dataset': DATASET | dataset})
  return compile_tpu.build(config, Devices())


@pytest.fixture(scope='module')
def tiny():
  return built()


@pytest.fixture(scope='module')
def row(tiny):
  with compiled_quickly():
    return compile_tpu.measure(tiny)


def test_no_dataset_is_read():
  run = built(name='imagenet2012', eval_split='validation')
  assert len(run.task.train_source) == 1_281_167
  assert run.task.train_source.image_shape is None
  assert run.task.model.num_classes == 1000
  assert run.task.image_shape == (8, 8, 3)
  assert run.steps_per_epoch == 1_281_167 // 16
  counts = built(imbalance=0.01).task.train_source.counts
  assert (counts[0], counts[-1]) == (5000, 50)


def test_it_is_the_program_of_the_trainer(tiny):
  devices = tiny.devices
  step = devices.map(tiny.train_step(), donate=True)
  state = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), tiny.shapes)
  batch = devices.shard(
    {
      'image': np.zeros((16, 8, 8, 3), np.uint8),
      'label': np.zeros(16, np.int32),
      'mask': np.ones(16, bool),
    }
  )
  assert (
    step.lower(*compile_tpu.shapes(tiny)).as_text()
    == step.lower(devices.replicate(state), batch).as_text()
  )


def test_translation_has_the_widest_batches_of_the_trainer():
  config = resolve(
    {
      'task': 'translation',
      'batch_size': 256,
      'dataset': {
        'name': 'wmt_t2t_translate/de-en',
        'vocabulary': 'bpe',
        'vocabulary_size': 50,
        'buckets': (8, 16),
      },
      'objective': {'name': 'maxsup', 'alpha': 0.1, 'fused': True},
    }
  )
  run = compile_tpu.build(config, Devices())
  assert len(run.task.vocabulary) == 50
  _, batch = compile_tpu.shapes(run)
  assert run.steps_per_epoch == 100
  assert batch['target'].shape == (4, 4, 16)
  assert jax.tree.map(lambda x: x.shape[1:], batch) == jax.tree.map(
    lambda x: (x.shape[0] // 4, *x.shape[1:]), next(run.task.train_batches(0))
  )
  row = {
    'model': {'name': 'transformer_base'},
    'target_shape': [16, 256],
    'fused': True,
    'fits': False,
    'lacks': 'memory',
  }
  settings = {'device_count': 4, 'device_kind': 'TPU v5e'}
  results = {'steps': [row, row | {'fused': False}]}
  words = told({'settings': settings, 'results': results}, 'compile_tpu')
  assert '16 sentences of 256 tokens a device, loss without logits in' in words
  assert 'a device, loss with logits in memory, float32' in words


def test_a_device_to_compile_for_has_no_known_memory(monkeypatch):
  def memory_stats():
    raise jax.errors.JaxRuntimeError('INVALID_ARGUMENT: not addressable')

  devices = Devices()
  paper = types.SimpleNamespace(platform='tpu', memory_stats=memory_stats)
  monkeypatch.setattr(devices, 'local', [paper])
  assert devices.memory() is None


@pytest.mark.slow
def test_what_the_compiler_says(tiny, row):
  assert row['fits']
  assert row['lacks'] is None
  assert row['batch_size_per_device'] == 4
  memory = row['memory_bytes_per_device']
  state, batch = compile_tpu.shapes(tiny)
  arrays = jax.tree.leaves((state, batch))
  size = sum(x.size * x.dtype.itemsize for x in arrays) // 4
  assert memory['arguments'] == size
  # The state is given away.
  state_size = sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(state))
  assert memory['aliased'] == state_size // 4
  assert row['flops_per_device']['as_written'] > 0
  assert row['bytes_accessed_per_device'] > memory['arguments']
  assert row['bound']['step_seconds'] is None  # of a CPU


@pytest.mark.slow
def test_what_is_printed(row):
  kind = {'device_kind': 'TPU v5e', 'dtype': 'float32', 'batch_size': 2048}
  large = row | {
    'model': {'name': 'resnet50'},
    'fits': False,
    'lacks': '18G of 15G hbm',
    'memory_bytes_per_device': None,
  }
  small = row | {'bound': costs.bound(3e12, 8e10, **kind)}
  small['memory_capacity_bytes'] = 16 * 2**30
  settings = {'device_count': 4, 'device_kind': 'TPU v5e'}
  results = {'steps': [small, large]}
  words = told({'settings': settings, 'results': results}, 'compile_tpu')
  assert 'does not fit: 18G of 15G hbm' in words
  assert 'takes at least 97.7 ms (memory)' in words  # 8e10 / 819e9


def test_only_a_lack_of_memory_is_told():
  def program(message):
    def fail():
      raise jax.errors.JaxRuntimeError(message)

    lowered = types.SimpleNamespace(compile=fail)
    return types.SimpleNamespace(lower=lambda *_: lowered)

  x = jax.ShapeDtypeStruct((1, 2), np.float32)
  arguments = (lambda x, y: (x, y)), program('RESOURCE_EXHAUSTED: no'), x, x
  found, said = costs.compile_step(*arguments)
  assert (found, said['lacks']) == (None, 'RESOURCE_EXHAUSTED: no')
  with pytest.raises(jax.errors.JaxRuntimeError, match='INTERNAL'):
    costs.compile_step(arguments[0], program('INTERNAL: no'), x, x)


def test_a_wrong_topology_is_one_line():
  code, out, err = compile_steps('--topology=v9:1x1', '--out=')
  assert (code, out) == (2, '')
  assert len(err.strip().splitlines()) == 1, err
  assert "--topology is 'v9:1x1'" in err


# These need libtpu, and compile for a TPU.


@pytest.mark.slow
def test_what_does_not_fit_is_said():
  pytest.importorskip('libtpu')
  code, printed, err = compile_steps(
    '--config=configs/digits.py',
    '--topology=v5e:1x1',
    '--config.model.stem=cifar',
    '--config.dataset.train_transform=resize_exact(512)',
    '--config.dataset.eval_transform=resize_exact(512)',
    '--config.batch_size=1024',
    '--out=',
  )
  assert code == 1, err
  assert '15.75G' in printed


@pytest.mark.slow
def test_the_steps_of_imagenet_fit_a_v5e(tmp_path):
  """ResNet-50 and DeiT-S as their cards have them, on four chips; minutes."""
  pytest.importorskip('libtpu')
  out = tmp_path / 'out.json'
  code, _, err = compile_steps(f'--out={out}')
  assert code == 0, err
  resnet, deit = json.loads(out.read_text())['results']['steps']
  assert (resnet['model']['name'], resnet['batch_size']) == ('resnet50', 2048)
  assert (deit['model']['name'], deit['batch_size']) == ('vit_small', 1024)
  # Three passes of 4.1 billion multiplications and additions an image.
  flops = resnet['flops_per_device']['as_written'] / 512
  assert flops == pytest.approx(3 * 2 * 4.1e9, rel=0.1)
  # 232 GB where the blur sums shifted images.
  assert resnet['bytes_accessed_per_device'] < 180e9
