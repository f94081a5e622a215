"""`glyphs`: pictures of letters, as many and as hard to read as wanted.

Letters from the fonts of matplotlib, turned, sheared, stretched and shifted,
light on dark or dark on light, on a background with a gradient and parts of
other letters, behind bars and under noise. No download, no TensorFlow: they
are generated on first use, to the byte the same everywhere.

`open_source('glyphs', ...)` opens the default config, 26 classes with 10,000
training and 10,000 test examples of 32x32 pixels at difficulty 'medium';
`open_source('glyphs/62x50000_64_hard', ...)` another. The name of a config says
what is in it, see `GlyphsConfig`; `DIFFICULTIES` is the table of what makes the
pictures easy or hard. Importing this module registers the builder with tfds, so
that `tfds.builder('glyphs/62x50000_64_hard')` works too.
"""

import dataclasses
import re
from collections.abc import Iterator
from typing import Any, ClassVar, TypeVar

import numpy as np
import tensorflow_datasets as tfds

from maxsup_jax.data import _prepare
from maxsup_jax.data._glyph_pictures import DIFFICULTIES as DIFFICULTIES
from maxsup_jax.data._glyph_pictures import ORDER, Draws, draw, encode_png
from maxsup_jax.data._glyph_shapes import CHARACTERS
from maxsup_jax.errors import UsageError, integer, one_of

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

# The number of each split in the keys of the random numbers.
SPLITS = {'train': 0, 'test': 1}

_DESCRIPTION = """\
Letters and digits in 20 fonts (DejaVu, STIX and Computer Modern, as matplotlib
ships them), as grey images with random affine maps, contrast, background,
occlusion and noise. The first K of A-Z, a-z, 0-9 are the classes. Some look
alike (O and Q, I and J, I and T). Beyond the capitals some differ in little but
their size (o and O, s and S, v and V, z and Z; in some fonts also I and l, 1
and l, 0 and O), which varies: not every example can be told. Both splits are
independent samples of one distribution, in all fonts; each class has as many
examples as any other, or one more. A larger split begins with the smaller one.
"""


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

  # What messages and names call it, and an example of a name.
  dataset: ClassVar[str] = 'glyphs'
  example: ClassVar[str] = '26x10000_32_medium'
  name: str = ''
  num_classes: int = 26
  num_train: int = 10_000
  num_test: int = 10_000
  image_size: int = 32
  difficulty: str = 'medium'
  seed: int = 0

  def __post_init__(self) -> None:
    for field, (low, high, step) in _RANGES.items():
      kind = 'an integer' if step == 1 else f'a multiple of {step}'
      expected = f'{kind} from {low} to {high}'
      value = getattr(self, field)
      name = f'{field} of {self.dataset}'
      integer(name, value, low, high, expected=expected)
      if value % step:
        raise UsageError(f'{name} is {value}; expected {expected}')
    one_of(f'difficulty of {self.dataset}', self.difficulty, DIFFICULTIES)
    usual = self.num_test == type(self).num_test
    test = '' if usual else f'x{self.num_test}'
    seed = '' if self.seed == 0 else f'_seed{self.seed}'
    name = (
      f'{self.num_classes}x{self.num_train}{test}_{self.image_size}_'
      f'{self.difficulty}{seed}'
    )
    if self.name:
      one_of(f'name of this config of {self.dataset}', self.name, [name])
    self.name = name
    self.description = (
      f'{self.num_classes} classes, {self.num_train} training and '
      f'{self.num_test} test examples, {self.image_size}x{self.image_size} '
      f'pixels, {self.difficulty}, seed {self.seed}.'
    )


Config = TypeVar('Config', bound=GlyphsConfig)


