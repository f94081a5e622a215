"""Every loss against its definition, and under every transformation of JAX."""

import functools
import subprocess
import sys

import hypothesis
import jax
import jax.numpy as jnp
import jax.test_util
import numpy as np
import pytest
from hypothesis import strategies as st

from maxsup_jax import losses
from tests.losses.cases import (
  CASES,
  all_values,
  evaluate,
  every_loss,
  scaled_loss,
  shift_invariant_loss,
  soft_loss,
)

B, K = 4, 5


@pytest.fixture
def logits():
  return np.random.default_rng(0).normal(size=(B, K)).astype(np.float32) * 3


@pytest.fixture
def labels():
  return np.array([3, 1, 2, 0], np.int32)


@pytest.fixture
def mixed():
  rng = np.random.default_rng(1)
  return rng.dirichlet(np.ones(K), size=B).astype(np.float32)


@pytest.fixture
def mask():
  """Masks classes of two examples, and another example."""
  mask = np.ones((B, K), bool)
  mask[0, 1:3] = mask[1, 0] = mask[2] = False
  return mask


# Values and gradients


@every_loss
@pytest.mark.parametrize('alpha', [0.1, 1])
def test_equals_reference(loss, logits, labels, alpha):
  expected = loss.expected(logits, labels, alpha)
  actual, _ = evaluate(loss, logits, labels, alpha)
  np.testing.assert_allclose(actual, expected, rtol=2e-5, atol=1e-6)


@soft_loss
def test_equals_reference_with_soft_labels(loss, logits, mixed):
  expected = loss.expected(logits, mixed)
  actual, _ = evaluate(loss, logits, mixed)
  np.testing.assert_allclose(actual, expected, rtol=2e-5)


@pytest.mark.usefixtures('x64')
@every_loss
@pytest.mark.parametrize('masked', [False, True])
def test_gradient_equals_reference(loss, logits, labels, mask, masked):
  where = mask if masked else None
  logits = logits.astype(np.float64)
  expected = loss.expected_gradient(logits, labels, 0.3, where)
  for actual, desired in zip(
    evaluate(loss, logits, labels, 0.3, where), expected
  ):
    np.testing.assert_allclose(actual, desired, rtol=1e-7, atol=1e-8)


ROWS_3X4 = st.lists(st.integers(-3, 3), min_size=12, max_size=12)


@pytest.mark.usefixtures('x64')
@hypothesis.given(
  halves=ROWS_3X4,
  flags=st.lists(st.booleans(), min_size=12, max_size=12),
  labels=st.lists(st.integers(0, 3), min_size=3, max_size=3),
  alpha=st.floats(0, 1),
)
@hypothesis.settings(max_examples=60, deadline=None, derandomize=True)
def test_equals_reference_on_ties_and_any_mask(halves, flags, labels, alpha):
  # So few values that most rows have ties, at the top and elsewhere.
  logits = np.reshape(halves, (3, 4)) / 2
  where = np.reshape(flags, (3, 4))
  labels = np.array(labels)
  # An example keeps the class of its label, or is masked as a whole.
  where[np.arange(3), labels] = where.any(-1)
  for case in CASES:
    actual, rows = evaluate(case, logits, labels, alpha, where)
    expected = case.expected(logits, labels, alpha, where)
    np.testing.assert_allclose(actual, expected, atol=1e-12, err_msg=case.name)
    if case.shift_invariant:
      np.testing.assert_allclose(rows.sum(-1), 0, atol=1e-12, err_msg=case.name)


@pytest.mark.usefixtures('x64')
@pytest.mark.parametrize(
  ('masked', 'order'),
  [pytest.param(False, 2, marks=pytest.mark.slow), (True, 1)],
)
def test_gradients_equal_finite_differences(
  logits, labels, mask, masked, order
):
  where = mask if masked else None
  function = jax.jit(
    functools.partial(all_values, labels=labels, where=where, frozen=False)
  )
  logits = jnp.asarray(logits, jnp.float64)
  jax.test_util.check_grads(function, (logits,), order=order)


