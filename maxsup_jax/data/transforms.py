"""Crops, shifts, mirror images and rotations, and what they share.

An *image operation* is a frozen dataclass that is called with an image and a
NumPy generator and returns an image. Images are `[H, W, C]`, uint8 but where an
operation says otherwise. All randomness comes from the generator; operations
without any (`random` is False) ignore it. None changes its argument, but some
return it, or a view of it. Scaling to floats with a mean and a standard
deviation happens on the device, where it is free.
"""

import dataclasses
from typing import ClassVar

import cv2
import numpy as np
from PIL import Image

from maxsup_jax.data import _arguments, _pillow
from maxsup_jax.errors import UsageError


def to_channels(image: np.ndarray, channels: int) -> np.ndarray:
  """Repeats the channel of a grey image.

  Args:
    image: uint8 `[H, W, C]`.
    channels: the number of channels wanted.

  Returns:
    uint8 `[H, W, channels]`.

  Raises:
    ValueError: if `image` has neither one channel nor `channels`.

  Examples:
    >>> to_channels(np.zeros((8, 8, 1), np.uint8), 3).shape
    (8, 8, 3)
  """
  if image.shape[-1] == channels:
    return image
  if image.shape[-1] != 1:
    raise ValueError(
      f'an image of {image.shape[-1]} channels cannot become one of {channels}'
    )
  return np.repeat(image, channels, axis=-1)


def center_crop(image: np.ndarray, size: int) -> np.ndarray:
  """Cuts out the central square, as torchvision does.

  The square begins at `round((H - size) / 2)`, a half being rounded to the
  even number, and likewise along W. A side that is too short is first extended
  with zeros, an odd one of them going below or to the right.

  Args:
    image: `[H, W, C]`.
    size: the side of the square.

  Returns:
    `[size, size, C]`, a view where nothing had to be added.

  Examples:
    >>> image = np.arange(5, dtype=np.uint8).reshape(1, 5, 1)
    >>> center_crop(image, 1).ravel()
    array([2], dtype=uint8)
    >>> center_crop(image, 2)[..., 0]
    array([[2, 3],
           [0, 0]], dtype=uint8)
  """
  height, width, channels = image.shape
  if min(height, width) < size:
    padded = np.zeros(
      (max(height, size), max(width, size), channels), image.dtype
    )
    top, left = max(size - height, 0) // 2, max(size - width, 0) // 2
    padded[top : top + height, left : left + width] = image
    image = padded
    height, width, _ = image.shape
  top, left = round((height - size) / 2), round((width - size) / 2)
  return image[top : top + size, left : left + size]


def random_crop(
  image: np.ndarray, rng: np.random.Generator, size: int, padding: int = 0
) -> np.ndarray:
  """Cuts out a square at a random place, each one equally likely.

  Args:
    image: `[H, W, C]`.
    rng: two integers are drawn from it.
    size: the side of the square.
    padding: the number of zeros that are added to each side first.

  Returns:
    `[size, size, C]`, a view where no padding was asked for.

  Raises:
    UsageError: if the padded image is smaller than the square.

  Examples:
    >>> image = np.arange(12, dtype=np.uint8).reshape(3, 4, 1)
    >>> random_crop(image, np.random.default_rng(0), size=2)[..., 0]
    array([[ 5,  6],
           [ 9, 10]], dtype=uint8)
  """
  if padding:
    image = np.pad(image, ((padding, padding), (padding, padding), (0, 0)))
  height, width, _ = image.shape
  if min(height, width) < size:
    added = f' (with padding={padding})' if padding else ''
    raise UsageError(
      f'random_crop: a {height}x{width} image{added} has no {size}x{size} crop'
    )
  top = int(rng.integers(height - size + 1))
  left = int(rng.integers(width - size + 1))
  return image[top : top + size, left : left + size]


def pad_and_crop(
  image: np.ndarray, rng: np.random.Generator, padding: int
) -> np.ndarray:
  """Surrounds an image with zeros and cuts a random window of its own size.

  The same as shifting it by up to `padding` pixels along each axis, uniformly,
  and filling with zeros: the augmentation of the CIFAR recipes (padding 4).

  Args:
    image: `[H, W, C]`.
    rng: two integers are drawn from it.
    padding: the number of zeros on each side.

  Returns:
    `[H, W, C]`, a new array.

  Examples:
    >>> image = np.full((4, 4, 1), 7, np.uint8)
    >>> pad_and_crop(image, np.random.default_rng(0), padding=1)[..., 0]
    array([[0, 0, 0, 0],
           [7, 7, 7, 7],
           [7, 7, 7, 7],
           [7, 7, 7, 7]], dtype=uint8)
  """
  height, width, _ = image.shape
  down = int(rng.integers(-padding, padding + 1))
  right = int(rng.integers(-padding, padding + 1))
  # Copying the part that stays is faster than padding and cropping.
  shifted = np.zeros_like(image)
  shifted[
    max(down, 0) : max(height + down, 0), max(right, 0) : max(width + right, 0)
  ] = image[
    max(-down, 0) : max(height - down, 0),
    max(-right, 0) : max(width - right, 0),
  ]
  return shifted


