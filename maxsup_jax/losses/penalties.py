r"""Penalties on the size, the entropy and the gaps of the logits.

Each stands alone, `P(z)`, and in a loss that adds it to the cross-entropy:

.. math::
  H(y, q) + \alpha P(z)

with the options of the penalty, and a strength :math:`\alpha` of at least 0.
"""

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from maxsup_jax import errors
from maxsup_jax.losses._rows import Rows


def logit_penalty(
  logits: ArrayLike,
  *,
  form: str = 'half',
  axis: int = -1,
  where: ArrayLike | None = None,
) -> jax.Array:
  r"""The squared norm of the logits, per example.

  .. math::
    \frac12 \sum_k z_k^2 \quad (\text{half}), \qquad
    \sum_k z_k^2 \quad (\text{full})

  It pulls all logits towards 0, with gradient `z`, or `2 z`; unlike most
  penalties here it changes when all logits are shifted.

  Args:
    form: ``'half'`` or ``'full'``, as above.
    logits, axis, where: see `cross_entropy`.

  Examples:
    >>> logits = jnp.array([[2.0, 1.0, 0.0, -1.0], [0.5, 1.5, 1.0, -0.5]])
    >>> print(logit_penalty(logits))
    [3.    1.875]

  References: Kornblith et al., 2021.
  """
  rows = Rows.of(logits, axis, where)
  return rows.finish(_squares(rows, form))


def logit_penalty_cross_entropy(
  logits: ArrayLike,
  labels: ArrayLike,
  alpha: ArrayLike = 2e-3,
  *,
  form: str = 'half',
  class_weights: ArrayLike | None = None,
  axis: int = -1,
  where: ArrayLike | None = None,
) -> jax.Array:
  """Cross-entropy plus `logit_penalty`, per example.

  Args:
    alpha: strength of the penalty, at least 0. The default is that of the code
      published with MaxSup; other experiments of its authors have 6e-4.
    form: see `logit_penalty`.
    logits, labels, class_weights, axis, where: see `cross_entropy`.

  Examples:
    >>> logits = jnp.array([[2.0, 1.0, 0.1, -1.0], [0.5, 1.5, 1.0, -0.5]])
    >>> print(logit_penalty_cross_entropy(logits, jnp.array([0, 2])))
    [0.4553... 1.2503...]

  References: Kornblith et al., 2021; Zhou et al., 2025, section 4.1.2.
  """
  rows, target = Rows.labelled(logits, labels, class_weights, axis, where)
  alpha = rows.number('alpha', alpha, low=0)
  loss = rows.cross_entropy(target) + alpha * _squares(rows, form)
  return rows.finish(loss, target)


def _squares(rows: Rows, form: str) -> jax.Array:
  errors.one_of('form', form, ('half', 'full'))
  squares = rows.sum(jnp.square(rows.unshifted()))
  return squares / 2 if form == 'half' else squares


def confidence_penalty(
  logits: ArrayLike,
  *,
  form: str = 'entropy',
  axis: int = -1,
  where: ArrayLike | None = None,
) -> jax.Array:
  r"""How far the softmax is from uniform, by its entropy, per example.

  With :math:`q = \mathrm{softmax}(z)` and :math:`H(q) = -\sum_k q_k \log q_k`
  in nats, three forms are in use:

  * ``'entropy'``: :math:`-H(q)`, as in the paper. It is negative.
  * ``'kl'``: :math:`\log K - H(q) = \mathrm{KL}(q \| 1/K)`, as in
    torch-uncertainty. It is 0 for the uniform distribution; the gradient is
    that of the first.
  * ``'mean'``: :math:`-H(q) / K`, as in the code published with margin-based
    label smoothing: its strength is `K` times that of the first form.

  Args:
    form: ``'entropy'``, ``'kl'`` or ``'mean'``.
    logits, axis, where: see `cross_entropy`. Logits of -inf have probability 0
      and add nothing.

  Examples:
    >>> logits = jnp.array([[2.0, 1.0, 0.1, -1.0], [0.0, 0.0, 0.0, 0.0]])
    >>> for form in ('entropy', 'kl', 'mean'):
    ...   penalty = confidence_penalty(logits, form=form)
    ...   print(penalty, form)
    [-0.9606... -1.3862...] entropy
    [0.4256... 0...] kl
    [-0.2401... -0.3465...] mean

  References: Pereyra et al., 2017.
  """
  rows = Rows.of(logits, axis, where)
  return rows.finish(_entropy(rows, form))


