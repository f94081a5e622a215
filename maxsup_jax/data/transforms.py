"""Crops, shifts, mirror images and rotations."""

import dataclasses
from typing import Any

import cv2
import numpy as np
from PIL import Image

from maxsup_jax.data import _pillow
from maxsup_jax.data._operation import (
  Operation,
  check_bytes,
  check_pair,
  check_pixels,
  per_channel,
)
from maxsup_jax.data.sources import IGNORED
from maxsup_jax.errors import UsageError, integer, number


def to_channels(image: np.ndarray, channels: int) -> np.ndarray:
  """Repeats the channel of a grey image, uint8 `[H, W, C]`.

  Raises:
    ValueError: if `image` has neither one channel nor `channels`.
  """
  if image.shape[-1] == channels:
    return image
  if image.shape[-1] != 1:
    raise ValueError(
      f'an image of {image.shape[-1]} channels cannot be converted to '
      f'{channels}'
    )
  return np.repeat(image, channels, axis=-1)


def center_crop(image: np.ndarray, size: int, fill: int = 0) -> np.ndarray:
  """Cuts out the central square, as torchvision does.

  The square begins at `round((H - size) / 2)`, a half being rounded to the
  even number, and likewise along W. A side that is too short is first extended
  with zeros, an odd one of them going below or to the right.

  Args:
    image: `[H, W, C]`.
    size: the side of the square.
    fill: what stands in place of the zeros.

  Returns:
    `[size, size, C]`, a view where nothing had to be added.

  Examples:
    >>> image = np.arange(5, dtype=np.uint8).reshape(1, 5, 1)
    >>> center_crop(image, 2)[..., 0]
    array([[2, 3],
           [0, 0]], dtype=uint8)
  """
  height, width, channels = image.shape
  if min(height, width) < size:
    padded = np.full(
      (max(height, size), max(width, size), channels), fill, image.dtype
    )
    top, left = max(size - height, 0) // 2, max(size - width, 0) // 2
    padded[top : top + height, left : left + width] = image
    image = padded
    height, width, _ = image.shape
  top, left = round((height - size) / 2), round((width - size) / 2)
  return image[top : top + size, left : left + size]


@dataclasses.dataclass(frozen=True)
class CenterCrop(
  Operation,
  name='center_crop',
  random=False,
  takes_floats=True,
  takes_labels=True,
):
  """The operation `center_crop`: see the function of that name.

  Attributes:
    size: the side of the square.
  """

  size: int

  def _check(self) -> None:
    check_pixels('size', self.size)

  def _apply(self, image: np.ndarray, rng: Any) -> np.ndarray:
    return center_crop(image, self.size)

  def with_labels(
    self, image: np.ndarray, labels: np.ndarray, rng: Any = None
  ) -> tuple[np.ndarray, np.ndarray]:
    """The central squares."""
    cropped = center_crop(labels[..., None], self.size, IGNORED)[..., 0]
    return center_crop(image, self.size), cropped


