"""Temperature scaling: fitted on some examples, measured on the others."""

import dataclasses

import numpy as np
from numpy.typing import ArrayLike

from maxsup_jax.diagnostics import _checks
from maxsup_jax.diagnostics.calibration import _examples
from maxsup_jax.diagnostics.calibration._summary import (
  CalibrationSummary,
  summary,
)
from maxsup_jax.diagnostics.calibration._temperature import (
  TemperatureFit,
  fit_temperature,
)
from maxsup_jax.errors import UsageError


@dataclasses.dataclass(frozen=True, eq=False)
class TemperatureScaling:
  """What `temperature_scaling` returns.

  Attributes:
    fit: of `fit_temperature`, on the examples that were fitted.
    before: at T = 1, on the other examples.
    after: at the temperature, on the same examples as `before`. The accuracy
      is the same.
    fit_examples: the positions of the examples that were fitted, ascending.
    report_examples: the positions of the other ones, ascending.
  """

  fit: TemperatureFit
  before: CalibrationSummary
  after: CalibrationSummary
  fit_examples: np.ndarray
  report_examples: np.ndarray

  @property
  def temperature(self) -> float:
    """The temperature that was fitted."""
    return self.fit.temperature


def temperature_scaling(
  logits: ArrayLike,
  labels: ArrayLike,
  *,
  fit_fraction: float = 0.5,
  seed: int = 0,
  objective: str = 'nll',
  bins: int = 15,
  bounds: tuple[float, float] = (0.01, 100.0),
) -> TemperatureScaling:
  """Fits a temperature on some examples and measures it on the others.

  The examples to fit are drawn at random, without regard to their classes. Two
  models on the same data, with the same seed, are split alike.

  Args:
    logits: floating point `[N, K]`, or `[N]` or `[N, 1]` for the single logit
      `z` of a binary classifier; N at least 2.
    labels: class ids, integer `[N]`.
    fit_fraction: the share of the examples to fit, between 0 and 1. At least
      one example is fitted, and at least one is left.
    seed: of the split.
    objective: as in `fit_temperature`.
    bins: for the calibration error, also where that is the objective.
    bounds: as in `fit_temperature`.

  Returns:
    A `TemperatureScaling`.

  Raises:
    UsageError: as `fit_temperature`; for fewer than 2 examples, a fraction
      that is not between 0 and 1, or a seed that is no whole number from 0 on.

  Examples:
    Logits that were made three times too large:

    >>> import numpy as np
    >>> from maxsup_jax.diagnostics import calibration
    >>> rng = np.random.default_rng(0)
    >>> logits = rng.normal(size=(4000, 3))
    >>> labels = (logits + rng.gumbel(size=(4000, 3))).argmax(1)
    >>> result = calibration.temperature_scaling(3 * logits, labels)
    >>> round(result.temperature, 1)
    2.9
    >>> for at in (result.before, result.after):
    ...   print(f'{at.expected_calibration_error:.2f} {at.accuracy:.2f}')
    0.24 0.58
    0.04 0.58

  References:
    Guo et al., `On Calibration of Modern Neural Networks
    <https://arxiv.org/abs/1706.04599>`_, 2017, section 4.2.
  """
  logits_NK, labels_N = _checks.logits_and_labels(logits, labels)
  N = len(labels_N)
  if N < 2:
    raise UsageError(
      'temperature scaling needs 2 examples or more: one to fit, one to report'
    )
  expected = 'more than 0, less than 1'
  fit_fraction = _checks.number(fit_fraction, 'fit_fraction', expected)
  if not 0 < fit_fraction < 1:
    raise UsageError(f'fit_fraction is {fit_fraction}; expected {expected}')
  count = min(max(round(fit_fraction * N), 1), N - 1)
  order = np.random.default_rng(_checks.seed(seed)).permutation(N)
  fitted, reported = np.sort(order[:count]), np.sort(order[count:])
  fit = fit_temperature(
    logits_NK[fitted],
    labels_N[fitted],
    objective=objective,
    bins=bins,
    bounds=bounds,
  )
  at = [
    summary(
      _examples.per_example(
        logits_NK[reported], labels_N[reported], temperature=T
      ),
      bins=bins,
    )
    for T in (1.0, fit.temperature)
  ]
  return TemperatureScaling(fit, at[0], at[1], fitted, reported)
