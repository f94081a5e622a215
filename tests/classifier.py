"""A made-up classifier: its outputs, and the history of its run."""

import numpy as np


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
