"""MobileNetV2 (Sandler et al. 2018), structured as in torchvision."""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp

from maxsup_jax.errors import boolean, one_of
from maxsup_jax.models._parts import (
  ConvModule,
  ConvNet,
  Output,
  check_axis_name,
  check_images,
  check_rate,
  linear_head,
)
from maxsup_jax.models.blur_pool import before_stride
from maxsup_jax.models.drop_path import Dropout
from maxsup_jax.models.resnet import STEMS

# Expansion, width, number of blocks and stride of each stage.
STAGES = (
  (1, 16, 1, 1),
  (6, 24, 2, 2),
  (6, 32, 3, 2),
  (6, 64, 4, 2),
  (6, 96, 3, 1),
  (6, 160, 3, 2),
  (6, 320, 1, 1),
)


class ConvBlock(ConvModule):
  """Convolution, BatchNorm and ReLU6: [B, h, w, C] to [B, h', w', features].

  Attributes:
    features: channels of the output.
    size: side of the kernel.
    stride: of the convolution.
    depthwise: each channel alone; `features` is C.
    blur_pool: blur before a stride, see `BlurPool`.
  """

  features: int
  size: int
  stride: int = 1
  depthwise: bool = False
  blur_pool: bool = False

  @nn.compact
  def __call__(self, x: jax.Array, *, train: bool = False) -> jax.Array:
    """Applies the block."""
    x, stride = before_stride(
      x, self.size, self.stride, blur=self.blur_pool, name='blur'
    )
    groups = self.features if self.depthwise else 1
    args = (self.features, self.size, stride)
    x = self.conv(*args, name='conv', groups=groups)(x)
    norm = self.norm(train)
    return nn.relu6(norm(name='bn')(x))


class InvertedResidual(ConvModule):
  """Widens with 1x1, filters each channel with 3x3, narrows with 1x1.

  A shortcut joins input and output, both narrow, where their shapes agree. The
  last convolution has no activation.

  Attributes:
    width: channels of the output.
    expansion: the wide part has so many times the channels of the input; 1
      leaves out the convolution that widens.
    stride: of the 3x3 convolution.
    blur_pool: blur before a stride, see `BlurPool`.

  References:
    Sandler et al. 2018, *MobileNetV2: inverted residuals and linear
    bottlenecks*, Table 1.
  """

  width: int
  expansion: int
  stride: int = 1
  blur_pool: bool = False

  @nn.compact
  def __call__(self, x: jax.Array, *, train: bool = False) -> jax.Array:
    """Applies the block."""
    hidden = x.shape[-1] * self.expansion
    y = x
    if self.expansion != 1:
      y = ConvBlock(hidden, 1, **self.common, name='expand')(y, train=train)
    y = ConvBlock(
      hidden,
      3,
      self.stride,
      depthwise=True,
      blur_pool=self.blur_pool,
      **self.common,
      name='depthwise',
    )(y, train=train)
    norm = self.norm(train)
    y = self.conv(self.width, 1, name='project_conv')(y)
    y = norm(name='project_bn')(y)
    return x + y if x.shape == y.shape else y


class MobileNetV2(ConvNet):
  """MobileNetV2: `logits, out = model.apply(variables, images)`.

  Convolutions begin normal with variance 2 / fan_out and the head with σ = 0.01
  and zero bias, as in torchvision.

  Attributes:
    num_classes, batch_norm_axis, batch_axis, dtype: see `create_model`.
    stem: 'imagenet' (total stride 32) or 'cifar': the stem and the second
      stage keep the resolution (total stride 8). The latter is how MobileNetV2
      is commonly put to images of 32x32; the variant in the CIFAR experiments
      of the MaxSup paper is not known.
    blur_pool: blur what every strided convolution sees that has at least 16
      input channels, with a fixed kernel, see `BlurPool`: these are the strided
      depthwise ones, not the stem.
    dropout: rate of dropout of the penultimate features before the head.
    stages: expansion, width, number of blocks and stride of each stage.
    stem_width: channels of the stem.
    last_width: D, channels of the last convolution.

  References:
    Sandler et al. 2018, *MobileNetV2: inverted residuals and linear
    bottlenecks*, Table 2.
  """

  stem: str = 'imagenet'
  blur_pool: bool = False
  dropout: float = 0.2
  stages: tuple[tuple[int, int, int, int], ...] = STAGES
  stem_width: int = 32
  last_width: int = 1280
  batch_axis: str | None = None

  def __post_init__(self) -> None:
    one_of('stem', self.stem, STEMS)
    boolean('blur_pool', self.blur_pool)
    check_rate('dropout', self.dropout)
    check_axis_name('batch_axis', self.batch_axis)
    super().__post_init__()

  @nn.compact
  def __call__(self, images: jax.Array, *, train: bool = False) -> Output:
    """Classifies images; see `create_model`."""
    strides = self._strides()
    check_images(images, math.prod(strides))

    x = images.astype(self.dtype)
    x = ConvBlock(self.stem_width, 3, strides[0], **self.common, name='stem')(
      x, train=train
    )
    for stage, (expansion, width, size, _) in enumerate(self.stages):
      for i in range(size):
        x = InvertedResidual(
          width,
          expansion,
          stride=strides[stage + 1] if i == 0 else 1,
          blur_pool=self.blur_pool,
          **self.common,
          name=f'stage{stage + 1}_{i}',
        )(x, train=train)
    x = ConvBlock(self.last_width, 1, **self.common, name='last')(
      x, train=train
    )

    penultimate = x.mean(axis=(1, 2), dtype=jnp.float32)
    drop = Dropout(self.dropout, self.batch_axis, name='head_dropout')
    head = linear_head(
      self.num_classes,
      kernel_init=nn.initializers.normal(stddev=0.01),
      bias_init=nn.initializers.zeros,
    )
    logits = head(drop(penultimate, train=train))
    return logits, {'feature_map': x, 'penultimate': penultimate}

  @property
  def saliency_layer(self) -> str:
    """The last convolution, whose output is `out['feature_map']`."""
    return 'last'

  def _strides(self) -> list[int]:
    """Returns the strides of the stem and of every stage."""
    strides = [2, *(stride for *_, stride in self.stages)]
    if self.stem == 'cifar':
      strides[0] = strides[2] = 1
    return strides
