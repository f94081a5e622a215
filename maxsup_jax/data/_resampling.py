"""Pillow's bilinear and bicubic filters, compiled for the processor at hand.

The same integer arithmetic as Pillow's, so the same pixels to the bit, several
times as fast: Numba makes vector instructions of the loops, Pillow has none.
Without Numba, and beside a Pillow that computes otherwise, Pillow itself does
the work.

A new pixel is a weighted sum over the old ones that a filter covers, first
along the rows and then along the columns, or the other way round where that is
less work. Weights are multiples of 2**-22, and the sums are rounded to bytes
after each of the two passes.
"""

import functools
import math
import types

import cv2
import numpy as np
from PIL import Image

from maxsup_jax.data import _optional, _pillow

_BITS = 22

# How far each filter reaches, in pixels of the smaller of the two images.
_REACH = {'bilinear': 1.0, 'bicubic': 2.0}


def resize(
  image: np.ndarray, height: int, width: int, interpolation: str
) -> np.ndarray | None:
  """Scales an image, uint8 `[H, W, 1]` or `[H, W, 3]`, as Pillow does.

  Returns:
    uint8 `[height, width, C]`, or None where Pillow has to do it.
  """
  kernels = usable() if interpolation in _REACH else None
  if kernels is None:
    return None
  return _resize(kernels, image, height, width, interpolation)


def usable() -> types.SimpleNamespace | None:
  """What Numba compiles, if it is there and gives Pillow's pixels."""
  numba = _optional.numba()
  return None if numba is None else _checked_kernels(numba)


def _resize(
  kernels: types.SimpleNamespace,
  image: np.ndarray,
  height: int,
  width: int,
  interpolation: str,
) -> np.ndarray:
  reach = _REACH[interpolation]
  H, W, _ = image.shape
  # The rule of Pillow 13.
  columns_first = H - height > max(0, 2 * (W - width))
  if columns_first:
    image = _columns(kernels, image, height, reach)
  if width != W:
    # The sums run along the first axis, over whole rows at a time.
    image = _turned(_columns(kernels, _turned(image), width, reach))
  if not columns_first:
    image = _columns(kernels, image, height, reach)
  return image


def _turned(image: np.ndarray) -> np.ndarray:
  """Exchanges the two axes of an image."""
  height, width, channels = image.shape
  return cv2.transpose(image).reshape(width, height, channels)


def _columns(
  kernels: types.SimpleNamespace, image: np.ndarray, height: int, reach: float
) -> np.ndarray:
  """Scales an image along its first axis."""
  H, W, C = image.shape
  if height == H:
    return image
  scaled = np.empty((height, W * C), np.uint8)
  rows = np.ascontiguousarray(image).reshape(H, W * C)
  kernels.combine(rows, *kernels.weights(H, height, reach), scaled)
  return scaled.reshape(height, W, C)


@functools.cache
def _checked_kernels(numba: types.ModuleType) -> types.SimpleNamespace | None:
  """The kernels, if they give what the installed Pillow gives."""
  kernels = _compiled(numba)
  noise = np.random.default_rng(0).integers(0, 256, (97, 64, 3), np.uint8)
  # Both orders of the passes, and both directions.
  for interpolation in _REACH:
    for height, width in ((40, 30), (30, 60), (130, 80), (96, 64), (20, 70)):
      expected = Image.fromarray(noise).resize(
        (width, height), _pillow.RESAMPLING[interpolation]
      )
      found = _resize(kernels, noise, height, width, interpolation)
      if not np.array_equal(found, np.asarray(expected)):
        return None
  return kernels


def _compiled(numba: types.ModuleType) -> types.SimpleNamespace:
  """Compiles the kernels, or reads them from Numba's cache."""
  njit, t = numba.njit, numba.types
  found = t.int32[::1], t.int32[::1], t.int32[:, ::1]
  # Nobody may write to decoded images.
  rows = t.Array(t.uint8, 2, 'C', readonly=True)
  signatures = {
    _weights: t.Tuple(found)(t.int64, t.int64, t.float64),
    _combine: t.void(rows, *found, t.uint8[:, ::1]),
  }
  made = {}
  for function, signature in signatures.items():
    try:
      compiled = njit(signature, nogil=True, cache=True)(function)
    except RuntimeError:  # There is no directory that it could write to.
      compiled = njit(signature, nogil=True)(function)
    made[function.__name__.strip('_')] = compiled
  return types.SimpleNamespace(**made)


def _weights(
  size: int, new_size: int, reach: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """Of each new pixel: the first old one, their number, and their weights."""
  scale = size / new_size
  stretch = max(scale, 1.0)
  reach_in_old = reach * stretch
  first = np.empty(new_size, np.int32)
  count = np.empty(new_size, np.int32)
  most = 2 * math.ceil(reach_in_old) + 1
  fixed = np.zeros((new_size, most), np.int32)
  exact = np.empty(most, np.float64)
  for i in range(new_size):
    center = (i + 0.5) * scale
    low = max(int(center - reach_in_old + 0.5), 0)
    high = min(int(center + reach_in_old + 0.5), size)
    total = 0.0
    for j in range(high - low):
      x = abs((low + j - center + 0.5) * (1.0 / stretch))
      if x >= reach:
        weight = 0.0
      elif reach == 1.0:
        weight = 1.0 - x
      elif x < 1.0:  # Keys' cubic, with a = -1/2.
        weight = (1.5 * x - 2.5) * x * x + 1.0
      else:
        weight = (((x - 5.0) * x + 8.0) * x - 4.0) * -0.5
      exact[j] = weight
      total += weight
    for j in range(high - low):
      weight = exact[j] / total if total != 0.0 else exact[j]
      half = 0.5 if weight >= 0.0 else -0.5
      fixed[i, j] = int(weight * (1 << _BITS) + half)
    first[i] = low
    count[i] = high - low
  return first, count, fixed


def _combine(
  rows: np.ndarray,
  first: np.ndarray,
  count: np.ndarray,
  fixed: np.ndarray,
  out: np.ndarray,
) -> None:
  """Each new row is a weighted sum of old ones."""
  new_size, length = out.shape
  sums = np.empty(length, np.int32)
  for i in range(new_size):
    sums[:] = 1 << (_BITS - 1)
    for j in range(count[i]):
      weight = fixed[i, j]
      row = rows[first[i] + j]
      for x in range(length):
        sums[x] += weight * np.int32(row[x])
    line = out[i]
    for x in range(length):
      line[x] = min(max(sums[x] >> _BITS, 0), 255)
