"""Ranks of classes, and the votes of image regions to rank classes by."""

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from maxsup_jax.losses._rows import Rows


def min_ranks(
  scores: ArrayLike, *, axis: int = -1, where: ArrayLike | None = None
) -> jax.Array:
  r"""Ranks of the classes, the largest score first, per example.

  .. math::
    r_k = 1 + \#\{j : s_j > s_k\}

  Equal scores share the smallest of their ranks ("min", or competition
  ranking): scores 5, 3, 3, 1 have ranks 1, 2, 2, 4. Two sorts, `O(K log K)`,
  on the device.

  Args:
    scores: floating point, `[B, K]`; `B` may be any number of batch axes, also
      none.
    axis: the class axis of the scores.
    where: boolean, what takes part: examples, `[B]`, or scores, `[B, K]` (axes
      of size one broadcast). Masked classes come after all others and get
      meaningless ranks.

  Returns:
    The ranks, int32, `[B, K]`, from 1 on.

  Raises:
    TypeError: if an argument has the wrong dtype.
    ValueError: if the shape of an argument does not fit the scores.

  Examples:
    >>> import jax.numpy as jnp
    >>> from maxsup_jax import losses
    >>> print(losses.min_ranks(jnp.array([3.0, 1.0, 5.0, 3.0])))
    [2 4 1 2]
  """
  rows = Rows.of(jax.lax.stop_gradient(scores), axis, where)
  scores_BK = jnp.moveaxis(rows.logits, rows.axis, -1)
  last = scores_BK.ndim - 1
  places_BK = jax.lax.broadcasted_iota(jnp.int32, scores_BK.shape, last)
  sorted_BK, order_BK = jax.lax.sort(
    (-scores_BK, places_BK), dimension=last, num_keys=1, is_stable=False
  )
  # A rank is the place at which its group of equal scores begins.
  same_BK = sorted_BK[..., 1:] == sorted_BK[..., :-1]
  first_BK = jnp.pad(~same_BK, [(0, 0)] * last + [(1, 0)], constant_values=True)
  begins_BK = jax.lax.cummax(jnp.where(first_BK, places_BK, 0), axis=last)
  # Sorting by the original places undoes the order, without scattering.
  _, ranks_BK = jax.lax.sort(
    (order_BK, begins_BK + 1), dimension=last, num_keys=1, is_stable=False
  )
  return jnp.moveaxis(ranks_BK, -1, rows.axis)


def dense_votes(
  feature_map: ArrayLike,
  kernel: ArrayLike,
  bias: ArrayLike | None = None,
  *,
  upsample: int = 2,
) -> jax.Array:
  """How many locations of a feature map are classified as each class.

  Every location of the map, enlarged bilinearly (pixel centres at half
  integers), is passed through the linear classifier and votes for its top
  class, the first of several. The votes rank the classes for
  `zipf_cross_entropy`; classes without a vote tie for the last rank. Nothing
  gets a gradient.

  The logits of all locations, `[B, u h * u w, K]` in float32, are a temporary
  array.

  Args:
    feature_map: the last one before pooling, floating point, `[B, h, w, C]`.
    kernel: of the classifier, `[C, K]`.
    bias: of the classifier, `[K]`; None for 0.
    upsample: `u`, the factor by which the map is enlarged; 1 leaves it.

  Returns:
    The number of votes of every class, float32, `[B, K]`.

  Raises:
    ValueError: if the shapes do not fit together.

  Examples:
    >>> import jax.numpy as jnp
    >>> from maxsup_jax import losses
    >>> feature_map = jnp.array([[[[1.0, 0.0], [0.0, 1.0]]]])
    >>> print(losses.dense_votes(feature_map, jnp.eye(2), upsample=1))
    [[1. 1.]]

  References:
    Liang et al., `Efficient One Pass Self-distillation with Zipf's Label
    Smoothing <https://arxiv.org/abs/2207.12980>`_, ECCV 2022.
  """
  feature_map, kernel = jnp.asarray(feature_map), jnp.asarray(kernel)
  fits = (
    feature_map.ndim == 4
    and kernel.ndim == 2
    and kernel.shape[0] == feature_map.shape[-1]
    and (bias is None or jnp.shape(bias) == kernel.shape[1:])
  )
  if not fits:
    raise ValueError(
      'feature_map, kernel and bias must have shapes [B, h, w, C], [C, K] and '
      f'[K], got {feature_map.shape}, {kernel.shape} and '
      f'{None if bias is None else jnp.shape(bias)}'
    )
  map_BHWC = jax.lax.stop_gradient(feature_map).astype(jnp.float32)
  batch, height, width, channels = map_BHWC.shape
  if upsample != 1:
    shape = (batch, upsample * height, upsample * width, channels)
    map_BHWC = jax.image.resize(map_BHWC, shape, 'bilinear')
  logits_BHWK = jnp.einsum(
    'bhwc,ck->bhwk',
    map_BHWC,
    jax.lax.stop_gradient(kernel).astype(jnp.float32),
    precision=jax.lax.Precision.HIGHEST,
  )
  if bias is not None:
    logits_BHWK = logits_BHWK + jax.lax.stop_gradient(jnp.asarray(bias))
  votes_BL = jnp.argmax(logits_BHWK, -1).reshape(batch, -1)
  votes_BK = jnp.zeros((batch, kernel.shape[1]), jnp.float32)
  return votes_BK.at[jnp.arange(batch)[:, None], votes_BL].add(1)
