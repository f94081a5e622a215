"""Minimisation from a random start, to check the closed form."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
from scipy import optimize

from maxsup_jax.diagnostics import _checks
from maxsup_jax.diagnostics.unconstrained import _descent, _problem
from maxsup_jax.diagnostics.unconstrained._closed_form import (
  Minimizer,
  minimizer,
)
from maxsup_jax.diagnostics.unconstrained._precision import double_precision
from maxsup_jax.diagnostics.unconstrained._problem import Problem
from maxsup_jax.errors import UsageError

METHODS = ('lbfgs', 'gd')
# L-BFGS gets stuck at the kinks of MaxSup that it meets far from the minimiser:
# it starts with smooth versions of it.
_TEMPERATURES = (1e-1, 1e-2, 1e-3, 1e-4)


@dataclasses.dataclass(frozen=True, eq=False)
class Solution:
  """Where a minimisation of a `Problem` ended.

  Attributes:
    problem: what was minimised.
    weights: W, float64 `[K, D]`.
    features: H, float64 `[N, D]`, the examples of a class one after the other.
    bias: b, float64 `[K]`.
    value: of the objective.
    gradient: the largest component of its gradient.
    steps: how many were made.
    converged: whether the gradient is within the tolerance.
  """

  problem: Problem
  weights: np.ndarray
  features: np.ndarray
  bias: np.ndarray
  value: float
  gradient: float
  steps: int
  converged: bool


@dataclasses.dataclass(frozen=True)
class Gap:
  """How far a solution is from the closed form; all is 0 at a minimiser.

  Weights and features are compared by inner products, which a rotation of both
  does not change. All but the value are largest differences of an entry.

  Attributes:
    value: of the objective, solution minus closed form.
    logits: of the logits, less the mean of each example.
    weights: of the inner products of the rows of W.
    features: of the inner products of the rows of H.
    bias: of the bias, less its mean.
  """

  value: float
  logits: float
  weights: float
  features: float
  bias: float


def solve(
  problem: Problem,
  method: str = 'lbfgs',
  *,
  seed: int = 0,
  scale: float | None = None,
  tolerance: float = 1e-8,
  max_steps: int | None = None,
  learning_rate: float = 1.0,
) -> Solution:
  """Minimises a `Problem` numerically, in float64 from a random start.

  The global setting of JAX's precision is not changed.

  Args:
    problem: what to minimise.
    method: `'lbfgs'`, SciPy's L-BFGS-B, or `'gd'`, plain gradient descent.
    seed: of the start, as in `gradient_descent`.
    scale: of the start, as in `gradient_descent`.
    tolerance: what no component of the gradient exceeds where it converged.
      Gradient descent stops there; L-BFGS goes on for as long as the objective
      falls.
    max_steps: stop after so many steps; by default 15,000 of L-BFGS, or 200,000
      of gradient descent.
    learning_rate: of gradient descent, greater than 0.

  Returns:
    Where it ended. At W = H = 0 MaxSup has a kink, and next to it a gradient
    that is not small: a solution there has seldom `converged` in this sense.

  Raises:
    UsageError: one line, for a number outside its range, or if the descent
      diverges.

  Examples:
    >>> from maxsup_jax.diagnostics import unconstrained
    >>> problem = unconstrained.Problem(
    ...   num_classes=4, per_class=3, dim=6, objective='maxsup', alpha=0.1,
    ...   lambda_w=5e-3, lambda_h=2e-3)
    >>> solution = unconstrained.solve(problem)
    >>> best = unconstrained.minimizer(problem)
    >>> print(round(solution.value, 6), round(best.value, 6))
    0.406286 0.406286
  """
  _checks.one_of(method, 'method', METHODS)
  tolerance = _checks.positive(tolerance, 'tolerance')
  learning_rate = _checks.positive(learning_rate, 'learning_rate')
  if max_steps is None:
    max_steps = 15_000 if method == 'lbfgs' else 200_000
  max_steps = _checks.at_least(max_steps, 'max_steps', 1)
  scale = _descent.default_scale(problem) if scale is None else scale
  parameters = _descent.start(problem, seed, scale)
  with double_precision():
    if method == 'lbfgs':
      steps = 0
      smooth = _TEMPERATURES if problem.objective == 'maxsup' else ()
      for temperature in (*smooth, None):
        if steps < max_steps:
          parameters, more = _lbfgs(
            problem, parameters, temperature, max_steps - steps
          )
          steps += more
    else:
      parameters, steps = _gradient_descent(
        parameters,
        _problem.strengths(problem),
        learning_rate,
        tolerance,
        max_steps,
        objective=problem.objective,
      )
    value, gradient = _value_and_gradient(
      problem.objective, _problem.strengths(problem), parameters
    )
    largest = float(_largest(gradient))
  if not np.isfinite([float(value), largest]).all():
    settings = f'scale is {scale}'
    if method == 'gd':
      settings += f' and learning_rate {learning_rate}'
    raise UsageError(f'{method} diverged; {settings}: try smaller numbers')
  weights, features, bias = map(np.asarray, parameters)
  return Solution(
    problem=problem,
    weights=weights,
    features=features,
    bias=bias,
    value=float(value),
    gradient=largest,
    steps=int(steps),
    converged=largest <= tolerance,
  )


def gap(solution: Solution, best: Minimizer | None = None) -> Gap:
  """How far a solution is from the closed form.

  Args:
    solution: what `solve` returned.
    best: the closed form; by default that of the solution's problem.

  Returns:
    Value, logits, inner products and bias, compared.

  Examples:
    >>> from maxsup_jax.diagnostics import unconstrained
    >>> problem = unconstrained.Problem(num_classes=3, per_class=2, dim=2)
    >>> found = unconstrained.gap(unconstrained.solve(problem))
    >>> print(abs(found.value) < 1e-12, found.logits < 1e-5)
    True True
  """
  best = best or minimizer(solution.problem)
  found = (solution.weights, solution.features, solution.bias)
  known = (best.weights, best.features, best.bias)

  def largest(function):
    return float(np.abs(function(*found) - function(*known)).max())

  return Gap(
    value=solution.value - best.value,
    logits=largest(lambda W, H, b: _centred(H @ W.T + b)),
    weights=largest(lambda W, H, b: W @ W.T),
    features=largest(lambda W, H, b: H @ H.T),
    bias=largest(lambda W, H, b: _centred(b)),
  )


def _centred(logits):
  return logits - logits.mean(-1, keepdims=True)


@functools.partial(jax.jit, static_argnums=0)
def _value_and_gradient(objective, strengths, parameters, temperature=None):
  return jax.value_and_grad(_problem.regularized, 2)(
    objective, strengths, parameters, temperature
  )


def _largest(gradient):
  return jnp.max(jnp.stack([jnp.abs(g).max() for g in gradient]))


def _lbfgs(problem, parameters, temperature, max_steps):
  shapes = [p.shape for p in parameters]
  ends = np.cumsum([p.size for p in parameters])[:-1]

  def split(vector):
    parts = np.split(vector, ends)
    return tuple(p.reshape(s) for p, s in zip(parts, shapes))

  def value_and_gradient(vector):
    value, gradient = _value_and_gradient(
      problem.objective, _problem.strengths(problem), split(vector), temperature
    )
    return float(value), np.concatenate([np.ravel(g) for g in gradient])

  result = optimize.minimize(
    value_and_gradient,
    np.concatenate([p.ravel() for p in parameters]),
    jac=True,
    method='L-BFGS-B',
    options={
      'gtol': 0,
      'ftol': 0,
      'maxcor': 30,
      'maxiter': max_steps,
      'maxfun': 2 * max_steps,
    },
  )
  return split(result.x), result.nit


@functools.partial(jax.jit, static_argnames='objective')
def _gradient_descent(
  parameters, strengths, learning_rate, tolerance, max_steps, *, objective
):
  def gradient(parameters):
    return _value_and_gradient(objective, strengths, parameters)[1]

  def unfinished(state):
    _, g, step = state
    # False for NaN, too.
    return (_largest(g) > tolerance) & (step < max_steps)

  def advance(state):
    p, g, step = state
    p = jax.tree.map(lambda x, y: x - learning_rate * y, p, g)
    return p, gradient(p), step + 1

  state = parameters, gradient(parameters), 0
  parameters, _, steps = jax.lax.while_loop(unfinished, advance, state)
  return parameters, steps
