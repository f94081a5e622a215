"""Filled polygons to pixels, in integer arithmetic."""

import numpy as np

# Samples per pixel along each axis, and positions per sample spacing.
_SAMPLES = 4
_GRID = 256

FULL = _SAMPLES**2


def coverage(edges: np.ndarray, size: int) -> np.ndarray:
  """How much of each pixel lies inside of polygons (nonzero winding rule).

  The corners are rounded to a grid of 1/1024 of a pixel; everything after that
  is exact: a pixel counts which of its 4x4 sample points lie inside.

  Args:
    edges: float64 `[E, 2, 2]`, closed polygons as edges from (x, y) to (x, y),
      in pixels: the image is the square from (0, 0) to (size, size), y points
      downwards. What is outside of it is cut off.
    size: the side of the image.

  Returns:
    int64 `[size, size]`, from 0 to `FULL`, which is 16.

  Examples:
    >>> corners = np.array([[0.5, 0], [2, 0], [2, 1], [0.5, 1]])
    >>> coverage(np.stack([corners, np.roll(corners, -1, axis=0)], axis=1), 2)
    array([[ 8, 16],
           [ 0,  0]])
  """
  grid = np.rint(edges * float(_SAMPLES * _GRID)).astype(np.int64)
  x0, y0 = grid[:, 0].T
  x1, y1 = grid[:, 1].T
  # The rows of samples that each edge crosses: low ends included, high ends
  # not, so that each crossing of a contour counts once.
  samples = size * _SAMPLES
  y_rows = np.arange(samples) * _GRID + _GRID // 2
  crosses = (y0[:, None] <= y_rows) != (y1[:, None] <= y_rows)
  edge, row = np.nonzero(crosses)
  dx, dy = (x1 - x0)[edge], (y1 - y0)[edge]
  sign = np.sign(dy)
  # The first sample whose x is at least that of the crossing,
  # x0 + (y - y0) dx / dy.
  numerator = (x0[edge] - _GRID // 2) * dy + (y_rows[row] - y0[edge]) * dx
  column = -((-numerator * sign) // (np.abs(dy) * _GRID))
  flat = row * (samples + 1) + np.clip(column, 0, samples)
  # Winding numbers: what begins at a crossing, summed from the left.
  length = samples * (samples + 1)
  begins = np.bincount(flat[sign > 0], minlength=length) - np.bincount(
    flat[sign < 0], minlength=length
  )
  winding = np.cumsum(begins.reshape(samples, samples + 1), axis=1)
  inside = winding[:, :samples] != 0
  return inside.reshape(size, _SAMPLES, size, _SAMPLES).sum((1, 3))
