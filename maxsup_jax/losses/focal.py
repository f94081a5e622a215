"""The focal loss for softmax classifiers."""

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from maxsup_jax.losses._rows import Rows


def focal_cross_entropy(
  logits: ArrayLike,
  labels: ArrayLike,
  gamma: ArrayLike = 2.0,
  *,
  class_weights: ArrayLike | None = None,
  axis: int = -1,
  where: ArrayLike | None = None,
) -> jax.Array:
  r"""Focal loss of the softmax, per example.

  .. math::
    -(1 - q_y)^\gamma \log q_y, \qquad q = \mathrm{softmax}(z)

  With :math:`\gamma = 0` it is the cross-entropy. The factor is differentiated
  with the rest. Value and gradient keep their relative precision as
  :math:`q_y \to 1`, as they are computed from the sum over the other classes.

  Args:
    gamma: the exponent, at least 0. Detectors use 2, calibration 3 ("FL-3").
    logits, labels, axis, where: see `cross_entropy`. Class ids only.
    class_weights: see `cross_entropy`: the :math:`\alpha` of detectors.

  Examples:
    >>> logits = jnp.array([[2.0, 1.0, 0.1, -1.0], [0.5, 1.5, 1.0, -0.5]])
    >>> print(focal_cross_entropy(logits, jnp.array([0, 2]), 2.0))
    [0.0588... 0.6328...]

    A gap of 20 rounds the probability of the label to 1, not the loss to 0,
    which is nearly exp(-60):

    >>> print(f'{focal_cross_entropy(jnp.array([20.0, 0.0]), 0):.3e}')
    8.757e-27

  References: Lin et al., 2017; Mukhoti et al., 2020.
  """
  why = 'the focal loss is defined for one true class'
  rows, target = Rows.labelled(logits, labels, None, axis, where, one_class=why)
  gamma = rows.number('gamma', gamma, low=0)
  weights_BK = jnp.exp(rows.z)
  below = rows.sum(jnp.where(rows.z < 0, weights_BK, 0))
  on_top = rows.sum(jnp.where(rows.z < 0, 0, weights_BK))
  total = below + on_top
  # Where the label alone is on top, the difference of the sums has no digits
  # left, but the other classes are known as those below the top.
  alone_on_top = (target.logit == 0) & (on_top == 1)
  others = jnp.where(alone_on_top, below, total - jnp.exp(target.logit))
  log_normalizer = jnp.log(total)
  # The logit on top is 0, but has a gradient.
  top_logit = jnp.where(alone_on_top, target.logit, 0)
  surprise = jnp.where(
    alone_on_top,
    jnp.log1p(others * jnp.exp(-top_logit)),
    log_normalizer - target.logit,
  )
  # Where no other class is left in the floating-point numbers, 0^gamma is a
  # constant: its slope is infinite for gamma < 1.
  left = others > 0
  others = jnp.where(left, others, 1)
  # Scaled to 1, or the second derivative, -1 / others^2, would overflow.
  scale = jax.lax.stop_gradient(1 / others)
  log_doubt = jnp.log(others * scale) - jnp.log(scale) - log_normalizer
  nothing = jnp.where(gamma > 0, 0, 1)
  doubt = jnp.where(left, jnp.exp(gamma * log_doubt), nothing)
  weight = rows.target(labels, class_weights).mass
  return rows.finish(weight * doubt * surprise, target)
