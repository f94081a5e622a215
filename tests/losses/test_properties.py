"""Every loss against its definition, and what all losses have in common."""

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
  SCALED,
  SOFT,
  all_values,
  all_with_gradients,
  evaluate,
  every_loss,
  labelled_loss,
  scaled_loss,
  shift_invariant_loss,
  soft_loss,
)

B, K = 4, 5
LOGITS = np.random.default_rng(0).normal(size=(B, K)).astype(np.float32) * 3
LABELS = np.array([3, 1, 2, 0], np.int32)
ONE_HOT = np.eye(K, dtype=np.float32)[LABELS]
MIXED = np.random.default_rng(1).dirichlet(np.ones(K), size=B).astype('float32')
# Masks classes of two examples, never that of the label, and another example.
MASK = np.ones((B, K), bool)
MASK[0, 1:3] = MASK[1, 0] = MASK[2] = False
REAL = np.array([True, False, True, True])


def spoil(values, keep):
  """Replaces what is masked by everything that could do harm."""
  garbage = np.array([np.nan, np.inf, -np.inf, 1e38], values.dtype)
  values = values.copy()
  values[~keep] = np.resize(garbage, np.sum(~keep))
  return values


def close(actual, expected, **tolerance):
  for a, b in zip(actual, expected, strict=True):
    np.testing.assert_allclose(a, b, **tolerance)


# Definitions, in double precision

with_gradients = jax.jit(all_with_gradients)
# So few values that most rows have ties, at the top and elsewhere.
ROWS = st.lists(st.integers(-3, 3), min_size=B * K, max_size=B * K)
FLAGS = st.lists(st.booleans(), min_size=B * K, max_size=B * K)


@pytest.mark.usefixtures('x64')
@hypothesis.given(
  halves=ROWS,
  flags=FLAGS,
  labels=st.lists(st.integers(0, K - 1), min_size=B, max_size=B),
  alpha=st.lists(st.floats(0, 1), min_size=B, max_size=B),
)
@hypothesis.settings(max_examples=20, deadline=None, derandomize=True)
def test_definition_on_ties_any_mask_and_alpha(halves, flags, labels, alpha):
  logits = np.reshape(halves, (B, K)) / 2
  where = np.reshape(flags, (B, K))
  labels, alpha = np.array(labels), np.array(alpha)
  # An example keeps the class of its label, or is masked as a whole.
  where[np.arange(B), labels] = where.any(-1)
  spoilt = spoil(logits, where)
  for name, (actual, rows) in with_gradients(
    spoilt, labels, alpha, where=where
  ).items():
    case = next(case for case in CASES if case.name == name)
    expected = case.expected(logits, labels, alpha, where)
    np.testing.assert_allclose(actual, expected, atol=1e-12, err_msg=name)
    np.testing.assert_array_equal(rows[~where], 0, err_msg=name)
    if case.shifts:
      np.testing.assert_allclose(rows.sum(-1), 0, atol=1e-12, err_msg=name)


@pytest.mark.usefixtures('x64')
def test_gradients_equal_finite_differences():
  logits, padded = np.float64(LOGITS), np.where(MASK.any(-1), LABELS, -1)
  alpha = np.array([0.3, 0.7, 0.3, 1.0])
  actual = with_gradients(spoil(logits, MASK), padded, alpha, where=MASK)
  for case in CASES:
    expected = case.expected_gradient(logits, LABELS, alpha, MASK)
    assert actual[case.name][0].dtype == np.float64
    close(actual[case.name], expected, rtol=1e-7, atol=1e-8, err_msg=case.name)


