"""DeepLabV3+ (Chen et al. 2018) on a ResNet, as torch-uncertainty builds it.

Maps are [B, h, w, C].
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from maxsup_jax.errors import integer
from maxsup_jax.models._parts import (
  ConvModule,
  ConvNorm,
  Output,
  Segmenter,
  check_rate,
  check_sizes,
  linear_head,
  uniform_fan_in,
)
from maxsup_jax.models.drop_path import Dropout
from maxsup_jax.models.resampling import average_pool, resize_bilinear
from maxsup_jax.models.resnet import BasicBlock, BottleneckBlock, ResNetBackbone

# U(±1/√fan_in), torch's default.
_torch_default = nn.initializers.variance_scaling(1 / 3, 'fan_in', 'uniform')


class AtrousPyramid(ConvModule):
  """Five views of a map side by side, and a projection of them.

  A 1x1 convolution, three 3x3 ones with ever wider taps, and the mean of the
  image.

  Attributes:
    features: channels of each and of the result.
    rates: the distances of the taps.
  """

  features: int
  rates: tuple[int, ...]

  @nn.compact
  def __call__(self, x: jax.Array, *, train: bool = False) -> jax.Array:
    """Maps [B, h, w, C] to [B, h, w, features]."""

    def layer(x: jax.Array, size: int, dilation: int, name: str) -> jax.Array:
      module = ConvNorm(
        self.features, size, dilation, _torch_default, **self.common, name=name
      )
      return module(x, train=train)

    height, width = x.shape[1:3]
    views = [layer(x, 1, 1, 'near')]
    views += [layer(x, 3, rate, f'rate{rate}') for rate in self.rates]
    mean = layer(average_pool(x, 1), 1, 1, 'mean')
    views.append(resize_bilinear(mean, (height, width)))
    return layer(jnp.concatenate(views, -1), 1, 1, 'projection')


class DeepLabV3Plus(Segmenter):
  """DeepLabV3+ on a ResNet: `logits, out = model.apply(variables, images)`.

  Logits have the stride of the first stage of the ResNet, 4 for those with the
  'imagenet' stem. The running statistics of the ResNet keep 0.99 of the old
  value, those of the decoder 0.9.

  Attributes:
    num_classes, batch_axis, batch_norm_axis, dtype: see `create_segmenter`.
    stage_sizes, block, stem, width: of the ResNet, see `ResNet`.
    dilated_stages: how many of its last stages keep the resolution, see
      `ResNetBackbone`: 0 leaves a stride of 32 before the pyramid, as the code
      of the authors does whatever its `output_stride` is; 1 makes that 16 and
      2, with taps twice as far apart in the pyramid, 8, as in the paper of
      DeepLabV3+.
    features: channels of the decoder.
    low_level_features: channels that the first stage is projected to.
    dropout: rate of dropout of the elements of the pyramid's result.

  References:
    Chen et al. 2018, *Encoder-decoder with atrous separable convolution for
    semantic image segmentation*; torch-uncertainty 0.13, `_DeepLabV3`.
  """

  stage_sizes: tuple[int, ...]
  block: type[BasicBlock] | type[BottleneckBlock]
  stem: str = 'imagenet'
  width: int = 64
  dilated_stages: int = 0
  features: int = 256
  low_level_features: int = 48
  dropout: float = 0.1

  def __post_init__(self) -> None:
    check_sizes(self, 'features', 'low_level_features')
    check_rate('dropout', self.dropout)
    integer('dilated_stages', self.dilated_stages, 0, 2)
    super().__post_init__()

  def make_backbone(self) -> ResNetBackbone:
    """Returns what `params['backbone']` is of, as a module of its own."""
    return ResNetBackbone(
      stage_sizes=self.stage_sizes,
      block=self.block,
      stem=self.stem,
      width=self.width,
      dilated=self.dilated_stages,
      **self.common | {'batch_norm_momentum': 0.99},
      parent=None,
    )

  @nn.compact
  def __call__(self, images: jax.Array, *, train: bool = False) -> Output:
    """Classifies pixels; see `create_segmenter`."""
    self.check_batch(images, train)
    backbone = self.make_backbone().clone(parent=self, name='backbone')
    low, *_, high = backbone(images, train=train)

    rate = 12 if self.dilated_stages == 2 else 6
    rates = tuple(rate * n for n in (1, 2, 3))
    pyramid = AtrousPyramid(self.features, rates, **self.common, name='pyramid')
    high = pyramid(high, train=train)
    drop = Dropout(self.dropout, self.batch_axis, name='dropout')
    high = drop(high, train=train)

    def layer(x: jax.Array, features: int, size: int, name: str) -> jax.Array:
      module = ConvNorm(
        features,
        size,
        kernel_init=_torch_default,
        **self.common,
        name=name,
      )
      return module(x, train=train)

    height, width = low.shape[1:3]
    high = resize_bilinear(high, (height, width))
    low = layer(low, self.low_level_features, 1, 'low_level')
    x = layer(jnp.concatenate([low, high], -1), self.features, 3, 'fusion')
    penultimate = x.astype(jnp.float32)
    default = uniform_fan_in(self.features)
    head = linear_head(self.num_classes, kernel_init=default, bias_init=default)
    return head(penultimate), {'penultimate': penultimate}
