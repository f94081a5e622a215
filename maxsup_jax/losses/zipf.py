"""Zipf's label smoothing: the other classes by rank of logits or votes."""

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from maxsup_jax.losses._rows import Rows, Target

_ONE_CLASS = "Zipf's label smoothing ranks the classes besides one true class"


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
    scores: floating point, `[B, K]`. They get no gradient.
    axis, where: see `cross_entropy`. Masked classes come after all others and
      get meaningless ranks.

  Returns:
    The ranks, int32, `[B, K]`, from 1 on.

  Examples:
    >>> print(min_ranks(jnp.array([3.0, 1.0, 5.0, 3.0])))
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

  Args:
    feature_map: the last one before pooling, floating point, `[B, h, w, C]`.
    kernel: of the classifier, `[C, K]`.
    bias: of the classifier, `[K]`; None for 0.
    upsample: `u`, the factor by which the map is enlarged; 1 leaves it.

  Returns:
    The number of votes of every class, float32, `[B, K]`.

  Examples:
    >>> feature_map = jnp.array([[[[1.0, 0.0], [0.0, 1.0]]]])
    >>> print(dense_votes(feature_map, jnp.eye(2), upsample=1))
    [[1. 1.]]

  References: Liang et al., 2022.
  """
  feature_map, kernel = jnp.asarray(feature_map), jnp.asarray(kernel)
  fits = (
    feature_map.ndim == 4
    and kernel.ndim == 2
    and kernel.shape[0] == feature_map.shape[-1]
    and (bias is None or jnp.shape(bias) == kernel.shape[1:])
  )
  if not fits:
    arguments = (feature_map, kernel, bias)
    shapes = [None if x is None else jnp.shape(x) for x in arguments]
    raise ValueError(
      f'feature_map, kernel and bias have shapes {shapes}; expected '
      '[B, h, w, C], [C, K] and [K]'
    )
  map_BHWC = jax.lax.stop_gradient(feature_map).astype(jnp.float32)
  batch, height, width, channels = map_BHWC.shape
  if upsample != 1:
    shape = (batch, upsample * height, upsample * width, channels)
    map_BHWC = jax.image.resize(map_BHWC, shape, 'bilinear')
  kernel_CK = jax.lax.stop_gradient(kernel).astype(jnp.float32)
  exact = jax.lax.Precision.HIGHEST
  logits_BHWK = jnp.einsum(
    'bhwc,ck->bhwk', map_BHWC, kernel_CK, precision=exact
  )
  if bias is not None:
    logits_BHWK = logits_BHWK + jax.lax.stop_gradient(jnp.asarray(bias))
  votes_BL = jnp.argmax(logits_BHWK, -1).reshape(batch, -1)
  votes_BK = jnp.zeros((batch, kernel.shape[1]), jnp.float32)
  return votes_BK.at[jnp.arange(batch)[:, None], votes_BL].add(1)


def zipf_distribution(
  scores: ArrayLike,
  power: ArrayLike = 1.0,
  *,
  axis: int = -1,
  where: ArrayLike | None = None,
) -> jax.Array:
  r"""Zipf's law over the ranks of the scores, per example.

  .. math::
    t_k = \frac{r_k^{-s}}{\sum_j r_j^{-s}}

  The ranks are those of `min_ranks`. Given as `prior` to
  `prior_smoothing_cross_entropy` it smooths labels by ranks ("LS-Zipf").

  Args:
    scores: what ranks the classes, floating point, `[B, K]`. They get no
      gradient.
    power: `s`, at least 0.
    axis, where: see `cross_entropy`.

  Examples:
    >>> print(zipf_distribution(jnp.array([2.0, 1.0, 0.1, 1.0])))
    [0.4444... 0.2222... 0.1111... 0.2222...]

  References: Liang et al., 2022.
  """
  rows = Rows.of(jax.lax.stop_gradient(scores), axis, where)
  weights_BK = _weights(rows, scores, power, where)
  return rows.kept(weights_BK / rows.expand(rows.sum(weights_BK)))


def zipf_penalty(
  logits: ArrayLike,
  labels: ArrayLike,
  *,
  power: ArrayLike = 1.0,
  votes: ArrayLike | None = None,
  axis: int = -1,
  where: ArrayLike | None = None,
) -> jax.Array:
  r"""Divergence of the non-target classes from Zipf's law, per example.

  .. math::
    \mathrm{KL}(t \| \tilde q) = \sum_{k \ne y} t_k \log
    \frac{t_k}{\tilde q_k}, \qquad
    t_k = \frac{r_k^{-s}}{\sum_{j \ne y} r_j^{-s}}, \quad
    \tilde q_k = \frac{e^{z_k}}{\sum_{j \ne y} e^{z_j}}

  The ranks `r` are those of `min_ranks` among all classes, the label included;
  neither they nor the logit of the label get a gradient.

  Args:
    power: `s`, at least 0.
    votes: what ranks the classes, floating point, `[B, K]`, for example
      `dense_votes`; None for the logits.
    logits, labels, axis, where: see `cross_entropy`. Class ids only. The
      penalty is 0 where there is no class but the label.

  Examples:
    >>> logits = jnp.array([[2.0, 1.0, 0.1, -1.0], [0.5, 1.5, 1.0, -0.5]])
    >>> print(zipf_penalty(logits, jnp.array([0, 2])))
    [0.1135... 0.0242...]

  References: Liang et al., 2022.
  """
  rows, target = Rows.labelled(
    logits, labels, None, axis, where, one_class=_ONE_CLASS
  )
  penalty = _penalty(rows, target, logits, power, votes, where)
  return rows.finish(penalty, target)


def zipf_cross_entropy(
  logits: ArrayLike,
  labels: ArrayLike,
  alpha: ArrayLike = 0.1,
  *,
  power: ArrayLike = 1.0,
  votes: ArrayLike | None = None,
  class_weights: ArrayLike | None = None,
  axis: int = -1,
  where: ArrayLike | None = None,
) -> jax.Array:
  r"""Zipf's label smoothing: cross-entropy plus `zipf_penalty`, per example.

  Args:
    alpha: strength of the penalty, at least 0. The paper has 0.1 for ImageNet
      and CIFAR-100, 1 for TinyImageNet and INAT-21.
    power, votes: see `zipf_penalty`.
    logits, labels, class_weights, axis, where: see `cross_entropy`. Class ids
      only.

  Examples:
    >>> logits = jnp.array([[2.0, 1.0, 0.1, -1.0], [0.5, 1.5, 1.0, -0.5]])
    >>> print(zipf_cross_entropy(logits, jnp.array([0, 2]), 0.1))
    [0.4606... 1.2489...]

  References: Liang et al., 2022.
  """
  rows, target = Rows.labelled(
    logits, labels, class_weights, axis, where, one_class=_ONE_CLASS
  )
  penalty = _penalty(rows, target, logits, power, votes, where)
  alpha = rows.number('alpha', alpha, low=0)
  return rows.finish(rows.cross_entropy(target) + alpha * penalty, target)


def _penalty(
  rows: Rows,
  target: Target,
  logits: ArrayLike,
  power: ArrayLike,
  votes: ArrayLike | None,
  where: ArrayLike | None,
) -> jax.Array:
  scores = logits
  if votes is not None:
    scores = rows.same_shape('votes', votes)
  weights_BK = _weights(rows, scores, power, where)
  # The classes besides the label, as a mask; ranks need arrays of this size.
  classes_BK = jax.lax.broadcasted_iota(jnp.int32, rows.z.shape, rows.axis)
  assert target.ids is not None  # Distributions are refused before.
  others_BK = classes_BK != rows.expand(target.ids)
  if rows.classes is not None:
    others_BK &= rows.classes
  any_others = jnp.any(others_BK, rows.axis)
  # Where there are none, the whole row stands in, and is discarded.
  kept_BK = others_BK | rows.expand(~any_others)
  others = Rows.of(rows.unshifted(), rows.axis, kept_BK)
  weights_BK = jnp.where(kept_BK, weights_BK, 0)
  law_BK = weights_BK / rows.expand(jnp.sum(weights_BK, rows.axis))
  log_law_BK = jnp.log(jnp.where(law_BK > 0, law_BK, 1))
  entropy = -jnp.sum(law_BK * log_law_BK, rows.axis)
  divergence = others.cross_entropy_with(law_BK) - entropy
  return jnp.where(any_others, divergence, 0)


def _weights(
  rows: Rows, scores: ArrayLike, power: ArrayLike, where: ArrayLike | None
) -> jax.Array:
  """The rank of every class to the power of -s."""
  power = rows.number('power', power, low=0)
  ranks_BK = min_ranks(scores, axis=rows.axis, where=where)
  return ranks_BK.astype(rows.z.dtype) ** -rows.expand(power)
