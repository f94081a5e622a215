"""The largest logit among predictions of equal confidence."""

import dataclasses

import numpy as np
from numpy.typing import ArrayLike

from maxsup_jax.diagnostics import _checks
from maxsup_jax.diagnostics.selective._scores import errors, scores
from maxsup_jax.errors import UsageError


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
  """The largest logit given the maximum softmax probability.

  Attributes:
    confidence: the centres of the windows, `[C]`.
    correct: the windows of the correct predictions.
    wrong: the windows of the wrong predictions.
  """

  confidence: np.ndarray
  correct: Windows
  wrong: Windows


def max_logit_given_confidence(
  logits: ArrayLike,
  labels: ArrayLike,
  width: float = 0.05,
  step: float = 0.005,
) -> MaxLogitProfile:
  r"""The largest logit of correct and wrong predictions of equal confidence.

  The mean and standard deviation of :math:`v_{\max}` over the examples with
  :math:`|\pi_{\max} - c| \le` width/2, for centres c from width/2 to
  1 - width/2. Confidence alone cannot tell the examples of a window apart; but
  a score that sees the logits can, where correct and wrong predictions differ
  in it.

  Args:
    logits: floating point `[N, K]`, or a single logit z, which stands for
      `(-z/2, z/2)` as in `scores`. The largest logit changes when the logits
      are shifted: center them where their offset has no meaning.
    labels: class ids, integer `[N]`.
    width: of the windows, greater than 0, at most 1.
    step: from one centre to the next, from 1e-6 to 1.

  Returns:
    The profile, with NaN where a window has too few examples.

  Raises:
    UsageError: for a wrong width or step, shape or dtype, no examples, NaN or
      infinity, or a label outside `[0, K)`.

  Examples:
    Two predictions of equal confidence, of which the wrong one has the larger
    logits:

    >>> import numpy as np
    >>> from maxsup_jax.diagnostics import selective
    >>> logits = np.array([[2.0, 1.0, 0.0], [7.0, 6.0, 5.0]])
    >>> profile = selective.max_logit_given_confidence(logits, [0, 1])
    >>> i = int(abs(profile.confidence - 0.665).argmin())
    >>> print(profile.correct.mean[i], profile.wrong.mean[i])
    2.0 7.0

  References:
    Xia et al., `Towards Understanding Why Label Smoothing Degrades Selective
    Classification and How to Fix It <https://arxiv.org/abs/2403.14715>`_, 2025,
    section 4, and its code, which has these defaults.
  """
  expected = 'more than 0, up to 1'
  width = _checks.number(width, 'width', expected)
  if not 0 < width <= 1:
    raise UsageError(f'width is {width}; expected {expected}')
  step = _checks.between(step, 'step', 1e-6, 1)
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
