"""What all models are made of: checks, convolutions, norms and the head.

Every convolution pads as torch pads, explicitly and equally on all sides: with
stride 2, 'SAME' would pad only at the end and shift every feature map.
"""

import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.nn.initializers import Initializer

from maxsup_jax.errors import UsageError, integer, number, shown
from maxsup_jax.models.convolution import convolve

# Logits, and what led to them.
Output = tuple[jax.Array, dict[str, jax.Array]]

he_fan_out = nn.initializers.variance_scaling(2.0, 'fan_out', 'normal')
he_fan_in = nn.initializers.variance_scaling(2.0, 'fan_in', 'normal')


def check_sizes(module: nn.Module, *fields: str) -> None:
  """Refuses fields of a module that are not integers of at least 1."""
  for field in fields:
    integer(field, getattr(module, field), 1)


def check_rate(field: str, value: Any) -> None:
  """Refuses anything but a number in [0, 1)."""
  number(field, value, 0, below=1)


def check_axis_name(field: str, value: Any) -> None:
  """Refuses anything but the name of a mapped axis, or None."""
  if value is not None and not isinstance(value, str):
    raise UsageError(
      f'{field} is {shown(value)}; expected the name of an axis, or None'
    )


def check_images(images: jax.Array, smallest: int = 1) -> None:
  """Refuses all but floating point [B, H, W, C], not below the total stride."""
  if images.ndim != 4:
    raise UsageError(f'images are {list(images.shape)}; expected [B, H, W, C]')
  # Raw bytes would train, badly: they lack the normalisation of the pipeline.
  if not jnp.issubdtype(images.dtype, jnp.floating):
    raise UsageError(
      f'images are {images.dtype}; expected normalised floating point'
    )
  # Padding would let even one pixel through, to layers that see only zeros.
  height, width = images.shape[1:3]
  if min(height, width) < smallest:
    raise UsageError(
      f'images are {height}x{width}; expected at least {smallest}x{smallest}'
    )


class ConvModule(nn.Module, kw_only=True):
  """A part of a convolutional net; also see `create_model`.

  Attributes:
    batch_norm_axis: mapped axis to share batch statistics over, or None.
    batch_norm_momentum: the share of the old value in running statistics;
      torch's convention has 0.1 for 0.9.
    dtype: dtype of the computation; parameters stay float32.
  """

  batch_norm_axis: str | None = None
  batch_norm_momentum: float = 0.9
  dtype: Any = jnp.float32

  def conv(
    self,
    features: int,
    size: int,
    stride: int = 1,
    *,
    name: str,
    groups: int = 1,
    dilation: int = 1,
    use_bias: bool = False,
    kernel_init: Initializer = he_fan_out,
  ) -> nn.Conv:
    """A square convolution, [B, h, w, C] to [B, h', w', f].

    Its output has ceil(h / stride) x ceil(w / stride) positions for odd sizes.
    """
    return nn.Conv(
      features,
      (size, size),
      strides=stride,
      padding=size // 2 * dilation,
      kernel_dilation=dilation,
      feature_group_count=groups,
      use_bias=use_bias,
      kernel_init=kernel_init,
      dtype=self.dtype,
      conv_general_dilated=convolve,
      name=name,
    )

  def norm(self, train: bool) -> Any:
    """`nn.BatchNorm` with everything set but its name."""
    # The running variance takes up the biased variance of the batch, as Flax
    # does it; torch's takes up the unbiased one, n/(n-1) times larger. The
    # outputs in training are the same.
    return functools.partial(
      nn.BatchNorm,
      use_running_average=not train,
      momentum=self.batch_norm_momentum,
      epsilon=1e-5,
      axis_name=self.batch_norm_axis,
      dtype=self.dtype,
    )

  @property
  def common(self) -> dict[str, Any]:
    """The fields that the parts of a module share with it."""
    return {
      'batch_norm_axis': self.batch_norm_axis,
      'batch_norm_momentum': self.batch_norm_momentum,
      'dtype': self.dtype,
    }


