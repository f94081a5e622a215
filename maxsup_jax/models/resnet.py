"""Residual networks (He et al. 2016), structured as in torchvision."""

from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.nn.initializers import Initializer

from maxsup_jax.errors import boolean, integer, one_of
from maxsup_jax.models._parts import (
  ConvModule,
  ConvNet,
  Output,
  check_images,
  check_sizes,
  he_fan_out,
)
from maxsup_jax.models.blur_pool import before_stride

STEMS = ('imagenet', 'cifar')
SHORTCUTS = ('projected', 'padded')


class _Block(ConvModule):
  """What both residual blocks have in common: fields and the shortcut.

  Attributes:
    width: channels of all convolutions but the last of three.
    stride: of the 3x3 convolution that is the first, and of the shortcut.
    zero_init_residual: initialise the last BatchNorm scale with zeros, so that
      the block begins as its shortcut (Goyal et al. 2017).
    blur_pool: blur before convolutions that skip positions, see `ResNet`.
    kernel_init: draws the kernels of the convolutions.
    dilation: distance of the taps of the 3x3 convolution of a bottleneck.
    shortcut: see `ResNet`.
  """

  width: int
  stride: int = 1
  zero_init_residual: bool = False
  blur_pool: bool = False
  kernel_init: Initializer = he_fan_out
  dilation: int = 1
  shortcut: str = 'projected'

  def _conv(
    self,
    x: jax.Array,
    features: int,
    size: int,
    stride: int,
    name: str,
    dilation: int = 1,
  ) -> jax.Array:
    x, stride = before_stride(
      x, size, stride, blur=self.blur_pool, name=f'{name}_blur'
    )
    layer = self.conv(
      features,
      size,
      stride,
      name=name,
      dilation=dilation,
      kernel_init=self.kernel_init,
    )
    return layer(x)

  def _last_scale_init(self) -> Initializer:
    ones, zeros = nn.initializers.ones, nn.initializers.zeros
    return zeros if self.zero_init_residual else ones

  def _join(self, y: jax.Array, x: jax.Array, norm: Any) -> jax.Array:
    """Adds the shortcut, brought to the same shape."""
    channels = y.shape[-1]
    if self.shortcut == 'padded':
      x = x[:, :: self.stride, :: self.stride]
      missing = channels - x.shape[-1]
      sides = (missing // 2, missing - missing // 2)
      x = jnp.pad(x, ((0, 0), (0, 0), (0, 0), sides))
    elif self.stride != 1 or x.shape[-1] != channels:
      x = self._conv(x, channels, 1, self.stride, 'downsample_conv')
      x = norm(name='downsample_bn')(x)
    return nn.relu(y + x)


class BasicBlock(_Block):
  """Two 3x3 convolutions and a shortcut: [B, h, w, C] to [B, h', w', width].

  References:
    He et al. 2016, *Deep residual learning for image recognition*, Figure 5
    (left).
  """

  expansion: ClassVar[int] = 1

  @nn.compact
  def __call__(self, x: jax.Array, *, train: bool = False) -> jax.Array:
    """Applies the block."""
    norm = self.norm(train)
    y = self._conv(x, self.width, 3, self.stride, 'conv1')
    y = nn.relu(norm(name='bn1')(y))
    y = self._conv(y, self.width, 3, 1, 'conv2')
    y = norm(name='bn2', scale_init=self._last_scale_init())(y)
    return self._join(y, x, norm)


class BottleneckBlock(_Block):
  """1x1, 3x3, 1x1 convolutions: [B, h, w, C] to [B, h', w', 4 width].

  The stride is on the 3x3 convolution ('v1.5', as torchvision has it); the
  paper had it on the first 1x1.

  References:
    He et al. 2016, *Deep residual learning for image recognition*, Figure 5
    (right).
  """

  expansion: ClassVar[int] = 4

  @nn.compact
  def __call__(self, x: jax.Array, *, train: bool = False) -> jax.Array:
    """Applies the block."""
    norm = self.norm(train)
    y = self._conv(x, self.width, 1, 1, 'conv1')
    y = nn.relu(norm(name='bn1')(y))
    y = self._conv(y, self.width, 3, self.stride, 'conv2', self.dilation)
    y = nn.relu(norm(name='bn2')(y))
    y = self._conv(y, self.width * self.expansion, 1, 1, 'conv3')
    y = norm(name='bn3', scale_init=self._last_scale_init())(y)
    return self._join(y, x, norm)


class ResNet(ConvNet):
  """A residual network: `logits, out = model.apply(variables, images)`.

  Attributes:
    num_classes, batch_norm_axis, dtype: see `create_model`.
    stage_sizes: number of blocks in each stage. Every stage but the first
      halves the resolution; every stage doubles the width of the one before.
    block: `BasicBlock` or `BottleneckBlock`.
    stem: 'imagenet' (7x7 convolution of stride 2, then max pooling: a quarter
      of the resolution) or 'cifar' (3x3 convolution: full resolution).
    width: channels of the stem and width of the first stage.
    shortcut: what brings a block's input to another shape: 'projected', a 1x1
      convolution and BatchNorm (option B of the paper), or 'padded', every
      second position and channels of zeros on both sides, without parameters
      (option A).
    zero_init_residual: initialise the last BatchNorm scale of every block with
      zeros; torchvision's default is False.
    blur_pool: blur what every strided convolution sees that has at least 16
      input channels, with a fixed kernel, see `BlurPool`. In ResNet-18 these
      are `conv1` and the shortcut of the first block of stages 2 to 4, in
      ResNet-50 `conv2` and the shortcut; never the stem.

  References:
    He et al. 2016, *Deep residual learning for image recognition*, Table 1;
    Ioffe & Szegedy 2015, *Batch normalization*.
  """

  stage_sizes: tuple[int, ...]
  block: type[BasicBlock] | type[BottleneckBlock]
  stem: str = 'imagenet'
  width: int = 64
  shortcut: str = 'projected'
  zero_init_residual: bool = False
  blur_pool: bool = False

  def __post_init__(self) -> None:
    check_sizes(self, 'width')
    one_of('stem', self.stem, STEMS)
    one_of('shortcut', self.shortcut, SHORTCUTS)
    boolean('zero_init_residual', self.zero_init_residual)
    boolean('blur_pool', self.blur_pool)
    super().__post_init__()

  @nn.compact
  def __call__(self, images: jax.Array, *, train: bool = False) -> Output:
    """Classifies images; see `create_model`."""
    return self.classified(self._stages(images, train)[-1])

  def _stages(
    self, images: jax.Array, train: bool, dilated: int = 0
  ) -> list[jax.Array]:
    """The maps after each stage; the last `dilated` ones keep the resolution.

    Where a stage has no stride, the taps of its blocks, but for the first, are
    as far apart as they would be with it.
    """
    check_images(images, self._smallest())

    x = images.astype(self.dtype)
    norm = self.norm(train)
    if self.stem == 'imagenet':
      x = self.conv(self.width, 7, 2, name='conv1')(x)
      x = nn.relu(norm(name='bn1')(x))
      x = nn.max_pool(x, (3, 3), strides=(2, 2), padding=((1, 1), (1, 1)))
    else:
      x = self.conv(self.width, 3, name='conv1')(x)
      x = nn.relu(norm(name='bn1')(x))

    after, dilation = [], 1
    for stage, size in enumerate(self.stage_sizes):
      keeps = stage >= len(self.stage_sizes) - dilated
      spread = 2 * dilation if keeps else dilation
      for i in range(size):
        x = self.block(
          width=self.width * 2**stage,
          stride=2 if stage > 0 and i == 0 and not keeps else 1,
          zero_init_residual=self.zero_init_residual,
          blur_pool=self.blur_pool,
          dilation=spread if i > 0 else dilation,
          shortcut=self.shortcut,
          **self.common,
          name=f'layer{stage + 1}_{i}',
        )(x, train=train)
      after.append(x)
      dilation = spread
    return after

  @property
  def saliency_layer(self) -> str:
    """The last block, whose output is `out['feature_map']`."""
    return f'layer{len(self.stage_sizes)}_{self.stage_sizes[-1] - 1}'

  def _smallest(self) -> int:
    """The total stride."""
    total = 2 ** (len(self.stage_sizes) - 1)
    return total * (4 if self.stem == 'imagenet' else 1)


class ResNetBackbone(ResNet, kw_only=True):
  """The stages of a ResNet: `maps = backbone.apply(variables, images)`.

  A list with the map after each stage, [B, h, w, C] in the dtype of the
  computation. Variables are those of `ResNet` by the same names, but for
  'head'.

  Attributes:
    num_classes: has no effect.
    dilated: how many of the last stages keep the resolution and spread the taps
      of their 3x3 convolutions instead, as torchvision's
      `replace_stride_with_dilation`; of nets with bottlenecks only.

  References:
    Chen et al. 2017, *Rethinking atrous convolution for semantic image
    segmentation*.
  """

  num_classes: int = 1
  dilated: int = 0

  def __post_init__(self) -> None:
    most = 0
    if self.block is BottleneckBlock:
      most = len(self.stage_sizes) - 1
    integer('dilated', self.dilated, 0, most)
    super().__post_init__()

  @nn.compact
  def __call__(  # type: ignore[override]
    self, images: jax.Array, *, train: bool = False
  ) -> list[jax.Array]:
    """Returns one map for each stage."""
    return self._stages(images, train, self.dilated)
