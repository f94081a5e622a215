"""The temperature that makes the probabilities of given logits fit best."""

import dataclasses
from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike

from maxsup_jax.diagnostics import _blocks, _checks
from maxsup_jax.diagnostics.calibration import _curve, _examples
from maxsup_jax.errors import UsageError

OBJECTIVES = ('nll', 'ece')

# A relative error of the temperature at which the search ends.
_TOLERANCE = 1e-10
_MAX_STEPS = 100


@dataclasses.dataclass(frozen=True)
class TemperatureFit:
  """What `fit_temperature` returns.

  Attributes:
    temperature: `T`; the probabilities are `softmax(logits / T)`.
    value: the objective at this temperature, on the data that were fitted.
    value_at_one: the objective at T = 1, never less than `value`.
    objective: `'nll'` or `'ece'`.
    bound: `'lower'` or `'upper'` if the temperature is the lowest or highest
      one that was allowed, and so says nothing of its own; otherwise None.
  """

  temperature: float
  value: float
  value_at_one: float
  objective: str
  bound: str | None


def fit_temperature(
  logits: ArrayLike,
  labels: ArrayLike,
  *,
  objective: str = 'nll',
  bins: int = 15,
  bounds: tuple[float, float] = (0.01, 100.0),
) -> TemperatureFit:
  r"""Finds the temperature that fits logits to labels.

  .. math:: p = \mathrm{softmax}(z / T)

  `'nll'` minimises the negative log-likelihood, as Guo et al. The NLL is
  convex in :math:`1/T`, and a bracketed Newton search in :math:`\log T` finds
  its only minimum. The temperature is a bound, and `bound` says which, where
  the NLL has no minimum within the bounds: the lower one if every label has
  the largest logit (any sharper softmax is better), the upper one if the
  logits say less than nothing. It is 1 where all logits of each example are
  equal, as then the NLL does not depend on it.

  `'ece'` minimises the expected calibration error with bins of equal width,
  on the grid that Guo et al. (2025) search: 0.1, 0.6, ..., 9.6; then 10 points
  from :math:`T - 0.5` to :math:`T + 0.5`, and 10 from :math:`T - 0.1` to
  :math:`T + 0.1`, around the best so far; the first of equals wins. Unlike
  them, it skips temperatures that are not positive, and prefers T = 1 where
  nothing on the grid is better. They search on the test set, which makes the
  calibration error after it look better than it is; `temperature_scaling`
  fits and reports on different halves.
  Their error after scaling has 20 bins; the default here is 15.

  Neither changes the predicted classes.

  Args:
    logits: floating point `[N, K]`, or `[N]` or `[N, 1]` for the single logit
      `z` of a binary classifier, which stands for `(0, z)`.
    labels: class ids, integer `[N]`.
    objective: `'nll'` or `'ece'`.
    bins: for `'ece'`, the number of bins.
    bounds: for `'nll'`, the lowest and the highest temperature; 1 must be
      between them. `'ece'` does not use them: its grid is as above.

  Returns:
    A `TemperatureFit`, never worse than T = 1 on these data.

  Raises:
    UsageError: if the logits or labels have the wrong shape or dtype, a logit
      is not finite or a label is no class; if the objective is not known, the
      number of bins not positive, or the bounds do not fit.

  Examples:
    Twice right and once wrong by a margin of 2: the softmax should say 2/3.

    >>> import numpy as np
    >>> from maxsup_jax.diagnostics import calibration
    >>> logits, labels = np.array([[2.0, 0.0]] * 3), np.array([0, 0, 1])
    >>> fit = calibration.fit_temperature(logits, labels)
    >>> round(fit.temperature, 4)  # 2 / log(2)
    2.8854
    >>> round(fit.value, 4), round(fit.value_at_one, 4)
    (0.6365, 0.7936)
    >>> fit.bound is None
    True

  References:
    Guo et al., `On Calibration of Modern Neural Networks
    <https://arxiv.org/abs/1706.04599>`_, 2017, section 4.2; Guo et al., `Cross
    Entropy versus Label Smoothing: A Neural Collapse Perspective
    <https://arxiv.org/abs/2402.03979>`_, 2025, and its code.
  """
  logits_NK, labels_N = _checks.logits_and_labels(logits, labels)
  _checks.one_of(objective, 'objective', OBJECTIVES)
  bins = _curve.options(bins, 'equal_width', 'right')
  low, high = _bounds(bounds)
  if objective == 'ece':
    return _fit_ece(logits_NK, labels_N, bins)
  return _fit_nll(logits_NK, labels_N, low, high)


