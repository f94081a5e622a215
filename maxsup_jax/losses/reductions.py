"""From losses per example to their mean, over masks and devices."""

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from maxsup_jax.losses import _checks


def weighted_mean(
  values: ArrayLike,
  *,
  weights: ArrayLike | None = None,
  normalizer: ArrayLike | None = None,
  where: ArrayLike | None = None,
  axis_name: str | tuple[str, ...] | None = None,
) -> jax.Array:
  r"""The mean of values per example, over masks and devices.

  .. math::
    \frac{\sum_i w_i v_i}{\sum_i w_i}

  Over several devices the sums are taken before the quotient, also where a
  device has no examples. Under `pmap` or `vmap` the value is that of all
  devices, but the gradient that of the share of this device: sum it over the
  axis, as in the example, with `psum` and not `pmean`. Under `shard_map` with
  `check_vma`, JAX sums the gradient of replicated parameters itself.

  Args:
    values: floating point, of any shape, `[B]`.
    weights: what multiplies the values, at least 0, `[B]`; None for 1.
    normalizer: what is summed in the denominator, `[B]`; None for the weights.
    where: boolean, the examples that take part, `[B]`.
    axis_name: the axis or axes of devices over which the examples are spread,
      if they are.

  Returns:
    A scalar, in float32 or wider; 0 where the denominator is 0.

  Examples:
    >>> values = jnp.array([1.0, 2.0, 6.0, 99.0])
    >>> real = jnp.array([True, True, True, False])
    >>> print(weighted_mean(values, where=real))
    3.0

    A mean over two devices, and its gradient:

    >>> def loss(scale, values, where):
    ...   return weighted_mean(
    ...       scale * values, where=where, axis_name='devices')
    >>> def step(scale, values, where):
    ...   value, gradient = jax.value_and_grad(loss)(scale, values, where)
    ...   return value, jax.lax.psum(gradient, 'devices')
    >>> step = jax.vmap(step, in_axes=(None, 0, 0), axis_name='devices')
    >>> value, gradient = step(
    ...     2.0, values.reshape(2, 2), real.reshape(2, 2))
    >>> print(value, gradient)
    [6. 6.] [3. 3.]
  """
  values = _checks.in_float32(_checks.floating('values', values))
  factor = jnp.ones_like(values)
  if weights is not None:
    factor = _like('weights', weights, values).astype(values.dtype)
  divisor = factor
  if normalizer is not None:
    divisor = _like('normalizer', normalizer, values).astype(values.dtype)
  # Masked before they meet: 0 times NaN is NaN, in the gradient as well.
  if where is not None:
    where = _checks.boolean('where', _like('where', where, values))
    values, factor, divisor = (
      jnp.where(where, x, 0) for x in (values, factor, divisor)
    )
  total, count = jnp.sum(factor * values), jnp.sum(divisor)
  if axis_name is not None:
    count = jax.lax.psum(count, axis_name)
  empty = count == 0
  share = jnp.where(empty, 0, total / jnp.where(empty, 1, count))
  if axis_name is None:
    return share
  names = {axis_name} if isinstance(axis_name, str) else set(axis_name)
  if names <= jax.typeof(share).manual_axis_type.varying:
    # Where JAX tracks what varies over devices, it knows how to transpose this.
    return jax.lax.psum(share, axis_name)
  mean = jax.lax.psum(jax.lax.stop_gradient(share), axis_name)
  # The value is the mean, and the derivative that of the share.
  nothing = share - jax.lax.stop_gradient(share)
  return mean + jnp.where(jnp.isfinite(share), nothing, 0)


def label_weights(
  labels: ArrayLike,
  class_weights: ArrayLike,
  *,
  axis: int = -1,
  where: ArrayLike | None = None,
) -> jax.Array:
  r"""The weight of every example, from the weights of the classes.

  .. math::
    w_y \quad (\text{class ids}), \qquad \sum_k w_k y_k \quad
    (\text{distributions})

  PyTorch divides the sum of losses with `class_weights` by the sum of these for
  class ids, and by the number of examples for distributions. A class id outside
  `[0, K)` has NaN, and an example that `where`, `[B]`, masks has 0.

  Examples:
    >>> print(label_weights(jnp.array([0, 2]), jnp.array([1.0, 1.0, 3.0])))
    [1. 3.]
  """
  labels = jnp.asarray(labels)
  weights_K = _checks.class_weights(class_weights)
  if _checks.class_ids(labels):
    known = (labels >= 0) & (labels < weights_K.size)
    weights = weights_K[jnp.where(known, labels, 0)]
    weights = jnp.where(known, weights, jnp.nan)
  else:
    labels_BK = jnp.moveaxis(labels, axis, -1)
    if labels_BK.shape[-1] != weights_K.size:
      raise ValueError(
        f'labels have shape {labels.shape}; expected {weights_K.size} classes '
        f'on axis {axis}, like class_weights'
      )
    weights = jnp.sum(labels_BK * weights_K, -1)
  if where is None:
    return weights
  where = _checks.boolean('where', _like('where', where, weights))
  return jnp.where(where, weights, 0)


def _like(name: str, values: ArrayLike, like: jax.Array) -> jax.Array:
  _checks.shape(name, values, like.shape, ', one for each value')
  return jnp.asarray(values)
