"""Convolutions whose kernel gradient is fast on CPUs, too.

On a CPU, XLA (jaxlib 0.10.2) computes forward convolutions and their gradients
with respect to the input at 30 to 60 GFLOP/s a core, but the gradient with
respect to the kernel at 2 to 5 where the kernel is 1x1, and often on one core.
As matrix products over all positions it runs at 20 to 50. Other platforms
compile what they would compile without this file.
"""

import contextlib
import functools
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

_Strides = tuple[int, int]
_Padding = tuple[tuple[int, int], tuple[int, int]]
_LAYOUT = ('NHWC', 'HWIO', 'NHWC')
# Maps of so many positions are multiplied image by image: they fill the caches.
_LARGE_MAP = 40 * 40
# Up to so many channels, the taps of a kernel are joined to fewer products.
_FEW_CHANNELS = 128

_all_native = False


@contextlib.contextmanager
def native_convolutions() -> Iterator[None]:
  """Traces convolutions as XLA has them, on CPUs as well.

  For forward-mode derivatives (`jax.jvp`, `jax.jacfwd`, `jax.linearize`) of a
  model, which JAX does not take of functions with a gradient of their own.
  Reverse mode and forward over reverse need no such care. A function that was
  traced before stays as it was.
  """
  global _all_native
  before, _all_native = _all_native, True
  try:
    yield
  finally:
    _all_native = before


def convolve(
  images: jax.Array,
  kernel: jax.Array,
  window_strides: Any,
  padding: Any,
  lhs_dilation: Any = None,
  rhs_dilation: Any = None,
  dimension_numbers: Any = None,
  feature_group_count: int = 1,
  **options: Any,
) -> jax.Array:
  """`lax.conv_general_dilated`, as `flax.linen.Conv` calls it.

  Args:
    images: `[N, H, W, C]`.
    kernel: `[h, w, C, F]`.
    window_strides: two numbers.
    padding: pairs of numbers, or a name as `lax` knows it.
    lhs_dilation: likewise.
    rhs_dilation: likewise.
    dimension_numbers: those of Flax.
    feature_group_count: grouped convolutions stay XLA's.
    **options: of `lax.conv_general_dilated`; with any but `precision` the
      convolution stays XLA's.

  Returns:
    `[N, H', W', F]`.
  """
  native: Any = functools.partial(
    lax.conv_general_dilated,
    window_strides=window_strides,
    lhs_dilation=lhs_dilation,
    rhs_dilation=rhs_dilation,
    dimension_numbers=dimension_numbers,
    feature_group_count=feature_group_count,
    **options,
  )
  dilated = {*(lhs_dilation or (1,)), *(rhs_dilation or (1,))} != {1}
  others = {n for n, v in options.items() if v is not None} - {'precision'}
  unusual = dilated or others or feature_group_count > 1 or images.ndim != 4
  if _all_native or unusual:
    return native(images, kernel, padding=padding)
  strides: _Strides = tuple(window_strides)
  if isinstance(padding, str):
    padding = lax.padtype_to_pads(
      images.shape[1:3], kernel.shape[:2], strides, padding
    )
  pads = tuple(tuple(int(p) for p in pair) for pair in padding)
  return _convolve(images, kernel, strides, pads, options.get('precision'))


def _native(
  images: jax.Array,
  kernel: jax.Array,
  strides: _Strides,
  padding: _Padding,
  precision: Any,
) -> jax.Array:
  return lax.conv_general_dilated(
    images,
    kernel,
    strides,
    padding,
    dimension_numbers=_LAYOUT,
    precision=precision,
  )


_convolve = jax.custom_vjp(_native, nondiff_argnums=(2, 3, 4))


def _forward(
  images: jax.Array, kernel: jax.Array, *static: Any
) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
  return _native(images, kernel, *static), (images, kernel)


def _backward(
  strides: _Strides,
  padding: _Padding,
  precision: Any,
  saved: tuple[jax.Array, jax.Array],
  gradient: jax.Array,
) -> tuple[jax.Array, jax.Array]:
  images, kernel = saved
  static = strides, padding, precision

  def native(images, kernel, gradient):
    _, pull = jax.vjp(lambda k: _native(images, k, *static), kernel)
    return pull(gradient)[0]

  def products(images, kernel, gradient):
    size = kernel.shape[:2]
    found = kernel_gradient(images, gradient, size, *static)
    return found.astype(kernel.dtype)

  # In the order of JAX's own derivative, so that other platforms see no change.
  of_kernel = lax.platform_dependent(
    images, kernel, gradient, cpu=products, default=native
  )
  _, pull = jax.vjp(lambda x: _native(x, kernel, *static), images)
  return pull(gradient)[0], of_kernel


_convolve.defvjp(_forward, _backward)


def kernel_gradient(
  images: jax.Array,
  gradient: jax.Array,
  size: tuple[int, int],
  strides: _Strides,
  padding: _Padding,
  precision: Any = None,
) -> jax.Array:
  r"""The gradient of a convolution with respect to its kernel, as products.

  .. math::
    \nabla K_{ij} = \sum_{n,p,q} x_{n,\,s p + i,\,s q + j}\; g_{n,p,q}^\top

  with the padded images x and the gradient g of the output: one product for
  each tap (i, j). With few channels these are too thin to be fast. Then the
  horizontal taps are joined along the channels of x, and the vertical ones
  along those of g, and a single product `[wC, hF]` holds all.

  Args:
    images: `[N, H, W, C]`.
    gradient: `[N, H', W', F]`.
    size: of the kernel, h and w.
    strides: vertical and horizontal.
    padding: of the images: top and bottom, left and right.
    precision: of the products.

  Returns:
    `[h, w, C, F]` in float32.
  """
  (h, w), (H, W) = size, gradient.shape[1:3]
  C, F = images.shape[-1], gradient.shape[-1]
  x = images.astype(jnp.float32)
  g = gradient.astype(jnp.float32)
  x = jnp.pad(x, ((0, 0), *padding, (0, 0)))
  joined = strides == (1, 1) and h * w > 1 and max(C, F) <= _FEW_CHANNELS

  def product(a, b):
    if H * W >= _LARGE_MAP and not joined:
      each = jnp.einsum('npqc,npqf->ncf', a, b, precision=precision)
      return each.sum(0)
    a, b = (t.reshape(-1, t.shape[-1]) for t in (a, b))
    return jnp.einsum('pc,pf->cf', a, b, precision=precision)

  if joined:
    rows = H + h - 1
    x = jnp.concatenate([x[:, :rows, j : j + W] for j in range(w)], -1)
    g = jnp.pad(g, ((0, 0), (h - 1, h - 1), (0, 0), (0, 0)))
    g = jnp.concatenate(
      [g[:, h - 1 - i : h - 1 - i + rows] for i in range(h)], -1
    )
    return product(x, g).reshape(w, C, h, F).transpose(2, 0, 1, 3)
  down, right = strides

  def shifted(i, j):
    """What the tap (i, j) has seen."""
    rows, columns = i + down * (H - 1) + 1, j + right * (W - 1) + 1
    return x[:, i:rows:down, j:columns:right]

  taps = [product(shifted(i, j), g) for i in range(h) for j in range(w)]
  return jnp.stack(taps).reshape(h, w, C, F)
