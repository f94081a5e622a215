"""Pictures of letters: one scene of polygons, grey levels and noise; as PNG."""

import dataclasses
import struct
import zlib
from collections.abc import Sequence

import numpy as np

from maxsup_jax.data import _glyph_shapes

# What a stream of random numbers is for. Different streams never overlap.
SCENE, NOISE, ORDER = 0, 1, 2

# The standard deviation of `Draws.noise`: of four bytes, each (256^2 - 1) / 12.
NOISE_SD = 147.80054127104035

# Samples per pixel along each axis, and positions per sample spacing.
_SAMPLES = 4
_GRID = 256

FULL = _SAMPLES**2
# The label of pixels that are neither this nor that.
IGNORED = 255

_LARGEST_BLOCK = 65535


class Draws:
  """A stream of random numbers, the same with every NumPy, on every machine.

  Only the raw bits of the Philox generator are used, which NumPy promises never
  to change, and elementary arithmetic, whose results IEEE 754 determines.

  Args:
    seed: in `[0, 2**64)`.
    split: the number of the split.
    stream: `SCENE`, `NOISE` or `ORDER`.
    index: the number of the example, or of whatever the stream is for.
  """

  def __init__(self, seed: int, split: int, stream: int, index: int):
    self._bits = np.random.Philox(
      key=np.array([seed, split], np.uint64),
      # A stream may take 2**128 steps before it runs into the next.
      counter=np.array([0, 0, stream, index], np.uint64),
    )

  def below(self, number: int) -> int:
    """An integer in `[0, number)`, for numbers up to 2**32."""
    return ((int(self._bits.random_raw()) >> 32) * number) >> 32

  def uniform(self, low: float, high: float) -> float:
    """A number in `[low, high)`, one of 2**53 equally spaced ones."""
    unit = (int(self._bits.random_raw()) >> 11) * 2.0**-53
    return low + (high - low) * unit

  def permutation(self, number: int) -> list[int]:
    """The numbers below `number` in a random order."""
    raw = self._bits.random_raw(number)
    return np.argsort(raw, kind='stable').tolist()

  def noise(self, count: int) -> np.ndarray:
    """Nearly normal integers of mean 0 and standard deviation 147.8.

    Sums of four bytes, so from -510 to 510.

    Returns:
      int64 `[count]`.
    """
    raw = self._bits.random_raw((count + 1) // 2).astype('<u8')
    total = raw.view(np.uint8).reshape(-1, 4).astype(np.int64).sum(axis=1)
    return total[:count] - 510


def coverage(edges: np.ndarray, size: int) -> np.ndarray:
  """How much of each pixel lies inside of polygons (nonzero winding rule).

  The corners are rounded to a grid of 1/1024 of a pixel; everything after that
  is exact: a pixel counts which of its 4x4 sample points lie inside.

  Args:
    edges: float64 `[E, 2, 2]`, closed polygons as edges from (x, y) to (x, y),
      in pixels: the image is the square from (0, 0) to (size, size), y points
      downwards. What is outside of it is cut off.
    size: the side of the image.

  Returns:
    int64 `[size, size]`, from 0 to `FULL`, which is 16.
  """
  grid = np.rint(edges * float(_SAMPLES * _GRID)).astype(np.int64)
  x0, y0 = grid[:, 0].T
  x1, y1 = grid[:, 1].T
  # The rows of samples that each edge crosses: low ends included, high ends
  # not, so that each crossing of a contour counts once.
  samples = size * _SAMPLES
  y_rows = np.arange(samples) * _GRID + _GRID // 2
  crosses = (y0[:, None] <= y_rows) != (y1[:, None] <= y_rows)
  edge, row = np.nonzero(crosses)
  dx, dy = (x1 - x0)[edge], (y1 - y0)[edge]
  sign = np.sign(dy)
  # The first sample whose x is at least that of the crossing,
  # x0 + (y - y0) dx / dy.
  numerator = (x0[edge] - _GRID // 2) * dy + (y_rows[row] - y0[edge]) * dx
  column = -((-numerator * sign) // (np.abs(dy) * _GRID))
  flat = row * (samples + 1) + np.clip(column, 0, samples)
  # Winding numbers: what begins at a crossing, summed from the left.
  length = samples * (samples + 1)
  begins = np.bincount(flat[sign > 0], minlength=length) - np.bincount(
    flat[sign < 0], minlength=length
  )
  winding = np.cumsum(begins.reshape(samples, samples + 1), axis=1)
  inside = winding[:, :samples] != 0
  return inside.reshape(size, _SAMPLES, size, _SAMPLES).sum((1, 3))


@dataclasses.dataclass(frozen=True)
class Difficulty:
  """How the pictures vary. Ranges are uniform; lengths in parts of the side.

  Attributes:
    height: from, to: the height of an H.
    rotation: the tangent of half of the largest angle, to either side; the
      tangent is what is uniform.
    shear: the largest horizontal shift per height, to either side.
    stretch: the largest factor of width over height, or of its inverse.
    shift: the largest distance from the centre, along each axis.
    contrast: from, to: the grey levels between letter and background.
    gradient: the largest change of the background over the image, in parts of
      the contrast.
    clutter: the number of other letters, behind and beside.
    occluders: the largest number of bars in front.
    noise: the standard deviation of the noise of each pixel, in grey levels.
  """

  height: tuple[float, float]
  rotation: float
  shear: float
  stretch: float
  shift: float
  contrast: tuple[float, float]
  gradient: float
  clutter: int
  occluders: int
  noise: float


# The rotations are up to 7, 19 and 25 degrees. The noise of 'medium' and 'hard'
# hides less in larger pictures: they are easier to read.
DIFFICULTIES = {
  'easy': Difficulty(
    (0.6, 0.8), 0.06, 0.1, 1.1, 0.05, (120.0, 220.0), 0.25, 0, 0, 8.0
  ),
  'medium': Difficulty(
    (0.5, 0.75), 0.17, 0.3, 1.3, 0.1, (50.0, 150.0), 0.5, 2, 2, 24.0
  ),
  'hard': Difficulty(
    (0.45, 0.7), 0.22, 0.4, 1.4, 0.15, (40.0, 130.0), 0.75, 3, 3, 28.0
  ),
}


def draw(
  character: int,
  size: int,
  difficulty: Difficulty,
  *,
  seed: int,
  split: int,
  index: int,
) -> np.ndarray:
  """A picture of a character; the arguments determine every bit of it.

  Returns:
    uint8 `[size, size, 1]`. With another size the scene is the same, but the
    noise is not.
  """
  draws = Draws(seed, split, SCENE, index)
  # Grey levels in 1/256, between 0 and 255; the letter is lighter or darker.
  contrast = draws.uniform(*difficulty.contrast)
  background = draws.uniform(0.0, 255.0 - contrast)
  letter = background + contrast
  if draws.below(2):
    background, letter = letter, background
  outline = _place(_random_shape(draws, character), draws, difficulty)
  image = _gradient(draws, size, background, contrast * difficulty.gradient)
  for _ in range(difficulty.clutter):
    other = _random_shape(draws, draws.below(len(_glyph_shapes.CHARACTERS)))
    other = _place(other, draws, difficulty) * 0.6
    level = draws.uniform(background, letter)
    _paint(image, other + _beside(draws), level)
  _paint(image, outline, letter)
  for _ in range(draws.below(difficulty.occluders + 1)):
    bar = _bar(draws)
    _paint(image, bar, draws.uniform(background, letter))
  return _noisy(image, difficulty, seed, split, index)


def draw_scene(
  characters: Sequence[int],
  size: int,
  difficulty: Difficulty,
  *,
  seed: int,
  split: int,
  index: int,
) -> tuple[np.ndarray, np.ndarray]:
  """Two to five letters on a textured background, and which is where.

  Letters are half as high as in a picture of one, and cover each other in the
  order in which they are drawn; bars of the difficulty lie over them.

  Args:
    characters: those that letters are drawn from, all equally likely.
    size: the side of the picture.
    difficulty: how scenes vary.
    seed: with the split and the index, the key of all random numbers.
    split: the number of the split.
    index: the number of the scene.

  Returns:
    The picture, uint8 `[size, size, 1]`, and labels, uint8 `[size, size]`: 0
    where the background or a bar covers at least 3/4 of a pixel, k + 1 where
    the letter `characters[k]` does, and 255 at the edges between them.
  """
  draws = Draws(seed, split, SCENE, index)
  low, high = difficulty.contrast
  background = draws.uniform(0.0, 255.0 - high)
  mirrored = draws.below(2)  # Dark letters on a light background.

  def level(contrast: float) -> float:
    return 255.0 - background - contrast if mirrored else background + contrast

  image = _gradient(draws, size, level(0.0), low * difficulty.gradient)
  for _ in range(3 + difficulty.clutter):
    _paint(image, _bar(draws), level(draws.uniform(-0.3, 0.3) * low))
  labels = np.zeros((size, size), np.uint8)
  parts = [1 + draws.below(len(characters)) for _ in range(2 + draws.below(4))]
  parts += [0] * draws.below(difficulty.occluders + 1)
  for label in parts:
    if label:
      shape = _random_shape(draws, characters[label - 1])
      edges = 0.5 * _place(shape, draws, difficulty)
      edges += draws.uniform(-0.38, 0.38), draws.uniform(-0.38, 0.38)
    else:
      edges = _bar(draws)
    contrast = draws.uniform(low if label else 0.0, high)
    covered = _paint(image, edges, level(contrast))
    labels[(covered > FULL // 4) & (labels != label)] = IGNORED
    labels[covered >= FULL * 3 // 4] = label
  return _noisy(image, difficulty, seed, split, index), labels


def _random_shape(draws: Draws, character: int) -> np.ndarray:
  shapes = _glyph_shapes.load_shapes()
  return shapes[draws.below(len(shapes))][character]


def _place(
  shape: np.ndarray, draws: Draws, difficulty: Difficulty
) -> np.ndarray:
  """Puts a shape at random near the centre (0, 0) of a picture of side 1."""
  height = draws.uniform(*difficulty.height)
  stretch = draws.uniform(1.0, difficulty.stretch)
  if draws.below(2):
    stretch = 1 / stretch
  shear = draws.uniform(-difficulty.shear, difficulty.shear)
  cos, sin = _direction(draws, difficulty.rotation)
  right = draws.uniform(-difficulty.shift, difficulty.shift)
  down = draws.uniform(-difficulty.shift, difficulty.shift)
  x, y = shape[..., 0] * height * stretch, shape[..., 1] * height
  x = x - y * shear
  return np.stack([x * cos - y * sin + right, x * sin + y * cos + down], -1)


def _direction(draws: Draws, bound: float) -> tuple[float, float]:
  """Cosine and sine of an angle, the tangent of whose half is uniform.

  No function of the C library: their last bits differ between machines.
  """
  tan = draws.uniform(-bound, bound)
  return (1 - tan * tan) / (1 + tan * tan), 2 * tan / (1 + tan * tan)


def _beside(draws: Draws) -> tuple[float, float]:
  """A point near the border of a picture of side 1 around (0, 0)."""
  along, across = draws.uniform(-0.5, 0.5), draws.uniform(0.35, 0.55)
  if draws.below(2):
    across = -across
  return (along, across) if draws.below(2) else (across, along)


def _bar(draws: Draws) -> np.ndarray:
  """The edges of a bar across the picture."""
  thickness = draws.uniform(0.02, 0.06)
  corners = np.array([[-2, -1], [2, -1], [2, 1], [-2, 1]]) * (1, thickness)
  cos, sin = _direction(draws, 1.0)
  x, y = corners.T
  right, down = draws.uniform(-0.3, 0.3), draws.uniform(-0.3, 0.3)
  corners = np.stack([x * cos - y * sin + right, x * sin + y * cos + down], -1)
  return np.stack([corners, np.roll(corners, -1, axis=0)], axis=1)


def _gradient(
  draws: Draws, size: int, level: float, largest: float
) -> np.ndarray:
  """A background that changes linearly: int64 [size, size], in 1/256."""
  change = draws.uniform(-largest, largest)
  cos, sin = _direction(draws, 1.0)
  position = (np.arange(size) + 0.5) / size - 0.5
  image = level + (position[:, None] * sin + position * cos) * change
  return np.rint(image * 256.0).astype(np.int64)


def _noisy(
  image: np.ndarray, difficulty: Difficulty, seed: int, split: int, index: int
) -> np.ndarray:
  """Levels in 1/256, int64 `[S, S]`, with noise and as bytes, `[S, S, 1]`."""
  noise = Draws(seed, split, NOISE, index).noise(image.size)
  factor = round(difficulty.noise * 65536.0 / NOISE_SD)
  image = image + ((noise.reshape(image.shape) * factor) >> 8)
  return np.clip((image + 128) >> 8, 0, 255).astype(np.uint8)[..., None]


def _paint(image: np.ndarray, edges: np.ndarray, level: float) -> np.ndarray:
  """Paints polygons, in a picture of side 1 around (0, 0), into an image.

  Returns:
    Their coverage.
  """
  size = len(image)
  covered = coverage((edges + 0.5) * size, size)
  image += (round(level * 256.0) - image) * covered // FULL
  return covered


def encode_png(image: np.ndarray) -> bytes:
  """A grey image as PNG, always the same bytes: nothing is compressed.

  What a compressor writes depends on the version of zlib. Noise hardly
  compresses anyway.

  Returns:
    The bytes of the file: 68 more than the H (W + 1) of the rows, where these
    are fewer than 65536.
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