def _bounds(bounds: tuple[float, float]) -> tuple[float, float]:
  least, most = _examples.TEMPERATURES
  expected = f'{least:g} <= lowest < 1 < highest <= {most:g}'
  try:
    low, high = bounds
  except (TypeError, ValueError):
    raise UsageError(f'bounds must be two numbers, {expected}') from None
  low, high = (_checks.number(x, 'a bound', expected) for x in (low, high))
  if not least <= low < 1 < high <= most:
    raise UsageError(f'bounds are {low} and {high}; expected {expected}')
  return float(low), float(high)


def _fit_nll(
  logits_NK: np.ndarray, labels_N: np.ndarray, low: float, high: float
) -> TemperatureFit:

  def nll(T):
    examples = _examples.per_example(logits_NK, labels_N, temperature=T)
    return float(examples.nll.mean())

  def derivatives(T):
    return _derivatives(logits_NK, labels_N, 1 / T)

  if (logits_NK == logits_NK[:, :1]).all():
    T, bound = 1.0, None  # the loss does not depend on T
  else:
    T, bound = _minimum(derivatives, low, high)
  at_one = nll(1.0)
  value = at_one if T == 1 else nll(T)
  if value > at_one:  # by rounding alone
    T, value, bound = 1.0, at_one, None
  return TemperatureFit(T, value, at_one, 'nll', bound)


def _minimum(
  derivatives: Callable[[float], tuple[float, float]], low: float, high: float
) -> tuple[float, str | None]:
  """Where the first derivative by 1/T, which falls with T, changes sign."""
  slope, curvature = derivatives(1.0)
  if slope == 0:
    # Without curvature every softmax is, in float64, on the largest logits
    # alone, and the label is one of them: the data are separable.
    return (1.0, None) if curvature else (low, 'lower')
  if slope < 0:
    if derivatives(low)[0] <= 0:
      return low, 'lower'
    left, right = np.log(low), 0.0
  else:
    if derivatives(high)[0] >= 0:
      return high, 'upper'
    left, right = 0.0, np.log(high)
  # The minimum is between exp(left) and exp(right).
  x, last = 0.0, np.inf
  for _ in range(_MAX_STEPS):
    # d slope / d log T is -curvature / T.
    step = slope * np.exp(x) / curvature if curvature > 0 else np.inf
    # A step that leaves the bracket, or does not halve the one before, may be
    # one of a sequence that converges slowly or not at all.
    if not left <= x + step <= right or abs(step) > last / 2:
      step = (left + right) / 2 - x
    x, last = x + step, abs(step)
    if last <= _TOLERANCE:
      break
    slope, curvature = derivatives(float(np.exp(x)))
    if slope == 0:
      break
    left, right = (left, x) if slope < 0 else (x, right)
  return float(np.exp(x)), None


def _derivatives(
  logits_NK: np.ndarray, labels_N: np.ndarray, beta: float
) -> tuple[float, float]:
  """The first and second derivative of the mean NLL by beta = 1/T."""

  def block(z_BK, y_B):
    z_BK -= z_BK.max(1, keepdims=True)
    e_BK = np.exp(beta * z_BK)
    total_B = e_BK.sum(1)
    mean_B = np.einsum('ij,ij->i', e_BK, z_BK) / total_B
    slope_B = mean_B - z_BK[np.arange(len(y_B)), y_B]
    z_BK -= mean_B[:, None]
    e_BK *= z_BK
    return slope_B, np.einsum('ij,ij->i', e_BK, z_BK) / total_B

  slope_N, curvature_N = _blocks.map_rows(block, logits_NK, labels_N)
  return float(slope_N.mean()), float(curvature_N.mean())


def _fit_ece(
  logits_NK: np.ndarray, labels_N: np.ndarray, bins: int
) -> TemperatureFit:
  values = {}

  def try_all(temperatures):
    for T in map(float, temperatures):
      if T > 0 and T not in values:
        confidence_N, correct_N = _top(logits_NK, labels_N, T)
        curve = _curve.reliability_curve(confidence_N, correct_N, bins=bins)
        values[T] = _curve.calibration_error(curve)
    # Dictionaries keep their order, so this is the first of equals.
    return min(values, key=values.get)

  T = try_all(np.arange(20) / 2 + 0.1)
  for radius in (0.5, 0.1):
    T = try_all(np.linspace(T - radius, T + radius, 10))
  try_all([1.0])
  if values[1.0] <= values[T]:
    T = 1.0
  bound = {min(values): 'lower', max(values): 'upper'}.get(T)
  return TemperatureFit(T, values[T], values[1.0], 'ece', bound)


def _top(
  logits_NK: np.ndarray, labels_N: np.ndarray, temperature: float
) -> tuple[np.ndarray, np.ndarray]:
  """`top_confidence` at a temperature."""
  examples = _examples.per_example(logits_NK, labels_N, temperature=temperature)
  return examples.confidence, examples.correct
