"""A linear model of handwritten digits, for closed forms, and a task of it."""

import flax.linen as nn
import numpy as np
from sklearn.datasets import load_digits

from maxsup_jax import data, losses
from maxsup_jax.tasks import resolve
from maxsup_jax.tasks.classification import Classification
from maxsup_jax.training.parallel import Devices

SHAPE = (8, 8, 1)
IMAGES, LABELS = load_digits(return_X_y=True)
ORDER = np.random.default_rng(0).permutation(len(LABELS))


def batches(count, size, start=0):
  """Handwritten digits. On noise, training amplifies rounding errors."""
  rows = ORDER[start * size :][: count * size].reshape(count, size)
  return [
    {
      'image': np.uint8(IMAGES[r].reshape(-1, *SHAPE) * 15),
      'label': LABELS[r].astype(np.int32),
      'mask': np.ones(size, bool),
    }
    for r in rows
  ]


class Linear(nn.Module):
  """Logits that are linear in the pixels, for closed forms."""

  batch_norm: bool = False
  axis: str | None = None

  @nn.compact
  def __call__(self, images, train=False):
    x = images.reshape(len(images), -1)
    if self.batch_norm:
      x = nn.BatchNorm(not train, axis_name=self.axis if train else None)(x)
    logits = nn.Dense(10, kernel_init=nn.initializers.normal(0.1))(x)
    return logits, {'penultimate': x}


def task(model, objective=None, *, counts=None, **config):
  """A model and an objective as a task, for steps that are given batches.

  With `counts`, training examples of each class, accuracy is one of groups.
  """
  dataset = config.pop('dataset', {})
  source = None
  if counts is not None:
    dataset['imbalance'] = 0.01
    labels = np.repeat(np.arange(len(counts)), counts)
    images = np.zeros((len(labels), 1, 1, 1), np.uint8)
    source = data.ArraySource(images, labels, num_classes=len(counts))
    source.counts = tuple(counts)
  return Classification(
    config=resolve(config | {'dataset': dataset}),
    devices=Devices(),
    train_source=source,
    eval_source=None,
    train_transform=None,
    eval_transform=None,
    image_shape=SHAPE,
    eval_shape=SHAPE,
    model=model,
    objective=objective or losses.OBJECTIVES['ce'](),
  )
