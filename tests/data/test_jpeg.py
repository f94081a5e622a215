import io

import cv2
import numpy as np
import pytest
from PIL import Image

from maxsup_jax.data import (
  _jpeg,
  _optional,
  _pillow,
  decoding,
  parse_transform,
)
from maxsup_jax.data.decoding import EncodedImage, decode
from maxsup_jax.data.resizing import draw_crop
from maxsup_jax.errors import UsageError

_SAMPLINGS = {
  name: getattr(cv2, f'IMWRITE_JPEG_SAMPLING_FACTOR_{name}')
  for name in ('411', '420', '422', '440', '444')
}


def _noise(height, width, seed=0):
  rng = np.random.default_rng(seed)
  noise = rng.integers(0, 256, (height, width, 3), np.uint8)
  return cv2.GaussianBlur(noise, (0, 0), 1.2) if seed % 2 else noise


def _encode(image, sampling='420', quality=80, restart=0, progressive=0):
  options = [
    *(cv2.IMWRITE_JPEG_QUALITY, quality),
    *(cv2.IMWRITE_JPEG_SAMPLING_FACTOR, _SAMPLINGS[sampling]),
    *(cv2.IMWRITE_JPEG_RST_INTERVAL, restart),
    *(cv2.IMWRITE_JPEG_PROGRESSIVE, int(progressive)),
  ]
  return cv2.imencode('.jpg', image, options)[1].tobytes()


def _by_pillow(encoded):
  image = np.asarray(Image.open(io.BytesIO(encoded)))
  return image if image.ndim == 3 else image[..., None]


class TestPixels:
  @pytest.mark.parametrize('sampling', _SAMPLINGS)
  def test_are_pillows(self, sampling):
    rng = np.random.default_rng(0)
    for seed in range(24):
      channels = (None, 1, 3)[seed % 3]
      image = _noise(*rng.integers(1, 90, 2), seed)
      encoded = _encode(
        image[..., :1] if seed % 4 == 3 else image,
        sampling,
        quality=int(rng.integers(5, 101)),
        restart=seed % 3,
        progressive=seed % 5 == 1,
      )
      with _optional.without('simplejpeg'):
        expected = decode(encoded, channels)
      out = decode(encoded, channels)
      np.testing.assert_array_equal(out, expected)
      if channels is None:
        np.testing.assert_array_equal(out, _by_pillow(encoded))
      assert EncodedImage(encoded, channels).shape == out.shape
      assert not out.flags.writeable

  @pytest.mark.parametrize('sampling', _SAMPLINGS)
  def test_of_the_upper_rows(self, sampling):
    for packages in ((), ('simplejpeg',)):
      encoded = _encode(_noise(61, 40), sampling, restart=len(packages))
      expected = decode(encoded, 3)
      with _optional.without(*packages):
        for rows in range(1, 62):
          upper = EncodedImage(encoded, 3).upper(rows)
          np.testing.assert_array_equal(upper, expected[:rows])

  def test_colours_that_are_no_ycbcr(self):
    """Files whose three channels are red, green and blue."""
    file = io.BytesIO()
    image = Image.fromarray(_noise(20, 30))
    image.save(file, 'JPEG', keep_rgb=True, quality=95)
    encoded = file.getvalue()
    np.testing.assert_array_equal(decode(encoded, 3), _by_pillow(encoded))
    upper = EncodedImage(encoded, 3).upper(4)
    np.testing.assert_array_equal(upper, _by_pillow(encoded)[:4])


def test_less_is_decoded(monkeypatch):
  heights = []
  decode_jpeg = _optional.simplejpeg().decode_jpeg

  def spy(encoded, *arguments, **options):
    heights.append(_jpeg.read_header(encoded).height)
    return decode_jpeg(encoded, *arguments, **options)

  encoded = _encode(_noise(100, 40))
  decode(encoded, 3)  # The first time, two pictures more are compared.
  monkeypatch.setattr(_optional.simplejpeg(), 'decode_jpeg', spy)
  assert EncodedImage(encoded, 3).upper(30).shape == (30, 40, 3)
  assert EncodedImage(encoded, 3).upper(98).shape == (98, 40, 3)
  assert heights == [34, 100]
  scale = (0.1, 0.2)
  crop = parse_transform(f'random_resized_crop(8, scale={scale}) | flip')
  assert crop.takes_encoded
  out = crop(EncodedImage(encoded, 3), np.random.default_rng(0))
  top, _, height, _ = draw_crop(100, 40, np.random.default_rng(0), scale)
  assert heights[2:] == [top + height + 4]
  assert heights[2] < 90
  expected = crop(decode(encoded, 3), np.random.default_rng(0))
  np.testing.assert_array_equal(out, expected)


