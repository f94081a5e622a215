"""A PNG encoder whose bytes are always the same: nothing is compressed."""

import struct
import zlib

import numpy as np

_LARGEST_BLOCK = 65535


def encode(image: np.ndarray) -> bytes:
  """A grey image as PNG.

  What a compressor writes depends on the version of zlib. Noise hardly
  compresses anyway.

  Args:
    image: uint8 `[H, W]` or `[H, W, 1]`.

  Returns:
    The bytes of the file: 68 more than the H (W + 1) of the rows, where these
    are fewer than 65536.

  Examples:
    >>> len(encode(np.zeros((32, 32), np.uint8)))
    1124
  """
  height, width = image.shape[:2]
  rows = np.zeros((height, 1 + width), np.uint8)  # Each begins with a filter.
  rows[:, 1:] = image.reshape(height, width)
  return b''.join(
    (
      b'\x89PNG\r\n\x1a\n',
      _chunk(b'IHDR', struct.pack('>2I5B', width, height, 8, 0, 0, 0, 0)),
      _chunk(b'IDAT', _stored(rows.tobytes())),
      _chunk(b'IEND', b''),
    )
  )


def _chunk(kind: bytes, data: bytes) -> bytes:
  check = struct.pack('>I', zlib.crc32(kind + data))
  return struct.pack('>I', len(data)) + kind + data + check


def _stored(data: bytes) -> bytes:
  """Data as a zlib stream of blocks that are stored as they are."""
  parts = [b'\x78\x01']
  for start in range(0, len(data), _LARGEST_BLOCK):
    block = data[start : start + _LARGEST_BLOCK]
    last = start + _LARGEST_BLOCK >= len(data)
    parts += [struct.pack('<B2H', last, len(block), len(block) ^ 0xFFFF), block]
  return b''.join(parts) + struct.pack('>I', zlib.adler32(data))
