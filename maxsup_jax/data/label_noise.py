"""Training splits with wrong labels."""

import operator
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import numpy as np

from maxsup_jax.data.sources import (
  Example,
  Source,
  UndecodedExample,
  all_labels,
)
from maxsup_jax.errors import UsageError, integer, number, one_of

# The second word of the Philox keys; 0 to 2 are those of other purposes.
_NOISE = 3

# What each class is mistaken for; classes that are not named keep their labels.
_CIFAR10 = {9: 1, 2: 0, 4: 7, 3: 5, 5: 3}
# By name, what `NoisyLabels(kind=)` knows.
KINDS: Mapping[str, str] = MappingProxyType(
  {
    'symmetric': 'any other class, with equal chances',
    'next': 'the class after it, the first after the last',
    'cifar10': 'truck to automobile, bird to airplane, deer to horse, cat and '
    'dog for each other; the other classes stay',
  }
)


class NoisyLabels:
  r"""A source some of whose labels are wrong.

  Each example's label becomes, with probability `rate`, what `kind` says:

  * `'symmetric'`: any of the other K - 1 classes, with equal chances, so that
    the rate is the share of wrong labels. (Some authors draw from all K, and
    call rho what leaves a share of rho (K - 1) / K wrong.)
  * `'next'`: class k becomes k + 1, the last one 0.
  * `'cifar10'`: the asymmetric noise of Patrini et al. for CIFAR-10, of classes
    that look alike; five of the ten keep all of their labels.

  Which ones depends on the seed and the index of the example alone, not on the
  number of examples; a higher rate keeps the mistakes of a lower one.

  Args:
    source: the examples. All labels are read once.
    rate: in (0, 1).
    seed: in `[0, 2**63)`.
    kind: a key of `KINDS`.

  Attributes:
    wrong: bool `[N]`, whose labels are not those of the source.
    name, num_classes, label_names, image_shape, in_memory: as in `Source`.
    counts: of the source's classes, where it has them.

  Raises:
    UsageError: if an argument is out of range, or the kind is for another
      number of classes.

  Examples:
    >>> from maxsup_jax.data import ArraySource
    >>> images, labels = np.zeros((1000, 8, 8), np.uint8), np.arange(1000) % 10
    >>> source = NoisyLabels(ArraySource(images, labels, 10), 0.2, seed=0)
    >>> int(source.wrong.sum()), source.labels()[:10].tolist()
    (202, [0, 1, 3, 5, 4, 5, 6, 0, 1, 3])

  References:
    Patrini et al., `Making Deep Neural Networks Robust to Label Noise
    <https://arxiv.org/abs/1609.03683>`_, CVPR 2017, section 5.
  """

  def __init__(
    self, source: Source, rate: float, seed: int, kind: str = 'symmetric'
  ):
    number('rate', rate, above=0, below=1)
    integer('seed', seed, 0, 2**63 - 1)
    one_of('kind', kind, KINDS)
    K = source.num_classes
    if kind == 'cifar10' and K != 10:
      raise UsageError(
        f"kind is 'cifar10'; {source.name} has {K} classes, not CIFAR-10's 10"
      )
    true_N = all_labels(source)
    bits = np.random.Philox(key=(seed, _NOISE)).random_raw(2 * len(true_N))
    # Two numbers of each example, in [0, 1), from the upper 53 bits.
    chance_N, choice_N = (bits >> 11).reshape(-1, 2).T * 2.0**-53
    if kind == 'symmetric':
      other_N = (true_N + 1 + (choice_N * (K - 1)).astype(np.int32)) % K
    elif kind == 'next':
      other_N = (true_N + 1) % K
    else:
      table = np.arange(K)
      table[list(_CIFAR10)] = list(_CIFAR10.values())
      other_N = table[true_N]
    labels_N = np.where(chance_N < rate, other_N, true_N).astype(np.int32)
    self.wrong = labels_N != true_N
    self.name = f'{source.name}, labels with {kind} noise {rate:g}'
    self.num_classes = K
    self.label_names = source.label_names
    self.image_shape = source.image_shape
    self.counts = getattr(source, 'counts', None)
    self.in_memory = getattr(source, 'in_memory', False)
    self._source = source
    self._labels = labels_N

  def __len__(self) -> int:
    return len(self._labels)

  def __getitem__(self, index: int) -> Example:
    return self._relabelled(self._source.__getitem__, index)

  def undecoded(self, index: int) -> UndecodedExample:
    """One example, its image not decoded where the source can do so."""
    read = getattr(self._source, 'undecoded', self._source.__getitem__)
    return self._relabelled(read, index)

  def labels(self) -> np.ndarray:
    """All labels, int32 `[N]`."""
    return self._labels.copy()

  def table(self) -> bytes:
    """The examples whose labels are wrong, as CSV: index and label."""
    rows = [f'{i},{self._labels[i]}' for i in np.flatnonzero(self.wrong)]
    return '\n'.join(['index,label', *rows, '']).encode()

  def _relabelled(self, read: Any, index: int) -> Any:
    index = range(len(self))[operator.index(index)]
    return {**read(index), 'label': int(self._labels[index])}
