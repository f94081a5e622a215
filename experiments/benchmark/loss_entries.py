"""The losses that the suite `losses` measures: to add one, add a row."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import optax

from maxsup_jax import losses

ALPHA, GAMMA, MARGIN, TAU = 0.1, 2.0, 1.0, 0.04


class Entry(NamedTuple):
  """A row of `LOSSES`: a title, and functions that compute the same.

  Each is a function of logits `[B, K]`, of class ids `[B]` and, if there is
  `extras`, of what that made of a random key, B and K, and gives one value per
  example: the loss of this package, and the same in PyTorch, the module being
  its first argument.
  """

  title: str
  loss: Callable[..., jax.Array]
  torch: Callable[..., Any] | None = None
  extras: Callable[[jax.Array, int, int], Any] | None = None


# What every loss is compared with.
baseline = optax.softmax_cross_entropy_with_integer_labels


def _torch_ce(torch: Any, z: Any, y: Any, **options: Any) -> Any:
  return torch.nn.functional.cross_entropy(z, y, reduction='none', **options)


def _torch_maxsup(torch: Any, z: Any, y: Any) -> Any:
  """As in the authors' code, but for the mean over the examples."""
  penalty = z.topk(1, -1).values.squeeze(-1) - z.mean(-1)
  return _torch_ce(torch, z, y) + ALPHA * penalty


def _random_logits(key: jax.Array, batch: int, classes: int) -> jax.Array:
  return jax.random.normal(key, (batch, classes))


def _soft_labels(key: jax.Array, batch: int, classes: int) -> jax.Array:
  return jax.nn.softmax(_random_logits(key, classes, classes))


def _regularization_only(z: jax.Array, y: jax.Array) -> jax.Array:
  penalty = losses.smoothing_regularization(z, y, ALPHA, normalization='below')
  return losses.cross_entropy(z, y) + penalty


def _amplification_only(z: jax.Array, y: jax.Array) -> jax.Array:
  penalty = losses.error_amplification(z, y, ALPHA, normalization='above')
  return losses.cross_entropy(z, y) + penalty


def _adaptive_maxsup(z: jax.Array, y: jax.Array) -> jax.Array:
  alpha = losses.confidence_alpha(z, 0.0, ALPHA)
  return losses.maxsup_cross_entropy(z, y, alpha)


def _distilled(z: jax.Array, y: jax.Array, teacher: jax.Array) -> jax.Array:
  return losses.distillation_cross_entropy(z, y, 0.5, teacher_logits=teacher)


def _matched(z: jax.Array, y: jax.Array, teacher: jax.Array) -> jax.Array:
  return losses.logit_matching_cross_entropy(z, y, teacher_logits=teacher)


def _ours(name: str, *args: float, **options: Any) -> Callable[..., jax.Array]:
  """A loss of the package with its arguments behind the labels."""
  loss = getattr(losses, f'{name}_cross_entropy')
  return lambda z, y: loss(z, y, *args, **options)


_torch_ls = partial(_torch_ce, label_smoothing=ALPHA)
LOSSES: dict[str, Entry] = {
  'ce': Entry('CE', losses.cross_entropy, _torch_ce),
  'ls': Entry('LS', _ours('label_smoothing', ALPHA), _torch_ls),
  'maxsup': Entry('MaxSup', _ours('maxsup', ALPHA), _torch_maxsup),
  'ols': Entry('OLS', losses.ols_cross_entropy, extras=_soft_labels),
  'zipf': Entry('Zipf', _ours('zipf', ALPHA)),
  'adaptive_ls': Entry('adaptive LS, self', _ours('adaptive_smoothing', ALPHA)),
  'regularization_only': Entry('regularization only', _regularization_only),
  'error_amplification_only': Entry('amplification only', _amplification_only),
  'adaptive_maxsup': Entry('MaxSup, adaptive', _adaptive_maxsup),
  'logit_penalty': Entry('logit penalty', _ours('logit_penalty', ALPHA)),
  'confidence_penalty': Entry(
    'confidence penalty', _ours('confidence_penalty', ALPHA)
  ),
  'logit_norm': Entry('LogitNorm', _ours('logit_norm', TAU)),
  'focal': Entry('focal', _ours('focal', GAMMA)),
  'mbls': Entry('MbLS', _ours('mbls', ALPHA, margin=MARGIN)),
  'acls': Entry('ACLS', _ours('acls', ALPHA, margin=MARGIN)),
  'distillation': Entry('distillation', _distilled, extras=_random_logits),
  'logit_matching': Entry('logit matching', _matched, extras=_random_logits),
}
