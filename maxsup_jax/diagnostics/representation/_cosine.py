"""How far examples of one class, and all examples, point apart."""

import dataclasses
import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from scipy import sparse

from maxsup_jax.diagnostics import _checks
from maxsup_jax.diagnostics._class_sums import (
  Pair,
  check_batch,
  check_means,
  class_sums,
  known_ids,
)
from maxsup_jax.errors import UsageError

# Rows that are made float64 at a time.
_BLOCK = 2048


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class Variation:
  r"""Cosine distances within the classes and among all.

  Attributes:
    within: :math:`\bar d_\mathrm{within}`, the mean cosine distance of two
      examples of one class; larger is more variation within the classes.
    total: :math:`\bar d_\mathrm{total}`, of two examples of any classes.
    r_squared: :math:`R^2 = 1 - \bar d_\mathrm{within} / \bar
      d_\mathrm{total}`, the class separation of Kornblith et al.; NaN where
      all examples point the same way, to rounding.
    within_per_class: that of every class, `[K]`; their mean is `within`.
    counts: examples of every class, `[K]`.
  """

  within: float
  total: float
  r_squared: float
  within_per_class: np.ndarray
  counts: np.ndarray

  @property
  def class_separation(self) -> float:
    """The name of Kornblith et al. for `r_squared`."""
    return self.r_squared


class CosineSums(NamedTuple):
  """What one batch adds to `CosineVariation`; sum it over devices with `psum`.

  Attributes:
    count: examples of every class, int32 `[K]`.
    total: sums of their features of norm 1, float32 `[K, D]`.
    zeros: examples whose features are all 0, int32.
  """

  count: jax.Array
  total: jax.Array
  zeros: jax.Array


class CosineVariation(NamedTuple):
  """Adds up the directions of the features of every class, batch by batch.

  A tree of arrays without any state outside: `update` is a pure function, also
  under `jit`, `vmap` and `pmap`. The distances are good to about 1e-7.

  Attributes:
    count: examples of every class, int32 `[K]`.
    total: sums of their features of norm 1, a pair of float32 `[K, D]`.
    zeros: examples whose features are all 0, int32.

  Examples:
    >>> import numpy as np
    >>> from maxsup_jax.diagnostics import representation
    >>> features = np.array([[1, 0], [.8, .6], [0, 1], [-.6, .8]], np.float32)
    >>> labels = np.array([0, 0, 1, 1])
    >>> variation = representation.CosineVariation.init(2, 2)
    >>> for rows in (slice(0, 3), slice(3, 4)):
    ...   variation = variation.update(features[rows], labels[rows])
    >>> print(round(variation.compute().r_squared, 6))
    0.818182
  """

  count: jax.Array
  total: Pair
  zeros: jax.Array

  @classmethod
  def init(cls, num_classes: int, num_features: int) -> 'CosineVariation':
    """The state before the first batch.

    Args:
      num_classes: K, at least 2.
      num_features: D.
    """
    K = _checks.at_least(num_classes, 'num_classes', 2)
    D = _checks.at_least(num_features, 'num_features', 1)
    return cls(
      jnp.zeros(K, jnp.int32), Pair.zeros((K, D)), jnp.zeros((), jnp.int32)
    )

  @staticmethod
  def batch_sums(
    features: ArrayLike,
    labels: ArrayLike,
    where: ArrayLike | None,
    num_classes: int,
  ) -> CosineSums:
    """What a batch adds: pure, and linear in the examples.

    Args:
      features: floating point `[B, D]`; in float32.
      labels: class ids, integer `[B]`. What is outside `[0, K)` takes no part.
      where: bool `[B]`, False for padding, or None. A masked row takes no part
        even if it is NaN.
      num_classes: K.

    Returns:
      The sums, on this device alone.
    """
    features_BD = jnp.asarray(features).astype(jnp.float32)
    ids_B = known_ids(
      jnp.asarray(labels),
      None if where is None else jnp.asarray(where),
      num_classes,
    )
    # Scaled by the largest number, no square overflows or vanishes.
    largest_B1 = jnp.abs(features_BD).max(1, keepdims=True)
    zero_B1 = largest_B1 == 0
    scaled_BD = features_BD / jnp.where(zero_B1, 1, largest_B1)
    norm_B1 = jnp.sqrt(jnp.square(scaled_BD).sum(1, keepdims=True))
    unit_BD = scaled_BD / jnp.where(zero_B1, 1, norm_B1)
    ones_B1 = jnp.ones_like(norm_B1)
    return CosineSums(
      class_sums(ones_B1, ids_B, num_classes)[:, 0].astype(jnp.int32),
      class_sums(unit_BD, ids_B, num_classes),
      (zero_B1[:, 0] & (ids_B < num_classes)).sum(dtype=jnp.int32),
    )

  def add(self, sums: CosineSums) -> 'CosineVariation':
    """Adds what `batch_sums` returned, of one device or summed over all."""
    self._check_shape(sums.total.shape)
    return _add(self, sums)

  def update(
    self,
    features: ArrayLike,
    labels: ArrayLike,
    where: ArrayLike | None = None,
    *,
    axis_name: str | None = None,
  ) -> 'CosineVariation':
    """Adds a batch.

    Args:
      features: floating point `[B, D]`.
      labels: class ids, integer `[B]`. Under `jit` a label outside `[0, K)`
        counts as masked; else it is refused.
      where: bool `[B]`, False for padding, or None.
      axis_name: the mapped axis over whose devices the batch is spread.

    Returns:
      The new state.

    Raises:
      UsageError: one line, for a wrong shape, dtype or label.
    """
    K, D = self.total.total.shape
    check_batch(features, labels, where, K, D)
    return _update(self, features, labels, where, axis_name)

  def merge(self, other: 'CosineVariation') -> 'CosineVariation':
    """The state after the batches of both."""
    self._check_shape(other.total.total.shape)
    return CosineVariation(
      self.count + other.count,
      self.total.merge(other.total),
      self.zeros + other.zeros,
    )

  def _check_shape(self, other: tuple[int, ...]) -> None:
    shape = self.total.total.shape
    if shape != other:
      raise UsageError(
        f'the classes and features differ: {shape} and {tuple(other)}'
      )

  def compute(self) -> Variation:
    """The distances, in float64 on the host.

    Returns:
      See `cosine_variation`.

    Raises:
      UsageError: one line, if a class has no examples, or if features were not
        finite or all 0.
    """
    if int(self.zeros):
      raise UsageError(
        f'the features of {int(self.zeros)} examples are all 0: they have no '
        'direction'
      )
    return _variation(
      np.asarray(self.count, np.int64), self.total.compute(), np.float32
    )


