"""Stochastic depth whose draws do not depend on the number of devices."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from maxsup_jax.models import _checks


class DropPath(nn.Module):
  """Drops the residual branch of each example with probability `rate`.

  The branches kept are divided by `1 - rate`, so that the expectation is the
  input. Applied with `train=True` and a positive rate it needs a key:
  `model.apply(..., rngs={'drop_path': key})`, the same key on every device.

  Each example draws from that key folded with its position in the *global*
  batch, so the same batch gives the same draws however it is split over
  devices. That holds for JAX's default generator, threefry; `rbg` gives no
  such promise, because it draws a whole mapped batch from its first key.

  Attributes:
    rate: the probability of dropping, in [0, 1).
    batch_axis: the mapped axis (of pmap or vmap) over which the batch is
      split. None: the array holds the whole batch.

  References:
    Huang et al. 2016, *Deep networks with stochastic depth*; per example as in
    Touvron et al. 2021, *Training data-efficient image transformers*.
  """

  rate: float = 0.0
  batch_axis: str | None = None

  def __post_init__(self):
    _checks.check_rate('drop_path', self.rate)
    _checks.check_axis_name('batch_axis', self.batch_axis)
    super().__post_init__()

  @nn.compact
  def __call__(self, x: jax.Array, *, train: bool = False) -> jax.Array:
    """Maps [B, ...] to [B, ...] of the same dtype."""
    if not train or self.rate == 0:
      return x
    key = self.make_rng('drop_path')
    keys_B = jax.vmap(jax.random.fold_in, (None, 0))(key, self._positions(x))
    keep_B = jax.vmap(lambda k: jax.random.bernoulli(k, 1 - self.rate))(keys_B)
    keep = keep_B.reshape(-1, *[1] * (x.ndim - 1))
    return jnp.where(keep, x / (1 - self.rate), 0).astype(x.dtype)

  def _positions(self, x: jax.Array) -> jax.Array:
    """Returns the position of each example in the global batch, [B]."""
    local_B = jnp.arange(x.shape[0])
    # A model is initialised outside of any mapped axis.
    if self.batch_axis is None or self.is_initializing():
      return local_B
    return jax.lax.axis_index(self.batch_axis) * x.shape[0] + local_B
