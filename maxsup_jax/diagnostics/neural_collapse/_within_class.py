"""The second pass over the features: spread within the classes."""

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
from maxsup_jax.diagnostics.neural_collapse._between_class import BetweenClass
from maxsup_jax.diagnostics.neural_collapse._measures import Spread, measure
from maxsup_jax.diagnostics.neural_collapse._result import NeuralCollapse
from maxsup_jax.diagnostics.neural_collapse._rows import (
  measure_blocks,
  row_measures,
)
from maxsup_jax.errors import UsageError

GROUPS = ('labels', 'predictions')


class WithinSums(NamedTuple):
  """What one batch adds to `WithinClass`; sum it over devices with `psum`.

  The first axis is 0 for wrong and 1 for correct predictions; without
  predictions all is in 0.

  Attributes:
    count: examples of every class, int32 `[2, K]`.
    total: sums of both squared distances, float32 `[2, K, 2]`.
    nearest: examples whose label is the class of the nearest class mean, and
      examples whose prediction is, int32 `[2]`.
  """

  count: jax.Array
  total: jax.Array
  nearest: jax.Array


class WithinClass(NamedTuple):
  """Adds up the spread of the examples about their class means.

  A tree of arrays without any state outside, like `ClassMeans`, whose result
  it needs. The examples may be others than those that the class means are of:
  test examples, say.

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
    >>> import numpy as np
    >>> from maxsup_jax.diagnostics import neural_collapse as nc
    >>> features = np.array([[3, 0], [1, 0], [0, 2], [0, 2]], np.float32)
    >>> labels = np.array([0, 0, 1, 1])
    >>> means = nc.ClassMeans.init(num_classes=2, num_features=2)
    >>> between = means.update(features, labels).compute()
    >>> within = nc.WithinClass.init(num_classes=2)
    >>> for rows in (slice(0, 2), slice(2, 4)):
    ...   within = within.update(between, features[rows], labels[rows])
    >>> result = within.compute(between)
    >>> print(round(result.nc1, 6), result.ncc_accuracy)
    0.0625 1.0
  """

  count: jax.Array
  total: Pair
  nearest: jax.Array
  predicted: jax.Array
  grouped: jax.Array

  @classmethod
  def init(cls, num_classes: int) -> 'WithinClass':
    """The state before the first batch.

    Args:
      num_classes: K, at least 2.
    """
    K = _checks.at_least(num_classes, 'num_classes', 2)
    return cls(
      jnp.zeros((2, K), jnp.int32),
      Pair.zeros((2, K, 2)),
      jnp.zeros(2, jnp.int32),
      jnp.zeros(2, bool),
      jnp.zeros(2, bool),
    )

  @staticmethod
  def batch_sums(
    between: BetweenClass,
    features: ArrayLike,
    labels: ArrayLike,
    where: ArrayLike | None = None,
    *,
    predictions: ArrayLike | None = None,
    group_by: str = 'labels',
  ) -> WithinSums:
    """What a batch adds: pure, and linear in the examples.

    Args:
      between: of `ClassMeans.compute`.
      features: floating point `[B, D]`; measured in float32.
      labels: class ids, integer `[B]`. What is outside `[0, K)` takes no part.
      where: bool `[B]`, False for padding, or None. A masked row takes no
        part even if it is NaN.
      predictions: the classes that the network predicts, integer `[B]`: the
        largest logit's, with the bias. What is outside `[0, K)` takes no part.
      group_by: 'labels' or 'predictions': which class an example belongs to.

    Returns:
      The sums, on this device alone.

    Raises:
      UsageError: one line, for an unknown `group_by`, or one without what it
        needs.
    """
    _check_groups(group_by, predictions)
    between = jax.tree.map(lambda a: _single(jnp.asarray(a)), between)
    features_BD = jnp.asarray(features).astype(jnp.float32)
    labels_B = jnp.asarray(labels)
    K = len(between.count)
    ids_B = known_ids(
      labels_B, None if where is None else jnp.asarray(where), K
    )
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
      cpu=measure_blocks,
      default=functools.partial(row_measures, jnp),
    )
    cells_B = jnp.where(known_B, correct_B * K + ids_B, 2 * K)
    values_B3 = jnp.stack(
      [jnp.ones_like(rows.square), rows.square, rows.whitened], 1
    )
    total_2K3 = class_sums(values_B3, cells_B, 2 * K).reshape(2, K, 3)
    hits = [(rows.nearest == labels_B) & known_B]
    if predictions is not None:
      hits.append((rows.nearest == predictions_B) & known_B)
    else:
      hits.append(jnp.zeros_like(known_B))
    return WithinSums(
      total_2K3[..., 0].astype(jnp.int32),
      total_2K3[..., 1:],
      jnp.stack([h.sum(dtype=jnp.int32) for h in hits]),
    )

  def add(
    self, sums: WithinSums, *, predicted: bool, group_by: str
  ) -> 'WithinClass':
    """Adds what `batch_sums` returned, of one device or summed over all.

    Args:
      sums: what to add.
      predicted: whether the batch had predictions.
      group_by: what the batch was grouped by.

    Returns:
      The new state.

    Raises:
      UsageError: one line, for sums of other classes.
    """
    _checks.one_of(group_by, 'group_by', GROUPS)
    check_shapes(
      'sums', tuple(sums), (self.count, self.total.total, self.nearest)
    )
    return _add(self, sums, bool(predicted), group_by)

  def update(
    self,
    between: BetweenClass,
    features: ArrayLike,
    labels: ArrayLike,
    where: ArrayLike | None = None,
    *,
    predictions: ArrayLike | None = None,
    group_by: str = 'labels',
    axis_name: str | None = None,
  ) -> 'WithinClass':
    """Adds a batch.

    Args:
      between: of `ClassMeans.compute`. Copy it to the accelerator once, with
        `jax.device_put`.
      features: floating point `[B, D]`.
      labels: class ids, integer `[B]`. Under `jit` a label or a prediction
        outside `[0, K)` counts as masked; else it is refused.
      where: bool `[B]`, False for padding, or None.
      predictions: the classes that the network predicts, integer `[B]`, or
        None; the same choice for all batches.
      group_by: 'labels', or 'predictions' for the spread of correct and of
        wrong predictions; the same choice for all batches. Then `between` must
        be of the predicted classes too, `ClassMeans.update(features,
        predictions)`: it does not know, and this is not checked.
      axis_name: the mapped axis over whose devices the batch is spread.

    Returns:
      The new state.

    Raises:
      UsageError: one line, for a wrong shape, dtype or label.
    """
    K, D = between.means.shape
    _check_groups(group_by, predictions)
    if self.count.shape[1] != K:
      raise UsageError(
        f'between has {K} classes; expected {self.count.shape[1]}'
      )
    features = as_array(features, 'features')
    labels = as_array(labels, 'labels')
    where = None if where is None else as_array(where, 'where')
    check_batch(features, labels, where, K, D)
    if predictions is not None:
      predictions = as_array(predictions, 'predictions')
      check_batch(features, predictions, where, K, D, 'predictions')
    return _update(
      self, between, features, labels, where, predictions, group_by, axis_name
    )

  def merge(self, other: 'WithinClass') -> 'WithinClass':
    """The state after the batches of both.

    Raises:
      UsageError: one line, for a state of other classes.
    """
    check_shapes('other', tuple(other), tuple(self))
    return WithinClass(
      self.count + other.count,
      self.total.merge(other.total),
      self.nearest + other.nearest,
      self.predicted | other.predicted,
      self.grouped | other.grouped,
    )

  def compute(
    self,
    between: BetweenClass,
    weights: ArrayLike | None = None,
    bias: ArrayLike | None = None,
  ) -> NeuralCollapse:
    """All measures of neural collapse, in float64 on the host.

    Args:
      between: what the batches were measured with.
      weights: the classifier's weights, `[K, D]`, or None.
      bias: its bias, `[K]`, or None; zeros for a classifier without one.

    Returns:
      A `NeuralCollapse`; `ncc_accuracy` compares with the labels, whatever the
      examples were grouped by.

    Raises:
      UsageError: one line, if there were no examples, if only some batches had
        predictions or were grouped by them, or if the weights have a wrong
        shape.
    """
    with_predictions, without = np.asarray(self.predicted).tolist()
    if with_predictions and without:
      raise UsageError('some batches had predictions and some had none')
    if np.asarray(self.grouped).all():
      raise UsageError(
        'some batches were grouped by labels and some by predictions'
      )
    return measure(
      BetweenClass(*[np.asarray(a) for a in between]),
      Spread(
        np.asarray(self.count, np.int64),
        *np.moveaxis(self.total.compute(), -1, 0),
        *(int(n) for n in self.nearest),
        predicted=with_predictions,
      ),
      weights,
      bias,
    )


