"""The training step beside the same one in PyTorch."""

import copy
import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

pytest.importorskip('torch')

from experiments import (
  _benchmark_cpu,
  _benchmark_train,
  _benchmark_train_check,
  _benchmark_train_report,
  _benchmark_train_torch,
  _torch_models,
)
from maxsup_jax import models
from maxsup_jax.errors import UsageError
from tests.experiments.quickly import compiled_quickly

ROOT = Path(__file__).parents[2]

TINY = _benchmark_train.Settings(
  models=('vit_tiny',),
  image_size=32,
  batch_size=4,
  num_classes=5,
  dtype='float32',
  rounds=2,
  steps_per_round=1,
  variants=('plain', 'channels_last'),
)
_SHALLOW = {'dim': 16, 'depth': 1, 'heads': 2}


@pytest.fixture(scope='module')
def measured(cached_compilations):
  import torch

  before = torch.get_num_threads()
  with pytest.MonkeyPatch.context() as patch, compiled_quickly():
    # Where other tests run beside it, threads that wait for each other would
    # take all the time that there is.
    patch.setattr(os, 'sched_getaffinity', lambda _: {0})
    patch.setattr(_benchmark_train, '_MATRIX', 64)
    patch.setattr(_benchmark_train, '_ROUNDS_OF_OPTIONS', 2)
    small = {'batch': 1, 'size': 4, 'width': 2}
    patch.setattr(_benchmark_train, '_BLOCK', small)
    few = list(_benchmark_cpu.OPTIONS.items())[:3]
    patch.setattr(_benchmark_cpu, 'OPTIONS', dict(few))
    # Else it has twelve layers.
    entry = dataclasses.replace(
      models.MODELS['vit_tiny'], architecture=_SHALLOW
    )
    patch.setitem(models.MODELS, 'vit_tiny', entry)
    patch.setitem(_torch_models._VITS, 'vit_tiny', _SHALLOW)
    yield _benchmark_train.measure(TINY)
  torch.set_num_threads(before)


@pytest.fixture
def record(measured):
  hardware = {
    'platform': 'cpu',
    'device_count': 1,
    'device_kind': 'cpu',
    'process_count': 1,
    'host_cpu': None,
    'host_cpu_count': 2,
    'host_load': 0.5,
  }
  return {
    'hardware': hardware,
    'versions': {'jax': jax.__version__},
    'git_commit': None,
    'time': 'now',
    **copy.deepcopy(measured),
  }


def test_both_frameworks_compute_the_same_steps(measured):
  row = measured['results']['models']['vit_tiny']
  assert row['optimizer'] == 'adamw'
  for distance in row['distances'].values():
    assert 0 <= distance < 1e-4
  for losses in (row['first_losses'], row['second_losses']):
    assert list(losses) == ['jax', 'plain', 'channels_last']
    assert losses['plain'] == pytest.approx(losses['jax'], rel=1e-4)
    assert losses['channels_last'] == pytest.approx(losses['jax'], rel=1e-4)
  # The optimizer moved the weights.
  assert row['first_losses']['jax'] != pytest.approx(
    row['second_losses']['jax'], rel=1e-3
  )


def test_the_ratio_is_that_of_the_fastest(measured):
  row = measured['results']['models']['vit_tiny']
  programs = row['programs']
  medians = {
    name: programs[name]['step_seconds']['median'] for name in TINY.variants
  }
  assert row['reference'] == min(medians, key=medians.get)
  assert row['torch_over_jax'] == programs[row['reference']]['torch_over_jax']
  assert 'torch_over_jax' not in programs['jax']
  for name in TINY.variants:
    assert programs[name]['torch_over_jax']['per_round'] == [
      a / b
      for a, b in zip(
        programs[name]['step_seconds']['per_round'],
        programs['jax']['step_seconds']['per_round'],
      )
    ]
  rates = measured['results']['matrix_flops_per_second']
  assert min(rates.values()) > 0


