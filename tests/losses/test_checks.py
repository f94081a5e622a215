"""What is refused: by the readers that all losses share, and by each loss."""

import functools

import jax
import numpy as np
import pytest

from maxsup_jax import losses
from maxsup_jax.losses import OBJECTIVES

LOGITS = np.zeros((3, 4), np.float32)
LABELS = np.zeros(3, np.int32)
ONES = np.ones(4)
maxsup = losses.maxsup_cross_entropy


def test_shared_arguments():
  for arguments, error, message in (
    ({'logits': LOGITS > 0}, TypeError, 'logits is bool; expected floating'),
    ({'logits': LOGITS[0, 0]}, ValueError, r'axis is -1; .* shape \(\)'),
    ({'axis': 2}, ValueError, r'axis is 2; .* shape \(3, 4\)'),
    ({'axis': -3}, ValueError, r'axis is -3; .* shape \(3, 4\)'),
    ({'axis': (0, 1)}, TypeError, r'axis is \(0, 1\); expected an integer'),
    ({'axis': True}, TypeError, 'axis is True; expected an integer'),
    ({'logits': LOGITS[:, :0]}, ValueError, r'\(3, 0\); expected at least one'),
    ({'labels': LABELS[:2]}, ValueError, r'\(2,\); expected \(3,\) of class'),
    ({'labels': LABELS[0]}, ValueError, r'labels has shape \(\); expected'),
    ({'labels': LABELS[:, None]}, ValueError, r'\(3, 1\); expected \(3,\)'),
    ({'labels': LOGITS[:1]}, ValueError, r'\(1, 4\); expected \(3, 4\) of dis'),
    ({'labels': LABELS * 1j}, TypeError, 'labels are complex'),
    ({'where': np.ones(3)}, TypeError, 'where is float32; expected bool'),
    ({'where': ONES > 0}, ValueError, r'\(4,\); expected \(3,\) \(per exam'),
    ({'where': LOGITS.T == 0}, ValueError, r'where has shape \(4, 3\)'),
    ({'where': np.array(True)}, ValueError, r'where has shape \(\)'),
    ({'alpha': '0.1'}, TypeError, "alpha is '0.1'; expected a real number"),
    ({'alpha': None}, TypeError, 'alpha is None; expected a real number'),
    ({'alpha': True}, TypeError, 'alpha is True; expected a real number'),
    ({'alpha': 0.1j}, TypeError, 'alpha is 0.1j; expected a real number'),
    ({'alpha': ONES}, ValueError, r'\(4,\); expected a scalar or \(3,\)'),
    ({'alpha': np.ones((1, 3))}, ValueError, r'alpha has shape \(1, 3\)'),
    ({'alpha': -0.1}, ValueError, 'alpha is -0.1; expected at least 0'),
    ({'alpha': np.inf}, ValueError, 'alpha is inf; expected'),
    ({'alpha': np.array([0.1, np.nan, 1])}, ValueError, 'alpha is nan'),
    ({'class_weights': ONES[1:]}, ValueError, r'\(3,\); expected \(4,\)'),
    ({'class_weights': -ONES}, ValueError, 'class_weights is -1.0; expected'),
    ({'class_weights': ONES * np.nan}, ValueError, 'class_weights is nan'),
    ({'class_weights': ONES > 0}, TypeError, 'class_weights is .*real number'),
  ):
    arguments = {'logits': LOGITS, 'labels': LABELS, **arguments}
    with pytest.raises(error, match=message):
      maxsup(**arguments)


def test_shapes_and_dtypes_are_checked_while_tracing():
  with pytest.raises(TypeError, match='logits is int32'):
    jax.eval_shape(maxsup, LABELS, LABELS)
  with pytest.raises(ValueError, match='labels has shape'):
    jax.eval_shape(maxsup, LOGITS, LABELS[1:])


def test_known_alpha_is_checked_while_tracing():
  with pytest.raises(ValueError, match=r'alpha is 2.0; expected at most 1'):
    jax.eval_shape(
      lambda z: losses.label_smoothing_cross_entropy(z, LABELS, 2.0), LOGITS
    )
  # The value of a traced one is not known, but its dtype is.
  smoothed = jax.jit(losses.label_smoothing_cross_entropy)
  assert np.isfinite(smoothed(LOGITS, LABELS, 2.0)).all()
  with pytest.raises(TypeError, match='expected a real number'):
    jax.eval_shape(maxsup, LOGITS, LABELS, LABELS > 0)


