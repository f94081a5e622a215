import cv2
import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFont

from maxsup_jax.data import _glyph_shapes
from maxsup_jax.data._glyph_pictures import FULL, coverage, encode_png


def _edges(*contours):
  """Closed contours, each a list of (x, y)."""
  return np.concatenate(
    [
      np.stack([np.array(c, float), np.roll(c, -1, axis=0)], axis=1)
      for c in contours
    ]
  )


def _area(*contours, size=32):
  return coverage(_edges(*contours), size).sum() / FULL


def _square(low, high):
  return [(low, low), (high, low), (high, high), (low, high)]


def _font(name):
  import matplotlib

  return f'{matplotlib.get_data_path()}/fonts/ttf/{name}'


class TestCoverage:
  def test_rectangles_on_the_grid_are_exact(self):
    corners = [(1.25, 2.0), (3.0, 2.0), (3.0, 5.75), (1.25, 5.75)]
    expected = np.zeros((8, 8))
    expected[2:6, 1:3] = 1.0
    expected[:, 1] *= 0.75
    expected[5] *= 0.75
    actual = coverage(_edges(corners), 8)
    assert actual.dtype == np.int64
    np.testing.assert_array_equal(actual, expected * FULL)

  def test_nonzero_rule(self):
    outer, inner = _square(2.0, 10.0), _square(4.0, 8.0)
    assert _area(outer) == _area(outer[::-1]) == 64
    assert _area(outer, inner) == 64  # Not 48: the even-odd rule.
    assert _area(outer, inner[::-1]) == 48
    assert _area(outer[::-1], inner) == 48
    assert _area(outer, _square(6.0, 14.0)) == 64 + 64 - 16

  def test_an_edge_through_samples(self):
    """A crossing at a sample counts it; rounding goes to 1/1024 pixel."""
    left, right = 0.125, 0.125 + 1 / 1024  # The first sample is at 1/8.
    near, far = left + 0.4 / 1024, left + 0.6 / 1024
    for x, expected in ((left, 4), (near, 4), (far, 3), (right, 3)):
      corners = [(x, 0), (1, 0), (1, 0.25), (x, 0.25)]
      assert coverage(_edges(corners), 1).item() == expected


class TestShapes:
  @pytest.mark.parametrize(
    ('font', 'character'),
    [('DejaVuSerif.ttf', 'Q'), ('STIXGeneralBol.ttf', 'g'), ('cmr10.ttf', 'i')],
  )
  def test_letters_look_as_freetype_renders_them(self, font, character):
    size, scale = 64, 16
    index = list(_glyph_shapes.FONTS).index(font)
    shape = _glyph_shapes.load_shapes()[index][
      _glyph_shapes.CHARACTERS.index(character)
    ]
    # Both fill the picture with the box around the letter.
    low, high = shape.min((0, 1)), shape.max((0, 1))
    actual = coverage((shape - low) / (high - low) * size, size) / FULL
    canvas = Image.new('L', (2 * size * scale,) * 2)
    ImageDraw.Draw(canvas).text(
      (size * scale // 2, 0),
      character,
      fill=255,
      font=ImageFont.truetype(_font(font), size * scale),
    )
    letter = canvas.crop(canvas.getbbox()).resize((size, size), Image.BOX)
    error = abs(actual - np.asarray(letter) / 255)
    assert error.mean() < 0.01
    assert actual.mean() > 0.2

  def test_other_fonts_are_refused(self, monkeypatch, refused):
    load = _glyph_shapes.load_shapes.__wrapped__  # Without the cache.
    fonts = dict(_glyph_shapes.FONTS)
    fonts['cmr10.ttf'] = fonts['cmb10.ttf']
    monkeypatch.setattr(_glyph_shapes, 'FONTS', fonts)
    with refused('outlines in .*cmr10.ttf differ .* install matplotlib'):
      load()

  @pytest.mark.parametrize('content', [None, b'', b'no font'])
  def test_unreadable_fonts(self, content, tmp_path, refused):
    path = tmp_path / 'cmr10.ttf'
    if content is not None:
      path.write_bytes(content)
    with refused('cmr10.ttf, a font that .* cannot be read'):
      _glyph_shapes.read_outlines(path)


@pytest.mark.parametrize('shape', [(1, 1), (32, 32), (7, 5), (300, 260)])
def test_png(shape, make_images):
  image = make_images((*shape, 1))[0]
  png = encode_png(image)
  decoded = cv2.imdecode(np.frombuffer(png, np.uint8), cv2.IMREAD_UNCHANGED)
  np.testing.assert_array_equal(decoded, image[..., 0])
  if shape[0] * (shape[1] + 1) < 65536:
    assert len(png) == shape[0] * (shape[1] + 1) + 68
