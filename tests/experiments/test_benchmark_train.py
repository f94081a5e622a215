"""The training step beside the same one in PyTorch."""

import dataclasses
import functools
import json
import os

import jax
import numpy as np
import pytest

pytest.importorskip('torch')

import torch

from experiments.benchmark import torch_models, torch_step, train, xla_cpu
from maxsup_jax import models
from maxsup_jax.errors import UsageError
from tests.experiments.quickly import compiled_quickly
from tests.experiments.test_benchmark import of_machine, run

VARIANTS = ('plain', 'channels_last')
TINY = {
  'model': 'vit_tiny',
  'image_size': 32,
  'batch_size': 4,
  'num_classes': 5,
  'rounds': 2,
  'steps_per_round': 1,
  'variants': VARIANTS,
}
_SHALLOW = {'dim': 16, 'depth': 1, 'heads': 2}


@pytest.fixture(scope='module')
def measured(cached_compilations):
  before = torch.get_num_threads()
  with pytest.MonkeyPatch.context() as patch, compiled_quickly():
    # Where other tests run beside it, threads that wait for each other would
    # take all the time that there is.
    patch.setattr(os, 'sched_getaffinity', lambda _: {0})
    patch.setattr(train, '_MATRIX', 64)
    for name, value in {'ROUNDS': 2, 'BATCH': 1, 'SIZE': 4, 'WIDTH': 2}.items():
      patch.setattr(xla_cpu, name, value)
    few = list(xla_cpu.OPTIONS.items())[:3]
    patch.setattr(xla_cpu, 'OPTIONS', dict(few))
    # Else it has twelve layers.
    entry = dataclasses.replace(
      models.MODELS['vit_tiny'], architecture=_SHALLOW
    )
    patch.setitem(models.MODELS, 'vit_tiny', entry)
    patch.setitem(
      torch_models.MODELS,
      'vit_tiny',
      functools.partial(torch_models.VisionTransformer, **_SHALLOW),
    )
    yield train.measure(**TINY)
  torch.set_num_threads(before)


@pytest.fixture
def row(measured):
  return measured['results']['models']['vit_tiny']


def test_both_frameworks_compute_the_same_steps(row):
  assert row['optimizer'] == 'adamw'
  assert max(row['distances'].values()) < 1e-4
  for losses in (row['first_losses'], row['second_losses']):
    assert list(losses) == ['jax', *VARIANTS]
    assert list(losses.values()) == pytest.approx([losses['jax']] * 3, rel=1e-4)
  # The optimizer moved the weights.
  assert row['first_losses']['jax'] != pytest.approx(
    row['second_losses']['jax'], rel=1e-3
  )


def test_the_ratio_is_that_of_the_fastest(row):
  programs = row['programs']
  medians = {n: programs[n]['step_seconds']['median'] for n in VARIANTS}
  assert row['reference'] == min(medians, key=medians.get)
  assert row['torch_over_jax'] == programs[row['reference']]['torch_over_jax']
  for name in VARIANTS:
    assert programs[name]['torch_over_jax']['per_round'] == [
      a / b
      for a, b in zip(
        programs[name]['step_seconds']['per_round'],
        programs['jax']['step_seconds']['per_round'],
      )
    ]


def test_what_is_recorded_and_told(measured):
  record = of_machine(measured)
  assert record['settings']['torch_threads'] == 1
  on_cpu = record['results']['on_cpu']
  assert on_cpu['shape'] == [1, 4, 4, 8]
  assert list(on_cpu['options']) == ['as it is', 'once more', 'onednn']
  for part in xla_cpu.PARTS:
    first, second = list(on_cpu[part].values())[:2]
    assert first['ratio']['per_round'] == [1, 1]
    assert second['seconds']['min'] > 0
  told = ' '.join(' '.join(train.describe(record)).split())
  assert 'on a CPU there is no target' in told
  record['hardware']['platform'] = 'gpu'
  for median, met in ((1.5, 'met'), (0.99, 'missed')):
    told = train.target({'median': median}, record)
    assert told.endswith(met)


def _distances():
  s = train.settings(**TINY)
  return train.distances(s, 'vit_tiny', torch, jax.local_devices()[0])


@pytest.mark.parametrize(
  ('what', 'changed'),
  [
    # Its losses differ by less than what half precision rounds.
    ('logits', lambda f, x, *a: f(x, *a[:-1], 1e-2)),
    ('gradients', lambda f, x, *a: f(x.detach(), *a)),
  ],
)
def test_a_model_that_is_another_is_refused(
  measured, monkeypatch, what, changed
):
  functional = torch.nn.functional
  layer_norm = functools.partial(changed, functional.layer_norm)
  monkeypatch.setattr(functional, 'layer_norm', layer_norm)
  with pytest.raises(UsageError, match=f'different {what}') as info:
    _distances()
  assert '\n' not in str(info.value)


def test_losses_and_arrays_that_differ_are_refused():
  check = train.check_equal
  check({'jax': 7.0, 'plain': 7.0003}, 'cpu', 'float32')
  with pytest.raises(UsageError, match=r'plain 7\.002 and JAX 7'):
    check({'jax': 7.0, 'plain': 7.002}, 'cpu', 'float32')
  check({'jax': 7.0, 'plain': 7.1}, 'gpu', 'bfloat16')
  with pytest.raises(UsageError, match='different'):
    check({'jax': 7.0, 'plain': float('nan')}, 'gpu', 'bfloat16')

  check = train.check_arrays
  theirs = {'a': np.array([[3.0, 0.0]]), 'b': np.array([4.0])}
  ours = {'a': np.array([[3.0, 0.003]]), 'b': np.array([4.003])}
  expected = pytest.approx(0.003 * 2**0.5 / 5)
  assert check('logits', ours, theirs) == expected
  ours['b'] = np.array([4.005])
  with pytest.raises(UsageError, match=r'logits, 0\.0012 apart, .* most in b'):
    check('logits', ours, theirs)
  with pytest.raises(UsageError, match='nan apart'):
    check('logits', {'a': np.zeros(2)}, {'a': np.zeros(2)})


