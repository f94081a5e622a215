"""Selective classification: accept confident predictions and count errors.

A confidence is a number per example, larger is surer; `scores` computes those
of logits that are in use, and `fit_pnorm` fits one. `risk_coverage` sorts the
examples by it; all metrics are functions of that curve:

>>> import numpy as np
>>> from maxsup_jax.diagnostics import selective
>>> logits = np.array([[4.0, 0, 0], [3, 0, 0], [0, 2, 0], [0, 0.5, 1]])
>>> errors = selective.errors(logits, [0, 1, 1, 1])
>>> curve = selective.risk_coverage(selective.scores(logits)['msp'], errors)
>>> print(curve.risk.round(4))
[0.     0.5    0.3333 0.5   ]
>>> print(round(selective.aurc(curve), 4), selective.auroc(curve))
0.2708 0.75

Examples that tie in the confidence are accepted in a random order, and a curve
is the expectation over it: no metric depends on the order of the examples.

`suppression` and `max_logit_given_confidence` are for the question why a loss
changes the ranking.
"""

from maxsup_jax.diagnostics.selective.curve import (
  Ranking,
  RiskCoverage,
  Threshold,
  apply_threshold,
  augrc,
  aurc,
  auroc,
  coverage_at_risk,
  e_aurc,
  guaranteed_threshold,
  naurc,
  risk_at_coverage,
  risk_coverage,
  selective_accuracy_coverage,
  threshold_for_coverage,
  threshold_for_risk,
)
from maxsup_jax.diagnostics.selective.pnorm import fit_pnorm, max_logit_pnorm
from maxsup_jax.diagnostics.selective.scores import (
  SCORES,
  errors,
  pool_pixels,
  scores,
)
from maxsup_jax.diagnostics.selective.top_logit import (
  expected_suppression,
  max_logit_given_confidence,
  suppression,
)

__all__ = [
  'SCORES',
  'Ranking',
  'RiskCoverage',
  'Threshold',
  'apply_threshold',
  'augrc',
  'aurc',
  'auroc',
  'coverage_at_risk',
  'e_aurc',
  'errors',
  'expected_suppression',
  'fit_pnorm',
  'guaranteed_threshold',
  'max_logit_given_confidence',
  'max_logit_pnorm',
  'naurc',
  'pool_pixels',
  'risk_at_coverage',
  'risk_coverage',
  'scores',
  'selective_accuracy_coverage',
  'suppression',
  'threshold_for_coverage',
  'threshold_for_risk',
]
