"""The first pass over the features: class means."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from maxsup_jax.diagnostics import _checks
from maxsup_jax.diagnostics._class_sums import (
  Pair,
  as_array,
  check_batch,
  check_shapes,
  class_sums,
  known_ids,
)
from maxsup_jax.diagnostics.neural_collapse._between_class import (
  BetweenClass,
  between_class,
)
from maxsup_jax.errors import UsageError

# Between these float32 has the squares of distances, and of parts of them.
_SMALLEST, _LARGEST = 1e-15, 1e18


class ClassSums(NamedTuple):
  """What one batch adds to `ClassMeans`; sum it over devices with `psum`.

  Attributes:
    count: examples of every class, int32 `[K]`.
    total: sums of their features, float32 `[K, D]`.
  """

  count: jax.Array
  total: jax.Array


class ClassMeans(NamedTuple):
  """Adds up the features of every class, batch by batch.

  A tree of arrays without any state outside: `update` is a pure function, also
  under `jit`, `vmap` and `pmap`. The sums are pairs of float32, good to about
  1e-7 of the features' size over millions of examples. Batches of some
  thousands of rows are best: within a batch the sum is plain float32.

  Attributes:
    count: examples of every class, int32 `[K]`.
    total: sums of their features, a pair of float32 `[K, D]`.

  Examples:
    >>> import numpy as np
    >>> from maxsup_jax.diagnostics import neural_collapse as nc
    >>> features = np.array([[3, 0], [1, 0], [0, 2], [9, 9]], np.float32)
    >>> means = nc.ClassMeans.init(num_classes=2, num_features=2)
    >>> means = means.update(features[:2], np.array([0, 0]))
    >>> real = np.array([True, False])  # the last row is padding
    >>> means = means.update(features[2:], np.array([1, 0]), real)
    >>> print(means.compute().means.round(4).tolist())
    [[2.0, 0.0], [0.0, 2.0]]

    In an evaluation step that is mapped over devices, every device adds the
    sums of all:

    >>> import jax
    >>> step = jax.vmap(
    ...   lambda state, h, y: state.update(h, y, axis_name='devices'),
    ...   axis_name='devices', in_axes=(None, 0, 0))
    >>> state = step(nc.ClassMeans.init(2, 2), features[:, None],
    ...   np.array([0, 0, 1, 1])[:, None])
    >>> state.count.tolist()
    [[2, 2], [2, 2], [2, 2], [2, 2]]
  """

  count: jax.Array
  total: Pair

  @classmethod
  def init(cls, num_classes: int, num_features: int) -> 'ClassMeans':
    """The state before the first batch.

    Args:
      num_classes: K, at least 2.
      num_features: D.
    """
    K = _checks.at_least(num_classes, 'num_classes', 2)
    D = _checks.at_least(num_features, 'num_features', 1)
    return cls(jnp.zeros(K, jnp.int32), Pair.zeros((K, D)))

  @staticmethod
  def batch_sums(
    features: ArrayLike,
    labels: ArrayLike,
    where: ArrayLike | None,
    num_classes: int,
  ) -> ClassSums:
    """What a batch adds: pure, and linear in the examples.

    Args:
      features: floating point `[B, D]`; summed in float32.
      labels: class ids, integer `[B]`. What is outside `[0, K)` takes no part.
      where: bool `[B]`, False for padding, or None. A masked row takes no
        part even if it is NaN.
      num_classes: K.

    Returns:
      The sums, on this device alone.
    """
    ids_B = known_ids(
      jnp.asarray(labels),
      None if where is None else jnp.asarray(where),
      num_classes,
    )
    ones_B1 = jnp.ones((len(ids_B), 1), jnp.float32)
    count_K1 = class_sums(ones_B1, ids_B, num_classes)
    return ClassSums(
      # Exact: a batch has fewer than 2**24 rows.
      count_K1[:, 0].astype(jnp.int32),
      class_sums(jnp.asarray(features), ids_B, num_classes),
    )

  def add(self, sums: ClassSums) -> 'ClassMeans':
    """Adds what `batch_sums` returned, of one device or summed over all.

    Raises:
      UsageError: one line, for sums of other classes or features.
    """
    check_shapes('sums', tuple(sums), (self.count, self.total.total))
    return _add(self, sums)

  def update(
    self,
    features: ArrayLike,
    labels: ArrayLike,
    where: ArrayLike | None = None,
    *,
    axis_name: str | None = None,
  ) -> 'ClassMeans':
    """Adds a batch.

    Args:
      features: floating point `[B, D]`.
      labels: class ids, integer `[B]`. For measures of the predicted classes
        pass the predictions. Under `jit` a label outside `[0, K)` counts as
        masked; else it is refused.
      where: bool `[B]`, False for padding, or None.
      axis_name: the mapped axis over whose devices the batch is spread.

    Returns:
      The new state.

    Raises:
      UsageError: one line, for a wrong shape, dtype or label.
    """
    K, D = self.total.total.shape
    features = as_array(features, 'features')
    labels = as_array(labels, 'labels')
    where = None if where is None else as_array(where, 'where')
    check_batch(features, labels, where, K, D)
    return _update(self, features, labels, where, axis_name)

  def merge(self, other: 'ClassMeans') -> 'ClassMeans':
    """The state after the batches of both.

    Raises:
      UsageError: one line, for a state of other classes or features.
    """
    check_shapes('other', tuple(other), tuple(self))
    return ClassMeans(self.count + other.count, self.total.merge(other.total))

  def compute(
    self, *, global_mean: str = 'classes', allow_empty: bool = False
  ) -> BetweenClass:
    r"""The class means and their decomposition, in float64 on the host.

    Args:
      global_mean: :math:`h_G` is the mean of the class means, 'classes' (Guo
        et al., Papyan et al.), or the mean of the examples, 'samples' (Zhu et
        al.). They differ if the classes differ in size.
      allow_empty: whether classes without examples are left out instead of
        refused: for predicted classes, of which some may never be predicted.

    Returns:
      What `WithinClass` needs.

    Raises:
      UsageError: one line, if a class has no examples (it is named), features
        that are not finite, or class means whose distances are too small or too
        large to be squared in float32.
    """
    count_K = np.asarray(self.count, np.int64)
    means_KD = self.total.compute() / np.maximum(count_K, 1)[:, None]
    between = between_class(
      count_K,
      means_KD,
      epsilon=float(np.finfo(np.float32).eps),
      global_mean=global_mean,
      allow_empty=allow_empty,
    )
    spread = between.singular_values[:1]
    if (spread < _SMALLEST).any() or (spread > _LARGEST).any():
      raise UsageError(
        f'the class means differ by {spread[0]:.1g}; expected from '
        f'{_SMALLEST:g} to {_LARGEST:g}, as squares are float32: scale the '
        'features'
      )
    return between


@jax.jit
def _add(state: ClassMeans, sums: ClassSums) -> ClassMeans:
  return ClassMeans(state.count + sums.count, state.total.add(sums.total))


@functools.partial(jax.jit, static_argnames='axis_name')
def _update(state, features, labels, where, axis_name) -> ClassMeans:
  K = len(state.count)
  sums = ClassMeans.batch_sums(features, labels, where, K)
  if axis_name is not None:
    sums = jax.lax.psum(sums, axis_name)
  return _add(state, sums)