def linear_head(
  num_classes: int,
  *,
  kernel_init: Initializer,
  bias_init: Initializer,
) -> nn.Dense:
  """Returns the layer [B, D] -> [B, K] that every model names 'head'.

  It computes in float32 whatever the model computes in: in bfloat16 a few
  percent of 1000-class rows have a tied largest logit, and the objectives and
  measurements of this package depend on which logit is the largest.
  """
  return nn.Dense(
    num_classes,
    kernel_init=kernel_init,
    bias_init=bias_init,
    dtype=jnp.float32,
    # The default precision rounds the inputs of a float32 product to bfloat16
    # on TPUs and to TensorFloat-32 on GPUs.
    precision=jax.lax.Precision.HIGHEST,
    name='head',
  )


def uniform_fan_in(fan_in: int) -> Initializer:
  """Returns U(-1/√fan_in, 1/√fan_in): torch's default, kernels and biases."""
  limit = fan_in**-0.5

  def init(
    key: jax.Array,
    shape: Any,
    dtype: Any = jnp.float32,
    out_sharding: Any = None,
  ) -> jax.Array:
    del out_sharding
    return jax.random.uniform(key, shape, dtype, -limit, limit)

  return init


class ConvNet(ConvModule):
  """A convolutional net whose features are means over positions.

  Attributes:
    num_classes: K.
  """

  num_classes: int

  def __post_init__(self) -> None:
    check_sizes(self, 'num_classes')
    check_axis_name('batch_norm_axis', self.batch_norm_axis)
    super().__post_init__()

  def classified(
    self, x: jax.Array, kernel_init: Any = None, bias_init: Any = None
  ) -> Output:
    """Logits of the last feature map [B, h, w, D]; U(±1/√D) if not told."""
    penultimate = x.mean(axis=(1, 2), dtype=jnp.float32)
    default = uniform_fan_in(penultimate.shape[-1])
    head = linear_head(
      self.num_classes,
      kernel_init=kernel_init or default,
      bias_init=bias_init or default,
    )
    return head(penultimate), {'feature_map': x, 'penultimate': penultimate}


class ConvNorm(ConvModule):
  """A convolution, BatchNorm and ReLU: [B, h, w, C] to [B, h, w, features].

  Attributes:
    features: channels of the output.
    size: side of the kernel, an odd number.
    dilation: distance of its taps.
    kernel_init: draws the kernel.
  """

  features: int
  size: int = 1
  dilation: int = 1
  kernel_init: Initializer = he_fan_out

  @nn.compact
  def __call__(self, x: jax.Array, *, train: bool = False) -> jax.Array:
    """Applies the three."""
    layer = self.conv(
      self.features,
      self.size,
      name='conv',
      dilation=self.dilation,
      kernel_init=self.kernel_init,
    )
    return nn.relu(self.norm(train)(name='bn')(layer(x)))


class Segmenter(ConvModule, kw_only=True):
  """A net that classifies pixels; see `create_segmenter`.

  Attributes:
    num_classes: K.
    batch_axis: see `create_model`.
  """

  num_classes: int
  batch_axis: str | None = None

  def __post_init__(self) -> None:
    check_sizes(self, 'num_classes')
    check_axis_name('batch_norm_axis', self.batch_norm_axis)
    check_axis_name('batch_axis', self.batch_axis)
    super().__post_init__()

  def check_batch(self, images: jax.Array, train: bool) -> None:
    """Refuses to train on one image, of which a global mean has no spread."""
    if not train:
      return
    count = images.shape[0]
    # A model is initialised outside of any mapped axis.
    if self.batch_norm_axis is not None and not self.is_initializing():
      count *= jax.lax.psum(1, self.batch_norm_axis)
    if count == 1:
      raise UsageError(
        'a batch of 1 image in training; expected at least 2: BatchNorm after '
        'a global mean has one value per image'
      )
