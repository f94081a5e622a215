"""The perceptron that Xia et al. train on tables."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from maxsup_jax.errors import UsageError
from maxsup_jax.models._parts import (
  Output,
  check_sizes,
  linear_head,
  uniform_fan_in,
)


class MLP(nn.Module):
  """Dense layers with ReLU on F features: `logits, out = model.apply(...)`.

  Widths 4F, 2F and K; kernels and biases begin as torch's, U(±1/√fan_in).
  Images are taken as vectors of their H W C values.

  Attributes:
    num_classes, dtype: see `create_model`.
    widths: of the hidden layers, in multiples of F.
    single_logit: see `classified`.

  References:
    Xia et al. 2025, *Towards understanding why label smoothing degrades
    selective classification and how to fix it*, the authors' code.
  """

  num_classes: int
  widths: tuple[int, ...] = (4, 2)
  single_logit: bool = False
  dtype: Any = jnp.float32

  def __post_init__(self) -> None:
    check_sizes(self, 'num_classes')
    super().__post_init__()

  @nn.compact
  def __call__(self, inputs: jax.Array, *, train: bool = False) -> Output:
    """Classifies vectors `[B, F]`; see `create_model`."""
    del train
    if inputs.ndim < 2 or not jnp.issubdtype(inputs.dtype, jnp.floating):
      raise UsageError(
        f'inputs are {inputs.dtype} {list(inputs.shape)}; expected floating '
        'point [B, F]'
      )
    x = inputs.reshape(len(inputs), -1).astype(self.dtype)
    F = x.shape[-1]
    for i, times in enumerate(self.widths):
      x = nn.relu(torch_dense(x, times * F, self.dtype, name=f'dense{i}'))
    x = x.astype(jnp.float32)
    return classified(x, self.num_classes, self.single_logit), {
      'penultimate': x
    }


def torch_dense(
  x: jax.Array, features: int, dtype: Any, *, name: str
) -> jax.Array:
  """A dense layer `[B, D]` to `[B, features]` that begins as torch's."""
  init = uniform_fan_in(x.shape[-1])
  return nn.Dense(
    features, kernel_init=init, bias_init=init, dtype=dtype, name=name
  )(x)


def classified(x: jax.Array, num_classes: int, single_logit: bool) -> jax.Array:
  """Logits `[B, K]` of features `[B, D]`, of the layer 'head'.

  With `single_logit` one output z, of a layer 'logit', and the logits (0, z).
  Cross-entropy is then the binary one of z, label smoothing that of the targets
  y (1 - alpha) + alpha / 2, the largest probability max(sigma, 1 - sigma), and
  class 1 is predicted where sigma > 0.5.
  """
  if not single_logit:
    init = uniform_fan_in(x.shape[-1])
    head = linear_head(num_classes, kernel_init=init, bias_init=init)
    return head(x)
  if num_classes != 2:
    raise UsageError(
      f'single_logit is True; expected False for {num_classes} classes'
    )
  z = torch_dense(x, 1, jnp.float32, name='logit')
  return jnp.concatenate([jnp.zeros_like(z), z], -1)
