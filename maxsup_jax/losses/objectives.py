"""Objectives: losses as training uses them, with a schedule and a state."""

import functools
import inspect
import types
from collections.abc import Callable, Collection, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from maxsup_jax import errors
from maxsup_jax.losses import _checks
from maxsup_jax.losses.focal import focal_cross_entropy
from maxsup_jax.losses.logit_norm import logit_norm_cross_entropy
from maxsup_jax.losses.maxsup import (
  error_amplification,
  maxsup_cross_entropy,
  smoothing_regularization,
)
from maxsup_jax.losses.online_smoothing import (
  ols_cross_entropy,
  ols_end_of_epoch,
  ols_init,
  ols_update,
)
from maxsup_jax.losses.penalties import (
  acls_cross_entropy,
  confidence_penalty_cross_entropy,
  logit_penalty_cross_entropy,
  mbls_cross_entropy,
)
from maxsup_jax.losses.reductions import label_weights
from maxsup_jax.losses.smoothing import (
  adaptive_smoothing_cross_entropy,
  cross_entropy,
  label_smoothing_cross_entropy,
)
from maxsup_jax.losses.strengths import (
  EpochSchedule,
  Schedule,
  check_step,
  confidence_alpha,
  constant_alpha,
  cosine_alpha,
  linear_alpha,
  piecewise_alpha,
)
from maxsup_jax.losses.teachers import (
  distillation_cross_entropy,
  logit_matching_cross_entropy,
)
from maxsup_jax.losses.zipf import zipf_cross_entropy


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

  Examples:
    >>> import numpy as np
    >>> from maxsup_jax import losses
    >>> logits, labels = np.array([[0.5, 1.5, 1.0, -0.5]]), np.array([2])
    >>> objective = losses.maxsup_objective(0.1)
    >>> loss, state = objective.apply(objective.init(), logits, labels)
    >>> print(np.asarray(loss).round(4), state)
    [1.3341] ()
    >>> objective = losses.distillation_objective(teacher_temperature=4.0)
    >>> loss, state = objective.apply(
    ...     objective.init(), logits, labels, teacher_logits=2 * logits)
    >>> print(np.asarray(loss).round(4), objective.needs)
    [1.3755] ('teacher_logits',)
  """

  init: Callable[[], Any]
  apply: Callable[..., tuple[jax.Array, Any]]
  needs: tuple[str, ...] = ()


def _regularized(logits, labels, alpha, *, normalization, where, class_weights):
  """Cross-entropy plus `smoothing_regularization`, a row of the ablation."""
  term = smoothing_regularization(
    logits, labels, alpha, normalization=normalization, where=where
  )
  return term + cross_entropy(
    logits, labels, class_weights=class_weights, where=where
  )


def _amplified(logits, labels, alpha, *, normalization, where, class_weights):
  """Cross-entropy plus `error_amplification`, two rows of the ablation."""
  term = error_amplification(
    logits, labels, alpha, normalization=normalization, where=where
  )
  return term + cross_entropy(
    logits, labels, class_weights=class_weights, where=where
  )


class _Entry(NamedTuple):
  """What the objective of a loss takes. The loss checks the values.

  Attributes:
    loss: a function of logits, labels, the strength and options.
    fields: the strength, the first, and the options, with their defaults.
    needs: see `Objective`.
  """

  loss: Callable[..., jax.Array]
  fields: Mapping[str, Any]
  needs: tuple[str, ...] = ()


_TABLE = {
  'ce': _Entry(cross_entropy, {}),
  'ls': _Entry(
    label_smoothing_cross_entropy,
    {'alpha': 0.1, 'convention': 'uniform', 'adaptive_alpha': False},
  ),
  'maxsup': _Entry(
    maxsup_cross_entropy, {'alpha': 0.1, 'adaptive_alpha': False}
  ),
  'regularization_only': _Entry(
    _regularized, {'alpha': 0.1, 'normalization': 'below'}
  ),
  'error_amplification_only': _Entry(
    _amplified, {'alpha': 0.1, 'normalization': 'above'}
  ),
  'zipf': _Entry(
    zipf_cross_entropy, {'alpha': 0.1, 'power': 1.0, 'ranking': 'logits'}
  ),
  'adaptive_ls': _Entry(
    adaptive_smoothing_cross_entropy,
    {
      'alpha': 0.1,
      'prior': 'teacher',
      'temperature': 1.0,
      'adaptive_alpha': False,
    },
  ),
  'logit_penalty': _Entry(
    logit_penalty_cross_entropy, {'alpha': 2e-3, 'form': 'half'}
  ),
  'confidence_penalty': _Entry(
    confidence_penalty_cross_entropy, {'alpha': 0.1, 'form': 'entropy'}
  ),
  'logit_norm': _Entry(logit_norm_cross_entropy, {'temperature': 0.04}),
  'focal': _Entry(focal_cross_entropy, {'gamma': 2.0}),
  'mbls': _Entry(mbls_cross_entropy, {'alpha': 0.1, 'margin': 10.0}),
  'acls': _Entry(
    acls_cross_entropy,
    {'alpha': 0.1, 'margin': 10.0, 'top_weight': 1.0, 'rest_weight': 0.1},
  ),
  'distillation': _Entry(
    distillation_cross_entropy,
    {
      'beta': 1.0,
      'teacher_temperature': 1.0,
      'student_temperature': 1.0,
      'divergence': 'cross_entropy',
      'scale_by_squared_temperature': False,
    },
    needs=('teacher_logits',),
  ),
  'logit_matching': _Entry(
    logit_matching_cross_entropy,
    {'beta': 0.6, 'reduction': 'sum'},
    needs=('teacher_logits',),
  ),
}

# Options of the objective, not of the loss: what `apply` then needs.
_CHOICES = {
  'ranking': {'logits': (), 'votes': ('votes',)},
  'prior': {'teacher': ('teacher_logits',), 'self': ()},
}


def _constructor(name: str) -> Callable[..., Objective]:
  """The constructor of an entry of the table, as if it were written out."""
  entry = _TABLE[name]
  parameters: list[inspect.Parameter] = []
  for field, default in entry.fields.items():
    # The strength may be given by its position, and be a schedule.
    annotation: Any = type(default) if parameters else 'float | Schedule'
    parameters.append(
      inspect.Parameter(
        field,
        inspect.Parameter.KEYWORD_ONLY
        if parameters
        else inspect.Parameter.POSITIONAL_OR_KEYWORD,
        default=default,
        annotation=annotation,
      )
    )
  signature = inspect.Signature(parameters, return_annotation=Objective)

  def make(*args: Any, **kwargs: Any) -> Objective:
    bound = signature.bind(*args, **kwargs)
    bound.apply_defaults()
    return _make(entry, bound.arguments)

  make.__name__ = make.__qualname__ = f'{name}_objective'
  vars(make)['__signature__'] = signature
  make.__doc__ = _documentation(entry)
  return make


def _documentation(entry: _Entry) -> str:
  strength = next(iter(entry.fields), '')
  about = {
    strength: 'a number, or a function of the step.',
    'ranking': "'logits', or 'votes', which `apply` then needs.",
    'prior': "'teacher', whose logits `apply` then needs, or 'self'.",
    'adaptive_alpha': 'whether alpha is `confidence_alpha(logits, 0, alpha)`.',
  }
  lines = [(inspect.getdoc(entry.loss) or '').splitlines()[0]]
  if not entry.loss.__name__.startswith('_'):
    lines += ['', f'The objective of `{entry.loss.__name__}`.']
  if entry.fields:
    lines += ['', 'Args:']
    lines += [f'  {x}: {about.get(x, "see the loss.")}' for x in entry.fields]
  needs = f', whose `apply` needs {entry.needs[0]}' if entry.needs else ''
  lines += ['', 'Returns:', f'  An objective without state{needs}.']
  return '\n'.join(lines)


def _make(entry: _Entry, fields: Mapping[str, Any]) -> Objective:
  options, needs = dict(fields), entry.needs
  for field, default in entry.fields.items():
    if isinstance(default, bool):
      errors.boolean(field, options[field])
    if field in _CHOICES:
      needs = _CHOICES[field][
        errors.one_of(field, options.pop(field), _CHOICES[field])
      ]
  adaptive = options.pop('adaptive_alpha', False)
  strength = [options.pop(field) for field in list(entry.fields)[:1]]
  loss = functools.partial(entry.loss, **options)
  schedule = [_schedule(loss, value, needs) for value in strength]

  def apply(
    state, logits, labels, *, step=0, where=None, class_weights=None, **inputs
  ):
    if set(inputs) != set(needs):
      raise TypeError(
        f'this objective got {", ".join(inputs) or "nothing"} besides logits '
        f'and labels; expected {", ".join(needs) or "nothing"}'
      )
    alpha = [strength(step) for strength in schedule]
    if adaptive:
      alpha[0] = alpha[0] * confidence_alpha(logits, where=where)
    values = loss(
      logits, labels, *alpha, where=where, class_weights=class_weights, **inputs
    )
    return values, state

  return Objective(init=tuple, apply=apply, needs=needs)


def _schedule(
  loss: Callable[..., jax.Array],
  strength: float | Schedule,
  needs: tuple[str, ...] = (),
) -> Schedule:
  """A strength as a schedule.

  The loss is traced for one example, so that it refuses now what it would
  refuse in the first step: its options, and the strengths that are known.
  """
  inputs = {
    'logits': jax.ShapeDtypeStruct((2,), jnp.float32),
    'labels': jax.ShapeDtypeStruct((), jnp.int32),
    'alpha': jax.ShapeDtypeStruct((), jnp.float32),
  }
  inputs |= dict.fromkeys(needs, inputs['logits'])
  known: tuple[float | Schedule, ...] = (strength,)
  if isinstance(strength, EpochSchedule):
    values = (*strength.ends, *strength.values)
    known = min(values), max(values)

  def trial(value, logits, labels, alpha, **inputs):
    alpha = alpha if callable(value) else value
    return loss(logits, labels, alpha, where=None, class_weights=None, **inputs)

  for value in known:
    jax.eval_shape(functools.partial(trial, value), **inputs)
  if callable(strength):
    return strength
  return EpochSchedule((float(strength),), steps_per_epoch=1)


def ols_objective(
  num_classes: int,
  alpha: float | Schedule = 0.5,
  *,
  steps_per_epoch: int,
  initial: str = 'uniform',
  smoothing: float = 0.1,
  freeze_above: float | None = None,
  axis_name: str | None = None,
) -> Objective:
  """Online label smoothing: `ols_cross_entropy`, and its state.

  Every call of `apply` returns the loss under the soft labels of the last
  epoch, and a state that has seen the batch. At the last step of an epoch the
  returned state has the new soft labels; this happens inside the compiled step,
  and depends on the step only, so that a training that is resumed goes on as it
  would have. To evaluate, drop the returned state.

  Args:
    num_classes: `K`.
    alpha: weight of the label, in [0, 1]: a number or a function of the step.
    steps_per_epoch: the number of steps in an epoch.
    initial: the soft labels of the first epoch, see `ols_init`.
    smoothing: see `ols_init`.
    freeze_above: see `ols_end_of_epoch`.
    axis_name: the axis of devices over which batches are spread, if they are.

  Returns:
    An objective whose state is an `OnlineSmoothing`.

  Examples:
    >>> import numpy as np
    >>> from maxsup_jax import losses
    >>> logits, labels = np.array([[0.5, 1.5, 1.0, -0.5]]), np.array([1])
    >>> objective = losses.ols_objective(4, steps_per_epoch=2)
    >>> state = objective.init()
    >>> for step in range(3):
    ...   loss, state = objective.apply(state, logits, labels, step=step)
    ...   print(np.asarray(loss).round(4), state.counts[1])
    [1.1841] 1.0
    [1.1841] 0.0
    [0.9698] 1.0
  """
  loss = functools.partial(
    ols_cross_entropy, targets=np.eye(2, dtype='float32')
  )
  alpha = _schedule(
    lambda z, y, a, **options: loss(z, y, alpha=a, **options), alpha
  )
  steps_per_epoch = errors.integer('steps_per_epoch', steps_per_epoch, 1)

  def init():
    return ols_init(num_classes, initial=initial, smoothing=smoothing)

  def end_of_epoch(state):
    return ols_end_of_epoch(state, freeze_above=freeze_above)

  # Refuses wrong arguments now; makes no array.
  jax.eval_shape(lambda: end_of_epoch(init()))

  def apply(state, logits, labels, *, step=0, where=None, class_weights=None):
    values = ols_cross_entropy(
      logits,
      labels,
      state.targets,
      alpha(step),
      class_weights=class_weights,
      where=where,
    )
    state = ols_update(state, logits, labels, where=where, axis_name=axis_name)
    last = (check_step(step) + 1) % steps_per_epoch == 0
    state = jax.lax.cond(last, end_of_epoch, lambda state: state, state)
    return values, state

  return Objective(init=init, apply=apply)


def with_class_weights(
  objective: Objective,
  class_weights: ArrayLike,
  *,
  mean: str = 'examples',
  axis_name: str | None = None,
) -> Objective:
  """Gives an objective weights of the classes.

  Args:
    objective: any of this package.
    class_weights: see `cross_entropy`.
    mean: what the mean of the losses over the examples becomes. ``'examples'``:
      it stays the sum of the weighted losses over the number of examples.
      ``'weights'``: the sum over that of the weights of the labels, as in
      PyTorch; the losses are scaled for it by the number of examples over the
      sum of the weights, of the whole batch. The mean over several batches then
      depends on how the examples are spread over them. For labels that are
      distributions PyTorch divides by the number of examples, and so do both.
    axis_name: the axis of devices over which batches are spread, if they are.

  Returns:
    The objective with weights.

  Examples:
    >>> import numpy as np
    >>> from maxsup_jax import losses
    >>> objective = losses.with_class_weights(
    ...     losses.maxsup_objective(0.1), [1.0, 1.0, 3.0, 1.0])
    >>> logits, labels = np.array([[0.5, 1.5, 1.0, -0.5]]), np.array([2])
    >>> loss, state = objective.apply(objective.init(), logits, labels)
    >>> print(np.asarray(loss).round(4), state)
    [3.8272] ()
  """
  errors.one_of('mean', mean, ('examples', 'weights'))
  weights_K = _checks.class_weights(class_weights)

  def apply(state, logits, labels, *, where=None, **inputs):
    values, state = objective.apply(
      state, logits, labels, where=where, class_weights=weights_K, **inputs
    )
    if mean == 'weights' and _checks.class_ids(jnp.asarray(labels)):
      real = jnp.ones(jnp.shape(labels), bool) if where is None else where
      if jnp.ndim(real) > jnp.ndim(labels):
        real = jnp.broadcast_to(jnp.any(real, -1), jnp.shape(labels))
      weights = label_weights(labels, weights_K, where=real)
      sums = jnp.sum(real), jnp.sum(weights)
      if axis_name is not None:
        sums = jax.lax.psum(sums, axis_name)
      values = values * jnp.where(sums[1] > 0, sums[0] / sums[1], 0)
    return values, state

  return objective._replace(apply=apply)


OBJECTIVES: Mapping[str, Callable[..., Objective]] = types.MappingProxyType(
  {name: _constructor(name) for name in _TABLE} | {'ols': ols_objective}
)
ce_objective = OBJECTIVES['ce']
ls_objective = OBJECTIVES['ls']
maxsup_objective = OBJECTIVES['maxsup']
regularization_only_objective = OBJECTIVES['regularization_only']
error_amplification_only_objective = OBJECTIVES['error_amplification_only']
zipf_objective = OBJECTIVES['zipf']
adaptive_ls_objective = OBJECTIVES['adaptive_ls']
logit_penalty_objective = OBJECTIVES['logit_penalty']
confidence_penalty_objective = OBJECTIVES['confidence_penalty']
logit_norm_objective = OBJECTIVES['logit_norm']
focal_objective = OBJECTIVES['focal']
mbls_objective = OBJECTIVES['mbls']
acls_objective = OBJECTIVES['acls']
distillation_objective = OBJECTIVES['distillation']
logit_matching_objective = OBJECTIVES['logit_matching']

SCHEDULES: Mapping[str, Callable[..., Schedule]] = types.MappingProxyType(
  {
    'constant': constant_alpha,
    'linear': linear_alpha,
    'cosine': cosine_alpha,
    'piecewise': piecewise_alpha,
  }
)


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
  arguments of the constructor found there, such as `ls_objective`; any may be
  left out. What the keywords below tell is no field.

  The first of them is the strength: a number, or a schedule described in the
  same way, whose field ``'schedule'`` is a key of `SCHEDULES`, and whose other
  fields are the arguments of the function found there.

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
    >>> import numpy as np
    >>> from maxsup_jax import losses
    >>> objective = losses.make_objective(
    ...     {'name': 'maxsup', 'alpha': {'schedule': 'linear'}},
    ...     steps_per_epoch=100, epochs=10)
    >>> logits, labels = np.array([[0.5, 1.5, 1.0, -0.5]]), np.array([2])
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
  common = ('class_weights', 'class_weights_mean')
  make, fields = _look_up(config, 'objective', 'name', OBJECTIVES, told, common)
  weights, mean = (fields.pop(name, None) for name in common)
  strength = next(iter(_own_parameters(make, told)), '')
  if _is_mapping(fields.get(strength)):
    what = f'objective.{strength}'
    schedule, own = _look_up(
      fields[strength], what, 'schedule', SCHEDULES, told
    )
    fields[strength] = _call(schedule, own, told, what)
  objective = _call(make, fields, told, 'objective')
  if weights is None:
    if mean is not None:
      raise errors.UsageError(
        'objective.class_weights_mean is set; expected '
        'objective.class_weights as well'
      )
    return objective
  if np.ndim(weights) != 1 or len(weights) != (num_classes or len(weights)):
    raise errors.UsageError(
      f'objective.class_weights is {errors.shown(weights)}; expected '
      f'{num_classes or "K"} numbers, one for each class'
    )
  fields = {'objective': objective, 'class_weights': tuple(weights)}
  fields['mean'] = mean or 'examples'
  return _call(with_class_weights, fields, told, 'objective')


def _look_up(
  config: Mapping[str, Any],
  what: str,
  key: str,
  table: Mapping[str, Callable],
  told: Collection[str],
  common: Collection[str] = (),
) -> tuple[Callable, dict[str, Any]]:
  """Returns the entry of the table that config names, and its other fields."""
  if not _is_mapping(config):
    raise errors.UsageError(
      f'{what} is {errors.shown(config)}; expected a mapping'
    )
  fields = dict(config)
  name = errors.one_of(f'{what}.{key}', fields.pop(key, None), table)
  known = [*_own_parameters(table[name], told), *common]
  for field in fields:
    errors.one_of(f'{what}: a field of {name!r}', field, [key, *known])
  return table[name], fields


def _call(
  make: Callable, fields: Mapping[str, Any], told: Mapping[str, Any], what: str
) -> Any:
  """Calls a constructor; what it complains about is what the user wrote."""
  parameters = inspect.signature(make).parameters
  given = {name: told[name] for name in told if name in parameters}
  for name, value in given.items():
    required = parameters[name].default is inspect.Parameter.empty
    if value is None and required:
      raise errors.UsageError(f'{what} needs {name}, which is not given')
  try:
    return make(**fields, **given)
  except (TypeError, ValueError) as error:
    raise errors.UsageError(f'{what}: {errors.one_line(error)}') from error


def _is_mapping(config: Any) -> bool:
  return hasattr(config, 'keys') and hasattr(config, '__getitem__')


def _own_parameters(make: Callable, told: Collection[str]) -> list[str]:
  """What a constructor takes from the configuration, in order."""
  return [x for x in inspect.signature(make).parameters if x not in told]
