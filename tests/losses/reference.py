"""The losses again: NumPy, double precision, one row at a time.

Written from the definitions (explicit targets, explicit sums over classes), not
from the closed forms that the package computes. Every formula takes the logits
`z` and the label distribution `y` of one example.
"""

import math

import numpy as np


def softmax(z):
  exponentials = [math.exp(value - max(z)) for value in z]
  return np.array(exponentials) / math.fsum(exponentials)


def target_cross_entropy(z, target):
  return -math.fsum(t * math.log(q) for t, q in zip(target, softmax(z)))


def cross_entropy(z, y, alpha):
  del alpha
  return target_cross_entropy(z, y)


def uniform_smoothing(z, y, alpha):
  return target_cross_entropy(z, [(1 - alpha) * t + alpha / len(z) for t in y])


def others_target(y, alpha):
  if len(y) == 1:
    return y
  return [(1 - alpha) * t + alpha * (1 - t) / (len(y) - 1) for t in y]


def others_smoothing(z, y, alpha):
  return target_cross_entropy(z, others_target(y, alpha))


def kl_smoothing(z, y, alpha):
  target = others_target(y, alpha)
  entropy = -math.fsum(t * math.log(t) for t in target if t > 0)
  return target_cross_entropy(z, target) - entropy


def max_suppression(z, y, alpha):
  # Definition 3.5: uniform cross-entropy minus that of the predicted class.
  del y, alpha
  predicted = np.eye(len(z))[np.argmax(z)]
  uniform = np.full(len(z), 1 / len(z))
  return target_cross_entropy(z, uniform) - target_cross_entropy(z, predicted)


def maxsup(z, y, alpha):
  return target_cross_entropy(z, y) + alpha * max_suppression(z, y, alpha)


def below(z, y):
  z_y = z[np.argmax(y)]
  return [z_y - value for value in z if value < z_y]


def above(z, y):
  z_y = z[np.argmax(y)]
  return [z_y - value for value in z if value > z_y]


def mean_or_zero(values):
  return math.fsum(values) / len(values) if values else 0.0


def regularization(z, y, alpha):
  return alpha * math.fsum(below(z, y)) / len(z)


def regularization_below(z, y, alpha):
  return alpha * mean_or_zero(below(z, y))


def amplification(z, y, alpha):
  return alpha * math.fsum(above(z, y)) / len(z)


def amplification_above(z, y, alpha):
  return alpha * mean_or_zero(above(z, y))


def amplification_max(z, y, alpha):
  return alpha * min(above(z, y), default=0.0)


def over_batch(formula, logits, labels, alpha=0.1, where=None):
  """Applies a formula to every example; classes are on the last axis.

  Masked examples are 0; masked classes are removed before the formula sees
  them.
  """
  logits = np.asarray(logits, np.float64)
  batch, num_classes = logits.shape[:-1], logits.shape[-1]
  labels = np.asarray(labels)
  if np.issubdtype(labels.dtype, np.integer):
    labels = np.eye(num_classes)[labels]
  where = np.ones(logits.shape, bool) if where is None else np.asarray(where)
  if where.ndim < logits.ndim:
    where = np.repeat(where[..., None], num_classes, -1)
  alpha = np.broadcast_to(alpha, batch)
  values = np.zeros(batch)
  for i in np.ndindex(batch):
    if where[i].any():
      values[i] = formula(logits[i][where[i]], labels[i][where[i]], alpha[i])
  return values
