"""Long-tailed training splits: exponentially fewer examples, class by class."""

import operator
from typing import Any

import numpy as np

from maxsup_jax.data.sources import (
  Example,
  Source,
  UndecodedExample,
  all_labels,
)
from maxsup_jax.errors import UsageError, integer, number

# The second word of the Philox keys; 0 and 1 are those of the pipeline.
_SUBSET = 2


def long_tailed_counts(
  num_classes: int, largest: int, ratio: float
) -> list[int]:
  r"""How many examples the classes of a long-tailed split have.

  .. math:: n_c = \lfloor n_0 \, \rho^{c / (K - 1)} \rfloor

  A product that is an integer counts as such where floating point falls just
  short of it: 100 examples at a ratio of 0.29 leave 29, not 28.

  Args:
    num_classes: the number of classes K, at least 2.
    largest: the count n_0 of class 0.
    ratio: the last class's share of it, rho, in (0, 1]. The imbalance factor
      (or ratio) of the literature is its inverse.

  Returns:
    The K counts, which never increase; 0 where the product is below 1.

  Raises:
    UsageError: if an argument is out of range.

  Examples:
    >>> long_tailed_counts(10, 5000, 0.01)
    [5000, 2997, 1796, 1077, 645, 387, 232, 139, 83, 50]

  References:
    Cui et al., `Class-Balanced Loss Based on Effective Number of Samples
    <https://arxiv.org/abs/1901.05555>`_, 2019, Section 5.1, who introduced
    long-tailed CIFAR; Zhou et al., MaxSup, NeurIPS 2025, Table 7.
  """
  integer('num_classes', num_classes, 2)
  integer('largest', largest, 1)
  number('ratio', ratio, high=1, above=0)
  # The rounding errors of the power and the products are of the order 1e-16.
  return [
    int(largest * ratio ** (c / (num_classes - 1)) * (1 + 1e-12))
    for c in range(num_classes)
  ]


class LongTailedSource:
  """A part of a source in which later classes have fewer examples.

  Class 0 keeps as many as the smallest class of the source has (all of them,
  where classes are equally large), the others what `long_tailed_counts` says.
  Which ones are kept is a random choice that depends on the seed, the class and
  the number of its examples alone, and what a smaller ratio keeps, a larger one
  keeps, too. They stay in the order of the source.

  Args:
    source: the examples. All labels are read once: by its method `labels()`
      where it has one, else by reading every example.
    ratio: see `long_tailed_counts`.
    seed: chooses the examples; in `[0, 2**63)`.
    largest: how many examples class 0 keeps, if not as many as it can.

  Attributes:
    counts: how many examples each class has, a tuple of K.
    name, num_classes, label_names, image_shape, in_memory: as in `Source`.

  Raises:
    UsageError: if a class of the source has fewer examples than it should keep,
      or would keep none.

  Examples:
    >>> from maxsup_jax.data import ArraySource
    >>> labels = np.arange(300) % 3
    >>> source = ArraySource(np.zeros((300, 8, 8), np.uint8), labels, 3)
    >>> part = LongTailedSource(source, 0.01, seed=0)
    >>> part.counts, len(part)
    ((100, 10, 1), 111)
  """

  def __init__(
    self, source: Source, ratio: float, seed: int, *, largest: int | None = None
  ):
    integer('seed', seed, 0, 2**63 - 1)
    labels_N = all_labels(source)
    K = source.num_classes
    there = np.bincount(labels_N, minlength=K)
    if not there.all():
      raise UsageError(
        f'{source.name} has no examples of class {there.argmin()}, so it '
        'cannot become long-tailed'
      )
    largest = int(there.min()) if largest is None else largest
    counts = long_tailed_counts(K, largest, ratio)
    for label, (count, available) in enumerate(zip(counts, there)):
      if count > available:
        raise UsageError(
          f'{source.name} has {available} examples of class {label}; a '
          f'long-tailed split with {largest} of class 0 needs {count} of them'
        )
    if 0 in counts:
      raise UsageError(
        f'a ratio of {ratio} leaves no example of class {counts.index(0)} of '
        f'{source.name}, with {largest} of class 0; expected at least '
        f'1/{largest}'
      )
    kept = [
      _chosen(np.flatnonzero(labels_N == label), count, seed, label)
      for label, count in enumerate(counts)
    ]
    self.name = f'{source.name}, long-tailed with ratio {ratio:g}'
    self.num_classes = K
    self.label_names = source.label_names
    self.image_shape = source.image_shape
    self.counts = tuple(counts)
    self.in_memory = getattr(source, 'in_memory', False)
    self._source = source
    self._indices = np.sort(np.concatenate(kept))
    self._labels = labels_N[self._indices]

  def __len__(self) -> int:
    return len(self._indices)

  def __getitem__(self, index: int) -> Example:
    index = range(len(self))[operator.index(index)]
    return self._source[int(self._indices[index])]

  def undecoded(self, index: int) -> UndecodedExample:
    """One example, its image not decoded where the source can do so."""
    index = range(len(self))[operator.index(index)]
    read: Any = getattr(self._source, 'undecoded', self._source.__getitem__)
    return read(int(self._indices[index]))

  def labels(self) -> np.ndarray:
    """All labels, int32 `[N]`."""
    return self._labels.copy()


def _chosen(
  indices: np.ndarray, count: int, seed: int, label: int
) -> np.ndarray:
  """The first `count` of a random order, which does not depend on `count`.

  Sorting raw bits, because NumPy promises that they stay the same in all its
  versions.
  """
  bits = np.random.Philox(key=(seed, _SUBSET), counter=(0, 0, 0, label))
  order = np.argsort(bits.random_raw(len(indices)), kind='stable')
  return indices[order[:count]]
