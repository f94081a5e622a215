"""Gradient descent, and how the features collapse along it."""

import dataclasses
import functools
import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from maxsup_jax.diagnostics import _checks
from maxsup_jax.diagnostics.unconstrained import _problem
from maxsup_jax.diagnostics.unconstrained._collapse import collapse
from maxsup_jax.diagnostics.unconstrained._precision import double_precision
from maxsup_jax.diagnostics.unconstrained._problem import Problem
from maxsup_jax.errors import UsageError

METRICS = ('nc1', 'nc2', 'nc3')


@dataclasses.dataclass(frozen=True, eq=False)
class Trajectory:
  """What gradient descent on a `Problem` went through.

  All arrays are `[S]`, one value for each recorded step.

  Attributes:
    problem: what is minimised.
    learning_rate: of the descent.
    seed: of the start.
    scale: standard deviation of the start.
    steps: updates made so far, int64; 0 is the start.
    value: of the objective, as all that follows float64.
    error: share of the examples whose largest logit is not that of their class.
      Where it is 0, MaxSup and LS are the same function.
    nc1: within-class variability, tr(Sigma_W Sigma_B^+) / K.
    nc2: distance of the logits' directions from a simplex.
    nc3: distance of the directions of the weights from those of the class
      means; not squared.
    weight_norm: mean norm of the rows of W.
    feature_norm: mean distance of the class means from their mean.

  The class means are centred, the weights are not, and the bias plays no part
  in nc1, nc2 and nc3. They are NaN where all class means are equal.
  """

  problem: Problem
  learning_rate: float
  seed: int
  scale: float
  steps: np.ndarray
  value: np.ndarray
  error: np.ndarray
  nc1: np.ndarray
  nc2: np.ndarray
  nc3: np.ndarray
  weight_norm: np.ndarray
  feature_norm: np.ndarray


def log_spaced_steps(steps: int, count: int = 200) -> np.ndarray:
  """Whole numbers from 0 to `steps`, denser at the start.

  Args:
    steps: the last of them, at least 1.
    count: about how many; fewer where they would be equal.

  Returns:
    int64, increasing.

  Examples:
    >>> from maxsup_jax.diagnostics import unconstrained
    >>> print(unconstrained.log_spaced_steps(1000, 8))
    [   0    1    3   10   32  100  316 1000]
  """
  steps = _checks.at_least(steps, 'steps', 1)
  count = _checks.at_least(count, 'count', 2)
  powers = np.geomspace(1, steps, count - 1)
  return np.unique(np.r_[0, np.rint(powers).astype(np.int64)])


def gradient_descent(
  problem: Problem,
  *,
  steps: int = 4000,
  learning_rate: float = 1.0,
  seed: int = 0,
  scale: float | None = None,
  record: Sequence[int] | None = None,
) -> Trajectory:
  """Plain gradient descent in float64 from a random start.

  The global setting of JAX's precision is not changed.

  Args:
    problem: what to minimise.
    steps: updates to make, at least 1.
    learning_rate: greater than 0.
    seed: of the start. All entries of weights and features are normal, the bias
      is 0; problems of one shape start at the same point.
    scale: standard deviation of the start, greater than 0; by default
      D^(-1/2), with which weights and features have norms of about 1. What
      converges first can depend on it: from a very small start CE gets below a
      moderate NC1 first.
    record: the steps to record, increasing, from 0 to `steps`, for example
      `log_spaced_steps(steps)`; by default all of them.

  Returns:
    What happened at the recorded steps.

  Raises:
    UsageError: one line, for a number outside its range, or if the descent
      diverges.

  Examples:
    >>> from maxsup_jax.diagnostics import unconstrained
    >>> for objective, alpha in (('ce', 0.0), ('ls', 0.2), ('maxsup', 0.2)):
    ...   problem = unconstrained.Problem(
    ...     num_classes=4, per_class=5, dim=8, objective=objective, alpha=alpha)
    ...   path = unconstrained.gradient_descent(problem, steps=400)
    ...   step = unconstrained.steps_to_threshold(path, 'nc1', 1e-2)
    ...   print(objective, round(step, -1))
    ce 170.0
    ls 90.0
    maxsup 90.0
  """
  steps = _checks.at_least(steps, 'steps', 1)
  scale = default_scale(problem) if scale is None else scale
  learning_rate = _checks.positive(learning_rate, 'learning_rate')
  if record is None:
    record = np.arange(steps + 1)
  record = _checks.array(record, 'record')
  if (
    record.ndim != 1
    or not record.size
    or record.dtype.kind not in 'iu'
    or (np.diff(record) <= 0).any()
    or record[0] < 0
    or record[-1] > steps
  ):
    raise UsageError(
      f'record has to be whole numbers that increase, from 0 to steps, {steps}'
    )
  record = record.astype(np.int64)
  with double_precision():
    measured = _descend(
      start(problem, seed, scale),
      np.diff(record, prepend=0),
      _problem.strengths(problem),
      float(learning_rate),
      objective=problem.objective,
    )
  measured = {name: np.asarray(value) for name, value in measured.items()}
  bad = ~np.isfinite(measured['value'])
  if bad.any():
    raise UsageError(
      f'gradient descent diverged before step {record[bad.argmax()]}; '
      f'learning_rate is {learning_rate}, try a smaller one'
    )
  return Trajectory(
    problem=problem,
    learning_rate=float(learning_rate),
    seed=int(seed),
    scale=float(scale),
    steps=record,
    **measured,
  )


