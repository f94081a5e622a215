"""Calibration errors straight from logits."""

import dataclasses

import numpy as np
from numpy.typing import ArrayLike

from maxsup_jax.diagnostics import _blocks, _checks
from maxsup_jax.diagnostics.calibration import _curve, _examples

# Classes whose logits are copied together into columns of their own.
_COLUMNS = 16


@dataclasses.dataclass(frozen=True)
class CalibrationSummary:
  """What `summary` returns; see the functions of the same names.

  Attributes:
    expected_calibration_error: from 0 to 1.
    negative_log_likelihood: in nats.
    brier_score: from 0 to 2.
    accuracy: from 0 to 1.
  """

  expected_calibration_error: float
  negative_log_likelihood: float
  brier_score: float
  accuracy: float


def summary(
  examples: _examples.PerExample,
  *,
  bins: int = 15,
  binning: str = 'equal_width',
  convention: str = 'right',
  weights: ArrayLike | None = None,
) -> CalibrationSummary:
  """ECE, NLL, Brier score and accuracy from what `per_example` returns.

  Args:
    examples: of `per_example`.
    bins: the number of bins, for the calibration error.
    binning: as in `reliability_curve`.
    convention: as in `reliability_curve`.
    weights: how many times each example counts, integer `[N]`; default: once.

  Returns:
    A `CalibrationSummary`.

  Raises:
    UsageError: as `reliability_curve`.

  Examples:
    A bootstrap reads the logits once:

    >>> import numpy as np
    >>> from maxsup_jax.diagnostics import bootstrap, calibration
    >>> logits, labels = np.eye(3)[[0, 0, 1, 2, 2]], np.array([0, 1, 1, 2, 0])
    >>> examples = calibration.per_example(logits, labels)
    >>> calibration.summary(examples).accuracy
    0.6
    >>> def brier(weights):
    ...   return calibration.summary(examples, weights=weights).brier_score
    >>> samples = bootstrap.bootstrap({'brier': brier}, n=5, resamples=200)
    >>> low, high = bootstrap.interval(samples['brier'])
    >>> bool(low < calibration.brier_score(logits, labels) < high)
    True
  """
  curve = _curve.reliability_curve(
    examples.confidence,
    examples.correct,
    bins=bins,
    binning=binning,
    convention=convention,
    weights=weights,
  )
  return CalibrationSummary(
    _curve.calibration_error(curve),
    _examples.mean(examples.nll, weights),
    _examples.mean(examples.brier, weights),
    _examples.mean(examples.correct.astype(np.float64), weights),
  )


def expected_calibration_error(
  logits: ArrayLike,
  labels: ArrayLike,
  *,
  bins: int = 15,
  binning: str = 'equal_width',
  convention: str = 'right',
  weights: ArrayLike | None = None,
) -> float:
  r"""Expected calibration error (ECE) of the top prediction.

  .. math:: \mathrm{ECE} = \sum_b \frac{n_b}{N} |\mathrm{acc}_b -
    \mathrm{conf}_b|

  Read it with the number of examples: a perfectly calibrated model does not
  reach 0. With 10,000 examples and 15 bins it often has about 0.01, and less
  where few of the bins are used; in general about

  .. math:: \frac{1}{N} \sqrt{\frac{2}{\pi}} \sum_b \sqrt{\sum_{i \in b}
    \mathrm{conf}_i (1 - \mathrm{conf}_i)}

  Args:
    logits: as in `per_example`.
    labels: class ids, integer `[N]`.
    bins: the number of bins.
    binning: `'equal_width'`, or `'equal_mass'` for the adaptive ECE; see
      `reliability_curve`.
    convention: `'right'`, `'left'` or `'torchmetrics'`; see
      `reliability_curve`.
    weights: how many times each example counts, integer `[N]`; default: once.

  Returns:
    A number from 0 to 1.

  Raises:
    UsageError: as `per_example` and `reliability_curve`.

  Examples:
    >>> import numpy as np
    >>> from maxsup_jax.diagnostics import calibration
    >>> logits = np.log([[0.9, 0.1], [0.9, 0.1], [0.4, 0.6]])
    >>> labels = np.array([0, 1, 1])
    >>> round(calibration.expected_calibration_error(logits, labels), 4)
    0.4

  References:
    Naeini et al., `Obtaining Well Calibrated Probabilities Using Bayesian
    Binning <https://doi.org/10.1609/aaai.v29i1.9602>`_, 2015; Guo et al., `On
    Calibration of Modern Neural Networks <https://arxiv.org/abs/1706.04599>`_,
    2017, section 2.
  """
  curve = _curve.reliability_curve(
    *_examples.top_confidence(logits, labels),
    bins=bins,
    binning=binning,
    convention=convention,
    weights=weights,
  )
  return _curve.calibration_error(curve)


