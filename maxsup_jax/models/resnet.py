"""Residual networks (He et al. 2016), structured as in torchvision.

Every convolution pads as torch pads, explicitly and equally on all sides: with
stride 2, 'SAME' would pad only at the end and shift every feature map.
"""

import functools
from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp

from maxsup_jax._errors import UsageError
from maxsup_jax.models import _checks
from maxsup_jax.models._head import linear_head, uniform_fan_in

STEMS = ('imagenet', 'cifar')

he_fan_out = nn.initializers.variance_scaling(2.0, 'fan_out', 'normal')


def _conv(features: int, size: int, stride: int, dtype: Any, name: str):
  return nn.Conv(
    features,
    (size, size),
    strides=stride,
    padding=size // 2,
    use_bias=False,
    kernel_init=he_fan_out,
    dtype=dtype,
    name=name,
  )


def _batch_norm(train: bool, axis_name: str | None, dtype: Any):
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


class _Block(nn.Module):
  """What both residual blocks have in common: fields and the shortcut."""

  width: int
  stride: int = 1
  zero_init_residual: bool = False
  batch_norm_axis: str | None = None
  dtype: Any = jnp.float32

  def _last_scale_init(self):
    ones, zeros = nn.initializers.ones, nn.initializers.zeros
    return zeros if self.zero_init_residual else ones

  def _join(self, y: jax.Array, x: jax.Array, norm: Any) -> jax.Array:
    """Adds the shortcut, projected where the shapes differ."""
    channels = y.shape[-1]
    if self.stride != 1 or x.shape[-1] != channels:
      x = _conv(channels, 1, self.stride, self.dtype, 'downsample_conv')(x)
      x = norm(name='downsample_bn')(x)
    return nn.relu(y + x)


class BasicBlock(_Block):
  """Two 3x3 convolutions and a shortcut: [B, h, w, C] to [B, h', w', width].

  Attributes:
    width: channels of both convolutions and of the output.
    stride: of the first convolution and of the shortcut.
    zero_init_residual: initialise the last BatchNorm scale with zeros, so that
      the block begins as its shortcut (Goyal et al. 2017).
    batch_norm_axis: mapped axis to share batch statistics over, or None.
    dtype: dtype of the computation; parameters stay float32.

  References:
    He et al. 2016, *Deep residual learning for image recognition*, Figure 5
    (left).
  """

  expansion: ClassVar[int] = 1

  @nn.compact
  def __call__(self, x: jax.Array, *, train: bool = False) -> jax.Array:
    """Applies the block."""
    norm = _batch_norm(train, self.batch_norm_axis, self.dtype)
    y = _conv(self.width, 3, self.stride, self.dtype, 'conv1')(x)
    y = nn.relu(norm(name='bn1')(y))
    y = _conv(self.width, 3, 1, self.dtype, 'conv2')(y)
    y = norm(name='bn2', scale_init=self._last_scale_init())(y)
    return self._join(y, x, norm)


class BottleneckBlock(_Block):
  """1x1, 3x3, 1x1 convolutions: [B, h, w, C] to [B, h', w', 4 width].

  The stride is on the 3x3 convolution ('v1.5', as torchvision has it); the
  paper had it on the first 1x1.

  Attributes:
    width: channels of the 3x3 convolution; the output has four times as many.
    stride: of the 3x3 convolution and of the shortcut.
    zero_init_residual: initialise the last BatchNorm scale with zeros, so that
      the block begins as its shortcut (Goyal et al. 2017).
    batch_norm_axis: mapped axis to share batch statistics over, or None.
    dtype: dtype of the computation; parameters stay float32.

  References:
    He et al. 2016, *Deep residual learning for image recognition*, Figure 5
    (right).
  """

  expansion: ClassVar[int] = 4

  @nn.compact
  def __call__(self, x: jax.Array, *, train: bool = False) -> jax.Array:
    """Applies the block."""
    norm = _batch_norm(train, self.batch_norm_axis, self.dtype)
    y = _conv(self.width, 1, 1, self.dtype, 'conv1')(x)
    y = nn.relu(norm(name='bn1')(y))
    y = _conv(self.width, 3, self.stride, self.dtype, 'conv2')(y)
    y = nn.relu(norm(name='bn2')(y))
    y = _conv(self.width * self.expansion, 1, 1, self.dtype, 'conv3')(y)
    y = norm(name='bn3', scale_init=self._last_scale_init())(y)
    return self._join(y, x, norm)