def cosine_variation(
  features: ArrayLike, labels: ArrayLike, num_classes: int | None = None
) -> Variation:
  r"""Cosine distances within the classes and among all, in float64.

  .. math::
    \bar d_\mathrm{within} = \frac{1}{K} \sum_k \frac{1}{N_k^2} \sum_{m, n}
    \left(1 - \cos(x_{k, m}, x_{k, n})\right), \quad
    \bar d_\mathrm{total} = \frac{1}{K^2} \sum_{j, k} \frac{1}{N_j N_k}
    \sum_{m, n} \left(1 - \cos(x_{j, m}, x_{k, n})\right), \quad
    R^2 = 1 - \frac{\bar d_\mathrm{within}}{\bar d_\mathrm{total}}

  Pairs of an example with itself count, and all classes have the same weight
  whatever their size. With :math:`\mu_k` the mean of the features of class k,
  each divided by its norm, the sums are :math:`1 - \frac{1}{K} \sum_k
  \|\mu_k\|^2` and :math:`1 - \|\frac{1}{K} \sum_k \mu_k\|^2`, in one pass over
  the examples.

  Args:
    features: penultimate features, floating point `[N, D]`.
    labels: class ids, integer `[N]`.
    num_classes: K; by default one more than the largest label.

  Returns:
    The distances.

  Raises:
    UsageError: one line, for wrong shapes, dtypes or labels, features that are
      not finite or all 0, or a class without examples.

  Examples:
    >>> import numpy as np
    >>> from maxsup_jax.diagnostics import representation
    >>> features = np.array([[1, 0], [.8, .6], [0, 1], [-.6, .8]])
    >>> result = representation.cosine_variation(features, [0, 0, 1, 1])
    >>> print(round(result.within, 4), round(result.total, 4))
    0.1 0.55
    >>> print(round(result.class_separation, 4))
    0.8182

  References:
    Kornblith et al., `Why Do Better Loss Functions Lead to Less Transferable
    Features? <https://arxiv.org/abs/2010.16402>`_, NeurIPS 2021, eq. 11.
    Zhou et al., `MaxSup: Overcoming Representation Collapse in Label Smoothing
    <https://arxiv.org/abs/2502.15798>`_, NeurIPS 2025, table 2.
  """
  features = _checks.matrix(features, 'features')
  if num_classes is None:
    num_classes = int(_checks.labels_alone(labels).max()) + 1
  K = _checks.at_least(num_classes, 'num_classes', 1)
  labels = _checks.class_ids(labels, K)
  _checks.same_length(features=features, labels=labels)
  total = np.zeros((K, features.shape[1]))
  for start in range(0, len(labels), _BLOCK):
    ids = labels[start : start + _BLOCK]
    x = features[start : start + _BLOCK].astype(np.float64)
    largest = np.abs(x).max(1, keepdims=True)
    if not largest.all():
      i = start + int(largest.argmin())
      raise UsageError(f'features[{i}] is all 0: it has no direction')
    x /= largest
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    member = sparse.csr_array(
      (np.ones(len(ids)), (ids, np.arange(len(ids)))), (K, len(ids))
    )
    total += member @ x
  return _variation(np.bincount(labels, minlength=K), total, np.float64)


def _variation(count_K, total_KD, dtype) -> Variation:
  """The closed forms."""
  mean_KD = total_KD / np.maximum(count_K, 1)[:, None]
  check_means(count_K, mean_KD)
  # Rounding may leave a distance below 0.
  within_K = np.maximum(1 - np.square(mean_KD).sum(1), 0)
  total = max(1 - float(np.square(mean_KD.mean(0)).sum()), 0.0)
  within = float(within_K.mean())
  r_squared = float('nan')
  if total > 16 * np.finfo(dtype).eps:
    r_squared = 1 - within / total
  return Variation(
    within=within,
    total=total,
    r_squared=r_squared,
    within_per_class=within_K,
    counts=count_K,
  )


@jax.jit
def _add(state: CosineVariation, sums: CosineSums) -> CosineVariation:
  return CosineVariation(
    state.count + sums.count,
    state.total.add(sums.total),
    state.zeros + sums.zeros,
  )


@functools.partial(jax.jit, static_argnames='axis_name')
def _update(state, features, labels, where, axis_name) -> CosineVariation:
  sums = CosineVariation.batch_sums(features, labels, where, len(state.count))
  if axis_name is not None:
    sums = jax.lax.psum(sums, axis_name)
  return _add(state, sums)
