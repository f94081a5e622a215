"""Encoded images to arrays, as PyTorch's pipelines decode them: as Pillow does.

JPEG files of the usual kind are decoded by libjpeg-turbo alone, where the
package simplejpeg is installed, and everything else by Pillow; the pixels are
the same.
"""

import contextlib
import functools
import io
import struct
import zlib
from collections.abc import Callable, Iterator

import numpy as np
from PIL import (
  BmpImagePlugin,
  GifImagePlugin,
  Image,
  JpegImagePlugin,
  PngImagePlugin,
  WebPImagePlugin,
)

from maxsup_jax.data import _jpeg, _pillow
from maxsup_jax.errors import UsageError, one_line, shown, within


def decode(encoded: bytes, channels: int | None) -> np.ndarray:
  """Decodes a JPEG, PNG, WebP, BMP or GIF file (its first frame).

  The pixels are those of `PIL.Image.open(...).convert('RGB')`, which is how
  torchvision's `ImageFolder` reads (`convert('L')` for one channel, with the
  weights of ITU-R 601):

  - An alpha channel is dropped, so what is transparent shows the colour that
    is stored there. CMYK becomes RGB without its colour profile.
  - The orientation in EXIF and all colour profiles are ignored.
  - Of 16 bits per channel, the upper 8 are kept; 1, 2 and 4 bits are scaled to
    0..255. (Of 16-bit grey images torchvision makes something else, depending
    on the version of Pillow.)

  What cannot be decoded in full is refused, so a truncated file is never
  filled up with grey. Of PNG files the checksums are compared. Damage inside a
  JPEG, WebP, BMP or GIF file with a proper end may go unnoticed: these formats
  have no checksums, and Pillow does not pass on what libjpeg finds. The
  function is thread-safe, and releases Python's lock most of the time.

  Args:
    encoded: the contents of the file.
    channels: 1 or 3, or None for what is stored: 1 for grey images, with or
      without alpha, and otherwise 3.

  Returns:
    uint8 `[H, W, channels]`, not writeable.

  Raises:
    UsageError: if `encoded` is no such file, is damaged, or has more than
      89 million pixels; or if `channels` is something else.

  Examples:
    >>> file = io.BytesIO()
    >>> Image.new('L', (4, 3), color=7).save(file, 'PNG')
    >>> decode(file.getvalue(), channels=None).shape
    (3, 4, 1)
  """
  if channels not in (None, 1, 3):
    raise UsageError(f'channels is {shown(channels)}; expected 1, 3 or None')
  return EncodedImage(encoded, channels).decode()


# Of the header of a PNG file: what its pixels are, but for 0 (grey) and 3.
_PNG_COLORS = {2: 'RGB pixels', 4: 'grey and alpha', 6: 'RGB and alpha'}


def decode_ids(encoded: bytes) -> tuple[np.ndarray, np.ndarray | None]:
  """Decodes a PNG file whose pixels are class ids.

  The ids are the grey levels of 8 bits, or the indices of a palette.

  Returns:
    uint8 `[H, W]`, not writeable, and the palette, uint8 `[n, 3]`, or None.

  Raises:
    UsageError: if the file holds colours or grey levels of another depth, is no
      PNG, is damaged or too large.

  Examples:
    >>> file = io.BytesIO()
    >>> Image.new('L', (4, 3), color=7).save(file, 'PNG')
    >>> decode_ids(file.getvalue())[0].max()
    np.uint8(7)
  """
  name, _ = _find_format(encoded)
  # Of a file that ends before its header says so, Pillow will tell.
  depth, color = encoded[24:26] if len(encoded) > 25 else (8, 0)
  what = _PNG_COLORS.get(color, f'grey levels of {depth} bits')
  if name != 'PNG':
    what = f'a {name} file'
  if name != 'PNG' or (color != 3 and (color, depth) != (0, 8)):
    raise UsageError(
      f'it has {what}; expected class ids: a PNG of 8-bit grey levels or of a '
      'palette'
    )
  with _opened(encoded) as image:
    palette = image.getpalette('RGB') if color == 3 else None
    ids_HW = np.asarray(image)
  if palette is None:
    return ids_HW, None
  return ids_HW, np.array(palette, np.uint8).reshape(-1, 3)


