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

from experiments.benchmark import timing, torch_models, torch_step, train
from maxsup_jax import models
from maxsup_jax.errors import UsageError
from tests.experiments.quickly import compiled_quickly
from tests.experiments.test_benchmark import of_machine, over, run, told

VARIANTS = ('plain', 'channels_last')
TINY = {'image_size': 32, 'batch_size': 4, 'num_classes': 5}
TINY |= {'rounds': 2, 'steps_per_round': 1}
_SHALLOW = {'dim': 16, 'depth': 1, 'heads': 2}


@pytest.fixture(scope='module')
def measured(cached_compilations):
  before = torch.get_num_threads()
  with pytest.MonkeyPatch.context() as patch, compiled_quickly():
    # Where other tests run beside it, threads that wait for each other would
    # take all the time that there is.
    patch.setattr(os, 'sched_getaffinity', lambda _: {0})
    patch.delitem(torch_step.VARIANTS, 'compiled')
    # Else it has twelve layers.
    entry = models.MODELS['vit_tiny']
    entry = dataclasses.replace(entry, architecture=_SHALLOW)
    patch.setitem(models.MODELS, 'vit_tiny', entry)
    twin = functools.partial(torch_models.VisionTransformer, **_SHALLOW)
    patch.setitem(torch_models.MODELS, 'vit_tiny', twin)
    yield train.measure(model='vit_tiny', **TINY)
  torch.set_num_threads(before)


@pytest.mark.slow
def test_both_frameworks_compute_the_same_steps(measured):
  record = of_machine(measured)
  assert record['settings']['torch_threads'] == 1
  row = record['results']['models']['vit_tiny']
  assert row['optimizer'] == 'adamw'
  assert max(row['distances'].values()) < 1e-4
  for losses in (row['first_losses'], row['second_losses']):
    assert list(losses) == ['jax', *VARIANTS]
    assert list(losses.values()) == pytest.approx([losses['jax']] * 3, rel=1e-4)
  # The optimizer moved the weights.
  assert row['first_losses']['jax'] != pytest.approx(
    row['second_losses']['jax'], rel=1e-3
  )
  programs = row['programs']
  medians = {n: programs[n]['step_seconds']['median'] for n in VARIANTS}
  assert row['reference'] == min(medians, key=medians.get)
  assert row['torch_over_jax'] == programs[row['reference']]['torch_over_jax']
  for name in VARIANTS:
    assert programs[name]['torch_over_jax']['per_round'] == over(
      programs[name]['step_seconds'], programs['jax']['step_seconds']
    )
  assert 'vit_tiny, 4 images of 32x32, float32' in told(record, 'train')


@pytest.mark.slow
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
  s = timing.filled({**TINY, 'dtype': 'float32'}, {})
  with pytest.raises(UsageError, match=f'different {what}') as info:
    train.distances(s, 'vit_tiny', jax.local_devices()[0])
  assert '\n' not in str(info.value)


def test_arrays_that_differ_are_refused():
  theirs = {'a': np.array([[3.0, 0.0]]), 'b': np.array([4.0])}
  ours = {'a': np.array([[3.0, 0.003]]), 'b': np.array([4.003])}
  expected = pytest.approx(0.003 * 2**0.5 / 5)
  assert train.check('logits', ours, theirs) == expected
  ours['b'] = np.array([4.005])
  assert train.check('losses', ours, theirs, 2e-2) > 1e-3
  with pytest.raises(UsageError, match=r'logits, 0\.0012 apart, .* most in b'):
    train.check('logits', ours, theirs)
  with pytest.raises(UsageError, match='nan apart'):
    train.check('logits', {'a': np.zeros(2)}, {'a': np.zeros(2)})


def test_nothing_is_rounded_where_gradients_are_compared():
  torch.set_float32_matmul_precision('high')
  try:
    with torch_step.exact():
      assert torch.get_float32_matmul_precision() == 'highest'
      assert not torch.backends.cudnn.allow_tf32
      assert jax.config.jax_default_matmul_precision == 'highest'
    assert torch.get_float32_matmul_precision() == 'high'
  finally:
    torch.set_float32_matmul_precision('highest')


def test_nothing_is_compiled_without_a_compiler(monkeypatch):
  monkeypatch.setattr(torch_step.shutil, 'which', lambda _: None)
  assert torch_step.variants_of('cpu') == ['plain', 'channels_last']


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
      net,
      weights,
      batch,
      variant='plain',
      platform='cpu',
      dtype=dtype,
      optimizer='adamw',
      options={'learning_rate': 0.1, 'weight_decay': 0.5},
    ).first_step()
  assert seen == [torch.float32, torch.bfloat16]
  x = (batch['image'] / 255 - torch_step.MEAN) / torch_step.STD
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
    *('--suite=train', '--model=vit_tiny', '--batch_size=2', '--rounds=2'),
    f'--out={out}',
    XLA_FLAGS='',
  )
  assert code == 0, err
  record = json.loads(out.read_text())
  assert record['suite'] == 'train'
  row = record['results']['models']['vit_tiny']
  assert set(row['programs']) <= {'jax', 'plain', 'compiled'}
  assert 'vit_tiny' in printed
