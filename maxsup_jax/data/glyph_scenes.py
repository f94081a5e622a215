"""`glyph_scenes`: pictures of several letters, and which pixel is of which.

The embedded data set for semantic segmentation: two to five letters cover each
other on a textured background, and the label of every pixel is known by
construction. Letters come from the fonts of `glyphs`, with the same
difficulties; where the edge of a letter passes through a pixel, its label is
255, which is to be ignored. Most pixels are background: a model that never says
anything else has a high accuracy, and a mean IoU of about 1/K.

`glyph_scenes/5x1000_64_easy` has 5 letters (so 6 classes), 1,000 training and
500 test scenes of 64x64 pixels; names are made as those of `glyphs`.
`data.open_segmentation` opens it.
"""

import dataclasses
from collections.abc import Iterator
from typing import Any, ClassVar

import numpy as np
import tensorflow_datasets as tfds

from maxsup_jax.data import _prepare, glyphs
from maxsup_jax.data._glyph_pictures import draw_scene, encode_png
from maxsup_jax.data._glyph_shapes import CHARACTERS

# The letters in their order: first those that are easily confused.
_FIRST = 'OQCGD'
LETTERS = _FIRST + ''.join(c for c in CHARACTERS if c not in _FIRST)

_DESCRIPTION = """\
Letters in 20 fonts on textured grey backgrounds, and a label for every pixel:
0 for the background, k for the k-th of the letters O, Q, C, G, D, A, B, E, F,
H, ..., and 255 at the edges between them. Both splits are independent
samples of one distribution. A larger split begins with the smaller one.
"""


@dataclasses.dataclass(eq=False)
class ScenesConfig(glyphs.GlyphsConfig):
  """What a dataset of scenes consists of; see `glyphs.GlyphsConfig`.

  `num_classes` is the number of letters; the background is one class more.

  Examples:
    >>> ScenesConfig(num_train=2000).name
    '5x2000_64_easy'
  """

  dataset: ClassVar[str] = 'glyph_scenes'
  example: ClassVar[str] = '5x1000_64_easy'
  num_classes: int = 5
  num_train: int = 1000
  num_test: int = 500
  image_size: int = 64
  difficulty: str = 'easy'


def parse_name(text: str) -> ScenesConfig:
  """The configuration of what follows `glyph_scenes/`.

  Examples:
    >>> parse_name('3x200x50_32').name
    '3x200x50_32_easy'
  """
  return glyphs.parse_name(text, ScenesConfig)


class GlyphScenes(glyphs.Glyphs):
  """tfds builder of scenes of letters.

  Splits: `train` and `test`. Features: `image` uint8 [S, S, 1] and `label`
  uint8 [S, S, 1], both stored as PNG; label 0 is the background, and 255 what
  is to be ignored. Arguments and errors are those of `Glyphs`.
  """

  name = 'glyph_scenes'
  BUILDER_CONFIGS: ClassVar[list[glyphs.GlyphsConfig]] = [ScenesConfig()]

  @classmethod
  def get_builder_config(
    cls, name: str, version: str | None = None
  ) -> ScenesConfig:
    """The config of a name; see `ScenesConfig`."""
    del version  # There is one.
    return parse_name(name)

  def _info(self) -> tfds.core.DatasetInfo:
    config = self.builder_config
    shape = (config.image_size, config.image_size, 1)
    return tfds.core.DatasetInfo(
      builder=self,
      description=_DESCRIPTION,
      features=tfds.features.FeaturesDict(
        {
          'image': tfds.features.Image(shape=shape, encoding_format='png'),
          'label': tfds.features.LabeledImage(
            labels=['background', *LETTERS[: config.num_classes]],
            shape=shape,
            encoding_format='png',
          ),
        }
      ),
      disable_shuffling=True,
    )

  def _generate_examples(
    self, split: str, number: int
  ) -> Iterator[tuple[int, dict[str, Any]]]:
    what = f'Generating glyph_scenes/{self.builder_config.name}/{split}'
    for index in _prepare.track(range(number), what, 'examples'):
      pixels = generate(self.builder_config, split, index)
      yield index, dict(zip(('image', 'label'), map(encode_png, pixels)))


def generate(
  config: ScenesConfig, split: str, index: int
) -> tuple[np.ndarray, np.ndarray]:
  """One scene, which does not depend on any other.

  Returns:
    The image, uint8 `[S, S, 1]`, and its labels, uint8 `[S, S]`: below K, which
    is one more than there are letters, or 255.

  Examples:
    >>> image, label = generate(ScenesConfig(), 'train', 0)
    >>> image.shape, label.shape, np.unique(label).tolist()
    ((64, 64, 1), (64, 64), [0, 1, 3, 255])
  """
  return draw_scene(
    [CHARACTERS.index(c) for c in LETTERS[: config.num_classes]],
    config.image_size,
    glyphs.DIFFICULTIES[config.difficulty],
    seed=config.seed,
    split=glyphs.SPLITS[split],
    index=index,
  )
