"""Class weights of every loss, against explicit weighted targets."""

import functools

import numpy as np
import pytest

from maxsup_jax import losses
from tests.losses import reference

LOGITS = np.array(
  [[2.0, 1.0, 0.1, -1.0], [0.5, 1.5, 1.0, -0.5], [0.3, 0.2, 0.1, 0.0]]
)
LABELS = np.array([0, 2, 3])
ONE_HOT = np.eye(4)[LABELS]
MIXED = 0.7 * ONE_HOT + 0.3 * np.eye(4)[[1, 1, 0]]
WEIGHTS = np.array([1.5, 0.0, 3.0, 0.5])
TEACHER = LOGITS[:, ::-1] * 0.7
PRIOR = np.array([0.4, 0.3, 0.2, 0.1])
TARGETS = np.stack([np.roll(PRIOR, c) for c in range(4)])
UNIFORM = np.full(4, 0.25)

pytestmark = pytest.mark.usefixtures('x64')


def weighted(logits, targets):
  """Minus the sum of w t log q, example by example."""
  return np.array(
    [
      reference.weighted_cross_entropy(z, t, WEIGHTS)
      for z, t in zip(logits, targets)
    ]
  )


def smoothed(labels, others):
  return [np.array(reference.others_target(y, others)) for y in labels]


def weighted_entropy(targets):
  return np.array([-np.sum(WEIGHTS * t * np.log(t)) for t in targets])


def softmax(logits):
  return np.array([reference.softmax(z) for z in logits])


def unit(logits):
  return logits / (np.linalg.norm(logits, axis=-1, keepdims=True) + 1e-7)


def penalised(penalty):
  return lambda labels: weighted(LOGITS, labels) + 0.3 * penalty(LOGITS)


# The loss, and what it must be with weights.
FAMILY = {
  'ls_others': (
    functools.partial(
      losses.label_smoothing_cross_entropy, alpha=0.3, convention='others'
    ),
    lambda labels: weighted(LOGITS, smoothed(labels, 0.3)),
  ),
  'ls_kl': (
    functools.partial(
      losses.label_smoothing_cross_entropy, alpha=0.3, convention='kl'
    ),
    lambda labels: (
      weighted(LOGITS, smoothed(labels, 0.3))
      - weighted_entropy(smoothed(labels, 0.3))
    ),
  ),
  'prior': (
    functools.partial(
      losses.prior_smoothing_cross_entropy, prior=PRIOR[None], alpha=0.3
    ),
    lambda labels: weighted(LOGITS, 0.7 * labels + 0.3 * PRIOR),
  ),
  'adaptive': (
    functools.partial(
      losses.adaptive_smoothing_cross_entropy,
      alpha=0.3,
      teacher_logits=TEACHER,
      temperature=2.0,
    ),
    lambda labels: weighted(LOGITS, 0.7 * labels + 0.3 * softmax(TEACHER / 2)),
  ),
  'self': (
    functools.partial(losses.adaptive_smoothing_cross_entropy, alpha=0.3),
    lambda labels: weighted(LOGITS, 0.7 * labels + 0.3 * softmax(LOGITS)),
  ),
  'ols': (
    functools.partial(losses.ols_cross_entropy, targets=TARGETS, alpha=0.3),
    lambda labels: weighted(LOGITS, 0.3 * labels + 0.7 * TARGETS[LABELS]),
  ),
  'logit_norm': (
    functools.partial(losses.logit_norm_cross_entropy, temperature=0.3),
    lambda labels: weighted(unit(LOGITS) / 0.3, labels),
  ),
  'logit_penalty': (
    functools.partial(losses.logit_penalty_cross_entropy, alpha=0.3),
    penalised(losses.logit_penalty),
  ),
  'confidence_penalty': (
    functools.partial(losses.confidence_penalty_cross_entropy, alpha=0.3),
    penalised(losses.confidence_penalty),
  ),
  'mbls': (
    functools.partial(losses.mbls_cross_entropy, alpha=0.3, margin=0.4),
    penalised(lambda z: losses.margin_penalty(z, 0.4)),
  ),
  'acls': (
    functools.partial(losses.acls_cross_entropy, alpha=0.3, margin=0.4),
    penalised(lambda z: losses.acls_penalty(z, 0.4)),
  ),
  'zipf': (
    functools.partial(losses.zipf_cross_entropy, alpha=0.3),
    penalised(lambda z: losses.zipf_penalty(z, LABELS)),
  ),
  'distillation': (
    functools.partial(
      losses.distillation_cross_entropy, beta=0.3, teacher_logits=TEACHER
    ),
    lambda labels: (
      0.7 * weighted(LOGITS, labels)
      + 0.3 * losses.distillation(LOGITS, TEACHER)
    ),
  ),
  'logit_matching': (
    functools.partial(
      losses.logit_matching_cross_entropy, beta=0.3, teacher_logits=TEACHER
    ),
    lambda labels: (
      0.7 * weighted(LOGITS, labels)
      + 0.3 * losses.logit_matching(LOGITS, TEACHER)
    ),
  ),
}
CLASS_IDS_ONLY = ('ols', 'zipf')


@pytest.mark.parametrize('name', FAMILY)
def test_weighted_targets(name):
  loss, expected = FAMILY[name]
  for labels, distributions in ((LABELS, ONE_HOT), (MIXED, MIXED)):
    if name in CLASS_IDS_ONLY and labels is MIXED:
      continue
    actual = loss(LOGITS, labels, class_weights=WEIGHTS)
    np.testing.assert_allclose(actual, expected(distributions), rtol=1e-12)


def test_a_class_without_weight_may_be_impossible():
  logits = np.where(WEIGHTS == 0, -np.inf, LOGITS)
  actual = losses.label_smoothing_cross_entropy(
    logits, LABELS, 0.3, class_weights=WEIGHTS
  )
  targets = 0.7 * ONE_HOT + 0.3 / 4
  kept = WEIGHTS > 0
  log_q = np.log(softmax(LOGITS[:, kept]))
  expected = -np.sum((WEIGHTS * targets)[:, kept] * log_q, -1)
  np.testing.assert_allclose(actual, expected, rtol=1e-12)
