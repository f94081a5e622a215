"""The Transformer of Vaswani et al. 2017, as tensor2tensor builds it.

Pre-norm, one matrix for the embeddings of both languages and the softmax,
sinusoids side by side. Id 0 is padding; sentences end in id 1; there is no
first token: the decoder's first input is a zero vector. As in `vit`, the
residual stream is float32 and the branches compute in `dtype`.
"""

from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from maxsup_jax.errors import UsageError
from maxsup_jax.models._parts import (
  Output,
  check_axis_name,
  check_rate,
  check_sizes,
)
from maxsup_jax.models.drop_path import Dropout

PAD, EOS, UNK = 0, 1, 2


class Cache(NamedTuple):
  """What decoding keeps between steps, of L layers and N hypotheses.

  Attributes:
    keys, values: of the tokens so far, `[L, N, T, heads, D / heads]`.
    memory_keys, memory_values: of the source, `[L, B, S, heads, D / heads]`.
    source: bool `[B, S]`, where there is one.
  """

  keys: jax.Array
  values: jax.Array
  memory_keys: jax.Array
  memory_values: jax.Array
  source: jax.Array


def sinusoids(length: int, dim: int) -> np.ndarray:
  """The positions, `[length, D]`: all the sines, then all the cosines.

  The D/2 wavelengths go geometrically from 2 pi to 20,000 pi.

  Examples:
    >>> print(sinusoids(3, 2).round(4))
    [[ 0.      1.    ]
     [ 0.8415  0.5403]
     [ 0.9093 -0.4161]]
  """
  scales = 1e-4 ** (np.arange(dim // 2) / max(1, dim // 2 - 1))
  angles = np.arange(length)[:, None] * scales
  return np.concatenate([np.sin(angles), np.cos(angles)], 1).astype(np.float32)


def _norm(dtype: Any) -> nn.LayerNorm:
  return nn.LayerNorm(epsilon=1e-6, dtype=dtype)


class CrossAttention(nn.Module):
  """Multi-head attention of queries to a memory, without biases."""

  dim: int
  heads: int
  dropout: float = 0.0
  batch_axis: str | None = None
  dtype: Any = jnp.float32

  def setup(self) -> None:  # noqa: D102
    def dense():
      # Glorot uniform, flax's variance_scaling(1, 'fan_avg', 'uniform').
      init = nn.initializers.glorot_uniform()
      return nn.Dense(
        self.dim, use_bias=False, kernel_init=init, dtype=self.dtype
      )

    self.query, self.key, self.value = dense(), dense(), dense()
    self.out = dense()
    self.drop = Dropout(self.dropout, self.batch_axis)

  def split(self, x: jax.Array) -> jax.Array:
    """Maps `[..., D]` to `[..., heads, D / heads]`."""
    return x.reshape(*x.shape[:-1], self.heads, -1)

  def memory(self, x_BSD: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Keys and values of what is attended to, `[B, S, heads, D / heads]`."""
    return self.split(self.key(x_BSD)), self.split(self.value(x_BSD))

  def __call__(
    self,
    x_BTD: jax.Array,
    memory: tuple[jax.Array, jax.Array],
    seen: jax.Array,
    *,
    train: bool = False,
  ) -> jax.Array:
    """Maps `[B, T, D]` to itself; `seen` broadcasts to `[B, heads, T, S]`."""
    keys, values = memory
    query = self.split(self.query(x_BTD)) * (self.dim // self.heads) ** -0.5
    scores = jnp.einsum('bthd,bshd->bhts', query, keys).astype(jnp.float32)
    shares = jax.nn.softmax(jnp.where(seen, scores, -1e9))
    shares = self.drop(shares, train=train).astype(self.dtype)
    y_BTHd = jnp.einsum('bhts,bshd->bthd', shares, values)
    return self.out(y_BTHd.reshape(x_BTD.shape))


class Block(nn.Module):
  """One layer of the encoder or, with `crosses`, of the decoder."""

  dim: int
  heads: int
  hidden: int
  crosses: bool = False
  dropout: float = 0.0
  batch_axis: str | None = None
  dtype: Any = jnp.float32

  def setup(self) -> None:  # noqa: D102
    def attention():
      rest = (self.dropout, self.batch_axis, self.dtype)
      return CrossAttention(self.dim, self.heads, *rest)

    def dense(features):
      init = nn.initializers.glorot_uniform()
      return nn.Dense(features, kernel_init=init, dtype=self.dtype)

    def drop():
      return Dropout(self.dropout, self.batch_axis)

    self.norm1, self.attn, self.drop1 = _norm(self.dtype), attention(), drop()
    if self.crosses:
      self.norm2, self.cross = _norm(self.dtype), attention()
      self.drop2 = drop()
    self.norm3, self.drop3 = _norm(self.dtype), drop()
    self.fc1, self.fc2 = dense(self.hidden), dense(self.dim)
    self.drop_hidden = drop()

  def __call__(
    self,
    x: jax.Array,
    seen: jax.Array,
    memory: tuple[jax.Array, jax.Array] | None = None,
    memory_seen: jax.Array | None = None,
    *,
    train: bool = False,
  ) -> jax.Array:
    """Applies the layer to `[B, T, D]`."""
    y = self.norm1(x)
    y = self.attn(y, self.attn.memory(y), seen, train=train)
    return self._rest(
      x + self.drop1(y, train=train), memory, memory_seen, train
    )

  def step(
    self,
    x_N1D: jax.Array,
    index: jax.Array,
    cache: Cache,
    layer: int,
  ) -> tuple[jax.Array, Cache]:
    """Applies the layer to token `index` of the hypotheses in a cache."""
    y = self.norm1(x_N1D)
    keys, values = (
      jax.lax.dynamic_update_slice(old, new[None], (layer, 0, index, 0, 0))
      for old, new in zip(cache[:2], self.attn.memory(y))
    )
    seen = jnp.arange(keys.shape[2]) <= index
    x_N1D = x_N1D + self.attn(y, (keys[layer], values[layer]), seen)
    # The k hypotheses of a source stand where the tokens of a target would,
    # so that its keys and values need not be copied.
    x_BkD = x_N1D.reshape(len(cache.source), -1, self.dim)
    memory = cache.memory_keys[layer], cache.memory_values[layer]
    x_BkD = self._rest(x_BkD, memory, cache.source[:, None, None], False)
    cache = cache._replace(keys=keys, values=values)
    return x_BkD.reshape(x_N1D.shape), cache

  def _rest(
    self, x: jax.Array, memory: Any, memory_seen: Any, train: bool
  ) -> jax.Array:
    """Attention to the memory, and the two dense layers."""
    if self.crosses:
      y = self.cross(self.norm2(x), memory, memory_seen, train=train)
      x = x + self.drop2(y, train=train)
    y = nn.relu(self.fc1(self.norm3(x)))
    y = self.fc2(self.drop_hidden(y, train=train))
    return x + self.drop3(y, train=train)


class Transformer(nn.Module):
  """Translates: `logits, out = model.apply(variables, source, target)`.

  `source` int `[B, S]` and `target` int `[B, T]` have 0 where there is no
  token. `logits` float32 `[B, T, V]` are of each target token given those
  before it and the source; `out['penultimate']` float32 `[B, T, D]` are the
  features that `params['embedding']` `[V, D]`, shared with both inputs, makes
  logits of: `features @ embedding.T`. Whoever computes these in parts leaves
  the logits alone, which cost nothing then under jit.

  Attributes:
    num_classes: V, the size of the vocabulary.
    dim: D, the width; divisible by 2 and by `heads`.
    depth: layers of the encoder, and as many of the decoder.
    heads: of each attention.
    hidden: width of the hidden layer of each block.
    dropout: of sublayers, hidden layers, attention and the embedded inputs.
    batch_axis, dtype: see `create_model`.

  References:
    Vaswani et al. 2017, *Attention is all you need*; `transformer_base` of
    tensor2tensor, but for its "target space" embedding, which is constant.
  """

  num_classes: int
  dim: int
  depth: int
  heads: int
  hidden: int
  dropout: float = 0.1
  batch_axis: str | None = None
  dtype: Any = jnp.float32

  def __post_init__(self) -> None:
    check_sizes(self, 'num_classes', 'dim', 'depth', 'heads', 'hidden')
    if self.dim % self.heads or self.dim % 2:
      raise UsageError(
        f'dim is {self.dim}; expected an even multiple of heads={self.heads}'
      )
    check_rate('dropout', self.dropout)
    check_axis_name('batch_axis', self.batch_axis)
    super().__post_init__()

  def setup(self) -> None:  # noqa: D102
    self.embedding = self.param(
      'embedding',
      nn.initializers.normal(self.dim**-0.5),
      (self.num_classes, self.dim),
    )

    def blocks(crosses):
      rest = (self.dropout, self.batch_axis, self.dtype)
      sizes = (self.dim, self.heads, self.hidden)
      return [Block(*sizes, crosses, *rest) for _ in range(self.depth)]

    self.encoder, self.decoder = blocks(False), blocks(True)
    self.encoder_norm = _norm(jnp.float32)
    self.decoder_norm = _norm(jnp.float32)
    self.source_drop = Dropout(self.dropout, self.batch_axis)
    self.target_drop = Dropout(self.dropout, self.batch_axis)

  def __call__(
    self, source: jax.Array, target: jax.Array, *, train: bool = False
  ) -> Output:
    """Teacher-forced logits; see the class."""
    memory = self.encode(source, train=train)
    seen = (source != PAD)[:, None, None]
    inputs = jnp.pad(target, ((0, 0), (1, 0)))[:, :-1]
    x = self._embed(inputs) + sinusoids(target.shape[1], self.dim)
    x = self.target_drop(x, train=train)
    causal = jnp.tril(jnp.ones((target.shape[1],) * 2, bool))
    for block in self.decoder:
      x = block(x, causal, block.cross.memory(memory), seen, train=train)
    features = self.decoder_norm(x)
    return self.logits(features), {'penultimate': features}

  def encode(self, source: jax.Array, *, train: bool = False) -> jax.Array:
    """The memory of a source, `[B, S, D]`."""
    if source.ndim != 2 or not jnp.issubdtype(source.dtype, jnp.integer):
      raise UsageError(
        f'source is {source.dtype} {list(source.shape)}; expected int [B, S]'
      )
    x = self._embed(source) + sinusoids(source.shape[1], self.dim)
    x = self.source_drop(x, train=train)
    for block in self.encoder:
      x = block(x, (source != PAD)[:, None, None], train=train)
    return self.encoder_norm(x)

  def logits(self, features: jax.Array) -> jax.Array:
    """What the shared matrix makes of features, float32 `[..., V]`."""
    x, table = (a.astype(self.dtype) for a in (features, self.embedding))
    return jnp.einsum(
      '...d,vd->...v', x, table, preferred_element_type=jnp.float32
    )

  def start(self, source: jax.Array, count: int, length: int) -> Cache:
    """The cache before the first token.

    Args:
      source: int `[B, S]`.
      count: k, hypotheses of each sentence.
      length: T, of the longest.
    """
    memory = self.encode(source)
    pairs = [block.cross.memory(memory) for block in self.decoder]
    size = (self.depth, len(source) * count, length)
    empty = jnp.zeros((*size, self.heads, self.dim // self.heads), self.dtype)
    keys, values = (jnp.stack(part) for part in zip(*pairs))
    return Cache(empty, empty, keys, values, source != PAD)

  def step(
    self, tokens: jax.Array, index: jax.Array, cache: Cache
  ) -> tuple[jax.Array, Cache]:
    """Logits of token `index`, `[N, V]`, from the one before, int `[N]`."""
    positions = jnp.asarray(sinusoids(cache.keys.shape[2], self.dim))
    x = self._embed(tokens[:, None]) + positions[index]
    for layer, block in enumerate(self.decoder):
      x, cache = block.step(x, index, cache, layer)
    return self.logits(self.decoder_norm(x[:, 0])), cache

  def _embed(self, ids: jax.Array) -> jax.Array:
    x = jnp.asarray(self.embedding)[ids] * self.dim**0.5
    return jnp.where(ids[..., None] == PAD, 0, x)
