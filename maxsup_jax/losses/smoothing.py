"""Cross-entropy, with labels as they are and smoothed."""

import jax
import jax.numpy as jnp
from jax.scipy.special import xlogy
from jax.typing import ArrayLike

from maxsup_jax import errors
from maxsup_jax.losses._rows import Rows


def cross_entropy(
  logits: ArrayLike,
  labels: ArrayLike,
  *,
  class_weights: ArrayLike | None = None,
  axis: int = -1,
  where: ArrayLike | None = None,
) -> jax.Array:
  r"""Softmax cross-entropy, per example.

  .. math::
    H(y, q) = -\sum_k y_k \log q_k = \log \sum_k e^{z_k} - z_y,
    \qquad q = \mathrm{softmax}(z)

  With weights `w` of the classes it is :math:`-\sum_k w_k y_k \log q_k`, as in
  PyTorch.

  What is said here of the arguments and of what is returned and raised holds
  for every loss and penalty of this package. Where these take a strength, a
  temperature or a margin, it is a scalar or an array that broadcasts to `[B]`;
  it may be traced, and then its value is not checked.

  Args:
    logits: unnormalised scores `z`, floating point, `[B, K]`; `B` may be any
      number of batch axes, also none. Half precision is computed in float32.
    labels: class ids, integer, `[B]`, or distributions over the classes,
      floating point, `[B, K]`, used as they are, not normalised. Both forms
      agree on one-hot labels; class ids are never made one-hot in memory.
      Losses that are defined for one true class only refuse distributions.
    class_weights: weights of the classes, at least 0, `[K]`. They multiply the
      cross-entropy with the label, not what a loss adds to it. `label_weights`
      has the denominator of PyTorch's mean.
    axis: the class axis of the logits.
    where: boolean, what takes part: examples, `[B]`, or logits, `[B, K]` (axes
      of size one broadcast). The loss of a masked example, and its gradient,
      is exactly 0 whatever its logits and label are. A masked class takes no
      part in softmax, maximum, mean, sum or norm, and `K` counts the others.

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
    >>> logits = jnp.array([[2.0, 1.0, 0.1, -1.0], [0.5, 1.5, 1.0, -0.5]])
    >>> print(cross_entropy(logits, jnp.array([0, 2])))
    [0.4493... 1.2465...]

    The second example of a batch is padding:

    >>> real = jnp.array([True, False])
    >>> print(cross_entropy(logits, jnp.array([0, -1]), where=real))
    [0.4493... 0...]
  """
  rows, target = Rows.labelled(logits, labels, class_weights, axis, where)
  return rows.finish(rows.cross_entropy(target), target)


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

  Labels that are distributions are smoothed by the same formulas, and not
  normalised. With a negative :math:`\alpha` (negative label smoothing) the loss
  is unbounded below: a wrong logit can run away.

  With weights `w` of the classes the loss is :math:`-\sum_k w_k s_k \log q_k`,
  as in PyTorch, and :math:`\sum_k w_k s_k \log (s_k / q_k)` for ``'kl'``. Its
  optimum then moves away from `s`.

  Args:
    alpha: strength of the smoothing, at most 1; at least 0 for ``'kl'``.
    convention: ``'uniform'``, ``'others'`` or ``'kl'``.
    logits, labels, class_weights, axis, where: see `cross_entropy`.
      A masked class gets no mass.

  Examples:
    >>> logits = jnp.array([[2.0, 1.0, 0.1, -1.0], [0.5, 1.5, 1.0, -0.5]])
    >>> for convention in ('uniform', 'others', 'kl'):
    ...   loss = label_smoothing_cross_entropy(
    ...       logits, jnp.array([0, 2]), 0.1, convention=convention)
    ...   print(loss, convention)
    [0.5968... 1.2840...] uniform
    [0.6459... 1.2965...] others
    [0.2110... 0.8616...] kl

  References: Szegedy et al., 2016, section 7; Müller et al., 2019; J. Wei
    et al., 2022 (negative strengths); Zhou et al., 2025, eqs. 1-4.
  """
  errors.one_of('convention', convention, ('uniform', 'others', 'kl'))
  rows, target = Rows.labelled(logits, labels, class_weights, axis, where)
  # The entropy of a target with negative entries is not defined.
  lowest = {'low': 0} if convention == 'kl' else {}
  alpha = rows.number('alpha', alpha, high=1, **lowest)
  count = rows.count()
  uniform_alpha = alpha
  if convention != 'uniform':
    # With a single class there are no others, and nothing to smooth.
    alpha = jnp.where(count > 1, alpha, 0)
    uniform_alpha = alpha * count / jnp.maximum(count - 1, 1)
  loss = (1 - uniform_alpha) * rows.cross_entropy(target)
  if class_weights is None:
    uniform = rows.log_normalizer() - rows.mean()
  else:
    spread_BK = _spread(rows, class_weights)
    uniform = rows.cross_entropy_with(spread_BK) / rows.count()
  loss = loss + uniform_alpha * uniform
  if convention == 'kl':
    loss = loss - _entropy(rows, labels, alpha, class_weights)
  return rows.finish(loss, target)


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
  `zipf_distribution` it smooths by ranks.

  Args:
    prior: `r`, floating point: a distribution per example, `[B, K]`, or one for
      all (axes of size one broadcast). Not normalised; what it gives to masked
      classes is dropped. It gets no gradient, and weights of the classes
      multiply it like the label.
    alpha: strength of the smoothing, in [0, 1].
    logits, labels, class_weights, axis, where: see `cross_entropy`.

  Examples:
    >>> logits = jnp.array([[2.0, 1.0, 0.1, -1.0], [0.5, 1.5, 1.0, -0.5]])
    >>> unigram = jnp.array([[0.4, 0.3, 0.2, 0.1]])
    >>> labels = jnp.array([0, 2])
    >>> print(prior_smoothing_cross_entropy(logits, labels, unigram))
    [0.5473... 1.2665...]

  References: Szegedy et al., 2016, section 7.
  """
  rows, target = Rows.labelled(logits, labels, class_weights, axis, where)
  alpha = rows.number('alpha', alpha, low=0, high=1)
  prior_BK = rows.distribution('prior', prior, class_weights)
  loss = (1 - alpha) * rows.cross_entropy(target)
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
  r"""`prior_smoothing_cross_entropy` with predictions as the prior.

  .. math::
    r = \mathrm{softmax}(v / \tau)

  The logits `v` are those of a teacher, for example of the best checkpoint of
  the same training ("self-knowledge"), or the model's own. Neither gets a
  gradient through `r`.

  Args:
    alpha: strength of the smoothing, in [0, 1].
    teacher_logits: `v`, floating point, `[B, K]`; None for the logits
      themselves.
    temperature: :math:`\tau`, above 0.
    logits, labels, class_weights, axis, where: see `cross_entropy`.

  Examples:
    >>> logits = jnp.array([[2.0, 1.0, 0.1, -1.0], [0.5, 1.5, 1.0, -0.5]])
    >>> labels = jnp.array([0, 2])
    >>> print(adaptive_smoothing_cross_entropy(logits, labels))
    [0.5004... 1.2412...]

  References: Lee et al., 2022; Zhou et al., 2025, table 13.
  """
  rows, target = Rows.labelled(logits, labels, class_weights, axis, where)
  alpha = rows.number('alpha', alpha, low=0, high=1)
  temperature = rows.number('temperature', temperature, above=0)
  if teacher_logits is None:
    teacher_logits = logits
  teacher = rows.like('teacher_logits', teacher_logits, where)
  imitation = rows.cross_entropy_with_softmax(
    teacher, temperature, class_weights
  )
  loss = (1 - alpha) * rows.cross_entropy(target) + alpha * imitation
  return rows.finish(loss, target)
