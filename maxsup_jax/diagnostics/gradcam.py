"""Grad-CAM: where in an image the evidence for a class is."""

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from maxsup_jax.diagnostics import checks
from maxsup_jax.errors import UsageError, integer


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class Gradients:
  """What a layer gave, and how the score of a class depends on it."""

  logits: jax.Array  # `[B, K]`
  # Int `[B]`: the class of each example whose logit is differentiated.
  classes: jax.Array
  # The output of the layer, `[B, h, w, C]` or `[B, T, C]`.
  activations: jax.Array
  gradients: jax.Array  # of the logit with respect to them, the same shape


def class_gradients(
  forward: Callable[[Any], tuple[jax.Array, jax.Array]],
  classes: ArrayLike | None = None,
) -> Gradients:
  """Differentiates the logit of a class with respect to a layer's output.

  Examples must not influence each other, as they do in a network that
  normalises with the statistics of the batch.

  Args:
    forward: takes what is added to the output of the layer, also the number 0,
      and returns the logits `[B, K]` and that output with it; `models.at_layer`
      makes such a function.
    classes: int `[B]`, or one for all examples; None for those predicted.

  Examples:
    >>> activations = jnp.ones((1, 2, 2, 3))
    >>> head = lambda a: a.mean((1, 2)) @ jnp.array([[1.0, 2], [3, 4], [5, 6]])
    >>> result = class_gradients(
    ...   lambda delta: (head(activations + delta), activations + delta), 0
    ... )
    >>> result.gradients[0, 0, 0]
    Array([0.25, 0.75, 1.25], dtype=float32)
  """
  logits, activations = jax.eval_shape(forward, 0.0)
  if len(logits.shape) != 2:
    raise UsageError(
      f'forward returned logits of the shape {logits.shape}; expected [B, K]'
    )
  B, K = logits.shape
  if classes is not None:
    classes = jnp.asarray(classes)
    integral = jnp.issubdtype(classes.dtype, jnp.integer)
    if classes.shape not in ((), (B,)) or not integral:
      raise UsageError(
        f'classes has the shape {classes.shape} and the dtype {classes.dtype}; '
        f'expected integer class ids [{B}], or one for all examples'
      )
    # Under jit they have no value yet; one out of range then gives NaN.
    if not isinstance(classes, jax.core.Tracer):
      checks.class_ids(classes.ravel(), K, 'classes')
    classes = jnp.broadcast_to(classes, (B,))

  def score(delta: jax.Array) -> tuple[jax.Array, tuple]:
    logits, activations = forward(delta)
    ids = logits.argmax(-1) if classes is None else classes
    # Of each example its own logit: a sum keeps their gradients apart.
    picked = jnp.take_along_axis(logits, ids[:, None], -1)
    return picked.sum(), (logits, ids, activations)

  zeros = jnp.zeros(activations.shape, activations.dtype)
  gradients, (logits, ids, activations) = jax.grad(score, has_aux=True)(zeros)
  return Gradients(logits, ids, activations, gradients)


def gradcam(activations: ArrayLike, gradients: ArrayLike) -> jax.Array:
  r"""Class activation maps, weighted by gradients.

  .. math::
    M_{ij} = \mathrm{ReLU}\left(\sum_c \alpha_c A_{ijc}\right), \qquad
    \alpha_c = \frac{1}{h w} \sum_{ij} \frac{\partial z_y}{\partial A_{ijc}}

  For a network that ends in global average pooling and a linear layer with
  weights w this is CAM: :math:`\mathrm{ReLU}(\sum_c w_{yc} A_{ijc}) / (h w)`.

  The maps have the scale of the logits, so those of two networks can be
  compared in shape only. What is not finite is refused, or NaN under `jit`.

  Args:
    activations: A, floating point, `[B, h, w, C]`.
    gradients: of the score of a class with respect to them, `[B, h, w, C]`.

  Returns:
    The maps, float32 (float64 for float64 activations), `[B, h, w]`.

  Examples:
    >>> activations = jnp.arange(8.0).reshape(1, 2, 2, 2)
    >>> gradients = jnp.ones((1, 2, 2, 2)) * jnp.array([1.0, -0.5])
    >>> gradcam(activations, gradients)
    Array([[[0. , 0.5],
            [1.5, 2.5]]], dtype=float32)

  References: Selvaraju et al., 2017, eq. 1 and 2.
  """
  activations, gradients = jnp.asarray(activations), jnp.asarray(gradients)
  if activations.ndim != 4 or activations.shape != gradients.shape:
    raise UsageError(
      f'activations has the shape {activations.shape} and gradients '
      f'{gradients.shape}; expected [B, h, w, C] for both (tokens_to_map '
      'gives it for tokens)'
    )
  dtype = jnp.promote_types(activations.dtype, jnp.float32)
  activations, gradients = activations.astype(dtype), gradients.astype(dtype)
  _check_finite('activations', activations)
  _check_finite('gradients', gradients)
  weights_BC = gradients.mean((1, 2))
  # The default precision would round the factors on TPUs and GPUs.
  maps = jnp.einsum(
    'bhwc,bc->bhw', activations, weights_BC, precision=jax.lax.Precision.HIGHEST
  )
  _check_finite('the products of activations and gradients', maps)
  # Minus infinity is not "no evidence".
  return jnp.where(jnp.isfinite(maps), jax.nn.relu(maps), jnp.nan)


