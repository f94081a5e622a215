"""The two parts of the term that label smoothing adds to cross-entropy."""

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from maxsup_jax.losses import _checks
from maxsup_jax.losses._cross_entropy import cross_entropy
from maxsup_jax.losses._objective import Objective, stateless
from maxsup_jax.losses._rows import Rows, Target
from maxsup_jax.losses._schedules import Schedule

# The terms are parts of label smoothing, and take its strengths.
ALPHA_RANGE = _checks.Range(high=1.0)
REGULARIZATION_NORMALIZATIONS = ('classes', 'below')
ERROR_AMPLIFICATION_NORMALIZATIONS = ('classes', 'above', 'max')


def smoothing_regularization(
  logits: ArrayLike,
  labels: ArrayLike,
  alpha: ArrayLike = 0.1,
  *,
  normalization: str = 'classes',
  axis: int = -1,
  where: ArrayLike | None = None,
) -> jax.Array:
  r"""The part of label smoothing that curbs confidence, per example.

  Label smoothing adds :math:`\alpha (z_y - \bar z)` to the cross-entropy. This
  is the sum of what the logits below that of the label contribute,

  .. math::
    \frac{\alpha}{K} \sum_{z_m < z_y} (z_y - z_m) \ge 0,

  and of `error_amplification`, what those above contribute. Logits equal to
  that of the label are in neither part, also in the gradient.

  Args:
    logits: unnormalised scores `z`, floating point, `[B, K]`; `B` may be any
      number of batch axes, also none.
    labels: class ids, integer, `[B]`. The term is not defined for mixed labels.
    alpha: strength of the smoothing, at most 1: a scalar or an array that
      broadcasts to `[B]`. It may be traced, and then its value is not checked.
    normalization: ``'classes'`` divides by the number `K` of classes, as above:
      then the two parts sum to what label smoothing adds. ``'below'`` divides
      by the number `M` of logits below that of the label, as the paper's
      ablation does; where there are none, the term is 0.
    axis: the class axis of the logits.
    where: boolean, what takes part: examples, `[B]`, or logits, `[B, K]` (axes
      of size one broadcast). The term of a masked example, and its gradient,
      is exactly 0 whatever its logits and label are. A masked class is neither
      below nor counted.

  Returns:
    The term of every example, `[B]`, in float32, or in float64 for logits in
    float64. It is NaN where the label is outside `[0, K)` or a masked class.

  Raises:
    TypeError: if an argument has the wrong dtype.
    ValueError: if the shape of an argument does not fit the logits, if labels
      are distributions, if the normalization is unknown, or if alpha is known
      and above 1.

  Examples:
    >>> import jax.numpy as jnp
    >>> import numpy as np
    >>> from maxsup_jax import losses
    >>> logits = jnp.array([[2.0, 1.0, 0.1, -1.0], [0.5, 1.5, 1.0, -0.5]])
    >>> labels = jnp.array([0, 2])
    >>> for normalization in ('classes', 'below'):
    ...   term = losses.smoothing_regularization(
    ...       logits, labels, 0.1, normalization=normalization)
    ...   print(np.asarray(term).round(4), normalization)
    [0.1475 0.05  ] classes
    [0.1967 0.1   ] below

  References:
    Zhou et al., `MaxSup: Overcoming Representation Collapse in Label Smoothing
    <https://arxiv.org/abs/2502.15798>`_, NeurIPS 2025, corollary 3.4 (eq. 5)
    and, for ``'below'``, table 1.
  """
  _checks.check_choice(
    'normalization', normalization, REGULARIZATION_NORMALIZATIONS
  )
  rows, target, alpha = _read(logits, labels, alpha, axis, where)
  gaps_BK = rows.expand(target.logit) - rows.z
  below_BK = gaps_BK > 0
  total = rows.sum(jnp.where(below_BK, gaps_BK, 0))
  if normalization == 'classes':
    count = rows.count()
  else:
    count = _at_least_one(rows.sum(below_BK))
  return rows.finish(alpha * total / count, target)


