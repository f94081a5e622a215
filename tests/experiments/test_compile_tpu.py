"""Steps that are compiled for a TPU, on a machine without one."""

import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from experiments import compile_tpu
from experiments.benchmark import costs
from maxsup_jax.tasks import resolve
from maxsup_jax.training.parallel import Devices
from tests.experiments.quickly import compiled_quickly
from tests.experiments.test_benchmark import of_machine

ROOT = Path(__file__).parents[2]

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


def run(*arguments):
  environment = {k: v for k, v in os.environ.items() if k != 'XLA_FLAGS'}
  process = subprocess.run(
    [sys.executable, '-m', 'experiments.compile_tpu', *arguments],
    cwd=ROOT,
    env=environment,
    capture_output=True,
    text=True,
  )
  return process.returncode, process.stdout, process.stderr


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
    return compile_tpu.measure(tiny) | {'largest_batch_size': None}


def test_no_dataset_is_read():
  imagenet = built(name='imagenet2012', eval_split='validation')
  assert len(imagenet.train_source) == 1_281_167
  assert imagenet.train_source.image_shape is None
  assert imagenet.model.num_classes == 1000
  assert imagenet.image_shape == (8, 8, 3)
  assert imagenet.steps_per_epoch == 1_281_167 // 16
  counts = built(imbalance=0.01).train_source.counts
  assert (counts[0], counts[-1]) == (5000, 50)


def test_it_is_the_program_of_the_trainer(tiny):
  devices = tiny.devices
  step = devices.map(tiny.train_step(), donate=True)
  state = jax.tree.map(
    lambda x: np.zeros(x.shape, x.dtype), jax.eval_shape(tiny.init_state)
  )
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


def test_what_the_compiler_says(tiny, row):
  assert row['fits']
  assert row['lacks'] is None
  assert row['batch_size_per_device'] == 4
  assert row['examples'] == 50_000
  memory = row['memory_bytes_per_device']
  state, batch = compile_tpu.shapes(tiny)
  arrays = jax.tree.leaves((state, batch))
  size = sum(x.size * x.dtype.itemsize for x in arrays) // 4
  assert memory['arguments'] == size
  # The state is given away.
  state_size = sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(state))
  assert memory['aliased'] == state_size // 4
  flops = row['flops_per_device']
  assert flops['as_compiled'] == pytest.approx(flops['as_written'], rel=0.3)
  assert row['bytes_accessed_per_device'] > memory['arguments']
  # Gradients, at least, are summed over the devices.
  assert row['collectives']['all-reduce']['bytes'] > 4 * row['parameters']
  assert row['bound']['step_seconds'] is None  # of a CPU


def test_what_is_printed(row):
  gib = 2**30
  bound = costs.bound(
    3e12,
    8e10,
    device_kind='TPU v5e',
    dtype='float32',
    batch_size=2048,
  )
  small = row | {'bound': bound}
  large = row | {
    'fits': False,
    'lacks': {'needed': 18 * gib, 'available': 15 * gib, 'message': 'm'},
    'largest_batch_size': 8,
    'memory_bytes_per_device': None,
    'collectives': None,
  }
  settings = {
    'topology': 'v5e:2x2',
    'device_count': 4,
    'device_kind': 'TPU v5 lite',
  }
  results = {'steps': [small, large, small, small]}
  record = of_machine({'settings': settings, 'results': results})
  lines = compile_tpu.describe(record)
  fits = [x.split() for x in lines if x.startswith('fits')]
  assert fits == [['fits', 'yes', 'no', 'yes'], ['fits', 'yes']]
  words = ' '.join(' '.join(lines).split())
  assert (
    'resnet8 in float32, batch 16, does not fit: needs 18.00 of 15.00 GiB of a '
    'device; a batch of 8 does'
  ) in words
  # 2048 images in 8e10 / 819e9 seconds.
  assert '20,966' in words
  unknown = {'needed': None, 'available': None, 'message': 'no room'}
  assert compile_tpu.lack(row | {'lacks': unknown}).endswith(': no room')


@pytest.mark.parametrize(
  ('message', 'needed'),
  [
    (
      'RESOURCE_EXHAUSTED: Ran out of memory on HBM, the total memory required '
      'for HLO temporaries (18.26G) exceeds available HBM (15.75G).',
      18.26,
    ),
    (
      'RESOURCE_EXHAUSTED: Ran out of memory in memory space hbm. Used 512.0M '
      'of 15.75G hbm. Exceeded hbm capacity by 1.5G.',
      0.5,
    ),
    ('INTERNAL: something else', None),
  ],
)
def test_how_much_memory_is_missing(message, needed):
  def compile():
    raise jax.errors.JaxRuntimeError(message)

  if needed is None:
    with pytest.raises(jax.errors.JaxRuntimeError, match='something else'):
      costs.compile_or_lack(compile)
    return
  compiled, lacks = costs.compile_or_lack(compile)
  assert compiled is None
  assert lacks['needed'] / 2**30 == pytest.approx(needed)
  assert lacks['available'] / 2**30 == pytest.approx(15.75)


