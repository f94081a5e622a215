"""The losses that the suite `losses` measures, a row each.

To add one, add a row to `LOSSES`. Whatever a row names as its competitor must
compute the same values: the suite refuses to time it otherwise.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from maxsup_jax import losses

ALPHA, GAMMA, MARGIN, TAU = 0.1, 2.0, 1.0, 0.04


class Entry(NamedTuple):
  """A row of `LOSSES`.

  A loss is a function of logits `[B, K]`, of class ids `[B]` and of what
  `extras` made (None without it), and gives one value per example. It is
  differentiated with respect to the logits only.

  Attributes:
    title: what the report calls it.
    loss: the loss of this package.
    extras: makes the further arrays that the loss takes, any tree of them, of
      a random key, B and K. It is compiled, and its arrays are no constants of
      the loss.
    largest_classes: the largest K at which it is measured; None for any.
    composition: the same loss as one would write it without this package.
    torch: likewise in PyTorch, the module being its first argument.
  """

  title: str
  loss: Callable[..., jax.Array]
  extras: Callable[[jax.Array, int, int], Any] | None = None
  largest_classes: int | None = None
  composition: Callable[..., jax.Array] | None = None
  torch: Callable[..., Any] | None = None


def baseline(logits, labels, extras=None):
  """What every loss is compared with."""
  del extras
  return optax.softmax_cross_entropy_with_integer_labels(logits, labels)


def _smoothed_one_hot(logits, labels, _):
  labels_BK = jax.nn.one_hot(labels, logits.shape[-1], dtype=logits.dtype)
  return optax.softmax_cross_entropy(
    logits, optax.smooth_labels(labels_BK, ALPHA)
  )


def _torch_cross_entropy(torch, logits, labels, **options):
  return torch.nn.functional.cross_entropy(
    logits, labels, reduction='none', **options
  )


def _torch_maxsup(torch, logits, labels, _):
  """As in the authors' code, but for the mean over the examples."""
  top = logits.topk(1, -1).values.squeeze(-1)
  penalty = top - logits.mean(-1)
  return _torch_cross_entropy(torch, logits, labels) + ALPHA * penalty


def _random_logits(key, batch, classes):
  return jax.random.normal(key, (batch, classes))


def _soft_labels(key, batch, classes):
  del batch
  return jax.nn.softmax(jax.random.normal(key, (classes, classes)))


def _focal(logits, labels, _):
  """What a user writes first; loses its digits as the probability nears 1."""
  surprise = baseline(logits, labels)
  return (1 - jnp.exp(-surprise)) ** GAMMA * surprise


def _torch_focal(torch, logits, labels, _):
  surprise = _torch_cross_entropy(torch, logits, labels)
  return (1 - torch.exp(-surprise)) ** GAMMA * surprise


def _with_entropy(logits, labels, _):
  log_q = jax.nn.log_softmax(logits)
  entropy = -jnp.sum(jnp.exp(log_q) * log_q, -1)
  return baseline(logits, labels) - ALPHA * entropy


def _with_margin(logits, labels, _):
  gaps = logits.max(-1, keepdims=True) - logits
  penalty = jax.nn.relu(gaps - MARGIN).mean(-1)
  return baseline(logits, labels) + ALPHA * penalty


def _torch_with_margin(torch, logits, labels, _):
  gaps = logits.max(-1, keepdim=True).values - logits
  penalty = torch.relu(gaps - MARGIN).mean(-1)
  return _torch_cross_entropy(torch, logits, labels) + ALPHA * penalty


def _normalized(logits, labels, _):
  norm = jnp.linalg.norm(logits, axis=-1, keepdims=True) + 1e-7
  return baseline(logits / norm / TAU, labels)


def _distilled(logits, labels, teacher_logits):
  teacher_BK = jax.nn.softmax(teacher_logits)
  imitation = optax.softmax_cross_entropy(logits, teacher_BK)
  return 0.5 * baseline(logits, labels) + 0.5 * imitation


def _torch_distilled(torch, logits, labels, teacher_logits):
  imitation = torch.nn.functional.cross_entropy(
    logits, teacher_logits.softmax(-1), reduction='none'
  )
  return 0.5 * _torch_cross_entropy(torch, logits, labels) + 0.5 * imitation


