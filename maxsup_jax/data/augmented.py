"""Several augmentations of each example, in a fixed order."""

from collections.abc import Callable, Sequence

import numpy as np

from maxsup_jax.data.sources import Example, Source


class AugmentedSource:
  """A source whose example `i * count + j` is augmentation j of an example.

  The pixels depend on the seed, the example's index and j alone.

  Args:
    source: the examples.
    indices: which of them, as many as there shall be groups.
    count: augmentations of each.
    transform: a function of an image and a NumPy generator, such as
      `parse_transform` gives.
    seed: at least 0.

  Examples:
    >>> from maxsup_jax.data import ArraySource, parse_transform
    >>> images, labels = np.zeros((10, 8, 8, 1), np.uint8), np.arange(10)
    >>> source = ArraySource(images, labels, num_classes=10)
    >>> shift = parse_transform('pad_and_crop(1)')
    >>> twice = AugmentedSource(source, [7, 3], 2, shift, seed=0)
    >>> [int(twice[i]['label']) for i in range(len(twice))]
    [7, 7, 3, 3]
  """

  def __init__(
    self,
    source: Source,
    indices: Sequence[int],
    count: int,
    transform: Callable[[np.ndarray, np.random.Generator], np.ndarray],
    seed: int,
  ):
    self.name = f'{source.name}, augmented'
    self.num_classes = source.num_classes
    self.label_names = source.label_names
    self.image_shape = None  # The transform may change it.
    self._source, self._indices = source, indices
    self._count, self._transform, self._seed = count, transform, seed

  def __len__(self) -> int:
    return len(self._indices) * self._count

  def __getitem__(self, index: int) -> Example:
    group, number = divmod(range(len(self))[index], self._count)
    original = int(self._indices[group])
    example = self._source[original]
    rng = np.random.default_rng((self._seed, original, number))
    return {**example, 'image': self._transform(example['image'], rng)}

  def labels(self) -> np.ndarray:
    """All labels, int32 `[N]`."""
    return np.repeat(self._source.labels()[self._indices], self._count)
