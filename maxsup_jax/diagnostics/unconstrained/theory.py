"""The unconstrained feature model: its minimisers and their curvature."""

import dataclasses
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from maxsup_jax.errors import UsageError, integer, number, one_of

if TYPE_CHECKING:
  import jax

# Beyond them products of penalties, or their ratios, overflow or are 0.
_SMALLEST, _LARGEST = 1e-100, 1e100
# Of classes, examples and features: what is more is a slip.
_MOST = 2**24
OBJECTIVES = ('ce', 'ls', 'maxsup')
# W, H and b.
Parameters = tuple[Any, Any, Any]


@dataclasses.dataclass(frozen=True)
class Problem:
  r"""A classifier whose features are free, and the objective it trains with.

  .. math::
    \min_{W, H, b} \; \frac{1}{N} \sum_{k=1}^{K} \sum_{i=1}^{n}
    \ell(W h_{ki} + b, k) + \frac{\lambda_W}{2} \|W\|_F^2
    + \frac{\lambda_H}{2} \|H\|_F^2 + \frac{\lambda_b}{2} \|b\|^2

  with N = nK examples, balanced, and one of the losses

  .. math::
    \ell_\mathrm{CE} &= \log \sum_j e^{z_j} - z_y \\
    \ell_\mathrm{LS} &= \ell_\mathrm{CE}
      + \alpha (z_y - \textstyle\frac{1}{K} \sum_j z_j) \\
    \ell_\mathrm{MaxSup} &= \ell_\mathrm{CE}
      + \alpha (\max_j z_j - \textstyle\frac{1}{K} \sum_j z_j)

  MaxSup is not in the paper; it is an extension here.

  Attributes:
    num_classes: K, at least 2.
    per_class: n, examples of each class, at least 1.
    dim: D, features of an example, at least K - 1: a simplex of K points needs
      as many dimensions.
    objective: `'ce'`, `'ls'` or `'maxsup'`.
    alpha: the strength of LS, from 0 to 1, or of MaxSup, from 0 to 1e100; 0
      for CE. LS mixes the one-hot label with `alpha / K` on every class.
    lambda_w: of the weights, from 1e-100 to 1e100.
    lambda_h: of the features, from 1e-100 to 1e100.
    lambda_b: of the bias, from 0 to 1e100.

  References: Guo et al., 2025: the model with CE and LS.
  """

  num_classes: int
  per_class: int
  dim: int
  _: dataclasses.KW_ONLY
  objective: str = 'ce'
  alpha: float = 0.0
  lambda_w: float = 1e-3
  lambda_h: float = 1e-3
  lambda_b: float = 1e-3

  def __post_init__(self) -> None:
    K = integer('num_classes', self.num_classes, 2, _MOST)
    integer('per_class', self.per_class, 1, _MOST)
    # A simplex needs K - 1 dimensions.
    integer('dim', self.dim, K - 1, _MOST)
    lows = {'lambda_w': _SMALLEST, 'lambda_h': _SMALLEST}
    for name in ('alpha', *lows, 'lambda_b'):
      value = number(name, getattr(self, name), lows.get(name, 0.0), _LARGEST)
      # A whole number would be compiled anew, as another type.
      object.__setattr__(self, name, float(value))
    one_of('objective', self.objective, OBJECTIVES)
    if self.objective == 'ce' and self.alpha:
      raise UsageError(
        f'alpha is {self.alpha}; expected 0, as the objective ce has none'
      )
    if self.objective == 'ls' and self.alpha > 1:
      raise UsageError(
        f'alpha is {self.alpha}; expected from 0 to 1, as the labels of ls '
        'are distributions'
      )

  @property
  def num_examples(self) -> int:
    """N = nK."""
    return self.num_classes * self.per_class

  @property
  def epsilon(self) -> float:
    r""":math:`\epsilon = K \sqrt{n \lambda_W \lambda_H}`.

    What the penalties on weights and features do to the softmax of the
    minimiser: as much as a smoothing of this strength would do.
    """
    return self.num_classes * math.sqrt(
      self.per_class * self.lambda_w * self.lambda_h
    )

  @property
  def trivial(self) -> bool:
    r"""Whether the minimiser is W = H = 0: :math:`\epsilon + \alpha \geq 1`."""
    return self.epsilon + self.alpha >= 1


