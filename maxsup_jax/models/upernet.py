"""UperNet (Xiao et al. 2018) on a vision transformer, as mmsegmentation has it.

Maps are [B, h, w, C]. All convolutions but those of the neck and the
classifiers have a BatchNorm and a ReLU and no bias.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from maxsup_jax.errors import UsageError, boolean, one_of
from maxsup_jax.models._parts import (
  ConvModule,
  ConvNorm,
  Output,
  Segmenter,
  check_images,
  check_rate,
  check_sizes,
  linear_head,
)
from maxsup_jax.models.drop_path import ChannelDropout
from maxsup_jax.models.resampling import (
  average_pool,
  rescale_bilinear,
  resize_bilinear,
)
from maxsup_jax.models.vit import ViTBackbone

NECKS = ('multilevel', 'none')
# How many windows, down and across, the last map is averaged over.
POOLED = (1, 2, 3, 6)
# Of the levels of the neck, in turn.
_SCALES = (4, 2, 1, 0.5)


class MultiLevelNeck(ConvModule):
  """Four maps of one size to four sizes, linear throughout.

  Attributes:
    features: channels of all maps.
  """

  features: int

  @nn.compact
  def __call__(self, maps: list[jax.Array]) -> list[jax.Array]:
    """Returns maps of 4, 2, 1 and 0.5 times the height and width."""

    def conv(x: jax.Array, size: int, name: str) -> jax.Array:
      layer = self.conv(
        self.features,
        size,
        name=name,
        use_bias=True,
        kernel_init=nn.initializers.glorot_uniform(),
      )
      return layer(x)

    return [
      conv(rescale_bilinear(conv(x, 1, f'lateral{i}'), factor), 3, f'conv{i}')
      for i, (x, factor) in enumerate(zip(maps, _SCALES, strict=True))
    ]


class UPerDecoder(ConvModule):
  """Maps of several sizes to features at the size of the first.

  Attributes:
    features: channels of everything in it.
  """

  features: int

  @nn.compact
  def __call__(
    self, maps: list[jax.Array], *, train: bool = False
  ) -> jax.Array:
    """Returns the features of each position, [B, h, w, features]."""

    def layer(x: jax.Array, size: int, name: str) -> jax.Array:
      module = ConvNorm(self.features, size, **self.common, name=name)
      return module(x, train=train)

    def at_size_of(x: jax.Array, other: jax.Array) -> jax.Array:
      height, width = other.shape[1:3]
      return resize_bilinear(x, (height, width))

    *lower, top = maps
    pyramid = [
      at_size_of(layer(average_pool(top, side), 1, f'pool{side}'), top)
      for side in POOLED
    ]
    top = layer(jnp.concatenate([top, *pyramid], -1), 3, 'bottleneck')
    levels = [layer(x, 1, f'lateral{i}') for i, x in enumerate(lower)] + [top]
    for i in reversed(range(len(lower))):
      levels[i] += at_size_of(levels[i + 1], levels[i])
    levels = [layer(x, 3, f'fpn{i}') for i, x in enumerate(levels[:-1])] + [top]
    levels = [at_size_of(x, levels[0]) for x in levels]
    return layer(jnp.concatenate(levels, -1), 3, 'fusion')


def _classifier(num_classes: int) -> nn.Dense:
  return linear_head(
    num_classes,
    kernel_init=nn.initializers.normal(0.01),
    bias_init=nn.initializers.zeros,
  )


class FCNHead(ConvModule):
  """One convolution and a classifier: [B, h, w, C] to logits [B, h, w, K].

  Attributes:
    num_classes: K.
    features: channels of the convolution.
    dropout: rate at which these are dropped.
    batch_axis: see `DropPath`.
  """

  num_classes: int
  features: int
  dropout: float = 0.0
  batch_axis: str | None = None

  @nn.compact
  def __call__(self, x: jax.Array, *, train: bool = False) -> jax.Array:
    """Returns logits, float32."""
    x = ConvNorm(self.features, 3, **self.common, name='conv')(x, train=train)
    x = ChannelDropout(self.dropout, self.batch_axis)(x, train=train)
    return _classifier(self.num_classes)(x)


class UPerNet(Segmenter):
  """UperNet on a ViT: `logits, out = model.apply(variables, images)`.

  The maps are the residual stream of the ViT after each quarter of its blocks.
  The neck brings them to 4, 2, 1 and a half times the resolution of the
  patches: logits have a quarter of the stride of the patches. Without a neck
  they have that stride.

  What is new begins as in mmsegmentation: convolutions with a normal of
  variance 2 / fan_out, those of the neck with Xavier's uniform, classifiers
  with σ = 0.01. A ViT from scratch begins as `ViT` does. Stochastic depth drops
  the attention and the MLP of a block, as in mmsegmentation 0.x, whose scores
  are published; its 1.2.2 drops the MLP only.

  Attributes:
    num_classes, batch_axis, batch_norm_axis, dtype: see `create_segmenter`.
    dim, depth, heads, patch_size, drop_path: of the ViT, see `ViT`; `depth` is
      a multiple of 4.
    positions: how its positions are resized, see `resize_positions`.
    final_norm: whether the last map is normalised, as mmsegmentation's `ln`.
    neck: 'multilevel' or 'none'.
    features: channels of the decoder.
    auxiliary_features: channels of the auxiliary head on the last map.
    auxiliary: whether there is such a head. Its logits, at the resolution of
      that map, are `out['auxiliary']` in training.
    dropout: rate at which whole channels are dropped before each classifier.

  References:
    Xiao et al. 2018, *Unified perceptual parsing for scene understanding*;
    mmsegmentation, `UPerHead`, `MultiLevelNeck` and `FCNHead`.
  """

  dim: int
  depth: int
  heads: int
  patch_size: int = 16
  drop_path: float = 0.1
  positions: str = 'bicubic'
  final_norm: bool = False
  neck: str = 'multilevel'
  features: int = 512
  auxiliary_features: int = 256
  auxiliary: bool = True
  dropout: float = 0.1

  def __post_init__(self) -> None:
    check_sizes(self, 'depth', 'features', 'auxiliary_features')
    if self.depth % 4:
      raise UsageError(f'depth is {self.depth}; expected a multiple of 4')
    one_of('neck', self.neck, NECKS)
    boolean('auxiliary', self.auxiliary)
    check_rate('dropout', self.dropout)
    super().__post_init__()
    self.make_backbone()  # Refuses now, not when it is used.

  def make_backbone(self) -> ViTBackbone:
    """Returns what `params['backbone']` is of, as a module of its own."""
    quarter = self.depth // 4
    return ViTBackbone(
      dim=self.dim,
      depth=self.depth,
      heads=self.heads,
      patch_size=self.patch_size,
      drop_path=self.drop_path,
      levels=tuple(quarter * (i + 1) - 1 for i in range(4)),
      positions=self.positions,
      final_norm=self.final_norm,
      batch_axis=self.batch_axis,
      dtype=self.dtype,
      parent=None,
    )

  @nn.compact
  def __call__(self, images: jax.Array, *, train: bool = False) -> Output:
    """Classifies pixels; see `create_segmenter`."""
    has_neck = self.neck == 'multilevel'
    # The neck halves the map of the patches.
    check_images(images, self.patch_size + 1 if has_neck else 1)
    self.check_batch(images, train)
    backbone = self.make_backbone().clone(parent=self, name='backbone')
    maps = backbone(images, train=train)
    if has_neck:
      maps = MultiLevelNeck(self.dim, **self.common, name='neck')(maps)
    decoder = UPerDecoder(self.features, **self.common, name='decoder')
    features = decoder(maps, train=train)
    penultimate = features.astype(jnp.float32)
    drop = ChannelDropout(self.dropout, self.batch_axis, name='dropout')
    classifier = _classifier(self.num_classes)
    logits = classifier(drop(penultimate, train=train))
    out = {'penultimate': penultimate}
    if self.auxiliary and (train or self.is_initializing()):
      head = FCNHead(
        self.num_classes,
        self.auxiliary_features,
        self.dropout,
        self.batch_axis,
        **self.common,
        name='auxiliary_head',
      )
      out['auxiliary'] = head(maps[-1], train=train)
    return logits, out
