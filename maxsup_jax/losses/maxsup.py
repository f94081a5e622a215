"""MaxSup: the penalty on the top logit, and what label smoothing is made of."""

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from maxsup_jax import errors
from maxsup_jax.losses._rows import Rows


def max_suppression(
  logits: ArrayLike, *, axis: int = -1, where: ArrayLike | None = None
) -> jax.Array:
  r"""How far the top logit lies above the mean logit, per example.

  .. math::
    \max_k z_k - \bar z, \qquad \bar z = \frac1K \sum_k z_k

  The penalty of MaxSup without its strength. It is never negative, 0 exactly
  where all logits are equal, unchanged by a shift of the logits, and scales
  with them.

  The gradient is :math:`1 - 1/K` for the top logit and :math:`-1/K` for the
  others. Logits that tie for the top share its part evenly, as `jnp.max` does:
  where all logits are equal, as under a classifier initialised to zero, the
  gradient is 0.

  Args:
    logits, axis, where: see `cross_entropy`.

  Examples:
    >>> logits = jnp.array([[2.0, 1.0, 0.1, -1.0], [0.5, 1.5, 1.0, -0.5]])
    >>> print(max_suppression(logits))
    [1.475 0.875]

    The last class does not exist:

    >>> exists = jnp.array([[True, True, True, False]])
    >>> print(max_suppression(logits, where=exists))
    [0.9666... 0.5...]

  References: Zhou et al., 2025, eqs. 8-9.
  """
  rows = Rows.of(logits, axis, where)
  return rows.finish(rows.max() - rows.mean())


def maxsup_cross_entropy(
  logits: ArrayLike,
  labels: ArrayLike,
  alpha: ArrayLike = 0.1,
  *,
  class_weights: ArrayLike | None = None,
  axis: int = -1,
  where: ArrayLike | None = None,
) -> jax.Array:
  r"""Cross-entropy with max suppression, per example.

  .. math::
    H(y, q) + \alpha \left( \max_k z_k - \bar z \right),
    \qquad \bar z = \frac1K \sum_k z_k

  Label smoothing adds :math:`\alpha (z_y - \bar z)` to the cross-entropy. Where
  the label is the top class, the two losses and their gradients are the same;
  where it is not, this loss pulls down the wrong top logit instead of that of
  the label. Labels that are distributions enter the cross-entropy only.

  Args:
    alpha: strength of the penalty, at least 0.
    logits, labels, class_weights, axis, where: see `cross_entropy`.

  Examples:
    >>> logits = jnp.array([[2.0, 1.0, 0.1, -1.0], [0.5, 1.5, 1.0, -0.5]])
    >>> labels = jnp.array([0, 2])
    >>> print(maxsup_cross_entropy(logits, labels, 0.1))
    [0.5968... 1.3340...]

    Label smoothing agrees on the first example, which is classified correctly,
    and has 1.2841 for the second.

  References: Zhou et al., 2025, eqs. 6-9.
  """
  rows, target = Rows.labelled(logits, labels, class_weights, axis, where)
  alpha = rows.number('alpha', alpha, low=0)
  loss = rows.cross_entropy(target) + alpha * (rows.max() - rows.mean())
  return rows.finish(loss, target)