class ResNet(nn.Module):
  """A residual network: `logits, out = model.apply(variables, images)`.

  With `train=True` BatchNorm normalises with the statistics of the batch and
  updates its running ones: apply with `mutable=['batch_stats']`.

  Attributes:
    num_classes: K.
    stage_sizes: number of blocks in each stage. Every stage but the first
      halves the resolution; every stage doubles the width of the one before.
    block: `BasicBlock` or `BottleneckBlock`.
    stem: 'imagenet' (7x7 convolution of stride 2, then max pooling: a quarter
      of the resolution) or 'cifar' (3x3 convolution: full resolution).
    width: channels of the stem and width of the first stage.
    zero_init_residual: initialise the last BatchNorm scale of every block with
      zeros; torchvision's default is False.
    batch_norm_axis: name of the mapped axis (of pmap or vmap) over which batch
      statistics are shared. None: every device normalises with its own.
    dtype: dtype of the computation, float32 or bfloat16. Parameters, batch
      statistics, penultimate features and logits are float32 always.

  References:
    He et al. 2016, *Deep residual learning for image recognition*, Table 1;
    Ioffe & Szegedy 2015, *Batch normalization*.
  """

  num_classes: int
  stage_sizes: tuple[int, ...]
  block: type[BasicBlock] | type[BottleneckBlock]
  stem: str = 'imagenet'
  width: int = 64
  zero_init_residual: bool = False
  batch_norm_axis: str | None = None
  dtype: Any = jnp.float32

  def __post_init__(self):
    _checks.check_positive_int('num_classes', self.num_classes)
    _checks.check_choice('stem', self.stem, STEMS)
    _checks.check_positive_int('width', self.width)
    _checks.check_bool('zero_init_residual', self.zero_init_residual)
    _checks.check_axis_name('batch_norm_axis', self.batch_norm_axis)
    super().__post_init__()

  @nn.compact
  def __call__(
    self, images: jax.Array, *, train: bool = False
  ) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Classifies images.

    Args:
      images: floating point [B, H, W, C].
      train: normalise with the statistics of the batch, and update the running
        statistics with them.

    Returns:
      Logits, float32 [B, K], and a dict of what led to them: 'feature_map'
      [B, h, w, D] in the dtype of the computation, the last one before pooling,
      and 'penultimate', float32 [B, D], its mean over positions, which the
      linear head sees.

    Raises:
      UsageError: images of the wrong rank or dtype, or smaller than the total
        stride.
    """
    _checks.check_images(images)
    self._check_size(*images.shape[1:3])

    x = images.astype(self.dtype)
    norm = _batch_norm(train, self.batch_norm_axis, self.dtype)
    if self.stem == 'imagenet':
      x = _conv(self.width, 7, 2, self.dtype, 'conv1')(x)
      x = nn.relu(norm(name='bn1')(x))
      x = nn.max_pool(x, (3, 3), strides=(2, 2), padding=((1, 1), (1, 1)))
    else:
      x = _conv(self.width, 3, 1, self.dtype, 'conv1')(x)
      x = nn.relu(norm(name='bn1')(x))

    for stage, size in enumerate(self.stage_sizes):
      for i in range(size):
        x = self.block(
          width=self.width * 2**stage,
          stride=2 if stage > 0 and i == 0 else 1,
          zero_init_residual=self.zero_init_residual,
          batch_norm_axis=self.batch_norm_axis,
          dtype=self.dtype,
          name=f'layer{stage + 1}_{i}',
        )(x, train=train)

    penultimate = x.mean(axis=(1, 2), dtype=jnp.float32)
    init = uniform_fan_in(penultimate.shape[-1])
    head = linear_head(self.num_classes, kernel_init=init, bias_init=init)
    return head(penultimate), {'feature_map': x, 'penultimate': penultimate}

  def _check_size(self, height: int, width: int) -> None:
    # Padding would let even one pixel through, to stages that see only zeros.
    total = 2 ** (len(self.stage_sizes) - 1)
    total *= 4 if self.stem == 'imagenet' else 1
    if min(height, width) < total:
      raise UsageError(
        f'images of {height}x{width} are too small for stem {self.stem!r} with '
        f'{len(self.stage_sizes)} stages: expected at least {total}x{total}'
      )
