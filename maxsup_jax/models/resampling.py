"""Feature maps in another resolution, with the numbers that PyTorch gives.

Positions are the centres of pixels ('align_corners=False'), and nothing is
smoothed before it shrinks. Every function is linear along height and width, and
computed as two products with small matrices.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np

from maxsup_jax.errors import UsageError, one_of

# Of positions: torch's and mmsegmentation's way, and timm's.
RESIZINGS = ('bicubic', 'antialias')


def resize_bilinear(x_BHWC: jax.Array, size: tuple[int, int]) -> jax.Array:
  """Resizes maps, `[B, H, W, C]` to `[B, h, w, C]`, of the same dtype.

  `torch.nn.functional.interpolate(x, size, mode='bilinear')`.

  Examples:
    >>> row = jnp.array([0.0, 4.0]).reshape(1, 1, 2, 1)
    >>> print(resize_bilinear(row, (1, 4)).ravel())
    [0. 1. 3. 4.]
  """
  rows, columns = (
    _bilinear(n, m, m / n) for n, m in zip(x_BHWC.shape[1:3], size)
  )
  return _products(rows, x_BHWC, columns)


def rescale_bilinear(x_BHWC: jax.Array, factor: float) -> jax.Array:
  """Resizes maps by a factor, to the whole part of the new height and width.

  `torch.nn.functional.interpolate(x, scale_factor=factor, mode='bilinear')`:
  the factor itself is the distance of what is sampled, also where the new size
  is not that many times the old one, as when an odd size is halved.

  Examples:
    >>> row = jnp.arange(5.0).reshape(1, 1, 5, 1)
    >>> print(rescale_bilinear(jnp.tile(row, (1, 2, 1, 1)), 0.5).ravel())
    [0.5 2.5]
  """
  rows, columns = (
    _bilinear(n, math.floor(n * factor), factor) for n in x_BHWC.shape[1:3]
  )
  return _products(rows, x_BHWC, columns)


def average_pool(x_BHWC: jax.Array, side: int) -> jax.Array:
  """Averages over side x side windows, `[B, H, W, C]` to `[B, s, s, C]`.

  `torch.nn.functional.adaptive_avg_pool2d`: window i of n pixels is from
  ⌊i n/s⌋ to ⌈(i+1) n/s⌉, so that windows overlap where s does not divide n.

  Examples:
    >>> x = jnp.arange(4.0).reshape(1, 2, 2, 1)
    >>> print(average_pool(x, 1).ravel())
    [1.5]
  """
  rows, columns = (_averages(n, side) for n in x_BHWC.shape[1:3])
  return _products(rows, x_BHWC, columns)


def resize_positions(
  positions_1ND: jax.Array, grid: tuple[int, int], method: str = 'bicubic'
) -> jax.Array:
  """Learned positions of a square grid of patches, for another grid.

  Args:
    positions_1ND: `[1, 1 + n * n, D]`; that of the class token, the first,
      stays as it is.
    grid: how many patches there are, down and across.
    method: 'bicubic' as torch has it (a = -0.75, the border repeated, not
      smoothed where it shrinks) and mmsegmentation uses it; 'antialias' for
      torch's with `antialias=True` (a = -0.5), which timm uses.

  Returns:
    `[1, 1 + h * w, D]`; the positions themselves if the grid is theirs.

  Raises:
    UsageError: for an unknown method, or if the positions are not of a square.

  Examples:
    >>> resize_positions(jnp.ones((1, 1 + 4 * 4, 8)), (3, 5)).shape
    (1, 16, 8)
  """
  one_of('method', method, RESIZINGS)
  side = math.isqrt(positions_1ND.shape[1] - 1)
  if side**2 != positions_1ND.shape[1] - 1:
    raise UsageError(
      f'positions were learned for {positions_1ND.shape[1] - 1} patches; '
      'expected a square of patches, to resize them'
    )
  if grid == (side, side):
    return positions_1ND
  D = positions_1ND.shape[-1]
  square = positions_1ND[0, 1:].reshape(side, side, D)
  if method == 'antialias':
    found = jax.image.resize(square, (*grid, D), 'cubic', antialias=True)
  else:
    rows, columns = (_bicubic(side, n) for n in grid)
    found = _products(rows, square[None], columns)
  return jnp.concatenate(
    [positions_1ND[:, :1], found.reshape(1, -1, D)], axis=1
  )


def _products(
  rows_hH: np.ndarray, x_BHWC: jax.Array, columns_wW: np.ndarray
) -> jax.Array:
  """Mixes the rows and the columns of maps, to `[B, h, w, C]`."""
  dtype = x_BHWC.dtype
  return jnp.einsum(
    'hH,BHWC,wW->BhwC',
    jnp.asarray(rows_hH, dtype),
    x_BHWC,
    jnp.asarray(columns_wW, dtype),
    precision=jax.lax.Precision.HIGHEST,
  )


def _bilinear(n: int, m: int, factor: float) -> np.ndarray:
  """The matrix `[m, n]` that joins the two nearest positions."""
  at = np.clip((np.arange(m) + 0.5) / factor - 0.5, 0, n - 1)
  return np.maximum(1 - abs(at[:, None] - np.arange(n)), 0)


def _averages(n: int, side: int) -> np.ndarray:
  """The matrix `[side, n]` that averages over windows."""
  i, at = np.arange(side)[:, None], np.arange(n)
  inside = (at >= i * n // side) & (at < -(-(i + 1) * n // side))
  return inside / inside.sum(1, keepdims=True)


def _bicubic(n: int, m: int) -> np.ndarray:
  """The matrix `[m, n]` of cubic convolution with a = -0.75."""
  a = -0.75
  centre = (np.arange(m) + 0.5) * n / m - 0.5
  first = np.floor(centre).astype(int)
  matrix = np.zeros((m, n))
  for step in (-1, 0, 1, 2):
    x = abs(centre - first - step)
    near = ((a + 2) * x - (a + 3)) * x * x + 1
    far = ((a * x - 5 * a) * x + 8 * a) * x - 4 * a
    taken = np.clip(first + step, 0, n - 1)
    np.add.at(matrix, (np.arange(m), taken), np.where(x <= 1, near, far))
  return matrix
