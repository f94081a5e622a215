"""The configurations of the glyphs, and their names."""

import dataclasses
import re
from typing import Any

import tensorflow_datasets as tfds

from maxsup_jax.data._glyph_pictures import DIFFICULTIES
from maxsup_jax.data._glyph_shapes import CHARACTERS
from maxsup_jax.errors import UsageError

_MOST_EXAMPLES = 10_000_000
# The lowest and the highest value, and what they must be multiples of. Numbers
# of classes that people use are no image sizes, so that a name that means the
# one is not taken for the other.
_RANGES = {
  'num_classes': (2, len(CHARACTERS), 1),
  'num_train': (1, _MOST_EXAMPLES, 1),
  'num_test': (1, _MOST_EXAMPLES, 1),
  'image_size': (16, 128, 8),
  'seed': (0, 2**63 - 1, 1),
}
_NUMBER = '(0|[1-9][0-9]{0,18})'
# The parts of a name, in their order, and the fields that they set.
_PARTS = (
  (
    f'{_NUMBER}x{_NUMBER}(?:x{_NUMBER})?',
    ('num_classes', 'num_train', 'num_test'),
  ),
  (_NUMBER, ('image_size',)),
  ('([a-z]+)', ('difficulty',)),
  (f'seed{_NUMBER}', ('seed',)),
)


@dataclasses.dataclass(eq=False)
class GlyphsConfig(tfds.core.BuilderConfig):
  """What a dataset of glyphs consists of.

  The name says it all: `CLASSESxTRAIN_SIZE_DIFFICULTY`, such as
  `26x10000_32_medium`, with `xTEST` behind TRAIN where the number of test
  examples is not 10,000 and `_seedN` at the end where the seed is not 0.

  Attributes:
    name: made from the others; leave it out.
    num_classes: from 2 to 62: the first so many of A-Z, a-z and 0-9.
    num_train: the number of training examples.
    num_test: the number of test examples.
    image_size: the side of the images in pixels: a multiple of 8 from 16 to
      128.
    difficulty: 'easy', 'medium' or 'hard'.
    seed: another seed gives other examples of the same distribution.

  Raises:
    UsageError: for a value out of range.

  Examples:
    >>> GlyphsConfig(num_classes=36, num_test=500).name
    '36x10000x500_32_medium'
  """

  name: str = ''
  num_classes: int = 26
  num_train: int = 10_000
  num_test: int = 10_000
  image_size: int = 32
  difficulty: str = 'medium'
  seed: int = 0

  def __post_init__(self):
    for field, (low, high, step) in _RANGES.items():
      value = getattr(self, field)
      if type(value) is not int or not low <= value <= high or value % step:
        kind = 'an integer' if step == 1 else f'a multiple of {step}'
        raise UsageError(
          f'{field} of glyphs must be {kind} from {low} to {high}, not '
          f'{value!r}'
        )
    if self.difficulty not in DIFFICULTIES:
      known = ', '.join(DIFFICULTIES)
      raise UsageError(
        f'difficulty of glyphs must be one of {known}, not {self.difficulty!r}'
      )
    name = _name(self)
    if self.name not in ('', name):
      raise UsageError(
        f'the name of this config of glyphs is {name!r}, not {self.name!r}'
      )
    self.name = name
    self.description = (
      f'{self.num_classes} classes, {self.num_train} training and '
      f'{self.num_test} test examples, {self.image_size}x{self.image_size} '
      f'pixels, {self.difficulty}, seed {self.seed}.'
    )


def parse_name(text: str) -> GlyphsConfig:
  """The configuration that a name stands for.

  Every part may be left out: `52x50000` is `52x50000_32_medium`, `64_hard` is
  `26x10000_64_hard`, and an empty name is `26x10000_32_medium`.

  Args:
    text: what follows `glyphs/`.

  Returns:
    The configuration.

  Raises:
    UsageError: if the name cannot be read.

  Examples:
    >>> parse_name('62x5000x1000_64_easy').image_size
    64
    >>> parse_name('hard').name
    '26x10000_32_hard'
  """
  fields: dict[str, Any] = {}
  parts = text.split('_') if text else []
  for pattern, names in _PARTS:
    match = re.fullmatch(pattern, parts[0]) if parts else None
    if match:
      del parts[0]
      for name, value in zip(names, match.groups()):
        if value is not None:
          fields[name] = value if name == 'difficulty' else int(value)
  if parts:
    raise UsageError(
      f"{parts[0]!r} in 'glyphs/{text}' cannot be read: expected "
      'glyphs/CLASSESxTRAIN[xTEST]_SIZE_DIFFICULTY[_seedN], such as '
      "'glyphs/26x10000_32_medium'"
    )
  return GlyphsConfig(**fields)


def _name(config: GlyphsConfig) -> str:
  test = '' if config.num_test == 10_000 else f'x{config.num_test}'
  seed = '' if config.seed == 0 else f'_seed{config.seed}'
  return (
    f'{config.num_classes}x{config.num_train}{test}_{config.image_size}_'
    f'{config.difficulty}{seed}'
  )
