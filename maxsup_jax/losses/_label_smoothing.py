"""Label smoothing, in the three conventions of the field."""

import functools
import math

import jax
import jax.numpy as jnp
from jax.scipy.special import xlogy
from jax.typing import ArrayLike

from maxsup_jax.losses import _checks
from maxsup_jax.losses._cross_entropy import target_cross_entropy
from maxsup_jax.losses._objective import Objective, stateless
from maxsup_jax.losses._rows import Rows
from maxsup_jax.losses._schedules import Schedule

CONVENTIONS = ('uniform', 'others', 'kl')


def alpha_range(convention: str) -> _checks.Range:
  """The strengths for which a convention of label smoothing is defined."""
  _checks.check_choice('convention', convention, CONVENTIONS)
  # The entropy of a target with negative entries is not defined.
  low = 0.0 if convention == 'kl' else -math.inf
  return _checks.Range(low=low, high=1.0)


def label_smoothing_cross_entropy(
  logits: ArrayLike,
  labels: ArrayLike,
  alpha: ArrayLike = 0.1,
  *,
  convention: str = 'uniform',
  class_weights: ArrayLike | None = None,
  axis: int = -1,
  where: ArrayLike | None = None,
) -> jax.Array:
  r"""Cross-entropy with smoothed labels, per example.

  The smoothed target `s` of a label `y` follows one of three conventions.

  ``'uniform'``: :math:`s_k = (1 - \alpha) y_k + \alpha / K`, the convention of
  optax, PyTorch and timm and of the papers below. The mass :math:`\alpha` goes
  to all classes, the true one included:

  .. math::
    H(s, q) = (1 - \alpha) H(y, q) + \alpha H(1/K, q)
            = H(y, q) + \alpha (z_y - \bar z),
    \qquad \bar z = \frac1K \sum_k z_k

  ``'others'``: :math:`s_k = (1 - \alpha) y_k + \alpha (1 - y_k) / (K - 1)`,
  the convention of tensor2tensor and big_vision. The mass :math:`\alpha` goes
  to the other classes only. It is the first convention with
  :math:`\alpha K / (K - 1)` in the place of :math:`\alpha`.

  ``'kl'``: :math:`\mathrm{KL}(s \| q) = H(s, q) - H(s)` with the target of
  ``'others'``, the convention of Flax's translation example. The entropy of the
  target is a constant: the gradient is that of ``'others'``, and the loss is 0
  where the softmax equals the target.

  Labels that are distributions are smoothed by the same formulas. They are not
  normalised: where the entries of `y` sum to :math:`S`, those of `s` sum to
  :math:`(1 - \alpha) S + \alpha` in the first convention.

  Negative label smoothing is the same with a negative :math:`\alpha`. The loss
  is then unbounded below: a wrong logit can run away.

  With weights `w` of the classes the loss is :math:`-\sum_k w_k s_k \log q_k`,
  as in PyTorch, and :math:`\sum_k w_k s_k \log (s_k / q_k)` for ``'kl'``. Note
  that its optimum then moves away from `s`.

  Class ids never become a one-hot array.

  Args:
    logits: unnormalised scores `z`, floating point, `[B, K]`; `B` may be any
      number of batch axes, also none.
    labels: class ids, integer, `[B]`, or distributions over the classes,
      floating point, `[B, K]`. Both forms agree on one-hot labels.
    alpha: strength of the smoothing, at most 1: a scalar or an array that
      broadcasts to `[B]`. It may be traced, and then its value is not checked.
      Negative values smooth negatively; ``'kl'`` excludes them.
    convention: ``'uniform'``, ``'others'`` or ``'kl'``.
    class_weights: weights of the classes, at least 0, `[K]`. `label_weights`
      has the denominator of PyTorch's mean.
    axis: the class axis of the logits.
    where: boolean, what takes part: examples, `[B]`, or logits, `[B, K]` (axes
      of size one broadcast). The loss of a masked example, and its gradient,
      is exactly 0 whatever its logits and label are. A masked class takes no
      part in the softmax and the mean and gets no mass: `K` is the number of
      classes that are left.

  Returns:
    The loss of every example, `[B]`, in float32, or in float64 for logits in
    float64. It is NaN, and so is its gradient, where the label names no class
    that takes part: a class id outside `[0, K)` or of a masked class, or a
    distribution that is not 0 on a masked class.

  Raises:
    TypeError: if an argument has the wrong dtype.
    ValueError: if the shape of an argument does not fit the logits, if the
      convention is unknown, or if a number is known and outside its range.

  Examples:
    >>> import jax.numpy as jnp
    >>> import numpy as np
    >>> from maxsup_jax import losses
    >>> logits = jnp.array([[2.0, 1.0, 0.1, -1.0], [0.5, 1.5, 1.0, -0.5]])
    >>> labels = jnp.array([0, 2])
    >>> for convention in ('uniform', 'others', 'kl'):
    ...   loss = losses.label_smoothing_cross_entropy(
    ...       logits, labels, 0.1, convention=convention)
    ...   print(np.asarray(loss).round(4), convention)
    [0.5968 1.2841] uniform
    [0.646  1.2966] others
    [0.211  0.8616] kl

  References:
    Szegedy et al., `Rethinking the Inception Architecture for Computer Vision
    <https://arxiv.org/abs/1512.00567>`_, CVPR 2016, section 7.

    Müller et al., `When Does Label Smoothing Help?
    <https://arxiv.org/abs/1906.02629>`_, NeurIPS 2019.

    Wei et al., `To Smooth or Not? When Label Smoothing Meets Noisy Labels
    <https://arxiv.org/abs/2106.04149>`_, ICML 2022 (negative strengths).

    Zhou et al., `MaxSup: Overcoming Representation Collapse in Label Smoothing
    <https://arxiv.org/abs/2502.15798>`_, NeurIPS 2025, eqs. 1-4.
  """
  allowed = alpha_range(convention)
  rows = Rows.of(logits, axis, where)
  target = rows.target(labels, class_weights)
  alpha = rows.number(alpha, allowed)
  count = rows.count()
  uniform_alpha = alpha
  if convention != 'uniform':
    # With a single class there are no others, and nothing to smooth.
    alpha = jnp.where(count > 1, alpha, 0)
    uniform_alpha = alpha * count / jnp.maximum(count - 1, 1)
  loss = (1 - uniform_alpha) * target_cross_entropy(rows, target)
  loss = loss + uniform_alpha * _uniform_cross_entropy(rows, class_weights)
  if convention == 'kl':
    loss = loss - _entropy(rows, labels, alpha, class_weights)
  return rows.finish(loss, target)


