"""The outlines of letters and digits, from the fonts that matplotlib ships.

TrueType outlines are quadratic Bezier curves whose control points are integers.
They are flattened here into polygons, exactly: every corner is a multiple of
1/32 of a font unit. No font rasteriser takes part.
"""

import contextlib
import dataclasses
import functools
import hashlib
import logging
import pathlib
import string
from collections.abc import Iterator

import numpy as np

from maxsup_jax.errors import UsageError

# The classes, in their order: a dataset of K classes has the first K.
CHARACTERS = string.ascii_uppercase + string.ascii_lowercase + string.digits

# The text fonts that every matplotlib from 3.9 to 3.11 ships, in the order in
# which random numbers choose them, and the fingerprint of the outlines of
# `CHARACTERS` in each: with others the images would not be the same.
FONTS = {
  'DejaVuSans.ttf': '9ba5b35c723f8b85',
  'DejaVuSans-Bold.ttf': 'f0e81d38b623a019',
  'DejaVuSans-Oblique.ttf': 'b7fbba19ed87e030',
  'DejaVuSans-BoldOblique.ttf': '79d85e73185cddf3',
  'DejaVuSansMono.ttf': '4e04817481e34dce',
  'DejaVuSansMono-Bold.ttf': '10baed1b19a4d63a',
  'DejaVuSansMono-Oblique.ttf': '907be8bc0a5c6df4',
  'DejaVuSansMono-BoldOblique.ttf': '0678c560139276af',
  'DejaVuSerif.ttf': '944dd5936ae7d765',
  'DejaVuSerif-Bold.ttf': '58c78401e85bed3b',
  'DejaVuSerif-Italic.ttf': '556e658c490aad46',
  'DejaVuSerif-BoldItalic.ttf': 'efbd5c3a42605015',
  'STIXGeneral.ttf': 'a5a73dadf4ab15b5',
  'STIXGeneralBol.ttf': 'da64e9c7df1056e2',
  'STIXGeneralItalic.ttf': 'c5a67d8d4afc1814',
  'STIXGeneralBolIta.ttf': 'e9f6fc7601c2b0a6',
  'cmr10.ttf': 'a1ab3e5691b964a5',
  'cmb10.ttf': 'af9a72ca9f8b7abd',
  'cmss10.ttf': '449bc6ec699abb28',
  'cmtt10.ttf': '5bdef81d7b1b1320',
}

# Straight pieces per curve. At 128 pixels they are off by less than a tenth of
# a pixel.
_PIECES = 4


@dataclasses.dataclass(frozen=True)
class Outline:
  """The control points of a glyph."""

  points: tuple[tuple[int, int], ...]  # (x, y) in font units, y upwards.
  on_curve: tuple[bool, ...]  # Whether the curve passes through each.
  ends: tuple[int, ...]  # The index of the last point of each contour.


@functools.cache
def load_shapes() -> tuple[tuple[np.ndarray, ...], ...]:
  """The polygons of every font and character, checked against `FONTS`.

  A shape is centred in its bounding box and y points downwards. Lengths are in
  units of the height of the font's H, so that an o is smaller than an O; a
  shape that is higher than that, or wider than 1.25 of it, is scaled down to
  it.

  Returns:
    `shapes[font][character]`, float64 `[E, 2, 2]`: the E edges of the shape,
    each from (x, y) to (x, y), in the sense of its contour. What a contour of
    the other sense encloses is a hole.

  Raises:
    UsageError: if a font is missing or differs from the one expected.
  """
  import matplotlib

  directory = pathlib.Path(matplotlib.get_data_path()) / 'fonts' / 'ttf'
  shapes = []
  for name, expected in FONTS.items():
    outlines = read_outlines(directory / name)
    if fingerprint(outlines) != expected:
      raise UsageError(
        f'the outlines in {directory / name} differ from those of the font '
        'that defines the glyphs: install matplotlib 3.9 to 3.11 from PyPI'
      )
    cap_height = max(y for _, y in outlines['H'].points)
    shapes.append(
      tuple(_normalize(flatten(outlines[c]), cap_height) for c in CHARACTERS)
    )
  return tuple(shapes)


