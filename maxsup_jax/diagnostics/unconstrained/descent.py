"""Minimisation of the unconstrained feature model from a random start."""

import contextlib
import dataclasses
import functools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from scipy import optimize

from maxsup_jax.diagnostics import checks
from maxsup_jax.diagnostics.unconstrained.theory import (
  Minimizer,
  Parameters,
  Problem,
  logits_by_class,
  minimizer,
  regularized,
  strengths,
)
from maxsup_jax.errors import UsageError, integer, number, one_of

METRICS = ('nc1', 'nc2', 'nc3')
# L-BFGS gets stuck at the kinks of MaxSup that it meets far from the minimiser:
# it starts with smooth versions of it.
_TEMPERATURES = (1e-1, 1e-2, 1e-3, 1e-4)


@contextlib.contextmanager
def _double_precision() -> Iterator[None]:
  """Computes in float64, on the CPU where JAX knows one."""
  try:
    cpu = jax.local_devices(backend='cpu')[0]
  except RuntimeError:
    cpu = None  # JAX_PLATFORMS leaves it out.
  with jax.enable_x64(True), jax.default_device(cpu):
    yield


@dataclasses.dataclass(frozen=True, eq=False)
class Trajectory:
  """What gradient descent on a `Problem` went through.

  All arrays are `[S]`, one value for each recorded step, float64 but `steps`.

  The class means are centred, the weights are not, and the bias plays no part
  in nc1, nc2 and nc3. They are NaN where all class means are equal.
  """

  problem: Problem  # what is minimised
  learning_rate: float  # of the descent
  seed: int  # of the start
  scale: float  # standard deviation of the start
  steps: np.ndarray  # updates made so far, int64; 0 is the start
  value: np.ndarray  # of the objective
  # Share of the examples whose largest logit is not that of their class. Where
  # it is 0, MaxSup and LS are the same function.
  error: np.ndarray
  nc1: np.ndarray  # within-class variability, tr(Sigma_W Sigma_B^+) / K
  nc2: np.ndarray  # distance of the logits' directions from a simplex
  # Distance of the directions of the weights from those of the class means; not
  # squared.
  nc3: np.ndarray
  weight_norm: np.ndarray  # mean norm of the rows of W
  feature_norm: np.ndarray  # mean distance of the class means from their mean