def test_what_xla_offers_is_measured(measured):
  on_cpu = measured['results']['on_cpu']
  assert on_cpu['shape'] == [1, 4, 4, 8]
  assert list(on_cpu['options']) == ['as it is', 'once more', 'onednn']
  for part in ('options', 'pointwise', 'layout'):
    first, second = list(on_cpu[part].values())[:2]
    assert first['ratio']['per_round'] == [1, 1]
    assert second['seconds']['min'] > 0


def test_other_forms_compute_the_same():
  x = np.random.default_rng(0).standard_normal((2, 3, 3, 4)).astype('f')
  kernel = np.ones((1, 1, 4, 2), 'f')
  convolution = _benchmark_cpu._convolution('NHWC', 'HWIO')
  np.testing.assert_allclose(
    _benchmark_cpu._product(x, kernel), convolution(x, kernel), rtol=1e-5
  )


def test_options_that_xla_does_not_know_are_left_out():
  lowered = jax.jit(lambda x: x + 1).lower(1.0)
  compile_with = _benchmark_cpu.compile_with
  assert compile_with(lowered, {'xla_cpu_enable_fast_math': True})(1.0) == 2
  assert compile_with(lowered, {'xla_cpu_be_fast': True}) is None
  with pytest.raises(jax.errors.JaxRuntimeError):
    compile_with(lowered, {'xla_cpu_prefer_vector_width': 'wide'})


def test_the_record_is_json_and_names_everything(measured):
  settings = json.loads(json.dumps(measured))['settings']
  assert settings['variants'] == ['plain', 'channels_last']
  assert settings['objective'] == {'name': 'maxsup', 'alpha': 0.1}
  assert settings['torch_threads'] == 1
  assert settings['torch_float32_matmul_precision'] == 'highest'


def test_what_is_printed(record):
  printed = _benchmark_train_report.describe(record)
  lines = printed.splitlines()
  assert max(map(len, lines)) <= 80
  heading = next(x.split() for x in lines if x.startswith('vit_tiny '))
  assert heading == ['vit_tiny', 'jax', 'plain', 'channels_last']
  assert 'on a CPU there is no target' in ' '.join(printed.split())
  once_more = next(x.split() for x in lines if x.startswith('  once more'))
  assert float(once_more[3]) > 0


def test_what_is_printed_of_a_gpu(record):
  record['hardware']['platform'] = 'gpu'
  record['results']['matrix_flops_per_second'] = None
  record['results']['on_cpu'] = None
  row = record['results']['models']['vit_tiny']
  row['torch_over_jax'] |= {'median': 1.5, 'quartile_1': 1.4, 'quartile_3': 1.6}
  row['programs']['jax']['share_of_peak'] = 0.4
  row['programs']['plain']['peak_memory_bytes'] = 12_000_000_000
  row['bound'] |= {'step_seconds': 0.02, 'limit': 'memory'}
  row['not_run'] = {'compiled': 'torch.compile needs triton'}
  words = ' '.join(_benchmark_train_report.describe(record).split())
  for part in (
    'takes 1.500 times as long as JAX (quartiles 1.400-1.600); the target, at '
    'least 1, is met',
    'share of the peak 40.0%',
    'peak memory - 12.00 GB',
    "at least 20.0 ms by the compiler's counts, of which memory decides",
    'compiled not run: torch.compile needs triton',
  ):
    assert part in words
  row['torch_over_jax']['median'] = 0.99
  words = _benchmark_train_report.describe(record)
  assert 'is missed' in ' '.join(words.split())


def test_steps_that_differ_are_not_compared():
  check = _benchmark_train_check.check_equal
  check({'jax': 7.0, 'plain': 7.0003}, 'cpu', 'float32')
  with pytest.raises(UsageError, match=r'plain 7\.002 and JAX 7'):
    check({'jax': 7.0, 'plain': 7.002}, 'cpu', 'float32')
  check({'jax': 7.0, 'plain': 7.1}, 'gpu', 'bfloat16')
  with pytest.raises(UsageError, match='different'):
    check({'jax': 7.0, 'plain': float('nan')}, 'gpu', 'bfloat16')


