"""A strength for each example, from the confidence of its prediction."""

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from maxsup_jax.losses import _checks
from maxsup_jax.losses._rows import Rows


def confidence_alpha(
  logits: ArrayLike,
  low: ArrayLike = 0.0,
  high: ArrayLike = 1.0,
  *,
  axis: int = -1,
  where: ArrayLike | None = None,
) -> jax.Array:
  r"""A strength that grows with the model's confidence, per example.

  .. math::
    \alpha = \alpha_\mathrm{low} + (\alpha_\mathrm{high} - \alpha_\mathrm{low})
    \left(1 - \frac{H(q)}{\log K}\right), \qquad H(q) = -\sum_k q_k \log q_k

  An example on which the model is sure gets `high`, one on which it is
  undecided gets `low`. It may be given as `alpha` to any loss here. No
  gradient flows through it.

  The form :math:`1 - H(q) / \log K` is the one commonly attributed to Lee et
  al.; it was not checked against their paper. The one that Zhou et al. call
  adaptive alpha is adopted from Lee et al., and not given either; `low` and
  `high` are of this package.

  Args:
    logits: unnormalised scores `z`, floating point, `[B, K]`; `B` may be any
      number of batch axes, also none.
    low: the strength where the softmax is uniform: a scalar or an array that
      broadcasts to `[B]`. It may be traced.
    high: the strength where it has one class only, likewise.
    axis: the class axis of the logits.
    where: boolean, what takes part: examples, `[B]`, or logits, `[B, K]` (axes
      of size one broadcast). A masked example gets `low`. A masked class takes
      no part in the softmax, and `K` counts the others.

  Returns:
    The strength of every example, `[B]`, in float32, or in float64 for logits
    in float64. Where there is one class only it is `low`.

  Raises:
    TypeError: if an argument has the wrong dtype.
    ValueError: if the shape of an argument does not fit the logits.

  Examples:
    >>> import jax.numpy as jnp
    >>> import numpy as np
    >>> from maxsup_jax import losses
    >>> logits = jnp.array([[9.0, 0.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 0.0]])
    >>> alpha = losses.confidence_alpha(logits, 0.0, 0.2)
    >>> print(np.asarray(alpha).round(4))
    [0.1996 0.0224 0.    ]

  References:
    Lee et al., `Adaptive Label Smoothing with Self-Knowledge in Natural
    Language Generation <https://arxiv.org/abs/2210.13459>`_, EMNLP 2022.

    Zhou et al., `MaxSup: Overcoming Representation Collapse in Label Smoothing
    <https://arxiv.org/abs/2502.15798>`_, NeurIPS 2025, table 15.
  """
  rows = Rows.of(logits, axis, where)
  low = rows.number(low, _checks.Range(name='low'))
  high = rows.number(high, _checks.Range(name='high'))
  several = rows.count() > 1
  share = rows.entropy() / jnp.log(jnp.where(several, rows.count(), 2))
  # Rounding may lift the entropy of a uniform softmax above log K.
  confidence = jnp.where(several, jnp.clip(1 - share, 0, 1), 0)
  confidence = jax.lax.stop_gradient(confidence)
  if rows.examples is not None:
    confidence = jnp.where(rows.examples, confidence, 0)
  return low + (high - low) * confidence
