"""Training splits with what a teacher said of each example."""

from collections.abc import Iterable
from typing import Any

import numpy as np

from maxsup_jax.data.sources import (
  Example,
  Source,
  UndecodedExample,
  all_labels,
)
from maxsup_jax.errors import UsageError, integer


class TaughtSource:
  r"""A source whose examples carry the logits that a teacher gave them.

  They are under `'teacher_logits'`, float32 `[K]`, and go into the batches of
  training as `[B, K]`. They stay the same whatever augmentation does to the
  image.

  With `top_k` = k, memory holds the k largest logits of each example alone. The
  other K - k classes get equal logits, such that the k have the probabilities
  that they have in the teacher's softmax at temperature 1.

  Args:
    source: the examples.
    blocks: logits, float `[n, K]`, and labels `[n]`, N rows in all, in the
      order of the source, such as `outputs.read_logits` gives.
    top_k: from 1 to K; None keeps all.

  Attributes:
    name, num_classes, label_names, image_shape, in_memory: as in `Source`.
    counts: of the source's classes, where it has them.

  Raises:
    UsageError: if there are other classes, examples or labels (of a source that
      does not know its `labels` without reading every image, the labels of 100
      examples are compared), or an argument is out of range.

  Examples:
    >>> from maxsup_jax.data import ArraySource
    >>> source = ArraySource(np.zeros((2, 8, 8), np.uint8), [0, 1], 4)
    >>> probabilities = np.array([[.6, .2, .1, .1], [.1, .7, .1, .1]])
    >>> taught = TaughtSource(
    ...   source, [(np.log(probabilities), np.array([0, 1]))], top_k=1)
    >>> np.exp(taught[0]['teacher_logits']).round(3).tolist()
    [0.6..., 0.133..., 0.133..., 0.133...]
  """

  def __init__(
    self,
    source: Source,
    blocks: Iterable[tuple[np.ndarray, np.ndarray]],
    top_k: int | None = None,
  ):
    K = source.num_classes
    if top_k is not None:
      integer('top_k', top_k, 1, K)
    k = K if top_k is None else top_k
    parts, theirs, count = [], [], 0
    for logits_NK, labels_N in blocks:
      if logits_NK.shape[1] != K:
        raise UsageError(
          f'the teacher has {logits_NK.shape[1]} classes; {source.name} has {K}'
        )
      count += len(logits_NK)
      theirs.append(labels_N)
      kept = _largest(logits_NK, k) if k < K else (np.float32(logits_NK),)
      parts.append(kept)
    if count != len(source):
      raise UsageError(
        f'the teacher saw {count} examples; {source.name} has {len(source)}'
      )
    _compare_labels(source, np.concatenate(theirs))
    self._arrays = [np.concatenate(rows) for rows in zip(*parts)]
    self.name = source.name
    self.num_classes = K
    self.label_names = source.label_names
    self.image_shape = source.image_shape
    self.counts = getattr(source, 'counts', None)
    self.in_memory = getattr(source, 'in_memory', False)
    self._source = source

  def __len__(self) -> int:
    return len(self._source)

  def __getitem__(self, index: int) -> Example:
    return self._taught(self._source.__getitem__, index)

  def undecoded(self, index: int) -> UndecodedExample:
    """One example, its image not decoded where the source can do so."""
    read = getattr(self._source, 'undecoded', self._source.__getitem__)
    return self._taught(read, index)

  def labels(self) -> np.ndarray:
    """All labels, int32 `[N]`."""
    return all_labels(self._source)

  def _taught(self, read: Any, index: int) -> Any:
    if len(self._arrays) == 1:
      logits_K = self._arrays[0][index]
    else:
      ids_k, values_k, rest = (array[index] for array in self._arrays)
      logits_K = np.full(self.num_classes, rest, np.float32)
      logits_K[ids_k] = values_k
    return {**read(index), 'teacher_logits': logits_K}


def _compare_labels(source: Source, theirs_N: np.ndarray) -> None:
  if hasattr(source, 'labels'):
    indices, own = np.arange(len(theirs_N)), all_labels(source)
  else:
    read = getattr(source, 'undecoded', source.__getitem__)
    indices = np.unique(np.linspace(0, len(theirs_N) - 1, 100).astype(int))
    own = np.array([read(i)['label'] for i in indices.tolist()])
  differ = np.flatnonzero(own != theirs_N[indices])
  if differ.size:
    first = differ[0]
    raise UsageError(
      f'the teacher saw other examples, or in another order: the label of '
      f'example {indices[first]} is {theirs_N[indices[first]]} there and '
      f'{own[first]} in {source.name}'
    )


def _largest(
  logits_NK: np.ndarray, k: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """Ids and values `[N, k]` of the largest logits, and `[N]` for the others."""
  K = logits_NK.shape[1]
  order_NK = np.argpartition(-logits_NK, k - 1, axis=1)
  values_NK = np.take_along_axis(logits_NK, order_NK, 1).astype(np.float32)
  others_NK = values_NK[:, k:].astype(np.float64)
  largest_N = others_NK.max(1, keepdims=True)
  mass_N = np.exp(others_NK - largest_N).sum(1) / (K - k)
  rest_N = (largest_N[:, 0] + np.log(mass_N)).astype(np.float32)
  return order_NK[:, :k].astype(np.int32), values_NK[:, :k], rest_N
