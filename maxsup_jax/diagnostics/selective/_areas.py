"""Areas under the risk-coverage curve, and the failure AUROC."""

import math

import numpy as np
from scipy import special

from maxsup_jax.diagnostics import _checks
from maxsup_jax.diagnostics.selective._curve import RiskCoverage

AURC_CONVENTIONS = ('paper', 'torch_uncertainty', 'fd_shifts', 'mean')
AUGRC_CONVENTIONS = ('fd_shifts', 'torch_uncertainty')
REFERENCES = ('finite', 'closed_form')


def aurc(curve: RiskCoverage, convention: str = 'paper') -> float:
  r"""The area under the risk-coverage curve; 0 is best.

  Four numbers have this name. With the selective risks :math:`r_1 \dots r_N`
  at the coverages :math:`i/N`:

  * `'paper'`: the trapezoidal rule from coverage 0, where the risk is set to
    0: :math:`A_0 = \frac{1}{N} (\sum_i r_i - \frac{1}{2} r_N)`;
  * `'torch_uncertainty'`: the trapezoidal rule from coverage 1/N, divided by
    the length of that range: :math:`(N A_0 - \frac{1}{2} r_1) / (N - 1)`. NaN
    for one example, where that length is 0;
  * `'fd_shifts'`: the trapezoidal rule over the points that a threshold can
    reach, with the first risk extended to coverage 0. It does not depend on
    how ties are broken. Without ties it is :math:`A_0 + r_1 / (2N)`;
  * `'mean'`: the mean selective risk, :math:`\frac{1}{N} \sum_i r_i =
    A_0 + r_N / (2N)`.

  If all examples tie, the error rate e results, and e - e/(2N) for `'paper'`.

  Args:
    curve: a risk-coverage curve.
    convention: one of the above. `'paper'` is what the code published with
      the paper computes; FixSelectiveClassification has the same one.

  Returns:
    The area, from 0 to 1. torch-uncertainty and the paper print it in percent,
    fd-shifts times 1000.

  Raises:
    UsageError: if the convention is unknown.

  Examples:
    >>> from maxsup_jax.diagnostics import selective
    >>> curve = selective.risk_coverage([0.9, 0.8, 0.7, 0.5], [0, 0, 1, 1])
    >>> for convention in ('paper', 'torch_uncertainty', 'fd_shifts', 'mean'):
    ...   print(convention, round(selective.aurc(curve, convention), 6))
    paper 0.145833
    torch_uncertainty 0.194444
    fd_shifts 0.145833
    mean 0.208333

  References:
    Xia et al., `Towards Understanding Why Label Smoothing Degrades Selective
    Classification and How to Fix It <https://arxiv.org/abs/2403.14715>`_, 2025;
    Geifman et al., `Bias-Reduced Uncertainty Estimation for Deep Neural
    Classifiers <https://arxiv.org/abs/1805.08206>`_, 2019.
  """
  _checks.one_of(convention, 'convention', AURC_CONVENTIONS)
  risk, n = curve.risk, len(curve)
  if convention == 'fd_shifts':
    risk, coverage = _reachable(curve, curve.risk)
    return _trapezoid(
      np.append(risk[0], risk), np.concatenate([[0.0], coverage])
    )
  if convention == 'mean':
    return float(risk.mean())
  area = (risk.sum() - risk[-1] / 2) / n
  if convention == 'paper':
    return float(area)
  return _without_start(area, risk[0], n)


def augrc(curve: RiskCoverage, convention: str = 'fd_shifts') -> float:
  r"""The area under the generalised-risk-coverage curve; 0 is best.

  The expected error of the accepted examples, counted over all examples, at a
  random threshold. With acc the accuracy and :math:`\mathrm{AUROC}_f` from
  `auroc`, `'fd_shifts'` is exactly

  .. math:: (1 - \mathrm{AUROC}_f)\, \mathrm{acc}\, (1 - \mathrm{acc})
    + \tfrac{1}{2} (1 - \mathrm{acc})^2

  * `'fd_shifts'`: the trapezoidal rule over the points that a threshold can
    reach, from coverage 0, where the generalised risk is 0. It does not depend
    on how ties are broken;
  * `'torch_uncertainty'`: the trapezoidal rule over all points from coverage
    1/N, divided by the length of that range. NaN for one example, where that
    length is 0.

  Args:
    curve: a risk-coverage curve.
    convention: one of the above.

  Returns:
    The area, from 0 to 1/2 for `'fd_shifts'`, which prints it times 1000. For
    `'torch_uncertainty'` it may be more if there are few examples: 0.625 if
    four wrong ones tie.

  Raises:
    UsageError: if the convention is unknown.

  Examples:
    >>> from maxsup_jax.diagnostics import selective
    >>> curve = selective.risk_coverage([0.9, 0.8, 0.7, 0.5], [0, 0, 1, 1])
    >>> selective.augrc(curve)
    0.125

  References:
    Traub et al., `Overcoming Common Flaws in the Evaluation of Selective
    Classification Systems <https://arxiv.org/abs/2407.01032>`_, 2024.
  """
  _checks.one_of(convention, 'convention', AUGRC_CONVENTIONS)
  risk, n = curve.generalized_risk, len(curve)
  if convention == 'fd_shifts':
    risk, coverage = _reachable(curve, risk)
    return _trapezoid(
      np.concatenate([[0.0], risk]), np.concatenate([[0.0], coverage])
    )
  return _without_start((risk.sum() - risk[-1] / 2) / n, risk[0], n)


