"""The losses that the suite `losses` measures: to add one, add a row."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from maxsup_jax import losses

ALPHA, GAMMA, MARGIN, TAU = 0.1, 2.0, 1.0, 0.04


class Entry(NamedTuple):
  """A row of `LOSSES`: a title, and functions that compute the same.

  Each is a function of logits `[B, K]`, of class ids `[B]` and, if there is
  `extras`, of what that made of a random key, B and K, and gives one value per
  example: the loss of this package, the same as one would write it without
  this package, and likewise in PyTorch, the module being its first argument.
  """

  title: str
  loss: Callable[..., jax.Array]
  composition: Callable[..., jax.Array] | None = None
  torch: Callable[..., Any] | None = None
  extras: Callable[[jax.Array, int, int], Any] | None = None


def baseline(logits, labels):
  """What every loss is compared with."""
  return optax.softmax_cross_entropy_with_integer_labels(logits, labels)


def _smoothed_one_hot(z, y):
  labels_BK = jax.nn.one_hot(y, z.shape[-1], dtype=z.dtype)
  return optax.softmax_cross_entropy(z, optax.smooth_labels(labels_BK, ALPHA))


def _torch_ce(torch, z, y, **options):
  return torch.nn.functional.cross_entropy(z, y, reduction='none', **options)


def _torch_maxsup(torch, z, y):
  """As in the authors' code, but for the mean over the examples."""
  penalty = z.topk(1, -1).values.squeeze(-1) - z.mean(-1)
  return _torch_ce(torch, z, y) + ALPHA * penalty


def _random_logits(key, batch, classes):
  return jax.random.normal(key, (batch, classes))


def _soft_labels(key, batch, classes):
  del batch
  return jax.nn.softmax(jax.random.normal(key, (classes, classes)))


def _focal(z, y):
  """What a user writes first; loses its digits as the probability nears 1."""
  surprise = baseline(z, y)
  return (1 - jnp.exp(-surprise)) ** GAMMA * surprise


def _with_entropy(z, y):
  log_q = jax.nn.log_softmax(z)
  return baseline(z, y) + ALPHA * jnp.sum(jnp.exp(log_q) * log_q, -1)


def _with_margin(z, y):
  gaps = z.max(-1, keepdims=True) - z
  return baseline(z, y) + ALPHA * jax.nn.relu(gaps - MARGIN).mean(-1)


def _normalized(z, y):
  norm = jnp.linalg.norm(z, axis=-1, keepdims=True) + 1e-7
  return baseline(z / norm / TAU, y)


def _mixed(z, y, targets):
  return 0.5 * baseline(z, y) + 0.5 * optax.softmax_cross_entropy(z, targets)


def _regularization_only(z, y):
  penalty = losses.smoothing_regularization(z, y, ALPHA, normalization='below')
  return losses.cross_entropy(z, y) + penalty


def _amplification_only(z, y):
  penalty = losses.error_amplification(z, y, ALPHA, normalization='above')
  return losses.cross_entropy(z, y) + penalty


def _adaptive_maxsup(z, y):
  alpha = losses.confidence_alpha(z, 0.0, ALPHA)
  return losses.maxsup_cross_entropy(z, y, alpha)


def _distilled(z, y, teacher):
  return losses.distillation_cross_entropy(z, y, 0.5, teacher_logits=teacher)


def _matched(z, y, teacher):
  return losses.logit_matching_cross_entropy(z, y, teacher_logits=teacher)


def _ours(name, *args, **options):
  """A loss of the package with its arguments behind the labels."""
  loss = getattr(losses, f'{name}_cross_entropy')
  return lambda z, y: loss(z, y, *args, **options)


LOSSES: dict[str, Entry] = {
  'ce': Entry('CE', losses.cross_entropy, torch=_torch_ce),
  'ls': Entry(
    'LS',
    _ours('label_smoothing', ALPHA),
    _smoothed_one_hot,
    partial(_torch_ce, label_smoothing=ALPHA),
  ),
  'maxsup': Entry(
    'MaxSup',
    _ours('maxsup', ALPHA),
    lambda z, y: baseline(z, y) + ALPHA * (z.max(-1) - z.mean(-1)),
    _torch_maxsup,
  ),
  'ols': Entry(
    'OLS',
    losses.ols_cross_entropy,
    lambda z, y, targets: _mixed(z, y, targets[y]),
    extras=_soft_labels,
  ),
  'zipf': Entry('Zipf', _ours('zipf', ALPHA)),
  'adaptive_ls': Entry('adaptive LS, self', _ours('adaptive_smoothing', ALPHA)),
  'regularization_only': Entry('regularization only', _regularization_only),
  'error_amplification_only': Entry('amplification only', _amplification_only),
  'adaptive_maxsup': Entry('MaxSup, adaptive', _adaptive_maxsup),
  'logit_penalty': Entry(
    'logit penalty',
    _ours('logit_penalty', ALPHA),
    lambda z, y: baseline(z, y) + ALPHA * jnp.sum(z**2, -1) / 2,
  ),
  'confidence_penalty': Entry(
    'confidence penalty', _ours('confidence_penalty', ALPHA), _with_entropy
  ),
  'logit_norm': Entry('LogitNorm', _ours('logit_norm', TAU), _normalized),
  'focal': Entry('focal', _ours('focal', GAMMA), _focal),
  'mbls': Entry('MbLS', _ours('mbls', ALPHA, margin=MARGIN), _with_margin),
  'acls': Entry('ACLS', _ours('acls', ALPHA, margin=MARGIN)),
  'distillation': Entry(
    'distillation',
    _distilled,
    lambda z, y, teacher: _mixed(z, y, jax.nn.softmax(teacher)),
    extras=_random_logits,
  ),
  'logit_matching': Entry('logit matching', _matched, extras=_random_logits),
}
