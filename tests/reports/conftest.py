import dataclasses
import json

import numpy as np
import pytest

from maxsup_jax import outputs as archive


def classifier(seed=0, n=400, K=5, D=8, sharpness=2.0, labels=None):
  """Features around class means, and the logits of a linear layer on them."""
  rng = np.random.default_rng(seed)
  if labels is None:
    labels = rng.permutation(np.arange(n) % K)
  weights = rng.normal(size=(K, D))
  features = weights[labels] / 2 + rng.normal(size=(len(labels), D))
  bias = rng.normal(size=K) / 10
  weights *= sharpness / 2
  return {
    'logits': (features @ weights.T + bias).astype(np.float32),
    'labels': labels,
    'features': features.astype(np.float32),
    'weights': weights.astype(np.float32),
    'bias': bias.astype(np.float32),
  }


def history(seed=0):
  """Lines of a run that logged neural collapse on both splits."""
  rng = np.random.default_rng(seed)
  return [
    {
      'kind': 'diagnostics',
      'step': 10 * epoch,
      'epoch': float(epoch),
      'split': split,
      'weights': 'raw',
      'accuracy': 1 - 0.5 / epoch,
      'nc1': float(rng.uniform(0.5, 1) / epoch),
      'nc2': 0.5 / epoch,
      'nc3': 0.7 / epoch,
      'ece': 0.1,
      'h_norm': None if epoch == 2 else 1.0,
    }
    for epoch in (1, 2, 3)
    for split in ('train', 'test')
  ]


@pytest.fixture
def write_npz(tmp_path):
  """Writes a classifier's file; arguments replace or, if None, drop arrays."""

  def write(name, arrays=None, **changes):
    arrays = (classifier() if arrays is None else arrays) | changes
    path = tmp_path / f'{name}.npz'
    np.savez(path, **{k: v for k, v in arrays.items() if v is not None})
    return path

  return write


@pytest.fixture(scope='session')
def two_models():
  """Two models on the same examples, the first with everything there is."""

  def outputs(name, arrays, **rest):
    return archive.Outputs(name=name, path=f'{name}.npz', **arrays, **rest)

  full = outputs(
    'CE',
    classifier(0),
    metadata={'dataset': 'blobs', 'split': 'test', 'step': 30},
    history=history(),
    head_error=0.0,
  )
  plain = classifier(1, labels=full.labels, sharpness=1.0)
  return full, dataclasses.replace(
    outputs('LS', plain, metadata=json.loads('{"dataset": "blobs"}')),
    history=history(1),
  )