def test_arrays_that_differ():
  check = _benchmark_train_check.check_arrays
  theirs = {'a': np.array([[3.0, 0.0]]), 'b': np.array([4.0])}
  ours = {'a': np.array([[3.0, 0.003]]), 'b': np.array([4.003])}
  expected = pytest.approx(0.003 * 2**0.5 / 5)
  assert check('logits', ours, theirs) == expected
  ours['b'] = np.array([4.005])
  assert check('gradients', ours, theirs) < 0.002
  with pytest.raises(UsageError, match=r'logits, 0\.0012 apart, .* most in b'):
    check('logits', ours, theirs)
  with pytest.raises(UsageError, match='nan apart'):
    check('logits', {'a': np.zeros(2)}, {'a': np.zeros(2)})


def _distances():
  import torch

  device = jax.local_devices()[0]
  return _benchmark_train._distances(TINY, 'vit_tiny', torch, device)


def test_a_model_that_is_another_is_found(measured, monkeypatch):
  """Whose losses differ by less than what half precision rounds."""
  import torch

  functional = torch.nn.functional
  original = functional.layer_norm
  monkeypatch.setattr(
    functional, 'layer_norm', lambda *a: original(*a[:-1], 1e-2)
  )
  with pytest.raises(UsageError, match='different logits') as info:
    _distances()
  assert '\n' not in str(info.value)


def test_a_gradient_that_is_another_is_found(measured, monkeypatch):
  import torch

  functional = torch.nn.functional
  original = functional.layer_norm
  monkeypatch.setattr(
    functional, 'layer_norm', lambda x, *a: original(x.detach(), *a)
  )
  with pytest.raises(UsageError, match='different gradients'):
    _distances()


def test_nothing_is_rounded_where_gradients_are_compared():
  import torch

  torch.set_float32_matmul_precision('high')
  try:
    with _benchmark_train_check.exact(torch):
      assert torch.get_float32_matmul_precision() == 'highest'
      assert not torch.backends.cudnn.allow_tf32
      assert jax.config.jax_default_matmul_precision == 'highest'
    assert torch.get_float32_matmul_precision() == 'high'
  finally:
    torch.set_float32_matmul_precision('highest')


def test_the_fastest_is_found():
  def row(median):
    return {'step_seconds': {'median': median}}

  results = {'jax': row(2.0), 'a': row(3.0), 'b': row(1.0)}
  seconds = {'jax': [2.0, 2.0], 'a': [3.0, 3.0], 'b': [1.0, 1.0]}
  compared = _benchmark_train.compare(results, seconds)
  assert compared['reference'] == 'b'
  assert compared['torch_over_jax']['median'] == 0.5
  assert compared['programs']['a']['torch_over_jax']['median'] == 1.5


@pytest.mark.parametrize(
  ('changes', 'message'),
  [
    ({'model': 'resnet8'}, "--model: unknown 'resnet8'; known here: resnet18"),
    ({'variants': ['fast']}, "--variants: unknown 'fast'; known here: plain"),
    ({'variants': ['max_autotune']}, 'known here: plain, channels_last'),
    ({'dtype': 'float16'}, "--dtype: unknown 'float16'"),
  ],
)
def test_what_is_not_known(changes, message):
  given = {'model': None, 'variants': None} | changes
  with pytest.raises(UsageError, match=message):
    _benchmark_train.choose_settings(**given)


