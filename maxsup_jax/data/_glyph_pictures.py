"""Pictures of letters: one scene of polygons, grey levels and noise."""

import dataclasses

import numpy as np

from maxsup_jax.data import _glyph_shapes
from maxsup_jax.data._glyph_random import NOISE, NOISE_SD, SCENE, Draws
from maxsup_jax.data._glyph_raster import FULL, coverage


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
    height=(0.6, 0.8),
    rotation=0.06,
    shear=0.1,
    stretch=1.1,
    shift=0.05,
    contrast=(120.0, 220.0),
    gradient=0.25,
    clutter=0,
    occluders=0,
    noise=8.0,
  ),
  'medium': Difficulty(
    height=(0.5, 0.75),
    rotation=0.17,
    shear=0.3,
    stretch=1.3,
    shift=0.1,
    contrast=(50.0, 150.0),
    gradient=0.5,
    clutter=2,
    occluders=2,
    noise=24.0,
  ),
  'hard': Difficulty(
    height=(0.45, 0.7),
    rotation=0.22,
    shear=0.4,
    stretch=1.4,
    shift=0.15,
    contrast=(40.0, 130.0),
    gradient=0.75,
    clutter=3,
    occluders=3,
    noise=28.0,
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

  Args:
    character: its number in `_glyph_shapes.CHARACTERS`.
    size: the side of the picture.
    difficulty: the ranges of what is random.
    seed: of the dataset.
    split: the number of the split.
    index: the number of the example in its split.

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
  noise = Draws(seed, split, NOISE, index).noise(size * size)
  factor = round(difficulty.noise * 65536.0 / NOISE_SD)
  image += (noise.reshape(size, size) * factor) >> 8
  return np.clip((image + 128) >> 8, 0, 255).astype(np.uint8)[..., None]


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


def _paint(image: np.ndarray, edges: np.ndarray, level: float) -> None:
  """Paints polygons, in a picture of side 1 around (0, 0), into an image."""
  size = len(image)
  covered = coverage((edges + 0.5) * size, size)
  image += (round(level * 256.0) - image) * covered // FULL