def steps_to_threshold(
  trajectory: Trajectory, metric: str, threshold: float
) -> float:
  """The first recorded step at which a metric is below a threshold.

  Args:
    trajectory: what `gradient_descent` returned.
    metric: `'nc1'`, `'nc2'` or `'nc3'`.
    threshold: the threshold.

  Returns:
    The step, as a float; NaN if the metric never gets there.

  Examples:
    >>> from maxsup_jax.diagnostics import unconstrained
    >>> problem = unconstrained.Problem(num_classes=4, per_class=5, dim=8)
    >>> path = unconstrained.gradient_descent(problem, steps=20)
    >>> unconstrained.steps_to_threshold(path, 'nc1', 1e-9)
    nan
  """
  i = _first_below(trajectory, metric, threshold)
  return math.nan if i is None else float(trajectory.steps[i])


def metric_at_threshold(
  trajectory: Trajectory, metric: str, other: str, threshold: float
) -> float:
  """A metric where another one is first below a threshold.

  Args:
    trajectory: what `gradient_descent` returned.
    metric: what to read: `'nc1'`, `'nc2'` or `'nc3'`.
    other: what the threshold is for.
    threshold: the threshold.

  Returns:
    The metric at that recorded step; NaN if it never comes.
  """
  _checks.one_of(metric, 'metric', METRICS)
  i = _first_below(trajectory, other, threshold)
  return math.nan if i is None else float(getattr(trajectory, metric)[i])


def _first_below(trajectory, metric, threshold):
  _checks.one_of(metric, 'metric', METRICS)
  below = getattr(trajectory, metric) < threshold
  return int(below.argmax()) if below.any() else None


def default_scale(problem: Problem) -> float:
  """Of a start with weights and features of norm 1, about."""
  return problem.dim**-0.5


def start(problem: Problem, seed: int, scale: float) -> tuple[np.ndarray, ...]:
  """Random weights and features, and a bias of 0, in float64."""
  scale = _checks.positive(scale, 'scale')
  seed = _checks.seed(seed)
  # Of NumPy: the same on every platform and for every version of JAX.
  random = np.random.default_rng(seed)
  K, D = problem.num_classes, problem.dim
  return (
    scale * random.standard_normal((K, D)),
    scale * random.standard_normal((problem.num_examples, D)),
    np.zeros(K),
  )


def update(objective, strengths, parameters, learning_rate):
  """One step of gradient descent."""
  gradient = jax.grad(_problem.regularized, 2)(objective, strengths, parameters)
  return jax.tree.map(lambda x, g: x - learning_rate * g, parameters, gradient)


@functools.partial(jax.jit, static_argnames='objective')
def _descend(parameters, counts, strengths, learning_rate, *, objective):
  """Makes so many updates and records, again and again."""

  def advance(parameters, count):
    parameters = jax.lax.fori_loop(
      0,
      count,
      lambda _, p: update(objective, strengths, p, learning_rate),
      parameters,
    )
    return parameters, _measure(objective, strengths, parameters)

  return jax.lax.scan(advance, parameters, counts)[1]


def _measure(objective, strengths, parameters):
  W, H, b = parameters
  K, D = W.shape
  Z = _problem.logits_by_class(W, H, b)
  means = H.reshape(K, -1, D).mean(1)
  return {
    'value': _problem.regularized(objective, strengths, parameters),
    'error': (Z.argmax(-1) != jnp.arange(K)[:, None]).mean(dtype=Z.dtype),
    'weight_norm': jnp.linalg.norm(W, axis=1).mean(),
    'feature_norm': jnp.linalg.norm(means - means.mean(0), axis=1).mean(),
    **collapse(W, H),
  }
