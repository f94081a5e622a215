"""Objectives by name: from a configuration to an objective."""

import inspect
import types
from collections.abc import Callable, Collection, Mapping
from typing import Any

import numpy as np

from maxsup_jax.errors import UsageError
from maxsup_jax.losses import (
  _acls,
  _adaptive_smoothing,
  _confidence_penalty,
  _cross_entropy,
  _decomposition,
  _distillation,
  _focal,
  _label_smoothing,
  _logit_matching,
  _logit_norm,
  _logit_penalty,
  _margin_smoothing,
  _max_suppression,
  _online_smoothing,
  _schedules,
  _zipf,
)
from maxsup_jax.losses._class_weights import with_class_weights
from maxsup_jax.losses._objective import Objective
from maxsup_jax.losses._schedules import Schedule

OBJECTIVES: Mapping[str, Callable[..., Objective]] = types.MappingProxyType(
  {
    'ce': _cross_entropy.ce_objective,
    'ls': _label_smoothing.ls_objective,
    'maxsup': _max_suppression.maxsup_objective,
    'regularization_only': _decomposition.regularization_only_objective,
    'error_amplification_only': (
      _decomposition.error_amplification_only_objective
    ),
    'ols': _online_smoothing.ols_objective,
    'zipf': _zipf.zipf_objective,
    'adaptive_ls': _adaptive_smoothing.adaptive_ls_objective,
    'logit_penalty': _logit_penalty.logit_penalty_objective,
    'confidence_penalty': _confidence_penalty.confidence_penalty_objective,
    'logit_norm': _logit_norm.logit_norm_objective,
    'focal': _focal.focal_objective,
    'mbls': _margin_smoothing.mbls_objective,
    'acls': _acls.acls_objective,
    'distillation': _distillation.distillation_objective,
    'logit_matching': _logit_matching.logit_matching_objective,
  }
)

SCHEDULES: Mapping[str, Callable[..., Schedule]] = types.MappingProxyType(
  {
    'constant': _schedules.constant_alpha,
    'linear': _schedules.linear_alpha,
    'cosine': _schedules.cosine_alpha,
    'piecewise': _schedules.piecewise_alpha,
  }
)


# Fields that any objective may have.
_COMMON = ('class_weights', 'class_weights_mean')


