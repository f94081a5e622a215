"""Inception-v4 (Szegedy et al. 2017), structured as in slim and timm."""

from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from maxsup_jax.errors import integer
from maxsup_jax.models._parts import (
  ConvModule,
  ConvNet,
  Output,
  check_axis_name,
  check_images,
  check_rate,
  linear_head,
)
from maxsup_jax.models.convolution import convolve
from maxsup_jax.models.drop_path import Dropout

# slim's: a truncated normal distribution of variance 2 / fan_in.
_init = nn.initializers.variance_scaling(2.0, 'fan_in', 'truncated_normal')


class Conv(NamedTuple):
  """A convolution, its BatchNorm and ReLU.

  Attributes:
    name: of the layer.
    features: channels of the output.
    size: height and width of the kernel.
    stride: 2 has no padding.
    padded: whether stride 1 keeps the size.
  """

  name: str
  features: int
  size: tuple[int, int] = (1, 1)
  stride: int = 1
  padded: bool = True


# What a branch begins with.
_AS_IT_IS, _AVERAGE, _MAXIMUM = 'as it is', 'average', 'maximum'
# Convolutions one after the other; those in a tuple see the same.
Branch = tuple[str, tuple[Conv | tuple[Conv, Conv], ...]]


def _branch(name: str, *convs: tuple, pool: str = _AS_IT_IS) -> Branch:
  """Numbers the convolutions; a pooling counts, a single one has no number."""
  first = int(pool != _AS_IT_IS)
  numbered = len(convs) + first > 1
  return pool, tuple(
    Conv(f'{name}_{i}' if numbered else name, *conv)
    for i, conv in enumerate(convs, first)
  )


_TALL, _WIDE, _DOWN = (7, 1), (1, 7), ((3, 3), 2, False)
_POOL = _branch('', pool=_MAXIMUM)
_STEM = (
  (_branch('conv', (32, *_DOWN)),),
  (_branch('conv', (32, (3, 3), 1, False)),),
  (_branch('conv', (64, (3, 3))),),
  (_POOL, _branch('conv', (96, *_DOWN))),
  (
    _branch('branch0', (64,), (96, (3, 3), 1, False)),
    _branch('branch1', (64,), (64, _WIDE), (64, _TALL), (96, (3, 3), 1, False)),
  ),
  (_branch('conv', (192, *_DOWN)), _POOL),
)
STEM_BLOCKS = len(_STEM)
_A = (
  _branch('branch0', (96,)),
  _branch('branch1', (64,), (96, (3, 3))),
  _branch('branch2', (64,), (96, (3, 3)), (96, (3, 3))),
  _branch('branch3', (96,), pool=_AVERAGE),
)
_REDUCTION_A = (
  _branch('branch0', (384, *_DOWN)),
  _branch('branch1', (192,), (224, (3, 3)), (256, *_DOWN)),
  _POOL,
)
_B = (
  _branch('branch0', (384,)),
  _branch('branch1', (192,), (224, _WIDE), (256, _TALL)),
  _branch(
    'branch2', (192,), (192, _TALL), (224, _WIDE), (224, _TALL), (256, _WIDE)
  ),
  _branch('branch3', (128,), pool=_AVERAGE),
)
_REDUCTION_B = (
  _branch('branch0', (192,), (192, *_DOWN)),
  _branch('branch1', (256,), (256, _WIDE), (320, _TALL), (320, *_DOWN)),
  _POOL,
)


def _both(name: str) -> tuple[Conv, Conv]:
  return Conv(f'{name}a', 256, (1, 3)), Conv(f'{name}b', 256, (3, 1))


_C = (
  _branch('branch0', (256,)),
  (_AS_IT_IS, (Conv('branch1_0', 384), _both('branch1_1'))),
  (
    _AS_IT_IS,
    (
      Conv('branch2_0', 384),
      Conv('branch2_1', 448, (3, 1)),
      Conv('branch2_2', 512, (1, 3)),
      _both('branch2_3'),
    ),
  ),
  _branch('branch3', (256,), pool=_AVERAGE),
)


