"""DenseNet-BC for CIFAR (Huang et al. 2017)."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from maxsup_jax.models._parts import (
  ConvModule,
  ConvNet,
  Output,
  check_images,
  check_sizes,
)


class DenseLayer(ConvModule):
  """Appends `growth` channels: [B, h, w, C] to [B, h, w, C + growth].

  BatchNorm, ReLU and a 1x1 convolution, then BatchNorm, ReLU and a 3x3 one.

  Attributes:
    growth: channels that are appended.
    bottleneck: channels between the convolutions, in multiples of `growth`.
  """

  growth: int
  bottleneck: int = 4

  @nn.compact
  def __call__(self, x: jax.Array, *, train: bool = False) -> jax.Array:
    """Applies the layer."""
    norm = self.norm(train)
    y = nn.relu(norm(name='bn1')(x))
    y = self.conv(self.bottleneck * self.growth, 1, name='conv1')(y)
    y = nn.relu(norm(name='bn2')(y))
    y = self.conv(self.growth, 3, name='conv2')(y)
    return jnp.concatenate([x, y], axis=-1)


class Transition(ConvModule):
  """BatchNorm, ReLU, 1x1 convolution, mean of 2x2: half the resolution.

  Attributes:
    features: channels of the output.
  """

  features: int

  @nn.compact
  def __call__(self, x: jax.Array, *, train: bool = False) -> jax.Array:
    """Applies the layer: [B, h, w, C] to [B, h // 2, w // 2, features]."""
    norm = self.norm(train)
    x = nn.relu(norm(name='bn')(x))
    x = self.conv(self.features, 1, name='conv')(x)
    return nn.avg_pool(x, (2, 2), strides=(2, 2))


class NormReLU(ConvModule):
  """BatchNorm and ReLU: [B, h, w, C] to itself."""

  @nn.compact
  def __call__(self, x: jax.Array, *, train: bool = False) -> jax.Array:
    """Applies the layer."""
    norm = self.norm(train)
    return nn.relu(norm(name='bn')(x))


class DenseNet(ConvNet):
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

  block_sizes: tuple[int, ...] = (16, 16, 16)
  growth: int = 12
  bottleneck: int = 4
  compression: float = 0.5

  def __post_init__(self) -> None:
    check_sizes(self, 'growth', 'bottleneck')
    super().__post_init__()

  @nn.compact
  def __call__(self, images: jax.Array, *, train: bool = False) -> Output:
    """Classifies images; see `create_model`."""
    blocks = len(self.block_sizes)
    check_images(images, 2 ** (blocks - 1))

    x = images.astype(self.dtype)
    x = self.conv(2 * self.growth, 3, name='conv1')(x)
    for block, size in enumerate(self.block_sizes, 1):
      for i in range(size):
        x = DenseLayer(
          self.growth, self.bottleneck, **self.common, name=f'block{block}_{i}'
        )(x, train=train)
      if block < blocks:
        features = int(self.compression * x.shape[-1])
        x = Transition(features, **self.common, name=f'transition{block}')(
          x, train=train
        )
    x = NormReLU(**self.common, name='last')(x, train=train)

    return self.classified(x, bias_init=nn.initializers.zeros)

  @property
  def saliency_layer(self) -> str:
    """The last activation, which is `out['feature_map']`."""
    return 'last'