class TestRefuses:
  @pytest.mark.parametrize('progressive', [0, 1])
  def test_truncations_of_what_is_not_decoded(self, progressive):
    """Also where the missing part is below the crop."""
    encoded = _encode(_noise(60, 30), progressive=progressive)
    expected = decode(encoded, 3)
    whole = 0
    for length in range(1, len(encoded)):
      image = EncodedImage(encoded[:length], 3, 'mine: example 7')
      try:
        upper = image.upper(5)
      except UsageError as error:
        assert '\n' not in str(error)  # noqa: PT017
        assert str(error).startswith('mine: example 7 cannot be re')  # noqa: PT017
      else:
        np.testing.assert_array_equal(upper, expected[:5])
        whole += 1
    assert whole <= 2  # Pillow does not need the very end either.

  def test_bombs(self, monkeypatch, refused):
    monkeypatch.setattr(_pillow, 'MAX_PIXELS', 20 * 30 - 1)
    for see in (decoding.EncodedImage.decode, lambda image: image.upper(3)):
      with refused('a JPEG file of 20x30 pixels; expected at most 599'):
        see(EncodedImage(_encode(_noise(20, 30)), 3))


class TestDamage:
  @pytest.mark.parametrize(
    ('kind', 'rows'),
    [
      ('baseline', None),
      ('restart', 10),
      ('progressive', 10),
      ('baseline', 30),
    ],
  )
  def test_ends_as_without_simplejpeg(self, kind, rows):
    """The same pixels, to the bit, or the same refusal."""
    encoded = _encode(
      _noise(48, 64, 1),
      restart=int(kind == 'restart'),
      progressive=kind == 'progressive',
    )
    rng = np.random.default_rng(0)
    refusals, changed = 0, 0
    whole = decode(encoded, 3)[:rows]
    for at in rng.choice(len(encoded), 200, replace=False):
      damaged = bytearray(encoded)
      damaged[at] ^= int(rng.integers(1, 256))
      with _optional.without('simplejpeg'):
        expected = _decoded(bytes(damaged), rows)
      out = _decoded(bytes(damaged), rows)
      if isinstance(expected, str):
        assert out == expected
        refusals += 1
      else:
        np.testing.assert_array_equal(out, expected)
        changed += not np.array_equal(out, whole)
    assert refusals > 5
    assert changed > 40

  def test_what_libjpeg_gives_up_on_is_left_to_pillow(self):
    """Else the memory of the image would stay unwritten."""
    encoded = bytearray(_encode(_noise(48, 64, 1)))
    tables = encoded.index(b'\xff\xc4')
    encoded[tables + 5] = 255  # So many Huffman codes of one bit.
    header = _jpeg.read_header(encoded)
    assert _jpeg.decode(encoded, header) is None
    assert _jpeg.decode_upper(encoded, header, 10) is None
    shorter = _jpeg.shortened(encoded, header, 10)
    assert _jpeg.decode_upper(shorter, header, 10) is None


def _decoded(encoded, rows):
  image = EncodedImage(encoded, 3)
  try:
    return image.decode() if rows is None else image.upper(rows)
  except UsageError as error:
    return str(error)


def test_a_simplejpeg_that_decodes_otherwise_is_not_used(monkeypatch):
  decode_jpeg = _optional.simplejpeg().decode_jpeg
  calls = []

  def other(*arguments, **options):
    calls.append(options)
    return decode_jpeg(*arguments, **options | {'fastdct': True}) ^ 1

  encoded = _encode(_noise(40, 30))
  monkeypatch.setattr(_optional.simplejpeg(), 'decode_jpeg', other)
  _jpeg._agrees.cache_clear()
  try:
    np.testing.assert_array_equal(decode(encoded, 3), _by_pillow(encoded))
    EncodedImage(encoded, 3).upper(5)
    assert len(calls) == 1  # Asked once.
  finally:
    _jpeg._agrees.cache_clear()