def log_spaced_steps(steps: int, count: int = 200) -> np.ndarray:
  """About `count` whole numbers from 0 to `steps`, denser at the start."""
  steps = integer('steps', steps, low=1)
  count = integer('count', count, low=2)
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
    steps: updates to make.
    seed: of the start. All entries of weights and features are normal, the bias
      is 0; problems of one shape start at the same point.
    scale: standard deviation of the start; by default D^(-1/2), with which
      weights and features have norms of about 1.
    record: the steps to record, increasing, from 0 to `steps`, for example
      `log_spaced_steps(steps)`; by default all of them.
  """
  steps = integer('steps', steps, low=1)
  start, scale = _start(problem, seed, scale)
  learning_rate = float(number('learning_rate', learning_rate, above=0))
  recorded = np.arange(steps + 1)
  if record is not None:
    recorded = checks.class_ids(record, steps + 1, 'record')
    if (np.diff(recorded) <= 0).any():
      raise UsageError('record is not increasing; expected increasing steps')
  with _double_precision():
    measured = _descend(
      start,
      np.diff(recorded, prepend=0),
      strengths(problem),
      learning_rate,
      objective=problem.objective,
    )
  found = {name: np.asarray(value) for name, value in measured.items()}
  bad = ~np.isfinite(found['value'])
  if bad.any():
    raise UsageError(
      f'gradient descent diverged before step {recorded[bad.argmax()]}; '
      f'learning_rate is {learning_rate}; try a smaller one'
    )
  return Trajectory(problem, learning_rate, int(seed), scale, recorded, **found)


def steps_to_threshold(
  trajectory: Trajectory, metric: str, threshold: float
) -> float:
  """The first recorded step with `'nc1'`, `'nc2'` or `'nc3'` below a threshold.

  NaN if the metric never gets there.
  """
  i = _first_below(trajectory, metric, threshold)
  return math.nan if i is None else float(trajectory.steps[i])


def metric_at_threshold(
  trajectory: Trajectory, metric: str, other: str, threshold: float
) -> float:
  """A metric where another one is first below a threshold, or NaN."""
  one_of('metric', metric, METRICS)
  i = _first_below(trajectory, other, threshold)
  return math.nan if i is None else float(getattr(trajectory, metric)[i])


def _first_below(
  trajectory: Trajectory, metric: str, threshold: float
) -> int | None:
  one_of('metric', metric, METRICS)
  below = getattr(trajectory, metric) < threshold
  return int(below.argmax()) if below.any() else None


def _start(
  problem: Problem, seed: int, scale: float | None
) -> tuple[Parameters, float]:
  """Random weights and features, and a bias of 0, in float64; their scale."""
  if scale is None:
    scale = problem.dim**-0.5
  scale = float(number('scale', scale, above=0))
  seed = integer('seed', seed, low=0)
  # Of NumPy: the same on every platform and for every version of JAX.
  random = np.random.default_rng(seed)
  K, D = problem.num_classes, problem.dim
  W = scale * random.standard_normal((K, D))
  H = scale * random.standard_normal((problem.num_examples, D))
  return (W, H, np.zeros(K)), scale


@functools.partial(jax.jit, static_argnames='objective')
def _descend(
  parameters: Parameters,
  counts: ArrayLike,
  strengths: Sequence[float],
  learning_rate: float,
  *,
  objective: str,
) -> dict[str, jax.Array]:
  """Makes so many updates and records, again and again."""

  def update(_: Any, parameters: Parameters) -> Parameters:
    slopes = jax.grad(regularized, 2)(objective, strengths, parameters)
    return jax.tree.map(lambda x, g: x - learning_rate * g, parameters, slopes)

  def advance(
    parameters: Parameters, count: Any
  ) -> tuple[Parameters, dict[str, jax.Array]]:
    parameters = jax.lax.fori_loop(0, count, update, parameters)
    return parameters, _measure(objective, strengths, parameters)

  return jax.lax.scan(advance, parameters, counts)[1]


def _measure(
  objective: str, strengths: Sequence[float], parameters: Parameters
) -> dict[str, jax.Array]:
  W, H, b = parameters
  K, D = W.shape
  Z = logits_by_class(W, H, b)
  means = H.reshape(K, -1, D).mean(1)
  return {
    'value': regularized(objective, strengths, parameters),
    'error': (Z.argmax(-1) != jnp.arange(K)[:, None]).mean(dtype=Z.dtype),
    'weight_norm': jnp.linalg.norm(W, axis=1).mean(),
    'feature_norm': jnp.linalg.norm(means - means.mean(0), axis=1).mean(),
    **_collapse(W, H),
  }


def _collapse(weights: jax.Array, features: jax.Array) -> dict[str, jax.Array]:
  """NC1, NC2 and NC3 of `neural_collapse` at every step, so to be traced."""
  K, D = weights.shape
  by_class = features.reshape(K, -1, D)
  means = by_class.mean(1)
  centred = means - means.mean(0)
  # NC1 is the mean square norm of the deviations times the pseudo-inverse of
  # the class means: no [D, D] matrix. Its rank is K - 1 or less: singular
  # values within the rounding of the class means are none.
  _, values, basis = jnp.linalg.svd(centred, full_matrices=False)
  values, basis = values[: K - 1], basis[: K - 1]
  floor = jnp.finfo(values.dtype).eps * jnp.maximum(
    max(K, D) * values[0], jnp.linalg.norm(means)
  )
  inverse = jnp.where(values > floor, 1 / values, 0)
  # Equal class means have no directions: what divides by them is NaN.
  centred = jnp.where(values[0] > floor, centred, jnp.nan)
  inverse = jnp.where(values[0] > floor, inverse, jnp.nan)
  deviations = (by_class - means[:, None]) @ (basis * inverse[:, None]).T
  simplex = (jnp.eye(K) - 1 / K) / jnp.sqrt(K - 1)
  return {
    'nc1': jnp.square(deviations).sum(-1).mean(),
    'nc2': jnp.linalg.norm(_normalized(weights @ centred.T) - simplex),
    'nc3': jnp.linalg.norm(_normalized(weights) - _normalized(centred)),
  }


def _normalized(matrix: jax.Array) -> jax.Array:
  return matrix / jnp.linalg.norm(matrix)


@dataclasses.dataclass(frozen=True, eq=False)
class Solution:
  """Where a minimisation of a `Problem` ended."""

  problem: Problem  # what was minimised
  weights: np.ndarray  # W, float64 `[K, D]`
  # H, float64 `[N, D]`, the examples of a class one after the other.
  features: np.ndarray
  bias: np.ndarray  # b, float64 `[K]`
  value: float  # of the objective
  gradient: float  # the largest component of its gradient
  steps: int  # how many were made
  converged: bool  # whether the gradient is within the tolerance


@dataclasses.dataclass(frozen=True)
class Gap:
  """How far a solution is from the closed form; all is 0 at a minimiser.

  The value of the objective, solution minus closed form, and the largest
  difference of an entry: of the logits, less the mean of each example; of the
  inner products of the rows of W and of H, which a rotation does not change;
  and of the bias, less its mean.
  """

  value: float
  logits: float
  weights: float
  features: float
  bias: float


def solve(
  problem: Problem,
  *,
  seed: int = 0,
  scale: float | None = None,
  tolerance: float = 1e-8,
  max_steps: int = 15_000,
) -> Solution:
  """Minimises a `Problem` with L-BFGS, from a start as in `gradient_descent`.

  Args:
    tolerance: what no component of the gradient exceeds where it converged.
      SciPy's L-BFGS-B goes on for as long as the objective falls.
    max_steps: stop after so many steps.

  Returns:
    Where it ended. At W = H = 0 MaxSup has a kink, and next to it a gradient
    that is not small: a solution there has seldom `converged` in this sense.
  """
  tolerance = number('tolerance', tolerance, above=0)
  max_steps = integer('max_steps', max_steps, low=1)
  parameters, scale = _start(problem, seed, scale)
  steps = 0
  with _double_precision():
    smooth = _TEMPERATURES if problem.objective == 'maxsup' else ()
    for temperature in (*smooth, None):
      if steps < max_steps:
        parameters, more = _lbfgs(
          problem, parameters, temperature, max_steps - steps
        )
        steps += more
    value, gradient = _value_and_gradient(
      problem.objective, strengths(problem), parameters
    )
    largest = float(jnp.max(jnp.stack([jnp.abs(g).max() for g in gradient])))
  if not np.isfinite([float(value), largest]).all():
    raise UsageError(
      f'the search diverged; scale is {scale}: try a smaller one'
    )
  weights, features, bias = map(np.asarray, parameters)
  found = (weights, features, bias, float(value), largest, int(steps))
  return Solution(problem, *found, converged=largest <= tolerance)


def gap(solution: Solution, best: Minimizer | None = None) -> Gap:
  """How far a solution is from the closed form, by default its problem's."""
  best = best or minimizer(solution.problem)
  found = (solution.weights, solution.features, solution.bias)
  known = (best.weights, best.features, best.bias)

  def largest(function: Callable[..., np.ndarray]) -> float:
    return float(np.abs(function(*found) - function(*known)).max())

  return Gap(
    value=solution.value - best.value,
    logits=largest(lambda W, H, b: _centred(H @ W.T + b)),
    weights=largest(lambda W, H, b: W @ W.T),
    features=largest(lambda W, H, b: H @ H.T),
    bias=largest(lambda W, H, b: _centred(b)),
  )


