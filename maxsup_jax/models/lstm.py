"""The LSTM that Xia et al. train on film reviews."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from maxsup_jax.errors import UsageError
from maxsup_jax.models._parts import (
  Output,
  check_axis_name,
  check_rate,
  check_sizes,
  uniform_fan_in,
)
from maxsup_jax.models.drop_path import Dropout
from maxsup_jax.models.mlp import classified, torch_dense

# What fills up short texts.
PAD = 0


class _Step(nn.Module):
  """One token: the state `(c, h)`, each `[B, H]`, moves where there is one."""

  hidden: int
  dtype: Any

  @nn.compact
  def __call__(self, state: Any, inputs: Any) -> Any:
    """Takes the share of the input in the gates `[B, 4H]`, and the mask."""
    (c, h), (gates, real) = state, inputs
    gates += torch_dense(h, 4 * self.hidden, self.dtype, name='recurrent')
    i, f, g, o = jnp.split(gates.astype(jnp.float32), 4, -1)
    c_next = nn.sigmoid(f) * c + nn.sigmoid(i) * jnp.tanh(g)
    h_next = nn.sigmoid(o) * jnp.tanh(c_next)
    real = real[:, None]
    return (jnp.where(real, c_next, c), jnp.where(real, h_next, h)), None


class LSTMClassifier(nn.Module):
  r"""An LSTM over the tokens of a text, and dense layers on its last state.

  .. math:: i, f, o = \sigma(W x_t + U h_{t-1} + b), \quad
    g = \tanh(W x_t + U h_{t-1} + b), \quad
    c_t = f c_{t-1} + i g, \quad h_t = o \tanh c_t,

  with two biases as torch has them. The last state is that of the last token
  that is there: padding, the id 0, never changes a result. Then dropout, a
  dense layer with ReLU, dropout, another one, and the logits.

  It is called as `logits, out = model.apply(variables, ids)`, ids int32
  `[B, T]`, below V.

  Attributes:
    num_classes, dtype, batch_axis: see `create_model`.
    vocabulary_size: V, the rows of the table of word vectors.
    dim: their length.
    hidden: H.
    widths: of the dense layers.
    dropout: the rate of both.
    single_logit: see `mlp.classified`.
    frozen: whether the word vectors stay as they are.

  References:
    Hochreiter and Schmidhuber 1997, *Long short-term memory*; Xia et al. 2025,
    *Towards understanding why label smoothing degrades selective
    classification and how to fix it*, the authors' code.

  Examples:
    >>> model = LSTMClassifier(2, vocabulary_size=9, dim=4, hidden=4)
    >>> ids = jnp.array([[5, 7, 0, 0]])
    >>> variables = jax.eval_shape(model.init, jax.random.key(0), ids)
    >>> logits, out = jax.eval_shape(model.apply, variables, ids)
    >>> logits.shape, out['penultimate'].shape
    ((1, 2), (1, 128))
  """

  num_classes: int
  vocabulary_size: int | None = None
  dim: int = 300
  hidden: int = 256
  widths: tuple[int, ...] = (256, 128)
  dropout: float = 0.2
  single_logit: bool = False
  frozen: bool = False
  batch_axis: str | None = None
  dtype: Any = jnp.float32

  def __post_init__(self) -> None:
    check_sizes(self, 'num_classes', 'vocabulary_size', 'dim', 'hidden')
    check_rate('dropout', self.dropout)
    check_axis_name('batch_axis', self.batch_axis)
    super().__post_init__()

  @nn.compact
  def __call__(self, ids: jax.Array, *, train: bool = False) -> Output:
    """Classifies texts."""
    if ids.ndim != 2 or not jnp.issubdtype(ids.dtype, jnp.integer):
      raise UsageError(
        f'ids are {ids.dtype} {list(ids.shape)}; expected those of tokens, '
        'int32 [B, T]'
      )
    x_BTD = nn.Embed(
      self.vocabulary_size or 0,
      self.dim,
      embedding_init=nn.initializers.normal(1.0),
      dtype=self.dtype,
      name='embedding',
    )(ids)
    if self.frozen:
      x_BTD = jax.lax.stop_gradient(x_BTD)
    init = uniform_fan_in(self.hidden)
    # All tokens at once; only what depends on the one before is in the loop.
    gates_BTG = nn.Dense(
      4 * self.hidden,
      kernel_init=init,
      bias_init=init,
      dtype=self.dtype,
      name='input',
    )(x_BTD)
    scan = nn.scan(
      _Step,
      variable_broadcast='params',
      split_rngs={'params': False},
      in_axes=1,
    )
    zeros = jnp.zeros((len(ids), self.hidden), jnp.float32)
    (_, x), _ = scan(self.hidden, self.dtype, name='lstm')(
      (zeros, zeros), (gates_BTG, ids != PAD)
    )
    for i, width in enumerate(self.widths):
      x = Dropout(self.dropout, self.batch_axis)(x, train=train)
      x = nn.relu(torch_dense(x, width, self.dtype, name=f'dense{i}'))
    x = x.astype(jnp.float32)
    return classified(x, self.num_classes, self.single_logit), {
      'penultimate': x
    }
