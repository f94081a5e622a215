"""Dropout whose draws do not depend on the number of devices."""

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
    keep_B = _draws(self, self.make_rng('drop_path'), len(x), ())
    return _kept(x, keep_B.reshape(-1, *[1] * (x.ndim - 1)), self.rate)


class Dropout(nn.Module):
  """Drops each element of each example with probability `rate`.

  The elements kept are divided by `1 - rate`. Keys and devices are as for
  `DropPath`, whose stream, 'drop_path', this draws from too.

  Attributes:
    rate: the probability of dropping, in [0, 1).
    batch_axis: the mapped axis (of pmap or vmap) over which the batch is
      split. None: the array holds the whole batch.

  References:
    Srivastava et al. 2014, *Dropout: a simple way to prevent neural networks
    from overfitting*.
  """

  rate: float = 0.0
  batch_axis: str | None = None

  def __post_init__(self):
    _checks.check_rate('dropout', self.rate)
    _checks.check_axis_name('batch_axis', self.batch_axis)
    super().__post_init__()

  @nn.compact
  def __call__(self, x: jax.Array, *, train: bool = False) -> jax.Array:
    """Maps [B, ...] to [B, ...] of the same dtype."""
    if not train or self.rate == 0:
      return x
    # Apart from the draws of a DropPath that is given the same key.
    key = jax.random.fold_in(self.make_rng('drop_path'), 1)
    return _kept(x, _draws(self, key, len(x), x.shape[1:]), self.rate)


def _draws(
  module: DropPath | Dropout, key: jax.Array, size: int, shape: tuple[int, ...]
) -> jax.Array:
  """Returns what is kept of each example, bool [size, *shape]."""
  positions = jnp.arange(size)
  # A model is initialised outside of any mapped axis.
  if module.batch_axis is not None and not module.is_initializing():
    positions += jax.lax.axis_index(module.batch_axis) * size
  keys = jax.vmap(jax.random.fold_in, (None, 0))(key, positions)
  keep = 1 - module.rate
  return jax.vmap(lambda k: jax.random.bernoulli(k, keep, shape))(keys)


def _kept(x: jax.Array, keep: jax.Array, rate: float) -> jax.Array:
  return jnp.where(keep, x / (1 - rate), 0).astype(x.dtype)
