"""Between arrays and Pillow's images."""

from collections.abc import Mapping

import numpy as np
from PIL import Image

from maxsup_jax.errors import UsageError

RESAMPLING: Mapping[str, Image.Resampling] = {
  'nearest': Image.Resampling.NEAREST,
  'bilinear': Image.Resampling.BILINEAR,
  'bicubic': Image.Resampling.BICUBIC,
}

# From here on Pillow warns of decompression bombs. No photograph of ImageNet
# comes near.
MAX_PIXELS = 2**30 // 12


def to_pillow(image: np.ndarray, operation: str) -> Image.Image:
  """An image of mode L or RGB, of uint8 `[H, W, 1]` or `[H, W, 3]`.

  Raises:
    UsageError: for another type or number of channels; it names the operation.
  """
  channels = image.shape[-1]
  if image.dtype != np.uint8 or channels not in (1, 3):
    raise UsageError(
      f'{operation} got a {image.dtype} image of {channels} channels; '
      'expected uint8 with 1 or 3 channels'
    )
  return Image.fromarray(image[..., 0] if channels == 1 else image)


def to_array(image: Image.Image) -> np.ndarray:
  """The pixels of a grey or RGB image of Pillow: uint8 `[H, W, C]`."""
  array = np.asarray(image)
  return array[..., None] if array.ndim == 2 else array