@pytest.mark.usefixtures('x64')
def test_soft_labels_are_used_as_they_are():
  """Not normalised; also over a mask, and with gradients in the labels."""
  masses = np.linspace(0.1, 1, B)[:, None]
  labels = np.where(MASK, MIXED * masses, 0)
  alpha = np.full(B, 0.3)

  @jax.jit
  def function(logits, labels):
    spoilt = jnp.where(MASK, logits, jnp.nan)
    return all_values(spoilt, labels, alpha, cases=SOFT, where=MASK)

  arguments = jnp.asarray(np.float64(LOGITS)), jnp.asarray(labels)
  for name, actual in function(*arguments).items():
    case = next(case for case in SOFT if case.name == name)
    expected = case.expected(*arguments, alpha, MASK)
    np.testing.assert_allclose(actual, expected, rtol=1e-12, err_msg=name)

  def smooth(logits, labels):
    values = function(logits, jnp.where(MASK, labels, 0))
    return {case.name: values[case.name] for case in SOFT if not case.frozen}

  jax.test_util.check_grads(smooth, arguments, order=1, modes=['rev'])


@pytest.mark.usefixtures('x64')
def test_gradients_in_alpha_ignore_padding():
  padded = np.where(MASK.any(-1), LABELS, -1)
  spoilt = spoil(np.float64(LOGITS), MASK)

  @jax.jit
  def function(alpha):
    return all_values(spoilt, padded, alpha, cases=SCALED, where=MASK)

  jax.test_util.check_grads(function, (0.3,), order=1, modes=['rev'])


# Masks, in single precision


@every_loss
def test_what_is_masked_does_not_matter(loss):
  plain = evaluate(loss, LOGITS, LABELS)
  close(
    evaluate(loss, LOGITS, LABELS, where=np.ones((B, K), bool)),
    plain,
    rtol=1e-5,
    atol=1e-6,
  )
  padded = np.where(REAL, LABELS, -1)
  keep = np.repeat(REAL[:, None], K, 1)
  values, rows = evaluate(loss, spoil(LOGITS, keep), padded, where=REAL)
  close((values[REAL], rows[REAL]), (plain[0][REAL], plain[1][REAL]), rtol=1e-5)
  np.testing.assert_array_equal(values[~REAL], 0)
  np.testing.assert_array_equal(rows[~REAL], 0)
  clean = evaluate(loss, LOGITS, LABELS, where=MASK)
  spoilt = evaluate(loss, spoil(LOGITS, MASK), LABELS, where=MASK)
  close(spoilt, clean, rtol=0, atol=0)
  np.testing.assert_array_equal(spoilt[1][~MASK], 0)
  np.testing.assert_array_equal(spoilt[0][2], 0)


@soft_loss
def test_masked_soft_labels_do_not_matter(loss):
  keep = np.repeat(REAL[:, None], K, 1)
  plain = evaluate(loss, LOGITS, MIXED)
  values, rows = evaluate(
    loss, spoil(LOGITS, keep), spoil(MIXED, keep), where=REAL
  )
  close((values[REAL], rows[REAL]), (plain[0][REAL], plain[1][REAL]), rtol=1e-5)
  np.testing.assert_array_equal(values[~REAL], 0)
  np.testing.assert_array_equal(rows[~REAL], 0)


@every_loss
def test_everything_masked(loss):
  logits = np.full((B, K), np.nan, np.float32)
  for value in evaluate(loss, logits, LABELS, where=np.zeros((B, K), bool)):
    np.testing.assert_array_equal(value, np.zeros_like(value))


def test_masking_makes_no_nan_on_the_way():
  logits = np.where(MASK, LOGITS, -np.inf).astype(np.float32)
  labels = np.where(MASK.any(-1), LABELS, -1)
  with jax.debug_nans(True):
    for case in CASES:
      evaluate(case, logits, labels, where=MASK)


def test_masks_broadcast_over_axes_of_size_one():
  for shape in ((1, K), (B, 1)):
    mask = np.arange(np.prod(shape)).reshape(shape) != 4
    full = np.broadcast_to(mask, (B, K))
    for loss in (losses.maxsup_cross_entropy, losses.zipf_cross_entropy):
      actual = loss(LOGITS, LABELS, where=mask)
      expected = loss(LOGITS, LABELS, where=full)
      np.testing.assert_array_equal(actual, expected)


