"""What the losses accept: one check per argument, run while tracing."""

import dataclasses
import math
import numbers
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike


def check_logits(logits: ArrayLike, axis: int) -> tuple[jax.Array, int]:
  """Returns the logits in float32 or wider, and the class axis >= 0."""
  logits = jnp.asarray(logits)
  if not jnp.issubdtype(logits.dtype, jnp.floating):
    raise TypeError(f'logits must be floating point, got {logits.dtype}')
  if isinstance(axis, bool) or not isinstance(axis, int | np.integer):
    raise TypeError(f'axis must be an integer, got {axis!r}')
  if not -logits.ndim <= axis < logits.ndim:
    raise ValueError(
      f'logits must have a class axis {axis}, got shape {logits.shape}'
    )
  axis = int(axis) % logits.ndim
  if logits.shape[axis] == 0:
    raise ValueError(
      f'logits must have at least one class on axis {axis}, '
      f'got shape {logits.shape}'
    )
  if jnp.finfo(logits.dtype).bits < 32:
    logits = logits.astype(jnp.float32)
  return logits, axis


def check_labels(
  labels: ArrayLike, logits_BK: jax.Array, axis: int
) -> jax.Array:
  """Returns class ids of shape [B], or distributions of shape [B, K]."""
  if not isinstance(labels, jax.Array):
    labels = np.asarray(labels)
    if labels.dtype in (np.int64, np.uint64):
      # JAX may keep 32 bits of them, in which a large id could be another.
      fits = (labels >= 0) & (labels <= np.iinfo(np.int32).max)
      labels = np.where(fits, labels, -1).astype(np.int32)
  labels = jnp.asarray(labels)
  if jnp.issubdtype(labels.dtype, jnp.integer):
    expected, kind = batch_shape(logits_BK, axis), 'class ids'
    if jnp.iinfo(labels.dtype).bits < 32:
      # An int8 cannot hold K, which the ids are compared with.
      labels = labels.astype(jnp.int32)
  elif jnp.issubdtype(labels.dtype, jnp.floating):
    expected, kind = logits_BK.shape, 'distributions'
  else:
    raise TypeError(
      'labels must be integer class ids or floating-point distributions, '
      f'got {labels.dtype}'
    )
  if labels.shape != expected:
    raise ValueError(
      f'labels of dtype {labels.dtype} are {kind} and must have shape '
      f'{expected} for logits of shape {logits_BK.shape}, got {labels.shape}'
    )
  return labels


def check_class_ids(labels: ArrayLike, why: str) -> None:
  """Refuses distributions, for what is defined for one true class only."""
  dtype = jnp.asarray(labels).dtype
  if jnp.issubdtype(dtype, jnp.floating):
    raise ValueError(f'labels must be integer class ids, got {dtype}: {why}')


def check_class_weights(
  class_weights: ArrayLike | None, logits_BK: jax.Array, axis: int
) -> jax.Array | None:
  """Returns the weights of the classes, [K], in the dtype of the logits."""
  if class_weights is None:
    return None
  shape, expected = jnp.shape(class_weights), (logits_BK.shape[axis],)
  if shape != expected:
    raise ValueError(
      f'class_weights must have shape {expected} for logits of shape '
      f'{logits_BK.shape}, got {shape}'
    )
  return read_class_weights(class_weights).astype(logits_BK.dtype)


def read_class_weights(class_weights: ArrayLike) -> jax.Array:
  """Returns weights of classes, [K], in float32 or wider."""
  CLASS_WEIGHT_RANGE.check(class_weights)
  weights_K = jnp.asarray(class_weights)
  if weights_K.ndim != 1:
    raise ValueError(
      f'class_weights must have shape [K], got {weights_K.shape}'
    )
  return weights_K.astype(jnp.promote_types(weights_K.dtype, jnp.float32))


def check_same_shape(
  name: str, values: ArrayLike, logits_BK: jax.Array
) -> jax.Array:
  """Returns other values of the shape, and in the dtype, of the logits."""
  values = jnp.asarray(values)
  if not jnp.issubdtype(values.dtype, jnp.floating):
    raise TypeError(f'{name} must be floating point, got {values.dtype}')
  if values.shape != logits_BK.shape:
    raise ValueError(
      f'{name} must have shape {logits_BK.shape} like the logits, '
      f'got {values.shape}'
    )
  return values.astype(logits_BK.dtype)


def check_distribution(
  name: str, values: ArrayLike, logits_BK: jax.Array
) -> jax.Array:
  """Returns distributions, [B, K], in the dtype of the logits."""
  values = jnp.asarray(values)
  if not jnp.issubdtype(values.dtype, jnp.floating):
    raise TypeError(f'{name} must be floating point, got {values.dtype}')
  fits = values.ndim == logits_BK.ndim and all(
    size in (1, full) for size, full in zip(values.shape, logits_BK.shape)
  )
  if not fits:
    raise ValueError(
      f'{name} must have shape {logits_BK.shape}, or axes of size one, for '
      f'logits of shape {logits_BK.shape}, got {values.shape}'
    )
  return jnp.broadcast_to(values, logits_BK.shape).astype(logits_BK.dtype)