def strengths(problem: Problem) -> tuple[float, float, float, float]:
  """The numbers of a problem, which may be traced: it compiles once."""
  return problem.alpha, problem.lambda_w, problem.lambda_h, problem.lambda_b


def regularized(
  objective: str,
  strengths: Sequence[float],
  parameters: Parameters,
  temperature: float | None = None,
) -> 'jax.Array':
  """The objective of a `Problem`, of its `strengths` and of W, H and b.

  H has a row per example: the n of the first class, then those of the second.

  With a temperature MaxSup has a smooth maximum: log-sum-exp.
  """
  import jax
  import jax.numpy as jnp

  alpha, lambda_w, lambda_h, lambda_b = strengths
  W, H, b = parameters
  Z = logits_by_class(W, H, b)
  target = (Z * jnp.eye(len(W), dtype=Z.dtype)[:, None]).sum(-1)
  loss = jax.nn.logsumexp(Z, axis=-1) - target
  if objective == 'ls':
    loss += alpha * (target - Z.mean(-1))
  elif objective == 'maxsup':
    if temperature is None:
      top = Z.max(-1)
    else:
      top = temperature * jax.nn.logsumexp(Z / temperature, axis=-1)
    loss += alpha * (top - Z.mean(-1))
  penalty = (
    lambda_w * jnp.square(W).sum()
    + lambda_h * jnp.square(H).sum()
    + lambda_b * jnp.square(b).sum()
  )
  return loss.mean() + penalty / 2


def logits_by_class(
  W: 'jax.Array', H: 'jax.Array', b: 'jax.Array'
) -> 'jax.Array':
  """Logits `[K, n, K]`: the class of the example, the example, the logit."""
  K, D = W.shape
  return H.reshape(K, -1, D) @ W.T + b


@dataclasses.dataclass(frozen=True, eq=False)
class Minimizer:
  """A global minimiser of a `Problem`; all others are rotations of it."""

  problem: Problem  # what is minimised
  trivial: bool  # whether all is 0
  # Beta, by how much the logit of the class exceeds every other one.
  margin: float
  probability: float  # p, softmax of the class
  other_probability: float  # q, softmax of every other class
  weight_norm: float  # norm of every row of the weights
  feature_norm: float  # norm of the features of every example
  value: float  # of the objective
  weights: np.ndarray  # W, float64 `[K, D]`
  # The features of all examples of a class, float64 `[K, D]`.
  class_features: np.ndarray
  bias: np.ndarray  # b, float64 `[K]`: 0, or for `lambda_b=0` any constant

  @property
  def features(self) -> np.ndarray:
    """H, float64 `[N, D]`, the examples of a class one after the other."""
    return np.repeat(self.class_features, self.problem.per_class, axis=0)


def minimizer(problem: Problem) -> Minimizer:
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
  largest logit is that of the class, as it is at the minimisers of LS.

  References: Guo et al., 2025: the minimisers for CE and LS. The formulas were
    derived anew and agree with the constants in the code of the paper.
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
  # In the first K - 1 axes: orthonormal columns whose sums are 0.
  from scipy import linalg

  simplex = linalg.helmert(K).T @ np.eye(K - 1, D)
  norm = math.sqrt((K - 1) / K * beta)
  norms = norm * math.sqrt(ratio), norm / math.sqrt(ratio)
  W, H = (math.sqrt(x) * simplex for x in (beta * ratio, beta / ratio))
  softmax, bias = (beta, p, q), np.zeros(K)
  return Minimizer(
    problem, problem.trivial, *softmax, *norms, value, W, H, bias
  )