def test_nothing_is_rounded_where_gradients_are_compared():
  torch.set_float32_matmul_precision('high')
  try:
    with torch_step.exact(torch):
      assert torch.get_float32_matmul_precision() == 'highest'
      assert not torch.backends.cudnn.allow_tf32
      assert jax.config.jax_default_matmul_precision == 'highest'
    assert torch.get_float32_matmul_precision() == 'high'
  finally:
    torch.set_float32_matmul_precision('highest')


@pytest.mark.parametrize(
  ('changes', 'message'),
  [
    ({'model': 'resnet8'}, "--model is 'resnet8'; did you mean 'resnet18'"),
    ({'variants': ['max_autotune']}, 'expected one of plain, channels_last'),
    ({'dtype': 'float16'}, "--dtype is 'float16'"),
  ],
)
def test_what_is_not_known(changes, message):
  with pytest.raises(UsageError, match=message):
    train.settings(**{'model': None, 'variants': None} | changes)


def test_defaults_and_what_variants_lack(monkeypatch):
  assert torch_step.lacks('plain', 'cpu') is None
  monkeypatch.setattr(torch_step.shutil, 'which', lambda _: None)
  assert 'compiler' in torch_step.lacks('compiled', 'cpu')
  on_cpu = train.settings(model=None, variants=None, rounds=3)
  assert on_cpu.models == ('resnet50', 'vit_small')
  assert (on_cpu.batch_size, on_cpu.dtype, on_cpu.rounds) == (8, 'float32', 3)
  assert on_cpu.variants == ('plain', 'channels_last', 'compiled')
  monkeypatch.setattr(jax, 'default_backend', lambda: 'gpu')
  on_gpu = train.settings(model='resnet18', variants=None)
  assert on_gpu.models == ('resnet18',)
  assert on_gpu.variants == ('channels_last', 'compiled', 'max_autotune')
  assert (on_gpu.batch_size, on_gpu.dtype) == (256, 'bfloat16')


def test_options_of_xla():
  lowered = jax.jit(lambda x: x + 1).lower(1.0)
  compile_with = xla_cpu.compile_with
  assert compile_with(lowered, {'xla_cpu_enable_fast_math': True})(1.0) == 2
  assert compile_with(lowered, {'xla_cpu_be_fast': True}) is None
  with pytest.raises(jax.errors.JaxRuntimeError):
    compile_with(lowered, {'xla_cpu_prefer_vector_width': 'wide'})
  x = np.random.default_rng(0).standard_normal((2, 3, 3, 4)).astype('f')
  kernel = np.ones((1, 1, 4, 2), 'f')
  np.testing.assert_allclose(
    xla_cpu.product(x, kernel),
    xla_cpu.convolution('NHWC', 'HWIO')(x, kernel),
    rtol=1e-5,
  )


def test_the_step_in_pytorch():
  """Its loss is that of MaxSup; half precision is autocast."""
  rng = np.random.default_rng(0)
  weights = {
    '1.weight': rng.standard_normal((3, 12)).astype(np.float32),
    '1.bias': np.zeros(3, np.float32),
  }
  batch = {
    'image': rng.integers(0, 256, (4, 2, 2, 3), np.uint8),
    'label': np.array([0, 2, 1, 1], np.int32),
  }
  losses, seen = {}, []
  for dtype in ('float32', 'bfloat16'):
    net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(12, 3))
    net[1].register_forward_hook(lambda m, x, y: seen.append(y.dtype))
    losses[dtype] = torch_step.Step(
      torch,
      net,
      weights,
      batch,
      variant='plain',
      platform='cpu',
      dtype=dtype,
      optimizer='adamw',
      options={'learning_rate': 0.1, 'weight_decay': 0.5},
      alpha=0.1,
      mean=(0.5, 0.4, 0.3),
      std=(0.2, 0.3, 0.4),
    ).first_step()
  assert seen == [torch.float32, torch.bfloat16]
  x = (batch['image'] / 255 - [0.5, 0.4, 0.3]) / [0.2, 0.3, 0.4]
  z = x.transpose(0, 3, 1, 2).reshape(4, 12) @ weights['1.weight'].T
  cross_entropy = np.log(np.exp(z).sum(-1)) - z[range(4), batch['label']]
  expected = (cross_entropy + 0.1 * (z.max(-1) - z.mean(-1))).mean()
  assert losses['float32'] == pytest.approx(expected, rel=1e-5)
  assert losses['bfloat16'] != losses['float32']
  assert losses['bfloat16'] == pytest.approx(expected, rel=2e-2)


@pytest.mark.slow
def test_the_program(tmp_path):
  out = tmp_path / 'out.json'
  code, printed, err = run(
    *('--suite=train', '--model=vit_tiny', '--image_size=32', '--batch_size=2'),
    *('--rounds=2', '--steps_per_round=1', '--variants=plain,compiled'),
    f'--out={out}',
    XLA_FLAGS='',
  )
  assert code == 0, err
  record = json.loads(out.read_text())
  assert record['suite'] == 'train'
  row = record['results']['models']['vit_tiny']
  assert set(row['programs']) <= {'jax', 'plain', 'compiled'}
  assert 'vit_tiny' in printed
