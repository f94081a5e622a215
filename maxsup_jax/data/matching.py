"""Another dataset with the classes of a trained model."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from maxsup_jax.data.sources import (
  Example,
  Source,
  UndecodedExample,
  all_labels,
)
from maxsup_jax.errors import UsageError


class MatchedLabels:
  """A source whose labels have the numbers that a model gives their names.

  The source may lack some of the model's classes, as ImageNet-A and -R do, and
  have them in another order. It may have none that the model lacks. Where one
  side has no names, both must have as many classes, which then have the same
  numbers.

  Args:
    source: the examples.
    names: of the model's classes, in its order; None if they have none.
    num_classes: of the model.

  Raises:
    UsageError: one line, about the classes that do not match.

  Examples:
    >>> from maxsup_jax.data import ArraySource
    >>> source = ArraySource(
    ...   np.zeros((3, 8, 8), np.uint8), [0, 1, 1], 2,
    ...   label_names=('dog', 'cat'))
    >>> MatchedLabels(source, ('bird', 'cat', 'dog'), 3).labels().tolist()
    [2, 1, 1]
  """

  def __init__(
    self, source: Source, names: Sequence[str] | None, num_classes: int
  ):
    theirs = source.label_names
    ids = np.arange(source.num_classes)
    if names is not None and theirs is not None:
      known = {name: k for k, name in enumerate(names)}
      unknown = [name for name in theirs if name not in known]
      if unknown:
        raise UsageError(
          f'{source.name} has classes that the run does not have: '
          f'{", ".join(unknown[:3])}{", ..." if len(unknown) > 3 else ""}'
        )
      ids = np.array([known[name] for name in theirs])
    elif source.num_classes != num_classes:
      raise UsageError(
        f'{source.name} has {source.num_classes} classes and the run '
        f'{num_classes}; without names on both sides there must be as many'
      )
    self.name = source.name
    self.num_classes = num_classes
    self.label_names = None if names is None else tuple(names)
    self.image_shape = source.image_shape
    self.in_memory = getattr(source, 'in_memory', False)
    self._source, self._ids = source, ids

  def __len__(self) -> int:
    return len(self._source)

  def __getitem__(self, index: int) -> Example:
    return self._matched(self._source.__getitem__, index)

  def undecoded(self, index: int) -> UndecodedExample:
    """One example, its image not decoded where the source can do so."""
    read = getattr(self._source, 'undecoded', self._source.__getitem__)
    return self._matched(read, index)

  def labels(self) -> np.ndarray:
    """All labels, int32 `[N]`."""
    return self._ids[all_labels(self._source)].astype(np.int32)

  def _matched(self, read: Any, index: int) -> Any:
    example = read(index)
    return {**example, 'label': int(self._ids[example['label']])}