def smoothing_regularization(
  logits: ArrayLike,
  labels: ArrayLike,
  alpha: ArrayLike = 0.1,
  *,
  normalization: str = 'classes',
  axis: int = -1,
  where: ArrayLike | None = None,
) -> jax.Array:
  r"""The part of label smoothing that curbs confidence, per example.

  Label smoothing adds :math:`\alpha (z_y - \bar z)` to the cross-entropy. This
  is the sum of what the logits below that of the label contribute,

  .. math::
    \frac{\alpha}{K} \sum_{z_m < z_y} (z_y - z_m) \ge 0,

  and of `error_amplification`, what those above contribute. Logits equal to
  that of the label are in neither part, also in the gradient.

  Args:
    alpha: strength of the smoothing, at most 1.
    normalization: ``'classes'`` divides by the number `K` of classes, as above.
      ``'below'`` divides by the number of logits below that of the label, as
      the paper's ablation does; where there are none, the term is 0.
    logits, labels, axis, where: see `cross_entropy`. Class ids only.

  Examples:
    >>> logits = jnp.array([[2.0, 1.0, 0.1, -1.0], [0.5, 1.5, 1.0, -0.5]])
    >>> for normalization in ('classes', 'below'):
    ...   term = smoothing_regularization(
    ...       logits, jnp.array([0, 2]), 0.1, normalization=normalization)
    ...   print(term, normalization)
    [0.1475... 0.05...] classes
    [0.1966... 0.1...] below

  References: Zhou et al., 2025, corollary 3.4 (eq. 5), and table 1: below.
  """
  errors.one_of('normalization', normalization, ('classes', 'below'))
  return _side(logits, labels, alpha, normalization, axis, where)


def error_amplification(
  logits: ArrayLike,
  labels: ArrayLike,
  alpha: ArrayLike = 0.1,
  *,
  normalization: str = 'classes',
  axis: int = -1,
  where: ArrayLike | None = None,
) -> jax.Array:
  r"""The part of label smoothing that confirms errors, per example.

  .. math::
    \frac{\alpha}{K} \sum_{z_n > z_y} (z_y - z_n) \le 0,

  the other part beside `smoothing_regularization`. It is 0 where the label is a
  top class. Elsewhere minimising it pushes the wrong logits further above that
  of the label.

  Args:
    alpha: strength of the smoothing, at most 1.
    normalization: ``'classes'``, as above; or, as in the paper's ablation,
      ``'above'`` divides by the number of logits above that of the label, and
      ``'max'`` replaces the mean over them by the top one,
      :math:`\alpha (z_y - \max_k z_k)`, whose gradient ties share evenly.
    logits, labels, axis, where: see `cross_entropy`. Class ids only.

  Examples:
    >>> logits = jnp.array([[0.5, 1.5, 1.0, -0.5], [0.3, 0.2, 0.1, 0.0]])
    >>> for normalization in ('classes', 'above', 'max'):
    ...   term = error_amplification(
    ...       logits, jnp.array([2, 3]), 0.1, normalization=normalization)
    ...   print(term, normalization)
    [-0.0125 -0.015...] classes
    [-0.05 -0.02] above
    [-0.05 -0.03] max

  References: Zhou et al., 2025, corollary 3.4 (eq. 5) and, for ``'above'`` and
    ``'max'``, table 1.
  """
  errors.one_of('normalization', normalization, ('classes', 'above', 'max'))
  return _side(logits, labels, alpha, normalization, axis, where, above=True)


def _side(
  logits: ArrayLike,
  labels: ArrayLike,
  alpha: ArrayLike,
  normalization: str,
  axis: int,
  where: ArrayLike | None,
  above: bool = False,
) -> jax.Array:
  """The mean gap to the logits on one side of that of the label."""
  why = 'the term compares every logit with the one of the true class'
  rows, target = Rows.labelled(logits, labels, None, axis, where, one_class=why)
  alpha = rows.number('alpha', alpha, high=1)
  if normalization == 'max':
    gap = target.logit - rows.max()
    # Where the label is a top class, the gradient is 0, also among ties.
    return rows.finish(alpha * jnp.where(gap < 0, gap, 0), target)
  gaps_BK = rows.expand(target.logit) - rows.z
  side_BK = gaps_BK < 0 if above else gaps_BK > 0
  total = rows.sum(jnp.where(side_BK, gaps_BK, 0))
  if normalization == 'classes':
    count = rows.count()
  else:
    # The sum is 0 where nothing is counted.
    count = jnp.maximum(rows.sum(side_BK), 1)
  return rows.finish(alpha * total / count, target)