def make_objective(
  config: Mapping[str, Any],
  *,
  num_classes: int | None = None,
  steps_per_epoch: int | None = None,
  epochs: int | None = None,
  axis_name: str | None = None,
) -> Objective:
  """Makes the objective that a configuration describes.

  The field ``'name'`` is a key of `OBJECTIVES`. The other fields are the
  arguments of the constructor found there; any may be left out:

  * ``'ce'``: none
  * ``'ls'``: ``alpha`` (0.1), ``convention`` (``'uniform'``),
    ``adaptive_alpha`` (False)
  * ``'maxsup'``: ``alpha`` (0.1), ``adaptive_alpha`` (False)
  * ``'regularization_only'``: ``alpha`` (0.1), ``normalization``
    (``'below'``)
  * ``'error_amplification_only'``: ``alpha`` (0.1), ``normalization``
    (``'above'``)
  * ``'ols'``: ``alpha`` (0.5), ``initial`` (``'uniform'``), ``smoothing``
    (0.1), ``freeze_above`` (None)
  * ``'zipf'``: ``alpha`` (0.1), ``power`` (1.0), ``ranking`` (``'logits'``)
  * ``'adaptive_ls'``: ``alpha`` (0.1), ``prior`` (``'teacher'``),
    ``temperature`` (1.0), ``adaptive_alpha`` (False)
  * ``'logit_penalty'``: ``alpha`` (0.002), ``form`` (``'half'``)
  * ``'confidence_penalty'``: ``alpha`` (0.1), ``form`` (``'entropy'``)
  * ``'logit_norm'``: ``temperature`` (0.04)
  * ``'focal'``: ``gamma`` (2.0)
  * ``'mbls'``: ``alpha`` (0.1), ``margin`` (10.0)
  * ``'acls'``: ``alpha`` (0.1), ``margin`` (10.0), ``top_weight`` (1.0),
    ``rest_weight`` (0.1)
  * ``'distillation'``: ``beta`` (1.0), ``teacher_temperature`` (1.0),
    ``student_temperature`` (1.0), ``divergence`` (``'cross_entropy'``),
    ``scale_by_squared_temperature`` (False)
  * ``'logit_matching'``: ``beta`` (0.6), ``reduction`` (``'sum'``)

  The first field of each is its strength: a number, or a schedule described in
  the same way. Its field ``'schedule'`` is a key of `SCHEDULES`, and the others
  are

  * ``'constant'``: ``value`` (0.1)
  * ``'linear'``: ``begin`` (0.1), ``end`` (0.2), ``denominator``
    (``'epochs'``)
  * ``'cosine'``: ``begin`` (0.1), ``end`` (0.0), ``denominator``
    (``'epochs'``)
  * ``'piecewise'``: ``values``, ``boundaries``

  Any objective may have the fields ``class_weights``, a number for each class,
  and ``class_weights_mean`` (``'examples'``): see `with_class_weights`.

  Everything is checked here, before a step is taken or compiled.

  Args:
    config: a dictionary, a `ml_collections.ConfigDict`, or anything else with
      `keys()` and `[]`.
    num_classes: the number of classes, if the objective needs it.
    steps_per_epoch: the number of steps in an epoch, if the objective or its
      schedule needs it.
    epochs: the number of epochs of the training, if a schedule needs it.
    axis_name: the axis of devices over which batches are spread, if they are.

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
  told = {
    'num_classes': num_classes,
    'steps_per_epoch': steps_per_epoch,
    'epochs': epochs,
    'axis_name': axis_name,
  }
  make, fields = _look_up(
    config, 'objective', 'name', OBJECTIVES, reserved=told, common=_COMMON
  )
  common = {name: fields.pop(name) for name in _COMMON if name in fields}
  strength = next(iter(_own_parameters(make, told)), None)
  if _is_mapping(fields.get(strength)):
    fields[strength] = _make_schedule(fields[strength], strength, told)
  fields |= _told(make, told, 'objective: this objective')
  objective = _call(make, fields, 'objective')
  return _weighted(objective, common, num_classes, axis_name)


def _make_schedule(
  config: Mapping[str, Any], strength: str, told: Mapping[str, Any]
) -> Schedule:
  what = f'objective.{strength}'
  make, fields = _look_up(config, what, 'schedule', SCHEDULES, reserved=told)
  fields |= _told(make, told, f'{what}: this schedule')
  return _call(make, fields, what)


def _weighted(
  objective: Objective,
  fields: Mapping[str, Any],
  num_classes: int | None,
  axis_name: str | None,
) -> Objective:
  """Gives the objective the weights of the classes that it has fields for."""
  weights = fields.get('class_weights')
  if weights is None:
    if fields.get('class_weights_mean') is not None:
      raise UsageError('objective: class_weights_mean without class_weights')
    return objective
  if np.ndim(weights) != 1:
    raise UsageError(
      f'objective: class_weights must be a list of numbers, got {weights!r}'
    )
  if num_classes is not None and len(weights) != num_classes:
    raise UsageError(
      f'objective: class_weights must be {num_classes} numbers, one for each '
      f'class, got {len(weights)}'
    )
  arguments = {
    'objective': objective,
    'class_weights': tuple(weights),
    'mean': fields.get('class_weights_mean') or 'examples',
    'axis_name': axis_name,
  }
  return _call(with_class_weights, arguments, 'objective')


def _told(make: Callable, told: Mapping[str, Any], who: str) -> dict[str, Any]:
  """The arguments of a constructor that are told, not configured."""
  parameters = inspect.signature(make).parameters
  given = {}
  for name, value in told.items():
    if name not in parameters:
      continue
    if value is None and parameters[name].default is inspect.Parameter.empty:
      raise UsageError(f'{who} needs to be told {name}')
    given[name] = value
  return given


def _look_up(
  config: Mapping[str, Any],
  what: str,
  key: str,
  table: Mapping[str, Callable],
  reserved: Collection[str] = (),
  common: Collection[str] = (),
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
  known = [key, *_own_parameters(table[name], reserved), *common]
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


def _own_parameters(make: Callable, reserved: Collection[str]) -> list[str]:
  """What a constructor takes from the configuration, in order."""
  return [x for x in inspect.signature(make).parameters if x not in reserved]
