import io
import struct
import warnings
import zlib

import numpy as np
import pytest
from PIL import Image

from maxsup_jax.data.decoding import decode
from maxsup_jax.errors import UsageError


def _image(mode='RGB', size=(50, 37)):
  rng = np.random.default_rng(0)
  coarse = rng.integers(0, 256, (5, 6, 3), np.uint8)
  smooth = Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC)
  return smooth.convert(mode)


def _encode(image, form, **options):
  file = io.BytesIO()
  image.save(file, form, **options)
  return file.getvalue()


def _png(rows, *, depth, kind, chunks=(), shape=None):
  """A PNG file written by hand; `rows` are the bytes of each row."""

  def chunk(name, data):
    checksum = struct.pack('>I', zlib.crc32(name + data))
    return struct.pack('>I', len(data)) + name + data + checksum

  bits = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}[kind] * depth
  width, height = shape or (len(rows[0]) * 8 // bits, len(rows))
  header = struct.pack('>IIBBBBB', width, height, depth, kind, 0, 0, 0)
  data = b''.join(b'\0' + row for row in rows)
  return b''.join(
    [
      b'\x89PNG\r\n\x1a\n',
      chunk(b'IHDR', header),
      *(chunk(*c) for c in chunks),
      chunk(b'IDAT', zlib.compress(data)),
      chunk(b'IEND', b''),
    ]
  )


# One file of each kind, as (format, mode, options of Pillow).
_FILES = {
  'jpeg': ('JPEG', 'RGB', {'quality': 90}),
  'jpeg_progressive': ('JPEG', 'RGB', {'progressive': True}),
  'jpeg_grey': ('JPEG', 'L', {}),
  'jpeg_cmyk': ('JPEG', 'CMYK', {}),
  'png': ('PNG', 'RGB', {}),
  'png_grey': ('PNG', 'L', {}),
  'png_bits': ('PNG', '1', {}),
  'png_palette': ('PNG', 'P', {}),
  'png_alpha': ('PNG', 'RGBA', {}),
  'png_grey_alpha': ('PNG', 'LA', {}),
  'webp': ('WEBP', 'RGB', {}),
  'webp_lossless': ('WEBP', 'RGB', {'lossless': True}),
  'bmp': ('BMP', 'RGB', {}),
  'bmp_palette': ('BMP', 'P', {}),
  'gif': ('GIF', 'P', {}),
}
_GREY = ('jpeg_grey', 'png_grey', 'png_bits', 'png_grey_alpha')


def _file(name):
  form, mode, options = _FILES[name]
  return _encode(_image(mode), form, **options)


class TestPixels:
  @pytest.mark.parametrize('name', _FILES)
  def test_equal_pillows(self, name):
    encoded = _file(name)
    stored = 1 if name in _GREY else 3
    for channels in (None, 1, 3):
      mode = 'L' if (channels or stored) == 1 else 'RGB'
      expected = np.asarray(Image.open(io.BytesIO(encoded)).convert(mode))
      out = decode(encoded, channels)
      assert out.dtype == np.uint8
      assert out.shape == (37, 50, channels or stored)
      np.testing.assert_array_equal(out.reshape(expected.shape), expected)

  def test_ycck(self):
    # The Adobe marker of Pillow's file says CMYK (0); 2 says YCCK.
    encoded = _file('jpeg_cmyk')
    at = encoded.index(b'Adobe')
    ycck = encoded[: at + 11] + b'\2' + encoded[at + 12 :]
    assert encoded[at + 11] == 0
    expected = np.asarray(Image.open(io.BytesIO(ycck)).convert('RGB'))
    np.testing.assert_array_equal(decode(ycck, 3), expected)
    assert (decode(ycck, 3) != decode(encoded, 3)).mean() > 0.9

  @pytest.mark.parametrize(('kind', 'bands'), [(0, 1), (2, 3), (4, 2), (6, 4)])
  def test_of_16_bits_the_upper_8_stay(self, kind, bands):
    values = np.random.default_rng(0).integers(0, 2**16, (5, 4, bands))
    rows = [row.astype('>u2').tobytes() for row in values]
    out = decode(_png(rows, depth=16, kind=kind), None)
    colours = 1 if bands < 3 else 3
    np.testing.assert_array_equal(out, values[..., :colours] >> 8)

  @pytest.mark.parametrize(('depth', 'largest'), [(1, 1), (2, 3), (4, 15)])
  def test_few_bits_are_scaled(self, depth, largest):
    rows = [bytes([0b10110001, 0b01001110])]
    out = decode(_png(rows, depth=depth, kind=0), None)
    bits = np.unpackbits(np.frombuffer(rows[0], np.uint8)).reshape(-1, depth)
    values = bits @ (1 << np.arange(depth)[::-1])
    np.testing.assert_array_equal(out[0, :, 0], values * 255 // largest)

  @pytest.mark.parametrize(
    'transparency', [b'\x00\x80', b'\x00\xff', b'\x80'], ids=repr
  )
  def test_palette_with_transparency(self, transparency):
    chunks = [
      (b'PLTE', bytes([10, 20, 30, 40, 50, 60])),
      (b'tRNS', transparency),
    ]
    encoded = _png([bytes([0b01100000])], depth=1, kind=3, chunks=chunks)
    out = decode(encoded, None)[0]
    colours = np.array([[10, 20, 30], [40, 50, 60]])
    np.testing.assert_array_equal(out, colours[[0, 1, 1, 0, 0, 0, 0, 0]])

  def test_a_transparent_colour(self):
    chunks = [(b'tRNS', struct.pack('>HHH', 1, 2, 3))]
    encoded = _png([bytes([1, 2, 3, 9, 9, 9])], depth=8, kind=2, chunks=chunks)
    np.testing.assert_array_equal(decode(encoded, 3)[0], [[1, 2, 3], [9] * 3])
    chunks = [(b'tRNS', struct.pack('>H', 7))]
    encoded = _png([bytes([7, 8])], depth=8, kind=0, chunks=chunks)
    np.testing.assert_array_equal(decode(encoded, None)[0, :, 0], [7, 8])

  @pytest.mark.parametrize('form', ['GIF', 'WEBP', 'PNG'])
  def test_the_first_frame(self, form):
    first, second = _image().quantize(16), _image().rotate(180).quantize(16)
    if form != 'GIF':
      first, second = first.convert('RGB'), second.convert('RGB')
    options = {} if form != 'WEBP' else {'lossless': True}
    encoded = _encode(
      first, form, save_all=True, append_images=[second], **options
    )
    np.testing.assert_array_equal(decode(encoded, 3), first.convert('RGB'))

  def test_orientation_is_ignored(self):
    exif = Image.Exif()
    exif[0x0112] = 6  # Turn by 90 degrees.
    encoded = _encode(_image(), 'JPEG', exif=exif)
    np.testing.assert_array_equal(
      decode(encoded, 3), decode(_encode(_image(), 'JPEG'), 3)
    )


class TestRefuses:
  @pytest.mark.parametrize('name', [*_FILES, 'gif_animated'])
  def test_every_truncation(self, name, refused):
    if name == 'gif_animated':
      frames = [_image('P', (9, 8)), _image('P', (9, 8)).rotate(180)]
      encoded = _encode(frames[0], 'GIF', save_all=True, append_images=frames)
    else:
      form, mode, options = _FILES[name]
      encoded = _encode(_image(mode, (17, 13)), form, **options)
    full = decode(encoded, None)
    whole = 0
    for length in range(1, len(encoded)):
      try:
        out = decode(encoded[:length], None)
      except UsageError as error:
        assert '\n' not in str(error)  # noqa: PT017
        assert 'a damaged' in str(error) or length < 12  # noqa: PT017
      else:  # Only what comes after the pixels is missing.
        np.testing.assert_array_equal(out, full)
        whole += 1
    if name.startswith(('jpeg', 'webp')):
      assert whole <= 2
    elif name != 'gif_animated':  # CRCs and IEND, ';', or padding.
      assert whole <= 24
    with refused('a damaged'):
      decode(encoded[: len(encoded) // 2 if not whole else -whole - 1], None)

  @pytest.mark.parametrize(
    ('encoded', 'match'),
    [
      (b'', '^an empty file; expected an image$'),
      (
        b'<html>\n404</html>',
        r"first bytes are b'<html>\\n404</'; expected a JPEG",
      ),
      (b'\xff\xd8\xff\xe0', '^a damaged JPEG file: '),
      (b'RIFF\x10\0\0\0WEBPVP8 ', '^a damaged WebP file: '),
      (b'GIF89a', '^a damaged GIF file: '),
      (b'BM\0\0', '^a damaged BMP file: '),
      (b'\x89PNG\r\n\x1a\n', '^a damaged PNG file: '),
    ],
  )
  def test_what_is_no_image(self, encoded, match, refused):
    with refused(match):
      decode(encoded, 3)

  def test_every_bit_error_in_png(self):
    """Refused, or it changes no pixel; Pillow itself lets some pass."""
    ramp = np.add.outer(np.arange(9), np.arange(11)).astype(np.uint8) * 8
    for image in (ramp, np.stack([ramp, ramp + 1, ramp + 2], -1)):
      encoded = _encode(Image.fromarray(image), 'PNG', compress_level=0)
      full, refusals = decode(encoded, None), 0
      for bit in range(8 * len(encoded)):
        damaged = bytearray(encoded)
        damaged[bit // 8] ^= 1 << bit % 8
        try:
          out = decode(bytes(damaged), None)
        except UsageError as error:
          assert '\n' not in str(error)  # noqa: PT017
          refusals += 1
        else:
          np.testing.assert_array_equal(out, full)
      # All but those of the last chunk.
      assert refusals >= 8 * (len(encoded) - 12)

  def test_pixels_in_several_chunks(self, refused):
    pixels = np.random.default_rng(0).integers(0, 256, (200, 200, 3), np.uint8)
    image = Image.fromarray(pixels)
    encoded = bytearray(_encode(image, 'PNG'))
    assert encoded.count(b'IDAT') > 1
    np.testing.assert_array_equal(decode(bytes(encoded), 3), image)
    encoded[encoded.rindex(b'IDAT') + 9] ^= 4
    with refused("a damaged PNG file: the checksum of b'IDAT' is wrong"):
      decode(bytes(encoded), 3)

  @pytest.mark.parametrize('side', [9460, 60_000])
  def test_bombs(self, side, refused):
    # Pillow warns of the first (above 89 million pixels) and refuses the other.
    row = b'\0' * (side // 8 + 1)
    png = _png([row], depth=1, kind=0, shape=(side, side))
    bmp = bytearray(_file('bmp'))
    bmp[18:26] = struct.pack('<ii', side, side)
    for encoded in (png, bytes(bmp)):
      with refused(f'of {side}x{side} pixels; expected at most 89478485'):
        decode(encoded, 3)
    with refused("channels is '3'; expected 1, 3 or None"):
      decode(_file('png'), '3')


def test_damaged_exif_gives_no_warning():
  # Pillow itself warns here: it looks for a resolution.
  exif = b'Exif\0\0II*\0\x08\0\0\0\x02\0\x1a\x01\x05\0\x01\0\0\0\xff\xff\0\0'
  encoded = _file('jpeg')
  segment = b'\xff\xe1' + struct.pack('>H', len(exif) + 2) + exif
  jfif = encoded[:20]  # The start and a JFIF segment, which has a resolution.
  encoded = encoded[:2] + segment + encoded[20:]
  assert jfif[6:10] == b'JFIF'
  with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter('always')
    Image.open(io.BytesIO(encoded))
  assert caught
  np.testing.assert_array_equal(decode(encoded, 3), decode(_file('jpeg'), 3))
