"""Neural collapse and calibration that training logs."""

import dataclasses
import math

import jax
import numpy as np
import pytest

from maxsup_jax import data, tasks
from maxsup_jax.tasks import resolve
from maxsup_jax.tasks.collapse import COLLAPSE, COSINES
from maxsup_jax.tasks.extraction import outputs as extract
from maxsup_jax.training import loop
from maxsup_jax.training.parallel import Devices
from tests.runs import assert_same_bits, last_state, timeless

pytestmark = pytest.mark.usefixtures('cached_compilation')

CONFIG = {
  'duration': '10 steps',
  'batch_size': 32,
  # 355 test images: the last of the batches is padded on any of the devices.
  'eval_batch_size': 100,
  'dataset': {
    'name': 'digits',
    'in_memory': True,
    'train_transform': 'pad_and_crop(1)',
  },
  'model': {'name': 'tests.nets:Small'},
  'optimizer': {'learning_rate': 0.05},
  'log_every': '2 steps',
  'eval_every': '5 steps',
  'checkpoint_every': '3 steps',
  'keep_checkpoints': 10,
}
ON = {'diagnostics_every': '4 steps'}


@pytest.fixture
def train(data_dir):
  def train(path, devices=1, **changes):
    run = tasks.build(
      resolve(CONFIG | changes),
      data_dir=data_dir,
      devices=Devices(jax.devices()[:devices]),
    )
    return run, loop.train(run, tasks.open_workdir(path, writes=True))

  return train


def diagnostics_of(path):
  return [r for r in timeless(path) if r['kind'] == 'diagnostics']


def relative_distance(a, b):
  return np.linalg.norm(a / np.linalg.norm(a) - b / np.linalg.norm(b))


def reference(logits, features, labels, W_KD):
  """Every number from its definition, in float64."""
  logits, H, W = (x.astype(np.float64) for x in (logits, features, W_KD))
  N, K = logits.shape
  classes = range(K)
  means = np.stack([H[labels == k].mean(0) for k in classes])
  centered = means - means.mean(0)
  deviation = H - means[labels]
  within = deviation.T @ deviation / N
  between = centered.T @ centered / K
  etf = (np.eye(K) - 1 / K) / np.sqrt(K - 1)
  distances = ((H[:, None] - means) ** 2).sum(-1)
  probabilities = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
  confidence = probabilities.max(-1)
  correct = logits.argmax(-1) == labels
  unit = H / np.linalg.norm(H, axis=1, keepdims=True)
  # Mean distances of all pairs of examples of two classes.
  pairs = np.array(
    [
      [1 - (unit[labels == j] @ unit[labels == k].T).mean() for j in classes]
      for k in classes
    ]
  )
  within_cosine, total_cosine = np.diag(pairs).mean(), pairs.mean()
  ece = 0
  for b in range(15):
    inside = (confidence > b / 15) & (confidence <= (b + 1) / 15)
    ece += abs((correct[inside] - confidence[inside]).sum()) / N
  return {
    'examples': N,
    'accuracy': correct.mean(),
    'nll': -np.log(probabilities[np.arange(N), labels]).mean(),
    'ece': ece,
    'nc1': np.trace(within @ np.linalg.pinv(between, 1e-10)) / K,
    'nc2': relative_distance(W @ centered.T, etf),
    'nc3': relative_distance(W, centered),
    'nc2h': relative_distance(centered @ centered.T, etf),
    'nc2w': relative_distance(W @ W.T, etf),
    'w_norm': np.linalg.norm(W, axis=1).mean(),
    'h_norm': np.linalg.norm(centered, axis=1).mean(),
    'ncc_accuracy': (distances.argmin(1) == labels).mean(),
    'cosine_within': within_cosine,
    'cosine_total': total_cosine,
    'r_squared': 1 - within_cosine / total_cosine,
  }


