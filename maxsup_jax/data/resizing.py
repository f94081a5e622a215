"""Resizing as Pillow does it, and the random crops of ImageNet's recipes.

Pillow's bilinear and bicubic filters widen where an image shrinks, so nothing
aliases; torchvision's results on Pillow's images are these, to the bit. The
interpolation 'area' is OpenCV's and faster: the mean over the area of each new
pixel where both sides shrink (bilinear, without a wider filter, otherwise).
"""

import dataclasses
import math
from typing import Any

import cv2
import numpy as np

from maxsup_jax.data import _pillow, _resampling
from maxsup_jax.data._operation import (
  Operation,
  check_bytes,
  check_pair,
  check_pixels,
)
from maxsup_jax.data.decoding import EncodedImage
from maxsup_jax.errors import UsageError, boolean, one_of

INTERPOLATIONS = ('nearest', 'bilinear', 'bicubic', 'area')


def resize(
  image: np.ndarray, size: int, interpolation: str = 'bilinear'
) -> np.ndarray:
  """Scales an image so that its shorter side has `size` pixels.

  The longer side becomes `int(size * longer / shorter)`, as in torchvision.

  Arguments, result and errors are those of `resize_exact`.

  Examples:
    >>> resize(np.zeros((30, 61, 3), np.uint8), 10).shape
    (10, 20, 3)
  """
  height, width, _ = image.shape
  if height < width:
    return resize_exact(image, size, int(size * width / height), interpolation)
  return resize_exact(image, int(size * height / width), size, interpolation)


def resize_exact(
  image: np.ndarray,
  height: int,
  width: int | None = None,
  interpolation: str = 'bilinear',
) -> np.ndarray:
  """Scales an image to a given height and width, whatever its aspect.

  Args:
    image: uint8 `[H, W, C]`.
    height: the new height.
    width: the new width; None for a square.
    interpolation: 'nearest', 'bilinear', 'bicubic' or 'area'.

  Returns:
    uint8 `[height, width, C]`; `image` itself where it has this shape.

  Raises:
    UsageError: if the result would have more than 89 million pixels.

  Examples:
    >>> ramp = np.array([[0, 80], [0, 80]], np.uint8)[..., None]
    >>> resize_exact(ramp, 1, 4)[..., 0]
    array([[ 0, 20, 60, 80]], dtype=uint8)
  """
  width = height if width is None else width
  if image.shape[:2] == (height, width):
    return image
  _check_size(image, height, width)
  if interpolation == 'area':
    shrinks = height <= image.shape[0] and width <= image.shape[1]
    scaled = cv2.resize(
      image,
      (width, height),
      interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR,
    )
    return scaled.reshape(height, width, -1)  # OpenCV drops a single channel.
  if image.shape[-1] not in (1, 3):
    # Pillow's modes give a meaning to the channels; the filters do not.
    bands = [
      resize_exact(image[..., c : c + 1], height, width, interpolation)
      for c in range(image.shape[-1])
    ]
    return np.concatenate(bands, axis=-1)
  if image.dtype == np.uint8:
    fast = _resampling.resize(image, height, width, interpolation)
    if fast is not None:
      return fast
  pillow = _pillow.to_pillow(image, 'resize')
  return _pillow.to_array(
    pillow.resize((width, height), _pillow.RESAMPLING[interpolation])
  )


def _check_size(image: np.ndarray, height: int, width: int) -> None:
  # An image of one pixel by thousands would fill the memory.
  if height * width > _pillow.MAX_PIXELS:
    raise UsageError(
      f'resize would make {height}x{width} pixels of an image of '
      f'{image.shape[0]}x{image.shape[1]}; expected at most '
      f'{_pillow.MAX_PIXELS} pixels'
    )


def resize_labels(labels: np.ndarray, height: int, width: int) -> np.ndarray:
  """Scales a label map, uint8 `[H, W]`: each new pixel is one of the old ones.

  Row i is row `floor(i * H / height)`, as OpenCV rounds it and mmsegmentation
  has it; Pillow and PyTorch's 'nearest-exact' look half a pixel further.

  Examples:
    >>> resize_labels(np.arange(5, dtype=np.uint8)[None], 1, 3)
    array([[0, 1, 3]], dtype=uint8)
  """
  return cv2.resize(labels, (width, height), interpolation=cv2.INTER_NEAREST)