def _check_groups(group_by: str, predictions: ArrayLike | None) -> None:
  _checks.one_of(group_by, 'group_by', GROUPS)
  if group_by == 'predictions' and predictions is None:
    raise UsageError("group_by='predictions' needs the predictions")


def _single(array: jax.Array) -> jax.Array:
  """Makes float64, which there is under `jax_enable_x64`, float32."""
  if jnp.issubdtype(array.dtype, jnp.floating):
    return array.astype(jnp.float32)
  return array


@functools.partial(jax.jit, static_argnames=('predicted', 'group_by'))
def _add(
  state: WithinClass, sums: WithinSums, predicted, group_by
) -> WithinClass:
  return WithinClass(
    state.count + sums.count,
    state.total.add(sums.total),
    state.nearest + sums.nearest,
    state.predicted | jnp.array([predicted, not predicted]),
    state.grouped | jnp.array([group_by == g for g in GROUPS]),
  )


@functools.partial(jax.jit, static_argnames=('group_by', 'axis_name'))
def _update(
  state, between, features, labels, where, predictions, group_by, axis_name
) -> WithinClass:
  sums = WithinClass.batch_sums(
    between,
    features,
    labels,
    where,
    predictions=predictions,
    group_by=group_by,
  )
  if axis_name is not None:
    sums = jax.lax.psum(sums, axis_name)
  return _add(state, sums, predictions is not None, group_by)
