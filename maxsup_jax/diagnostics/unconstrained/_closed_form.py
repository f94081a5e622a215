"""The global minimisers of the unconstrained feature model."""

import dataclasses
import math

import numpy as np
from scipy import linalg

from maxsup_jax.diagnostics import _checks
from maxsup_jax.diagnostics.unconstrained._problem import Problem


@dataclasses.dataclass(frozen=True, eq=False)
class Minimizer:
  """A global minimiser of a `Problem`; all others are rotations of it.

  Attributes:
    problem: what is minimised.
    trivial: whether all is 0, as the regularisation is too strong.
    margin: beta, by how much the logit of the class exceeds every other one.
    probability: p, softmax of the class.
    other_probability: q, softmax of every other class.
    weight_norm: norm of every row of the weights.
    feature_norm: norm of the features of every example.
    value: of the objective.
    weights: W, float64 `[K, D]`.
    class_features: what all examples of a class have as features, float64
      `[K, D]`.
    bias: b, 0, float64 `[K]`. Without a penalty on it, `lambda_b=0`, any
      constant may be added.
  """

  problem: Problem
  trivial: bool
  margin: float
  probability: float
  other_probability: float
  weight_norm: float
  feature_norm: float
  value: float
  weights: np.ndarray
  class_features: np.ndarray
  bias: np.ndarray

  @property
  def features(self) -> np.ndarray:
    """H, float64 `[N, D]`, the examples of a class one after the other."""
    return np.repeat(self.class_features, self.problem.per_class, axis=0)


def minimizer(problem: Problem, *, seed: int | None = None) -> Minimizer:
  r"""A global minimiser of a `Problem`, in closed form.

  With :math:`\epsilon = K \sqrt{n \lambda_W \lambda_H}` it is 0 if
  :math:`\epsilon + \alpha \geq 1`. Otherwise it is a simplex: the logits are
  :math:`\beta (I - 11^\top / K)` with

  .. math::
    \beta &= \log\left(\frac{K}{\epsilon + \alpha} - K + 1\right) \\
    W W^\top &= \sqrt{n \lambda_H / \lambda_W} \; \beta (I - 11^\top / K) \\
    \bar{H} &= \sqrt{\lambda_W / (n \lambda_H)} \; W

  and all examples of a class have the same features. So are NC1, NC2 and NC3
  all 0.

  For MaxSup, which the paper does not have, the minimisers are those of LS with
  the same `alpha`: MaxSup is nowhere below LS, and equal to it where the
  largest logit is that of the class, as it is at the minimisers of LS. They are
  0 for every `alpha` from :math:`1 - \epsilon` on.

  Args:
    problem: the problem.
    seed: of the random rotation in the feature space; None for the first K - 1
      axes.

  Returns:
    The minimiser.

  Raises:
    UsageError: one line, for a seed that is not a whole number from 0 on.

  Examples:
    The norms that the authors' code compares trained networks with:

    >>> from maxsup_jax.diagnostics import unconstrained
    >>> for alpha in (0.0, 0.05, 0.1):
    ...   problem = unconstrained.Problem(
    ...     num_classes=10, per_class=5000, dim=512, objective='ls',
    ...     alpha=alpha, lambda_w=1e-3, lambda_h=1e-6, lambda_b=1e-2)
    ...   best = unconstrained.minimizer(problem)
    ...   print(round(best.weight_norm, 4), round(best.feature_norm, 4))
    3.4987 1.5647
    3.1278 1.3988
    2.9371 1.3135

  References:
    Guo et al., `Cross Entropy versus Label Smoothing: A Neural Collapse
    Perspective <https://arxiv.org/abs/2402.03979>`_, TMLR 2025: the minimisers
    for CE and LS. The formulas here were derived anew and agree with the
    constants in the code published with the paper.
  """
  K, D = problem.num_classes, problem.dim
  beta, p, q, value = 0.0, 1 / K, 1 / K, math.log(K)
  if not problem.trivial:
    total = problem.epsilon + problem.alpha
    q = total / K
    # 1 - total is exact for total near 1, where beta is near 0.
    beta = math.log1p(K * (1 - total) / total)
    p = 1 - (K - 1) * q
    value = math.log1p((K - 1) * math.exp(-beta)) + total * beta * (K - 1) / K
  ratio = math.sqrt(problem.per_class * problem.lambda_h / problem.lambda_w)
  simplex = simplex_basis(K) @ _basis(K - 1, D, seed)
  norm = math.sqrt((K - 1) / K * beta)
  return Minimizer(
    problem=problem,
    trivial=problem.trivial,
    margin=beta,
    probability=p,
    other_probability=q,
    weight_norm=norm * math.sqrt(ratio),
    feature_norm=norm / math.sqrt(ratio),
    value=value,
    weights=math.sqrt(beta * ratio) * simplex,
    class_features=math.sqrt(beta / ratio) * simplex,
    bias=np.zeros(K),
  )


def simplex_basis(num_classes: int) -> np.ndarray:
  """Orthonormal columns `[K, K - 1]` whose sums are 0."""
  return linalg.helmert(num_classes).T


def _basis(count: int, dim: int, seed: int | None) -> np.ndarray:
  """Orthonormal rows `[count, dim]`."""
  if seed is None:
    return np.eye(count, dim)
  random = np.random.default_rng(_checks.seed(seed))
  normal = random.standard_normal((dim, count))
  return np.linalg.qr(normal).Q.T