def test_forward_mode_ignores_masked_logits():
  for loss in (
    losses.maxsup_cross_entropy,
    losses.zipf_cross_entropy,
    losses.logit_norm_cross_entropy,
    losses.adaptive_smoothing_cross_entropy,
  ):
    slopes = functools.partial(
      jax.jvp, lambda z, loss=loss: loss(z, LABELS, where=MASK)
    )
    clean = slopes((LOGITS,), (MASK.astype(np.float32),))
    spoilt = slopes((spoil(LOGITS, MASK),), (np.ones_like(LOGITS),))
    close(spoilt, clean, rtol=0)


@every_loss
def test_rows_keep_their_own_gradient(loss):
  weights = np.array([-1, 0.5, 2, 0], np.float32)
  _, rows = evaluate(loss, LOGITS, LABELS, where=MASK)
  _, weighted = evaluate(loss, LOGITS, LABELS, where=MASK, weights=weights)
  np.testing.assert_allclose(weighted, rows * weights[:, None], atol=1e-6)


# Labels


@soft_loss
def test_one_hot_labels_agree_with_class_ids(loss):
  for where in (None, MASK):
    one_hot = ONE_HOT if where is None else ONE_HOT * MASK
    close(
      evaluate(loss, LOGITS, one_hot, where=where),
      evaluate(loss, LOGITS, LABELS, where=where),
      rtol=1e-5,
      atol=1e-6,
    )


@labelled_loss
def test_unknown_labels_are_nan(loss):
  """Outside the classes, or masked; nobody trains on them unseen."""
  labels = np.array([-1, 1, K, 2**31 - 1], np.int32)
  values, rows = evaluate(loss, LOGITS, labels)
  np.testing.assert_array_equal(np.isnan(values), labels != 1)
  assert np.isfinite(rows[1]).all()
  if loss.soft:
    np.testing.assert_array_equal(np.isnan(rows).all(-1), labels != 1)
  mask = MASK.copy()
  mask[1, LABELS[1]] = False
  for form in (LABELS, ONE_HOT * MASK) if loss.soft else (LABELS,):
    values, _ = evaluate(loss, LOGITS, form, where=mask)
    np.testing.assert_array_equal(np.isnan(values), np.arange(B) == 1)


@labelled_loss
def test_class_ids_never_become_one_hot(loss):
  if not loss.ranks:  # These mask the label among the classes they rank.

    def value_and_gradient(z, y):
      return jax.value_and_grad(lambda z: jnp.sum(loss(z, y)))(z)

    assert not makes_one_hot(value_and_gradient, LOGITS, LABELS)


def equations(function, *arguments):
  """The equations of a program, also those inside of others."""

  def walk(jaxpr):
    for equation in jaxpr.eqns:
      yield equation
      for parameter in jax.tree.leaves(
        list(equation.params.values()), is_leaf=lambda x: hasattr(x, 'eqns')
      ):
        if hasattr(parameter, 'eqns'):
          yield from walk(parameter)

  return walk(jax.make_jaxpr(function)(*arguments))


def makes_one_hot(function, *arguments):
  """Whether the program counts out the classes, or compares ids with them."""
  return any(
    equation.primitive.name == 'iota'
    or (
      equation.primitive.name == 'eq'
      and jnp.issubdtype(equation.invars[0].aval.dtype, jnp.integer)
      and equation.outvars[0].aval.size >= B * K
    )
    for equation in equations(function, *arguments)
  )


def test_the_search_for_one_hots_finds_them():
  for one_hot in (
    lambda labels: jax.nn.one_hot(labels, K),
    lambda labels: labels[:, None] == np.arange(K),
    jax.jit(lambda labels: jnp.eye(K)[labels]),
  ):
    assert makes_one_hot(one_hot, LABELS)


def test_class_ids_of_any_integer_type():
  # 300 classes do not fit into eight bits.
  logits = np.linspace(0, 3, 300, dtype=np.float32)
  expected = losses.maxsup_cross_entropy(logits, 100)
  for dtype in (np.int8, np.uint8, np.int16, np.uint32, np.int64, np.uint64):
    actual = losses.maxsup_cross_entropy(logits, np.array(100, dtype))
    np.testing.assert_array_equal(actual, expected)
  # In 32 bits they would be class ids.
  for label in (2**32 + 1, -(2**32) + 1, 2**31):
    for labels in (np.int64(label), np.uint64(label % 2**64), label):
      assert np.isnan(losses.maxsup_cross_entropy(logits, labels))


