"""The losses that the suite `losses` measures, a row each.

To add one, add a row to `LOSSES`. Whatever a row names as its competitor must
compute the same values: tests/experiments/test_benchmark_losses.py holds every
row to that.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import optax

from maxsup_jax import losses

ALPHA = 0.1


class Entry(NamedTuple):
  """A row of `LOSSES`.

  A loss is a function of logits `[B, K]`, of class ids `[B]` and of what
  `extras` made (None without it), and gives one value per example. It is
  differentiated with respect to the logits only.

  Attributes:
    title: what the report calls it; at most 20 characters.
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


def baseline(logits, labels, extras):
  """What every loss is compared with."""
  del extras
  return optax.softmax_cross_entropy_with_integer_labels(logits, labels)


def _smoothed_one_hot(logits, labels, extras):
  del extras
  labels_BK = jax.nn.one_hot(labels, logits.shape[-1], dtype=logits.dtype)
  smoothed_BK = optax.smooth_labels(labels_BK, ALPHA)
  return optax.softmax_cross_entropy(logits, smoothed_BK)


def _with_top_minus_mean(logits, labels, extras):
  penalty = logits.max(-1) - logits.mean(-1)
  return baseline(logits, labels, extras) + ALPHA * penalty


def _torch_cross_entropy(torch, logits, labels, **options):
  return torch.nn.functional.cross_entropy(
    logits, labels, reduction='none', **options
  )


def _torch_maxsup(torch, logits, labels, extras):
  """As in the authors' code, but for the mean over the examples."""
  del extras
  top = logits.topk(1, -1).values.squeeze(-1)
  penalty = top - logits.mean(-1)
  return _torch_cross_entropy(torch, logits, labels) + ALPHA * penalty


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
    composition=_with_top_minus_mean,
    torch=_torch_maxsup,
  ),
}
