"""Why a loss changes the ranking: what it does to the largest logit."""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import ArrayLike

from maxsup_jax.diagnostics import checks
from maxsup_jax.diagnostics.selective.scores import errors, scores
from maxsup_jax.errors import UsageError, integer, number, one_of


def suppression(
  loss: Callable[[jax.Array, jax.Array], jax.Array],
  logits: ArrayLike,
  labels: ArrayLike,
) -> np.ndarray:
  r"""The gradient on the largest logit that a loss adds to cross-entropy's.

  .. math::
    \frac{\partial (L - L_\mathrm{CE})}{\partial v_{\max}}

  per example: positive where it is suppressed. Label smoothing has
  :math:`\alpha (1 - 1/K)` where the prediction is correct and
  :math:`-\alpha / K` where it is wrong; MaxSup has :math:`\alpha (1 - 1/K)`
  everywhere.

  Args:
    loss: takes logits `[N, K]` and labels `[N]` and returns the loss of every
      example, `[N]`, which depends on the logits of that example only; any
      function that JAX can differentiate.

  Examples:
    The first prediction is correct, the second is wrong:

    >>> import functools
    >>> from maxsup_jax import losses
    >>> logits = np.array([[2.0, 1.0, 0.0, -1.0], [0.5, 2.0, 1.0, 0.0]])
    >>> for loss in (
    ...   losses.label_smoothing_cross_entropy,
    ...   losses.maxsup_cross_entropy,
    ... ):
    ...   loss = functools.partial(loss, alpha=0.2)
    ...   print(suppression(loss, logits, [0, 2]).round(3))
    [ 0.15 -0.05]
    [0.15 0.15]

  References: Xia et al., 2025, section 4.
  """
  logits, labels = checks.logits_and_labels(logits, labels)
  # In JAX's precision, so that the largest is the one that JAX sees.
  with np.errstate(over='ignore'):
    logits = np.asarray(jnp.asarray(logits))
  logits = checks.finite(logits, 'logits', masked=True)
  labels_N = jnp.asarray(labels, jnp.int32)

  def added(logits_NK: jax.Array) -> jax.Array:
    values_N = jnp.asarray(loss(logits_NK, labels_N))
    if values_N.shape != labels_N.shape:
      raise checks.wrong_shape(
        'the loss', values_N, f'{labels_N.shape}, one value for each example'
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
    alpha: the strength.
    top_probability: :math:`q_{\max}`, from 0 to 1, for `'soft'` only; as many
      as P, or one.

  Examples:
    >>> P = [0.0, 0.5, 1.0]
    >>> print(expected_suppression(P, 4, 0.2).round(3))
    [ 0.15  0.05 -0.05]
    >>> print(expected_suppression(P, 4, 0.2, target='maxsup'))
    [0.15 0.15 0.15]

  References: Xia et al., 2025, section 4, for label smoothing; the others
    follow in the same way.
  """
  one_of('target', target, ('ls', 'maxsup', 'soft'))
  K = integer('num_classes', num_classes, low=2)
  alpha = number('alpha', alpha)
  P = checks.shares(error_probability, 'error_probability')
  if (target == 'soft') != (top_probability is not None):
    raise UsageError(
      "top_probability belongs to target='soft'; give both or neither"
    )
  if target == 'maxsup':
    return np.full(P.shape, alpha * (1 - 1 / K))
  if top_probability is None:
    return alpha * (1 - P - 1 / K)
  q = checks.shares(top_probability, 'top_probability')
  if q.ndim and q.shape != P.shape:
    raise checks.wrong_shape('top_probability', q, f'{P.shape}')
  return alpha * (1 - P - q)


@dataclasses.dataclass(frozen=True, eq=False)
class Windows:
  """The largest logit in windows of confidence.

  Attributes:
    mean: its mean in each window, `[C]`; NaN where the window is empty.
    std: its standard deviation (with the divisor n - 1), `[C]`; NaN where the
      window has fewer than two examples.
    count: the examples in each window, int `[C]`.
  """

  mean: np.ndarray
  std: np.ndarray
  count: np.ndarray


@dataclasses.dataclass(frozen=True, eq=False)
class MaxLogitProfile:
  """Windows of correct and of wrong predictions, and their centres, `[C]`."""

  confidence: np.ndarray
  correct: Windows
  wrong: Windows


def max_logit_given_confidence(
  logits: ArrayLike, labels: ArrayLike, width: float = 0.05, step: float = 0.005
) -> MaxLogitProfile:
  r"""The largest logit of correct and wrong predictions of equal confidence.

  The mean and standard deviation of :math:`v_{\max}` over the examples with
  :math:`|\pi_{\max} - c| \le` width/2, for centres c from width/2 to
  1 - width/2. A score that sees the logits can tell the examples of a window
  apart where correct and wrong predictions differ in it.

  Args:
    logits: floating point `[N, K]`, or a single logit z, which stands for
      `(-z/2, z/2)` as in `scores`. The largest logit changes when the logits
      are shifted: center them where their offset has no meaning.
    width: of the windows, greater than 0, at most 1.
    step: from one centre to the next, from 1e-6 to 1.

  References: Xia et al., 2025, section 4, and its code, which has these
    defaults.
  """
  width = number('width', width, above=0, high=1)
  step = number('step', step, 1e-6, 1)
  # Rounded, so that an edge that is meant to be 0.95 or 1 is.
  last = int(np.floor(np.round((1 - width) / step, 9)))
  centers = np.round(width / 2 + step * np.arange(last + 1), 12)
  wrong = errors(logits, labels)
  of = scores(logits, ('msp', 'max_logit'))
  confidence = 1 / (1 + np.exp(-of['msp']))
  order = np.argsort(confidence, kind='stable')
  confidence, top = confidence[order], of['max_logit'][order]
  wrong = wrong[order]
  low = np.round(centers - width / 2, 12)
  high = np.round(centers + width / 2, 12)
  correct_windows, wrong_windows = (
    _windows(confidence[chosen], top[chosen], low, high)
    for chosen in (~wrong, wrong)
  )
  return MaxLogitProfile(centers, correct_windows, wrong_windows)


def _windows(
  confidence: np.ndarray, top: np.ndarray, low: np.ndarray, high: np.ndarray
) -> Windows:
  """Of examples in ascending order of confidence, in closed windows."""
  starts = np.searchsorted(confidence, low, side='left')
  ends = np.searchsorted(confidence, high, side='right')
  mean, std = np.full((2, len(low)), np.nan)
  # Every example is in width / step windows: adding them up directly costs
  # little, and differences of running sums would cancel.
  for i, (start, end) in enumerate(zip(starts, ends)):
    if end > start:
      mean[i] = top[start:end].mean()
    if end > start + 1:
      std[i] = top[start:end].std(ddof=1)
  return Windows(mean, std, ends - starts)
