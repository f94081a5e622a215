"""Objectives: losses as training uses them, with state and a schedule."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax

from maxsup_jax.losses import _checks
from maxsup_jax.losses._confidence_alpha import confidence_alpha
from maxsup_jax.losses._schedules import (
  EpochSchedule,
  Schedule,
  constant_alpha,
)


class Objective(NamedTuple):
  """What a training minimises, as a pair of pure functions.

  The shape is that of an optax transformation::

    state = objective.init()
    losses, state = objective.apply(
        state, logits, labels, step=step, where=where)

  Attributes:
    init: returns the initial state, a pytree of arrays. Objectives without
      state have the empty tuple.
    apply: takes the state, the logits `[B, K]`, the labels, `[B]` or `[B, K]`,
      and by keyword the training step (0 if absent), which sets the strength,
      the mask `where` and the weights of the classes, `class_weights`. Returns
      the loss of every example, `[B]`, and the next state.
    needs: the names of what `apply` takes by keyword besides:
      `'teacher_logits'`, `[B, K]`, or `'votes'`, `[B, K]`.
  """

  init: Callable[[], Any]
  apply: Callable[..., tuple[jax.Array, Any]]
  needs: tuple[str, ...] = ()


def stateless(
  loss: Callable[..., jax.Array],
  strength: float | Schedule,
  allowed: _checks.Range,
  *,
  needs: tuple[str, ...] = (),
  adaptive_alpha: bool = False,
) -> Objective:
  """The objective of a loss function whose third argument is its strength.

  Args:
    loss: called as `loss(logits, labels, strength, where=, class_weights=)`,
      and with what it needs besides.
    strength: a number or a function of the step.
    allowed: the strengths that the loss takes; others are refused now.
    needs: see `Objective`.
    adaptive_alpha: makes the strength that of examples on which the model is
      sure: `confidence_alpha(logits, 0, strength)`.

  Returns:
    The objective.
  """
  strength = as_schedule(strength, allowed)
  if not isinstance(adaptive_alpha, bool):
    raise TypeError(f'adaptive_alpha must be a bool, got {adaptive_alpha!r}')

  def apply(
    state, logits, labels, *, step=0, where=None, class_weights=None, **inputs
  ):
    if set(inputs) != set(needs):
      raise TypeError(
        f'this objective needs {", ".join(needs) or "nothing"} besides logits '
        f'and labels, got {", ".join(inputs) or "nothing"}'
      )
    alpha = strength(step)
    if adaptive_alpha:
      alpha = alpha * confidence_alpha(logits, where=where)
    values = loss(
      logits,
      labels,
      alpha,
      where=where,
      class_weights=class_weights,
      **inputs,
    )
    return values, state

  return Objective(init=tuple, apply=apply, needs=needs)


def as_schedule(strength: float | Schedule, allowed: _checks.Range) -> Schedule:
  """A number as a schedule; values that are not allowed are refused now."""
  if not callable(strength):
    strength = constant_alpha(_checks.check_number(allowed.name, strength))
  if isinstance(strength, EpochSchedule):
    allowed.check((*strength.ends, *strength.values))
  return strength