def maximum_calibration_error(
  logits: ArrayLike,
  labels: ArrayLike,
  *,
  bins: int = 15,
  binning: str = 'equal_width',
  convention: str = 'right',
  weights: ArrayLike | None = None,
) -> float:
  r"""Maximum calibration error (MCE) of the top prediction.

  .. math:: \mathrm{MCE} = \max_{b: n_b > 0} |\mathrm{acc}_b -
    \mathrm{conf}_b|

  A bin with few examples easily decides it.

  Args:
    logits: as in `per_example`.
    labels: class ids, integer `[N]`.
    bins: the number of bins.
    binning: as in `expected_calibration_error`.
    convention: as in `expected_calibration_error`.
    weights: how many times each example counts, integer `[N]`; default: once.

  Returns:
    A number from 0 to 1.

  Raises:
    UsageError: as `expected_calibration_error`.

  Examples:
    >>> import numpy as np
    >>> from maxsup_jax.diagnostics import calibration
    >>> logits = np.log([[0.9, 0.1], [0.9, 0.1], [0.45, 0.55]])
    >>> labels = np.array([0, 1, 1])
    >>> round(calibration.maximum_calibration_error(logits, labels), 4)
    0.45

  References:
    Guo et al., `On Calibration of Modern Neural Networks
    <https://arxiv.org/abs/1706.04599>`_, 2017, section 2.
  """
  curve = _curve.reliability_curve(
    *_examples.top_confidence(logits, labels),
    bins=bins,
    binning=binning,
    convention=convention,
    weights=weights,
  )
  return _curve.calibration_error(curve, 'max')


def classwise_calibration_error(
  logits: ArrayLike,
  labels: ArrayLike,
  *,
  bins: int = 15,
  binning: str = 'equal_width',
  convention: str = 'right',
  weights: ArrayLike | None = None,
) -> float:
  r"""Calibration error of the probability of every class, mean over classes.

  .. math:: \frac{1}{K} \sum_k \sum_b \frac{n_{bk}}{N} |\mathrm{freq}_{bk} -
    \mathrm{conf}_{bk}|

  For each class, all `N` examples are binned by the probability that they have
  for it; :math:`\mathrm{freq}_{bk}` is the share of them with the label `k`.
  Classes without examples take part. With many classes the value is small
  whatever the model, as most probabilities are close to 0: compare it only
  between models with the same classes.

  Args:
    logits: as in `per_example`.
    labels: class ids, integer `[N]`.
    bins: the number of bins.
    binning: as in `expected_calibration_error`.
    convention: as in `expected_calibration_error`.
    weights: how many times each example counts, integer `[N]`; default: once.

  Returns:
    A number from 0 to 1.

  Raises:
    UsageError: as `expected_calibration_error`.

  Examples:
    >>> import numpy as np
    >>> from maxsup_jax.diagnostics import calibration
    >>> logits = np.log([[0.9, 0.1], [0.9, 0.1], [0.4, 0.6]])
    >>> labels = np.array([0, 1, 1])
    >>> round(calibration.classwise_calibration_error(logits, labels), 4)
    0.4

  References:
    Kull et al., `Beyond temperature scaling <https://arxiv.org/abs/1910.12656>`_,
    2019; Nixon et al., `Measuring Calibration in Deep Learning
    <https://arxiv.org/abs/1904.01685>`_, 2019, who call it SCE.
  """
  logits_NK, labels_N = _checks.logits_and_labels(logits, labels)
  K = logits_NK.shape[1]

  def log_normalizer(z_BK):
    top_B = z_BK.max(1)
    return top_B + np.log(np.exp(z_BK - top_B[:, None]).sum(1))

  log_normalizer_N = _blocks.map_rows(log_normalizer, logits_NK)
  errors = []
  for start in range(0, K, _COLUMNS):
    columns = np.ascontiguousarray(logits_NK[:, start : start + _COLUMNS].T)
    for k, z_N in enumerate(columns, start):
      curve = _curve.reliability_curve(
        np.exp(z_N - log_normalizer_N),
        labels_N == k,
        bins=bins,
        binning=binning,
        convention=convention,
        weights=weights,
      )
      errors.append(_curve.calibration_error(curve))
  return float(np.mean(errors))
