"""A linear model of handwritten digits, for closed forms."""

import flax.linen as nn
import numpy as np
from sklearn.datasets import load_digits

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

  @nn.compact
  def __call__(self, images, train=False):
    x = images.reshape(len(images), -1)
    if self.batch_norm:
      x = nn.BatchNorm(use_running_average=not train)(x)
    logits = nn.Dense(10, kernel_init=nn.initializers.normal(0.1))(x)
    return logits, {'penultimate': x}
