"""Resizing as Pillow does it, and the random crops of ImageNet's recipes.

Pillow's bilinear and bicubic filters widen where an image shrinks, so nothing
aliases; torchvision's results on Pillow's images are these, to the bit. The
interpolation 'area' is OpenCV's and faster: the mean over the area of each new
pixel where both sides shrink (bilinear, without a wider filter, otherwise).
"""

import dataclasses
import math
from typing import ClassVar

import cv2
import numpy as np

from maxsup_jax.data import _arguments, _pillow, _resampling
from maxsup_jax.data.decoding import EncodedImage
from maxsup_jax.errors import UsageError

INTERPOLATIONS = ('nearest', 'bilinear', 'bicubic', 'area')


def resize(
  image: np.ndarray, size: int, interpolation: str = 'bilinear'
) -> np.ndarray:
  """Scales an image so that its shorter side has `size` pixels.

  The longer side becomes `int(size * longer / shorter)`, as in torchvision.

  Args:
    image: uint8 `[H, W, C]`.
    size: the new length of the shorter side.
    interpolation: 'nearest', 'bilinear', 'bicubic' or 'area'.

  Returns:
    uint8 `[H', W', C]` with `min(H', W') == size`; `image` itself where it has
    this shape.

  Raises:
    UsageError: if the result would have more than 89 million pixels.

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
  # An image of one pixel by thousands would fill the memory.
  if height * width > _pillow.MAX_PIXELS:
    raise UsageError(
      f'resize: an image of {image.shape[0]}x{image.shape[1]} pixels would '
      f'become one of {height}x{width}, more than the {_pillow.MAX_PIXELS} '
      'pixels allowed'
    )
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
    scaled = _resampling.resize(image, height, width, interpolation)
    if scaled is not None:
      return scaled
  scaled = _pillow.to_pillow(image, 'resize').resize(
    (width, height), _pillow.RESAMPLING[interpolation]
  )
  return _pillow.to_array(scaled)


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
    scale: the smallest and the largest share of the area.
    ratio: the smallest and the largest width over height.

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


def random_resized_crop(
  image: np.ndarray | EncodedImage,
  rng: np.random.Generator,
  size: int,
  scale: tuple[float, float] = (0.08, 1.0),
  ratio: tuple[float, float] = (3 / 4, 4 / 3),
  interpolation: str = 'bilinear',
) -> np.ndarray:
  """Scales a random rectangle of an image to a square: see `draw_crop`.

  The rectangle is cut out first, as in torchvision: no pixel beside it has an
  influence, which `PIL.Image.resize(box=...)` would give to some. Of an encoded
  image no more is decoded than the rows down to the end of the rectangle.

  Args:
    image: uint8 `[H, W, C]`, or one that is not decoded yet.
    rng: what draws.
    size: the side of the square.
    scale: see `draw_crop`.
    ratio: see there.
    interpolation: see `resize`.

  Returns:
    uint8 `[size, size, C]`.

  Examples:
    >>> image = np.zeros((375, 500, 3), np.uint8)
    >>> random_resized_crop(image, np.random.default_rng(0), 224).shape
    (224, 224, 3)
  """
  height, width, _ = image.shape
  top, left, height, width = draw_crop(height, width, rng, scale, ratio)
  if isinstance(image, EncodedImage):
    image = image.upper(top + height)
  crop = image[top : top + height, left : left + width]
  return resize_exact(crop, size, size, interpolation)


@dataclasses.dataclass(frozen=True)
class Resize:
  """The operation `resize`: to a given length of the shorter side.

  Attributes:
    size: the new length of the shorter side; an integer >= 1.
    interpolation: 'nearest', 'bilinear', 'bicubic' or 'area'.

  Examples:
    >>> image = np.zeros((375, 500, 3), np.uint8)
    >>> Resize(256, interpolation='bicubic')(image).shape
    (256, 341, 3)
  """

  random: ClassVar[bool] = False
  takes_floats: ClassVar[bool] = False
  size: int
  interpolation: str = 'bilinear'

  def __post_init__(self):
    _arguments.check_integer('resize', 'size', self.size, 1)
    _check_interpolation('resize', self.interpolation)

  def __call__(
    self, image: np.ndarray, rng: np.random.Generator | None = None
  ) -> np.ndarray:
    """Returns the scaled image."""
    return resize(image, self.size, self.interpolation)


@dataclasses.dataclass(frozen=True)
class ResizeExact:
  """The operation `resize_exact`: to a given shape, whatever the aspect.

  Attributes:
    height: the new height; an integer >= 1.
    width: the new width; None for a square.
    interpolation: 'nearest', 'bilinear', 'bicubic' or 'area'.

  Examples:
    >>> ResizeExact(512)(np.zeros((375, 500, 3), np.uint8)).shape
    (512, 512, 3)
  """

  random: ClassVar[bool] = False
  takes_floats: ClassVar[bool] = False
  height: int
  width: int | None = None
  interpolation: str = 'bilinear'

  def __post_init__(self):
    _arguments.check_integer('resize_exact', 'height', self.height, 1)
    if self.width is not None:
      _arguments.check_integer('resize_exact', 'width', self.width, 1)
    _check_interpolation('resize_exact', self.interpolation)

  def __call__(
    self, image: np.ndarray, rng: np.random.Generator | None = None
  ) -> np.ndarray:
    """Returns the scaled image."""
    return resize_exact(image, self.height, self.width, self.interpolation)


@dataclasses.dataclass(frozen=True)
class RandomResizedCrop:
  """The operation `random_resized_crop`: see the function of that name.

  Attributes:
    size: the side of the square; an integer >= 1.
    scale: the range of the crop's share of the area; in (0, 1].
    ratio: the range of the crop's width over its height; from 0.001 to 1000.
    interpolation: 'nearest', 'bilinear', 'bicubic' or 'area'.

  Examples:
    >>> crop = RandomResizedCrop(224, scale=(0.25, 1.0))
    >>> image = np.zeros((375, 500, 3), np.uint8)
    >>> crop(image, np.random.default_rng(0)).shape
    (224, 224, 3)
  """

  random: ClassVar[bool] = True
  takes_floats: ClassVar[bool] = False
  takes_encoded: ClassVar[bool] = True
  size: int
  scale: tuple[float, float] = (0.08, 1.0)
  ratio: tuple[float, float] = (3 / 4, 4 / 3)
  interpolation: str = 'bilinear'

  def __post_init__(self):
    name = 'random_resized_crop'
    _arguments.check_integer(name, 'size', self.size, 1)
    _arguments.check_range(name, 'scale', self.scale, 0, 1, positive=True)
    _arguments.check_range(name, 'ratio', self.ratio, 1e-3, 1e3)
    _check_interpolation(name, self.interpolation)

  def __call__(
    self, image: np.ndarray | EncodedImage, rng: np.random.Generator
  ) -> np.ndarray:
    """Returns the scaled crop."""
    return random_resized_crop(
      image, rng, self.size, self.scale, self.ratio, self.interpolation
    )


def _check_interpolation(operation: str, interpolation: str) -> None:
  _arguments.check_choice(
    operation, 'interpolation', interpolation, INTERPOLATIONS
  )
