"""What is refused, and in which words."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from maxsup_jax import losses
from tests.losses.cases import every_loss, labelled_loss, scaled_loss

LOGITS = np.zeros((3, 4), np.float32)
LABELS = np.zeros(3, np.int32)


@every_loss
@pytest.mark.parametrize('compiled', [False, True])
@pytest.mark.parametrize(
  ('logits', 'kwargs', 'error', 'message'),
  [
    (LOGITS.astype(int), {}, TypeError, 'logits must be floating point'),
    (LOGITS > 0, {}, TypeError, 'logits must be floating point, got bool'),
    (LOGITS[0, 0], {}, ValueError, r'logits .* class axis -1, got shape \(\)'),
    (LOGITS, {'axis': 2}, ValueError, r'class axis 2, got shape \(3, 4\)'),
    (LOGITS, {'axis': -3}, ValueError, r'class axis -3, got shape \(3, 4\)'),
    (LOGITS, {'axis': (0, 1)}, TypeError, r'axis must be an integer, got \(0'),
    (LOGITS, {'axis': None}, TypeError, 'axis must be an integer, got None'),
    (LOGITS, {'axis': True}, TypeError, 'axis must be an integer, got True'),
    (LOGITS[:, :0], {}, ValueError, r'at least one class .* \(3, 0\)'),
  ],
)
def test_logits_and_axis(loss, compiled, logits, kwargs, error, message):
  function = jax.jit(lambda z: loss(z, LABELS, **kwargs))
  with pytest.raises(error, match=message):
    function(logits) if compiled else loss(logits, LABELS, **kwargs)


@labelled_loss
@pytest.mark.parametrize(
  ('labels', 'error', 'message'),
  [
    (LABELS[:2], ValueError, r'labels .* \(3,\) for .* \(3, 4\), got \(2,\)'),
    (LABELS[:, None], ValueError, r'labels .* ids .* got \(3, 1\)'),
    (LABELS[0], ValueError, r'labels .* got \(\)'),
    (np.zeros((3, 4), int), ValueError, r'labels .* ids .* got \(3, 4\)'),
    (LABELS > 0, TypeError, 'labels must be integer class ids'),
    (LABELS * 1j, TypeError, 'labels must be integer class ids'),
  ],
)
def test_labels(loss, labels, error, message):
  with pytest.raises(error, match=message):
    jax.eval_shape(loss, LOGITS, labels)


@pytest.mark.parametrize('shape', [(3,), (3, 1), (1, 4), (4, 3), (3, 4, 1)])
def test_shapes_of_soft_labels(shape):
  message = r'labels .* distributions .* \(3, 4\) for .* got'
  with pytest.raises(ValueError, match=message):
    losses.cross_entropy(LOGITS, np.zeros(shape, np.float32))


@every_loss
@pytest.mark.parametrize(
  ('where', 'error', 'message'),
  [
    (np.ones(3), TypeError, 'where must be boolean, got float'),
    (np.ones(3, int), TypeError, 'where must be boolean, got int'),
    (
      np.ones(4, bool),
      ValueError,
      r'where .* \(3,\) .* \(3, 4\) .* got \(4,\)',
    ),
    (np.ones((4, 3), bool), ValueError, r'where .* got \(4, 3\)'),
    (np.ones((1, 3, 4), bool), ValueError, r'where .* got \(1, 3, 4\)'),
    (np.array(True), ValueError, r'where .* got \(\)'),
  ],
)
def test_where(loss, where, error, message):
  with pytest.raises(error, match=message):
    loss(LOGITS, LABELS, where=where)


@scaled_loss
@pytest.mark.parametrize(
  ('alpha', 'error', 'message'),
  [
    ('0.1', TypeError, "must be a real number, got '0.1'"),
    (None, TypeError, 'must be a real number, got None'),
    (True, TypeError, 'must be a real number, got True'),
    (0.1j, TypeError, 'must be a real number'),
    (np.ones(4), ValueError, r'.* \(3,\) .* \(3, 4\), got \(4,\)'),
    (np.ones((1, 3)), ValueError, r'.* \(3,\) .* got \(1, 3\)'),
    (np.nan, ValueError, 'must be in .* got nan'),
    (-np.inf, ValueError, 'must be in .* got -inf'),
    (np.array([0.1, np.nan, 0.3]), ValueError, 'must be in .* got nan'),
  ],
)
def test_alpha(loss, alpha, error, message):
  loss = dataclasses.replace(loss, strength=lambda alpha: alpha)
  with pytest.raises(error, match=f'{loss.symbol} {message}'):
    loss(LOGITS, LABELS, alpha)


def test_known_alpha_is_checked_while_tracing():
  for alpha in (2.0, np.float32(2), jnp.asarray(2.0)):
    with pytest.raises(ValueError, match=r'alpha must be in .* got 2.0'):
      jax.eval_shape(
        lambda z, alpha=alpha: losses.label_smoothing_cross_entropy(
          z, LABELS, alpha
        ),
        LOGITS,
      )


def test_traced_alpha_is_not_checked():
  value = jax.jit(losses.label_smoothing_cross_entropy)(LOGITS, LABELS, 2.0)
  assert np.isfinite(value).all()


def test_traced_alpha_must_be_real():
  with pytest.raises(TypeError, match='alpha must be a real number'):
    jax.eval_shape(losses.maxsup_cross_entropy, LOGITS, LABELS, LABELS > 0)


def test_lists_and_python_numbers_are_arrays():
  value = losses.maxsup_cross_entropy([[0.0, 0.0]], [1], 1)
  np.testing.assert_allclose(value, [np.log(2)], rtol=1e-6)


weighted_loss = pytest.mark.parametrize(
  'loss',
  [
    losses.cross_entropy,
    losses.label_smoothing_cross_entropy,
    losses.maxsup_cross_entropy,
    losses.logit_penalty_cross_entropy,
    losses.confidence_penalty_cross_entropy,
    losses.logit_norm_cross_entropy,
    losses.focal_cross_entropy,
    losses.mbls_cross_entropy,
    losses.acls_cross_entropy,
    losses.zipf_cross_entropy,
    losses.adaptive_smoothing_cross_entropy,
    functools.partial(
      losses.ols_cross_entropy, targets=np.full((4, 4), 0.25, np.float32)
    ),
    functools.partial(
      losses.prior_smoothing_cross_entropy,
      prior=np.full((1, 4), 0.25, np.float32),
    ),
    functools.partial(
      losses.distillation_cross_entropy, teacher_logits=LOGITS, beta=0.3
    ),
    functools.partial(
      losses.logit_matching_cross_entropy, teacher_logits=LOGITS
    ),
  ],
)


@weighted_loss
@pytest.mark.parametrize(
  ('class_weights', 'error', 'message'),
  [
    (np.ones(3), ValueError, r'class_weights .* \(4,\) .* got \(3,\)'),
    (np.ones((3, 4)), ValueError, r'class_weights .* \(4,\) .* got \(3, 4\)'),
    (np.array([1, 1, -1, 1]), ValueError, r'class_weights .* got -1'),
    (np.array([1, np.nan, 1, 1]), ValueError, 'class_weights .* got nan'),
    (np.ones(4, bool), TypeError, 'class_weights must be a real number'),
  ],
)
def test_class_weights(loss, class_weights, error, message):
  with pytest.raises(error, match=message):
    loss(LOGITS, LABELS, class_weights=class_weights)


@pytest.mark.parametrize(
  ('teacher', 'error', 'message'),
  [
    (LOGITS[0], ValueError, r'teacher_logits must have shape \(3, 4\) like'),
    (LOGITS.astype(int), TypeError, 'teacher_logits must be floating point'),
  ],
)
@pytest.mark.parametrize(
  'loss',
  [
    losses.distillation_cross_entropy,
    losses.logit_matching_cross_entropy,
    losses.adaptive_smoothing_cross_entropy,
  ],
)
def test_teacher_logits(loss, teacher, error, message):
  with pytest.raises(error, match=message):
    loss(LOGITS, LABELS, 0.5, teacher_logits=teacher)


@pytest.mark.parametrize('shape', [(4,), (3, 3), (2, 4), (1, 3, 4)])
def test_shapes_of_a_prior(shape):
  with pytest.raises(ValueError, match=r'prior must have shape \(3, 4\)'):
    losses.prior_smoothing_cross_entropy(LOGITS, LABELS, np.ones(shape))


@pytest.mark.parametrize(
  ('call', 'message'),
  [
    (
      lambda: losses.logit_penalty(LOGITS, form='l2'),
      "form .*'full', got 'l2'",
    ),
    (
      lambda: losses.confidence_penalty(LOGITS, form='sum'),
      "form must be one of 'entropy', 'kl', 'mean', got 'sum'",
    ),
    (
      lambda: losses.distillation(LOGITS, LOGITS, divergence='js'),
      "divergence must be one of 'cross_entropy', 'kl', got 'js'",
    ),
    (
      lambda: losses.logit_matching(LOGITS, LOGITS, reduction='none'),
      "reduction must be one of 'sum', 'mean', got 'none'",
    ),
    (
      lambda: losses.distillation(LOGITS, LOGITS, student_temperature=0.0),
      r'student_temperature must be in \(0, inf\), got 0.0',
    ),
    (
      lambda: losses.logit_norm_cross_entropy(LOGITS, LABELS, 0.0),
      r'temperature must be in \(0, inf\), got 0.0',
    ),
    (
      lambda: losses.margin_penalty(LOGITS, -1.0),
      r'margin must be in \[0, inf\), got -1.0',
    ),
    (
      lambda: losses.zipf_distribution(LOGITS, -1.0),
      r'power must be in \[0, inf\), got -1.0',
    ),
    (
      lambda: losses.with_class_weights(losses.ce_objective(), [[1.0]]),
      r'class_weights must have shape \[K\], got \(1, 1\)',
    ),
  ],
)
def test_choices_and_numbers(call, message):
  with pytest.raises(ValueError, match=message):
    call()