def e_aurc(curve: RiskCoverage, reference: str = 'finite') -> float:
  r"""The excess of the AURC over that of a perfect ranking; 0 is best.

  * `'finite'`: both areas of the same N examples, in the convention
    `'paper'`; never negative with ties `'expected'` but for rounding;
  * `'closed_form'`: the AURC in the convention `'fd_shifts'`, less
    :math:`e + (1 - e) \ln(1 - e)` with e the error rate: the area for
    infinitely many examples. It may be negative.

  Args:
    curve: a risk-coverage curve.
    reference: one of the above.

  Returns:
    The difference; 0 if no example is wrong, or all are.

  Raises:
    UsageError: if the reference is unknown.

  Examples:
    >>> from maxsup_jax.diagnostics import selective
    >>> curve = selective.risk_coverage([0.9, 0.8, 0.7, 0.5], [0, 1, 0, 1])
    >>> round(selective.e_aurc(curve), 6)
    0.125
    >>> round(selective.e_aurc(curve, 'closed_form'), 6)
    0.117407

  References:
    Geifman et al., `Bias-Reduced Uncertainty Estimation for Deep Neural
    Classifiers <https://arxiv.org/abs/1805.08206>`_, 2019; the finite
    reference: Cattelan and Silva, `How to Fix a Broken Confidence Estimator
    <https://arxiv.org/abs/2305.15508>`_, 2024.
  """
  _checks.one_of(reference, 'reference', REFERENCES)
  if reference == 'finite':
    return aurc(curve) - _perfect_aurc(curve)
  e = curve.error_rate
  return float(aurc(curve, 'fd_shifts') - (e + special.xlog1py(1 - e, -e)))


def naurc(curve: RiskCoverage) -> float:
  r"""The normalised AURC: 0 for a perfect ranking, 1 for a random one.

  .. math:: \frac{A_0 - A_0^*}{e - A_0^*}

  with :math:`A_0` the AURC in the convention `'paper'`, :math:`A_0^*` that of
  a perfect ranking of the same examples, and e the error rate. It exceeds 1 for
  a ranking that is worse than random.

  Args:
    curve: a risk-coverage curve.

  Returns:
    The number; NaN if all errors are equal (as when no example is wrong, or
    all are), where every ranking is perfect and random at once.

  Examples:
    >>> from maxsup_jax.diagnostics import selective
    >>> curve = selective.risk_coverage([0.9, 0.8, 0.7, 0.5], [0, 1, 0, 1])
    >>> round(selective.naurc(curve), 6)
    0.352941

  References:
    Cattelan and Silva, `How to Fix a Broken Confidence Estimator
    <https://arxiv.org/abs/2305.15508>`_, 2024.
  """
  if (curve.errors == curve.errors[0]).all():
    return math.nan
  perfect = _perfect_aurc(curve)
  return (aurc(curve) - perfect) / (curve.error_rate - perfect)


def auroc(curve: RiskCoverage) -> float:
  r"""The failure AUROC: how well the confidence tells right from wrong.

  .. math:: P(\kappa_\mathrm{correct} > \kappa_\mathrm{wrong})
    + \tfrac{1}{2} P(\kappa_\mathrm{correct} = \kappa_\mathrm{wrong})

  over pairs of a correct and a wrong example. Errors between 0 and 1 count as
  that part of a wrong example, and the rest of a correct one. It does not
  depend on how ties are broken.

  Args:
    curve: a risk-coverage curve.

  Returns:
    From 0 to 1; 0.5 if all examples tie; NaN if no example is wrong or none is
    correct, where there is no such pair.

  Examples:
    >>> from maxsup_jax.diagnostics import selective
    >>> curve = selective.risk_coverage([0.9, 0.8, 0.8, 0.5], [0, 1, 0, 1])
    >>> selective.auroc(curve)
    0.875

  References:
    Hendrycks and Gimpel, `A Baseline for Detecting Misclassified and
    Out-of-Distribution Examples in Neural Networks
    <https://arxiv.org/abs/1610.02136>`_, 2017.
  """
  # The sums of the errors themselves: exact where errors are 0 or 1.
  wrong = np.diff(np.cumsum(curve.errors)[curve.ends - 1], prepend=0.0)
  correct = np.diff(curve.ends, prepend=0) - wrong
  pairs = wrong.sum() * correct.sum()
  if not pairs:
    return math.nan
  below = wrong.sum() - np.cumsum(wrong)
  return float((correct * (below + wrong / 2)).sum() / pairs)


def _reachable(
  curve: RiskCoverage, values: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
  """Values and coverages at the points that a threshold can reach."""
  return values[curve.ends - 1], curve.coverage[curve.ends - 1]


def _trapezoid(y: np.ndarray, x: np.ndarray) -> float:
  return float(((y[1:] + y[:-1]) * np.diff(x)).sum() / 2)


def _without_start(area: float, first: float, n: int) -> float:
  """The mean over coverages from 1/n on, of a curve that starts with 0 at 0."""
  return float((n * area - first / 2) / (n - 1)) if n > 1 else math.nan


def _perfect_aurc(curve: RiskCoverage) -> float:
  """The AURC, 'paper', of the same errors in the best order."""
  risk = np.cumsum(np.sort(curve.errors)) / np.arange(1, len(curve) + 1)
  return float((risk.sum() - risk[-1] / 2) / len(curve))
