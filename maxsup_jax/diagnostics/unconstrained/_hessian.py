"""All eigenvalues of the Hessian at the minimisers."""

import dataclasses
import math
from typing import NamedTuple

import numpy as np

from maxsup_jax.diagnostics.unconstrained._closed_form import minimizer
from maxsup_jax.diagnostics.unconstrained._problem import Problem
from maxsup_jax.errors import UsageError


class Eigenvalue(NamedTuple):
  """An eigenvalue of a Hessian.

  Attributes:
    value: the eigenvalue.
    multiplicity: the dimension of its space, at least 1.
    description: which directions these are.
  """

  value: float
  multiplicity: int
  description: str


@dataclasses.dataclass(frozen=True)
class HessianSpectrum:
  """Eigenvalues of the Hessian of a `Problem` at its minimiser.

  Attributes:
    weights: of the block of W, with H and b fixed: KD of them.
    features: of the block of H, with W and b fixed: ND of them.
    joint: of the whole, (W, H, b): KD + ND + K of them.
  """

  weights: tuple[Eigenvalue, ...]
  features: tuple[Eigenvalue, ...]
  joint: tuple[Eigenvalue, ...]


def hessian_spectrum(problem: Problem) -> HessianSpectrum:
  r"""The complete spectrum of the Hessian at the minimiser, in closed form.

  The Hessian of the softmax of an example has, beside 0, the eigenvalues
  :math:`q` (K - 2 of them) and :math:`Kpq` (1). A direction along which the
  data has the curvature c gets :math:`g = c \beta / \epsilon` from it, next to
  the penalties: an eigenvalue :math:`\lambda_W (1 + g)` or
  :math:`\lambda_H (1 + g)` in a block, and those of

  .. math::
    \begin{pmatrix} \lambda_W (1 + g) & s (g \mp 1) \\
    s (g \mp 1) & \lambda_H (1 + g) \end{pmatrix},
    \quad s = \sqrt{\lambda_W \lambda_H}

  where weights and features move together, symmetrically (-) or not (+). The
  bias moves along with weights and features in a block of 4x4, K - 1 times. The
  zeros of the joint Hessian are the rotations of the minimiser.

  MaxSup has the Hessian of LS with the same `alpha`: around the minimiser the
  largest logit is that of the class.

  Args:
    problem: a problem whose minimiser is not 0.

  Returns:
    The eigenvalues, those of equal description together.

  Raises:
    UsageError: if the minimiser is W = H = 0.

  Examples:
    >>> from maxsup_jax.diagnostics import unconstrained
    >>> problem = unconstrained.Problem(
    ...   num_classes=4, per_class=3, dim=6, lambda_w=5e-3, lambda_h=2e-3)
    >>> for e in unconstrained.hessian_spectrum(problem).weights:
    ...   print(f'{e.value:.6f} {e.multiplicity:2} {e.description}')
    0.030526  1 all classes apart
    0.024180  3 one class against the others
    0.011488  5 within the simplex, the rest
    0.005000  3 the same for all classes
    0.005000 12 outside the simplex

  References:
    Derived for this package; the paper's theorem may be stated differently.
  """
  if problem.trivial:
    raise UsageError(
      f'the minimiser is W = H = 0, as epsilon + alpha is '
      f'{problem.epsilon + problem.alpha:.6g}; the spectrum is for less than 1'
    )
  K, n, outside = (
    problem.num_classes,
    problem.per_class,
    problem.dim - problem.num_classes + 1,
  )
  lw, lh = problem.lambda_w, problem.lambda_h
  radial, one_class, generic = data_curvatures(problem)
  best = minimizer(problem)

  def g(curvature):
    return curvature * best.margin / problem.epsilon

  # Two classes are apart or not: they have no directions beyond that.
  many = K > 2
  weights = (
    Eigenvalue(lw * (1 + g(radial)), 1, 'all classes apart'),
    Eigenvalue(
      lw * (1 + g(one_class)), many * (K - 1), 'one class against the others'
    ),
    Eigenvalue(
      lw * (1 + g(generic)),
      many * ((K - 1) ** 2 - K),
      'within the simplex, the rest',
    ),
    Eigenvalue(lw, K - 1, 'the same for all classes'),
    Eigenvalue(lw, K * outside, 'outside the simplex'),
  )

  def of_features(count):
    return (
      Eigenvalue(
        lh * (1 + g(radial)), count * K, 'towards the template of the class'
      ),
      Eigenvalue(
        lh * (1 + g(generic)), count * K * (K - 2), 'between other templates'
      ),
      Eigenvalue(lh, count * K * outside, 'outside the simplex'),
    )

  joint = [
    Eigenvalue(e.value, e.multiplicity, f'within a class: {e.description}')
    for e in of_features(n - 1)
  ]
  joint += [
    Eigenvalue(0.0, outside * (K - 1), 'rotations out of the simplex'),
    Eigenvalue(lw + lh, outside * (K - 1), 'W and H out of the simplex'),
    Eigenvalue(lw, outside, 'W out of the simplex, the same for all classes'),
    Eigenvalue(lh, outside, 'H out of the simplex, the same for all classes'),
  ]
  for curvature, count, name in (
    (radial, 1, 'all classes apart'),
    (generic, many * K * (K - 3) // 2, 'symmetric'),
  ):
    # From trace and determinant; the smaller one without cancellation.
    half = (lw + lh) * (1 + g(curvature)) / 2
    determinant = 4 * g(curvature) * lw * lh
    large = half + math.sqrt(half**2 - determinant)
    joint += [
      Eigenvalue(determinant / large, count, f'{name}, W against H'),
      Eigenvalue(large, count, f'{name}, W with H'),
    ]
  turns = (K - 1) * (K - 2) // 2
  joint += [
    Eigenvalue(0.0, turns, 'rotations within the simplex'),
    Eigenvalue((lw + lh) * (1 + g(generic)), turns, 'antisymmetric'),
    Eigenvalue(lw, K - 1, 'all logits of a class, W'),
    Eigenvalue(problem.lambda_b, 1, 'all logits, b'),
  ]
  joint += [
    Eigenvalue(float(value), K - 1, 'one class, with the bias')
    for value in np.linalg.eigvalsh(_bias_block(problem, best.margin))
  ]
  return HessianSpectrum(
    *(
      tuple(e for e in block if e.multiplicity)
      for block in (weights, of_features(n), joint)
    )
  )


def data_curvatures(problem: Problem) -> tuple[float, float, float]:
  """Curvatures of the data term at the minimiser, by direction of the logits.

  Returns:
    All classes apart, Kpq; one class against the others; any other, q. They
    fall in this order.
  """
  K, best = problem.num_classes, minimizer(problem)
  p, q = best.probability, best.other_probability
  excess = q * (K * p - 1)
  return K * p * q, q + excess * (K - 2) / (K - 1), q


def _bias_block(problem: Problem, beta: float) -> np.ndarray:
  """The block of the joint Hessian that couples the bias with the rest.

  For a vector a whose sum is 0 it acts on four directions: P diag(a) P in W and
  in H (P takes the mean out), a on all examples through H, and a in b. The
  logits move in one direction with the first two and in another with the last
  two. The data term couples these, as it weighs the logit of the class more
  than the others.
  """
  K = problem.num_classes
  lw, lh, lb = problem.lambda_w, problem.lambda_h, problem.lambda_b
  s = math.sqrt(lw * lh)
  _, one_class, q = data_curvatures(problem)
  excess = q * (K * minimizer(problem).probability - 1)
  coupling = excess * math.sqrt(K - 2) / (K - 1)
  curvature = np.array(
    [[one_class, coupling], [coupling, q + excess / (K - 1)]]
  )
  # How far the logits move in the two directions.
  logits = np.array(
    [
      [math.sqrt(lw), math.sqrt(lh), 0, 0],
      [0, 0, math.sqrt(lh), math.sqrt(problem.epsilon / beta)],
    ]
  )
  block = beta / problem.epsilon * logits.T @ curvature @ logits
  block += np.diag([lw, lh, lh, lb])
  block[0, 1] -= s
  block[1, 0] -= s
  # Of two classes P diag(a) P is 0.
  return block if K > 2 else block[2:, 2:]
