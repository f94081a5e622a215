"""How far examples of one class, and all examples, point apart."""

import dataclasses
import functools
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from scipy import sparse

from maxsup_jax.diagnostics import checks
from maxsup_jax.diagnostics._class_sums import (
  Pair,
  added,
  check_batch,
  check_means,
  class_sums,
  known_ids,
)
from maxsup_jax.errors import UsageError, integer

# Rows that are made float64 at a time.
_BLOCK = 2048


@dataclasses.dataclass(frozen=True, eq=False)
class Variation:
  r"""Cosine distances within the classes and among all.

  Examples whose features are all 0 have no direction and do not count. A class
  of nothing else has NaN, and the means are those of the other classes.

  Attributes:
    within: :math:`\bar d_\mathrm{within}`, the mean cosine distance of two
      examples of one class; larger is more variation within the classes.
    total: :math:`\bar d_\mathrm{total}`, of two examples of any classes.
    r_squared: :math:`R^2 = 1 - \bar d_\mathrm{within} / \bar
      d_\mathrm{total}`, the class separation of Kornblith et al.; NaN where
      all examples point the same way, to rounding.
    within_per_class: that of every class, `[K]`; their mean is `within`.
    counts: examples of every class that have a direction, `[K]`.
    zeros: examples that have none, as their features are all 0.
  """

  within: float
  total: float
  r_squared: float
  within_per_class: np.ndarray
  counts: np.ndarray
  zeros: int = 0


class CosineVariation(NamedTuple):
  """Adds up the directions of the features of every class, batch by batch.

  A tree of arrays like `neural_collapse.ClassMeans`, with its methods. The
  distances are good to about 1e-7.

  Attributes:
    count: examples of every class with a direction, int32 `[K]`.
    total: sums of their features of norm 1, a pair of float32 `[K, D]`.
    zeros: examples whose features are all 0, int32.
  """

  count: jax.Array  # type: ignore[assignment]  # not the method of tuple
  total: Pair
  zeros: jax.Array

  @classmethod
  def init(cls, num_classes: int, num_features: int) -> 'CosineVariation':
    """The state before the first batch."""
    K = integer('num_classes', num_classes, low=2)
    D = integer('num_features', num_features, low=1)
    return cls(
      jnp.zeros(K, jnp.int32), Pair.zeros((K, D)), jnp.zeros((), jnp.int32)
    )

  @staticmethod
  @functools.partial(jax.jit, static_argnames='num_classes')
  def batch_sums(
    features: ArrayLike,
    labels: ArrayLike,
    where: ArrayLike | None,
    num_classes: int,
  ) -> tuple[jax.Array, jax.Array, jax.Array]:
    """What a batch adds to the fields; see `ClassMeans.batch_sums`."""
    features_BD = jnp.asarray(features).astype(jnp.float32)
    ids_B = known_ids(labels, where, num_classes)
    # Scaled by the largest number, no square overflows or vanishes.
    largest_B1 = jnp.abs(features_BD).max(1, keepdims=True)
    zero_B1 = largest_B1 == 0
    scaled_BD = features_BD / jnp.where(zero_B1, 1, largest_B1)
    norm_B1 = jnp.sqrt(jnp.square(scaled_BD).sum(1, keepdims=True))
    unit_BD = scaled_BD / jnp.where(zero_B1, 1, norm_B1)
    directed_B1 = jnp.where(zero_B1, 0.0, 1.0)
    return (
      class_sums(directed_B1, ids_B, num_classes)[:, 0].astype(jnp.int32),
      class_sums(unit_BD, ids_B, num_classes),
      (zero_B1[:, 0] & (ids_B < num_classes)).sum(dtype=jnp.int32),
    )

  def add(self, sums: Sequence[jax.Array]) -> 'CosineVariation':
    """Adds what `batch_sums` returned, of one device or summed over all."""
    return added(self, sums)

  def update(
    self, features: ArrayLike, labels: ArrayLike, where: ArrayLike | None = None
  ) -> 'CosineVariation':
    """Adds a batch; see `ClassMeans.update`."""
    K, D = self.total.total.shape
    features, labels, where = check_batch(features, labels, where, K, D)
    return self.add(self.batch_sums(features, labels, where, K))

  def merge(self, other: 'CosineVariation') -> 'CosineVariation':
    """The state after the batches of both."""
    return added(self, other)

  def compute(self) -> Variation:
    """The distances, in float64 on the host."""
    count_K, zeros = np.asarray(self.count, np.int64), int(self.zeros)
    return _variation(count_K, self.total.compute(), np.float32, zeros)


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
  \|\mu_k\|^2` and :math:`1 - \|\frac{1}{K} \sum_k \mu_k\|^2`. By default K is
  one more than the largest label.

  References: Kornblith et al., 2021, eq. 11. Zhou et al., 2025, table 2.
  """
  features = checks.matrix(features, 'features')
  if num_classes is None:
    num_classes = int(checks.labels_alone(labels).max()) + 1
  K = integer('num_classes', num_classes, low=1)
  labels = checks.class_ids(labels, K)
  checks.same_length(features=features, labels=labels)
  check_means(np.bincount(labels, minlength=K), np.zeros((K, 1)))
  directed = np.empty(len(labels), bool)
  total = np.zeros((K, features.shape[1]))
  for start in range(0, len(labels), _BLOCK):
    ids = labels[start : start + _BLOCK]
    x = features[start : start + _BLOCK].astype(np.float64)
    largest = np.abs(x).max(1, keepdims=True)
    some = directed[start : start + _BLOCK] = largest[:, 0] > 0
    x[some] /= largest[some]
    x[some] /= np.linalg.norm(x[some], axis=1, keepdims=True)
    member = sparse.csr_array(
      (np.ones(len(ids)), (ids, np.arange(len(ids)))), (K, len(ids))
    )
    total += member @ x
  count_K = np.bincount(labels[directed], minlength=K)
  return _variation(count_K, total, np.float64, int((~directed).sum()))


def _variation(
  count_K: np.ndarray, total_KD: np.ndarray, dtype: type, zeros: int
) -> Variation:
  """The closed forms."""
  if zeros and not count_K.any():
    raise UsageError('the features are all 0, so none has a direction')
  mean_KD = total_KD / np.maximum(count_K, 1)[:, None]
  there_K = check_means(count_K, mean_KD, allow_empty=zeros > 0)
  # Rounding may leave a distance below 0.
  within_K = np.maximum(1 - np.square(mean_KD).sum(1), 0)
  within_K[~there_K] = np.nan
  total = max(1 - float(np.square(mean_KD[there_K].mean(0)).sum()), 0.0)
  within = float(within_K[there_K].mean())
  r_squared = float('nan')
  if total > 16 * np.finfo(dtype).eps:
    r_squared = 1 - within / total
  return Variation(within, total, r_squared, within_K, count_K, zeros)