def test_defaults(monkeypatch):
  on_cpu = _benchmark_train.choose_settings(
    model=None, variants=None, rounds=3, image_size=None
  )
  assert on_cpu.models == ('resnet50', 'vit_small')
  assert (on_cpu.batch_size, on_cpu.dtype, on_cpu.rounds) == (8, 'float32', 3)
  assert on_cpu.variants == ('plain', 'channels_last', 'compiled')
  monkeypatch.setattr(jax, 'default_backend', lambda: 'gpu')
  on_gpu = _benchmark_train.choose_settings(model='resnet18', variants=None)
  assert on_gpu.models == ('resnet18',)
  assert on_gpu.variants == ('channels_last', 'compiled', 'max_autotune')
  assert (on_gpu.batch_size, on_gpu.dtype) == (256, 'bfloat16')


def test_what_variants_lack(monkeypatch):
  lacks = _benchmark_train_torch.lacks
  assert lacks('plain', 'cpu') is None
  monkeypatch.setattr(_benchmark_train_torch.shutil, 'which', lambda _: None)
  assert 'compiler' in lacks('compiled', 'cpu')
  monkeypatch.setattr(
    _benchmark_train_torch.importlib.util, 'find_spec', lambda _: None
  )
  assert 'triton' in lacks('max_autotune', 'gpu')


def torch_step(dtype):
  import torch

  torch.manual_seed(0)
  net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(12, 3))
  rng = np.random.default_rng(0)
  weights = {
    '1.weight': rng.standard_normal((3, 12)).astype(np.float32),
    '1.bias': np.zeros(3, np.float32),
  }
  batch = {
    'image': rng.integers(0, 256, (4, 2, 2, 3), np.uint8),
    'label': np.array([0, 2, 1, 1], np.int32),
  }
  step = _benchmark_train_torch.Step(
    torch,
    net,
    weights,
    batch,
    variant='plain',
    platform='cpu',
    dtype=dtype,
    optimizer='adamw',
    optimizer_options={'learning_rate': 0.1, 'weight_decay': 0.5},
    alpha=0.1,
    mean=(0.5, 0.4, 0.3),
    std=(0.2, 0.3, 0.4),
  )
  return step, net, weights, batch


def test_the_loss_in_pytorch_is_that_of_maxsup():
  step, _, weights, batch = torch_step('float32')
  x = (batch['image'] / 255 - [0.5, 0.4, 0.3]) / [0.2, 0.3, 0.4]
  z = x.transpose(0, 3, 1, 2).reshape(4, 12) @ weights['1.weight'].T
  log_sum = np.log(np.exp(z).sum(-1))
  cross_entropy = log_sum - z[np.arange(4), batch['label']]
  expected = (cross_entropy + 0.1 * (z.max(-1) - z.mean(-1))).mean()
  assert step.first_step() == pytest.approx(expected, rel=1e-5)


def test_half_precision_in_pytorch_is_autocast():
  import torch

  step, net, _, _ = torch_step('bfloat16')
  seen = []
  net[1].register_forward_hook(lambda m, x, y: seen.append(y.dtype))
  half = step.first_step()
  assert seen == [torch.bfloat16]
  assert net[1].weight.dtype == torch.float32
  full = torch_step('float32')[0].first_step()
  assert half != full
  assert half == pytest.approx(full, rel=2e-2)


@pytest.mark.slow
def test_the_program(tmp_path):
  out = tmp_path / 'out.json'
  process = subprocess.run(
    [
      *(sys.executable, '-m', 'experiments.benchmark', '--suite=train'),
      *('--model=vit_tiny', '--image_size=32', '--batch_size=2'),
      *('--rounds=2', '--steps_per_round=1', '--variants=plain,compiled'),
      f'--out={out}',
    ],
    cwd=ROOT,
    env=os.environ | {'XLA_FLAGS': ''},
    capture_output=True,
    text=True,
  )
  assert process.returncode == 0, process.stderr
  record = json.loads(out.read_text())
  assert record['suite'] == 'train'
  row = record['results']['models']['vit_tiny']
  assert row['optimizer'] == 'adamw'
  assert set(row['programs']) <= {'jax', 'plain', 'compiled'}
  assert 'vit_tiny' in process.stdout