class DecodingError(UsageError):
  """An encoded image cannot be decoded."""


class EncodedImage:
  """An image that is decoded when it is needed, as far as it is needed.

  Args:
    encoded: the contents of the file.
    channels: as in `decode`.
    where: what errors begin with, such as the number of an example.

  Raises:
    DecodingError: by all methods, where the function `decode` would raise a
      UsageError.

  Examples:
    >>> file = io.BytesIO()
    >>> Image.new('RGB', (60, 50), color=(7, 7, 7)).save(file, 'JPEG')
    >>> image = EncodedImage(file.getvalue(), channels=3)
    >>> image.shape
    (50, 60, 3)
    >>> image.upper(10).shape
    (10, 60, 3)
  """

  def __init__(self, encoded: bytes, channels: int | None, where: str = ''):
    self._encoded, self._channels, self._where = encoded, channels, where

  @property
  def shape(self) -> tuple[int, int, int]:
    """Height, width and channels."""
    header = self._header
    if header is None:
      return self._whole.shape
    channels = self._channels or header.channels
    return header.height, header.width, channels

  def decode(self) -> np.ndarray:
    """All of the image: see the function `decode`."""
    return self._whole

  def upper(self, rows: int) -> np.ndarray:
    """The upper rows of what `decode` gives, uint8 `[rows, W, C]`.

    Damage below them may go unnoticed, but a file without an end is refused.
    """
    if '_whole' not in self.__dict__ and self._header is not None:
      shorter = _jpeg.shortened(self._encoded, self._header, rows)
      if shorter is not None:
        image = _jpeg.decode_upper(shorter, self._header, rows)
        if image is None:
          upper = self._by_pillow(bytes(shorter))
          return upper[:rows]
        return self._in_channels(image)
    return self._whole[:rows]

  @functools.cached_property
  def _header(self) -> _jpeg.Header | None:
    """That of a JPEG file that need not be left to Pillow."""
    if not self._encoded.startswith(_jpeg.START):
      return None
    header = _jpeg.read_header(self._encoded)
    if header is None or header.height * header.width > _pillow.MAX_PIXELS:
      return None
    # Pillow makes grey of colours from RGB, libjpeg takes the brightness.
    return None if header.channels > (self._channels or 3) else header

  @functools.cached_property
  def _whole(self) -> np.ndarray:
    if self._header is not None:
      image = _jpeg.decode(self._encoded, self._header)
      if image is not None:
        return self._in_channels(image)
    return self._by_pillow(self._encoded)

  def _by_pillow(self, encoded: bytes) -> np.ndarray:
    try:
      with within(f'{self._where} cannot be read: ' if self._where else ''):
        return _decode_with_pillow(encoded, self._channels)
    except UsageError as error:
      raise DecodingError(str(error)) from error

  def _in_channels(self, image: np.ndarray) -> np.ndarray:
    """Repeats grey where colours are wanted; then it cannot be written to."""
    if self._channels is not None and image.shape[-1] != self._channels:
      image = np.repeat(image, self._channels, axis=-1)
    image.flags.writeable = False
    return image


def _decode_with_pillow(encoded: bytes, channels: int | None) -> np.ndarray:
  with _opened(encoded) as image:
    if channels is None and image.format == 'PNG' and encoded[25] == 4:
      channels = 1  # Grey with alpha; Pillow makes RGBA of it at 16 bits.
    return _pillow.to_array(_convert(image, channels))


