"""Random erasing, as in timm, on bytes."""

import dataclasses
import math
from typing import Any

import numpy as np

from maxsup_jax.data._operation import Operation, check_pair, per_channel
from maxsup_jax.errors import UsageError, number, one_of, within


def draw_box(
  height: int,
  width: int,
  rng: np.random.Generator,
  area: tuple[float, float] = (0.02, 1 / 3),
  aspect: tuple[float, float] = (0.3, 1 / 0.3),
) -> tuple[int, int, int, int] | None:
  """A random box inside an image, smaller than it along both axes.

  Its share of the area is uniform in `area`, the logarithm of its height over
  its width is uniform between those of `aspect`, and its place is uniform.

  Args:
    height: of the image.
    width: of the image.
    rng: what draws.
    area: the range of the share of the area.
    aspect: the range of the height over the width.

  Returns:
    The top, left, height and width of the box, or None where none of ten
    attempts fits.

  Examples:
    >>> draw_box(224, 224, np.random.default_rng(0))
    (44, 3, 80, 138)
  """
  low, high = math.log(aspect[0]), math.log(aspect[1])
  for _ in range(10):
    target = rng.uniform(*area) * height * width
    ratio = math.exp(rng.uniform(low, high))
    box_height = round(math.sqrt(target * ratio))
    box_width = round(math.sqrt(target / ratio))
    if box_height < height and box_width < width:
      top = int(rng.integers(height - box_height + 1))
      left = int(rng.integers(width - box_width + 1))
      return top, left, box_height, box_width
  return None


@dataclasses.dataclass(frozen=True)
class RandomErasing(Operation, name='random_erasing'):
  """The operation `random_erasing`: noise in a random box, as timm does it.

  timm erases *normalised* floats `(x / 255 - mean) / std`, with noise z from
  N(0, 1). Here images are bytes still, so the noise is `255 (mean + std z)`,
  rounded and clipped to 0..255; normalised later, it is timm's but for the
  clipping, which meets 3.25% of the numbers with the statistics of ImageNet
  (2.94, 2.85 and 3.97% of the red, green and blue ones).

  Attributes:
    probability: that an image is erased at all; in [0, 1].
    area: see `draw_box`.
    aspect: see there.
    mode: 'pixel' for noise of its own in each pixel and channel, 'rand' for one
      random colour, 'const' for the mean.
    mean: of the data set, per channel or one for all, in [0, 1].
    std: its standard deviation.

  Examples:
    >>> image = np.zeros((8, 8, 1), np.uint8)
    >>> erase = RandomErasing(1.0, mode='const', mean=(1.0,))
    >>> erase(image, np.random.default_rng(3))[..., 0].max(axis=0)
    array([  0,   0,   0,   0, 255, 255,   0,   0], dtype=uint8)

  References:
    Zhong et al., Random Erasing Data Augmentation, AAAI 2020; the details are
    timm's (timm/data/random_erasing.py, version 1.0).
  """

  probability: float
  area: tuple[float, float] = (0.02, 1 / 3)
  aspect: tuple[float, float] = (0.3, 1 / 0.3)
  mode: str = 'pixel'
  _: dataclasses.KW_ONLY
  mean: tuple[float, ...] = (0.0,)
  std: tuple[float, ...] = (1.0,)

  def _check(self) -> None:
    number('probability', self.probability, 0, 1)
    check_pair('area', self.area, 0, 1, above=0)
    check_pair('aspect', self.aspect, 1e-3, 1e3)
    one_of('mode', self.mode, ('pixel', 'rand', 'const'))

  def _apply(self, image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    if image.dtype != np.uint8:
      raise UsageError(
        f'random_erasing got a {image.dtype} image; expected uint8'
      )
    if rng.random() >= self.probability:
      return image
    height, width, channels = image.shape
    box = draw_box(height, width, rng, self.area, self.aspect)
    if box is None:
      return image
    top, left, height, width = box
    with within('random_erasing: '):
      mean = np.array(per_channel('mean', self.mean, channels))
      std = np.array(per_channel('std', self.std, channels))
    noise: Any
    if self.mode == 'pixel':
      noise = rng.standard_normal((height, width, channels), np.float32)
    elif self.mode == 'rand':
      noise = rng.standard_normal(channels, np.float32)
    else:
      noise = np.zeros(channels, np.float32)
    colors = np.rint(255 * (mean + std * noise)).clip(0, 255)
    erased = image.copy()
    erased[top : top + height, left : left + width] = colors
    return erased