def resize_within(
  image: np.ndarray, long: float, short: float, *, antialias: bool = False
) -> np.ndarray:
  """Scales an image, keeping its aspect, into a rectangle of either direction.

  The factor is f = min(long / longer side, short / shorter side), and each side
  x becomes `int(x * f + 0.5)`, as in mmcv. Larger images shrink, smaller ones
  grow.

  Args:
    image: uint8 `[H, W, C]`.
    long: of the longer side.
    short: of the shorter side.
    antialias: whether the filter widens where the image shrinks, as Pillow's
      does and OpenCV's does not.

  Examples:
    >>> resize_within(np.zeros((30, 61, 3), np.uint8), 100, 40).shape
    (40, 81, 3)
  """
  check_bytes('resize_within', image)
  sides = image.shape[:2]
  factor = min(long / max(sides), short / min(sides))
  height, width = (max(1, int(x * factor + 0.5)) for x in sides)
  if antialias:
    return resize_exact(image, height, width, 'bilinear')
  _check_size(image, height, width)
  if image.shape[:2] == (height, width):
    return image
  scaled = cv2.resize(image, (width, height), interpolation=cv2.INTER_LINEAR)
  return scaled.reshape(height, width, -1)  # OpenCV drops a single channel.


def draw_crop(
  height: int,
  width: int,
  rng: np.random.Generator,
  scale: tuple[float, float] = (0.08, 1.0),
  ratio: tuple[float, float] = (3 / 4, 4 / 3),
) -> tuple[int, int, int, int]:
  """A random rectangle in an image, as torchvision draws it.

  Its share of the area is uniform in `scale`, the logarithm of its width over
  its height is uniform between those of `ratio`, and its place is uniform.
  What does not fit is drawn again; after ten attempts it is the largest central
  rectangle whose aspect is in `ratio`.

  Args:
    height: of the image.
    width: of the image.
    rng: what draws.
    scale: the range of the share of the area.
    ratio: the range of the width over the height.

  Returns:
    The top, left, height and width of the rectangle.

  Examples:
    >>> draw_crop(375, 500, np.random.default_rng(0), scale=(0.25, 0.25))
    (44, 12, 231, 203)
    >>> draw_crop(1000, 2, np.random.default_rng(0))  # No attempt fits.
    (498, 0, 3, 2)

  References:
    Szegedy et al., Going Deeper with Convolutions, CVPR 2015, section 6.
  """
  low, high = math.log(ratio[0]), math.log(ratio[1])
  for _ in range(10):
    area = height * width * rng.uniform(*scale)
    aspect = math.exp(rng.uniform(low, high))
    crop_width = round(math.sqrt(area * aspect))
    crop_height = round(math.sqrt(area / aspect))
    if 0 < crop_width <= width and 0 < crop_height <= height:
      top = int(rng.integers(height - crop_height + 1))
      left = int(rng.integers(width - crop_width + 1))
      return top, left, crop_height, crop_width
  crop_height, crop_width = height, width
  if width / height < ratio[0]:
    crop_height = max(1, round(width / ratio[0]))
  elif width / height > ratio[1]:
    crop_width = max(1, round(height * ratio[1]))
  return (
    (height - crop_height) // 2,
    (width - crop_width) // 2,
    crop_height,
    crop_width,
  )


class _Resizing(Operation, name='', random=False):
  """An operation that gives the labels the size that the image gets."""

  def with_labels(
    self, image: np.ndarray, labels: np.ndarray, rng: Any = None
  ) -> tuple[np.ndarray, np.ndarray]:
    """Both, resized."""
    image = self._apply(image, rng)
    if image.shape[:2] == labels.shape:
      return image, labels
    return image, resize_labels(labels, *image.shape[:2])


@dataclasses.dataclass(frozen=True)
class Resize(_Resizing, name='resize', random=False, takes_labels=True):
  """The operation `resize`: see the function of that name.

  Attributes:
    size: the new length of the shorter side.
    interpolation: 'nearest', 'bilinear', 'bicubic' or 'area'.
  """

  size: int
  interpolation: str = 'bilinear'

  def _check(self) -> None:
    check_pixels('size', self.size)
    one_of('interpolation', self.interpolation, INTERPOLATIONS)

  def _apply(self, image: np.ndarray, rng: Any) -> np.ndarray:
    return resize(image, self.size, self.interpolation)