def error_amplification(
  logits: ArrayLike,
  labels: ArrayLike,
  alpha: ArrayLike = 0.1,
  *,
  normalization: str = 'classes',
  axis: int = -1,
  where: ArrayLike | None = None,
) -> jax.Array:
  r"""The part of label smoothing that confirms errors, per example.

  Label smoothing adds :math:`\alpha (z_y - \bar z)` to the cross-entropy. This
  is the sum of `smoothing_regularization` and of what the logits above that of
  the label contribute,

  .. math::
    \frac{\alpha}{K} \sum_{z_n > z_y} (z_y - z_n) \le 0.

  The term is 0 where the label is a top class. Elsewhere minimising it pushes
  the wrong logits further above that of the label. Logits equal to that of the
  label are in neither part, also in the gradient.

  Args:
    logits: unnormalised scores `z`, floating point, `[B, K]`; `B` may be any
      number of batch axes, also none.
    labels: class ids, integer, `[B]`. The term is not defined for mixed labels.
    alpha: strength of the smoothing, at most 1: a scalar or an array that
      broadcasts to `[B]`. It may be traced, and then its value is not checked.
    normalization: ``'classes'`` divides by the number `K` of classes, as above:
      then the two parts sum to what label smoothing adds. The other two are
      those of the paper's ablation: ``'above'`` divides by the number `N` of
      logits above that of the label, ``'max'`` replaces the mean over them by
      the top one, :math:`\alpha (z_y - \max_k z_k)`, whose gradient is shared
      evenly among ties. Where there are none above, the term is 0.
    axis: the class axis of the logits.
    where: boolean, what takes part: examples, `[B]`, or logits, `[B, K]` (axes
      of size one broadcast). The term of a masked example, and its gradient,
      is exactly 0 whatever its logits and label are. A masked class is neither
      above nor counted.

  Returns:
    The term of every example, `[B]`, in float32, or in float64 for logits in
    float64. It is NaN where the label is outside `[0, K)` or a masked class.

  Raises:
    TypeError: if an argument has the wrong dtype.
    ValueError: if the shape of an argument does not fit the logits, if labels
      are distributions, if the normalization is unknown, or if alpha is known
      and above 1.

  Examples:
    >>> import jax.numpy as jnp
    >>> import numpy as np
    >>> from maxsup_jax import losses
    >>> logits = jnp.array([[0.5, 1.5, 1.0, -0.5], [0.3, 0.2, 0.1, 0.0]])
    >>> labels = jnp.array([2, 3])
    >>> for normalization in ('classes', 'above', 'max'):
    ...   term = losses.error_amplification(
    ...       logits, labels, 0.1, normalization=normalization)
    ...   print(np.asarray(term).round(4), normalization)
    [-0.0125 -0.015 ] classes
    [-0.05 -0.02] above
    [-0.05 -0.03] max

  References:
    Zhou et al., `MaxSup: Overcoming Representation Collapse in Label Smoothing
    <https://arxiv.org/abs/2502.15798>`_, NeurIPS 2025, corollary 3.4 (eq. 5)
    and, for ``'above'`` and ``'max'``, table 1.
  """
  _checks.check_choice(
    'normalization', normalization, ERROR_AMPLIFICATION_NORMALIZATIONS
  )
  rows, target, alpha = _read(logits, labels, alpha, axis, where)
  if normalization == 'max':
    gap = target.logit - rows.max()
    # Where the label is a top class, the gradient is 0, also among ties.
    return rows.finish(alpha * jnp.where(gap < 0, gap, 0), target)
  gaps_BK = rows.expand(target.logit) - rows.z
  above_BK = gaps_BK < 0
  total = rows.sum(jnp.where(above_BK, gaps_BK, 0))
  if normalization == 'classes':
    count = rows.count()
  else:
    count = _at_least_one(rows.sum(above_BK))
  return rows.finish(alpha * total / count, target)


def _read(
  logits: ArrayLike,
  labels: ArrayLike,
  alpha: ArrayLike,
  axis: int,
  where: ArrayLike | None,
) -> tuple[Rows, Target, jax.Array]:
  rows = Rows.of(logits, axis, where)
  _checks.check_class_ids(
    labels, 'the term compares every logit with the one of the true class'
  )
  target = rows.target(labels)
  alpha = rows.number(alpha, ALPHA_RANGE)
  return rows, target, alpha


def _at_least_one(count: jax.Array) -> jax.Array:
  """A divisor for a sum that is 0 where nothing was counted."""
  return jnp.maximum(count, 1)


def regularization_only_objective(
  alpha: float | Schedule = 0.1, *, normalization: str = 'below'
) -> Objective:
  """Cross-entropy plus `smoothing_regularization`, a row of the ablation.

  Labels must be class ids.

  Args:
    alpha: strength, at most 1: a number or a function of the step.
    normalization: ``'below'``, as in the paper's table 1, or ``'classes'``.

  Returns:
    An objective without state.

  Raises:
    TypeError: if alpha is neither a number nor a function.
    ValueError: if alpha is above 1 or the normalization is unknown.

  Examples:
    >>> import jax.numpy as jnp
    >>> import numpy as np
    >>> from maxsup_jax import losses
    >>> logits, labels = jnp.array([[0.5, 1.5, 1.0, -0.5]]), jnp.array([2])
    >>> objective = losses.regularization_only_objective(0.1)
    >>> loss, state = objective.apply(objective.init(), logits, labels)
    >>> print(np.asarray(loss).round(4), state)
    [1.3466] ()
  """
  _checks.check_choice(
    'normalization', normalization, REGULARIZATION_NORMALIZATIONS
  )

  def loss(logits, labels, alpha, *, where, class_weights):
    term = smoothing_regularization(
      logits, labels, alpha, normalization=normalization, where=where
    )
    return term + cross_entropy(
      logits, labels, class_weights=class_weights, where=where
    )

  return stateless(loss, alpha, ALPHA_RANGE)


def error_amplification_only_objective(
  alpha: float | Schedule = 0.1, *, normalization: str = 'above'
) -> Objective:
  """Cross-entropy plus `error_amplification`, two rows of the ablation.

  Labels must be class ids.

  Args:
    alpha: strength, at most 1: a number or a function of the step.
    normalization: ``'above'`` or ``'max'``, as in the paper's table 1, or
      ``'classes'``.

  Returns:
    An objective without state.

  Raises:
    TypeError: if alpha is neither a number nor a function.
    ValueError: if alpha is above 1 or the normalization is unknown.

  Examples:
    >>> import jax.numpy as jnp
    >>> import numpy as np
    >>> from maxsup_jax import losses
    >>> logits, labels = jnp.array([[0.5, 1.5, 1.0, -0.5]]), jnp.array([2])
    >>> objective = losses.error_amplification_only_objective(0.1)
    >>> loss, state = objective.apply(objective.init(), logits, labels)
    >>> print(np.asarray(loss).round(4), state)
    [1.1966] ()
  """
  _checks.check_choice(
    'normalization',
    normalization,
    ERROR_AMPLIFICATION_NORMALIZATIONS,
  )

  def loss(logits, labels, alpha, *, where, class_weights):
    term = error_amplification(
      logits, labels, alpha, normalization=normalization, where=where
    )
    return term + cross_entropy(
      logits, labels, class_weights=class_weights, where=where
    )

  return stateless(loss, alpha, ALPHA_RANGE)