def tokens_to_map(
  tokens: ArrayLike,
  *,
  drop_cls: bool = True,
  grid: tuple[int, int] | None = None,
) -> jax.Array:
  """Arranges the tokens of a vision transformer as a feature map.

  Args:
    tokens: `[B, T, C]`, the patches row by row, after the class token.
    drop_cls: leave out the first token, the class token.
    grid: rows and columns of patches; None for a square.

  Examples:
    >>> tokens_to_map(jnp.ones((2, 1 + 9, 4))).shape
    (2, 3, 3, 4)
    >>> tokens_to_map(jnp.ones((2, 6, 4)), drop_cls=False, grid=(2, 3)).shape
    (2, 2, 3, 4)
  """
  tokens = jnp.asarray(tokens)
  if tokens.ndim != 3:
    raise checks.wrong_shape('tokens', tokens, '[B, T, C]')
  if drop_cls:
    tokens = tokens[:, 1:]
  B, T, C = tokens.shape
  h, w = (math.isqrt(T),) * 2 if grid is None else _pair(grid, 'grid')
  if h * w != T or not T:
    shape = 'a square' if grid is None else f'a grid of {h}x{w}'
    raise UsageError(
      f'{T} patch tokens ({"without" if drop_cls else "no"} class token) do '
      f'not fill {shape}'
    )
  return tokens.reshape(B, h, w, C)


def upsample(maps: ArrayLike, size: tuple[int, int]) -> jax.Array:
  """Enlarges maps to the size of the images, bilinearly.

  Pixels are squares whose values stand at their centres, as in OpenCV and in
  torch with `align_corners=False`.

  Args:
    maps: floating point `[B, h, w]`.
    size: height and width wanted, at least those of the maps.

  Examples:
    >>> upsample(jnp.array([[[0.0, 1.0]]]), (1, 4))
    Array([[[0.  , 0.25, 0.75, 1.  ]]], dtype=float32)
  """
  maps = jnp.asarray(maps)
  if maps.ndim != 3 or 0 in maps.shape:
    raise checks.wrong_shape('maps', maps, '[B, h, w]')
  h, w = _pair(size, 'size')
  if h < maps.shape[1] or w < maps.shape[2]:
    raise UsageError(
      f'size is {h}x{w}; expected at least that of the maps, '
      f'{maps.shape[1]}x{maps.shape[2]}'
    )
  return jax.image.resize(maps, (len(maps), h, w), 'bilinear', antialias=False)


def _pair(sizes: Sequence[int], name: str) -> tuple[int, int]:
  """Checks two whole numbers from 1 on."""
  if np.ndim(sizes) != 1 or len(sizes) != 2:
    raise UsageError(f'{name} is {sizes!r}; expected rows and columns')
  return integer(name, sizes[0], low=1), integer(name, sizes[1], low=1)


def _check_finite(name: str, values: jax.Array) -> None:
  """Refuses NaN and infinity, where values are known."""
  known = not isinstance(values, jax.core.Tracer)
  if known and not jnp.isfinite(values).all():
    raise UsageError(f'{name} are not all finite')