@pytest.mark.usefixtures('x64')
def test_gradients_in_soft_labels(logits, mixed):
  arguments = jnp.asarray(logits, jnp.float64), jnp.asarray(mixed, jnp.float64)
  function = jax.jit(functools.partial(all_values, frozen=False))
  jax.test_util.check_grads(function, arguments, order=1)


@pytest.mark.usefixtures('x64')
def test_gradients_in_alpha(logits, labels, mask):
  logits = logits.astype(np.float64)
  padded = np.where(mask.any(-1), labels, -1)

  @jax.jit
  def function(alpha):
    return all_values(logits, padded, alpha, where=mask)

  jax.test_util.check_grads(function, (0.3,), order=1)


def test_padding_does_not_spoil_the_gradient_in_alpha(logits, labels, mixed):
  """Padding is masked before it meets alpha, which all examples share."""
  keep = np.array([True, True, True, False])
  for padded in (
    np.where(keep, labels, -1),
    np.where(keep[:, None], mixed, np.nan).astype(np.float32),
  ):
    function = functools.partial(all_values, logits, padded, where=keep)
    slopes = jax.jit(jax.jacrev(function))(0.3)
    for name, slope in slopes.items():
      assert np.isfinite(slope).all(), name


@soft_loss
def test_gradients_in_soft_labels_with_masked_classes(loss, logits, mask):
  mixed = np.where(mask, 0.25, 0).astype(np.float32)

  @jax.jit
  @jax.grad
  def gradient(mixed):
    return jnp.sum(loss(logits, mixed, where=mask))

  rows = gradient(mixed)
  assert np.isfinite(rows).all()
  np.testing.assert_array_equal(rows[~mask], 0)


@every_loss
def test_rows_keep_their_own_gradient(loss, logits, labels, mask):
  weights = np.array([-1, 0.5, 2, 0], np.float32)
  for where in (None, mask):
    _, rows = evaluate(loss, logits, labels, where=where)
    _, weighted = evaluate(loss, logits, labels, where=where, weights=weights)
    np.testing.assert_allclose(weighted, rows * weights[:, None], atol=1e-6)


@shift_invariant_loss
def test_gradient_sums_to_zero_over_classes(loss, logits, labels, mask):
  for where in (None, mask):
    _, rows = evaluate(loss, logits, labels, where=where)
    np.testing.assert_allclose(rows.sum(-1), np.zeros(B), atol=3e-6)


@shift_invariant_loss
def test_a_single_class(loss):
  logits, labels = np.array([[3.0], [-2.0]], np.float32), np.array([0, 0])
  for value in evaluate(loss, logits, labels):
    np.testing.assert_array_equal(value, np.zeros_like(value))


# Shapes and transformations


@pytest.mark.parametrize('axis', [0, 1, -2])
def test_class_axis(axis):
  rng = np.random.default_rng(2)
  logits = rng.normal(size=(2, 3, K)).astype(np.float32)
  labels = rng.integers(K, size=(2, 3))
  one_hot = np.eye(K, dtype=np.float32)[labels]
  where = rng.random((2, 3, K)) < 0.7
  np.put_along_axis(where, labels[..., None], True, -1)

  def move(values):
    return np.moveaxis(values, -1, axis)

  at_axis = jax.jit(functools.partial(all_values, axis=axis))
  for actual, expected in (
    (
      at_axis(move(logits), labels, where=move(where)),
      all_values(logits, labels, where=where),
    ),
    (
      at_axis(move(logits), labels, where=labels > 1),
      all_values(logits, labels, where=labels > 1),
    ),
    (
      at_axis(move(logits), move(one_hot), where=move(where)),
      all_values(logits, one_hot, where=where),
    ),
  ):
    for name, value in actual.items():
      np.testing.assert_allclose(value, expected[name], rtol=1e-5, err_msg=name)


@every_loss
def test_one_example_without_batch_axis(loss, logits, labels):
  value = loss(logits[0], labels[0])
  assert value.shape == ()
  np.testing.assert_allclose(value, loss(logits, labels)[0], rtol=1e-6)


@every_loss
def test_an_empty_batch(loss):
  logits, labels = np.zeros((0, K), np.float32), np.zeros(0, np.int32)
  assert loss(logits, labels).shape == (0,)


