"""Do the probabilities of a classifier mean what they say?

>>> import numpy as np
>>> from maxsup_jax.diagnostics import calibration
>>> rng = np.random.default_rng(0)
>>> logits = rng.normal(size=(2000, 10))
>>> labels = (logits + rng.gumbel(size=(2000, 10))).argmax(1)
>>> round(calibration.expected_calibration_error(2 * logits, labels), 2)
0.22

Everything that is needed of the logits can be read in one pass:

>>> examples = calibration.per_example(logits, labels)
>>> summary = calibration.summary(examples)
>>> round(summary.negative_log_likelihood, 2), round(summary.brier_score, 2)
(1.93, 0.81)

Probabilities and sums are in float64. Where the field has several conventions,
`reliability_curve` names them.
"""

from maxsup_jax.diagnostics.calibration._accumulator import (
  ReliabilityAccumulator,
)
from maxsup_jax.diagnostics.calibration._curve import (
  ReliabilityCurve,
  calibration_error,
  reliability_curve,
)
from maxsup_jax.diagnostics.calibration._examples import (
  PerExample,
  brier_score,
  negative_log_likelihood,
  per_example,
  softmax,
  top_confidence,
)
from maxsup_jax.diagnostics.calibration._summary import (
  CalibrationSummary,
  classwise_calibration_error,
  expected_calibration_error,
  maximum_calibration_error,
  summary,
)
from maxsup_jax.diagnostics.calibration._temperature import (
  TemperatureFit,
  fit_temperature,
)
from maxsup_jax.diagnostics.calibration._temperature_scaling import (
  TemperatureScaling,
  temperature_scaling,
)

__all__ = [
  'CalibrationSummary',
  'PerExample',
  'ReliabilityAccumulator',
  'ReliabilityCurve',
  'TemperatureFit',
  'TemperatureScaling',
  'brier_score',
  'calibration_error',
  'classwise_calibration_error',
  'expected_calibration_error',
  'fit_temperature',
  'maximum_calibration_error',
  'negative_log_likelihood',
  'per_example',
  'reliability_curve',
  'softmax',
  'summary',
  'temperature_scaling',
  'top_confidence',
]
