"""Neural collapse of arrays that are in memory."""

import numpy as np
from numpy.typing import ArrayLike
from scipy import sparse

from maxsup_jax.diagnostics import checks
from maxsup_jax.diagnostics.neural_collapse.measures import (
  NeuralCollapse,
  Spread,
  between_class,
  check_size,
  check_weights,
  measure,
)
from maxsup_jax.diagnostics.neural_collapse.passes import GROUPS, row_measures
from maxsup_jax.errors import UsageError, integer, one_of

# Rows that are made float64 at a time.
_BLOCK = 2048


def neural_collapse(
  features: ArrayLike,
  labels: ArrayLike,
  weights: ArrayLike | None = None,
  bias: ArrayLike | None = None,
  logits: ArrayLike | None = None,
  *,
  num_classes: int | None = None,
  group_by: str = 'labels',
  global_mean: str = 'classes',
) -> NeuralCollapse:
  r"""Measures neural collapse, in float64 on the host.

  .. math::
    \mathrm{NC1} = \frac{1}{K} \mathrm{tr}(\Sigma_W \Sigma_B^+) =
    \frac{1}{N} \sum_i \|\bar H^+ (h_i - \bar h_{y_i})\|^2

  in the second form, with the pseudo-inverse from a singular value
  decomposition of the class means that keeps K - 1 values. The paper's code
  measures the training set, without augmentation, in evaluation mode.

  Args:
    weights: the classifier's weights, `[K, D]`, one row per class, or None.
    bias: its bias, `[K]`, or None; zeros for a classifier without one.
    logits: floating point `[N, K]`, or None. The predictions are the largest
      ones; without logits, those of the weights and the bias, if any.
    num_classes: K; by default that of the weights or the logits, else one more
      than the largest label.
    group_by: 'labels', or 'predictions': an example belongs to the class that
      is predicted, as the paper compares the correct and the wrong predictions
      of a test set. Classes that are never predicted are left out.
    global_mean: :math:`h_G` is the mean of the class means, 'classes' (Guo et
      al., Papyan et al.), or the mean of the examples, 'samples' (Zhu et al.).

  References: Guo et al., 2025, eqs. 4 to 6. Papyan, Han and Donoho, 2020. Zhu
    et al., 2021. Zhou et al., 2022.
  """
  features = checks.matrix(features, 'features')
  check_size(features, 'features')
  if logits is not None:
    logits = checks.class_scores(logits, masked=True)
  K = _num_classes(num_classes, labels, weights, logits)
  labels = checks.class_ids(labels, K)
  checks.same_length(features=features, labels=labels)
  one_of('group_by', group_by, GROUPS)
  weights, bias = check_weights(weights, bias, K, features.shape[1])
  predictions = _predictions(features, weights, bias, logits)
  groups = labels
  if group_by == 'predictions':
    if predictions is None:
      raise UsageError(
        "group_by='predictions' needs logits, or weights and bias"
      )
    groups = predictions

  count = np.bincount(groups, minlength=K)
  total = np.zeros((K, features.shape[1]))
  for rows in _blocks(len(labels)):
    ids = groups[rows]
    member = sparse.csr_array(
      (np.ones(len(ids)), (ids, np.arange(len(ids)))), (K, len(ids))
    )
    total += member @ features[rows].astype(np.float64)
  between = between_class(
    count,
    total / np.maximum(count, 1)[:, None],
    epsilon=float(np.finfo(features.dtype).eps),
    global_mean=global_mean,
    allow_empty=group_by == 'predictions',
  )

  cells = groups
  if predictions is not None:
    cells = groups + K * (predictions == labels)
  sums = np.zeros((2, 2 * K))
  of_label = of_prediction = 0
  for rows in _blocks(len(labels)):
    found = row_measures(
      np, between, features[rows].astype(np.float64), groups[rows]
    )
    for row, values in zip(sums, (found.square, found.whitened)):
      row += np.bincount(cells[rows], values, minlength=2 * K)
    of_label += int((found.nearest == labels[rows]).sum())
    if predictions is not None:
      of_prediction += int((found.nearest == predictions[rows]).sum())
  count_2K = np.bincount(cells, minlength=2 * K).reshape(2, K)
  square_2K, whitened_2K = sums.reshape(2, 2, K)
  hits, predicted = (of_label, of_prediction), predictions is not None
  spread = Spread(count_2K, square_2K, whitened_2K, *hits, predicted)
  return measure(between, spread, weights, bias)


def _blocks(N: int) -> list[slice]:
  return [slice(i, i + _BLOCK) for i in range(0, N, _BLOCK)]


def _num_classes(
  num_classes: int | None,
  labels: ArrayLike,
  weights: ArrayLike | None,
  logits: np.ndarray | None,
) -> int:
  """The number of classes, on which all that say it must agree."""
  said = {}
  if num_classes is not None:
    said['num_classes'] = integer('num_classes', num_classes, low=2)
  if weights is not None:
    said['weights'] = len(checks.matrix(weights, 'weights'))
  if logits is not None:
    said['logits'] = logits.shape[1]
  if len(set(said.values())) > 1:
    line = ', '.join(f'{name} {K}' for name, K in said.items())
    raise UsageError(f'the numbers of classes differ: {line}')
  known = next(iter(said.values()), 0)
  K = known or int(checks.labels_alone(labels).max()) + 1
  if K < 2:
    raise UsageError(f'there is {K} class; expected at least 2')
  return K


def _predictions(
  features: np.ndarray,
  weights: np.ndarray | None,
  bias: np.ndarray | None,
  logits: np.ndarray | None,
) -> np.ndarray | None:
  """The classes that the network predicts, if that is known."""
  if logits is not None:
    checks.same_length(features=features, logits=logits)
    return logits.argmax(1)
  if weights is None or bias is None:
    return None
  return np.concatenate(
    [
      (features[rows].astype(np.float64) @ weights.T + bias).argmax(1)
      for rows in _blocks(len(features))
    ]
  )
