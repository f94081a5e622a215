"""Objectives: losses as training uses them, with state and a schedule."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax

from maxsup_jax.losses import (
  _checks,
  _decomposition,
  _label_smoothing,
  _max_suppression,
)
from maxsup_jax.losses._cross_entropy import cross_entropy
from maxsup_jax.losses._decomposition import (
  error_amplification,
  smoothing_regularization,
)
from maxsup_jax.losses._label_smoothing import label_smoothing_cross_entropy
from maxsup_jax.losses._max_suppression import maxsup_cross_entropy
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
      and the mask `where`. Returns the loss of every example, `[B]`, and the
      next state.
  """

  init: Callable[[], Any]
  apply: Callable[..., tuple[jax.Array, Any]]


def ce_objective() -> Objective:
  """Plain cross-entropy.

  Returns:
    An objective without state.

  Examples:
    >>> import jax.numpy as jnp
    >>> import numpy as np
    >>> from maxsup_jax import losses
    >>> logits, labels = jnp.array([[0.5, 1.5, 1.0, -0.5]]), jnp.array([2])
    >>> objective = losses.ce_objective()
    >>> loss, state = objective.apply(objective.init(), logits, labels)
    >>> print(np.asarray(loss).round(4), state)
    [1.2466] ()
  """

  def apply(state, logits, labels, *, step=0, where=None):
    del step
    return cross_entropy(logits, labels, where=where), state

  return Objective(init=tuple, apply=apply)


def ls_objective(
  alpha: float | Schedule = 0.1, *, convention: str = 'uniform'
) -> Objective:
  """Label smoothing: `label_smoothing_cross_entropy`.

  Args:
    alpha: strength, at most 1, and at least 0 for ``'kl'``: a number or a
      function of the step.
    convention: ``'uniform'``, ``'others'`` or ``'kl'``.

  Returns:
    An objective without state.

  Raises:
    TypeError: if alpha is neither a number nor a function.
    ValueError: if alpha is outside its range or the convention is unknown.

  Examples:
    >>> import jax.numpy as jnp
    >>> import numpy as np
    >>> from maxsup_jax import losses
    >>> logits, labels = jnp.array([[0.5, 1.5, 1.0, -0.5]]), jnp.array([2])
    >>> objective = losses.ls_objective(0.1)
    >>> loss, state = objective.apply(objective.init(), logits, labels)
    >>> print(np.asarray(loss).round(4), state)
    [1.2841] ()
  """
  loss = functools.partial(label_smoothing_cross_entropy, convention=convention)
  return _stateless(loss, alpha, _label_smoothing.alpha_range(convention))


def maxsup_objective(alpha: float | Schedule = 0.1) -> Objective:
  """Max suppression: `maxsup_cross_entropy`.

  Args:
    alpha: strength, at least 0: a number or a function of the step.

  Returns:
    An objective without state.

  Raises:
    TypeError: if alpha is neither a number nor a function.
    ValueError: if alpha is negative.

  Examples:
    >>> import jax.numpy as jnp
    >>> import numpy as np
    >>> from maxsup_jax import losses
    >>> logits, labels = jnp.array([[0.5, 1.5, 1.0, -0.5]]), jnp.array([2])
    >>> objective = losses.maxsup_objective(0.1)
    >>> loss, state = objective.apply(objective.init(), logits, labels)
    >>> print(np.asarray(loss).round(4), state)
    [1.3341] ()
  """
  return _stateless(maxsup_cross_entropy, alpha, _max_suppression.ALPHA_RANGE)


def regularization_only_objective(
  alpha: float | Schedule = 0.1, *, normalization: str = 'below'
) -> Objective:
  """Cross-entropy plus `smoothing_regularization`, a row of the ablation.

  Labels must be class ids.

  Args:
    alpha: strength, at most 1: a number or a function of the step.
    normalization: ``'below'``, as in the paper's table 1, or ``'classes'``.

  Returns:
    An objective without state.

  Raises:
    TypeError: if alpha is neither a number nor a function.
    ValueError: if alpha is above 1 or the normalization is unknown.

  Examples:
    >>> import jax.numpy as jnp
    >>> import numpy as np
    >>> from maxsup_jax import losses
    >>> logits, labels = jnp.array([[0.5, 1.5, 1.0, -0.5]]), jnp.array([2])
    >>> objective = losses.regularization_only_objective(0.1)
    >>> loss, state = objective.apply(objective.init(), logits, labels)
    >>> print(np.asarray(loss).round(4), state)
    [1.3466] ()
  """
  _checks.check_choice(
    'normalization', normalization, _decomposition.REGULARIZATION_NORMALIZATIONS
  )

  def loss(logits, labels, alpha, *, where):
    term = smoothing_regularization(
      logits, labels, alpha, normalization=normalization, where=where
    )
    return cross_entropy(logits, labels, where=where) + term

  return _stateless(loss, alpha, _decomposition.ALPHA_RANGE)


def error_amplification_only_objective(
  alpha: float | Schedule = 0.1, *, normalization: str = 'above'
) -> Objective:
  """Cross-entropy plus `error_amplification`, two rows of the ablation.

  Labels must be class ids.

  Args:
    alpha: strength, at most 1: a number or a function of the step.
    normalization: ``'above'`` or ``'max'``, as in the paper's table 1, or
      ``'classes'``.

  Returns:
    An objective without state.

  Raises:
    TypeError: if alpha is neither a number nor a function.
    ValueError: if alpha is above 1 or the normalization is unknown.

  Examples:
    >>> import jax.numpy as jnp
    >>> import numpy as np
    >>> from maxsup_jax import losses
    >>> logits, labels = jnp.array([[0.5, 1.5, 1.0, -0.5]]), jnp.array([2])
    >>> objective = losses.error_amplification_only_objective(0.1)
    >>> loss, state = objective.apply(objective.init(), logits, labels)
    >>> print(np.asarray(loss).round(4), state)
    [1.1966] ()
  """
  _checks.check_choice(
    'normalization',
    normalization,
    _decomposition.ERROR_AMPLIFICATION_NORMALIZATIONS,
  )

  def loss(logits, labels, alpha, *, where):
    term = error_amplification(
      logits, labels, alpha, normalization=normalization, where=where
    )
    return cross_entropy(logits, labels, where=where) + term

  return _stateless(loss, alpha, _decomposition.ALPHA_RANGE)


def _stateless(
  loss: Callable[..., jax.Array],
  alpha: float | Schedule,
  allowed: _checks.AlphaRange,
) -> Objective:
  """The objective of a loss function; alpha is refused now if out of range."""
  if not callable(alpha):
    alpha = constant_alpha(_checks.check_number('alpha', alpha))
  if isinstance(alpha, EpochSchedule):
    allowed.check((*alpha.ends, *alpha.values))

  def apply(state, logits, labels, *, step=0, where=None):
    return loss(logits, labels, alpha(step), where=where), state

  return Objective(init=tuple, apply=apply)