def parse_name(text: str, kind: type[Config] = GlyphsConfig) -> Config:
  """The configuration that a name stands for.

  Every part may be left out: `52x50000` is `52x50000_32_medium`, `64_hard` is
  `26x10000_64_hard`, and an empty name is `26x10000_32_medium`.

  It is what follows `glyphs/`, or the name of another `kind` of pictures.

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
      f"{parts[0]!r} in '{kind.dataset}/{text}' cannot be read: expected "
      f'{kind.dataset}/CLASSESxTRAIN[xTEST]_SIZE_DIFFICULTY[_seedN], such as '
      f"'{kind.dataset}/{kind.example}'"
    )
  return kind(**fields)


class Glyphs(tfds.core.GeneratorBasedBuilder):
  """tfds builder of pictures of letters.

  Splits: `train` and `test`. Features: `image` uint8 [S, S, 1] (stored as PNG),
  `label` in [0, K), whose names are the characters.

  Args:
    config: a `GlyphsConfig`, the name of one, or None for the default.
    **kwargs: as for any tfds builder.

  Raises:
    UsageError: for a name that is none.
  """

  VERSION = tfds.core.Version('1.0.0')
  # The default. All others are made from their names.
  BUILDER_CONFIGS: ClassVar[list[GlyphsConfig]] = [GlyphsConfig()]
  url_infos: ClassVar[dict[str, Any]] = {}  # As in `Digits`.

  def __init__(
    self, *, config: str | GlyphsConfig | None = None, **kwargs: Any
  ):
    if isinstance(config, GlyphsConfig):
      config = config.name
    super().__init__(config=config, **kwargs)

  @classmethod
  def get_builder_config(
    cls, name: str, version: str | None = None
  ) -> GlyphsConfig:
    """The config of a name; see `GlyphsConfig`."""
    del version  # There is one.
    return parse_name(name)

  def _info(self) -> tfds.core.DatasetInfo:
    config = self.builder_config
    size = config.image_size
    return tfds.core.DatasetInfo(
      builder=self,
      description=_DESCRIPTION,
      features=tfds.features.FeaturesDict(
        {
          'image': tfds.features.Image(
            shape=(size, size, 1), encoding_format='png'
          ),
          'label': tfds.features.ClassLabel(
            names=list(CHARACTERS[: config.num_classes])
          ),
        }
      ),
      supervised_keys=('image', 'label'),
      # Stored as generated, so that the first examples of a split are those of
      # a smaller one. The classes come in random order as it is.
      disable_shuffling=True,
    )

  def _split_generators(
    self, dl_manager: tfds.download.DownloadManager
  ) -> dict[str, Iterator[tuple[int, dict[str, Any]]]]:
    del dl_manager  # Nothing to download.
    config = self.builder_config
    return {
      'train': self._generate_examples('train', config.num_train),
      'test': self._generate_examples('test', config.num_test),
    }

  def _generate_examples(
    self, split: str, number: int
  ) -> Iterator[tuple[int, dict[str, Any]]]:
    what = f'Generating glyphs/{self.builder_config.name}/{split}'
    for index in _prepare.track(range(number), what, 'examples'):
      image, label = generate(self.builder_config, split, index)
      yield index, {'image': encode_png(image), 'label': label}


def generate(
  config: GlyphsConfig, split: str, index: int
) -> tuple[np.ndarray, int]:
  """One example, which does not depend on any other.

  Returns:
    The image, uint8 `[S, S, 1]`, and its label in `[0, K)`. The numbers of
    examples of the configuration do not matter.

  Examples:
    >>> image, label = generate(GlyphsConfig(), 'train', 5)
    >>> image.shape, label
    ((32, 32, 1), 14)
  """
  number = SPLITS[split]
  # Every K examples are of K different classes.
  block, position = divmod(index, config.num_classes)
  order = Draws(config.seed, number, ORDER, block)
  label = order.permutation(config.num_classes)[position]
  image = draw(
    label,
    config.image_size,
    DIFFICULTIES[config.difficulty],
    seed=config.seed,
    split=number,
    index=index,
  )
  return image, label
