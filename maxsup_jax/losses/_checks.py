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


def check_class_ids(labels: ArrayLike) -> None:
  """Refuses distributions, for terms that are defined for one true class."""
  dtype = jnp.asarray(labels).dtype
  if not jnp.issubdtype(dtype, jnp.integer):
    raise TypeError(
      'labels must be integer class ids: the term compares every logit with '
      f'the one of the true class, got {dtype}'
    )


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
class AlphaRange:
  """The closed interval of finite strengths for which a loss is defined."""

  low: float = -math.inf
  high: float = math.inf

  def __str__(self) -> str:
    left = '(-inf' if self.low == -math.inf else f'[{self.low:g}'
    right = 'inf)' if self.high == math.inf else f'{self.high:g}]'
    return f'{left}, {right}'

  def check(self, alpha: ArrayLike | Sequence[float]) -> None:
    """Refuses known values outside; the value of a traced one is not known."""
    traced = isinstance(alpha, jax.core.Tracer)
    values = alpha if traced else np.asarray(jax.device_get(alpha))
    kinds = (jnp.floating, jnp.integer)
    if not any(jnp.issubdtype(values.dtype, kind) for kind in kinds):
      raise TypeError(f'alpha must be a real number, got {alpha!r}')
    if traced:
      return
    inside = (self.low <= values) & (values <= self.high) & np.isfinite(values)
    if not np.all(inside):
      raise ValueError(
        f'alpha must be in {self}, got {values[~inside].item(0)}'
      )


def check_alpha(
  alpha: ArrayLike, allowed: AlphaRange, logits_BK: jax.Array, axis: int
) -> jax.Array:
  """Returns alpha in the dtype of the logits, a scalar or one per example."""
  allowed.check(alpha)
  shape, got = batch_shape(logits_BK, axis), jnp.shape(alpha)
  fits = len(got) <= len(shape) and all(
    size in (1, full) for size, full in zip(got[::-1], shape[::-1])
  )
  if not fits:
    raise ValueError(
      f'alpha must be a scalar or broadcast to the batch shape {shape} of '
      f'logits of shape {logits_BK.shape}, got {got}'
    )
  return jnp.asarray(alpha, logits_BK.dtype)


def batch_shape(logits_BK: jax.Array, axis: int) -> tuple[int, ...]:
  """The shape of the logits without the class axis."""
  return logits_BK.shape[:axis] + logits_BK.shape[axis + 1 :]