@pytest.mark.parametrize('count', [pytest.param(1, marks=pytest.mark.slow), 4])
def test_agrees_with_the_definitions_on_the_same_features(
  train, tmp_path, count
):
  """Both splits, both sets of weights; train images are not augmented."""
  changes = ON | {'ema_decay': 0.5}
  run, _ = train(tmp_path / 'run', devices=count, **changes)
  lines = timeless(tmp_path / 'run')
  measured = [
    ('diagnostics', split, weights)
    for split in ('train', 'test')
    for weights in ('raw', 'ema')
  ]
  evaluated = [('eval', 'test', 'raw'), ('eval', 'test', 'ema')]
  trained = [('train', None, None)]
  assert [
    (r['kind'], r.get('split'), r.get('weights')) for r in lines
  ] == 2 * trained + measured + evaluated + 2 * trained + measured + (
    trained + evaluated + measured
  )
  assert [r['step'] for r in lines if r['kind'] == 'eval'] == [5, 5, 10, 10]
  found = diagnostics_of(tmp_path / 'run')[-4:]
  for name in ('examples', 'accuracy', 'nll', 'ece'):
    assert found[-1][name] == lines[-5][name]
  state, _ = last_state(run, tmp_path / 'run')
  step = run.devices.map(run.task.extract_step())
  for record in found:
    variables = state.variables(ema=record['weights'] == 'ema')
    batches = list(
      extract(
        step,
        run.devices.replicate(variables),
        run.task.eval_batches(record['split']),
        run.devices,
      )
    )
    expected = reference(
      *(
        np.concatenate([b[name] for b in batches])
        for name in ('logits', 'features', 'labels')
      ),
      variables['params']['head']['kernel'].T,
    )
    assert expected.keys() == record.keys() - {
      'kind',
      'step',
      'epoch',
      'split',
      'weights',
    }
    assert record['step'] == 10
    for name, value in expected.items():
      assert record[name] == pytest.approx(value, rel=1e-4), name
    assert record['accuracy'] == expected['accuracy']
  # Different weights and splits have different numbers.
  assert len({r['nc1'] for r in found}) == 4


@pytest.mark.slow
def test_changes_nothing_of_the_training(train, tmp_path):
  run, _ = train(tmp_path / 'off')
  train(tmp_path / 'on', **ON)
  assert_same_bits(
    last_state(run, tmp_path / 'off'), last_state(run, tmp_path / 'on')
  )
  rest = [r for r in timeless(tmp_path / 'on') if r['kind'] != 'diagnostics']
  assert rest == timeless(tmp_path / 'off')


def test_a_class_without_examples_ends_no_training(
  train, tmp_path, monkeypatch, capfd
):
  """Said once, and null in the records; the rest is measured."""
  build = tasks.build

  def without_threes(*args, **kwargs):
    run = build(*args, **kwargs)
    examples = map(run.task.eval_source.__getitem__, range(355))
    kept = [e for e in examples if e['label'] != 3]
    source = data.ArraySource(
      np.stack([e['image'] for e in kept]),
      [e['label'] for e in kept],
      num_classes=10,
      name='digits/no threes',
    )
    task = dataclasses.replace(run.task, eval_source=source)
    return dataclasses.replace(run, task=task)

  monkeypatch.setattr(tasks, 'build', without_threes)
  train(tmp_path / 'run', **ON)
  found = diagnostics_of(tmp_path / 'run')
  assert len(found) == 6
  for record in found:
    defined = record['split'] == 'train'
    for name in (*COLLAPSE, *COSINES):
      assert (record[name] is not None) == defined
    for name in ('accuracy', 'nll', 'ece'):
      assert math.isfinite(record[name])
  assert found[-1]['examples'] < 355
  said = [x for x in capfd.readouterr().err.splitlines() if 'undefined' in x]
  assert len(said) == 1
  assert 'diagnostics of test are undefined: ' in said[0]
  assert 'class 3 ' in said[0]


@pytest.mark.slow
def test_one_split_for_both_is_measured_once(train, tmp_path):
  dataset = CONFIG['dataset'] | {'train_split': 'test'}
  train(tmp_path / 'run', dataset=dataset, duration='2 steps', **ON)
  found = diagnostics_of(tmp_path / 'run')
  assert [(r['step'], r['split']) for r in found] == [(2, 'test')]
