"""Dropout whose draws do not depend on the number of devices."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from maxsup_jax.models._parts import check_axis_name, check_rate


class _Drop(nn.Module):
  """What both layers have in common.

  Attributes:
    rate: the probability of dropping, in [0, 1).
    batch_axis: the mapped axis (of pmap or vmap) over which the batch is
      split. None: the array holds the whole batch.
  """

  rate: float = 0.0
  batch_axis: str | None = None

  def __post_init__(self) -> None:
    check_rate('rate of dropping', self.rate)
    check_axis_name('batch_axis', self.batch_axis)
    super().__post_init__()

  def _dropped(
    self, x: jax.Array, key: jax.Array, shape: tuple[int, ...]
  ) -> jax.Array:
    """Keeps parts, of a shape that broadcasts, of each example [B, ...]."""
    positions = jnp.arange(len(x))
    # A model is initialised outside of any mapped axis.
    if self.batch_axis is not None and not self.is_initializing():
      positions += jax.lax.axis_index(self.batch_axis) * len(x)
    keys = jax.vmap(jax.random.fold_in, (None, 0))(key, positions)
    keep = 1 - self.rate
    kept = jax.vmap(lambda k: jax.random.bernoulli(k, keep, shape))(keys)
    kept = kept.reshape(*kept.shape, *[1] * (x.ndim - kept.ndim))
    return jnp.where(kept, x / keep, 0).astype(x.dtype)


class DropPath(_Drop):
  """Drops the residual branch of each example with probability `rate`.

  The branches kept are divided by `1 - rate`, so that the expectation is the
  input. Applied with `train=True` and a positive rate it needs a key:
  `model.apply(..., rngs={'drop_path': key})`, the same key on every device.

  Each example draws from that key folded with its position in the *global*
  batch, so the same batch gives the same draws however it is split over
  devices. That holds for JAX's default generator, threefry; `rbg` gives no
  such promise, because it draws a whole mapped batch from its first key.

  References:
    Huang et al. 2016, *Deep networks with stochastic depth*; per example as in
    Touvron et al. 2021, *Training data-efficient image transformers*.
  """

  @nn.compact
  def __call__(self, x: jax.Array, *, train: bool = False) -> jax.Array:
    """Maps [B, ...] to [B, ...] of the same dtype."""
    if not train or self.rate == 0:
      return x
    return self._dropped(x, self.make_rng('drop_path'), ())


class Dropout(_Drop):
  """Drops each element of each example with probability `rate`.

  The elements kept are divided by `1 - rate`. Keys and devices are as for
  `DropPath`, whose stream, 'drop_path', this draws from too.

  References:
    Srivastava et al. 2014, *Dropout: a simple way to prevent neural networks
    from overfitting*.
  """

  @nn.compact
  def __call__(self, x: jax.Array, *, train: bool = False) -> jax.Array:
    """Maps [B, ...] to [B, ...] of the same dtype."""
    if not train or self.rate == 0:
      return x
    # Apart from the draws of a DropPath that is given the same key.
    key = jax.random.fold_in(self.make_rng('drop_path'), 1)
    return self._dropped(x, key, x.shape[1:])


class ChannelDropout(_Drop):
  """Drops each channel of each example, a whole map, with probability `rate`.

  The channels kept are divided by `1 - rate`. Keys and devices are as for
  `DropPath`, whose stream, 'drop_path', this draws from too.

  References:
    Tompson et al. 2015, *Efficient object localization using convolutional
    networks*; `torch.nn.Dropout2d`.
  """

  @nn.compact
  def __call__(self, x: jax.Array, *, train: bool = False) -> jax.Array:
    """Maps [B, ..., C] to [B, ..., C] of the same dtype."""
    if not train or self.rate == 0:
      return x
    key = jax.random.fold_in(self.make_rng('drop_path'), 2)
    return self._dropped(x, key, (*[1] * (x.ndim - 2), x.shape[-1]))