def confidence_penalty_cross_entropy(
  logits: ArrayLike,
  labels: ArrayLike,
  alpha: ArrayLike = 0.1,
  *,
  form: str = 'entropy',
  class_weights: ArrayLike | None = None,
  axis: int = -1,
  where: ArrayLike | None = None,
) -> jax.Array:
  """Cross-entropy plus `confidence_penalty`, per example.

  Args:
    alpha: strength of the penalty, at least 0.
    form: see `confidence_penalty`.
    logits, labels, class_weights, axis, where: see `cross_entropy`.

  Examples:
    >>> logits = jnp.array([[2.0, 1.0, 0.1, -1.0], [0.5, 1.5, 1.0, -0.5]])
    >>> labels = jnp.array([0, 2])
    >>> print(confidence_penalty_cross_entropy(logits, labels, 0.1))
    [0.3532... 1.1272...]

  References: Pereyra et al., 2017.
  """
  rows, target = Rows.labelled(logits, labels, class_weights, axis, where)
  alpha = rows.number('alpha', alpha, low=0)
  loss = rows.cross_entropy(target) + alpha * _entropy(rows, form)
  return rows.finish(loss, target)


def _entropy(rows: Rows, form: str) -> jax.Array:
  errors.one_of('form', form, ('entropy', 'kl', 'mean'))
  penalty = -rows.entropy()
  if form == 'kl':
    return penalty + jnp.log(rows.count())
  return penalty / rows.count() if form == 'mean' else penalty


def margin_penalty(
  logits: ArrayLike,
  margin: ArrayLike = 10.0,
  *,
  axis: int = -1,
  where: ArrayLike | None = None,
) -> jax.Array:
  r"""How far logits lie more than a margin below the top one, per example.

  .. math::
    \frac1K \sum_k \max(0, \max_j z_j - z_k - m)

  The mean is over all classes, the top one included. The gradient also flows
  through the top logit; ties share it evenly, as `jnp.max` does. With a margin
  of 0 it is `max_suppression`.

  Args:
    margin: `m`, at least 0.
    logits, axis, where: see `cross_entropy`.

  Examples:
    >>> logits = jnp.array([[14.0, 1.0, 2.0, 5.0], [0.5, 1.5, 1.0, -0.5]])
    >>> print(margin_penalty(logits, 10.0))
    [1.25 0...]

  References: Liu et al., 2022.
  """
  rows = Rows.of(logits, axis, where)
  return rows.finish(_gaps(rows, margin))


def mbls_cross_entropy(
  logits: ArrayLike,
  labels: ArrayLike,
  alpha: ArrayLike = 0.1,
  *,
  margin: ArrayLike = 10.0,
  class_weights: ArrayLike | None = None,
  axis: int = -1,
  where: ArrayLike | None = None,
) -> jax.Array:
  """Margin-based label smoothing: cross-entropy plus `margin_penalty`.

  Args:
    alpha: strength of the penalty, at least 0.
    margin: `m`, at least 0. The default is that of the published code.
    logits, labels, class_weights, axis, where: see `cross_entropy`.

  Examples:
    >>> logits = jnp.array([[14.0, 1.0, 2.0, 5.0], [0.5, 1.5, 1.0, -0.5]])
    >>> print(mbls_cross_entropy(logits, jnp.array([0, 2]), 0.1))
    [0.1251... 1.2465...]

  References: Liu et al., 2022.
  """
  rows, target = Rows.labelled(logits, labels, class_weights, axis, where)
  penalty = _gaps(rows, margin)
  alpha = rows.number('alpha', alpha, low=0)
  return rows.finish(rows.cross_entropy(target) + alpha * penalty, target)


