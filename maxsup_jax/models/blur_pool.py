"""A fixed blur before convolutions that skip positions (Zhang 2019)."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np


class BlurPool(nn.Module):
  """Blurs with [1, 2, 1]ᵀ[1, 2, 1] / 16, each channel alone.

  The padding is one zero on each side: [B, h, w, C] to [B, ceil(h / stride),
  ceil(w / stride), C]. There are no parameters. Sums are float32 whatever the
  dtype.

  Attributes:
    stride: computes only every so many-th position, from the first.

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

  stride: int = 1

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """Applies the blur."""
    # Sums of shifted images cross a TPU's memory six times as often as a
    # convolution, forwards and backwards; on a CPU a convolution of each
    # channel alone takes several times as long as the sums.
    return jax.lax.platform_dependent(
      x, tpu=self._convolved, default=self._summed
    )

  def _summed(self, x: jax.Array) -> jax.Array:
    y = jnp.pad(x.astype(jnp.float32), ((0, 0), (1, 1), (1, 1), (0, 0)))
    y = (y[:, :-2] + 2 * y[:, 1:-1] + y[:, 2:]) / 4
    y = (y[:, :, :-2] + 2 * y[:, :, 1:-1] + y[:, :, 2:]) / 4
    return y[:, :: self.stride, :: self.stride].astype(x.dtype)

  def _convolved(self, x: jax.Array) -> jax.Array:
    channels = x.shape[-1]
    # Sixteenths are exact in every dtype, and a TPU's sums are float32.
    blur = np.outer([1, 2, 1], [1, 2, 1])[..., None, None] / 16
    kernel = jnp.broadcast_to(jnp.asarray(blur, x.dtype), (3, 3, 1, channels))
    return jax.lax.conv_general_dilated(
      x,
      kernel,
      window_strides=(self.stride, self.stride),
      padding=((1, 1), (1, 1)),
      dimension_numbers=('NHWC', 'HWIO', 'NHWC'),
      feature_group_count=channels,
      precision=jax.lax.Precision.HIGHEST,
    )


def before_stride(
  x: jax.Array, size: int, stride: int, *, blur: bool, name: str
) -> tuple[jax.Array, int]:
  """Blurs the input of a strided convolution, if `blur` is set.

  Inputs of fewer than 16 channels, such as images, stay as they are.

  Returns:
    What the convolution is to see, and with which stride. A kernel of size 1
    sees nothing of the positions that it skips: the blur skips them then.
  """
  if not blur or stride == 1 or x.shape[-1] < 16:
    return x, stride
  if size == 1:
    return BlurPool(stride, name=name)(x), 1
  return BlurPool(name=name)(x), stride
