"""The losses again: NumPy, double precision, one row at a time.

Written from the definitions (explicit targets, explicit sums over classes), not
from the closed forms that the package computes. Every formula takes the logits
`z` and the label distribution `y` of one example. `WEIGHTS` of the classes
multiply the targets of `target_cross_entropy`, but nothing else.
"""

import functools
import math

import numpy as np

WEIGHTS = None


def softmax(z):
  exponentials = [math.exp(value - max(z)) for value in z]
  return np.array(exponentials) / math.fsum(exponentials)


def unweighted(z, target):
  return -math.fsum(t * math.log(q) for t, q in zip(target, softmax(z)))


def target_cross_entropy(z, target):
  return unweighted(z, weighted(target))


def weighted(target):
  return target if WEIGHTS is None else WEIGHTS * target


def cross_entropy(z, y, alpha):
  del alpha
  return target_cross_entropy(z, y)


def uniform_smoothing(z, y, alpha):
  return target_cross_entropy(z, (1 - alpha) * y + alpha / len(z))


def others_target(y, alpha):
  if len(y) == 1:
    return y
  return (1 - alpha) * y + alpha * (1 - y) / (len(y) - 1)


def others_smoothing(z, y, alpha):
  return target_cross_entropy(z, others_target(y, alpha))


def kl_smoothing(z, y, alpha):
  target = others_target(y, alpha)
  logs = [math.log(t) if t > 0 else 0.0 for t in target]
  entropy = -math.fsum(weighted(target) * logs)
  return target_cross_entropy(z, target) - entropy


def max_suppression(z, y, alpha):
  # Definition 3.5: uniform cross-entropy minus that of the predicted class.
  del y, alpha
  predicted = np.eye(len(z))[np.argmax(z)]
  uniform = np.full(len(z), 1 / len(z))
  return unweighted(z, uniform) - unweighted(z, predicted)


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


def half_square(z, y, alpha):
  del y, alpha
  return math.fsum(value**2 for value in z) / 2


def logit_penalty(z, y, alpha):
  return target_cross_entropy(z, y) + alpha * half_square(z, y, alpha)


def logit_penalty_full(z, y, alpha):
  return target_cross_entropy(z, y) + alpha * 2 * half_square(z, y, alpha)


def entropy(z):
  return -math.fsum(q * math.log(q) for q in softmax(z) if q > 0)


def negative_entropy(z, y, alpha):
  del y, alpha
  return -entropy(z)


def divergence_from_uniform(z, y, alpha):
  del y, alpha
  return math.fsum(q * math.log(q * len(z)) for q in softmax(z) if q > 0)


def negative_mean_entropy(z, y, alpha):
  del y, alpha
  return -entropy(z) / len(z)


def confidence_penalty(z, y, alpha):
  return target_cross_entropy(z, y) - alpha * entropy(z)


def logit_norm(z, y, temperature):
  norm = math.sqrt(math.fsum(value**2 for value in z))
  scaled = [value / (norm + 1e-7) / temperature for value in z]
  return target_cross_entropy(scaled, y)


def focal(z, y, gamma):
  label = np.argmax(y)
  q = softmax(z)
  doubt = math.fsum(np.delete(q, label))
  return doubt**gamma * target_cross_entropy(z, y)


def margin_penalty(z, y, alpha, *, margin):
  del y, alpha
  return math.fsum(max(max(z) - value - margin, 0) for value in z) / len(z)


def mbls(z, y, alpha, *, margin):
  penalty = margin_penalty(z, y, alpha, margin=margin)
  return target_cross_entropy(z, y) + alpha * penalty


def acls_penalty(z, y, alpha, *, margin, top_weight, rest_weight, frozen):
  del y, alpha
  below = [max(max(frozen) - v - margin, 0) ** 2 for v in z if v < max(z)]
  rest = math.fsum(below) / (len(z) - 1) if below else 0.0
  return top_weight * max(max(z) - margin, 0) ** 2 + rest_weight * rest


