"""Collapse without a network: the unconstrained feature model, over seeds."""

import csv
import dataclasses
import io
import math
from collections.abc import Callable, Sequence
from typing import Any

from maxsup_jax import errors
from maxsup_jax.diagnostics import unconstrained
from maxsup_jax.errors import UsageError

# What steps are counted to.
THRESHOLDS = (
  *(('nc1', 1e-2), ('nc1', 1e-4), ('nc2', 1e-1), ('nc2', 1e-2)),
  ('nc3', 1e-2),
)
# And where NC2 is read.
NC1_LEVELS = (1e-1, 1e-2, 1e-3)
_CLOSED_FORM = (
  *('trivial', 'margin', 'probability', 'other_probability'),
  *('weight_norm', 'feature_norm', 'value'),
)


@dataclasses.dataclass(frozen=True)
class Descent:
  """Gradient descent: `steps` at rate `lr` from the random starts of `seeds`.

  `init_scale` is the standard deviation of the starts; by default D^(-1/2).
  """

  steps: int
  lr: float
  seeds: Sequence[int]
  init_scale: float | None = None

  def __post_init__(self) -> None:
    errors.integer('steps', self.steps, low=1, high=10_000_000)
    errors.number('lr', self.lr, above=0)
    for seed in self.seeds:
      errors.integer('seeds', seed, low=0)
    errors.distinct('seeds', self.seeds)
    if self.init_scale is not None:
      errors.number('init_scale', self.init_scale, above=0)


@dataclasses.dataclass(frozen=True)
class Study:
  """What was found.

  Attributes:
    problems: one for each objective and alpha.
    solutions: what L-BFGS finds for each.
    paths: what gradient descent does, by problem and seed.
    seeds: of the random starts.
    steps: of gradient descent.
  """

  problems: Sequence[unconstrained.Problem]
  solutions: Sequence['unconstrained.Solution']
  paths: dict[tuple[unconstrained.Problem, int], 'unconstrained.Trajectory']
  seeds: Sequence[int]
  steps: int

  def records(self) -> list[dict[str, Any]]:
    """All numbers of each problem, as JSON values."""
    return [
      _record(s, [self.paths[s.problem, seed] for seed in self.seeds])
      for s in self.solutions
    ]


def make_problems(
  objectives: Sequence[str], alphas: Sequence[float], **problem: Any
) -> list[unconstrained.Problem]:
  """What is solved: CE once, and the others with every alpha but 0.

  `problem` has the other arguments of `unconstrained.Problem`. Refused is what
  leaves nothing to do, or only minimisers of 0.
  """
  chosen = []
  errors.distinct('objectives', objectives)
  errors.distinct('alphas', alphas)
  for objective in dict.fromkeys(objectives):
    errors.one_of('objectives', objective, unconstrained.OBJECTIVES)
    own = [0.0] if objective == 'ce' else [a for a in alphas if a]
    chosen += [
      unconstrained.Problem(objective=objective, alpha=alpha, **problem)
      for alpha in own
    ]
  if not chosen:
    raise UsageError(
      'alphas: these objectives leave nothing to do, as an alpha of 0 is ce'
    )
  if chosen[0].epsilon >= 1:
    raise UsageError(
      f'epsilon = K sqrt(n lambda_w lambda_h) is {chosen[0].epsilon:.6g}; '
      'expected below 1, as the minimiser is 0 otherwise; try a smaller '
      'lambda_w or lambda_h'
    )
  return chosen


def run(
  problems: Sequence[unconstrained.Problem],
  descent: Descent,
  done: Callable[[], Any] = lambda: None,
) -> Study:
  """Solves the problems, and follows gradient descent from random starts.

  Args:
    problems: from `make_problems`.
    descent: how; the first seed is the solver's, too.
    done: is called after each of the `len(problems) * (1 + len(seeds))` parts.
  """
  seeds, scale = descent.seeds, descent.init_scale
  solutions, paths = [], {}
  for problem in problems:
    solutions.append(unconstrained.solve(problem, seed=seeds[0], scale=scale))
    done()
    for seed in seeds:
      paths[problem, seed] = unconstrained.gradient_descent(
        problem,
        steps=descent.steps,
        learning_rate=descent.lr,
        seed=seed,
        scale=scale,
      )
      done()
  return Study(problems, solutions, paths, seeds, descent.steps)


def lost(study: Study) -> list[str]:
  """The paths that ended above their start and above guessing, which has log K.

  Where the steps of gradient descent are too large, nothing that is measured of
  it means anything.
  """
  found = []
  for (problem, seed), path in study.paths.items():
    first, value = float(path.value[0]), float(path.value[-1])
    if not value <= max(first, math.log(problem.num_classes)):
      alpha = f' {problem.alpha:g}' if problem.alpha else ''
      found.append(f'{problem.objective}{alpha}, seed {seed}: {value:.3g}')
  return found


def _record(
  solution: 'unconstrained.Solution',
  paths: Sequence['unconstrained.Trajectory'],
) -> dict[str, Any]:
  problem = solution.problem
  best = unconstrained.minimizer(problem)
  conditions = None
  if not problem.trivial:
    conditions = dataclasses.asdict(unconstrained.condition_numbers(problem))
  return {
    'objective': problem.objective,
    'alpha': problem.alpha,
    'closed_form': {name: getattr(best, name) for name in _CLOSED_FORM},
    'condition_numbers': conditions,
    'solver': {
      'steps': solution.steps,
      'gradient': solution.gradient,
      'converged': solution.converged,
      'gap': dataclasses.asdict(unconstrained.gap(solution, best)),
    },
    # A value for each seed; null where it is not reached.
    'steps': {
      f'{metric}<{threshold:g}': [
        _known(unconstrained.steps_to_threshold(p, metric, threshold))
        for p in paths
      ]
      for metric, threshold in THRESHOLDS
    },
    'nc2_at_nc1': {
      f'{level:g}': [
        _known(unconstrained.metric_at_threshold(p, 'nc2', 'nc1', level))
        for p in paths
      ]
      for level in NC1_LEVELS
    },
    # After it, LS and MaxSup of one start take equal steps.
    'last_step_with_errors': [
      int(p.steps[p.error > 0].max(initial=-1)) for p in paths
    ],
  }


def _known(value: float) -> float | None:
  return None if math.isnan(value) else value


def to_csv(study: Study) -> str:
  """A line for each objective, alpha, seed and recorded step."""
  losses, metrics = ('value', 'error'), ('nc1', 'nc2', 'nc3')
  columns = (*losses, *metrics, 'weight_norm', 'feature_norm')
  kept = unconstrained.log_spaced_steps(study.steps)
  text = io.StringIO()
  writer = csv.writer(text, lineterminator='\n')
  writer.writerow(['objective', 'alpha', 'seed', 'step', *columns])
  for (problem, seed), trajectory in study.paths.items():
    for step in kept:
      values = [f'{getattr(trajectory, c)[step]:.8g}' for c in columns]
      writer.writerow([problem.objective, problem.alpha, seed, step, *values])
  return text.getvalue()
