"""The unconstrained feature model: what is minimised."""

import dataclasses
import math

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from maxsup_jax.diagnostics import _checks
from maxsup_jax.errors import UsageError

# Beyond them products of penalties, or their ratios, overflow or are 0.
_LARGEST = 1e100
_PENALTIES = (1e-100, _LARGEST)
OBJECTIVES = ('ce', 'ls', 'maxsup')


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

  Raises:
    UsageError: one line, for a number outside its range.

  Examples:
    >>> from maxsup_jax.diagnostics import unconstrained
    >>> problem = unconstrained.Problem(
    ...   num_classes=10, per_class=5000, dim=512, objective='ls', alpha=0.1,
    ...   lambda_w=1e-3, lambda_h=1e-6, lambda_b=1e-2)
    >>> print(problem.num_examples, round(problem.epsilon, 4))
    50000 0.0224

  References:
    Guo et al., `Cross Entropy versus Label Smoothing: A Neural Collapse
    Perspective <https://arxiv.org/abs/2402.03979>`_, TMLR 2025: the model with
    CE and LS.
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

  def __post_init__(self):
    K = _checks.at_least(self.num_classes, 'num_classes', 2)
    checked = {
      'num_classes': K,
      'per_class': _checks.at_least(self.per_class, 'per_class', 1),
      # A simplex needs K - 1 dimensions.
      'dim': _checks.at_least(self.dim, 'dim', K - 1),
      'alpha': _checks.between(self.alpha, 'alpha', 0, _LARGEST),
      'lambda_w': _checks.between(self.lambda_w, 'lambda_w', *_PENALTIES),
      'lambda_h': _checks.between(self.lambda_h, 'lambda_h', *_PENALTIES),
      'lambda_b': _checks.between(self.lambda_b, 'lambda_b', 0, _LARGEST),
    }
    for name, value in checked.items():
      object.__setattr__(self, name, value)  # 3.0 becomes 3
    _checks.one_of(self.objective, 'objective', OBJECTIVES)
    if self.objective == 'ce' and self.alpha:
      raise UsageError(
        f'alpha is {self.alpha}; the objective ce has none, expected 0'
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


def objective_value(
  problem: Problem, weights: ArrayLike, features: ArrayLike, bias: ArrayLike
) -> jax.Array:
  """The regularised objective of a `Problem`, as a function to differentiate.

  Args:
    problem: the problem.
    weights: W, a row per class, floating point `[K, D]`.
    features: H, a row per example, floating point `[N, D]`: the n examples of
      the first class, then those of the second, and so on.
    bias: b, floating point `[K]`.

  Returns:
    A scalar, in the dtype in which JAX computes: float64 needs
    `jax.enable_x64`. Where several logits of an example are the largest, the
    gradient of MaxSup is split evenly among them.

  Raises:
    UsageError: if a shape does not fit the problem.

  Examples:
    >>> import numpy as np
    >>> from maxsup_jax.diagnostics import unconstrained
    >>> problem = unconstrained.Problem(num_classes=4, per_class=3, dim=6)
    >>> weights, features = np.zeros((4, 6)), np.zeros((12, 6))
    >>> value = unconstrained.objective_value(
    ...   problem, weights, features, np.zeros(4))
    >>> print(round(float(value), 4))  # log(4)
    1.3863
  """
  K, D, N = problem.num_classes, problem.dim, problem.num_examples
  for name, value, shape in (
    ('weights', weights, (K, D)),
    ('features', features, (N, D)),
    ('bias', bias, (K,)),
  ):
    if jnp.shape(value) != shape:
      raise UsageError(
        f'{name} has the shape {jnp.shape(value)}; expected {shape}'
      )
  parameters = tuple(map(jnp.asarray, (weights, features, bias)))
  return regularized(problem.objective, strengths(problem), parameters)


def strengths(problem: Problem) -> tuple[float, float, float, float]:
  """The numbers of a problem, which may be traced: it compiles once."""
  return problem.alpha, problem.lambda_w, problem.lambda_h, problem.lambda_b


def regularized(
  objective: str, strengths, parameters, temperature=None
) -> jax.Array:
  """`objective_value` for traced strengths and checked parameters.

  With a temperature MaxSup has a smooth maximum of the logits: log-sum-exp.
  """
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


def logits_by_class(W, H, b) -> jax.Array:
  """Logits `[K, n, K]`: the class of the example, the example, the logit."""
  K, D = W.shape
  return H.reshape(K, -1, D) @ W.T + b
