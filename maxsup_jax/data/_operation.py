"""What the image operations share.

An *image operation* is a frozen dataclass that is called with an image and a
NumPy generator and returns an image. Images are `[H, W, C]`, uint8 but where an
operation says otherwise. All randomness comes from the generator. No operation
changes its argument, but some return it, or a view of it. Scaling to floats
with a mean and a standard deviation happens on the device, where it is free.

Some also take an image with a label map, uint8 `[H, W]`, and do the same to
both: labels are moved and left out, never interpolated, and where there is no
image they are 255.
"""

from typing import Any, ClassVar

import numpy as np

from maxsup_jax.errors import UsageError, integer, number, shown, within

# The largest length, in pixels; what is longer would only fill the memory.
_MOST_PIXELS = 2**16


class Operation:
  """The base of the operations; these are the arguments of a class.

  Attributes:
    name: as texts of transforms and messages call it.
    random: whether it draws from the generator; the others ignore it.
    takes_floats: whether images may be float32.
    gives_floats: whether it returns float32 whatever it gets.
    takes_encoded: whether it decodes an `EncodedImage`, no more than it needs.
    takes_labels: whether it has `with_labels`.
    moves_pixels: False if only their colours change.
  """

  name: ClassVar[str]
  random: ClassVar[bool]
  takes_floats: ClassVar[bool]
  gives_floats: ClassVar[bool]
  takes_encoded: ClassVar[bool]
  takes_labels: ClassVar[bool]
  moves_pixels: ClassVar[bool]

  def __init_subclass__(
    cls,
    name: str,
    random: bool = True,
    takes_floats: bool = False,
    gives_floats: bool = False,
    takes_encoded: bool = False,
    takes_labels: bool = False,
    moves_pixels: bool = True,
  ):
    cls.name, cls.random = name, random
    cls.takes_floats, cls.gives_floats = takes_floats, gives_floats
    cls.takes_encoded, cls.moves_pixels = takes_encoded, moves_pixels
    cls.takes_labels = takes_labels or not moves_pixels

  def __post_init__(self) -> None:
    with within(f'{self.name}: '):
      self._check()

  def __call__(
    self, image: Any, rng: np.random.Generator | None = None
  ) -> np.ndarray:
    """Returns what the operation makes of an image."""
    return self._apply(image, rng)

  def with_labels(
    self,
    image: np.ndarray,
    labels: np.ndarray,
    rng: np.random.Generator | None = None,
  ) -> tuple[np.ndarray, np.ndarray]:
    """Returns what it makes of an image and of its label map."""
    if self.moves_pixels:
      raise UsageError(f'{self.name} cannot be applied to label maps')
    return self._apply(image, rng), labels

  def _check(self) -> None:
    pass

  def _apply(self, image: Any, rng: Any) -> np.ndarray:
    raise NotImplementedError


def check_bytes(name: str, image: np.ndarray) -> None:
  """Refuses images that are not bytes."""
  if image.dtype != np.uint8:
    raise UsageError(f'{name} got a {image.dtype} image; expected uint8')


def check_pixels(name: str, value: Any, low: int = 1) -> None:
  """Checks a length in pixels."""
  integer(name, value, low, _MOST_PIXELS)


def check_pair(
  name: str,
  value: Any,
  low: float,
  high: float,
  *,
  above: float | None = None,
) -> None:
  """Checks a tuple of two numbers, the smaller one first; see `number`."""
  try:
    first, last = (number(name, x, low, high, above=above) for x in value)
    if not isinstance(value, tuple) or first > last:
      raise ValueError
  except (TypeError, ValueError):
    least = f'from {low:g}' if above is None else f'above {above:g} and up'
    raise UsageError(
      f'{name} is {shown(value)}; expected two numbers (low, high), {least} '
      f'to {high:g}'
    ) from None


def per_channel(
  name: str, values: tuple[float, ...], channels: int
) -> tuple[float, ...]:
  """One number for each channel, where a single one stands for all."""
  if len(values) not in (1, channels):
    raise UsageError(
      f'{name} has {len(values)} values; expected one for each of the '
      f'{channels} channels of the image'
    )
  return tuple(values) * (channels if len(values) == 1 else 1)
