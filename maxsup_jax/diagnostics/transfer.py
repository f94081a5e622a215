"""How well features serve another task: a linear classifier, and neighbours."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
import scipy.optimize
from numpy.typing import ArrayLike
from scipy.special import log_softmax

from maxsup_jax.diagnostics import checks
from maxsup_jax.errors import UsageError, integer, number

# From Kornblith et al.: 45 values from 1e-6 to 1e5.
STRENGTHS = tuple(np.logspace(-6, 5, 45).tolist())
# Rows of similarities in memory at a time, in numbers.
_BLOCK = 2**24


@dataclasses.dataclass(frozen=True, eq=False)
class LinearFit:
  """A multinomial logistic regression."""

  weights: np.ndarray  # `[K, D]`, of the features as they were given
  bias: np.ndarray  # `[K]`
  loss: float  # the objective that was minimised, over N
  iterations: int

  def accuracy(self, features: ArrayLike, labels: ArrayLike) -> float:
    """The share of examples whose class has the largest logit."""
    logits = np.asarray(features, np.float64) @ self.weights.T + self.bias
    return float((logits.argmax(1) == np.asarray(labels)).mean())


@dataclasses.dataclass(frozen=True, eq=False)
class LinearProbe:
  """What `linear_probe` gives."""

  strengths: np.ndarray  # `[S]`, in ascending order
  train_accuracy: np.ndarray  # `[S]`, of the part that is not held out
  held_out_accuracy: np.ndarray  # `[S]`
  strength: float  # of the largest held-out accuracy; of several the largest
  fit: LinearFit  # with it, on all training examples
  accuracy: float  # of the test examples


def fit_linear(
  features: ArrayLike,
  labels: ArrayLike,
  strength: float,
  *,
  num_classes: int | None = None,
  start: LinearFit | None = None,
  tolerance: float = 1e-7,
  max_iterations: int = 2000,
) -> LinearFit:
  r"""Multinomial logistic regression by L-BFGS, in float64.

  .. math::
    \min_{W, b} \; \frac1N \sum_n H(y_n, \mathrm{softmax}(W x_n + b))
      + \frac{\lambda}{2 N} \lVert W \rVert_F^2

  which is scikit-learn's with :math:`C = 1 / \lambda`. The bias is free.

  Args:
    features: `[N, D]`.
    labels: class ids, integer `[N]`.
    strength: :math:`\lambda`, above 0.
    num_classes: K; by default one more than the largest label.
    start: where to start from; a fit of a strength nearby saves iterations.
    tolerance: the largest element of the gradient at the end.
    max_iterations: when to end at the latest.

  Examples:
    >>> x = np.array([[0.0], [1.0], [2.0], [3.0]])
    >>> fit = fit_linear(x, [0, 0, 1, 1], 0.01)
    >>> fit.accuracy(x, [0, 0, 1, 1]), round(fit.loss, 3)
    (1.0, 0.045)
  """
  x = checks.matrix(features, 'features').astype(np.float64)
  K = int(np.max(labels)) + 1 if num_classes is None else num_classes
  labels_N = checks.class_ids(labels, K)
  checks.same_length(features=x, labels=labels_N)
  number('strength', strength, above=0)
  N, D = x.shape
  penalty = strength / N
  rows = np.arange(N)

  def objective(flat: np.ndarray) -> tuple[float, np.ndarray]:
    W, b = flat[: K * D].reshape(K, D), flat[K * D :]
    log_p = log_softmax(x @ W.T + b, axis=1)
    loss = -log_p[rows, labels_N].mean() + penalty / 2 * (W * W).sum()
    error = np.exp(log_p)
    error[rows, labels_N] -= 1
    error /= N
    gradient = np.concatenate(
      [(error.T @ x + penalty * W).ravel(), error.sum(0)]
    )
    return float(loss), gradient

  first = np.zeros(K * D + K)
  if start is not None:
    first = np.concatenate([start.weights.ravel(), start.bias])
  found = scipy.optimize.minimize(
    objective,
    first,
    jac=True,
    method='L-BFGS-B',
    options={
      'maxiter': max_iterations,
      'maxfun': 2 * max_iterations,
      'gtol': tolerance,
      'ftol': 0.0,
      'maxcor': 20,
    },
  )
  W, b = found.x[: K * D].reshape(K, D), found.x[K * D :]
  return LinearFit(W, b, float(found.fun), int(found.nit))


def linear_probe(
  features: ArrayLike,
  labels: ArrayLike,
  test_features: ArrayLike,
  test_labels: ArrayLike,
  *,
  strengths: Sequence[float] = STRENGTHS,
  held_out: float = 0.2,
  seed: int = 0,
) -> LinearProbe:
  """Linear transfer: logistic regression on features that stay as they are.

  The features are standardised by the mean and the standard deviation of the
  training examples (those that do not vary become 0). Of each class a share is
  held out; the strength with the best accuracy there is used for a fit on all
  training examples. Strengths go from the largest to the smallest, each fit
  starting from the one before.

  Args:
    features: of the training examples, `[N, D]`.
    labels: integer `[N]`.
    test_features: `[M, D]`.
    test_labels: integer `[M]`.
    strengths: at least two, above 0; see `fit_linear`.
    held_out: the share of each class that chooses the strength, in (0, 1).
    seed: chooses the examples that are held out.

  Raises:
    UsageError: if arrays do not fit, or a class has no example left to train
      on.

  Examples:
    >>> rng = np.random.default_rng(0)
    >>> labels = np.arange(300) % 3
    >>> x = rng.normal(size=(300, 5)) + 2 * np.eye(3, 5)[labels]
    >>> probe = linear_probe(x[:200], labels[:200], x[200:], labels[200:],
    ...                      strengths=(1e-3, 1.0, 1e3))
    >>> probe.strength, probe.accuracy
    (1000.0, 0.82)

  References: Kornblith et al., Do Better ImageNet Models Transfer Better?,
  CVPR 2019, appendix A.3; Zhou et al., MaxSup, 2025, appendix G. How they hold
  examples out and standardise is not stated.
  """
  x = checks.matrix(features, 'features').astype(np.float64)
  test = checks.matrix(test_features, 'test_features').astype(np.float64)
  if x.shape[1] != test.shape[1]:
    raise UsageError(
      f'test_features has {test.shape[1]} columns; features has {x.shape[1]}'
    )
  K = int(max(np.max(labels), np.max(test_labels))) + 1
  y, test_y = checks.class_ids(labels, K), checks.class_ids(test_labels, K)
  checks.same_length(features=x, labels=y)
  checks.same_length(test_features=test, test_labels=test_y)
  number('held_out', held_out, above=0, below=1)
  values = np.sort([number('strengths', s, above=0) for s in strengths])
  mean, std = x.mean(0), x.std(0)
  scale = np.divide(1, std, out=np.zeros_like(std), where=std > 0)
  x = (x - mean) * scale
  kept = _kept(y, held_out, seed)
  path: list[tuple[float, float]] = []
  best: tuple[float, float] = -1.0, 0.0
  fit = start = None
  for strength in values[::-1].tolist():
    fit = fit_linear(x[kept], y[kept], strength, num_classes=K, start=fit)
    there = fit.accuracy(x[~kept], y[~kept])
    path.append((fit.accuracy(x[kept], y[kept]), there))
    if there > best[0]:
      best, start = (there, strength), fit
  final = fit_linear(x, y, best[1], num_classes=K, start=start)
  weights = final.weights * scale
  final = dataclasses.replace(
    final, weights=weights, bias=final.bias - weights @ mean
  )
  train, there = np.array(path[::-1]).T
  accuracy = final.accuracy(test, test_y)
  return LinearProbe(values, train, there, best[1], final, accuracy)


def _kept(labels: np.ndarray, held_out: float, seed: int) -> np.ndarray:
  """Which examples choose no strength, bool `[N]`; some of each class."""
  order = np.random.default_rng(seed).permutation(len(labels))
  kept = np.ones(len(labels), bool)
  for k in np.unique(labels):
    mine = order[labels[order] == k]
    count = round(held_out * len(mine))
    if count == len(mine):
      raise UsageError(
        f'held_out is {held_out:g}; it leaves none of the {len(mine)} examples '
        f'of class {k} to train on'
      )
    kept[mine[:count]] = False
  if kept.all():
    raise UsageError(f'held_out is {held_out:g}; it holds out no example')
  return kept


def nearest_neighbours(
  features: ArrayLike,
  labels: ArrayLike,
  test_features: ArrayLike,
  test_labels: ArrayLike,
  *,
  neighbours: int = 20,
  temperature: float = 0.07,
) -> float:
  r"""The accuracy of a vote of the nearest training examples.

  Each of the k most similar ones, by the cosine s of the features, votes for
  its class with the weight :math:`\exp(s / \tau)`.

  Args:
    features: `[N, D]`, without rows of zeros.
    labels: integer `[N]`.
    test_features: `[M, D]`.
    test_labels: integer `[M]`.
    neighbours: k, from 1 to N.
    temperature: :math:`\tau`, above 0.

  Examples:
    >>> x, y = np.array([[1.0, 0.0], [0.0, 1.0]]), np.array([0, 1])
    >>> nearest_neighbours(x, y, [[0.9, 0.2]], [0], neighbours=1)
    1.0

  References: Wu et al., Unsupervised Feature Learning via Non-Parametric
  Instance Discrimination, CVPR 2018, section 3.4.
  """
  x, test = (
    _directions(checks.matrix(values, name), name)
    for values, name in (
      (features, 'features'),
      (test_features, 'test_features'),
    )
  )
  K = int(max(np.max(labels), np.max(test_labels))) + 1
  y, test_y = checks.class_ids(labels, K), checks.class_ids(test_labels, K)
  checks.same_length(features=x, labels=y)
  checks.same_length(test_features=test, test_labels=test_y)
  k = integer('neighbours', neighbours, 1, len(x))
  number('temperature', temperature, above=0)
  correct, block = 0, max(_BLOCK // len(x), 1)
  for at in range(0, len(test), block):
    similarity = test[at : at + block] @ x.T
    nearest = np.argpartition(-similarity, k - 1, axis=1)[:, :k]
    there = np.take_along_axis(similarity, nearest, 1)
    # Relative to the largest, so that nothing overflows.
    weight = np.exp((there - there.max(1, keepdims=True)) / temperature)
    votes = np.zeros((len(there), K))
    rows: Any = np.arange(len(there))[:, None]
    np.add.at(votes, (rows, y[nearest]), weight)
    correct += int((votes.argmax(1) == test_y[at : at + block]).sum())
  return correct / len(test)


def _directions(values: np.ndarray, name: str) -> np.ndarray:
  norms = np.linalg.norm(values.astype(np.float64), axis=1, keepdims=True)
  if not norms.all():
    raise UsageError(f'{name}[{int(norms.argmin())}] is all zeros')
  return values / norms
