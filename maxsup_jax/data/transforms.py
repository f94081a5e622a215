"""Functions of one image: NumPy and OpenCV, uint8 in, uint8 out.

Images are `[H, W, C]`. Random functions take a NumPy generator, and no function
changes its argument. Scaling to floats with a mean and a standard deviation
happens on the device, where it is free.
"""

import dataclasses

import cv2
import numpy as np

from maxsup_jax._errors import UsageError


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


def resize(image: np.ndarray, size: int) -> np.ndarray:
  """Scales an image so that its shorter side has `size` pixels.

  Shrinking averages over the area of each new pixel, so nothing aliases;
  enlarging interpolates linearly. The longer side is rounded.

  Args:
    image: uint8 `[H, W, C]`.
    size: the new length of the shorter side.

  Returns:
    uint8 `[H', W', C]` with `min(H', W') == size`.

  Examples:
    >>> resize(np.zeros((30, 60, 3), np.uint8), 10).shape
    (10, 20, 3)
  """
  height, width, _ = image.shape
  shorter = min(height, width)
  if shorter == size:
    return image
  scaled = cv2.resize(
    image,
    (_round(width * size, shorter), _round(height * size, shorter)),
    interpolation=cv2.INTER_AREA if size < shorter else cv2.INTER_LINEAR,
  )
  return scaled.reshape(*scaled.shape[:2], -1)  # OpenCV drops a single channel.


def center_crop(image: np.ndarray, size: int) -> np.ndarray:
  """Cuts out the central square; an odd margin is larger below and right.

  Args:
    image: uint8 `[H, W, C]`, both sides at least `size`.
    size: the side of the square.

  Returns:
    uint8 `[size, size, C]`, a view.

  Raises:
    ValueError: if a side of `image` is shorter than `size`.

  Examples:
    >>> image = np.arange(5, dtype=np.uint8).reshape(1, 5, 1)
    >>> center_crop(image, 1).ravel()
    array([2], dtype=uint8)
  """
  height, width, _ = image.shape
  if min(height, width) < size:
    raise ValueError(f'a {height}x{width} image has no {size}x{size} crop')
  top, left = (height - size) // 2, (width - size) // 2
  return image[top : top + size, left : left + size]


def pad_and_crop(
  image: np.ndarray, rng: np.random.Generator, padding: int
) -> np.ndarray:
  """Surrounds an image with zeros and cuts a random window of its own size.

  The same as shifting it by up to `padding` pixels along each axis, uniformly,
  and filling with zeros: the augmentation of the CIFAR recipes (padding 4).

  Args:
    image: uint8 `[H, W, C]`.
    rng: two integers are drawn from it.
    padding: the number of zeros on each side.

  Returns:
    uint8 `[H, W, C]`, a new array.

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


def flip_left_right(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
  """Mirrors an image with probability one half.

  Args:
    image: uint8 `[H, W, C]`.
    rng: one number is drawn from it.

  Returns:
    uint8 `[H, W, C]`: `image` itself, or its mirror image.

  Examples:
    >>> image = np.arange(3, dtype=np.uint8).reshape(1, 3, 1)
    >>> rng = np.random.default_rng(0)
    >>> [flip_left_right(image, rng).ravel().tolist() for _ in range(3)]
    [[0, 1, 2], [2, 1, 0], [2, 1, 0]]
  """
  if rng.random() >= 0.5:
    return image
  # A mirrored view would be free, but slow to copy into the batch.
  return cv2.flip(image, 1).reshape(image.shape)


@dataclasses.dataclass(frozen=True)
class Augment:
  """The augmentation of the CIFAR recipes, as a function of image and rng.

  Attributes:
    pad: the padding of `pad_and_crop`; 0 leaves it out.
    flip: whether to apply `flip_left_right`. Digits and letters are not
      symmetric: leave it out there.

  Raises:
    UsageError: if `pad` is not an integer >= 0, or `flip` not a bool.

  Examples:
    >>> augment = Augment(pad=4, flip=True)
    >>> image = np.zeros((32, 32, 3), np.uint8)
    >>> augment(image, np.random.default_rng(0)).shape
    (32, 32, 3)
  """

  pad: int = 0
  flip: bool = False

  def __post_init__(self):
    pad, flip = self.pad, self.flip
    if not isinstance(pad, int) or isinstance(pad, bool) or pad < 0:
      raise UsageError(f'augment.pad must be an integer >= 0, not {pad!r}')
    if not isinstance(flip, bool):
      raise UsageError(f'augment.flip must be True or False, not {flip!r}')

  def __call__(self, image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Returns the augmented image; `image` is not changed."""
    if self.pad:
      image = pad_and_crop(image, rng, self.pad)
    if self.flip:
      image = flip_left_right(image, rng)
    return image


def _round(numerator: int, denominator: int) -> int:
  """Rounds a quotient of positive integers, halves up."""
  return (2 * numerator + denominator) // (2 * denominator)
