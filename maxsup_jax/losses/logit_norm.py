"""LogitNorm: cross-entropy on logits of a fixed norm."""

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from maxsup_jax.losses._rows import Rows


def logit_norm_cross_entropy(
  logits: ArrayLike,
  labels: ArrayLike,
  temperature: ArrayLike = 0.04,
  *,
  class_weights: ArrayLike | None = None,
  axis: int = -1,
  where: ArrayLike | None = None,
) -> jax.Array:
  r"""Cross-entropy of logits that are divided by their norm, per example.

  .. math::
    H\left(y, \mathrm{softmax}\left(\frac{z}{\tau (\|z\|_2 + 10^{-7})}\right)
    \right)

  The loss depends on the direction of the logits only: training cannot lower
  it by making them larger. It changes when all logits are shifted. Where all
  logits are 0 the gradient of the norm is taken to be 0; that of the loss is
  then of the size :math:`10^7 / \tau`: do not start from a classifier that is
  initialised to zero.

  Args:
    temperature: :math:`\tau`, above 0. The code published with the paper trains
      on CIFAR-10 with 0.01, and has 1 where none is given; others use 0.04.
    logits, labels, class_weights, axis, where: see `cross_entropy`.

  Examples:
    >>> logits = jnp.array([[2.0, 1.0, 0.1, -1.0], [0.5, 1.5, 1.0, -0.5]])
    >>> labels = jnp.array([0, 2])
    >>> for scale in (1, 100):
    ...   loss = logit_norm_cross_entropy(scale * logits, labels, 0.5)
    ...   print(loss)
    [0.5544... 1.2484...]
    [0.5544... 1.2484...]

  References: H. Wei et al., 2022.
  """
  rows = Rows.of(logits, axis, where)
  temperature = rows.number('temperature', temperature, above=0)
  square_B = rows.sum(jnp.square(rows.unshifted()))
  # Twice guarded, so that the square root of 0 has gradient 0 and not NaN.
  positive_B = square_B > 0
  norm_B = jnp.where(
    positive_B, jnp.sqrt(jnp.where(positive_B, square_B, 1)), 0
  )
  scale_B = temperature * (norm_B + 1e-7)
  # The target is linear in the logits, and read before they are scaled.
  target = rows.target(labels, class_weights)
  log_normalizer = rows.tempered(scale_B).log_normalizer()
  loss = log_normalizer * target.mass - target.logit / scale_B
  return rows.finish(loss, target)