def _uniform_cross_entropy(
  rows: Rows, class_weights: ArrayLike | None
) -> jax.Array:
  """Cross-entropy with the weighted uniform distribution."""
  if class_weights is None:
    return rows.log_normalizer() - rows.mean()
  return rows.cross_entropy_with(_spread(rows, class_weights)) / rows.count()


def _entropy(
  rows: Rows,
  labels: ArrayLike,
  alpha: jax.Array,
  class_weights: ArrayLike | None,
) -> jax.Array:
  """Weighted entropy of the labels smoothed towards the other classes."""
  others = rows.count() - 1
  share = alpha / jnp.maximum(others, 1)
  label_BK = rows.target(labels).distribution
  if label_BK is None:
    own, rest = jnp.ones((), rows.z.dtype), others
    if class_weights is not None:
      own = rows.target(labels, class_weights).mass
      rest = rows.sum(_spread(rows, class_weights)) - own
    return -own * xlogy(1 - alpha, 1 - alpha) - rest * xlogy(share, share)
  alpha_B1, share_B1 = rows.expand(alpha), rows.expand(share)
  smoothed_BK = (1 - alpha_B1) * label_BK + share_B1 * (1 - label_BK)
  terms_BK = xlogy(smoothed_BK, smoothed_BK)
  if class_weights is not None:
    terms_BK = terms_BK * _spread(rows, class_weights)
  return -rows.sum(terms_BK)


def _spread(rows: Rows, class_weights: ArrayLike) -> jax.Array:
  """The weights of the classes for every example, `[B, K]`."""
  weights_K = jnp.asarray(class_weights, rows.z.dtype)
  return jnp.broadcast_to(rows.along_classes(weights_K), rows.z.shape)


def ls_objective(
  alpha: float | Schedule = 0.1,
  *,
  convention: str = 'uniform',
  adaptive_alpha: bool = False,
) -> Objective:
  """Label smoothing: `label_smoothing_cross_entropy`.

  Args:
    alpha: strength, at most 1, and at least 0 for ``'kl'``: a number or a
      function of the step.
    convention: ``'uniform'``, ``'others'`` or ``'kl'``.
    adaptive_alpha: makes alpha the strength for examples on which the model is
      sure, and others get less: `confidence_alpha(logits, 0, alpha)`.

  Returns:
    An objective without state.

  Raises:
    TypeError: if alpha is neither a number nor a function, or adaptive_alpha is
      not a bool.
    ValueError: if alpha is outside its range or the convention is unknown.

  Examples:
    >>> import jax.numpy as jnp
    >>> import numpy as np
    >>> from maxsup_jax import losses
    >>> logits, labels = jnp.array([[0.5, 1.5, 1.0, -0.5]]), jnp.array([2])
    >>> objective = losses.ls_objective(0.1)
    >>> loss, state = objective.apply(objective.init(), logits, labels)
    >>> print(np.asarray(loss).round(4), state)
    [1.2841] ()
  """
  loss = functools.partial(label_smoothing_cross_entropy, convention=convention)
  return stateless(
    loss, alpha, alpha_range(convention), adaptive_alpha=adaptive_alpha
  )
