"""Neural collapse in two passes over batches, on any number of devices."""

import functools
from collections.abc import Sequence
from types import ModuleType
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from maxsup_jax.diagnostics._class_sums import (
  Pair,
  added,
  check_batch,
  class_sums,
  known_ids,
)
from maxsup_jax.diagnostics.neural_collapse.measures import (
  BetweenClass,
  NeuralCollapse,
  Spread,
  between_class,
  measure,
)
from maxsup_jax.errors import UsageError, integer, one_of

# Rows that a CPU measures at a time: their deviations stay in the cache.
_CPU_BLOCK = 1024
# Between these float32 has the squares of distances, and of parts of them.
_SMALLEST, _LARGEST = 1e-15, 1e18
GROUPS = ('labels', 'predictions')


class RowMeasures(NamedTuple):
  """Of every example: its distances to the class means."""

  square: Any  # ||h - hbar_k||^2, for its own class k
  whitened: Any  # ||Hbar^+ (h - hbar_k)||^2
  nearest: Any  # the class whose mean is nearest


def row_measures(
  xp: ModuleType, between: BetweenClass, features_BD: Any, ids_B: Any
) -> RowMeasures:
  r"""Measures examples against the class means, in NumPy or in JAX.

  With :math:`\bar H^T = Z B^T` and :math:`Z = U S`, one product
  :math:`c = B^T (h - \bar h_k)` serves both: :math:`\|\bar H^+ (h - \bar
  h_k)\| = \|S^{-1} c\|`, as U is orthonormal; and the distances to the class
  means differ by what they are within the span of the means, where h has the
  coordinates :math:`c + z_k`.
  """
  matmul = xp.matmul
  if xp is jnp:
    matmul = functools.partial(jnp.matmul, precision=jax.lax.Precision.HIGHEST)
  deviation_BD = features_BD - between.means[ids_B]
  c_BR = matmul(deviation_BD, between.basis)
  Z_KR = between.coordinates
  score_BK = matmul(c_BR + Z_KR[ids_B], Z_KR.T)
  half_K = xp.square(Z_KR).sum(1) / 2
  score_BK -= xp.where(between.count > 0, half_K, xp.inf)
  return RowMeasures(
    xp.square(deviation_BD).sum(1),
    xp.square(c_BR / between.singular_values).sum(1),
    score_BK.argmax(1),
  )


def _measure_blocks(
  between: BetweenClass, features_BD: jax.Array, ids_B: jax.Array
) -> RowMeasures:
  """`row_measures` of large batches, block by block."""
  count = len(ids_B) // _CPU_BLOCK
  if count < 2:
    return row_measures(jnp, between, features_BD, ids_B)
  end = count * _CPU_BLOCK
  blocks = jax.lax.map(
    lambda block: row_measures(jnp, between, *block),
    (
      features_BD[:end].reshape(count, _CPU_BLOCK, -1),
      ids_B[:end].reshape(count, _CPU_BLOCK),
    ),
  )
  rest = row_measures(jnp, between, features_BD[end:], ids_B[end:])
  return jax.tree.map(
    lambda a, b: jnp.concatenate([a.reshape(-1), b]), blocks, rest
  )


