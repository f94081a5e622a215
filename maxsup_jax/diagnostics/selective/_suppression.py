"""How hard an objective pulls at the largest logit."""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import ArrayLike

from maxsup_jax.diagnostics import _checks
from maxsup_jax.errors import UsageError

TARGETS = ('ls', 'maxsup', 'soft')


def suppression(
  loss: Callable[[jax.Array, jax.Array], jax.Array],
  logits: ArrayLike,
  labels: ArrayLike,
) -> np.ndarray:
  r"""The gradient on the largest logit that a loss adds to cross-entropy's.

  .. math::
    \frac{\partial (L - L_\mathrm{CE})}{\partial v_{\max}}

  per example. Gradient descent lowers the largest logit where this is positive
  (it suppresses it), and raises it where it is negative. Label smoothing has
  :math:`\alpha (1 - 1/K)` where the prediction is correct and
  :math:`-\alpha / K` where it is wrong; MaxSup has :math:`\alpha (1 - 1/K)`
  everywhere.

  Args:
    loss: takes logits `[N, K]` and labels `[N]` and returns the loss of every
      example, `[N]`, which depends on the logits of that example only; any
      function that JAX can differentiate.
    logits: floating point `[N, K]`, or a single logit; see `scores`. JAX
      computes in float32 unless it is configured otherwise.
    labels: class ids, integer `[N]`.

  Returns:
    float64 `[N]`. Among equal logits it is the gradient on the first.

  Raises:
    UsageError: if the loss returns another shape or its gradient is not
      finite, and for a wrong shape or dtype, no examples, NaN or infinity, or a
      label outside `[0, K)`.

  Examples:
    The first prediction is correct, the second is wrong:

    >>> import functools
    >>> import numpy as np
    >>> from maxsup_jax import losses
    >>> from maxsup_jax.diagnostics import selective
    >>> logits = np.array([[2.0, 1.0, 0.0, -1.0], [0.5, 2.0, 1.0, 0.0]])
    >>> for loss in (
    ...   losses.label_smoothing_cross_entropy,
    ...   losses.maxsup_cross_entropy,
    ... ):
    ...   loss = functools.partial(loss, alpha=0.2)
    ...   print(selective.suppression(loss, logits, [0, 2]).round(3))
    [ 0.15 -0.05]
    [0.15 0.15]

  References:
    Xia et al., `Towards Understanding Why Label Smoothing Degrades Selective
    Classification and How to Fix It <https://arxiv.org/abs/2403.14715>`_, 2025,
    section 4.
  """
  logits, labels = _checks.logits_and_labels(logits, labels)
  # In JAX's precision, so that the largest is the one that JAX sees.
  with np.errstate(over='ignore'):
    logits = _checks.finite(np.asarray(jnp.asarray(logits)), 'logits')
  labels_N = jnp.asarray(labels, jnp.int32)

  def added(logits_NK):
    values_N = jnp.asarray(loss(logits_NK, labels_N))
    if values_N.shape != labels_N.shape:
      raise UsageError(
        f'the loss has the shape {values_N.shape}; expected '
        f'{labels_N.shape}, one value for each example'
      )
    log_probabilities = jax.nn.log_softmax(logits_NK)
    target = jnp.take_along_axis(log_probabilities, labels_N[:, None], 1)
    return jnp.sum(values_N + target[:, 0])

  gradient_NK = np.asarray(jax.grad(added)(jnp.asarray(logits)), np.float64)
  gradient_N = gradient_NK[np.arange(len(labels)), logits.argmax(1)]
  bad_N = ~np.isfinite(gradient_N)
  if bad_N.any():
    i = int(bad_N.argmax())
    raise UsageError(
      f'the gradient of the loss at example {i} is {gradient_N[i]}; expected a '
      'finite number'
    )
  return gradient_N


def expected_suppression(
  error_probability: ArrayLike,
  num_classes: int,
  alpha: float,
  *,
  target: str = 'ls',
  top_probability: ArrayLike | None = None,
) -> np.ndarray:
  r"""What `suppression` is on average, over the labels that an input may have.

  With P the probability that the prediction is wrong, given the input:

  * `'ls'`, label smoothing: :math:`\alpha (1 - P - 1/K)`. The more
    probably a prediction is correct, the more its logit is suppressed;
  * `'maxsup'`: :math:`\alpha (1 - 1/K)`, whatever P is;
  * `'soft'`, targets :math:`(1 - \alpha) \delta_y + \alpha q` with a
    distribution q that depends on the input, as in distillation:
    :math:`\alpha (1 - P - q_{\max})` with :math:`q_{\max}` the probability that
    q gives to the predicted class. It is 0 if q is calibrated.

  Args:
    error_probability: P, from 0 to 1, of any shape.
    num_classes: K.
    alpha: the strength.
    target: one of the above.
    top_probability: :math:`q_{\max}`, from 0 to 1, for `'soft'` only; its shape
      broadcasts with that of P.

  Returns:
    float64, of the shape of P, broadcast with that of `top_probability`.

  Raises:
    UsageError: for an unknown target, fewer than 2 classes, a probability
      outside `[0, 1]`, a strength that is not finite, or `top_probability`
      missing, not wanted or of a shape that does not fit.

  Examples:
    >>> from maxsup_jax.diagnostics import selective
    >>> P = [0.0, 0.5, 1.0]
    >>> print(selective.expected_suppression(P, 4, 0.2).round(3))
    [ 0.15  0.05 -0.05]
    >>> print(selective.expected_suppression(P, 4, 0.2, target='maxsup'))
    [0.15 0.15 0.15]

  References:
    Xia et al., `Towards Understanding Why Label Smoothing Degrades Selective
    Classification and How to Fix It <https://arxiv.org/abs/2403.14715>`_, 2025,
    section 4, for label smoothing; the others follow in the same way.
  """
  _checks.one_of(target, 'target', TARGETS)
  K = _checks.at_least(num_classes, 'num_classes', 2)
  alpha = _checks.number(alpha, 'alpha', 'a finite number')
  if not math.isfinite(alpha):
    raise UsageError(f'alpha is {alpha}; expected a finite number')
  P = _probabilities(error_probability, 'error_probability')
  if (target == 'soft') != (top_probability is not None):
    raise UsageError("top_probability belongs to target='soft', and only there")
  if target == 'maxsup':
    return np.full(P.shape, alpha * (1 - 1 / K))
  if target == 'ls':
    return alpha * (1 - P - 1 / K)
  q = _probabilities(top_probability, 'top_probability')
  try:
    np.broadcast_shapes(P.shape, q.shape)
  except ValueError:
    raise UsageError(
      f'the shapes of error_probability, {P.shape}, and top_probability, '
      f'{q.shape}, do not fit'
    ) from None
  return alpha * (1 - P - q)


def _probabilities(values: ArrayLike, name: str) -> np.ndarray:
  values = _checks.array(values, name)
  if values.dtype.kind in 'biu':
    values = values.astype(np.float64)
  values = _checks.finite(values, name).astype(np.float64)
  outside = ~((values >= 0) & (values <= 1))
  if outside.any():
    raise UsageError(
      f'{name} is {values[outside].flat[0]}; expected from 0 to 1'
    )
  return values
