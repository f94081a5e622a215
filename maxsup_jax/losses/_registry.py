"""Objectives by name: from a configuration to an objective."""

import inspect
import types
from collections.abc import Callable, Collection, Mapping
from typing import Any

from maxsup_jax._errors import UsageError
from maxsup_jax.losses import _objectives, _schedules
from maxsup_jax.losses._objectives import Objective
from maxsup_jax.losses._schedules import Schedule

OBJECTIVES: Mapping[str, Callable[..., Objective]] = types.MappingProxyType(
  {
    'ce': _objectives.ce_objective,
    'ls': _objectives.ls_objective,
    'maxsup': _objectives.maxsup_objective,
    'regularization_only': _objectives.regularization_only_objective,
    'error_amplification_only': _objectives.error_amplification_only_objective,
  }
)

SCHEDULES: Mapping[str, Callable[..., Schedule]] = types.MappingProxyType(
  {
    'constant': _schedules.constant_alpha,
    'linear': _schedules.linear_alpha,
  }
)


def make_objective(
  config: Mapping[str, Any],
  *,
  steps_per_epoch: int | None = None,
  epochs: int | None = None,
) -> Objective:
  """Makes the objective that a configuration describes.

  The field ``'name'`` is a key of `OBJECTIVES`. The other fields are the
  arguments of the constructor found there; any may be left out:

  * ``'ce'``: none
  * ``'ls'``: ``alpha`` (0.1), ``convention`` (``'uniform'``)
  * ``'maxsup'``: ``alpha`` (0.1)
  * ``'regularization_only'``: ``alpha`` (0.1), ``normalization``
    (``'below'``)
  * ``'error_amplification_only'``: ``alpha`` (0.1), ``normalization``
    (``'above'``)

  The field ``alpha`` is a number, or a schedule described in the same way: its
  field ``'schedule'`` is a key of `SCHEDULES`, and the others are

  * ``'constant'``: ``value`` (0.1)
  * ``'linear'``: ``begin`` (0.1), ``end`` (0.2), ``denominator``
    (``'epochs'``)

  Everything is checked here, before a step is taken or compiled.

  Args:
    config: a dictionary, a `ml_collections.ConfigDict`, or anything else with
      `keys()` and `[]`.
    steps_per_epoch: the number of steps in an epoch, if a schedule needs it.
    epochs: the number of epochs of the training, if a schedule needs it.

  Returns:
    The objective.

  Raises:
    UsageError: if the configuration cannot be used; the message is one line.

  Examples:
    >>> import jax.numpy as jnp
    >>> import numpy as np
    >>> from maxsup_jax import losses
    >>> objective = losses.make_objective(
    ...     {'name': 'maxsup', 'alpha': {'schedule': 'linear'}},
    ...     steps_per_epoch=100, epochs=10)
    >>> logits, labels = jnp.array([[0.5, 1.5, 1.0, -0.5]]), jnp.array([2])
    >>> state = objective.init()
    >>> for step in (0, 500):
    ...   loss, state = objective.apply(state, logits, labels, step=step)
    ...   print(step, np.asarray(loss).round(4))
    0 [1.3341]
    500 [1.3778]
  """
  make, fields = _look_up(config, 'objective', 'name', OBJECTIVES)
  if _is_mapping(fields.get('alpha')):
    fields['alpha'] = _make_schedule(fields['alpha'], steps_per_epoch, epochs)
  return _call(make, fields, 'objective')


def _make_schedule(
  config: Mapping[str, Any], steps_per_epoch: int | None, epochs: int | None
) -> Schedule:
  what = 'objective.alpha'
  length = {'steps_per_epoch': steps_per_epoch, 'epochs': epochs}
  make, fields = _look_up(config, what, 'schedule', SCHEDULES, reserved=length)
  for name, value in length.items():
    if name in _parameters(make):
      if value is None:
        raise UsageError(f'{what}: this schedule needs to be told {name}')
      fields[name] = value
  return _call(make, fields, what)


def _look_up(
  config: Mapping[str, Any],
  what: str,
  key: str,
  table: Mapping[str, Callable],
  reserved: Collection[str] = (),
) -> tuple[Callable, dict[str, Any]]:
  """Returns the entry of the table that config names, and its other fields."""
  choices = ', '.join(table)
  if not _is_mapping(config):
    raise UsageError(f'{what} must be a mapping, got {config!r}')
  fields = dict(config)
  if key not in fields:
    raise UsageError(f'{what}: field {key!r} is missing, one of: {choices}')
  name = fields.pop(key)
  if not isinstance(name, str) or name not in table:
    raise UsageError(f'{what}: unknown {key} {name!r}, known: {choices}')
  known = [key, *(x for x in _parameters(table[name]) if x not in reserved)]
  for field in fields:
    if field not in known:
      raise UsageError(
        f'{what}: {name!r} has no field {field!r}, known: {", ".join(known)}'
      )
  return table[name], fields


def _call(make: Callable, fields: Mapping[str, Any], what: str) -> Any:
  """Calls a constructor; what it complains about is what the user wrote."""
  try:
    return make(**fields)
  except (TypeError, ValueError) as error:
    raise UsageError(f'{what}: {error}') from error


def _is_mapping(config: Any) -> bool:
  return hasattr(config, 'keys') and hasattr(config, '__getitem__')


def _parameters(function: Callable) -> tuple[str, ...]:
  return tuple(inspect.signature(function).parameters)