@dataclasses.dataclass(frozen=True)
class ResizeExact(
  _Resizing, name='resize_exact', random=False, takes_labels=True
):
  """The operation `resize_exact`: see the function of that name.

  Attributes:
    height: the new height.
    width: the new width; None for a square.
    interpolation: 'nearest', 'bilinear', 'bicubic' or 'area'.
  """

  height: int
  width: int | None = None
  interpolation: str = 'bilinear'

  def _check(self) -> None:
    check_pixels('height', self.height)
    if self.width is not None:
      check_pixels('width', self.width)
    one_of('interpolation', self.interpolation, INTERPOLATIONS)

  def _apply(self, image: np.ndarray, rng: Any) -> np.ndarray:
    return resize_exact(image, self.height, self.width, self.interpolation)


@dataclasses.dataclass(frozen=True)
class ResizeWithin(
  _Resizing, name='resize_within', random=False, takes_labels=True
):
  """The operation `resize_within`: see the function of that name.

  Attributes:
    long: of the longer side, in pixels.
    short: of the shorter side.
    antialias: whether the filter widens where the image shrinks.
  """

  long: int
  short: int
  antialias: bool = False

  def _check(self) -> None:
    check_pixels('long', self.long)
    check_pixels('short', self.short)
    boolean('antialias', self.antialias)

  def _apply(self, image: np.ndarray, rng: Any) -> np.ndarray:
    return resize_within(image, self.long, self.short, antialias=self.antialias)


@dataclasses.dataclass(frozen=True)
class RandomResize(_Resizing, name='random_resize', takes_labels=True):
  """The operation `random_resize`: a random scale, as in mmsegmentation.

  The image is scaled into a rectangle with the sides `int(long * r)` and
  `int(short * r)`, see `resize_within`, where r is uniform in `ratio`.

  Attributes:
    scale: (long, short) in pixels; None for those of the image itself.
    ratio: the range of r; from 0.01 to 100.
    antialias: whether the filter widens where the image shrinks.

  Examples:
    >>> image = np.zeros((300, 400, 3), np.uint8)
    >>> half = RandomResize((2048, 512), (0.5, 0.5))
    >>> half(image, np.random.default_rng(0)).shape
    (256, 341, 3)
  """

  scale: tuple[int, int] | None = None
  ratio: tuple[float, float] = (0.5, 2.0)
  antialias: bool = False

  def _check(self) -> None:
    if self.scale is not None:
      if not isinstance(self.scale, tuple) or len(self.scale) != 2:
        raise UsageError(f'scale is {self.scale!r}; expected (long, short)')
      for side in self.scale:
        check_pixels('scale', side)
    check_pair('ratio', self.ratio, 0.01, 100)
    boolean('antialias', self.antialias)

  def _apply(self, image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    r = float(rng.uniform(*self.ratio))
    sides = image.shape[:2]
    long, short = self.scale or (max(sides), min(sides))
    return resize_within(
      image,
      max(1, int(long * r)),
      max(1, int(short * r)),
      antialias=self.antialias,
    )


@dataclasses.dataclass(frozen=True)
class RandomResizedCrop(
  Operation, name='random_resized_crop', takes_encoded=True
):
  """The operation `random_resized_crop`: a rectangle, scaled to a square.

  The rectangle is cut out first, as in torchvision: no pixel beside it has an
  influence, which `PIL.Image.resize(box=...)` would give to some. Of an encoded
  image no more is decoded than the rows down to the end of the rectangle.

  Attributes:
    size: the side of the square.
    scale: the range of the rectangle's share of the area; in (0, 1].
    ratio: the range of its width over its height; from 0.001 to 1000.
    interpolation: 'nearest', 'bilinear', 'bicubic' or 'area'.

  Examples:
    >>> crop = RandomResizedCrop(224, scale=(0.25, 1.0))
    >>> image = np.zeros((375, 500, 3), np.uint8)
    >>> crop(image, np.random.default_rng(0)).shape
    (224, 224, 3)
  """

  size: int
  scale: tuple[float, float] = (0.08, 1.0)
  ratio: tuple[float, float] = (3 / 4, 4 / 3)
  interpolation: str = 'bilinear'

  def _check(self) -> None:
    check_pixels('size', self.size)
    check_pair('scale', self.scale, 0, 1, above=0)
    check_pair('ratio', self.ratio, 1e-3, 1e3)
    one_of('interpolation', self.interpolation, INTERPOLATIONS)

  def _apply(
    self, image: np.ndarray | EncodedImage, rng: np.random.Generator
  ) -> np.ndarray:
    height, width, _ = image.shape
    top, left, height, width = draw_crop(
      height, width, rng, self.scale, self.ratio
    )
    if isinstance(image, EncodedImage):
      image = image.upper(top + height)
    crop = image[top : top + height, left : left + width]
    return resize_exact(crop, self.size, self.size, self.interpolation)