def check_targets(
  targets: ArrayLike, logits_BK: jax.Array, axis: int
) -> jax.Array:
  """Returns the soft labels of the classes, [K, K]."""
  targets, size = jnp.asarray(targets), logits_BK.shape[axis]
  if not jnp.issubdtype(targets.dtype, jnp.floating):
    raise TypeError(f'targets must be floating point, got {targets.dtype}')
  if targets.shape != (size, size):
    raise ValueError(
      f'targets must have shape {(size, size)} for logits of shape '
      f'{logits_BK.shape}, got {targets.shape}'
    )
  return targets


def check_where(
  where: ArrayLike | None, logits_BK: jax.Array, axis: int
) -> tuple[jax.Array | None, jax.Array | None]:
  """Returns the masks over examples, [B], and over logits, [B, K].

  Either is None where it masks nothing. An example without a single class left
  is masked as a whole.
  """
  if where is None:
    return None, None
  where = jnp.asarray(where)
  if where.dtype != jnp.bool_:
    raise TypeError(f'where must be boolean, got {where.dtype}')
  if where.shape == batch_shape(logits_BK, axis):
    return where, None
  fits = where.ndim == logits_BK.ndim and all(
    size in (1, full) for size, full in zip(where.shape, logits_BK.shape)
  )
  if not fits:
    raise ValueError(
      f'where must have shape {batch_shape(logits_BK, axis)} (per example) or '
      f'{logits_BK.shape} (per logit) for logits of shape {logits_BK.shape}, '
      f'got {where.shape}'
    )
  where_BK = jnp.broadcast_to(where, logits_BK.shape)
  return jnp.any(where_BK, axis), where_BK


def check_choice(name: str, value: str, choices: Sequence[str]) -> None:
  """Refuses a value that is not one of the named choices."""
  if value not in choices:
    known = ', '.join(map(repr, choices))
    raise ValueError(f'{name} must be one of {known}, got {value!r}')


def check_number(name: str, value: float) -> float:
  """Returns a finite Python float."""
  if isinstance(value, bool) or not isinstance(value, numbers.Real):
    raise TypeError(f'{name} must be a number, got {value!r}')
  if not math.isfinite(value):
    raise ValueError(f'{name} must be finite, got {value!r}')
  return float(value)


def check_count(name: str, value: int) -> int:
  """Returns a Python integer that is at least 1."""
  if isinstance(value, bool) or not isinstance(value, numbers.Integral):
    raise TypeError(f'{name} must be an integer, got {value!r}')
  if value < 1:
    raise ValueError(f'{name} must be at least 1, got {value!r}')
  return int(value)


@dataclasses.dataclass(frozen=True)
class Range:
  """The interval of finite values of a number for which a loss is defined.

  Attributes:
    low: the smallest value.
    high: the largest value.
    name: what the number is called.
    open_low: whether `low` itself is excluded.
  """

  low: float = -math.inf
  high: float = math.inf
  name: str = 'alpha'
  open_low: bool = False

  def __str__(self) -> str:
    bracket = '(' if self.open_low or self.low == -math.inf else '['
    right = 'inf)' if self.high == math.inf else f'{self.high:g}]'
    return f'{bracket}{self.low:g}, {right}'

  def check(self, value: ArrayLike | Sequence[float]) -> None:
    """Refuses known values outside; the value of a traced one is not known."""
    traced = isinstance(value, jax.core.Tracer)
    values = value if traced else np.asarray(jax.device_get(value))
    kinds = (jnp.floating, jnp.integer)
    if not any(jnp.issubdtype(values.dtype, kind) for kind in kinds):
      raise TypeError(f'{self.name} must be a real number, got {value!r}')
    if traced:
      return
    inside = (self.low <= values) & (values <= self.high) & np.isfinite(values)
    if self.open_low:
      inside &= values > self.low
    if not np.all(inside):
      raise ValueError(
        f'{self.name} must be in {self}, got {values[~inside].item(0)}'
      )


CLASS_WEIGHT_RANGE = Range(low=0.0, name='class_weights')


def check_number_per_example(
  value: ArrayLike, allowed: Range, logits_BK: jax.Array, axis: int
) -> jax.Array:
  """Returns it in the dtype of the logits, a scalar or one per example."""
  allowed.check(value)
  shape, got = batch_shape(logits_BK, axis), jnp.shape(value)
  fits = len(got) <= len(shape) and all(
    size in (1, full) for size, full in zip(got[::-1], shape[::-1])
  )
  if not fits:
    raise ValueError(
      f'{allowed.name} must be a scalar or broadcast to the batch shape '
      f'{shape} of logits of shape {logits_BK.shape}, got {got}'
    )
  return jnp.asarray(value, logits_BK.dtype)


def batch_shape(logits_BK: jax.Array, axis: int) -> tuple[int, ...]:
  """The shape of the logits without the class axis."""
  return logits_BK.shape[:axis] + logits_BK.shape[axis + 1 :]
