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

from collections.abc import Iterator
from typing import Any, ClassVar

import numpy as np
import tensorflow_datasets as tfds

from maxsup_jax.data import _glyph_shapes, _png, _prepare
from maxsup_jax.data._glyph_config import GlyphsConfig as GlyphsConfig
from maxsup_jax.data._glyph_config import parse_name as parse_name
from maxsup_jax.data._glyph_pictures import DIFFICULTIES as DIFFICULTIES
from maxsup_jax.data._glyph_pictures import Difficulty as Difficulty
from maxsup_jax.data._glyph_pictures import draw
from maxsup_jax.data._glyph_random import ORDER, Draws

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
            names=list(_glyph_shapes.CHARACTERS[: config.num_classes])
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
    name = f'glyphs/{self.builder_config.name}/{split}'
    for index in _prepare.track(range(number), name):
      image, label = generate(self.builder_config, split, index)
      yield index, {'image': _png.encode(image), 'label': label}


def generate(
  config: GlyphsConfig, split: str, index: int
) -> tuple[np.ndarray, int]:
  """One example, which does not depend on any other.

  Args:
    config: its numbers of examples do not matter.
    split: 'train' or 'test'.
    index: any number from 0.

  Returns:
    The image, uint8 `[S, S, 1]`, and its label in `[0, K)`.

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
