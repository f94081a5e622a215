"""MobileNetV2 (Sandler et al. 2018), structured as in torchvision."""

import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from maxsup_jax.models import _checks
from maxsup_jax.models._convolution import batch_norm, conv
from maxsup_jax.models._head import linear_head
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


class ConvBlock(nn.Module):
  """Convolution, BatchNorm and ReLU6: [B, h, w, C] to [B, h', w', features].

  Attributes:
    features: channels of the output.
    size: side of the kernel.
    stride: of the convolution.
    depthwise: each channel alone; `features` is C.
    blur_pool: blur before a stride, see `BlurPool`.
    batch_norm_axis: mapped axis to share batch statistics over, or None.
    dtype: dtype of the computation; parameters stay float32.
  """

  features: int
  size: int
  stride: int = 1
  depthwise: bool = False
  blur_pool: bool = False
  batch_norm_axis: str | None = None
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array, *, train: bool = False) -> jax.Array:
    """Applies the block."""
    x, stride = before_stride(
      x, self.size, self.stride, blur=self.blur_pool, name='blur'
    )
    groups = self.features if self.depthwise else 1
    args = (self.features, self.size, stride, self.dtype, 'conv')
    x = conv(*args, groups=groups)(x)
    norm = batch_norm(train, self.batch_norm_axis, self.dtype)
    return nn.relu6(norm(name='bn')(x))


class InvertedResidual(nn.Module):
  """Widens with 1x1, filters each channel with 3x3, narrows with 1x1.

  A shortcut joins input and output, both narrow, where their shapes agree. The
  last convolution has no activation.

  Attributes:
    width: channels of the output.
    expansion: the wide part has so many times the channels of the input; 1
      leaves out the convolution that widens.
    stride: of the 3x3 convolution.
    blur_pool: blur before a stride, see `BlurPool`.
    batch_norm_axis: mapped axis to share batch statistics over, or None.
    dtype: dtype of the computation; parameters stay float32.

  References:
    Sandler et al. 2018, *MobileNetV2: inverted residuals and linear
    bottlenecks*, Table 1.
  """

  width: int
  expansion: int
  stride: int = 1
  blur_pool: bool = False
  batch_norm_axis: str | None = None
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array, *, train: bool = False) -> jax.Array:
    """Applies the block."""
    common = {'batch_norm_axis': self.batch_norm_axis, 'dtype': self.dtype}
    hidden = x.shape[-1] * self.expansion
    y = x
    if self.expansion != 1:
      y = ConvBlock(hidden, 1, **common, name='expand')(y, train=train)
    y = ConvBlock(
      hidden,
      3,
      self.stride,
      depthwise=True,
      blur_pool=self.blur_pool,
      **common,
      name='depthwise',
    )(y, train=train)
    norm = batch_norm(train, self.batch_norm_axis, self.dtype)
    y = conv(self.width, 1, 1, self.dtype, 'project_conv')(y)
    y = norm(name='project_bn')(y)
    return x + y if x.shape == y.shape else y


class MobileNetV2(nn.Module):
  """MobileNetV2: `logits, out = model.apply(variables, images)`.

  With `train=True` BatchNorm normalises with the statistics of the batch and
  updates its running ones: apply with `mutable=['batch_stats']`. Dropout needs
  a key, the same on every device: `rngs={'drop_path': key}`.

  Convolutions begin normal with variance 2 / fan_out and the head with σ = 0.01
  and zero bias, as in torchvision.

  Attributes:
    num_classes: K.
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
    batch_norm_axis: name of the mapped axis (of pmap or vmap) over which batch
      statistics are shared. None: every device normalises with its own.
    batch_axis: name of the mapped axis over which the batch is split, which
      keeps dropout independent of the number of devices. None: the array is
      the whole batch.
    dtype: dtype of the computation, float32 or bfloat16. Parameters, batch
      statistics, penultimate features and logits are float32 always.

  References:
    Sandler et al. 2018, *MobileNetV2: inverted residuals and linear
    bottlenecks*, Table 2.
  """

  num_classes: int
  stem: str = 'imagenet'
  blur_pool: bool = False
  dropout: float = 0.2
  stages: tuple[tuple[int, int, int, int], ...] = STAGES
  stem_width: int = 32
  last_width: int = 1280
  batch_norm_axis: str | None = None
  batch_axis: str | None = None
  dtype: Any = jnp.float32

  def __post_init__(self):
    _checks.check_positive_int('num_classes', self.num_classes)
    _checks.check_choice('stem', self.stem, STEMS)
    _checks.check_bool('blur_pool', self.blur_pool)
    _checks.check_rate('dropout', self.dropout)
    _checks.check_axis_name('batch_norm_axis', self.batch_norm_axis)
    _checks.check_axis_name('batch_axis', self.batch_axis)
    super().__post_init__()

  @nn.compact
  def __call__(
    self, images: jax.Array, *, train: bool = False
  ) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Classifies images.

    Args:
      images: floating point [B, H, W, C].
      train: apply dropout, normalise with the statistics of the batch, and
        update the running statistics with them.

    Returns:
      Logits, float32 [B, K], and a dict of what led to them: 'feature_map'
      [B, h, w, D] in the dtype of the computation, the last one before pooling,
      and 'penultimate', float32 [B, D], its mean over positions, before the
      dropout.

    Raises:
      UsageError: images of the wrong rank or dtype, or smaller than the total
        stride.
    """
    _checks.check_images(images)
    strides = self._strides()
    _checks.check_size(images, math.prod(strides), f'stem {self.stem!r}')

    common = {'batch_norm_axis': self.batch_norm_axis, 'dtype': self.dtype}
    x = images.astype(self.dtype)
    x = ConvBlock(self.stem_width, 3, strides[0], **common, name='stem')(
      x, train=train
    )
    for stage, (expansion, width, size, _) in enumerate(self.stages):
      for i in range(size):
        x = InvertedResidual(
          width,
          expansion,
          stride=strides[stage + 1] if i == 0 else 1,
          blur_pool=self.blur_pool,
          **common,
          name=f'stage{stage + 1}_{i}',
        )(x, train=train)
    x = ConvBlock(self.last_width, 1, **common, name='last')(x, train=train)

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
