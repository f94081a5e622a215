"""DenseNet-BC for CIFAR (Huang et al. 2017)."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from maxsup_jax.models._parts import (
  Output,
  batch_norm,
  check_axis_name,
  check_images,
  check_sizes,
  conv,
  linear_head,
  uniform_fan_in,
)


class DenseLayer(nn.Module):
  """Appends `growth` channels: [B, h, w, C] to [B, h, w, C + growth].

  BatchNorm, ReLU and a 1x1 convolution, then BatchNorm, ReLU and a 3x3 one.

  Attributes:
    growth: channels that are appended.
    bottleneck: channels between the convolutions, in multiples of `growth`.
  """

  growth: int
  bottleneck: int = 4
  batch_norm_axis: str | None = None
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array, *, train: bool = False) -> jax.Array:
    """Applies the layer."""
    norm = batch_norm(train, self.batch_norm_axis, self.dtype)
    y = nn.relu(norm(name='bn1')(x))
    y = conv(self.bottleneck * self.growth, 1, 1, self.dtype, 'conv1')(y)
    y = nn.relu(norm(name='bn2')(y))
    y = conv(self.growth, 3, 1, self.dtype, 'conv2')(y)
    return jnp.concatenate([x, y], axis=-1)


class Transition(nn.Module):
  """BatchNorm, ReLU, 1x1 convolution, mean of 2x2: half the resolution.

  Attributes:
    features: channels of the output.
  """

  features: int
  batch_norm_axis: str | None = None
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array, *, train: bool = False) -> jax.Array:
    """Applies the layer: [B, h, w, C] to [B, h // 2, w // 2, features]."""
    norm = batch_norm(train, self.batch_norm_axis, self.dtype)
    x = nn.relu(norm(name='bn')(x))
    x = conv(self.features, 1, 1, self.dtype, 'conv')(x)
    return nn.avg_pool(x, (2, 2), strides=(2, 2))


class NormReLU(nn.Module):
  """BatchNorm and ReLU: [B, h, w, C] to itself."""

  batch_norm_axis: str | None = None
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array, *, train: bool = False) -> jax.Array:
    """Applies the layer."""
    norm = batch_norm(train, self.batch_norm_axis, self.dtype)
    return nn.relu(norm(name='bn')(x))


class DenseNet(nn.Module):
  """A DenseNet-BC: `logits, out = model.apply(variables, images)`.

  A 3x3 stem of 2 `growth` channels, then blocks of dense layers with a
  transition after each but the last, which BatchNorm and ReLU follow. With
  `train=True` apply with `mutable=['batch_stats']`.

  Convolutions begin normal with variance 2 / fan_out, the head's kernel with
  U(±1/√fan_in) and its bias with zeros.

  Attributes:
    num_classes, batch_norm_axis, dtype: see `create_model`.
    block_sizes: number of layers in each block; DenseNet-BC-100 has 16 in each
      of three.
    growth: channels that every layer appends.
    bottleneck: see `DenseLayer`.
    compression: share of the channels that a transition keeps.

  References:
    Huang et al. 2017, *Densely connected convolutional networks*, sections 3
    and 4.2.
  """

  num_classes: int
  block_sizes: tuple[int, ...] = (16, 16, 16)
  growth: int = 12
  bottleneck: int = 4
  compression: float = 0.5
  batch_norm_axis: str | None = None
  dtype: Any = jnp.float32

  def __post_init__(self) -> None:
    check_sizes(self, 'num_classes', 'growth', 'bottleneck')
    check_axis_name('batch_norm_axis', self.batch_norm_axis)
    super().__post_init__()

  @nn.compact
  def __call__(self, images: jax.Array, *, train: bool = False) -> Output:
    """Classifies images; see `create_model`."""
    blocks = len(self.block_sizes)
    check_images(images, 2 ** (blocks - 1))

    common = {'batch_norm_axis': self.batch_norm_axis, 'dtype': self.dtype}
    x = images.astype(self.dtype)
    x = conv(2 * self.growth, 3, 1, self.dtype, 'conv1')(x)
    for block, size in enumerate(self.block_sizes, 1):
      for i in range(size):
        x = DenseLayer(
          self.growth, self.bottleneck, **common, name=f'block{block}_{i}'
        )(x, train=train)
      if block < blocks:
        features = int(self.compression * x.shape[-1])
        x = Transition(features, **common, name=f'transition{block}')(
          x, train=train
        )
    x = NormReLU(**common, name='last')(x, train=train)

    penultimate = x.mean(axis=(1, 2), dtype=jnp.float32)
    head = linear_head(
      self.num_classes,
      kernel_init=uniform_fan_in(penultimate.shape[-1]),
      bias_init=nn.initializers.zeros,
    )
    return head(penultimate), {'feature_map': x, 'penultimate': penultimate}

  @property
  def saliency_layer(self) -> str:
    """The last activation, which is `out['feature_map']`."""
    return 'last'