class Eigenvalue(NamedTuple):
  """An eigenvalue of a Hessian, and the dimension of its space."""

  value: float
  multiplicity: int


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
  largest logit is that of the class. A minimiser of 0 is refused. Derived for
  this package; the paper's theorem may be stated differently.
  """
  if problem.trivial:
    raise UsageError(
      f'epsilon + alpha is {problem.epsilon + problem.alpha:.6g}, so the '
      'minimiser is W = H = 0; expected below 1'
    )
  K, n = problem.num_classes, problem.per_class
  outside = problem.dim - K + 1
  lw, lh = problem.lambda_w, problem.lambda_h
  radial, one_class, generic = data_curvatures(problem)
  best = minimizer(problem)

  def g(curvature: float) -> float:
    return curvature * best.margin / problem.epsilon

  # Two classes are apart or not: they have no directions beyond that.
  many = K > 2
  weights = [
    (lw * (1 + g(radial)), 1),  # all classes apart
    (lw * (1 + g(one_class)), many * (K - 1)),  # one against the others
    (lw * (1 + g(generic)), many * ((K - 1) ** 2 - K)),  # within the simplex
    (lw, K - 1),  # the same for all classes
    (lw, K * outside),  # outside the simplex
  ]

  def of_features(count: int) -> list[tuple[float, int]]:
    return [
      (lh * (1 + g(radial)), count * K),  # towards the class's own template
      (lh * (1 + g(generic)), count * K * (K - 2)),  # between the others
      (lh, count * K * outside),  # outside the simplex
    ]

  joint = of_features(n - 1)  # within a class
  joint += [
    (0.0, outside * (K - 1)),  # rotations out of the simplex
    (lw + lh, outside * (K - 1)),  # W and H out of the simplex
    (lw, outside),  # W out of the simplex, the same for all classes
    (lh, outside),  # H, likewise
  ]
  # All classes apart, and the symmetric directions: W against H, W with H.
  for curvature, count in ((radial, 1), (generic, many * K * (K - 3) // 2)):
    # From trace and determinant; the smaller one without cancellation.
    half = (lw + lh) * (1 + g(curvature)) / 2
    determinant = 4 * g(curvature) * lw * lh
    large = half + math.sqrt(half**2 - determinant)
    joint += [(determinant / large, count), (large, count)]
  turns = (K - 1) * (K - 2) // 2
  joint += [
    (0.0, turns),  # rotations within the simplex
    ((lw + lh) * (1 + g(generic)), turns),  # antisymmetric
    (lw, K - 1),  # all logits of a class, W
    (problem.lambda_b, 1),  # all logits, b
  ]
  # One class, with the bias.
  block = _bias_block(problem, best.margin)
  joint += [(float(value), K - 1) for value in np.linalg.eigvalsh(block)]
  return HessianSpectrum(
    *(
      tuple(Eigenvalue(*e) for e in part if e[1])
      for part in (weights, of_features(n), joint)
    )
  )


def data_curvatures(problem: Problem) -> tuple[float, float, float]:
  """Curvatures of the data term at the minimiser, by direction of the logits.

  In falling order: all classes apart, Kpq; one class against the others; any
  other, q.
  """
  K, best = problem.num_classes, minimizer(problem)
  p, q = best.probability, best.other_probability
  excess = q * (K * p - 1)
  return K * p * q, q + excess * (K - 2) / (K - 1), q


def _bias_block(problem: Problem, beta: float) -> np.ndarray:
  """The block of the joint Hessian that couples the bias with the rest.

  For a vector a whose sum is 0 it acts on four directions: P diag(a) P in W and
  in H (P takes the mean out), a on all examples through H, and a in b. The
  logits move in one direction with the first two, in another with the last two.
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
  root_w, root_h = math.sqrt(lw), math.sqrt(lh)
  from_bias = math.sqrt(problem.epsilon / beta)
  logits = np.array([[root_w, root_h, 0, 0], [0, 0, root_h, from_bias]])
  block = beta / problem.epsilon * logits.T @ curvature @ logits
  block += np.diag([lw, lh, lh, lb])
  block[0, 1] -= s
  block[1, 0] -= s
  # Of two classes P diag(a) P is 0.
  return block if K > 2 else block[2:, 2:]


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
      paper's claim of a lower condition number.
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
  """The condition number at a minimiser that is not 0, in four senses.

  References: Guo et al., 2025, claims that LS has the lower one; see
    `hessian_spectrum`.
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
