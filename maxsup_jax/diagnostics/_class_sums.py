"""Sums over the examples of every class, over any number of batches."""

from collections.abc import Sequence
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from maxsup_jax.diagnostics import checks
from maxsup_jax.errors import UsageError


class Pair(NamedTuple):
  """A sum in float32 and what rounding took from it: `total + error`."""

  total: jax.Array
  error: jax.Array

  @classmethod
  def zeros(cls, shape: tuple[int, ...]) -> 'Pair':
    """The sum of nothing."""
    return cls(jnp.zeros(shape, jnp.float32), jnp.zeros(shape, jnp.float32))

  def add(self, value: jax.Array) -> 'Pair':
    """Adds numbers, with the exact error of the addition (Knuth, 1969).

    `value` must be rounded to float32 already, as sums and matrix products
    are: a product that the compiler fuses into these lines is not, and would
    have another value in each of them.
    """
    total = self.total + value
    added = total - self.total
    error = (self.total - (total - added)) + (value - added)
    return Pair(total, self.error + error)

  def merge(self, other: 'Pair') -> 'Pair':
    """The sum of two sums."""
    added = self.add(other.total)
    return Pair(added.total, added.error + other.error)

  def compute(self) -> np.ndarray:
    """The sum in float64, on the host."""
    return np.asarray(self.total, np.float64) + np.asarray(
      self.error, np.float64
    )


def class_sums(values_BD: jax.Array, ids_B: jax.Array, K: int) -> jax.Array:
  """Sums the rows of every class in float32, `[K, D]`.

  Rows whose id is K take no part, whatever they hold.
  """
  values_BD = values_BD.astype(jnp.float32)

  def scatter(values_BD: jax.Array, ids_B: jax.Array) -> jax.Array:
    return jax.ops.segment_sum(values_BD, ids_B, K)

  def matmul(values_BD: jax.Array, ids_B: jax.Array) -> jax.Array:
    # A scatter-add is slow on a TPU, and sums in another order on every run on
    # a GPU. A padding row may hold NaN, and 0 * NaN is NaN.
    member_KB = jnp.arange(K)[:, None] == ids_B
    values_BD = jnp.where(ids_B[:, None] < K, values_BD, 0)
    return jnp.matmul(
      member_KB.astype(jnp.float32),
      values_BD,
      precision=jax.lax.Precision.HIGHEST,
    )

  return jax.lax.platform_dependent(
    values_BD, ids_B, cpu=scatter, default=matmul
  )


def known_ids(labels: ArrayLike, where: ArrayLike | None, K: int) -> jax.Array:
  """Class ids, with K for what is masked or names no class."""
  labels_B = jnp.asarray(labels)
  known_B = (labels_B >= 0) & (labels_B < K)
  if where is not None:
    known_B &= jnp.asarray(where)
  return jnp.where(known_B, labels_B, K).astype(jnp.int32)


State = TypeVar('State', bound=tuple)


def added(state: State, sums: Sequence) -> State:
  """Adds field by field the sums of a batch, or another state, to a state.

  A `Pair` takes a float32 array or another pair; booleans are joined by "or".
  """
  for mine, other in zip(state, sums):
    # Both numbers of a pair have one shape.
    shape, expected = (jax.tree.leaves(x)[0].shape for x in (other, mine))
    if shape != expected:
      raise UsageError(
        f'the sums have the shape {shape}; expected {expected}, like those '
        'they are added to'
      )
  return _added(state, tuple(sums))


@jax.jit
def _added(state: State, sums: tuple) -> State:
  def add(mine: Any, other: Any) -> Any:
    if isinstance(mine, Pair):
      return mine.merge(other) if isinstance(other, Pair) else mine.add(other)
    return mine | other if mine.dtype == bool else mine + other

  return type(state)(*map(add, state, sums))


def check_batch(
  features: Any,
  labels: Any,
  where: Any,
  num_classes: int,
  num_features: int,
  name: str = 'labels',
) -> tuple[Any, Any, Any]:
  """Checks a batch, also the values of labels if they are known."""
  features, labels, where = (
    a if a is None or isinstance(a, jax.Array) else checks.array(a, n)
    for a, n in ((features, 'features'), (labels, name), (where, 'where'))
  )
  shape, dtype = jnp.shape(features), jnp.result_type(features)
  if len(shape) != 2 or shape[1] != num_features:
    raise UsageError(
      f'features has the shape {shape}; expected [examples, {num_features}]'
    )
  if not jnp.issubdtype(dtype, jnp.floating):
    raise UsageError(f'features has the dtype {dtype}; expected floating point')
  for what, array, kind, expected in (
    (name, labels, jnp.integer, 'integer class ids'),
    ('where', where, jnp.bool_, 'bool'),
  ):
    if array is None:
      continue
    if jnp.shape(array) != shape[:1]:
      raise checks.wrong_shape(what, array, f'{shape[:1]}')
    if not jnp.issubdtype(jnp.result_type(array), kind):
      raise checks.wrong_dtype(what, array, expected)
  traced = any(isinstance(a, jax.core.Tracer) for a in (labels, where))
  if shape[0] and not traced:
    known = None if where is None else np.asarray(where)
    checks.class_ids(np.asarray(labels), num_classes, name, known)
  return features, labels, where


def check_means(
  count_K: np.ndarray, means_KD: np.ndarray, allow_empty: bool = False
) -> np.ndarray:
  """Checks that all class means exist, and returns which classes do, `[K]`."""
  present_K = count_K > 0
  if not present_K.any():
    raise UsageError('there are no examples')
  empty = np.flatnonzero(~present_K)
  if len(empty) and not allow_empty:
    some = ', '.join(map(str, empty[:5])) + ', ...' * (len(empty) > 5)
    which = f'class {some} has' if len(empty) == 1 else f'classes {some} have'
    raise UsageError(f'{which} no examples, and thus no mean')
  bad_K = present_K & ~np.isfinite(means_KD).all(1)
  if bad_K.any():
    raise UsageError(
      f'the features of class {int(bad_K.argmax())} are not all finite, or '
      'too large to sum'
    )
  return present_K
