"""Vision transformers (Dosovitskiy et al. 2021), as DeiT and timm build them.

The residual stream is float32 whatever the dtype of the computation: bfloat16
keeps 8 bits, too few for the sum of two dozen branches. The branches, where
the time goes, compute in `dtype`.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from maxsup_jax.errors import UsageError, boolean, one_of, shown
from maxsup_jax.models._parts import (
  Output,
  check_axis_name,
  check_images,
  check_rate,
  check_sizes,
  linear_head,
  uniform_fan_in,
)
from maxsup_jax.models.drop_path import Dropout, DropPath
from maxsup_jax.models.resampling import RESIZINGS, resize_positions

# DeiT truncates this normal at ±2, which is 100 standard deviations: it is a
# plain normal. Truncation at ±2 standard deviations would shrink it by 12%.
normal_02 = nn.initializers.normal(stddev=0.02)


def _dense(features: int, dtype: Any, name: str) -> nn.Dense:
  return nn.Dense(features, kernel_init=normal_02, dtype=dtype, name=name)


def _layer_norm(dtype: Any, name: str) -> nn.LayerNorm:
  return nn.LayerNorm(epsilon=1e-6, dtype=dtype, name=name)


class Attention(nn.Module):
  """Multi-head self-attention: [B, T, D] to [B, T, D].

  The softmax is float32 whatever the dtype of the computation.

  Attributes:
    heads: number of heads; divides D.
  """

  heads: int
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x_BTD: jax.Array) -> jax.Array:
    """Applies the attention."""
    *BT, D = x_BTD.shape
    qkv = _dense(3 * D, self.dtype, 'qkv')(x_BTD)
    # One product for all three, laid out (3, heads, D / heads) as in timm.
    qkv = qkv.reshape(*BT, 3, self.heads, D // self.heads)
    query, key, value = jnp.moveaxis(qkv, 2, 0)
    y = jax.nn.dot_product_attention(query, key, value)
    return _dense(D, self.dtype, 'proj')(y.reshape(*BT, D))


class Mlp(nn.Module):
  """Two layers with an exact (erf) GELU between them: [B, T, D] to itself.

  Attributes:
    hidden: width of the hidden layer.
  """

  hidden: int
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x_BTD: jax.Array) -> jax.Array:
    """Applies the two layers."""
    y = _dense(self.hidden, self.dtype, 'fc1')(x_BTD)
    y = nn.gelu(y, approximate=False)
    return _dense(x_BTD.shape[-1], self.dtype, 'fc2')(y)


class EncoderBlock(nn.Module):
  """Pre-norm attention and MLP, each a residual branch: [B, T, D] to itself.

  Attributes:
    heads: number of attention heads; divides D.
    drop_path: probability of dropping a branch, per example.
    batch_axis: see `DropPath`.
    dtype: dtype of the branches; the sum keeps the dtype of the input.
  """

  heads: int
  drop_path: float = 0.0
  batch_axis: str | None = None
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x_BTD: jax.Array, *, train: bool = False) -> jax.Array:
    """Applies the block."""
    x = x_BTD
    y = _layer_norm(self.dtype, 'norm1')(x)
    y = Attention(self.heads, self.dtype, name='attn')(y)
    x = x + self._drop_path('drop_path1')(y, train=train)
    y = _layer_norm(self.dtype, 'norm2')(x)
    y = Mlp(4 * x.shape[-1], self.dtype, name='mlp')(y)
    return x + self._drop_path('drop_path2')(y, train=train)

  def _drop_path(self, name: str) -> DropPath:
    return DropPath(self.drop_path, self.batch_axis, name=name)


class ViT(nn.Module):
  """A vision transformer: `logits, out = model.apply(variables, images)`.

  Positions are learned for the image size given to `init`, and only that size
  can be applied. With `train=True` and a positive `drop_path` or `head_dropout`
  a key is needed, the same on every device: `rngs={'drop_path': key}`.

  Weights, class token and positions begin normal with σ = 0.02 and biases with
  zeros, except for the patch embedding, which DeiT leaves at torch's default
  U(±1/√fan_in), kernel and bias (its σ is 0.021 for patches of 16x16x3).

  Attributes:
    num_classes, batch_axis, dtype: see `create_model`.
    dim: D, the width of the residual stream.
    depth: number of blocks.
    heads: attention heads per block; divides `dim`.
    patch_size: side of the square patches, in pixels.
    drop_path: rate of stochastic depth in the last block; it grows linearly
      from 0 in the first.
    head_dropout: rate of dropout of the class token before the head; timm's
      `drop_rate`.

  References:
    Dosovitskiy et al. 2021, *An image is worth 16x16 words*; Touvron et al.
    2021, *Training data-efficient image transformers*, Table 1.
  """

  num_classes: int
  dim: int
  depth: int
  heads: int
  patch_size: int = 16
  drop_path: float = 0.0
  head_dropout: float = 0.0
  batch_axis: str | None = None
  dtype: Any = jnp.float32

  def __post_init__(self) -> None:
    check_sizes(self, 'num_classes', 'dim', 'depth', 'heads', 'patch_size')
    if self.dim % self.heads:
      raise UsageError(
        f'heads is {self.heads}; expected a divisor of dim={self.dim}'
      )
    check_rate('drop_path', self.drop_path)
    check_rate('head_dropout', self.head_dropout)
    check_axis_name('batch_axis', self.batch_axis)
    super().__post_init__()

  @nn.compact
  def __call__(self, images: jax.Array, *, train: bool = False) -> Output:
    """Classifies images; see `create_model`."""
    check_images(images)
    *_, x = self._blocks(self._embed(images), train)
    tokens = _layer_norm(jnp.float32, 'norm')(x)
    penultimate = tokens[:, 0]
    head = linear_head(
      self.num_classes,
      kernel_init=normal_02,
      bias_init=nn.initializers.zeros,
    )
    drop = Dropout(self.head_dropout, self.batch_axis, name='dropout')
    logits = head(drop(penultimate, train=train))
    return logits, {'tokens': tokens, 'penultimate': penultimate}

  @property
  def saliency_layer(self) -> str:
    """The first norm of the last block: what the class token sees last."""
    return f'block{self.depth - 1}/norm1'

  def _blocks(self, x: jax.Array, train: bool) -> list[jax.Array]:
    """Returns the tokens after each block."""
    after = []
    for i in range(self.depth):
      x = EncoderBlock(
        heads=self.heads,
        drop_path=self.drop_path * i / max(1, self.depth - 1),
        batch_axis=self.batch_axis,
        dtype=self.dtype,
        name=f'block{i}',
      )(x, train=train)
      after.append(x)
    return after

  def _embed(self, images: jax.Array) -> jax.Array:
    """Returns the class token and the patches with their positions, float32."""
    size = self.patch_size
    B, H, W, C = images.shape
    if H % size or W % size:
      raise UsageError(
        f'images of {H}x{W} are not divisible into patches of {size}x{size}'
      )
    init = uniform_fan_in(size * size * C)
    x = nn.Conv(
      self.dim,
      (size, size),
      strides=size,
      padding='VALID',
      kernel_init=init,
      bias_init=init,
      dtype=self.dtype,
      name='patch_embed',
    )(images)
    positions = self._positions((H // size, W // size))
    x = x.reshape(B, -1, self.dim).astype(jnp.float32)
    cls = self.param('cls_token', normal_02, (1, 1, self.dim))
    return positions + jnp.concatenate([jnp.tile(cls, (B, 1, 1)), x], axis=1)

  def _positions(self, grid: tuple[int, int]) -> jax.Array:
    """Returns the learned positions of a grid of patches, [1, 1 + N, D]."""
    count = grid[0] * grid[1]
    if self.has_variable('params', 'pos_embed'):
      learned: int = self.get_variable('params', 'pos_embed').shape[1] - 1
      if learned != count:
        raise UsageError(
          f'images give {count} patches, but positions were learned for '
          f'{learned}; the image size is fixed at init'
        )
    return self.param('pos_embed', normal_02, (1, 1 + count, self.dim))


class ViTBackbone(ViT, kw_only=True):
  """The blocks of a ViT for dense predictions: maps of images of any size.

  `maps = backbone.apply(variables, images)` is a list with the tokens after
  each of `levels`, float32 [B, h, w, D], without the class token, which takes
  part in the attention all the same. Parameters are those of `ViT` by the same
  names, but for 'head' and 'norm'; `final_norm` brings back the latter.

  Images are padded with zeros, at the bottom and on the right, to whole
  patches. Positions are learned for the square images given to `init`, and
  resized for others.

  Attributes:
    levels: numbers of blocks, from 0 on, in ascending order.
    positions: how positions are resized, see `resize_positions`.
    final_norm: whether the map after the last block is normalised; the tokens
      before it are the residual stream.
    num_classes: has no effect.

  References:
    mmsegmentation, `VisionTransformer`.
  """

  num_classes: int = 1
  levels: tuple[int, ...]
  positions: str = 'bicubic'
  final_norm: bool = False

  def __post_init__(self) -> None:
    super().__post_init__()
    levels = tuple(self.levels)
    if not levels or levels != tuple(
      sorted(set(levels).intersection(range(self.depth)))
    ):
      raise UsageError(
        f'levels is {shown(levels)}; expected ascending numbers of blocks, '
        f'from 0 to {self.depth - 1}'
      )
    one_of('positions', self.positions, RESIZINGS)
    boolean('final_norm', self.final_norm)

  @nn.compact
  def __call__(  # type: ignore[override]
    self, images: jax.Array, *, train: bool = False
  ) -> list[jax.Array]:
    """Returns one map for each level."""
    check_images(images)
    B, H, W, _ = images.shape
    size = self.patch_size
    h, w = -(-H // size), -(-W // size)
    corner = ((0, 0), (0, h * size - H), (0, w * size - W), (0, 0))
    after = self._blocks(self._embed(jnp.pad(images, corner)), train)
    if self.final_norm:
      after[-1] = _layer_norm(jnp.float32, 'norm')(after[-1])
    return [after[i][:, 1:].reshape(B, h, w, self.dim) for i in self.levels]

  def _positions(self, grid: tuple[int, int]) -> jax.Array:
    """Returns the positions, resized from the grid they were learned for."""
    count = 1 + grid[0] * grid[1]
    if self.has_variable('params', 'pos_embed'):
      count = self.get_variable('params', 'pos_embed').shape[1]
    elif grid[0] != grid[1]:
      raise UsageError(
        f'images of {grid[0]}x{grid[1]} patches at init; expected a square, '
        'from which positions can be resized'
      )
    learned = self.param('pos_embed', normal_02, (1, count, self.dim))
    return resize_positions(learned, grid, self.positions)