def flip_left_right(
  image: np.ndarray, rng: np.random.Generator, probability: float = 0.5
) -> np.ndarray:
  """Mirrors an image with some probability.

  Args:
    image: `[H, W, C]`.
    rng: one number is drawn from it.
    probability: of the mirror image.

  Returns:
    `[H, W, C]`: `image` itself, or its mirror image.

  Examples:
    >>> image = np.arange(3, dtype=np.uint8).reshape(1, 3, 1)
    >>> rng = np.random.default_rng(0)
    >>> [flip_left_right(image, rng).ravel().tolist() for _ in range(3)]
    [[0, 1, 2], [2, 1, 0], [2, 1, 0]]
  """
  if rng.random() >= probability:
    return image
  # A mirrored view would be free, but slow to copy into the batch.
  return cv2.flip(image, 1).reshape(image.shape)


def rotate(image: np.ndarray, degrees: float) -> np.ndarray:
  """Turns an image about its centre; the corners it leaves are zeros.

  Args:
    image: uint8 `[H, W, C]`, C being 1 or 3.
    degrees: the angle, counter-clockwise.

  Returns:
    uint8 `[H, W, C]`, each pixel the nearest one of `image`.

  Examples:
    >>> image = np.arange(4, dtype=np.uint8).reshape(2, 2, 1)
    >>> rotate(image, 90)[..., 0]
    array([[1, 3],
           [0, 2]], dtype=uint8)
  """
  rotated = _pillow.to_pillow(image, 'rotate').rotate(
    degrees, Image.Resampling.NEAREST
  )
  return _pillow.to_array(rotated)


@dataclasses.dataclass(frozen=True)
class PadAndCrop:
  """The operation `pad_and_crop`: a random shift by up to `padding` pixels.

  Attributes:
    padding: the largest shift, in pixels; an integer >= 0.

  Examples:
    >>> image = np.zeros((32, 32, 3), np.uint8)
    >>> PadAndCrop(4)(image, np.random.default_rng(0)).shape
    (32, 32, 3)
  """

  random: ClassVar[bool] = True
  takes_floats: ClassVar[bool] = True
  padding: int

  def __post_init__(self):
    _arguments.check_integer('pad_and_crop', 'padding', self.padding, 0)

  def __call__(self, image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Returns the shifted image."""
    return pad_and_crop(image, rng, self.padding)


@dataclasses.dataclass(frozen=True)
class Flip:
  """The operation `flip`: mirrors an image, left to right, now and then.

  Digits and letters are not symmetric: leave it out there.

  Attributes:
    probability: of the mirror image; in [0, 1].

  Examples:
    >>> image = np.arange(3, dtype=np.uint8).reshape(1, 3, 1)
    >>> Flip(probability=1.0)(image, np.random.default_rng(0)).ravel()
    array([2, 1, 0], dtype=uint8)
  """

  random: ClassVar[bool] = True
  takes_floats: ClassVar[bool] = True
  probability: float = 0.5

  def __post_init__(self):
    _arguments.check_number('flip', 'probability', self.probability, 0, 1)

  def __call__(self, image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Returns the image or its mirror image."""
    return flip_left_right(image, rng, self.probability)


@dataclasses.dataclass(frozen=True)
class CenterCrop:
  """The operation `center_crop`: the central square, as torchvision's.

  Attributes:
    size: the side of the square; an integer >= 1.

  Examples:
    >>> CenterCrop(224)(np.zeros((256, 341, 3), np.uint8)).shape
    (224, 224, 3)
  """

  random: ClassVar[bool] = False
  takes_floats: ClassVar[bool] = True
  size: int

  def __post_init__(self):
    _arguments.check_integer('center_crop', 'size', self.size, 1)

  def __call__(
    self, image: np.ndarray, rng: np.random.Generator | None = None
  ) -> np.ndarray:
    """Returns the crop."""
    return center_crop(image, self.size)


@dataclasses.dataclass(frozen=True)
class RandomCrop:
  """The operation `random_crop`: a square at a random place, after padding.

  Attributes:
    size: the side of the square; an integer >= 1.
    padding: zeros added to each side first; an integer >= 0.

  Examples:
    >>> image = np.zeros((512, 682, 3), np.uint8)
    >>> RandomCrop(448, padding=8)(image, np.random.default_rng(0)).shape
    (448, 448, 3)
  """

  random: ClassVar[bool] = True
  takes_floats: ClassVar[bool] = True
  size: int
  padding: int = 0

  def __post_init__(self):
    _arguments.check_integer('random_crop', 'size', self.size, 1)
    _arguments.check_integer('random_crop', 'padding', self.padding, 0)

  def __call__(self, image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Returns the crop."""
    return random_crop(image, rng, self.size, self.padding)


@dataclasses.dataclass(frozen=True)
class Rotate:
  """The operation `rotate`: a random angle, as torchvision's RandomRotation.

  Attributes:
    degrees: the angle is uniform in `[-degrees, degrees]`, or in
      `[low, high]` for two numbers; at most 360.

  Examples:
    >>> image = np.zeros((32, 32, 3), np.uint8)
    >>> Rotate(15)(image, np.random.default_rng(0)).shape
    (32, 32, 3)
  """

  random: ClassVar[bool] = True
  takes_floats: ClassVar[bool] = False
  degrees: float | tuple[float, float]

  def __post_init__(self):
    if isinstance(self.degrees, tuple):
      _arguments.check_range('rotate', 'degrees', self.degrees, -360, 360)
    else:
      _arguments.check_number('rotate', 'degrees', self.degrees, 0, 360)

  def __call__(self, image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Returns the rotated image."""
    if isinstance(self.degrees, tuple):
      low, high = self.degrees
    else:
      low, high = -self.degrees, self.degrees
    return rotate(image, float(rng.uniform(low, high)))
