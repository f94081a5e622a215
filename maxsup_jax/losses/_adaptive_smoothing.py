"""Label smoothing towards a prior, or towards predictions."""

import functools

import jax
from jax.typing import ArrayLike

from maxsup_jax.losses import _checks
from maxsup_jax.losses._cross_entropy import target_cross_entropy
from maxsup_jax.losses._objective import Objective, stateless
from maxsup_jax.losses._rows import Rows
from maxsup_jax.losses._schedules import Schedule

ALPHA_RANGE = _checks.Range(low=0.0, high=1.0)
TEMPERATURE_RANGE = _checks.Range(low=0.0, name='temperature', open_low=True)
PRIORS = ('teacher', 'self')


def prior_smoothing_cross_entropy(
  logits: ArrayLike,
  labels: ArrayLike,
  prior: ArrayLike,
  alpha: ArrayLike = 0.1,
  *,
  class_weights: ArrayLike | None = None,
  axis: int = -1,
  where: ArrayLike | None = None,
) -> jax.Array:
  r"""Cross-entropy with labels smoothed towards any prior, per example.

  .. math::
    (1 - \alpha) H(y, q) + \alpha H(r, q)

  With a uniform prior `r` it is `label_smoothing_cross_entropy`; with
  `zipf_distribution` it smooths by ranks; with the predictions of a teacher it
  is distillation, see also `adaptive_smoothing_cross_entropy`. The prior gets
  no gradient.

  Args:
    logits: unnormalised scores `z`, floating point, `[B, K]`; `B` may be any
      number of batch axes, also none.
    labels: class ids, integer, `[B]`, or distributions over the classes,
      floating point, `[B, K]`. Both forms agree on one-hot labels.
      Distributions are used as they are, not normalised.
    prior: `r`, floating point: a distribution per example, `[B, K]`, or one for
      all (axes of size one broadcast). Not normalised; what it gives to masked
      classes is dropped.
    alpha: strength of the smoothing, in [0, 1]: a scalar or an array that
      broadcasts to `[B]`. It may be traced, and then its value is not checked.
    class_weights: weights of the classes, at least 0, `[K]`, of label and prior
      alike. `label_weights` has the denominator of PyTorch's mean.
    axis: the class axis of the logits.
    where: boolean, what takes part: examples, `[B]`, or logits, `[B, K]` (axes
      of size one broadcast). The loss of a masked example, and its gradient,
      is exactly 0 whatever its logits and label are. A masked class takes no
      part in the softmax.

  Returns:
    The loss of every example, `[B]`, in float32, or in float64 for logits in
    float64. It is NaN, and so is its gradient, where the label names no class
    that takes part: a class id outside `[0, K)` or of a masked class, or a
    distribution that is not 0 on a masked class.

  Raises:
    TypeError: if an argument has the wrong dtype.
    ValueError: if the shape of an argument does not fit the logits, or if a
      number is known and outside its range.

  Examples:
    >>> import jax.numpy as jnp
    >>> import numpy as np
    >>> from maxsup_jax import losses
    >>> logits = jnp.array([[2.0, 1.0, 0.1, -1.0], [0.5, 1.5, 1.0, -0.5]])
    >>> unigram = jnp.array([[0.4, 0.3, 0.2, 0.1]])
    >>> loss = losses.prior_smoothing_cross_entropy(
    ...     logits, jnp.array([0, 2]), unigram, 0.1)
    >>> print(np.asarray(loss).round(4))
    [0.5473 1.2666]

  References:
    Szegedy et al., `Rethinking the Inception Architecture for Computer Vision
    <https://arxiv.org/abs/1512.00567>`_, CVPR 2016, section 7.
  """
  rows = Rows.of(logits, axis, where)
  target = rows.target(labels, class_weights)
  alpha = rows.number(alpha, ALPHA_RANGE)
  prior_BK = rows.distribution('prior', prior, class_weights)
  loss = (1 - alpha) * target_cross_entropy(rows, target)
  loss = loss + alpha * rows.cross_entropy_with(prior_BK)
  return rows.finish(loss, target)