def test_collectives_are_counted():
  text = """
  %a.1 = f32[64]{0:T(128)} all-reduce(%x), channel_id=1, to_apply=%add
  %a.2 = (f32[8,2]{1,0}, /*index=1*/bf16[3], pred[5]) all-reduce-start(%y, %z)
  %a.3 = f32[64]{0} all-reduce-done(%a.2)
  ROOT %fusion = f32[9]{0} fusion(%all-reduce.7), calls=%f
  %b = s32[] all-gather(%x)
  """
  assert compile_tpu.collectives(text) == {
    'all-reduce': {'count': 2, 'bytes': 256 + 64 + 6 + 5},
    'all-gather': {'count': 1, 'bytes': 4},
  }


def test_the_batch_is_halved_until_it_fits(monkeypatch, tiny, row):
  tried = []

  def measure(run):
    tried.append(run.config.batch_size)
    return row | {'fits': tried[-1] <= 8, 'batch_size': tried[-1]}

  monkeypatch.setattr(compile_tpu, 'measure', measure)
  configs = [('card', tiny.config)]
  (first,) = compile_tpu.compile_all(configs, tiny.devices, True)
  assert tried == [16, 8]
  assert (first['fits'], first['largest_batch_size']) == (False, 8)


def test_cards_of_the_command_line():
  argv = ['x', '--config=a.py:b=1', '--config.seed=3', '-config', 'c.py']
  assert compile_tpu.given_cards(argv) == ['a.py:b=1', 'c.py']
  assert compile_tpu.given_cards(['x', '--out=']) == []


def test_a_wrong_topology_is_one_line():
  code, out, err = run('--topology=v9:1x1', '--out=')
  assert (code, out) == (2, '')
  assert len(err.strip().splitlines()) == 1, err
  assert "--topology is 'v9:1x1'" in err


# These need libtpu, and compile for a TPU.


@pytest.mark.slow
def test_a_small_step_for_a_tpu(tmp_path):
  pytest.importorskip('libtpu')
  out = tmp_path / 'out.json'
  code, printed, err = run(
    '--config=configs/digits.py',
    '--config=configs/glyphs.py',
    '--dtypes=bfloat16,float32',
    '--config.batch_size=64',
    f'--out={out}',
  )
  assert code == 0, err
  record = json.loads(out.read_text())
  assert record['suite'] == 'compile_tpu'
  assert record['settings']['device_kind'] == 'TPU v5 lite'
  rows = record['results']['steps']
  assert [(r['card'], r['model']['dtype']) for r in rows] == [
    (f'configs/{card}.py', dtype)
    for card in ('digits', 'glyphs')
    for dtype in ('bfloat16', 'float32')
  ]
  for row in rows:
    assert row['batch_size_per_device'] == 16
    assert row['memory_bytes_per_device']['aliased'] > 8 * row['parameters']
    assert row['collectives']['all-reduce']['count'] > 0
    assert row['bound']['step_seconds'] > 0
  assert 'not run' in printed


@pytest.mark.slow
def test_what_does_not_fit_is_said():
  pytest.importorskip('libtpu')
  code, printed, err = run(
    '--config=configs/digits.py',
    '--topology=v5e:1x1',
    '--config.model.stem=cifar',
    '--config.dataset.train_transform=resize_exact(512)',
    '--config.dataset.eval_transform=resize_exact(512)',
    '--config.batch_size=1024',
    '--out=',
  )
  assert code == 1, err
  words = ' '.join(printed.split())
  assert 'batch 1024, does not fit: needs' in words
  assert 'of 15.75 GiB of a device' in words


@pytest.mark.slow
def test_the_steps_of_imagenet_fit_a_v5e(tmp_path):
  """ResNet-50 and DeiT-S as their cards have them, on four chips; minutes."""
  pytest.importorskip('libtpu')
  out = tmp_path / 'out.json'
  code, _, err = run(f'--out={out}')
  assert code == 0, err
  resnet, deit = json.loads(out.read_text())['results']['steps']
  assert (resnet['model']['name'], resnet['batch_size']) == ('resnet50', 2048)
  assert (deit['model']['name'], deit['batch_size']) == ('vit_small', 1024)
  # Three passes of 4.1 billion multiplications and additions an image.
  flops = resnet['flops_per_device']['as_written'] / 512
  assert flops == pytest.approx(3 * 2 * 4.1e9, rel=0.1)
  # 232 GB where the blur sums shifted images.
  assert resnet['bytes_accessed_per_device'] < 180e9
