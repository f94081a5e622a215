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
from maxsup_jax.losses.linear import Rows as LinearRows
from maxsup_jax.losses.linear import RowStatistics
from maxsup_jax.losses.logit_norm import logit_norm_cross_entropy
from maxsup_jax.losses.maxsup import (
  error_amplification,
  maxsup_cross_entropy,
  smoothing_regularization,
)
from maxsup_jax.losses.online_smoothing import (
  OnlineSmoothing,
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
    init: returns the initial state, a pytree of arrays, or the empty tuple.
    apply: takes the state, the logits `[B, K]`, the labels, `[B]` or `[B, K]`,
      and by keyword the training step (0 if absent), which sets the strength,
      the mask `where` and the weights of the classes, `class_weights`. Returns
      the loss of every example, `[B]`, and the next state.
    needs: the names of what `apply` takes by keyword besides:
      `'teacher_logits'`, `[B, K]`, or `'votes'`, `[B, K]`.
    apply_linear: the same without logits, or None for most objectives. Takes
      the state, and what `linear_statistics` takes: features `[B, D]`, a kernel
      `[D, K]`, class ids `[B]` and its keywords; and `step`. Returns the
      losses, the next state, and the statistics of the rows for metrics.
    whole_batch: whether a loss depends on the other examples of the batch, so
      that it cannot be split.

  Examples:
    >>> logits, labels = jnp.array([[0.5, 1.5, 1.0, -0.5]]), jnp.array([2])
    >>> objective = OBJECTIVES['distillation'](teacher_temperature=4.0)
    >>> loss, state = objective.apply(
    ...     objective.init(), logits, labels, teacher_logits=2 * logits)
    >>> print(loss, state, objective.needs)
    [1.3755...] () ('teacher_logits',)
  """

  init: Callable[[], Any]
  apply: Callable[..., tuple[jax.Array, Any]]
  needs: tuple[str, ...] = ()
  apply_linear: Callable[..., tuple[jax.Array, Any, RowStatistics]] | None = (
    None
  )
  whole_batch: bool = False


_Loss = Callable[..., jax.Array]


def _plus(term: _Loss, usual: str) -> _Loss:
  """Cross-entropy plus one of the two terms of label smoothing."""

  def loss(
    logits: ArrayLike,
    labels: ArrayLike,
    alpha: ArrayLike = 0.1,
    *,
    normalization: str = usual,
    class_weights: ArrayLike | None = None,
    where: ArrayLike | None = None,
  ) -> jax.Array:
    value = term(
      logits, labels, alpha, normalization=normalization, where=where
    )
    return value + cross_entropy(
      logits, labels, class_weights=class_weights, where=where
    )

  return loss


class _Entry(NamedTuple):
  """A loss, and the options of its objective that the loss does not have."""

  loss: _Loss  # its signature has the strength, other options and defaults
  adaptive: bool = False  # whether the strength may grow with the confidence
  # An option, its values and what `apply` needs for each; the first by default.
  choice: tuple[str, Mapping[str, tuple[str, ...]]] | None = None
  # The loss of a linear layer, and the statistics that it needs.
  linear: tuple[_Loss, Mapping[str, Any]] | None = None


_RANKING = ('ranking', {'logits': (), 'votes': ('votes',)})
_PRIOR = ('prior', {'teacher': ('teacher_logits',), 'self': ()})
_TABLE = {
  'ce': _Entry(cross_entropy, linear=(LinearRows.cross_entropy, {})),
  'ls': _Entry(
    label_smoothing_cross_entropy,
    adaptive=True,
    linear=(LinearRows.label_smoothing_cross_entropy, {'mean': True}),
  ),
  'maxsup': _Entry(
    maxsup_cross_entropy,
    adaptive=True,
    linear=(LinearRows.maxsup_cross_entropy, {'mean': True, 'top': True}),
  ),
  'regularization_only': _Entry(_plus(smoothing_regularization, 'below')),
  'error_amplification_only': _Entry(_plus(error_amplification, 'above')),
  'zipf': _Entry(zipf_cross_entropy, choice=_RANKING),
  'adaptive_ls': _Entry(adaptive_smoothing_cross_entropy, True, _PRIOR),
  'logit_penalty': _Entry(logit_penalty_cross_entropy),
  'confidence_penalty': _Entry(confidence_penalty_cross_entropy),
  'logit_norm': _Entry(logit_norm_cross_entropy),
  'focal': _Entry(focal_cross_entropy),
  'mbls': _Entry(mbls_cross_entropy),
  'acls': _Entry(acls_cross_entropy),
  'distillation': _Entry(distillation_cross_entropy),
  'logit_matching': _Entry(logit_matching_cross_entropy),
}
# Of a loss: what `apply` is given, and what it needs besides.
_GIVEN = ('logits', 'labels', 'class_weights', 'axis', 'where')
_INPUTS = ('teacher_logits', 'votes')


def _constructor(name: str) -> Callable[..., Objective]:
  """The constructor of an entry of the table, with a signature of its own."""
  entry = _TABLE[name]
  of_loss = inspect.signature(entry.loss).parameters
  fields = {x: p for x, p in of_loss.items() if x not in (*_GIVEN, *_INPUTS)}
  needs = tuple(x for x in _INPUTS if x in of_loss)
  added: dict[str, Any] = {}
  if entry.choice:
    option, choices = entry.choice
    added[option] = next(iter(choices))
  if entry.adaptive:
    added['adaptive_alpha'] = False
  for x, default in added.items():
    keyword = inspect.Parameter.KEYWORD_ONLY
    fields[x] = inspect.Parameter(x, keyword, default=default)
  signature = inspect.Signature([*fields.values()])

  def make(*args: Any, **kwargs: Any) -> Objective:
    bound = signature.bind(*args, **kwargs)
    bound.apply_defaults()
    options, taken = bound.arguments, needs
    for x in fields:
      if isinstance(fields[x].default, bool):
        errors.boolean(x, options[x])
    if entry.choice:
      taken = choices[errors.one_of(option, options.pop(option), choices)]
    return _make(entry, options, taken)

  make.__name__ = make.__qualname__ = f'{name}_objective'
  make.__doc__ = f'The objective {name!r}; its first option is the strength.'
  vars(make)['__signature__'] = signature
  return make


def _make(
  entry: _Entry, options: dict[str, Any], needs: tuple[str, ...]
) -> Objective:
  adaptive = options.pop('adaptive_alpha', False)
  strength = [options.pop(field) for field in list(options)[:1]]
  loss = functools.partial(entry.loss, **options)
  schedule = [_schedule(loss, value, needs) for value in strength]

  def apply(
    state: Any,
    logits: ArrayLike,
    labels: ArrayLike,
    *,
    step: ArrayLike = 0,
    where: ArrayLike | None = None,
    class_weights: ArrayLike | None = None,
    **inputs: ArrayLike,
  ) -> tuple[jax.Array, Any]:
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

  def apply_linear(
    state: Any,
    features: ArrayLike,
    kernel: ArrayLike,
    labels: ArrayLike,
    *,
    step: ArrayLike = 0,
    **layer: Any,
  ) -> tuple[jax.Array, Any, RowStatistics]:
    rows = LinearRows.of(features, kernel, labels, **wanted, **layer)
    values = of_rows(
      rows, *[strength(step) for strength in schedule], **options
    )
    return rows.finish(values, known=True), state, rows.statistics()

  # Of the target of 'kl' and of the confidence nothing is known without logits.
  unable = adaptive or options.get('convention') == 'kl'
  if entry.linear is None or unable:
    return Objective(init=tuple, apply=apply, needs=needs)
  of_rows, wanted = entry.linear
  return Objective(tuple, apply, needs, apply_linear)


def _schedule(
  loss: _Loss, strength: float | Schedule, needs: tuple[str, ...] = ()
) -> Schedule:
  """A strength as a schedule.

  The loss is traced for one example, so that it refuses now what it would
  refuse in the first step: its options, and the strengths that are known.
  """
  row = jax.ShapeDtypeStruct((2,), jnp.float32)
  label = jax.ShapeDtypeStruct((), jnp.int32)
  alpha = jax.ShapeDtypeStruct((), jnp.float32)
  known: tuple[float | Schedule, ...] = (strength,)
  if isinstance(strength, EpochSchedule):
    values = (*strength.ends, *strength.values)
    known = min(values), max(values)

  def trial(
    value: Any, z: jax.Array, y: jax.Array, alpha: jax.Array, **inputs: Any
  ) -> jax.Array:
    alpha = alpha if callable(value) else value
    return loss(z, y, alpha, where=None, class_weights=None, **inputs)

  for value in known:
    one = functools.partial(trial, value)
    jax.eval_shape(one, row, label, alpha, **dict.fromkeys(needs, row))
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
  and depends on the step only. To evaluate, drop the returned state.

  Args:
    alpha: weight of the label, in [0, 1]: a number or a function of the step.
    steps_per_epoch: the number of steps in an epoch.
    num_classes, initial, smoothing: see `ols_init`.
    freeze_above: see `ols_end_of_epoch`.
    axis_name: the axis of devices over which batches are spread, if they are.

  Examples:
    >>> logits, labels = jnp.array([[0.5, 1.5, 1.0, -0.5]]), jnp.array([1])
    >>> objective = ols_objective(4, steps_per_epoch=2)
    >>> state = objective.init()
    >>> for step in range(3):
    ...   loss, state = objective.apply(state, logits, labels, step=step)
    ...   print(loss, state.counts[1])
    [1.1840...] 1.0
    [1.1840...] 0.0
    [0.9697...] 1.0
  """
  targets = np.eye(2, dtype=np.float32)
  alpha = _schedule(
    lambda z, y, a, **k: ols_cross_entropy(z, y, targets, a, **k), alpha
  )
  steps_per_epoch = errors.integer('steps_per_epoch', steps_per_epoch, 1)

  def init() -> OnlineSmoothing:
    return ols_init(num_classes, initial=initial, smoothing=smoothing)

  def end_of_epoch(state: OnlineSmoothing) -> OnlineSmoothing:
    return ols_end_of_epoch(state, freeze_above=freeze_above)

  # Refuses wrong arguments now; makes no array.
  jax.eval_shape(lambda: end_of_epoch(init()))

  def apply(
    state: OnlineSmoothing,
    logits: ArrayLike,
    labels: ArrayLike,
    *,
    step: ArrayLike = 0,
    where: ArrayLike | None = None,
    class_weights: ArrayLike | None = None,
  ) -> tuple[jax.Array, OnlineSmoothing]:
    options: Any = {'class_weights': class_weights, 'where': where}
    values = ols_cross_entropy(
      logits, labels, state.targets, alpha(step), **options
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
      PyTorch, of the whole batch: the mean over several batches depends on how
      the examples are spread over them. For labels that are distributions both
      divide by the number of examples, as PyTorch.
    axis_name: the axis of devices over which batches are spread, if they are.

  Examples:
    >>> objective = with_class_weights(
    ...     OBJECTIVES['maxsup'](0.1), [1.0, 1.0, 3.0, 1.0])
    >>> logits, labels = jnp.array([[0.5, 1.5, 1.0, -0.5]]), jnp.array([2])
    >>> loss, state = objective.apply(objective.init(), logits, labels)
    >>> print(loss, state)
    [3.8272...] ()
  """
  errors.one_of('mean', mean, ('examples', 'weights'))
  weights_K = _checks.class_weights(class_weights)

  def apply(
    state: Any,
    logits: ArrayLike,
    labels: ArrayLike,
    *,
    where: ArrayLike | None = None,
    **inputs: ArrayLike,
  ) -> tuple[jax.Array, Any]:
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

  whole = objective.whole_batch or mean == 'weights'
  return objective._replace(apply=apply, apply_linear=None, whole_batch=whole)


OBJECTIVES: Mapping[str, Callable[..., Objective]] = types.MappingProxyType(
  {name: _constructor(name) for name in _TABLE} | {'ols': ols_objective}
)

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
  arguments of the constructor found there, which are those of the loss after
  logits and labels; any may be left out. The first of them is the strength: a
  number, a function of the step, or a schedule described in the same way, whose
  field ``'schedule'`` is a key of `SCHEDULES`, and whose other fields are the
  arguments of the function found there.

  Any objective may have the fields ``class_weights``, a number for each class,
  and ``class_weights_mean`` (``'examples'``): see `with_class_weights`.

  Args:
    config: a dictionary, a `ml_collections.ConfigDict`, or anything else with
      `keys()` and `[]`.
    num_classes, steps_per_epoch, epochs: what the objective or its schedule
      needs of the training, and which is no field.
    axis_name: the axis of devices over which batches are spread, if they are.

  Raises:
    UsageError: if the configuration cannot be used, before a step is compiled.

  Examples:
    >>> objective = make_objective(
    ...     {'name': 'maxsup', 'alpha': {'schedule': 'linear'}},
    ...     steps_per_epoch=100, epochs=10)
    >>> logits, labels = jnp.array([[0.5, 1.5, 1.0, -0.5]]), jnp.array([2])
    >>> state = objective.init()
    >>> for step in (0, 500):
    ...   loss, state = objective.apply(state, logits, labels, step=step)
    ...   print(step, loss)
    0 [1.3340...]
    500 [1.3778...]
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
