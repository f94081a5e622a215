"""Convolutions and BatchNorm as torch has them, for all convolutional nets.

Every convolution pads as torch pads, explicitly and equally on all sides: with
stride 2, 'SAME' would pad only at the end and shift every feature map.
"""

import functools
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jax.nn.initializers import Initializer

he_fan_out = nn.initializers.variance_scaling(2.0, 'fan_out', 'normal')
he_fan_in = nn.initializers.variance_scaling(2.0, 'fan_in', 'normal')


def conv(
  features: int,
  size: int,
  stride: int = 1,
  dtype: Any = jnp.float32,
  name: str | None = None,
  *,
  groups: int = 1,
  kernel_init: Initializer = he_fan_out,
) -> nn.Conv:
  """Returns a square convolution without bias, [B, h, w, C] to [B, h', w', f].

  Its output has ceil(h / stride) x ceil(w / stride) positions for odd sizes.
  """
  return nn.Conv(
    features,
    (size, size),
    strides=stride,
    padding=size // 2,
    feature_group_count=groups,
    use_bias=False,
    kernel_init=kernel_init,
    dtype=dtype,
    name=name,
  )


def batch_norm(train: bool, axis_name: str | None, dtype: Any) -> Any:
  """Returns `nn.BatchNorm` with everything set but its name."""
  # The running variance takes up the biased variance of the batch, as Flax
  # does it; torch's takes up the unbiased one, n/(n-1) times larger. The
  # outputs in training are the same.
  return functools.partial(
    nn.BatchNorm,
    use_running_average=not train,
    momentum=0.9,  # the share of the old value: 0.1 in torch's convention
    epsilon=1e-5,
    axis_name=axis_name,
    dtype=dtype,
  )