def test_lists_and_python_numbers_are_arrays():
  value = maxsup([[0.0, 0.0]], [1], 1)
  np.testing.assert_allclose(value, [np.log(2)], rtol=1e-6)


smoothing = functools.partial(
  losses.label_smoothing_cross_entropy, LOGITS, LABELS
)
adaptive = functools.partial(
  losses.adaptive_smoothing_cross_entropy, LOGITS, LABELS
)
zipf = functools.partial(losses.zipf_cross_entropy, LOGITS, LABELS)
prior = functools.partial(losses.prior_smoothing_cross_entropy, LOGITS, LABELS)
distil = functools.partial(losses.distillation, LOGITS, LOGITS)
acls = functools.partial(losses.acls_penalty, LOGITS)
below = functools.partial(losses.smoothing_regularization, LOGITS, LABELS)
above = functools.partial(losses.error_amplification, LOGITS, LABELS)
ols = functools.partial(losses.ols_cross_entropy, LOGITS, LABELS)


def test_arguments_of_one_loss():
  for call, message in (
    (lambda: smoothing(convention='torch'), "convention is 'torch'; expected"),
    (lambda: smoothing(1.01, convention='others'), 'at most 1'),
    (lambda: smoothing(-0.1, convention='kl'), 'from 0 to 1'),
    (lambda: below(normalization='above'), 'expected one of classes, below'),
    (lambda: above(normalization='below'), 'one of classes, above, max'),
    (lambda: above(2.0), 'at most 1'),
    (lambda: below(2.0), 'at most 1'),
    (lambda: losses.logit_penalty(LOGITS, form='l2'), 'form is .* half, full'),
    (lambda: losses.confidence_penalty(LOGITS, form='sum'), 'entropy, kl, me'),
    (lambda: distil(divergence='js'), 'divergence is .* cross_entropy, kl'),
    (lambda: distil(student_temperature=0.0), 'student_temperature is 0.0; ex'),
    (lambda: distil(teacher_temperature=-1.0), 'teacher_temperature is -1.0; '),
    (
      lambda: losses.logit_matching(LOGITS, LOGITS, reduction='none'),
      'reduction is .* sum, mean',
    ),
    (
      lambda: losses.logit_matching(LOGITS, LOGITS[0]),
      r'teacher_logits has shape \(4,\); expected \(3, 4\), the shape of the l',
    ),
    (lambda: adaptive(temperature=0.0), 'temperature is 0.0; expected above 0'),
    (lambda: adaptive(teacher_logits=LOGITS[0]), 'teacher_logits has shape'),
    (
      lambda: losses.logit_norm_cross_entropy(LOGITS, LABELS, 0.0),
      'temperature is 0.0; expected above 0',
    ),
    (lambda: losses.margin_penalty(LOGITS, -1.0), 'margin is -1.0; expected'),
    (lambda: acls(top_weight=-1.0), 'top_weight is -1.0; expected at least 0'),
    (lambda: acls(rest_weight=-1.0), 'rest_weight is -1.0; expected at least'),
    (lambda: losses.zipf_distribution(LOGITS, -1.0), 'power is -1.0; expected'),
    (
      lambda: zipf(votes=LOGITS[:2]),
      r'votes has shape \(2, 4\); expected \(3,',
    ),
    (lambda: prior(LOGITS[0]), r'prior has shape \(4,\); expected \(3, 4\)'),
    (
      lambda: ols(np.ones((3, 3))),
      r'targets has shape \(3, 3\); expected \(4,',
    ),
    (
      lambda: losses.with_class_weights(OBJECTIVES['ce'](), [[1.0]]),
      r'class_weights has shape \(1, 1\); expected \[K\]',
    ),
  ):
    with pytest.raises(ValueError, match=message):
      call()


def test_other_arrays_must_be_floating_point():
  for call in (
    lambda: adaptive(teacher_logits=LOGITS.astype(int)),
    lambda: losses.distillation(LOGITS, LOGITS.astype(int)),
    lambda: zipf(votes=LOGITS.astype(int)),
    lambda: ols(np.ones((4, 4), int)),
    lambda: prior(LABELS),
  ):
    with pytest.raises(TypeError, match=r'is int.*; expected floating point'):
      call()