def read_outlines(path: pathlib.Path) -> dict[str, Outline]:
  """The outlines of `CHARACTERS` in a TrueType font.

  Raises:
    UsageError: if there is no such file, or it is no font with these glyphs.
  """
  from fontTools import ttLib

  outlines = {}
  try:
    with (
      _without_log(),
      open(path, 'rb') as file,  # Of a path fontTools would not close it.
      ttLib.TTFont(file, lazy=True) as font,
    ):
      names, glyphs = font.getBestCmap(), font['glyf']
      for character in CHARACTERS:
        glyph = glyphs[names[ord(character)]]
        points, ends, flags = glyph.getCoordinates(glyphs)[:3]
        outlines[character] = Outline(
          points=tuple((int(x), int(y)) for x, y in points),
          on_curve=tuple(bool(flag & 1) for flag in flags),
          ends=tuple(int(end) for end in ends),
        )
  except Exception as error:  # Of the file system, fontTools, struct, ...
    raise UsageError(
      f'{path}, a font that matplotlib ships, cannot be read '
      f'({type(error).__name__}): reinstall matplotlib from PyPI'
    ) from error
  return outlines


def fingerprint(outlines: dict[str, Outline]) -> str:
  """The first 16 hexadecimal digits of a SHA-256 of outlines."""
  digest = hashlib.sha256()
  for character, outline in outlines.items():
    numbers = [ord(character), len(outline.points)]
    for (x, y), on in zip(outline.points, outline.on_curve):
      numbers += [x, y, int(on)]
    numbers += outline.ends
    digest.update((' '.join(map(str, numbers)) + '\n').encode())
  return digest.hexdigest()[:16]


def flatten(outline: Outline) -> np.ndarray:
  """The edges of the polygons that follow an outline, float64 `[E, 2, 2]`.

  The contours are closed, of lines and quadratic Bezier curves; between two
  points off the curve lies one on it, halfway. A curve becomes 4 edges, equally
  spaced in its parameter.
  """
  edges = []
  first = 0
  for end in outline.ends:
    part = slice(first, end + 1)
    corners = np.array(_contour(outline.points[part], outline.on_curve[part]))
    edges.append(np.stack([corners, np.roll(corners, -1, axis=0)], axis=1))
    first = end + 1
  return np.concatenate(edges) / (2.0 * _PIECES**2)  # Exact.


def _contour(
  points: tuple[tuple[int, int], ...], on_curve: tuple[bool, ...]
) -> list[tuple[int, int]]:
  """The corners of one contour, in 1/32 of a font unit."""
  # Twice the points, so that those halfway are integers.
  doubled, on = [], []
  for i, (x, y) in enumerate(points):
    if not (on_curve[i] or on_curve[i - 1]):
      doubled.append((x + points[i - 1][0], y + points[i - 1][1]))
      on.append(True)
    doubled.append((2 * x, 2 * y))
    on.append(on_curve[i])
  start = on.index(True)
  doubled = doubled[start:] + doubled[: start + 1]
  on = [*on[start:], *on[: start + 1]]
  corners = []
  for i in range(len(on) - 1):
    if not on[i]:
      continue
    curved = not on[i + 1]
    (x0, y0), (x1, y1) = doubled[i : i + 2]
    x2, y2 = doubled[i + 2] if curved else (0, 0)
    for j in range(_PIECES if curved else 1):
      k = _PIECES - j
      a, b, c = k * k, 2 * j * k, j * j
      corners.append((a * x0 + b * x1 + c * x2, a * y0 + b * y1 + c * y2))
  return corners


def _normalize(edges: np.ndarray, cap_height: int) -> np.ndarray:
  low, high = edges.min((0, 1)), edges.max((0, 1))
  width, height = high - low
  unit = max(float(cap_height), height, 0.8 * width)
  return (edges - (low + high) / 2) * (1.0, -1.0) / unit


@contextlib.contextmanager
def _without_log() -> Iterator[None]:
  """Hides that fontTools finds the dates of the fonts old."""
  logger = logging.getLogger('fontTools')
  level = logger.level
  logger.setLevel(logging.ERROR)
  try:
    yield
  finally:
    logger.setLevel(level)
