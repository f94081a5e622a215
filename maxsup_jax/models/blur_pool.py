"""A fixed blur before convolutions that skip positions (Zhang 2019)."""

import flax.linen as nn
import jax
import jax.numpy as jnp


class BlurPool(nn.Module):
  """Blurs with [1, 2, 1]ᵀ[1, 2, 1] / 16, each channel alone.

  The stride is 1 and the padding is one zero on each side: [B, h, w, C] to the
  same. There are no parameters. Sums are float32 whatever the dtype.

  Examples:
    >>> x = jnp.zeros((1, 3, 3, 1)).at[0, 1, 1, 0].set(16)
    >>> print(BlurPool().apply({}, x)[0, :, :, 0])
    [[1. 2. 1.]
     [2. 4. 2.]
     [1. 2. 1.]]

  References:
    Zhang 2019, *Making convolutional networks shift-invariant again*; in front
    of the convolution, whose stride stays, as in the ImageNet code of the
    authors of MaxSup and in ffcv's.
  """

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """Applies the blur."""
    y = jnp.pad(x.astype(jnp.float32), ((0, 0), (1, 1), (1, 1), (0, 0)))
    y = (y[:, :-2] + 2 * y[:, 1:-1] + y[:, 2:]) / 4
    y = (y[:, :, :-2] + 2 * y[:, :, 1:-1] + y[:, :, 2:]) / 4
    return y.astype(x.dtype)


def before_stride(
  x: jax.Array, stride: int, *, blur: bool, name: str
) -> jax.Array:
  """Blurs what a strided convolution is about to see, where `blur` is asked.

  Inputs of fewer than 16 channels, such as images, stay as they are.

  Args:
    x: the input of the convolution, [B, h, w, C].
    stride: of the convolution.
    blur: whether the model has the option.
    name: of the layer, if there is one.
  """
  if blur and stride > 1 and x.shape[-1] >= 16:
    return BlurPool(name=name)(x)
  return x