@scaled_loss
def test_alpha_per_example(loss, logits, labels):
  alpha = np.linspace(0, 1, B, dtype=np.float32)
  values, rows = evaluate(loss, logits, labels, alpha)
  for i in range(B):
    one = evaluate(loss, logits, labels, alpha[i])
    np.testing.assert_allclose(values[i], one[0][i], rtol=1e-5)
    np.testing.assert_allclose(rows[i], one[1][i], atol=1e-6)


def test_vmap_and_pmap(logits, labels, mask):
  def values_and_gradients(z, y, where):
    function = functools.partial(all_values, labels=y, where=where)
    return function(z), jax.jacrev(function)(z)

  mapped = jax.jit(jax.vmap(values_and_gradients))(logits, labels, mask)
  parallel = jax.pmap(values_and_gradients)(logits, labels, mask)
  assert len(parallel[0]['ce'].sharding.device_set) == 4
  for values, rows in (mapped, parallel):
    for case in CASES:
      expected = evaluate(case, logits, labels, where=mask)
      for actual, desired in zip(
        (values[case.name], rows[case.name]), expected
      ):
        np.testing.assert_allclose(
          actual, desired, rtol=1e-5, atol=1e-6, err_msg=case.name
        )


@every_loss
def test_eager_equals_compiled(loss, logits, labels, mask):
  actual = loss(logits, labels, where=mask)
  expected, _ = evaluate(loss, logits, labels, where=mask)
  np.testing.assert_allclose(actual, expected, rtol=1e-5)


@every_loss
def test_compiles_once_for_all_strengths(loss, logits, labels):
  traces = 0

  @jax.jit
  def step(alpha):
    nonlocal traces
    traces += 1
    return loss(logits, labels, alpha)

  for alpha in (0.0, 0.1, 0.2, 0.9):
    step(alpha)
  assert traces == 1


# Class ids never become one-hot


def makes_one_hot(function, *arguments):
  """Whether the program counts out the classes, or compares ids with them."""

  def equations(jaxpr):
    for equation in jaxpr.eqns:
      yield equation
      for parameter in jax.tree.leaves(
        list(equation.params.values()), is_leaf=lambda x: hasattr(x, 'eqns')
      ):
        if hasattr(parameter, 'eqns'):
          yield from equations(parameter)

  def compares_ids(equation):
    return (
      equation.primitive.name == 'eq'
      and jnp.issubdtype(equation.invars[0].aval.dtype, jnp.integer)
      and equation.outvars[0].aval.size >= B * K
    )

  return any(
    equation.primitive.name == 'iota' or compares_ids(equation)
    for equation in equations(jax.make_jaxpr(function)(*arguments))
  )


@every_loss
def test_class_ids_never_become_one_hot(loss, logits, labels):
  if loss.masks_label:
    pytest.skip('masks the label among the classes that it ranks')

  def value_and_gradient(z, y):
    return jax.value_and_grad(lambda z: jnp.sum(loss(z, y)))(z)

  assert not makes_one_hot(value_and_gradient, logits, labels)


@pytest.mark.parametrize(
  'one_hot',
  [
    lambda labels: jax.nn.one_hot(labels, K),
    lambda labels: labels[:, None] == np.arange(K),
    jax.jit(lambda labels: jnp.eye(K)[labels]),
  ],
)
def test_the_search_for_one_hots_finds_them(one_hot, labels):
  assert makes_one_hot(one_hot, labels)


# The package


def test_every_public_name_exists_once():
  assert len(set(losses.__all__)) == len(losses.__all__)
  for name in losses.__all__:
    assert hasattr(losses, name), name


def test_import_needs_no_training_stack():
  program = (
    'import sys, maxsup_jax.losses; '
    'unwanted = {"chex", "clu", "flax", "grain", "matplotlib", '
    '"ml_collections", "optax", "orbax", "sklearn", "tensorflow", '
    '"tensorflow_datasets"}; '
    'print(sorted(unwanted & set(sys.modules)))'
  )
  done = subprocess.run(
    [sys.executable, '-c', program], capture_output=True, text=True, check=True
  )
  assert done.stdout.strip() == '[]'
