"""Random colours: torchvision's jitter, TensorFlow's and SSD's distortions."""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import cv2
import numpy as np
from PIL import Image, ImageEnhance

from maxsup_jax.data import _pillow
from maxsup_jax.data._operation import Operation, check_pair
from maxsup_jax.errors import integer, number

_Factor = float | tuple[float, float]

# The largest factor: far beyond use, and nothing overflows.
_MOST = 1000.0


def shift_hue(image: Image.Image, hue: float) -> Image.Image:
  """Turns the hue of every pixel, as torchvision does.

  In Pillow's HSV, whose hue has the 256 values of a byte; `int(255 * hue)` is
  added to it, modulo 256, for a hue in turns, in [-0.5, 0.5]. An image of mode
  L has no hue and is returned.
  """
  if image.mode == 'L':
    return image
  pixels_HW3 = np.array(image.convert('HSV'))
  pixels_HW3[..., 0] += np.uint8(int(255 * hue) % 256)
  size, data = image.size, pixels_HW3.tobytes()
  return Image.frombytes('HSV', size, data).convert('RGB')


@dataclasses.dataclass(frozen=True)
class ColorJitter(Operation, name='color_jitter', moves_pixels=False):
  """The operation `color_jitter`: brightness, contrast, saturation and hue.

  All four in a random order, each with a random factor f. A pixel x becomes
  `f * x + (1 - f) * y`, rounded down and clipped, where y is black for the
  brightness, the mean grey of the image for the contrast, and the grey of the
  pixel for the saturation. The hue: see `shift_hue`. The same as torchvision's
  ColorJitter of Pillow's images, to the bit for equal factors.

  Attributes:
    brightness: f is uniform in `[max(0, 1 - brightness), 1 + brightness]`, or
      in `[low, high]` for two numbers; 0 leaves it out. At most 1000.
    contrast: like `brightness`.
    saturation: like `brightness`.
    hue: the shift, in turns, is uniform in `[-hue, hue]`, or in `[low, high]`;
      at most half a turn.

  Examples:
    >>> image = np.full((2, 2, 3), 100, np.uint8)
    >>> jitter = ColorJitter(brightness=(0.5, 0.5))
    >>> jitter(image, np.random.default_rng(0))[0, 0]
    array([50, 50, 50], dtype=uint8)
  """

  brightness: _Factor = 0.0
  contrast: _Factor = 0.0
  saturation: _Factor = 0.0
  hue: _Factor = 0.0

  def _check(self) -> None:
    for name in ('brightness', 'contrast', 'saturation', 'hue'):
      value = getattr(self, name)
      low, high = (-0.5, 0.5) if name == 'hue' else (0, _MOST)
      if isinstance(value, tuple):
        check_pair(name, value, low, high)
      else:
        number(name, value, 0, high)

  def _apply(self, image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    pillow = _pillow.to_pillow(image, 'color_jitter')
    order = rng.permutation(4)
    # The factors are drawn in this order.
    changes = [
      (_draw(self.brightness, 1.0, rng), 1.0, _enhance('Brightness')),
      (_draw(self.contrast, 1.0, rng), 1.0, _enhance('Contrast')),
      (_draw(self.saturation, 1.0, rng), 1.0, _enhance('Color')),
      (_draw(self.hue, 0.0, rng), 0.0, shift_hue),
    ]
    for index in order:
      value, neutral, change = changes[index]
      if value != neutral:
        pillow = change(pillow, value)
    return _pillow.to_array(pillow)


@dataclasses.dataclass(frozen=True)
class PhotometricDistortion(
  Operation, name='photometric_distortion', moves_pixels=False
):
  """The operation `photometric_distortion`: that of mmsegmentation.

  Brightness, contrast, saturation and hue, each with probability 1/2 and in
  this order, but for the contrast, which comes last as often as not. Pixels are
  clipped and truncated to bytes after each. The saturation and the hue are
  those of OpenCV's HSV, the hue being in degrees / 2.

  Attributes:
    brightness: what is added is uniform in `[-brightness, brightness]`, on the
      scale 0..255; at most 255.
    contrast: the range of what pixels are multiplied by; at most 1000.
    saturation: the range of what the saturation is multiplied by.
    hue: what is added is an integer in `[-hue, hue)`, at most 90.

  Examples:
    >>> image = np.full((2, 2, 3), 100, np.uint8)
    >>> distort = PhotometricDistortion(brightness=0, contrast=(0.5, 0.5))
    >>> rng = np.random.default_rng(0)
    >>> sorted({int(distort(image, rng)[0, 0, 0]) for _ in range(20)})
    [50, 100]

  References:
    Liu et al., SSD, ECCV 2016; mmsegmentation's PhotoMetricDistortion.
  """

  brightness: float = 32.0
  contrast: tuple[float, float] = (0.5, 1.5)
  saturation: tuple[float, float] = (0.5, 1.5)
  hue: int = 18

  def _check(self) -> None:
    number('brightness', self.brightness, 0, 255)
    check_pair('contrast', self.contrast, 0, _MOST)
    check_pair('saturation', self.saturation, 0, _MOST)
    integer('hue', self.hue, 0, 90)

  def _apply(self, image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    _pillow.to_pillow(image, 'photometric_distortion')  # It checks the pixels.
    if rng.random() < 0.5:
      shift = rng.uniform(-self.brightness, self.brightness)
      image = _through(image, _LEVELS + np.float32(shift))
    contrast = rng.uniform(*self.contrast) if rng.random() < 0.5 else None
    last = rng.random() < 0.5
    if contrast is not None and not last:
      image = _through(image, _LEVELS * np.float32(contrast))
    saturated = rng.random() < 0.5
    saturation = rng.uniform(*self.saturation)
    turned = self.hue and rng.random() < 0.5
    turn = rng.integers(-self.hue, max(self.hue, 1))
    if image.shape[-1] == 3:
      if saturated:
        image = _in_hsv(image, 1, _LEVELS * np.float32(saturation))
      if turned:
        image = _in_hsv(image, 0, (_LEVELS + turn) % 180)
    if contrast is not None and last:
      image = _through(image, _LEVELS * np.float32(contrast))
    return image


_LEVELS = np.arange(256, dtype=np.float32)


def _in_hsv(image: np.ndarray, channel: int, levels: np.ndarray) -> np.ndarray:
  hsv_HW3 = cv2.cvtColor(image, cv2.COLOR_RGB2HSV)
  hsv_HW3[..., channel] = _through(hsv_HW3[..., channel], levels)
  return cv2.cvtColor(hsv_HW3, cv2.COLOR_HSV2RGB)


def _through(image: np.ndarray, levels: np.ndarray) -> np.ndarray:
  """Each byte becomes its level, clipped and truncated."""
  table = np.clip(levels, 0, 255).astype(np.uint8)
  # OpenCV drops a single channel.
  return cv2.LUT(image, table).reshape(image.shape)


@dataclasses.dataclass(frozen=True)
class TfDistort(
  Operation,
  name='tf_distort',
  takes_floats=True,
  gives_floats=True,
  moves_pixels=False,
):
  """The operation `tf_distort`: TensorFlow's brightness, then contrast.

  `random_brightness` adds one number to all pixels, and `random_contrast`
  multiplies the deviations from the mean of each channel. Both work on floats
  here, and nothing is clipped, as in the CIFAR-10 tutorial of TensorFlow and in
  Tensor2Tensor. (`standardize` after it takes the brightness back.)

  Attributes:
    brightness: what is added is uniform in `[-brightness, brightness]`, on the
      scale 0..255; at most 255.
    contrast: the range of the factor; at most 1000.

  Examples:
    >>> image = np.array([[[10], [30]]], np.uint8)
    >>> distort = TfDistort(brightness=0, contrast=(2, 2))
    >>> distort(image, np.random.default_rng(0)).ravel()
    array([ 0., 40.], dtype=float32)
  """

  brightness: float = 63.0
  contrast: tuple[float, float] = (0.2, 1.8)

  def _check(self) -> None:
    number('brightness', self.brightness, 0, 255)
    check_pair('contrast', self.contrast, 0, _MOST)

  def _apply(self, image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    delta = rng.uniform(-self.brightness, self.brightness)
    factor = rng.uniform(*self.contrast)
    mean = image.mean(axis=(0, 1), dtype=np.float64)
    return ((image - mean) * factor + (mean + delta)).astype(np.float32)


@dataclasses.dataclass(frozen=True)
class Standardize(
  Operation,
  name='standardize',
  random=False,
  takes_floats=True,
  gives_floats=True,
  moves_pixels=False,
):
  """The operation `standardize`: TensorFlow's per-image standardisation.

  `(x - mean) / max(sd, 1 / sqrt(n))`, with the mean and the standard deviation
  of all n = H W C numbers of the image; the limit is for uniform images.

  Examples:
    >>> image = np.array([[[10], [30]]], np.uint8)
    >>> Standardize()(image).ravel()
    array([-1.,  1.], dtype=float32)
    >>> Standardize()(np.full((4, 4, 3), 7, np.uint8)).any()
    np.False_
  """

  def _apply(self, image: np.ndarray, rng: Any) -> np.ndarray:
    centered = image - image.mean(dtype=np.float64)
    deviation = math.sqrt(np.square(centered).mean())
    deviation = max(deviation, 1 / math.sqrt(image.size))
    return (centered / deviation).astype(np.float32)


def _draw(value: _Factor, neutral: float, rng: np.random.Generator) -> float:
  """A factor (around 1) or a shift (around 0); a factor is never negative."""
  if isinstance(value, tuple):
    low, high = value
  else:
    low, high = neutral - value, neutral + value
  return float(rng.uniform(max(low, 0.0) if neutral else low, high))


def _enhance(kind: str) -> Callable[[Image.Image, float], Image.Image]:
  return lambda image, factor: getattr(ImageEnhance, kind)(image).enhance(
    factor
  )
