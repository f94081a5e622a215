import numpy as np
import pytest
from numpy.testing import assert_allclose
from scipy import integrate

from maxsup_jax.diagnostics import selective


def all_metrics(confidence, errors):
  curve = selective.risk_coverage(confidence, errors)
  conventions = ('paper', 'torch_uncertainty', 'fd_shifts', 'mean')
  return [
    *(selective.aurc(curve, c) for c in conventions),
    *(selective.augrc(curve, c) for c in ('fd_shifts', 'torch_uncertainty')),
    *(selective.e_aurc(curve, r) for r in ('finite', 'closed_form')),
    selective.naurc(curve),
    selective.auroc(curve),
  ]


def some(seed, n=60, levels=None):
  rng = np.random.default_rng(seed)
  errors = rng.random(n) < 0.35
  confidence = rng.normal(size=n) - 0.8 * errors
  if levels:
    confidence = np.round(confidence * levels) / levels
  return confidence, errors


# From the published code of the paper and of FixSelectiveClassification
# (A0, NAURC, E-AURC finite), torch-uncertainty 0.13.0 and fd-shifts c4467ae.
def test_golden(golden):
  curve = selective.risk_coverage(golden.confidence, golden.errors)

  def close(value, expected, rtol=1e-9):
    assert_allclose(value, expected, rtol=rtol)

  close(selective.aurc(curve), 0.29765812890812887)
  close(selective.aurc(curve, 'torch_uncertainty'), 0.2792634133543224)
  close(selective.aurc(curve, 'fd_shifts'), 0.33932479557479556)
  close(selective.aurc(curve, 'mean'), 0.30807479557479556)
  close(selective.augrc(curve), 0.11458333333333334)
  close(selective.augrc(curve, 'torch_uncertainty'), 0.12121212121212119)
  close(selective.e_aurc(curve, 'closed_form'), 0.30508634991363104)
  # These two were computed in float32.
  close(selective.e_aurc(curve), 0.2637566099, rtol=3e-8)
  close(selective.naurc(curve), 1.2205389145, rtol=3e-8)
  # The perfect ranking has the risks 0, ..., 0, 1/10, 2/11, 3/12.
  reference = (1 / 10 + 2 / 11 + 3 / 12 / 2) / 12
  close(selective.e_aurc(curve), 0.29765812890812887 - reference)
  close(selective.auroc(curve), 0.5555555556)
  # The ranking by the log-odds is the same.
  msp = selective.scores(golden.logits)['msp']
  assert selective.aurc(selective.risk_coverage(msp, golden.errors)) == (
    selective.aurc(curve)
  )


# Cases of fd-shifts' own tests.
def test_fd_shifts():
  for confidence, errors, aurc, augrc, e_aurc in (
    ([1, 0] * 50, [0, 1] * 50, 0.125, 0.125, -0.0284264097),
    ([0, 1] * 50, [0, 1] * 50, 0.875, 0.375, None),
    ([0.5] * 100, [0, 1] * 50, 0.5, 0.25, 0.34657359028),
  ):
    curve = selective.risk_coverage(confidence, errors)
    assert_allclose(selective.aurc(curve, 'fd_shifts'), aurc)
    assert_allclose(selective.augrc(curve, 'fd_shifts'), augrc)
    if e_aurc is not None:
      assert_allclose(selective.e_aurc(curve, 'closed_form'), e_aurc)


@pytest.mark.parametrize('ties', ['expected', 'stable'])
@pytest.mark.parametrize('levels', [None, 3])
def test_areas_are_trapezoids(levels, ties):
  confidence, errors = some(1, levels=levels)
  curve = selective.risk_coverage(confidence, errors, ties=ties)
  c0 = np.append(0, curve.coverage)
  r, g = curve.risk, curve.generalized_risk
  trapezoid, n = integrate.trapezoid, len(curve)
  assert_allclose(
    [
      selective.aurc(curve),
      selective.aurc(curve, 'torch_uncertainty'),
      selective.aurc(curve, 'mean'),
      selective.augrc(curve, 'torch_uncertainty'),
    ],
    [
      trapezoid(np.append(0, r), c0),
      trapezoid(r, curve.coverage) / (1 - 1 / n),
      np.mean(r),
      trapezoid(g, curve.coverage) / (1 - 1 / n),
    ],
  )
  # Points at every distinct confidence, by the definition of a threshold.
  points = [(0, None, 0)]
  for t in sorted(set(confidence), reverse=True):
    accepted = confidence >= t
    points.append(
      (accepted.mean(), errors[accepted].mean(), (errors & accepted).mean())
    )
  c, s, g = (np.array(x, float) for x in zip(*points))
  s[0] = s[1]
  assert_allclose(selective.aurc(curve, 'fd_shifts'), trapezoid(s, c))
  assert_allclose(selective.augrc(curve, 'fd_shifts'), trapezoid(g, c))


@pytest.mark.parametrize('ties', ['expected', 'stable'])
def test_augrc_and_auroc(ties):
  """AUROC is that of scikit-learn, and AUGRC follows from it."""
  metrics = pytest.importorskip('sklearn.metrics')
  for levels in (None, 1, 3):
    confidence, errors = some(4, levels=levels)
    curve = selective.risk_coverage(confidence, errors, ties=ties)
    auroc, e = selective.auroc(curve), curve.error_rate
    assert_allclose(auroc, metrics.roc_auc_score(~errors, confidence))
    expected = (1 - auroc) * (1 - e) * e + e**2 / 2
    assert_allclose(selective.augrc(curve), expected, rtol=1e-13)


NAN = np.nan


def test_defined_values():
  # paper, TU, fd, mean, AUGRC fd, TU, E-AURC finite, closed, NAURC, AUROC
  for confidence, errors, expected in (
    ([3, 2, 1], [0] * 3, [0] * 8 + [NAN, NAN]),
    ([3, 2, 1], [1] * 3, [5 / 6, 1, 1, 1, 1 / 2, 2 / 3, 0, 0, NAN, NAN]),
    ([1], [0], [0, NAN, 0, 0, 0, NAN, 0, 0, NAN, NAN]),
    ([1], [1], [1 / 2, NAN, 1, 1, 1 / 2, NAN, 0, 0, NAN, NAN]),
  ):
    assert_allclose(all_metrics(confidence, errors), expected, atol=1e-15)
