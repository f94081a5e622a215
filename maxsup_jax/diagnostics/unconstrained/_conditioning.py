"""Condition numbers at the minimisers, in the four senses one may mean."""

import dataclasses

from maxsup_jax.diagnostics.unconstrained._closed_form import minimizer
from maxsup_jax.diagnostics.unconstrained._hessian import (
  data_curvatures,
  hessian_spectrum,
)
from maxsup_jax.diagnostics.unconstrained._problem import Problem


@dataclasses.dataclass(frozen=True)
class ConditionNumbers:
  """Largest over smallest eigenvalue of four Hessians at the minimiser.

  Only the first is lower with label smoothing for every problem. The others
  usually go the other way: with smoothing the data term curves more, while the
  penalties, and so the smallest eigenvalues, stay as they are.

  Attributes:
    data: (a) of the data term alone, without penalties, over its non-zero
      eigenvalues: the same number with respect to the logits, to W and to H.
      K - (K - 1)(epsilon + alpha) for more than two classes, and 1 for two,
      where there is one such eigenvalue. It is how this package reads the
      paper's claim of a lower condition number; the paper's theorem may be
      stated differently.
    block: (b) of the objective with respect to W alone, over all directions.
      That with respect to H alone is the same if D > K - 1.
    curved: (c) of the same block, over the directions in which the data term
      curves.
    joint: (d) of the objective with respect to (W, H, b), over its positive
      eigenvalues.
  """

  data: float
  block: float
  curved: float
  joint: float


def condition_numbers(problem: Problem) -> ConditionNumbers:
  r"""The condition number at the minimiser, in four senses.

  Args:
    problem: a problem whose minimiser is not 0.

  Returns:
    The four numbers.

  Raises:
    UsageError: if the minimiser is W = H = 0.

  Examples:
    >>> from maxsup_jax.diagnostics import unconstrained
    >>> for objective, alpha in (('ce', 0.0), ('ls', 0.05), ('ls', 0.1)):
    ...   kappa = unconstrained.condition_numbers(unconstrained.Problem(
    ...     num_classes=10, per_class=5000, dim=512, objective=objective,
    ...     alpha=alpha, lambda_w=1e-5, lambda_h=1e-5, lambda_b=1e-5))
    ...   print(f'{kappa.data:.2f} {kappa.block:.1f} {kappa.curved:.1f}')
    9.94 8.2 4.8
    9.49 40.2 7.8
    9.04 61.7 8.0

  References:
    Guo et al., `Cross Entropy versus Label Smoothing: A Neural Collapse
    Perspective <https://arxiv.org/abs/2402.03979>`_, TMLR 2025, claims that LS
    has the lower one. The formulas were derived for this package; the paper's
    theorem may be stated differently.
  """
  spectrum = hessian_spectrum(problem)
  radial, _, generic = data_curvatures(problem)
  # Two classes have one curvature only.
  smallest = generic if problem.num_classes > 2 else radial
  scale = minimizer(problem).margin / problem.epsilon
  weights = [e.value for e in spectrum.weights]
  # What is 0 in closed form is 0 exactly.
  positive = [e.value for e in spectrum.joint if e.value > 0]
  return ConditionNumbers(
    data=radial / smallest,
    block=max(weights) / min(weights),
    curved=(1 + scale * radial) / (1 + scale * smallest),
    joint=max(positive) / min(positive),
  )
