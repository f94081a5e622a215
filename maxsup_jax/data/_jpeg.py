"""JPEG files of the usual kind, decoded by libjpeg-turbo alone.

Pillow decodes with libjpeg-turbo, too, into four bytes for every pixel that are
then copied to three. Here the same pixels come without that, and where only the
upper rows are needed, the rest of the file stays undecoded.

Whatever is unusual or may be damaged is left to Pillow, and to its judgement.
"""

import dataclasses
import functools
import io
import types

import numpy as np
from PIL import Image

from maxsup_jax.data import _optional

START, _END = b'\xff\xd8\xff', b'\xff\xd9'
# The markers of frames that are coded with Huffman tables and 8 bits.
_SEQUENTIAL, _PROGRESSIVE = (0xC0, 0xC1), (0xC2,)
_OTHER_FRAMES = (0xC3, *range(0xC5, 0xD0))
_SCAN, _ADOBE = 0xDA, 0xEE
# Numbers of channels with what an Adobe marker says of them: YCbCr, or grey.
_COLOURS = ((1, None), (3, None), (3, 1))
# Markers that have no length and do not stand before the first scan.
_BARE = (0x00, 0x01, *range(0xD0, 0xDA), 0xFF)
# Colours have fewer rows than brightness, and each row of the picture takes
# from the ones above and below it: so many rows more leave none changed.
_MARGIN = 4


@dataclasses.dataclass(frozen=True)
class Header:
  """What the header of a JPEG file says."""

  height: int
  width: int
  channels: int  # 1 or 3.
  height_at: int  # Where the file has its height, in two bytes.
  scan_at: int  # Where the pixels begin.
  one_scan: bool  # From top to bottom, all colours at once.


def read_header(encoded: bytes) -> Header | None:
  """Reads the header of a JPEG file.

  Returns:
    The header; None for files that are not the usual kind: other than 8 bits,
    grey or YCbCr, Huffman codes. Some that are damaged are among them.
  """
  at, end = 2, len(encoded) - 20
  frame: int | None = None
  transform: int | None = None
  while at < end:
    marker = encoded[at + 1]
    if encoded[at] != 0xFF or marker in _BARE or marker in _OTHER_FRAMES:
      return None
    length = encoded[at + 2] << 8 | encoded[at + 3]
    if marker in _SEQUENTIAL or marker in _PROGRESSIVE:
      if frame is not None:
        return None
      frame = at
    elif marker == _ADOBE and encoded[at + 4 : at + 9] == b'Adobe':
      transform = encoded[at + 15]
    elif marker == _SCAN:
      break
    at += 2 + length
  else:
    return None
  if frame is None:
    return None
  height = encoded[frame + 5] << 8 | encoded[frame + 6]
  width = encoded[frame + 7] << 8 | encoded[frame + 8]
  channels = encoded[frame + 9]
  usual = encoded[frame + 4] == 8 and height and width
  if not usual or (channels, transform) not in _COLOURS:
    return None
  return Header(
    height=height,
    width=width,
    channels=channels,
    height_at=frame + 5,
    scan_at=at,
    one_scan=encoded[frame + 1] in _SEQUENTIAL and encoded[at + 4] == channels,
  )


def shortened(encoded: bytes, header: Header, rows: int) -> bytearray | None:
  """A file with a smaller height, whose first `rows` rows are the same.

  Returns:
    The file; None where all of it has to be decoded.
  """
  height = rows + _MARGIN
  # The decoder will not see whether the end is there.
  if (
    not header.one_scan
    or height >= header.height
    or encoded.rfind(_END, header.scan_at) < 0
  ):
    return None
  shorter = bytearray(encoded)
  at = header.height_at
  shorter[at : at + 2] = height.to_bytes(2, 'big')
  return shorter


def decode(encoded: bytes | bytearray, header: Header) -> np.ndarray | None:
  """Decodes a JPEG file: uint8 `[H, W, C]`, or None if Pillow must do it."""
  package = usable()
  # Where the end is missing, libjpeg fills the picture up.
  if package is None or encoded.rfind(_END, header.scan_at) < 0:
    return None
  try:
    # Strict: else what libjpeg gives up on comes back as unwritten memory.
    return package.decode_jpeg(encoded, _colours(header), strict=True)
  except ValueError:
    return None


def decode_upper(
  shorter: bytearray, header: Header, rows: int
) -> np.ndarray | None:
  """Decodes what `shortened` gave: uint8 `[rows, W, C]`, or None likewise."""
  package = usable()
  if package is None:
    return None
  shape = rows + _MARGIN, header.width, header.channels
  image = np.empty(shape, np.uint8)
  try:
    package.decode_jpeg(shorter, _colours(header), strict=True, buffer=image)
  except ValueError as error:
    # Said of what follows the last row, when all rows are written. Whatever
    # libjpeg says later, and all that it gives up on, has other words.
    if 'extraneous bytes before marker' not in str(error):
      return None
  return image[:rows]


def _colours(header: Header) -> str:
  return 'GRAY' if header.channels == 1 else 'RGB'


def usable() -> types.ModuleType | None:
  """The package simplejpeg, if it gives what the installed Pillow gives."""
  package = _optional.simplejpeg()
  return package if package is not None and _agrees(package) else None


@functools.cache
def _agrees(package: types.ModuleType) -> bool:
  noise = np.random.default_rng(0).integers(0, 256, (40, 24, 3), np.uint8)
  for image in (Image.fromarray(noise), Image.fromarray(noise[..., 0])):
    file = io.BytesIO()
    image.save(file, 'JPEG', quality=80)
    decoded = np.asarray(Image.open(file)).reshape(40, 24, -1)
    colours = 'GRAY' if image.mode == 'L' else 'RGB'
    try:
      found = package.decode_jpeg(file.getvalue(), colours)
    except Exception:  # Of a version that is used in another way.
      return False
    if not np.array_equal(found, decoded):
      return False
  return True