def acls(z, y, alpha, **options):
  penalty = acls_penalty(z, y, alpha, **options)
  return target_cross_entropy(z, y) + alpha * penalty


def online(z, y, alpha, *, targets):
  soft = target_cross_entropy(z, targets)
  return alpha * target_cross_entropy(z, y) + (1 - alpha) * soft


def ranks(scores):
  return [1 + sum(other > score for other in scores) for score in scores]


def zipf_penalty(z, y, alpha, *, power=1.0, votes=None, frozen):
  del alpha
  label = np.argmax(y)
  law = np.array(ranks(frozen if votes is None else votes), float) ** -power
  law, others = np.delete(law, label), np.delete(z, label)
  if not len(others):
    return 0.0
  law = law / math.fsum(law)
  return math.fsum(t * math.log(t / q) for t, q in zip(law, softmax(others)))


def zipf(z, y, alpha, **options):
  penalty = zipf_penalty(z, y, alpha, **options)
  return target_cross_entropy(z, y) + alpha * penalty


def prior_smoothing(z, y, alpha, *, prior):
  return target_cross_entropy(z, (1 - alpha) * y + alpha * prior)


def adaptive(z, y, alpha, *, teacher_logits, temperature):
  prior = softmax(np.divide(teacher_logits, temperature))
  return prior_smoothing(z, y, alpha, prior=prior)


def self_adaptive(z, y, alpha, *, temperature, frozen):
  return adaptive(z, y, alpha, teacher_logits=frozen, temperature=temperature)


def distillation(
  z, y, alpha, *, teacher_logits, teacher=1.0, student=1.0, kl=False, scale=1.0
):
  del y, alpha
  target = softmax(np.divide(teacher_logits, teacher))
  loss = unweighted(np.divide(z, student), target)
  if kl:
    loss += math.fsum(t * math.log(t) for t in target if t > 0)
  return scale * loss


def distillation_mixture(z, y, beta, **options):
  imitation = distillation(z, y, beta, **options)
  return (1 - beta) * target_cross_entropy(z, y) + beta * imitation


def logit_matching(z, y, alpha, *, teacher_logits, mean=False):
  del y, alpha
  half = math.fsum((a - b) ** 2 for a, b in zip(z, teacher_logits)) / 2
  return half / len(z) if mean else half


def logit_matching_mixture(z, y, beta, *, teacher_logits):
  distance = logit_matching(z, y, beta, teacher_logits=teacher_logits)
  return (1 - beta) * target_cross_entropy(z, y) + beta * distance


def with_gradient(formula, logits, labels, alpha=0.1, where=None, step=1e-5):
  """Values of a formula over a batch, `[B, K]`, and their gradient.

  Masked examples are 0; masked classes are removed before the formula sees
  them. It is called with `kept`, the classes that are not masked, and `frozen`,
  the logits that a gradient does not flow through. Without `step`, which is
  that of central differences, the gradients in logits and alpha are 0.
  """
  logits, labels = np.asarray(logits, np.float64), np.asarray(labels)
  B, K = logits.shape
  if np.issubdtype(labels.dtype, np.integer):
    labels = np.eye(K)[labels]
  where = np.ones(logits.shape, bool) if where is None else where
  alpha = np.broadcast_to(alpha, B)
  values, gradient, slopes = np.zeros(B), np.zeros(logits.shape), np.zeros(B)
  for i in np.flatnonzero(where.any(-1)):
    kept = np.flatnonzero(where[i])
    z, y = logits[i][kept], labels[i][kept]
    one = functools.partial(formula, kept=kept, frozen=z)
    values[i] = one(z, y, alpha[i])
    if step is None:
      continue
    rise = one(z, y, alpha[i] + step) - one(z, y, alpha[i] - step)
    slopes[i] = rise / (2 * step)
    for k, nudge in zip(kept, step * np.eye(len(z))):
      rise = one(z + nudge, y, alpha[i]) - one(z - nudge, y, alpha[i])
      gradient[i, k] = rise / (2 * step)
  return values, gradient, slopes