class ClassMeans(NamedTuple):
  """Adds up the features of every class, batch by batch.

  A tree of arrays: `update` is a pure function, also under `jit`, `vmap` and
  `pmap`. The sums are pairs of float32, good to about 1e-7 of the features over
  millions of examples; within a batch the sum is plain float32.

  Attributes:
    count: examples of every class, int32 `[K]`.
    total: sums of their features, a pair of float32 `[K, D]`.

  Examples:
    In a step that is mapped over devices, every device adds the sums of all:

    >>> def step(means, h, y):
    ...   return means.add(
    ...     jax.lax.psum(ClassMeans.batch_sums(h, y, None, 2), 'devices'))
    >>> step = jax.vmap(step, (None, 0, 0), axis_name='devices')
    >>> features = np.array([[3, 0], [1, 0], [0, 2], [9, 9]], np.float32)
    >>> labels = np.array([0, 0, 1, 1])
    >>> step(ClassMeans.init(2, 2), features[:, None], labels[:, None]).count[0]
    Array([2, 2], dtype=int32)
  """

  count: jax.Array  # type: ignore[assignment]  # not the method of tuple
  total: Pair

  @classmethod
  def init(cls, num_classes: int, num_features: int) -> 'ClassMeans':
    """The state before the first batch."""
    K = integer('num_classes', num_classes, low=2)
    D = integer('num_features', num_features, low=1)
    return cls(jnp.zeros(K, jnp.int32), Pair.zeros((K, D)))

  @staticmethod
  @functools.partial(jax.jit, static_argnames='num_classes')
  def batch_sums(
    features: ArrayLike,
    labels: ArrayLike,
    where: ArrayLike | None,
    num_classes: int,
  ) -> tuple[jax.Array, jax.Array]:
    """What a batch adds to the fields: linear, to be summed with `psum`.

    The arguments are those of `update`; features are summed in float32.
    """
    ids_B = known_ids(labels, where, num_classes)
    ones_B1 = jnp.ones((len(ids_B), 1), jnp.float32)
    count_K1 = class_sums(ones_B1, ids_B, num_classes)
    return (
      # Exact: a batch has fewer than 2**24 rows.
      count_K1[:, 0].astype(jnp.int32),
      class_sums(jnp.asarray(features), ids_B, num_classes),
    )

  def add(self, sums: Sequence[jax.Array]) -> 'ClassMeans':
    """Adds what `batch_sums` returned, of one device or summed over all."""
    return added(self, sums)

  def update(
    self, features: ArrayLike, labels: ArrayLike, where: ArrayLike | None = None
  ) -> 'ClassMeans':
    """Adds a batch.

    Args:
      features: floating point `[B, D]`.
      labels: class ids, integer `[B]`. For measures of the predicted classes
        pass the predictions. Under `jit` a label outside `[0, K)` counts as
        masked; else it is refused.
      where: bool `[B]`, False for padding, which may be NaN, or None.
    """
    K, D = self.total.total.shape
    features, labels, where = check_batch(features, labels, where, K, D)
    return self.add(self.batch_sums(features, labels, where, K))

  def merge(self, other: 'ClassMeans') -> 'ClassMeans':
    """The state after the batches of both."""
    return added(self, other)

  def compute(
    self, *, global_mean: str = 'classes', allow_empty: bool = False
  ) -> BetweenClass:
    """The class means and their decomposition, in float64 on the host.

    Args:
      global_mean: see `neural_collapse`.
      allow_empty: whether classes without examples are left out instead of
        refused: for predicted classes, of which some may never be predicted.
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
        f'{_SMALLEST:g} to {_LARGEST:g}, as their squares are float32; scale '
        'the features'
      )
    return between


class WithinClass(NamedTuple):
  """Adds up the spread of the examples about their class means.

  A tree of arrays like `ClassMeans`, whose result it needs. The examples may be
  others than those that the class means are of: test examples, say.

  Attributes:
    count: examples of every class with a wrong and with a correct prediction,
      int32 `[2, K]`; without predictions all are in the first row.
    total: their sums of squared distances, plain and after the pseudo-inverse
      of the class means, a pair of float32 `[2, K, 2]`.
    nearest: for how many examples the class of the nearest class mean is the
      label, and the prediction, int32 `[2]`.
    predicted: whether there were batches with and without predictions, bool
      `[2]`.
    grouped: whether there were batches grouped by labels and by predictions,
      bool `[2]`.

  Examples:
    >>> features = np.array([[3, 0], [1, 0], [0, 2], [0, 2]], np.float32)
    >>> labels = np.array([0, 0, 1, 1])
    >>> means = ClassMeans.init(num_classes=2, num_features=2)
    >>> between = means.update(features, labels).compute()
    >>> within = WithinClass.init(num_classes=2)
    >>> for rows in (slice(0, 2), slice(2, 4)):
    ...   within = within.update(between, features[rows], labels[rows])
    >>> result = within.compute(between)
    >>> print(round(result.nc1, 6), result.ncc_accuracy)
    0.0625 1.0
  """

  count: jax.Array  # type: ignore[assignment]  # not the method of tuple
  total: Pair
  nearest: jax.Array
  predicted: jax.Array
  grouped: jax.Array

  @classmethod
  def init(cls, num_classes: int) -> 'WithinClass':
    """The state before the first batch."""
    K = integer('num_classes', num_classes, low=2)
    counts = jnp.zeros((2, K), jnp.int32), Pair.zeros((2, K, 2))
    kinds = jnp.zeros(2, bool), jnp.zeros(2, bool)
    return cls(*counts, jnp.zeros(2, jnp.int32), *kinds)

  @staticmethod
  @functools.partial(jax.jit, static_argnames='group_by')
  def batch_sums(
    between: BetweenClass,
    features: ArrayLike,
    labels: ArrayLike,
    where: ArrayLike | None = None,
    *,
    predictions: ArrayLike | None = None,
    group_by: str = 'labels',
  ) -> tuple[jax.Array, jax.Array, jax.Array]:
    """What a batch adds to the first fields, as `ClassMeans.batch_sums`.

    The arguments are those of `update`; features are measured in float32.
    """
    _check_groups(group_by, predictions)
    between = jax.tree.map(lambda a: _single(jnp.asarray(a)), between)
    features_BD = jnp.asarray(features).astype(jnp.float32)
    labels_B = jnp.asarray(labels)
    K = len(between.count)
    ids_B = known_ids(labels_B, where, K)
    correct_B = jnp.zeros(len(ids_B), jnp.int32)
    if predictions is not None:
      predictions_B = jnp.asarray(predictions)
      ids_B = jnp.where(known_ids(predictions_B, None, K) < K, ids_B, K)
      correct_B = (predictions_B == labels_B).astype(jnp.int32)
    known_B = ids_B < K
    if group_by == 'predictions':
      ids_B = jnp.where(known_B, predictions_B, K)
    rows = jax.lax.platform_dependent(
      between,
      features_BD,
      jnp.where(known_B, ids_B, 0),
      cpu=_measure_blocks,
      default=functools.partial(row_measures, jnp),
    )
    cells_B = jnp.where(known_B, correct_B * K + ids_B, 2 * K)
    values_B3 = jnp.stack(
      [jnp.ones_like(rows.square), rows.square, rows.whitened], 1
    )
    total_2K3 = class_sums(values_B3, cells_B, 2 * K).reshape(2, K, 3)
    hits = [(rows.nearest == labels_B) & known_B, jnp.zeros_like(known_B)]
    if predictions is not None:
      hits[1] = (rows.nearest == predictions_B) & known_B
    return (
      total_2K3[..., 0].astype(jnp.int32),
      total_2K3[..., 1:],
      jnp.stack([h.sum(dtype=jnp.int32) for h in hits]),
    )

  def add(
    self, sums: Sequence[jax.Array], *, predicted: bool, group_by: str
  ) -> 'WithinClass':
    """Adds what `batch_sums` returned, of one device or summed over all.

    `predicted` says whether the batch had predictions.
    """
    one_of('group_by', group_by, GROUPS)
    kinds = (
      jnp.array([predicted, not predicted]),
      jnp.array([group_by == g for g in GROUPS]),
    )
    return added(self, (*sums, *kinds))

  def update(
    self,
    between: BetweenClass,
    features: ArrayLike,
    labels: ArrayLike,
    where: ArrayLike | None = None,
    *,
    predictions: ArrayLike | None = None,
    group_by: str = 'labels',
  ) -> 'WithinClass':
    """Adds a batch.

    Args:
      between: of `ClassMeans.compute`. Copy it to the accelerator once, with
        `jax.device_put`.
      features, labels, where: as in `ClassMeans.update`.
      predictions: the classes that the network predicts, integer `[B]`, or
        None; the same choice for all batches.
      group_by: 'labels', or 'predictions' for the spread of correct and of
        wrong predictions; the same choice for all batches. Then `between` must
        be of the predicted classes too, `ClassMeans.update(features,
        predictions)`: it does not know, and this is not checked.
    """
    K, D = between.means.shape
    _check_groups(group_by, predictions)
    if self.count.shape[1] != K:
      raise UsageError(
        f'between has {K} classes; expected {self.count.shape[1]}'
      )
    features, labels, where = check_batch(features, labels, where, K, D)
    if predictions is not None:
      _, predictions, _ = check_batch(
        features, predictions, where, K, D, 'predictions'
      )
    batch = between, features, labels, where
    sums = self.batch_sums(*batch, predictions=predictions, group_by=group_by)
    predicted = predictions is not None
    return self.add(sums, predicted=predicted, group_by=group_by)

  def merge(self, other: 'WithinClass') -> 'WithinClass':
    """The state after the batches of both."""
    return added(self, other)

  def compute(
    self,
    between: BetweenClass,
    weights: ArrayLike | None = None,
    bias: ArrayLike | None = None,
  ) -> NeuralCollapse:
    """All measures of neural collapse, in float64 on the host.

    `between` is what the batches were measured with, the classifier that of
    `neural_collapse`; `ncc_accuracy` compares with the labels, whatever the
    examples were grouped by.
    """
    with_predictions, without = np.asarray(self.predicted).tolist()
    if with_predictions and without:
      raise UsageError('some batches had predictions and some had none')
    if np.asarray(self.grouped).all():
      raise UsageError(
        'some batches were grouped by labels and some by predictions'
      )
    count_2K = np.asarray(self.count, np.int64)
    square_2K, whitened_2K = np.moveaxis(self.total.compute(), -1, 0)
    hits = int(self.nearest[0]), int(self.nearest[1])
    spread = Spread(count_2K, square_2K, whitened_2K, *hits, with_predictions)
    host = BetweenClass(*[np.asarray(a) for a in between])
    return measure(host, spread, weights, bias)


def _check_groups(group_by: str, predictions: ArrayLike | None) -> None:
  one_of('group_by', group_by, GROUPS)
  if group_by == 'predictions' and predictions is None:
    raise UsageError("group_by='predictions' needs the predictions")


def _single(array: jax.Array) -> jax.Array:
  """Makes float64, which there is under `jax_enable_x64`, float32."""
  if jnp.issubdtype(array.dtype, jnp.floating):
    return array.astype(jnp.float32)
  return array
