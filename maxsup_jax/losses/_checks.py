"""What the losses accept: one check per argument, run while tracing.

A wrong dtype is a TypeError, a wrong shape or value a ValueError.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from maxsup_jax import errors


def floating(name: str, values: ArrayLike) -> jax.Array:
  """Returns floating-point values."""
  values = jnp.asarray(values)
  if not jnp.issubdtype(values.dtype, jnp.floating):
    raise TypeError(f'{name} is {values.dtype}; expected floating point')
  return values


def in_float32(values: jax.Array) -> jax.Array:
  """Returns the values in float32 or wider."""
  return values.astype(jnp.promote_types(values.dtype, jnp.float32))


def boolean(name: str, values: ArrayLike) -> jax.Array:
  """Returns a mask."""
  values = jnp.asarray(values)
  if values.dtype != jnp.bool_:
    raise TypeError(f'{name} is {values.dtype}; expected bool')
  return values


def shape(name: str, values: ArrayLike, expected: tuple, why: str = '') -> None:
  """Refuses values of another shape."""
  if np.shape(values) != expected:
    raise ValueError(
      f'{name} has shape {np.shape(values)}; expected {expected}{why}'
    )


def of_logits(logits_BK: jax.Array) -> str:
  """The part of a message that says which logits a shape does not fit."""
  return f' for logits of shape {logits_BK.shape}'


def fills(got: tuple[int, ...], full: tuple[int, ...]) -> bool:
  """Whether a shape has the axes of another, some of them of size one."""
  return len(got) == len(full) and all(
    size in (1, wanted) for size, wanted in zip(got, full)
  )


def logits_and_axis(logits: ArrayLike, axis: int) -> tuple[jax.Array, int]:
  """Returns the logits in float32 or wider, and the class axis >= 0."""
  logits = floating('logits', logits)
  if isinstance(axis, bool) or not isinstance(axis, int | np.integer):
    raise TypeError(f'axis is {errors.shown(axis)}; expected an integer')
  if not -logits.ndim <= axis < logits.ndim:
    raise ValueError(
      f'axis is {axis}; expected a class axis of logits of shape {logits.shape}'
    )
  axis = int(axis) % logits.ndim
  if logits.shape[axis] == 0:
    raise ValueError(
      f'logits have shape {logits.shape}; expected at least one class on axis '
      f'{axis}'
    )
  return in_float32(logits), axis


def batch_shape(logits_BK: jax.Array, axis: int) -> tuple[int, ...]:
  """The shape of the logits without the class axis."""
  return logits_BK.shape[:axis] + logits_BK.shape[axis + 1 :]


def class_ids(labels: jax.Array) -> bool:
  """Whether labels are class ids; otherwise they are distributions."""
  if jnp.issubdtype(labels.dtype, jnp.integer):
    return True
  if jnp.issubdtype(labels.dtype, jnp.floating):
    return False
  raise TypeError(
    f'labels are {labels.dtype}; expected integer class ids or floating-point '
    'distributions'
  )


def labels(labels: ArrayLike, logits_BK: jax.Array, axis: int) -> jax.Array:
  """Returns class ids of shape [B], or distributions of shape [B, K]."""
  if not isinstance(labels, jax.Array):
    labels = np.asarray(labels)
    if labels.dtype in (np.int64, np.uint64):
      # JAX may keep 32 bits of them, in which a large id could be another.
      fits = (labels >= 0) & (labels <= np.iinfo(np.int32).max)
      labels = np.where(fits, labels, -1).astype(np.int32)
  labels = jnp.asarray(labels)
  if class_ids(labels):
    expected, kind = batch_shape(logits_BK, axis), 'class ids'
    if jnp.iinfo(labels.dtype).bits < 32:
      # An int8 cannot hold K, which the ids are compared with.
      labels = labels.astype(jnp.int32)
  else:
    expected, kind = logits_BK.shape, 'distributions'
  shape('labels', labels, expected, f' of {kind}{of_logits(logits_BK)}')
  return labels


def class_weights(weights: ArrayLike) -> jax.Array:
  """Returns weights of classes, [K], in float32 or wider."""
  in_range('class_weights', weights, low=0)
  weights_K = jnp.asarray(weights)
  if weights_K.ndim != 1:
    raise ValueError(f'class_weights has shape {weights_K.shape}; expected [K]')
  return in_float32(weights_K)


def where(
  where: ArrayLike | None, logits_BK: jax.Array, axis: int
) -> tuple[jax.Array | None, jax.Array | None]:
  """Returns the masks over examples, [B], and over logits, [B, K], or None.

  An example without a single class left is masked as a whole.
  """
  if where is None:
    return None, None
  where = boolean('where', where)
  batch = batch_shape(logits_BK, axis)
  if where.shape == batch:
    return where, None
  if not fills(where.shape, logits_BK.shape):
    raise ValueError(
      f'where has shape {where.shape}; expected {batch} (per example) or '
      f'{logits_BK.shape} (per logit){of_logits(logits_BK)}'
    )
  where_BK = jnp.broadcast_to(where, logits_BK.shape)
  return jnp.any(where_BK, axis), where_BK


def in_range(
  name: str,
  value: ArrayLike,
  low: float = -np.inf,
  high: float = np.inf,
  above: float | None = None,
) -> None:
  """Refuses known numbers outside; the value of a traced one is not known."""
  traced = isinstance(value, jax.core.Tracer)
  values: Any = value if traced else np.asarray(jax.device_get(value))
  kinds = (jnp.floating, jnp.integer)
  if not any(jnp.issubdtype(values.dtype, kind) for kind in kinds):
    raise TypeError(f'{name} is {errors.shown(value)}; expected a real number')
  if not traced and values.size:
    for extreme in (np.min(values), np.max(values)):
      errors.number(name, float(extreme), low, high, above=above)


def number(
  name: str, value: ArrayLike, logits_BK: jax.Array, axis: int, **limits: float
) -> jax.Array:
  """Returns it in the dtype of the logits, a scalar or one per example."""
  in_range(name, value, **limits)
  full, got = batch_shape(logits_BK, axis), np.shape(value)
  if not fills((1,) * (len(full) - len(got)) + got, full):
    raise ValueError(
      f'{name} has shape {got}; expected a scalar or {full}, one for each '
      f'example,{of_logits(logits_BK)}'
    )
  return jnp.asarray(value, logits_BK.dtype)
