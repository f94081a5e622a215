"""The unconstrained feature model: collapse without a network.

If the features of the training examples may be anything, the objective of a
classifier has minimisers in closed form: a simplex. How weights and features
get there, and how the objective curves around it, then depends on the loss
alone: cross-entropy, label smoothing or MaxSup.

>>> from maxsup_jax.diagnostics import unconstrained
>>> for objective in ('ls', 'maxsup'):
...   problem = unconstrained.Problem(
...     num_classes=4, per_class=3, dim=6, objective=objective, alpha=0.1,
...     lambda_w=5e-3, lambda_h=2e-3)
...   best = unconstrained.minimizer(problem)
...   print(f'{best.margin:.4f} {best.probability:.4f}')
3.3949 0.9086
3.3949 0.9086
"""

from typing import TYPE_CHECKING, Any

from maxsup_jax.diagnostics.unconstrained.theory import (
  OBJECTIVES,
  Problem,
  condition_numbers,
  hessian_spectrum,
  minimizer,
)

if TYPE_CHECKING:
  from maxsup_jax.diagnostics.unconstrained.descent import (
    Solution,
    Trajectory,
    gap,
    gradient_descent,
    log_spaced_steps,
    metric_at_threshold,
    solve,
    steps_to_threshold,
  )

__all__ = [
  'OBJECTIVES',
  'Problem',
  'Solution',
  'Trajectory',
  'condition_numbers',
  'gap',
  'gradient_descent',
  'hessian_spectrum',
  'log_spaced_steps',
  'metric_at_threshold',
  'minimizer',
  'solve',
  'steps_to_threshold',
]


def __getattr__(name: str) -> Any:
  # With it comes JAX, which what is only checked can do without.
  if name not in __all__:
    raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
  from maxsup_jax.diagnostics.unconstrained import descent

  return getattr(descent, name)