def _gaps(rows: Rows, margin: ArrayLike) -> jax.Array:
  margin = rows.number('margin', margin, low=0)
  excess_BK = rows.expand(rows.max() - margin) - rows.z
  return rows.sum(jnp.where(excess_BK > 0, excess_BK, 0)) / rows.count()


def acls_penalty(
  logits: ArrayLike,
  margin: ArrayLike = 10.0,
  *,
  top_weight: ArrayLike = 1.0,
  rest_weight: ArrayLike = 0.1,
  axis: int = -1,
  where: ArrayLike | None = None,
) -> jax.Array:
  r"""The penalty of ACLS, per example.

  .. math::
    \lambda_1 \max(0, z_{\max} - m)^2 + \frac{\lambda_2}{K - 1}
    \sum_{k:\, z_k < z_{\max}} \max(0, \bar{z}_{\max} - z_k - m)^2,
    \qquad z_{\max} = \max_k z_k

  The bar stops the gradient: the second term lifts logits that are too far
  below the top, and does not lower the top, which the first term does. That one
  looks at the top logit itself, so the penalty changes when all logits are
  shifted. Logits that tie for the top count once, and share its gradient
  evenly, as `jnp.max` does; none of them is in the sum.

  Args:
    margin: `m`, at least 0.
    top_weight: :math:`\lambda_1`, at least 0.
    rest_weight: :math:`\lambda_2`, at least 0.
    logits, axis, where: see `cross_entropy`.

  Examples:
    >>> logits = jnp.array([[14.0, 1.0, 2.0, 5.0], [0.5, 1.5, 1.0, -0.5]])
    >>> print(acls_penalty(logits, 10.0))
    [16.4333... 0...]

  References: Park et al., 2023.
  """
  rows = Rows.of(logits, axis, where)
  return rows.finish(_adaptive(rows, margin, top_weight, rest_weight))


def acls_cross_entropy(
  logits: ArrayLike,
  labels: ArrayLike,
  alpha: ArrayLike = 0.1,
  *,
  margin: ArrayLike = 10.0,
  top_weight: ArrayLike = 1.0,
  rest_weight: ArrayLike = 0.1,
  class_weights: ArrayLike | None = None,
  axis: int = -1,
  where: ArrayLike | None = None,
) -> jax.Array:
  """Adaptive and conditional label smoothing: adds `acls_penalty`.

  Args:
    alpha: strength of the penalty, at least 0.
    margin, top_weight, rest_weight: see `acls_penalty`.
    logits, labels, class_weights, axis, where: see `cross_entropy`.

  Examples:
    >>> logits = jnp.array([[14.0, 1.0, 2.0, 5.0], [0.5, 1.5, 1.0, -0.5]])
    >>> print(acls_cross_entropy(logits, jnp.array([0, 2]), 0.1))
    [1.6434... 1.2465...]

  References: Park et al., 2023.
  """
  rows, target = Rows.labelled(logits, labels, class_weights, axis, where)
  penalty = _adaptive(rows, margin, top_weight, rest_weight)
  alpha = rows.number('alpha', alpha, low=0)
  return rows.finish(rows.cross_entropy(target) + alpha * penalty, target)


def _adaptive(
  rows: Rows, margin: ArrayLike, top_weight: ArrayLike, rest_weight: ArrayLike
) -> jax.Array:
  margin = rows.number('margin', margin, low=0)
  top_weight = rows.number('top_weight', top_weight, low=0)
  rest_weight = rows.number('rest_weight', rest_weight, low=0)
  top = rows.max() + jnp.squeeze(rows.shift, rows.axis)
  # The top of the shifted row is the constant 0. Ties with it are no excess.
  excess_BK = -rows.z - rows.expand(margin)
  rest = rows.sum(jnp.square(jnp.where(excess_BK > 0, excess_BK, 0)))
  others = jnp.maximum(rows.count() - 1, 1)
  above = jnp.where(top > margin, top - margin, 0)
  return top_weight * jnp.square(above) + rest_weight * rest / others
