"""Objectives from features and the last layer, without logits in memory."""

from typing import Any

import jax
from jax.typing import ArrayLike

from maxsup_jax import errors
from maxsup_jax.errors import UsageError
from maxsup_jax.losses import Objective
from maxsup_jax.training.task import Sums

# Logits of a device, in number, from which on `objective.fused` is in force.
# Below, a step with the logits in memory, 64 MB in float32, is the faster one:
# by docs/large_vocabulary.md 1.2 to 1.4 times.
FUSED_FROM = 2**24
REFUSED = 'config.objective.fused is True; expected False '


def take(wanted: dict[str, Any]) -> bool:
  """Takes `fused` out of the options of an objective."""
  return errors.boolean('objective.fused', wanted.pop('fused', False))


def check(objective: Objective) -> None:
  """Refuses an objective that needs logits."""
  if objective.apply_linear is None:
    raise UsageError(
      f'{REFUSED}for this objective: ce, ls and maxsup can do without logits, '
      "but for adaptive_alpha, class_weights and convention 'kl'"
    )


def losses_and_sums(
  objective: Objective,
  state: Any,
  features: ArrayLike,
  kernel: ArrayLike,
  labels: jax.Array,
  *,
  mask: jax.Array,
  step: ArrayLike,
  **layer: Any,
) -> tuple[jax.Array, Sums, Any]:
  """Losses `[N]`, sums of NLL and accuracy, and the objective's next state.

  Args:
    objective: one that `check` lets pass.
    state: of the objective.
    features: `[N, D]`.
    kernel: of the last layer.
    labels: int32 `[N]`.
    mask: bool `[N]`, those that count.
    step: of training.
    **layer: see `losses.linear_statistics`.
  """
  assert objective.apply_linear is not None
  values, state, rows = objective.apply_linear(
    state, features, kernel, labels, step=step, where=mask, **layer
  )
  nll, count = rows.log_normalizer - rows.label_logit, mask.sum()
  sums = {'nll': (nll.sum(), count), 'accuracy': (rows.correct.sum(), count)}
  return values, sums, state
