"""The pre-activation ResNet-56 for CIFAR of tensor2tensor.

It is the ResNet-56 of Müller et al. 2019, whose text does not give a width:
tensor2tensor's net is twice as wide as that of He et al.
"""

import flax.linen as nn
import jax

from maxsup_jax.models._parts import (
  ConvModule,
  ConvNet,
  Output,
  check_images,
  check_sizes,
)

# TensorFlow's default for variance scaling, and the initializer that
# tensor2tensor sets for whatever names none, which here is the head. Both scale
# the truncated normal back to the variance that they are named for.
fan_in_1 = nn.initializers.variance_scaling(1.0, 'fan_in', 'truncated_normal')
fan_avg_2 = nn.initializers.variance_scaling(2.0, 'fan_avg', 'truncated_normal')


class PreActivationBlock(ConvModule):
  """BatchNorm, ReLU, 3x3 convolution, twice, and a shortcut.

  Attributes:
    width: channels of both convolutions and of the output.
    stride: of the first convolution and of the shortcut.
    project: the shortcut is a 1x1 convolution with BatchNorm of the *activated*
      input; otherwise it is the input itself.

  References:
    He et al. 2016, *Identity mappings in deep residual networks*, Figure 4 (e).
  """

  width: int
  stride: int = 1
  project: bool = False

  @nn.compact
  def __call__(self, x: jax.Array, *, train: bool = False) -> jax.Array:
    """Applies the block: [B, h, w, C] to [B, h', w', width]."""
    norm = self.norm(train)
    y = nn.relu(norm(name='bn1')(x))
    if self.project:
      x = self._conv(1, self.stride, 'downsample_conv')(y)
      x = norm(name='downsample_bn')(x)
    y = self._conv(3, self.stride, 'conv1')(y)
    y = nn.relu(norm(name='bn2')(y))
    return x + self._conv(3, 1, 'conv2')(y)

  def _conv(self, size: int, stride: int, name: str) -> nn.Conv:
    return self.conv(self.width, size, stride, name=name, kernel_init=fan_in_1)


class PreActivationResNet(ConvNet):
  """A pre-activation ResNet: `logits, out = model.apply(variables, images)`.

  A 3x3 stem with BatchNorm and ReLU, then stages of blocks; the first block of
  every stage projects its shortcut. Nothing follows the last sum but its mean
  over positions: the penultimate features may be negative. With `train=True`
  apply with `mutable=['batch_stats']`.

  Convolutions begin truncated normal with variance 1 / fan_in, the head
  truncated normal with variance 4 / (fan_in + fan_out) and zero bias.

  Attributes:
    num_classes, batch_norm_axis, dtype: see `create_model`.
    stage_sizes: number of blocks in each stage. Every stage but the first
      halves the resolution; every stage doubles the width of the one before.
    width: channels of the stem.
    widening: the first stage has so many times the channels of the stem.
      tensor2tensor's net has 2, He et al.'s 1.

  References:
    He et al. 2016, *Identity mappings in deep residual networks*; Müller et al.
    2019, *When does label smoothing help?*, appendix.
  """

  stage_sizes: tuple[int, ...] = (9, 9, 9)
  width: int = 16
  widening: int = 2

  def __post_init__(self) -> None:
    check_sizes(self, 'width', 'widening')
    super().__post_init__()

  @nn.compact
  def __call__(self, images: jax.Array, *, train: bool = False) -> Output:
    """Classifies images; see `create_model`."""
    stages = len(self.stage_sizes)
    check_images(images, 2 ** (stages - 1))

    stem = self.conv(self.width, 3, name='conv1', kernel_init=fan_in_1)
    norm = self.norm(train)
    x = nn.relu(norm(name='bn1')(stem(images.astype(self.dtype))))
    for stage, size in enumerate(self.stage_sizes):
      for i in range(size):
        x = PreActivationBlock(
          width=self.width * self.widening * 2**stage,
          stride=2 if stage > 0 and i == 0 else 1,
          project=i == 0,
          **self.common,
          name=f'layer{stage + 1}_{i}',
        )(x, train=train)

    return self.classified(x, fan_avg_2, nn.initializers.zeros)

  @property
  def saliency_layer(self) -> str:
    """The last block, whose output is `out['feature_map']`."""
    return f'layer{len(self.stage_sizes)}_{self.stage_sizes[-1] - 1}'
