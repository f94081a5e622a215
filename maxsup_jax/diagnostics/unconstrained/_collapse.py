"""NC1, NC2 and NC3 of balanced examples, to be traced."""

import jax
import jax.numpy as jnp


def collapse(weights: jax.Array, features: jax.Array) -> dict[str, jax.Array]:
  r"""The three metrics of neural collapse as the paper defines them.

  .. math::
    \mathrm{NC1} &= \tfrac{1}{K} \mathrm{tr}(\Sigma_W \Sigma_B^+) \\
    \mathrm{NC2} &= \left\| \frac{W \bar{H}^\top}{\|W \bar{H}^\top\|_F}
      - \frac{I - 11^\top / K}{\sqrt{K - 1}} \right\|_F \\
    \mathrm{NC3} &= \left\| \frac{W}{\|W\|_F}
      - \frac{\bar{H}}{\|\bar{H}\|_F} \right\|_F

  where the rows of :math:`\bar{H}` are the class means minus their mean.

  Args:
    weights: W, `[K, D]`.
    features: H, `[N, D]`, the n examples of a class one after the other.

  Returns:
    The scalars nc1, nc2 and nc3, NaN where the class means are all equal.
    Where they span less than K - 1 dimensions, as far as rounding tells, the
    pseudo-inverse is that of the rank they have.
  """
  K, D = weights.shape
  by_class = features.reshape(K, -1, D)
  means = by_class.mean(1)
  centred = means - means.mean(0)
  # NC1 is the mean square norm of the deviations times the pseudo-inverse of
  # the class means: no [D, D] matrix. Its rank is K - 1 or less: singular
  # values within the rounding of the class means are none.
  _, values, basis = jnp.linalg.svd(centred, full_matrices=False)
  values, basis = values[: K - 1], basis[: K - 1]
  floor = jnp.finfo(values.dtype).eps * jnp.maximum(
    max(K, D) * values[0], jnp.linalg.norm(means)
  )
  inverse = jnp.where(values > floor, 1 / values, 0)
  # Equal class means have no directions: what divides by them is NaN.
  centred = jnp.where(values[0] > floor, centred, jnp.nan)
  inverse = jnp.where(values[0] > floor, inverse, jnp.nan)
  deviations = (by_class - means[:, None]) @ (basis * inverse[:, None]).T
  simplex = (jnp.eye(K) - 1 / K) / jnp.sqrt(K - 1)
  return {
    'nc1': jnp.square(deviations).sum(-1).mean(),
    'nc2': jnp.linalg.norm(_normalized(weights @ centred.T) - simplex),
    'nc3': jnp.linalg.norm(_normalized(weights) - _normalized(centred)),
  }


def _normalized(matrix):
  return matrix / jnp.linalg.norm(matrix)
