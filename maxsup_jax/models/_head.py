"""The linear classifier on top of every model."""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.nn.initializers import Initializer


def linear_head(
  num_classes: int,
  *,
  kernel_init: Initializer,
  bias_init: Initializer,
) -> nn.Dense:
  """Returns the layer [B, D] -> [B, K] that every model names 'head'.

  It computes in float32 whatever the model computes in: in bfloat16 a few
  percent of 1000-class rows have a tied largest logit, and the objectives and
  measurements of this package depend on which logit is the largest.
  """
  return nn.Dense(
    num_classes,
    kernel_init=kernel_init,
    bias_init=bias_init,
    dtype=jnp.float32,
    # The default precision rounds the inputs of a float32 product to bfloat16
    # on TPUs and to TensorFloat-32 on GPUs.
    precision=jax.lax.Precision.HIGHEST,
    name='head',
  )


def uniform_fan_in(fan_in: int) -> Initializer:
  """Returns U(-1/√fan_in, 1/√fan_in): torch's default, kernels and biases."""
  limit = fan_in**-0.5

  def init(key, shape, dtype=jnp.float32, out_sharding=None):
    del out_sharding
    return jax.random.uniform(key, shape, dtype, -limit, limit)

  return init
