"""The small convolutional net of TensorFlow's CIFAR-10 tutorial.

It is the 'AlexNet' of the CIFAR-10 experiments of Müller et al. 2019. It pads
as TensorFlow pads: 'SAME', with any odd position at the end.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from maxsup_jax.errors import UsageError
from maxsup_jax.models._parts import (
  Output,
  check_images,
  check_sizes,
  linear_head,
)
from maxsup_jax.models.convolution import convolve

# Named by the standard deviation before the truncation at ±2 of them, as in
# TensorFlow.
_truncated_normal = nn.initializers.truncated_normal


class LocalResponseNorm(nn.Module):
  """Divides by a power of the energy of neighbouring channels.

  `y_c = x_c / (bias + alpha Σ_{|i - c| <= radius} x_i²)^beta`: alpha multiplies
  each square, as in TensorFlow; torch divides it by the size of the window.

  Examples:
    >>> x = jnp.ones((1, 20))
    >>> y = LocalResponseNorm(radius=1, alpha=0.5, beta=1.0).apply({}, x)
    >>> print(y[0, 0], y[0, 1])
    0.5 0.4

  References:
    Krizhevsky et al. 2012, *ImageNet classification with deep convolutional
    neural networks*, section 3.3; defaults as in TensorFlow's tutorial.
  """

  radius: int = 4
  bias: float = 1.0
  alpha: float = 0.001 / 9
  beta: float = 0.75

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """Normalises along the last axis, in float32; keeps shape and dtype."""
    x32 = x.astype(jnp.float32)
    ones = (1,) * (x.ndim - 1)
    energy = jax.lax.reduce_window(
      x32 * x32,
      0.0,
      jax.lax.add,
      window_dimensions=(*ones, 2 * self.radius + 1),
      window_strides=(*ones, 1),
      padding='SAME',
    )
    y = x32 / (self.bias + self.alpha * energy) ** self.beta
    return y.astype(x.dtype)


class MaxPool(nn.Module):
  """The maximum over 3x3 positions, every second one: [B, h, w, C]."""

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """Applies the pooling."""
    return nn.max_pool(x, (3, 3), strides=(2, 2), padding='SAME')


class AlexNetCifar(nn.Module):
  """Two convolutions, three dense layers: `logits, out = model.apply(...)`.

  A 5x5 convolution, ReLU, pooling and normalisation, again a 5x5 convolution,
  ReLU, normalisation and pooling, then dense layers of 384, 192 and K outputs.
  The reference crops images to 24x24. The size is fixed at `init`.

  Kernels begin truncated normal with σ (before truncation) 0.05 for
  convolutions, 0.04 for `local3` and `local4`, 1/192 for the head; biases with
  0 for `conv1` and the head, 0.1 for the others.

  Attributes:
    num_classes, dtype: see `create_model`.

  References:
    Müller et al. 2019, *When does label smoothing help?*, appendix;
    TensorFlow's tutorial 'Convolutional neural networks' (cifar10.py).
  """

  num_classes: int
  dtype: Any = jnp.float32

  def __post_init__(self) -> None:
    check_sizes(self, 'num_classes')
    super().__post_init__()

  @nn.compact
  def __call__(self, images: jax.Array, *, train: bool = False) -> Output:
    """Classifies images; see `create_model`."""
    del train
    check_images(images, 4)

    x = nn.relu(self._conv('conv1', 0.0)(images.astype(self.dtype)))
    x = LocalResponseNorm(name='norm1')(MaxPool(name='pool1')(x))
    x = nn.relu(self._conv('conv2', 0.1)(x))
    x = MaxPool(name='pool2')(LocalResponseNorm(name='norm2')(x))
    feature_map = x

    x = x.reshape(len(x), -1)
    self._check_flat(x.shape[-1])
    x = nn.relu(self._dense(384, 'local3')(x))
    x = nn.relu(self._dense(192, 'local4')(x)).astype(jnp.float32)
    head = linear_head(
      self.num_classes,
      kernel_init=_truncated_normal(1 / 192),
      bias_init=nn.initializers.zeros,
    )
    return head(x), {'feature_map': feature_map, 'penultimate': x}

  @property
  def saliency_layer(self) -> str:
    """The last pooling, whose output is `out['feature_map']`."""
    return 'pool2'

  def _conv(self, name: str, bias: float) -> nn.Conv:
    return nn.Conv(
      64,
      (5, 5),
      padding='SAME',
      kernel_init=_truncated_normal(0.05),
      bias_init=nn.initializers.constant(bias),
      dtype=self.dtype,
      conv_general_dilated=convolve,
      name=name,
    )

  def _dense(self, features: int, name: str) -> nn.Dense:
    return nn.Dense(
      features,
      kernel_init=_truncated_normal(0.04),
      bias_init=nn.initializers.constant(0.1),
      dtype=self.dtype,
      name=name,
    )

  def _check_flat(self, size: int) -> None:
    if self.has_variable('params', 'local3'):
      learned = len(self.get_variable('params', 'local3')['kernel'])
      if learned != size:
        raise UsageError(
          f'images give {size} values to local3, which learned {learned}; '
          'the image size is fixed at init'
        )