# Precision


@every_loss
def test_half_precision_is_computed_in_single(loss):
  half = LOGITS.astype(jnp.bfloat16)
  values, rows = evaluate(loss, half, LABELS)
  expected, expected_rows = evaluate(loss, half.astype(np.float32), LABELS)
  assert values.dtype == np.float32
  assert rows.dtype == half.dtype
  np.testing.assert_array_equal(values, expected)
  np.testing.assert_array_equal(rows, expected_rows.astype(half.dtype))
  assert evaluate(loss, half.astype(np.float16), LABELS)[0].dtype == np.float32


@pytest.mark.usefixtures('x64')
@every_loss
def test_the_logits_set_the_dtype(loss):
  for labels in (LABELS, np.float64(ONE_HOT)) if loss.soft else (LABELS,):
    values = jax.eval_shape(loss, LOGITS, labels, np.float64(0.1))
    assert values.dtype == np.float32


@shift_invariant_loss
def test_a_shift_and_large_logits_do_no_harm(loss):
  # 2^13 takes 13 of the 24 bits of a float32; quarters survive it exactly.
  logits = np.round(LOGITS * 4) / 4
  plain = evaluate(loss, logits, LABELS)
  close(evaluate(loss, logits + np.float32(8192), LABELS), plain, rtol=0)
  for value in evaluate(loss, 1e30 * np.roll(ONE_HOT, 1, 0), LABELS):
    assert np.isfinite(value).all()


@every_loss
def test_logits_of_minus_infinity(loss):
  """They have probability 0: a loss is what it is without them, or infinite."""
  logits = np.tile(np.float32([1.0, -np.inf, 0.5, -3.0, 0.2]), (B, 1))
  labels = np.array([2, 2, 2, 1])
  values, rows = evaluate(loss, logits, labels)
  if loss.name == 'logit_norm':
    assert np.isnan(values).all()  # The norm is infinite.
    return
  if 'labels' in loss.takes:
    # No loss that sees the label may hide that it is impossible.
    unseen = ('regularization', 'regularization_below', 'zipf_penalty')
    assert np.isfinite(values[3]) == (loss.name in unseen)
  if loss.impossible == np.inf:
    np.testing.assert_array_equal(values[:3], np.inf)
    return
  without = loss(logits, labels, where=logits > -np.inf)[:3]
  expected = loss.impossible * without
  if loss.name == 'divergence_from_uniform':
    expected = without + np.log(5 / 4)  # From another uniform distribution.
  np.testing.assert_allclose(values[:3], expected, rtol=1e-5)
  assert np.isfinite(rows[:3]).all()
  np.testing.assert_array_equal(rows[:3, 1], 0)


@shift_invariant_loss
def test_a_single_class(loss):
  only = np.bool_(ONE_HOT)
  for value in evaluate(loss, LOGITS, LABELS, where=only):
    np.testing.assert_array_equal(value, np.zeros_like(value))
  if loss.name in ('maxsup', 'kl_smoothing', 'zipf'):
    for value in evaluate(loss, np.float32([[3.0], [-2.0]]), np.array([0, 0])):
      np.testing.assert_array_equal(value, np.zeros_like(value))


