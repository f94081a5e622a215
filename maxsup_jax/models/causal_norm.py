"""The causal-norm classifier for long-tailed data (Tang et al. 2020)."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from maxsup_jax.errors import UsageError
from maxsup_jax.models._parts import (
  check_axis_name,
  check_sizes,
  uniform_fan_in,
)


class CausalNormHead(nn.Module):
  """A normalised linear classifier, [B, D] to [B, K], that forgets momentum.

  Features and weights are split along D into heads h, and
  z = (τ / heads) Σ_h x̂_h · ŵ_h with x̂ = x / ‖x‖ and ŵ = w / (‖w‖ + γ), so
  that `|z| < τ`. There is no bias.

  Training drags all features along one direction, which favours the frequent
  classes. Its running sum c ← momentum · c + mean x over the global batch is
  kept in the collection 'batch_stats' as `direction` [D] (the mean is not
  multiplied by 1 - momentum: only the direction matters). In evaluation x̂_h
  becomes x̂_h - α (x̂_h · ĉ_h) ĉ_h, the 'total direct effect'. Before the first
  update c is zero, and nothing is subtracted; zero features give zero logits.

  Attributes:
    num_classes: K.
    heads: number of heads; divides D.
    tau: the scale τ of the logits.
    gamma: added to the norm of the weights.
    alpha: how much of the direction is removed in evaluation.
    momentum: of the running sum.
    batch_axis: mapped axis over which the mean is taken. None: the array is
      the whole batch, or the devices' sums are averaged afterwards.

  References:
    Tang, Huang & Zhang 2020, *Long-tailed classification by keeping the good
    and removing the bad momentum causal effect*. The values are those of the
    long-tailed CIFAR-10 code of the authors of MaxSup.
  """

  num_classes: int
  heads: int = 2
  tau: float = 16.0
  gamma: float = 1 / 32
  alpha: float = 1.0
  momentum: float = 0.9
  batch_axis: str | None = None

  def __post_init__(self) -> None:
    check_sizes(self, 'num_classes', 'heads')
    check_axis_name('batch_axis', self.batch_axis)
    super().__post_init__()

  @nn.compact
  def __call__(self, x: jax.Array, *, train: bool = False) -> jax.Array:
    """Maps features float32 [B, D] to logits float32 [B, K]."""
    B, D = x.shape
    if D % self.heads:
      raise UsageError(
        f'heads is {self.heads}; expected a divisor of {D}, the number of '
        'features'
      )
    shape = (D, self.num_classes)
    kernel = self.param('kernel', uniform_fan_in(D), shape)
    direction = self.variable('batch_stats', 'direction', jnp.zeros, (D,))
    if train and not self.is_initializing():
      mean = jax.lax.stop_gradient(x).mean(0)
      if self.batch_axis is not None:
        mean = jax.lax.pmean(mean, self.batch_axis)
      direction.value = self.momentum * direction.value + mean

    x_BHd = _unit(x.reshape(B, self.heads, -1))
    if not train:
      c_Hd = _unit(direction.value.reshape(self.heads, -1))
      cosine = (x_BHd * c_Hd).sum(-1, keepdims=True)
      x_BHd = x_BHd - self.alpha * cosine * c_Hd
    w_HdK = kernel.reshape(self.heads, -1, self.num_classes)
    w_HdK = w_HdK / (_norm(w_HdK, axis=1) + self.gamma)
    logits = jnp.einsum(
      'bhd,hdk->bk', x_BHd, w_HdK, precision=jax.lax.Precision.HIGHEST
    )
    return self.tau / self.heads * logits


def _norm(x: jax.Array, axis: int) -> jax.Array:
  """Returns the norm along an axis that is kept; its gradient at 0 is 0."""
  squared = (x * x).sum(axis, keepdims=True)
  return jnp.where(squared > 0, jnp.sqrt(jnp.where(squared > 0, squared, 1)), 0)


def _unit(x: jax.Array) -> jax.Array:
  """Returns x / ‖x‖ along the last axis, and 0 where the norm is 0."""
  norm = _norm(x, axis=-1)
  return jnp.where(norm > 0, x / jnp.where(norm > 0, norm, 1), 0)
