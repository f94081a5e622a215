"""Corrupted test images of any source: a small set that needs no download."""

import operator
from collections.abc import Callable, Mapping
from types import MappingProxyType

import numpy as np
from PIL import Image, ImageFilter

from maxsup_jax.data.sources import Example, Source, all_labels
from maxsup_jax.errors import integer, one_of

# The second word of the Philox keys; 0 to 3 are those of other purposes.
_CORRUPTION = 4


def _noise(image: np.ndarray, level: float, rng: np.random.Generator):
  return image + 255 * level * rng.standard_normal(image.shape, np.float32)


def _blur(image: np.ndarray, radius: float, rng: np.random.Generator):
  # A share of the side, so that small images and large ones suffer alike.
  gaussian = ImageFilter.GaussianBlur(radius * image.shape[0])
  channels = [
    np.asarray(Image.fromarray(image[..., c]).filter(gaussian))
    for c in range(image.shape[-1])
  ]
  return np.stack(channels, -1)


def _contrast(image: np.ndarray, kept: float, rng: np.random.Generator):
  mean = image.mean((0, 1), keepdims=True)
  return mean + kept * (image - mean)


def _pixelate(image: np.ndarray, kept: float, rng: np.random.Generator):
  height, width, channels = image.shape
  small = max(1, round(kept * width)), max(1, round(kept * height))
  return np.stack(
    [
      np.asarray(
        Image.fromarray(image[..., c])
        .resize(small, Image.Resampling.BOX)
        .resize((width, height), Image.Resampling.NEAREST)
      )
      for c in range(channels)
    ],
    -1,
  )


# Of each: the function, and its strength at severities 1 to 5.
_KINDS: dict[str, tuple[Callable, tuple[float, ...]]] = {
  'noise': (_noise, (0.04, 0.08, 0.12, 0.18, 0.26)),
  'blur': (_blur, (0.015, 0.025, 0.04, 0.055, 0.075)),
  'contrast': (_contrast, (0.75, 0.6, 0.45, 0.3, 0.2)),
  'pixelate': (_pixelate, (0.8, 0.65, 0.5, 0.4, 0.3)),
}
# By name, what `CorruptedSource(kind=)` knows.
CORRUPTIONS: Mapping[str, str] = MappingProxyType(
  {
    'noise': 'Gaussian, of a standard deviation from 0.04 to 0.26 of white',
    'blur': 'Gaussian, of a radius from 1.5% to 7.5% of the side',
    'contrast': 'from 75% to 20% of the deviations from the mean colour',
    'pixelate': 'from 80% to 30% of the pixels along each side',
  }
)
SEVERITIES = (1, 2, 3, 4, 5)


class CorruptedSource:
  """A source whose images are noisy, blurred, pale or coarse.

  It stands in where the published corrupted test sets are not at hand, as of
  `digits` and `glyphs`. Its strengths are ours: numbers are comparable among
  models, never with those of ImageNet-C or CIFAR-10-C. Noise depends on the
  seed and the index of the example alone.

  Args:
    source: the examples, whose images are uint8 `[H, W, C]`.
    kind: a key of `CORRUPTIONS`.
    severity: from 1 to 5.
    seed: of the noise, at least 0.
    limit: takes so many of the first examples only; None for all.

  Examples:
    >>> from maxsup_jax.data import ArraySource
    >>> source = ArraySource(np.full((2, 8, 8, 1), 200, np.uint8), [0, 1], 2)
    >>> pale = CorruptedSource(source, 'contrast', 5)
    >>> int(pale[0]['image'].max()), len(CorruptedSource(source, 'blur', 1,
    ...                                                  limit=1))
    (200, 1)

  References: the kinds are four of the fifteen of Hendrycks and Dietterich,
    Benchmarking Neural Network Robustness to Common Corruptions and
    Perturbations, ICLR 2019.
  """

  def __init__(
    self,
    source: Source,
    kind: str,
    severity: int,
    *,
    seed: int = 0,
    limit: int | None = None,
  ):
    one_of('kind', kind, CORRUPTIONS)
    integer('severity', severity, 1, 5)
    self._seed = integer('seed', seed, 0, 2**63 - 1)
    if limit is not None:
      integer('limit', limit, low=1)
    self._function, strengths = _KINDS[kind]
    self._strength = strengths[severity - 1]
    self.name = f'{source.name}, {kind} {severity}'
    self.num_classes = source.num_classes
    self.label_names = source.label_names
    self.image_shape = source.image_shape
    self._source = source
    self._length = min(len(source), limit or len(source))

  def __len__(self) -> int:
    return self._length

  def __getitem__(self, index: int) -> Example:
    index = range(self._length)[operator.index(index)]
    example = self._source[index]
    # Each example has counters of its own.
    bits = np.random.Philox(
      key=(self._seed, _CORRUPTION), counter=(0, 0, 0, index)
    )
    image = self._function(
      np.asarray(example['image']), self._strength, np.random.Generator(bits)
    )
    image = np.rint(np.asarray(image, np.float32)).clip(0, 255)
    return {**example, 'image': image.astype(np.uint8)}

  def labels(self) -> np.ndarray:
    """All labels, int32 `[N]`."""
    return all_labels(self._source)[: self._length]