class Mixed(ConvModule):
  """Branches that see the same map, whose outputs are joined.

  Attributes:
    branches: what each does.
    divide: every width is divided by it.
  """

  branches: tuple[Branch, ...]
  divide: int = 1

  @nn.compact
  def __call__(self, x: jax.Array, *, train: bool = False) -> jax.Array:
    """Applies them, `[B, h, w, C]` to `[B, h', w', C']`."""
    outputs = []
    for pool, convs in self.branches:
      y = x
      if pool == _AVERAGE:
        # Of what is there: padding does not count.
        window, padding = (3, 3), [(1, 1), (1, 1)]
        y = nn.avg_pool(y, window, (1, 1), padding, count_include_pad=False)
      elif pool == _MAXIMUM:
        y = nn.max_pool(y, (3, 3), (2, 2))
      for conv in convs:
        parallel = (conv,) if isinstance(conv, Conv) else conv
        y = jnp.concatenate([self._apply(c, y, train) for c in parallel], -1)
      outputs.append(y)
    return jnp.concatenate(outputs, -1)

  def _apply(self, conv: Conv, x: jax.Array, train: bool) -> jax.Array:
    layer = nn.Conv(
      conv.features // self.divide,
      conv.size,
      strides=conv.stride,
      padding=[(n // 2 * conv.padded,) * 2 for n in conv.size],
      use_bias=False,
      kernel_init=_init,
      dtype=self.dtype,
      conv_general_dilated=convolve,
      name=f'{conv.name}_conv',
    )
    norm = self.norm(train)(epsilon=1e-3, name=f'{conv.name}_bn')
    return nn.relu(norm(layer(x)))


class InceptionV4(ConvNet):
  """Inception-v4: `logits, out = model.apply(variables, images)`.

  Its layers have timm's names, `features_0` to `features_21` and `head`.
  BatchNorm has a scale, as in Müller et al. (2019) and timm, which slim leaves
  out. There is no auxiliary classifier.

  Attributes:
    num_classes, batch_norm_axis, batch_axis, dtype: see `create_model`.
    dropout: rate of dropout of the penultimate features before the head.
    blocks: how many of the kinds A, B and C.
    divide: every width is divided by it; 1 but for tests.

  References:
    Szegedy et al. 2017, *Inception-v4, Inception-ResNet and the impact of
    residual connections on learning*, Figures 3 to 9.
  """

  dropout: float = 0.2
  blocks: tuple[int, int, int] = (4, 7, 3)
  divide: int = 1
  batch_axis: str | None = None

  def __post_init__(self) -> None:
    check_rate('dropout', self.dropout)
    integer('divide', self.divide, 1, 32)
    check_axis_name('batch_axis', self.batch_axis)
    super().__post_init__()

  @nn.compact
  def __call__(self, images: jax.Array, *, train: bool = False) -> Output:
    """Classifies images; see `create_model`."""
    # Below, a reduction has nothing left to cut a window out of.
    check_images(images, 75)
    a, b, c = self.blocks
    kinds = (
      *_STEM,
      *(_A,) * a,
      _REDUCTION_A,
      *(_B,) * b,
      _REDUCTION_B,
      *(_C,) * c,
    )
    x = images.astype(self.dtype)
    for i, branches in enumerate(kinds):
      x = Mixed(branches, self.divide, **self.common, name=f'features_{i}')(
        x, train=train
      )
    penultimate = x.mean(axis=(1, 2), dtype=jnp.float32)
    drop = Dropout(self.dropout, self.batch_axis, name='head_dropout')
    head = linear_head(
      self.num_classes,
      kernel_init=nn.initializers.xavier_uniform(),
      bias_init=nn.initializers.zeros,
    )
    logits = head(drop(penultimate, train=train))
    return logits, {'feature_map': x, 'penultimate': penultimate}

  @property
  def saliency_layer(self) -> str:
    """The last block, whose output is `out['feature_map']`."""
    return f'features_{STEM_BLOCKS + sum(self.blocks) + 1}'
