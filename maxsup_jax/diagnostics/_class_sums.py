"""Sums over the examples of every class, over any number of batches."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from maxsup_jax.diagnostics import _checks
from maxsup_jax.errors import UsageError


class Pair(NamedTuple):
  """A sum in float32 and what rounding took from it: `total + error`.

  A million additions to a plain float32 sum lose three of its seven digits,
  and float64 is missing or slow on accelerators.
  """

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

  def scatter(values_BD, ids_B):
    return jax.ops.segment_sum(values_BD, ids_B, K)

  def matmul(values_BD, ids_B):
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


def known_ids(
  labels_B: jax.Array, where_B: jax.Array | None, K: int
) -> jax.Array:
  """Class ids, with K for what is masked or names no class."""
  known_B = (labels_B >= 0) & (labels_B < K)
  if where_B is not None:
    known_B &= where_B
  return jnp.where(known_B, labels_B, K).astype(jnp.int32)


def as_array(values: ArrayLike | None, name: str):
  """Makes an array of lists; NumPy's, JAX's and traced ones stay."""
  return values if hasattr(values, 'shape') else _checks.array(values, name)


def check_shapes(name: str, found: tuple, expected: tuple) -> None:
  """Checks that sums are of the same classes and features.

  Args:
    name: what to call what was found.
    found: arrays or pairs.
    expected: what they are to be added to.

  Raises:
    UsageError: one line.
  """
  for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected)):
    if jnp.shape(a) != jnp.shape(b):
      raise UsageError(
        f'{name} has the shape {jnp.shape(a)}; expected {jnp.shape(b)}, that '
        'of what it is added to'
      )


def check_batch(
  features: ArrayLike,
  labels: ArrayLike,
  where: ArrayLike | None,
  num_classes: int,
  num_features: int,
  name: str = 'labels',
) -> None:
  """Checks the shapes and dtypes of a batch, and labels whose value is known.

  Args:
    features: expected to be floating point, `[B, D]`.
    labels: expected to be integers, `[B]`, and from 0 to K - 1 where they take
      part. Under `jit` their values cannot be checked.
    where: bool `[B]` or None.
    num_classes: K.
    num_features: D.
    name: what to call the labels.

  Raises:
    UsageError: one line.
  """
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
      raise UsageError(
        f'{what} has the shape {jnp.shape(array)}; expected {shape[:1]}'
      )
    if not jnp.issubdtype(jnp.result_type(array), kind):
      raise UsageError(
        f'{what} has the dtype {jnp.result_type(array)}; expected {expected}'
      )
  if isinstance(labels, jax.core.Tracer) or isinstance(where, jax.core.Tracer):
    return
  labels = np.asarray(labels)
  bad = (labels < 0) | (labels >= num_classes)
  if where is not None:
    bad &= np.asarray(where)
  if bad.any():
    i = int(bad.argmax())
    raise UsageError(
      f'{name}[{i}] is {labels[i]}; expected from 0 to {num_classes - 1}, as '
      f'there are {num_classes} classes'
    )


def check_means(
  count_K: np.ndarray, means_KD: np.ndarray, allow_empty: bool = False
) -> np.ndarray:
  """Checks that all class means exist, and returns which classes do, `[K]`.

  Raises:
    UsageError: one line that names the class.
  """
  present_K = count_K > 0
  if not present_K.any():
    raise UsageError('there are no examples')
  empty = np.flatnonzero(~present_K)
  if len(empty) == 1 and not allow_empty:
    raise UsageError(f'class {empty[0]} has no examples: it has no mean')
  if len(empty) and not allow_empty:
    some = ', '.join(str(k) for k in empty[:5])
    more = f' and {len(empty) - 5} more' if len(empty) > 5 else ''
    raise UsageError(
      f'classes {some}{more} have no examples: they have no mean'
    )
  bad_K = present_K & ~np.isfinite(means_KD).all(1)
  if bad_K.any():
    raise UsageError(
      f'the features of class {int(bad_K.argmax())} are not all finite, or too '
      'large to add up'
    )
  return present_K
