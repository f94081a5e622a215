"""Properties of all losses, on inputs that hypothesis chooses."""

import functools

import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from tests.losses.cases import CASES, all_values, every_loss

B, K = 3, 4
PROPERTY = hypothesis.settings(max_examples=40, deadline=None, derandomize=True)
# Sixteenths, so that shifts are exact and ties are common.
LOGITS = hnp.arrays(np.int32, (B, K), elements=st.integers(-160, 160)).map(
  lambda x: x / 16
)
LABELS = hnp.arrays(np.int32, B, elements=st.integers(0, K - 1))
MASK = hnp.arrays(np.bool_, (B, K))

pytestmark = pytest.mark.usefixtures('x64')


def agree(actual, expected, names=None):
  for name in names or expected:
    np.testing.assert_allclose(
      actual[name], expected[name], rtol=1e-9, atol=1e-12, err_msg=name
    )


values = jax.jit(all_values)
at_axis_0 = jax.jit(functools.partial(all_values, axis=0))


@hypothesis.given(LOGITS, LABELS, st.integers(-1000, 1000))
@PROPERTY
def test_shifts_do_not_matter(logits, labels, shift):
  names = [case.name for case in CASES if case.shift_invariant]
  agree(values(logits + shift, labels), values(logits, labels), names)


@hypothesis.given(LOGITS, LABELS)
@PROPERTY
def test_one_hot_labels_are_class_ids(logits, labels):
  one_hot = values(logits, np.eye(K)[labels])
  agree(one_hot, values(logits, labels), names=one_hot)


@hypothesis.given(LOGITS, LABELS, MASK)
@PROPERTY
def test_axis_is_moveaxis(logits, labels, where):
  where[np.arange(B), labels] = where.any(-1)
  agree(
    at_axis_0(logits.T, labels, where=where.T),
    values(logits, labels, where=where),
  )


# What a case takes besides is tied to the numbers of the classes.
ORDERLESS = [
  case
  for case in CASES
  if not (case.per_class or case.per_logit or case.per_label)
]


@jax.jit
def orderless_values(logits, labels, where):
  return {case.name: case(logits, labels, where=where) for case in ORDERLESS}


@hypothesis.given(LOGITS, LABELS, MASK, st.permutations(range(K)))
@PROPERTY
def test_the_order_of_classes_does_not_matter(logits, labels, where, order):
  where[np.arange(B), labels] = where.any(-1)
  order = np.array(order)
  agree(
    orderless_values(
      logits[:, order], np.argsort(order)[labels], where[:, order]
    ),
    orderless_values(logits, labels, where),
  )


@hypothesis.given(LOGITS, LABELS, st.integers(0, K - 1))
@PROPERTY
def test_masked_classes_are_removed_classes(logits, labels, removed):
  labels[labels == removed] = (removed + 1) % K
  kept = np.arange(K) != removed
  where = np.broadcast_to(kept, (B, K))
  spoilt = np.where(kept, logits, np.nan)
  agree(
    orderless_values(spoilt, labels, where),
    orderless_values(
      logits[:, kept], labels - (labels > removed), np.ones((B, K - 1), bool)
    ),
  )


# Curvature


def hessians(case, logits, labels, where=None):
  function = functools.partial(case, labels=labels, where=where)
  return jax.vmap(jax.hessian(function))(logits)


@every_loss
@pytest.mark.parametrize(
  'row', [[1.0, 2.0, 0.5, -3.0], [2.0, 2.0, 2.0, -1.0], [0.0, 0.0, 0.0, 0.0]]
)
def test_second_derivatives_are_finite(loss, row):
  if loss.name == 'logit_norm' and not any(row):
    pytest.skip('the norm has no derivatives at 0')
  for label in range(K):
    hessian = jax.hessian(lambda z, y=label: loss(z, y))(jnp.array(row))
    assert np.isfinite(hessian).all()
    if loss.shift_invariant:
      np.testing.assert_allclose(hessian.sum(-1), 0, atol=1e-12)
    if not loss.frozen:
      np.testing.assert_allclose(hessian, hessian.T, atol=1e-12)


@every_loss
def test_second_derivatives_of_masked_logits_are_zero(loss):
  logits = jnp.array([1.0, np.nan, 0.5, -3.0])
  where = np.array([True, False, True, True])
  hessian = jax.hessian(lambda z: loss(z, 2, where=where))(logits)
  assert np.isfinite(hessian).all()
  assert not hessian[1].any()
  assert not hessian[:, 1].any()


# Logits of -inf that are not masked

INFINITE = {
  # The mean, a distance or a prior weighs every class.
  'ls',
  'ls_others',
  'ls_kl',
  'ls_weighted',
  'penalty',
  'maxsup',
  'maxsup_weighted',
  'regularization',
  'regularization_below',
  'square',
  'square_full',
  'logit_penalty',
  'logit_penalty_full',
  'margin_penalty',
  'mbls',
  'acls_penalty',
  'acls',
  'ols',
  'zipf_penalty',
  'zipf',
  'zipf_votes',
  'prior_smoothing',
  'adaptive',
  'distillation',
  'distillation_hinton',
  'distillation_mixture',
  'logit_matching',
  'logit_matching_mean',
  'logit_matching_mixture',
}


@every_loss
def test_logits_of_minus_infinity(loss):
  """They have probability 0: a loss is what it is without them, or infinite."""
  logits = np.array([[1.0, -np.inf, 0.5, -3.0]])
  labels = np.array([2])
  value, gradient = jax.value_and_grad(lambda z: jnp.sum(loss(z, labels)))(
    logits
  )
  if loss.name == 'logit_norm':
    assert np.isnan(value)  # The norm is infinite.
  elif loss.name in INFINITE:
    assert value == np.inf
  else:
    expected = {
      'entropy_mean': lambda v: v * 3 / 4,
      'entropy_kl': lambda v: v + np.log(4 / 3),
      # The others are counted, and have nothing to add.
      'amplification': lambda v: v * 3 / 4,
    }.get(loss.name, lambda v: v)
    kept = np.array([[True, False, True, True]])
    without = float(loss(logits, labels, where=kept)[0])
    np.testing.assert_allclose(value, expected(without), rtol=1e-12)
    assert np.isfinite(gradient).all()
    assert gradient[0, 1] == 0