@contextlib.contextmanager
def _opened(encoded: bytes) -> Iterator[Image.Image]:
  """An image with all its pixels, as Pillow reads them."""
  name, open_file = _find_format(encoded)
  # Each of Pillow's readers fails in its own ways on damaged files (OSError,
  # SyntaxError, struct.error, IndexError, ...), and all mean the same.
  try:
    if name == 'PNG':
      _check_png(encoded)
    image = open_file(io.BytesIO(encoded))
    width, height = image.size
    if width * height > _pillow.MAX_PIXELS:
      raise UsageError(
        f'a {name} file of {height}x{width} pixels; expected at most '
        f'{_pillow.MAX_PIXELS} pixels'
      )
    image.load()
    yield image
  except UsageError:
    raise
  except Exception as error:
    reason = one_line(error) or type(error).__name__
    raise UsageError(f'a damaged {name} file: {reason}') from error


class _JpegFile(JpegImagePlugin.JpegImageFile):
  """A JPEG file whose EXIF data nobody looks at.

  Pillow looks for a resolution there, and warns where the data are damaged, as
  they are in a few images of ImageNet.
  """

  def _read_dpi_from_exif(self) -> None:
    pass


# Pillow's readers rather than `Image.open`: that warns of large images, knows
# dozens of formats more (one runs programs), and tries one after the other.
_FORMATS: tuple[tuple[str, bytes, Callable[[io.BytesIO], Image.Image]], ...] = (
  ('JPEG', _jpeg.START, _JpegFile),
  ('PNG', b'\x89PNG\r\n\x1a\n', PngImagePlugin.PngImageFile),
  ('GIF', b'GIF87a', GifImagePlugin.GifImageFile),
  ('GIF', b'GIF89a', GifImagePlugin.GifImageFile),
  ('BMP', b'BM', BmpImagePlugin.BmpImageFile),
)


def _find_format(
  encoded: bytes,
) -> tuple[str, Callable[[io.BytesIO], Image.Image]]:
  """The name of a file's format, and what opens such files."""
  start = bytes(encoded[:12])
  for name, signature, open_file in _FORMATS:
    if start.startswith(signature):
      return name, open_file
  if start.startswith(b'RIFF') and start.endswith(b'WEBP'):
    return 'WebP', WebPImagePlugin.WebPImageFile
  if not start:
    raise UsageError('an empty file; expected an image')
  raise UsageError(
    f'the first bytes are {start!r}; expected a JPEG, PNG, WebP, BMP or GIF '
    'file'
  )


def _check_png(encoded: bytes) -> None:
  """Compares the checksums of a PNG file up to its last pixels.

  Pillow does not compare those of the compressed pixels, and stops reading
  these before their own checksum, so that a wrong bit could change a pixel.
  """
  at, pixels = 8, False
  while not pixels or at + 8 <= len(encoded):
    length, name = struct.unpack_from('>I4s', encoded, at)
    if pixels and name != b'IDAT':
      break
    end = at + 8 + length
    if end + 4 > len(encoded):
      raise OSError('image file is truncated')
    (checksum,) = struct.unpack_from('>I', encoded, end)
    if checksum != zlib.crc32(memoryview(encoded)[at + 4 : end]):
      raise OSError(f'the checksum of {name!r} is wrong')
    pixels = pixels or name == b'IDAT'
    at = end + 4


def _convert(image: Image.Image, channels: int | None) -> Image.Image:
  """An image of mode L or RGB."""
  # Or Pillow would look for a colour that can stand for transparency, and warn.
  image.info.pop('transparency', None)
  if image.mode.startswith('I'):  # 16 bits, in 16 or (older Pillow) 32.
    upper = np.asarray(image) >> 8
    image = Image.fromarray(upper.astype(np.uint8))
  if channels is None:
    channels = 1 if image.mode in ('1', 'L', 'LA', 'La') else 3
  mode = 'L' if channels == 1 else 'RGB'
  return image if image.mode == mode else image.convert(mode)