def _centred(logits: np.ndarray) -> np.ndarray:
  return logits - logits.mean(-1, keepdims=True)


_value_and_gradient = jax.jit(
  jax.value_and_grad(regularized, 2), static_argnums=0
)


def _lbfgs(
  problem: Problem,
  parameters: Parameters,
  temperature: float | None,
  max_steps: int,
) -> tuple[Parameters, int]:
  shapes = [p.shape for p in parameters]
  ends = np.cumsum([p.size for p in parameters])[:-1]

  def split(vector: np.ndarray) -> Parameters:
    parts = np.split(vector, ends)
    W, H, b = (p.reshape(s) for p, s in zip(parts, shapes))
    return W, H, b

  def value_and_gradient(vector: np.ndarray) -> tuple[float, np.ndarray]:
    value, gradient = _value_and_gradient(
      problem.objective, strengths(problem), split(vector), temperature
    )
    return float(value), np.concatenate([np.ravel(g) for g in gradient])

  limits = {'maxiter': max_steps, 'maxfun': 2 * max_steps}
  result = optimize.minimize(
    value_and_gradient,
    np.concatenate([p.ravel() for p in parameters]),
    jac=True,
    method='L-BFGS-B',
    options={'gtol': 0, 'ftol': 0, 'maxcor': 30, **limits},
  )
  return split(result.x), result.nit
