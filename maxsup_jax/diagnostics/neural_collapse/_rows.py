"""The distances of examples to the class means."""

import functools
from types import ModuleType
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from maxsup_jax.diagnostics.neural_collapse._between_class import BetweenClass

# Rows that a CPU measures at a time: their deviations stay in the cache.
_CPU_BLOCK = 1024


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


def measure_blocks(
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