LOSSES: dict[str, Entry] = {
  'ce': Entry(
    'CE',
    lambda z, y, _: losses.cross_entropy(z, y),
    torch=lambda torch, z, y, _: _torch_cross_entropy(torch, z, y),
  ),
  'ls': Entry(
    'LS',
    lambda z, y, _: losses.label_smoothing_cross_entropy(z, y, ALPHA),
    composition=_smoothed_one_hot,
    torch=lambda torch, z, y, _: _torch_cross_entropy(
      torch, z, y, label_smoothing=ALPHA
    ),
  ),
  'maxsup': Entry(
    'MaxSup',
    lambda z, y, _: losses.maxsup_cross_entropy(z, y, ALPHA),
    composition=lambda z, y, _: (
      baseline(z, y) + ALPHA * (z.max(-1) - z.mean(-1))
    ),
    torch=_torch_maxsup,
  ),
  'ols': Entry(
    'OLS',
    lambda z, y, targets: losses.ols_cross_entropy(z, y, targets),
    extras=_soft_labels,
    # The soft labels of 32,000 classes take as much as the logits of so many
    # examples.
    largest_classes=21843,
    composition=lambda z, y, targets: (
      0.5 * baseline(z, y) + 0.5 * optax.softmax_cross_entropy(z, targets[y])
    ),
  ),
  'zipf': Entry('Zipf', lambda z, y, _: losses.zipf_cross_entropy(z, y, ALPHA)),
  'adaptive_ls': Entry(
    'adaptive LS, self',
    lambda z, y, _: losses.adaptive_smoothing_cross_entropy(z, y, ALPHA),
  ),
  'regularization_only': Entry(
    'regularization only',
    lambda z, y, _: (
      losses.cross_entropy(z, y)
      + losses.smoothing_regularization(z, y, ALPHA, normalization='below')
    ),
  ),
  'error_amplification_only': Entry(
    'amplification only',
    lambda z, y, _: (
      losses.cross_entropy(z, y)
      + losses.error_amplification(z, y, ALPHA, normalization='above')
    ),
  ),
  'adaptive_maxsup': Entry(
    'MaxSup, adaptive',
    lambda z, y, _: losses.maxsup_cross_entropy(
      z, y, losses.confidence_alpha(z, 0.0, ALPHA)
    ),
  ),
  'logit_penalty': Entry(
    'logit penalty',
    lambda z, y, _: losses.logit_penalty_cross_entropy(z, y, ALPHA),
    composition=lambda z, y, _: baseline(z, y) + ALPHA * jnp.sum(z**2, -1) / 2,
  ),
  'confidence_penalty': Entry(
    'confidence penalty',
    lambda z, y, _: losses.confidence_penalty_cross_entropy(z, y, ALPHA),
    composition=_with_entropy,
  ),
  'logit_norm': Entry(
    'LogitNorm',
    lambda z, y, _: losses.logit_norm_cross_entropy(z, y, TAU),
    composition=_normalized,
  ),
  'focal': Entry(
    'focal',
    lambda z, y, _: losses.focal_cross_entropy(z, y, GAMMA),
    composition=_focal,
    torch=_torch_focal,
  ),
  'mbls': Entry(
    'MbLS',
    lambda z, y, _: losses.mbls_cross_entropy(z, y, ALPHA, margin=MARGIN),
    composition=_with_margin,
    torch=_torch_with_margin,
  ),
  'acls': Entry(
    'ACLS',
    lambda z, y, _: losses.acls_cross_entropy(z, y, ALPHA, margin=MARGIN),
  ),
  'distillation': Entry(
    'distillation',
    lambda z, y, teacher: losses.distillation_cross_entropy(
      z, y, 0.5, teacher_logits=teacher
    ),
    extras=_random_logits,
    composition=_distilled,
    torch=_torch_distilled,
  ),
  'logit_matching': Entry(
    'logit matching',
    lambda z, y, teacher: losses.logit_matching_cross_entropy(
      z, y, teacher_logits=teacher
    ),
    extras=_random_logits,
  ),
}
