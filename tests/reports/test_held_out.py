"""What is fitted is never reported on the examples that it was fitted on."""

import dataclasses

import numpy as np
import pytest

from maxsup_jax.diagnostics import calibration, projection, selective
from maxsup_jax.reports import calibration as calibration_section
from maxsup_jax.reports import projection as projection_section
from maxsup_jax.reports import selective as selective_section
from maxsup_jax.reports import sets as sets_section
from maxsup_jax.reports.measured import Measured, Options, splits

OPTIONS = Options(resamples=0, seeds=(3, 4), held_out=0.3)


def test_splits_are_disjoint_and_whole():
  parts = splits(400, OPTIONS)
  for fit, rest in parts:
    assert len(fit) == 120
    assert sorted([*fit, *rest]) == list(range(400))
  assert (parts[0][0] != parts[1][0]).any()


def test_groups_are_held_out_whole():
  groups = np.random.default_rng(0).integers(0, 40, 400)
  for fit, rest in splits(400, OPTIONS, groups):
    assert len(set(groups[fit])) == 12
    assert not set(groups[fit]) & set(groups[rest])
    assert sorted([*fit, *rest]) == list(range(400))


def test_thresholds_and_norms(two_models):
  m = Measured(two_models[0])
  numbers = selective_section.section([m], OPTIONS).numbers['CE']
  logits, labels = m.outputs.logits, m.outputs.labels
  msp, wrong = m.scores['msp'], logits.argmax(1) != labels
  for i, (fit, rest) in enumerate(splits(400, OPTIONS)):
    curve = selective.risk_coverage(msp[fit], wrong[fit])
    for key, find in (
      ('risk', selective.threshold_for_risk),
      ('guaranteed_risk', selective.guaranteed_threshold),
    ):
      threshold = find(curve, 0.05).value
      record = numbers['thresholds'][i][key]
      assert record['threshold'] == threshold
      accepted = msp[rest] >= threshold
      assert record['coverage'] == accepted.mean()
      if accepted.any():
        assert record['risk'] == wrong[rest][accepted].mean()
    chosen = selective.fit_pnorm(logits[fit], labels[fit])
    curve = selective.risk_coverage(chosen.score(logits[rest]), wrong[rest])
    assert numbers['pnorm'][i]['p'] == chosen.p
    assert numbers['pnorm'][i]['after'] == selective.aurc(curve)


def test_temperatures(two_models):
  m = Measured(two_models[0])
  numbers = calibration_section.section([m], OPTIONS).numbers['CE']
  logits, labels = m.outputs.logits, m.outputs.labels
  for i, (fit, rest) in enumerate(splits(400, OPTIONS)):
    T = calibration.fit_temperature(logits[fit], labels[fit]).temperature
    record = numbers['temperature_scaling']['nll'][i]
    assert record['temperature'] == T
    examples = calibration.per_example(logits[rest] / T, labels[rest])
    after = examples.nll.mean()
    assert record['after']['nll'] == pytest.approx(after)
    # Of 120 held-out examples, 24 for each class.
    vector = calibration.fit_vector_scaling(logits[fit], labels[fit])
    scaled = calibration.per_example(vector.scaled(logits[rest]), labels[rest])
    record = numbers['temperature_scaling']['vector'][i]
    assert record['after']['nll'] == scaled.nll.mean()


def test_conformal_sets(two_models):
  m = Measured(two_models[0])
  numbers = sets_section.section([m], OPTIONS).numbers['CE']
  logits, labels = m.outputs.logits, m.outputs.labels
  for i, (fit, rest) in enumerate(splits(400, OPTIONS)):
    p = np.exp(logits.astype(np.float64))
    p /= p.sum(1, keepdims=True)
    of_labels = np.sort(1 - p[fit, labels[fit]])
    limit = of_labels[int(np.ceil(121 * 0.9)) - 1]
    record = numbers['lac']['0.9'][i]
    assert record['threshold'] == pytest.approx(limit)
    assert record['size'] == (1 - p[rest] <= limit).sum(1).mean()
    assert record['coverage'] == (1 - p[rest, labels[rest]] <= limit).mean()
    # The largest of 120 scores: 121 times 0.99 is below 120.
    assert np.isfinite(numbers['aps']['0.99'][i]['threshold'])


def test_the_plane_of_means_is_that_of_the_training_split(two_models):
  test = two_models[0]
  train = dataclasses.replace(test, features=test.features[:, ::-1].copy())
  section = projection_section.section([Measured(test, train)], OPTIONS)
  columns = section.curves['projection']
  mine = [
    i
    for i, (plane, split) in enumerate(zip(columns['plane'], columns['split']))
    if (plane, split) == ('mean_plane', 'test')
  ]
  drawn = np.array([[columns['x'][i], columns['y'][i]] for i in mine])
  plane = projection.class_mean_plane(
    train.features, train.labels, (0, 1, 2)
  ).upright()
  # All of these few examples are drawn, in their order.
  chosen = np.isin(test.labels, (0, 1, 2))
  np.testing.assert_allclose(drawn, plane.project(test.features[chosen]))