@dataclasses.dataclass(frozen=True)
class RandomCrop(
  Operation, name='random_crop', takes_floats=True, takes_labels=True
):
  """The operation `random_crop`: a square, each place being equally likely.

  Of images with labels that are smaller than the square, all is kept: `pad`
  makes them as large. Squares in which one class has too large a share of the
  pixels that count, or in which there is no other, are drawn again, up to ten
  times; the eleventh is taken as it is.

  Attributes:
    size: the side of the square.
    padding: the number of zeros that are added to each side first; their label
      is 255.
    cat_max_ratio: the share, below which one class must stay; 1 takes the first
      square. Only for images with labels.

  Examples:
    >>> image = np.arange(12, dtype=np.uint8).reshape(3, 4, 1)
    >>> RandomCrop(2)(image, np.random.default_rng(0))[..., 0]
    array([[ 5,  6],
           [ 9, 10]], dtype=uint8)

  References: `cat_max_ratio` is that of mmsegmentation's RandomCrop.
  """

  size: int
  padding: int = 0
  cat_max_ratio: float = 1.0

  def _check(self) -> None:
    check_pixels('size', self.size)
    check_pixels('padding', self.padding, 0)
    number('cat_max_ratio', self.cat_max_ratio, above=0, high=1)

  def _apply(self, image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    size, padding = self.size, self.padding
    if self.cat_max_ratio < 1:
      raise UsageError('random_crop: cat_max_ratio needs a label map')
    if padding:
      image = np.pad(image, ((padding, padding), (padding, padding), (0, 0)))
    height, width, _ = image.shape
    if min(height, width) < size:
      added = f' (with padding={padding})' if padding else ''
      raise UsageError(
        f'random_crop: a {height}x{width} image{added} has no {size}x{size} '
        'crop'
      )
    return image[self._window(height, width, rng)]

  def with_labels(
    self, image: np.ndarray, labels: np.ndarray, rng: Any = None
  ) -> tuple[np.ndarray, np.ndarray]:
    """The same square of both."""
    if padding := self.padding:
      edges = (padding, padding), (padding, padding)
      image = np.pad(image, (*edges, (0, 0)))
      labels = np.pad(labels, edges, constant_values=IGNORED)
    H, W = labels.shape
    window = self._window(H, W, rng)
    for _ in range(10 if self.cat_max_ratio < 1 else 0):
      counts = np.bincount(labels[window].ravel(), minlength=256)[:IGNORED]
      if counts.max() < min(self.cat_max_ratio * counts.sum(), counts.sum()):
        break
      window = self._window(H, W, rng)
    return image[window], labels[window]

  def _window(
    self, height: int, width: int, rng: np.random.Generator
  ) -> tuple[slice, slice]:
    top = int(rng.integers(max(height - self.size, 0) + 1))
    left = int(rng.integers(max(width - self.size, 0) + 1))
    return slice(top, top + self.size), slice(left, left + self.size)


@dataclasses.dataclass(frozen=True)
class Pad(Operation, name='pad', random=False, takes_labels=True):
  """The operation `pad`: makes images at least so large, below and right.

  Attributes:
    height: the least height, in pixels.
    width: the least width; None for the same.
    fill: 'mean' for the mean colour of the data set, `round(255 * mean)`, so
      nearly 0 once images are normalised; or a grey level from 0 to 255. The
      labels are 255.
    mean: of the data set, per channel or one for all, in [0, 1].

  Examples:
    >>> image, labels = np.ones((1, 2, 1), np.uint8), np.ones((1, 2), np.uint8)
    >>> pad = Pad(2, 3, mean=(0.5,))
    >>> image, labels = pad.with_labels(image, labels)
    >>> image[..., 0].tolist(), labels.tolist()
    ([[1, 1, 128], [128, 128, 128]], [[1, 1, 255], [255, 255, 255]])
  """

  height: int
  width: int | None = None
  fill: str | int = 'mean'
  mean: tuple[float, ...] = (0.0,)

  def _check(self) -> None:
    check_pixels('height', self.height)
    if self.width is not None:
      check_pixels('width', self.width)
    if self.fill != 'mean':
      expected = "'mean', or a grey level from 0 to 255"
      integer('fill', self.fill, 0, 255, expected=expected)

  def _apply(self, image: np.ndarray, rng: Any) -> np.ndarray:
    check_bytes('pad', image)
    color: Any = self.fill
    if self.fill == 'mean':
      mean = per_channel('mean', self.mean, image.shape[-1])
      color = [min(255, round(255 * x)) for x in mean]
    return self._padded(image, color)

  def with_labels(
    self, image: np.ndarray, labels: np.ndarray, rng: Any = None
  ) -> tuple[np.ndarray, np.ndarray]:
    """Both, padded."""
    return self._apply(image, rng), self._padded(labels, IGNORED)

  def _padded(self, pixels: np.ndarray, value: Any) -> np.ndarray:
    height, width = pixels.shape[:2]
    least = self.height, self.width or self.height
    if height >= least[0] and width >= least[1]:
      return pixels
    shape = max(height, least[0]), max(width, least[1]), *pixels.shape[2:]
    padded = np.empty(shape, pixels.dtype)
    padded[:] = value
    padded[:height, :width] = pixels
    return padded


@dataclasses.dataclass(frozen=True)
class PadAndCrop(Operation, name='pad_and_crop', takes_floats=True):
  """The operation `pad_and_crop`: a window of an image surrounded with zeros.

  The same as a shift by up to `padding` pixels along each axis, uniform, and
  filled with zeros: the augmentation of the CIFAR recipes (padding 4).

  Attributes:
    padding: the largest shift, in pixels.

  Examples:
    >>> image = np.full((2, 4, 1), 7, np.uint8)
    >>> PadAndCrop(1)(image, np.random.default_rng(0))[..., 0]
    array([[0, 0, 0, 0],
           [7, 7, 7, 7]], dtype=uint8)
  """

  padding: int

  def _check(self) -> None:
    check_pixels('padding', self.padding, 0)

  def _apply(self, image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    height, width, _ = image.shape
    down = int(rng.integers(-self.padding, self.padding + 1))
    right = int(rng.integers(-self.padding, self.padding + 1))
    # Copying the part that stays is faster than padding and cropping.
    shifted = np.zeros_like(image)
    shifted[
      max(down, 0) : max(height + down, 0),
      max(right, 0) : max(width + right, 0),
    ] = image[
      max(-down, 0) : max(height - down, 0),
      max(-right, 0) : max(width - right, 0),
    ]
    return shifted


@dataclasses.dataclass(frozen=True)
class Flip(Operation, name='flip', takes_floats=True, takes_labels=True):
  """The operation `flip`: mirrors an image, left to right, now and then.

  Digits and letters are not symmetric: leave it out there.

  Attributes:
    probability: of the mirror image; in [0, 1].

  Examples:
    >>> image = np.arange(3, dtype=np.uint8).reshape(1, 3, 1)
    >>> Flip(probability=1.0)(image, np.random.default_rng(0)).ravel()
    array([2, 1, 0], dtype=uint8)
  """

  probability: float = 0.5

  def _check(self) -> None:
    number('probability', self.probability, 0, 1)

  def _apply(self, image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    if rng.random() >= self.probability:
      return image
    # A mirrored view would be free, but slow to copy into the batch.
    return cv2.flip(image, 1).reshape(image.shape)

  def with_labels(
    self, image: np.ndarray, labels: np.ndarray, rng: Any = None
  ) -> tuple[np.ndarray, np.ndarray]:
    """Both mirrored, or none."""
    if rng.random() >= self.probability:
      return image, labels
    return cv2.flip(image, 1).reshape(image.shape), cv2.flip(labels, 1)


@dataclasses.dataclass(frozen=True)
class Rotate(Operation, name='rotate'):
  """The operation `rotate`: a random angle, as torchvision's RandomRotation.

  Each pixel is the nearest one of the image; the corners it leaves are zeros.

  Attributes:
    degrees: the angle, counter-clockwise, is uniform in `[-degrees, degrees]`,
      or in `[low, high]` for two numbers; at most 360.

  Examples:
    >>> image = np.arange(4, dtype=np.uint8).reshape(2, 2, 1)
    >>> Rotate((90, 90))(image, np.random.default_rng(0))[..., 0]
    array([[1, 3],
           [0, 2]], dtype=uint8)
  """

  degrees: float | tuple[float, float]

  def _check(self) -> None:
    if isinstance(self.degrees, tuple):
      check_pair('degrees', self.degrees, -360, 360)
    else:
      number('degrees', self.degrees, 0, 360)

  def _apply(self, image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    if isinstance(self.degrees, tuple):
      low, high = self.degrees
    else:
      low, high = -self.degrees, self.degrees
    angle = float(rng.uniform(low, high))
    pillow = _pillow.to_pillow(image, 'rotate')
    return _pillow.to_array(pillow.rotate(angle, Image.Resampling.NEAREST))