def adaptive_smoothing_cross_entropy(
  logits: ArrayLike,
  labels: ArrayLike,
  alpha: ArrayLike = 0.1,
  *,
  teacher_logits: ArrayLike | None = None,
  temperature: ArrayLike = 1.0,
  class_weights: ArrayLike | None = None,
  axis: int = -1,
  where: ArrayLike | None = None,
) -> jax.Array:
  r"""Cross-entropy with labels smoothed towards predictions, per example.

  .. math::
    (1 - \alpha) H(y, q) + \alpha H(r, q), \qquad
    r = \mathrm{softmax}(v / \tau)

  The logits `v` are those of a teacher, for example of the best checkpoint of
  the same training ("self-knowledge"), or the model's own. Neither gets a
  gradient through `r`.

  Args:
    logits: unnormalised scores `z`, floating point, `[B, K]`; `B` may be any
      number of batch axes, also none.
    labels: class ids, integer, `[B]`, or distributions over the classes,
      floating point, `[B, K]`. Both forms agree on one-hot labels.
      Distributions are used as they are, not normalised.
    alpha: strength of the smoothing, in [0, 1]: a scalar or an array that
      broadcasts to `[B]`, for example `confidence_alpha(logits)`. It may be
      traced, and then its value is not checked.
    teacher_logits: `v`, floating point, `[B, K]`; None for the logits
      themselves.
    temperature: :math:`\tau`, greater than 0, a scalar or an array that
      broadcasts to `[B]`.
    class_weights: weights of the classes, at least 0, `[K]`, of label and prior
      alike. `label_weights` has the denominator of PyTorch's mean.
    axis: the class axis of the logits.
    where: boolean, what takes part: examples, `[B]`, or logits, `[B, K]` (axes
      of size one broadcast). The loss of a masked example, and its gradient,
      is exactly 0 whatever its logits and label are. A masked class takes no
      part in either softmax.

  Returns:
    The loss of every example, `[B]`, in float32, or in float64 for logits in
    float64. It is NaN, and so is its gradient, where the label names no class
    that takes part: a class id outside `[0, K)` or of a masked class, or a
    distribution that is not 0 on a masked class.

  Raises:
    TypeError: if an argument has the wrong dtype.
    ValueError: if the shape of an argument does not fit the logits, or if a
      number is known and outside its range.

  Examples:
    >>> import jax.numpy as jnp
    >>> import numpy as np
    >>> from maxsup_jax import losses
    >>> logits = jnp.array([[2.0, 1.0, 0.1, -1.0], [0.5, 1.5, 1.0, -0.5]])
    >>> labels = jnp.array([0, 2])
    >>> loss = losses.adaptive_smoothing_cross_entropy(logits, labels, 0.1)
    >>> print(np.asarray(loss).round(4))
    [0.5004 1.2412]

  References:
    Lee et al., `Adaptive Label Smoothing with Self-Knowledge in Natural
    Language Generation <https://arxiv.org/abs/2210.13459>`_, EMNLP 2022.

    Zhou et al., `MaxSup: Overcoming Representation Collapse in Label Smoothing
    <https://arxiv.org/abs/2502.15798>`_, NeurIPS 2025, table 13.
  """
  rows = Rows.of(logits, axis, where)
  target = rows.target(labels, class_weights)
  alpha = rows.number(alpha, ALPHA_RANGE)
  temperature = rows.number(temperature, TEMPERATURE_RANGE)
  teacher = rows.constant()
  if teacher_logits is not None:
    teacher = rows.like('teacher_logits', teacher_logits, where)
  imitation = rows.cross_entropy_with_softmax(
    teacher, temperature, class_weights
  )
  loss = (1 - alpha) * target_cross_entropy(rows, target) + alpha * imitation
  return rows.finish(loss, target)


def adaptive_ls_objective(
  alpha: float | Schedule = 0.1,
  *,
  prior: str = 'teacher',
  temperature: float = 1.0,
  adaptive_alpha: bool = False,
) -> Objective:
  """Smoothing towards predictions: `adaptive_smoothing_cross_entropy`.

  Args:
    alpha: strength, in [0, 1]: a number or a function of the step.
    prior: ``'teacher'``, whose logits `apply` then takes as `teacher_logits`,
      or ``'self'``, the model's own predictions.
    temperature: of the predictions, greater than 0.
    adaptive_alpha: makes alpha the strength for examples on which the model is
      sure, and others get less: `confidence_alpha(logits, 0, alpha)`.

  Returns:
    An objective without state.

  Raises:
    TypeError: if alpha is neither a number nor a function, or another argument
      has the wrong type.
    ValueError: if an argument is outside its range or the prior is unknown.

  Examples:
    >>> import jax.numpy as jnp
    >>> import numpy as np
    >>> from maxsup_jax import losses
    >>> logits, labels = jnp.array([[0.5, 1.5, 1.0, -0.5]]), jnp.array([2])
    >>> objective = losses.adaptive_ls_objective(0.1)
    >>> loss, state = objective.apply(
    ...     objective.init(), logits, labels, teacher_logits=jnp.zeros((1, 4)))
    >>> print(np.asarray(loss).round(4), state, objective.needs)
    [1.2841] () ('teacher_logits',)
  """
  _checks.check_choice('prior', prior, PRIORS)
  TEMPERATURE_RANGE.check(_checks.check_number('temperature', temperature))
  loss = functools.partial(
    adaptive_smoothing_cross_entropy, temperature=temperature
  )
  needs = ('teacher_logits',) if prior == 'teacher' else ()
  return stateless(
    loss, alpha, ALPHA_RANGE, needs=needs, adaptive_alpha=adaptive_alpha
  )