def test_second_derivatives():
  """Finite on ties and where an exponential is small, and 0 where masked."""
  gaps = [[gap, 0.0, 0.5, -3.0] for gap in (0, 5, 20, 45, 60, 85, 105)]
  ties = [[2.0, 2.0, 2.0, -1.0], [0.0, 0.0, 0.0, 0.0], [1.0, np.nan, 0.5, -3.0]]
  logits = np.array(gaps + ties, np.float32)
  # A row for each direction: as rows are independent, no need to map.
  repeated = np.repeat(logits, 4, 0)
  directions = np.tile(np.eye(4, dtype=np.float32), (len(logits), 1))
  labels = np.zeros(len(repeated), np.int32)
  where = np.isfinite(repeated)

  @jax.jit
  def hessians(logits, directions):
    def gradients(z):
      results = all_with_gradients(z, labels, 0.3, where=where)
      return {name: rows for name, (_, rows) in results.items()}

    return jax.jvp(gradients, (logits,), (directions,))[1]

  for name, rows in hessians(repeated, directions).items():
    case = next(case for case in CASES if case.name == name)
    hessian = np.asarray(rows).reshape(-1, 4, 4)
    assert hessian.dtype == np.float32
    # The norm has no derivatives at 0.
    regular = logits.any(-1) | (name != 'logit_norm')
    assert np.isfinite(hessian[regular]).all(), name
    np.testing.assert_array_equal(hessian[-1, 1], 0, err_msg=name)
    np.testing.assert_array_equal(hessian[-1, :, 1], 0, err_msg=name)
    if case.shifts:
      np.testing.assert_allclose(hessian.sum(-1), 0, atol=1e-5, err_msg=name)
    if not case.frozen:
      transposed = np.swapaxes(hessian, -1, -2)
      np.testing.assert_allclose(
        hessian[regular], transposed[regular], atol=1e-5, err_msg=name
      )


# Shapes and transformations


@every_loss
def test_the_class_axis(loss):
  labels = LABELS[:, None]
  values, rows = evaluate(loss, LOGITS, LABELS, where=MASK)
  moved, moved_rows = evaluate(
    loss, LOGITS.T[None], labels.T, where=MASK.T[None], axis=1
  )
  np.testing.assert_allclose(moved[0], values, rtol=1e-5)
  np.testing.assert_allclose(moved_rows[0].T, rows, rtol=1e-4, atol=1e-6)
  if 'labels' in loss.takes and loss.soft:
    one_hot = loss(LOGITS.T[None], ONE_HOT.T[None], axis=-2)
    np.testing.assert_allclose(one_hot[0], loss(LOGITS, LABELS), rtol=1e-5)


@every_loss
def test_no_batch_axis_and_an_empty_batch(loss):
  row = jax.ShapeDtypeStruct((K,), np.float32)
  label = jax.ShapeDtypeStruct((), np.int32)
  assert jax.eval_shape(loss, row, label).shape == ()
  empty = np.zeros((0, K), np.float32), np.zeros(0, np.int32)
  assert jax.eval_shape(loss, *empty).shape == (0,)


@scaled_loss
def test_no_strength_compiles_again(loss):
  traces = 0

  @jax.jit
  def step(alpha):
    nonlocal traces
    traces += 1
    return loss(LOGITS[0], LABELS[0], alpha)

  assert step(0.1) != step(0.9)
  assert traces == 1


def test_vmap_and_pmap():
  """Each device gets one example, and sees it alone."""

  @jax.pmap
  @jax.vmap
  def mapped(z, y, where):
    values = all_values(z, y, where=where)
    some = [c for c in CASES if c.name in ('maxsup', 'zipf', 'online')]
    return values, all_with_gradients(z, y, cases=some, where=where)

  values, some = mapped(LOGITS[:, None], LABELS[:, None], MASK[:, None])
  assert len(values['maxsup'].sharding.device_set) == 4
  for case in CASES:
    expected = evaluate(case, LOGITS, LABELS, where=MASK)
    actual = some.get(case.name, [values[case.name]])
    for value, desired in zip(actual, expected):
      np.testing.assert_allclose(
        value[:, 0], desired, rtol=1e-5, atol=1e-6, err_msg=case.name
      )


def test_sharded_batches():
  mesh = jax.sharding.Mesh(jax.devices()[:4], 'devices')
  spec = jax.sharding.PartitionSpec('devices')
  sharding = jax.sharding.NamedSharding(mesh, spec)
  logits, labels = jax.device_put((LOGITS, LABELS), sharding)
  for loss in (losses.maxsup_cross_entropy, losses.zipf_cross_entropy):
    values = jax.jit(loss)(logits, labels)
    assert values.sharding.is_equivalent_to(sharding, 1)
    np.testing.assert_allclose(values, loss(LOGITS, LABELS), rtol=1e-5)


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
