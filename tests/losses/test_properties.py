"""Every loss against its definition, and what all losses have in common.

All losses are compiled together, and the same program serves many tests.
"""

import functools

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
  LABELLED,
  MAIN,
  SCALED,
  SOFT,
  all_values,
  all_with_gradients,
  class_weights,
  these,
)

B, K = 4, 5
LOGITS = np.random.default_rng(0).normal(size=(B, K)).astype(np.float32) * 3
LABELS = np.array([3, 1, 2, 0], np.int32)
ONE_HOT = np.eye(K, dtype=np.float32)[LABELS]
MIXED = np.random.default_rng(1).dirichlet(np.ones(K), size=B).astype('float32')
# Masks classes of two examples, never that of the label, and another example.
MASK = np.ones((B, K), bool)
MASK[0, 1:3] = MASK[1, 0] = MASK[2] = False
PADDED = np.where(MASK.any(-1), LABELS, -1)
WEIGHTS = class_weights(K)
BY_NAME = {case.name: case for case in CASES}
# Of every kind, for what the shared readers do.
SOME = [BY_NAME[n] for n in ('maxsup', 'zipf', 'acls', 'focal', 'logit_norm')]


def spoil(values, keep):
  """Replaces what is masked by everything that could do harm."""
  garbage = np.array([np.nan, np.inf, -np.inf, 1e38], values.dtype)
  values = values.copy()
  values[~keep] = np.resize(garbage, np.sum(~keep))
  return values


def close(actual, expected, name='', rtol=1e-5, atol=1e-6):
  for a, b in zip(actual, expected, strict=True):
    np.testing.assert_allclose(a, b, rtol, atol, err_msg=name)


main = jax.jit(all_with_gradients)


def masked(logits, labels, where=None, alpha=0.1, weights=1.0):
  """The main losses over a mask, by the one program that most tests share."""
  where = np.ones((B, K), bool) if where is None else where
  weights = np.broadcast_to(np.float32(weights), B)
  found = main(logits, labels, alpha, weights, where=where)
  return jax.tree.map(np.asarray, found)


# Definitions, in double precision

every = jax.jit(
  functools.partial(all_with_gradients, cases=CASES, of_alpha=True)
)
weighted = jax.jit(
  functools.partial(
    all_with_gradients,
    cases=[case for case in CASES if case.takes('class_weights')],
    of_alpha=True,
    class_weights=WEIGHTS,
  )
)


@pytest.mark.usefixtures('x64')
@hypothesis.given(
  # So few values that most rows have ties, at the top and elsewhere.
  halves=st.lists(st.integers(-3, 3), min_size=B * K, max_size=B * K),
  flags=st.lists(st.booleans(), min_size=B * K, max_size=B * K),
  labels=st.lists(st.integers(0, K - 1), min_size=B, max_size=B),
  alpha=st.lists(st.floats(0, 1), min_size=B, max_size=B),
)
@hypothesis.settings(max_examples=15, deadline=None, derandomize=True)
def test_definition_on_ties_any_mask_and_alpha(halves, flags, labels, alpha):
  logits = np.reshape(halves, (B, K)) / 2
  where = np.reshape(flags, (B, K))
  labels, alpha = np.array(labels), np.array(alpha)
  # An example keeps the class of its label, or is masked as a whole.
  where[np.arange(B), labels] = where.any(-1)
  found = every(spoil(logits, where), labels, alpha, where=where)
  for name, (actual, rows, _) in found.items():
    case = BY_NAME[name]
    expected, *_ = case.expected(logits, labels, alpha, where, step=None)
    np.testing.assert_allclose(actual, expected, atol=1e-12, err_msg=name)
    np.testing.assert_array_equal(rows[~where], 0, err_msg=name)
    if case.shifts:
      np.testing.assert_allclose(rows.sum(-1), 0, atol=1e-12, err_msg=name)


@pytest.mark.usefixtures('x64')
def test_gradients_equal_finite_differences():
  """In logits and alpha, with and without weights of the classes."""
  logits, alpha = np.float64(LOGITS), np.array([0.3, 0.7, 0.3, 0.9])
  for weights, program in ((None, every), (WEIGHTS, weighted)):
    actual = program(spoil(logits, MASK), PADDED, alpha, where=MASK)
    for name, found in actual.items():
      expected = BY_NAME[name].expected(logits, LABELS, alpha, MASK, weights)
      assert found[0].dtype == np.float64
      close(found, expected, name, 1e-7, 1e-8)


@pytest.mark.usefixtures('x64')
def test_soft_labels_are_used_as_they_are():
  """Not normalised; also over a mask, weighted, and with gradients in them."""
  masses = np.linspace(0.1, 1, B)[:, None]
  labels = np.where(MASK, MIXED * masses, 0)
  alpha = np.full(B, 0.3)

  @jax.jit
  def function(logits, labels):
    spoilt = jnp.where(MASK, logits, jnp.nan)
    return all_values(
      spoilt, labels, alpha, cases=SOFT, where=MASK, class_weights=WEIGHTS
    )

  arguments = jnp.asarray(np.float64(LOGITS)), jnp.asarray(labels)
  for name, actual in function(*arguments).items():
    expected, *_ = BY_NAME[name].expected(
      *arguments, alpha, MASK, WEIGHTS, step=None
    )
    np.testing.assert_allclose(actual, expected, rtol=1e-12, err_msg=name)

  def smooth(logits, labels):
    values = function(logits, jnp.where(MASK, labels, 0))
    return {case.name: values[case.name] for case in SOFT if not case.frozen}

  jax.test_util.check_grads(smooth, arguments, order=1, modes=['rev'])


# Masks, in single precision


def test_what_is_masked_does_not_matter():
  plain = masked(LOGITS, LABELS)
  unmasked = all_with_gradients(jnp.asarray(LOGITS), LABELS, cases=SOME)
  real = np.array([True, False, True, True])
  keep = np.repeat(real[:, None], K, 1)
  padded = masked(spoil(LOGITS, keep), np.where(real, LABELS, -1), keep)
  clean = masked(LOGITS, LABELS, MASK)
  spoilt = masked(spoil(LOGITS, MASK), PADDED, MASK)
  for name, found in unmasked.items():
    close(found, plain[name], name)
  for name in plain:
    values, rows = padded[name]
    kept = [x[real] for x in plain[name]]
    close((values[real], rows[real]), kept, name)
    for garbage in (values[~real], rows[~real]):
      np.testing.assert_array_equal(garbage, 0, err_msg=name)
    close(spoilt[name], clean[name], name, 0, 0)
    np.testing.assert_array_equal(spoilt[name][1][~MASK], 0, err_msg=name)
    np.testing.assert_array_equal(spoilt[name][0][2], 0, err_msg=name)
  per_example = losses.maxsup_cross_entropy(LOGITS, LABELS, where=real)
  np.testing.assert_allclose(per_example, padded['maxsup'][0], rtol=1e-5)
  nothing = np.full((B, K), np.nan, np.float32)
  for name, found in masked(nothing, LABELS, MASK & False).items():
    for value in found:
      np.testing.assert_array_equal(value, np.zeros_like(value), err_msg=name)


def test_masking_makes_no_nan_on_the_way():
  logits = np.where(MASK, LOGITS, -np.inf).astype(np.float32)
  with jax.debug_nans(True):
    all_with_gradients(jnp.asarray(logits), PADDED, cases=SOME, where=MASK)


def test_masks_broadcast_over_axes_of_size_one():
  for shape in ((1, K), (B, 1)):
    mask = np.arange(np.prod(shape)).reshape(shape) != 4
    full = np.broadcast_to(mask, (B, K))
    for loss in (losses.maxsup_cross_entropy, losses.zipf_cross_entropy):
      actual = loss(LOGITS, LABELS, where=mask)
      expected = loss(LOGITS, LABELS, where=full)
      np.testing.assert_array_equal(actual, expected)


def test_forward_mode_ignores_masked_logits():
  def slopes(z, dz):
    return jax.jvp(
      lambda z: all_values(z, PADDED, cases=SOME, where=MASK), (z,), (dz,)
    )

  clean = slopes(LOGITS, MASK.astype(np.float32))
  spoilt = slopes(spoil(LOGITS, MASK), np.ones_like(LOGITS))
  jax.tree.map(np.testing.assert_array_equal, spoilt, clean)


def test_rows_keep_their_own_gradient():
  weights = np.array([-1, 0.5, 2, 0], np.float32)
  rows = masked(LOGITS, LABELS, MASK)
  for name, found in masked(LOGITS, LABELS, MASK, weights=weights).items():
    expected = rows[name][1] * weights[:, None]
    np.testing.assert_allclose(found[1], expected, atol=1e-6, err_msg=name)


# Labels


def test_soft_labels_one_hot_masked_and_unknown():
  soft = jax.jit(functools.partial(all_with_gradients, cases=SOFT))
  mask = np.ones((B, K), bool)
  for where in (mask, MASK):
    ids = soft(LOGITS, LABELS, where=where)
    for name, found in soft(LOGITS, ONE_HOT * where, where=where).items():
      close(found, ids[name], name)
  real = np.arange(B) != 1
  keep = np.repeat(real[:, None], K, 1)
  plain = soft(LOGITS, MIXED, where=mask)
  padded = soft(spoil(LOGITS, keep), spoil(MIXED, keep), where=keep)
  mask[1, LABELS[1]] = False
  lost = soft(LOGITS, ONE_HOT, where=mask)
  for name, (values, rows) in padded.items():
    kept = [x[real] for x in plain[name]]
    close((values[real], rows[real]), kept, name)
    for garbage in (values[~real], rows[~real]):
      np.testing.assert_array_equal(garbage, 0, err_msg=name)
    # Not 0 on a masked class.
    np.testing.assert_array_equal(np.isnan(lost[name][0]), ~real, err_msg=name)


def test_unknown_labels_are_nan():
  """Outside the classes, or masked; nobody trains on them unseen."""
  labels = np.array([-1, 1, K, 2**31 - 1], np.int32)
  mask = MASK.copy()
  mask[1, LABELS[1]] = False
  outside, inside = masked(LOGITS, labels), masked(LOGITS, LABELS, mask)
  for case in LABELLED:
    values, rows = outside[case.name]
    np.testing.assert_array_equal(np.isnan(values), labels != 1)
    assert np.isfinite(rows[1]).all()
    if case.soft:
      np.testing.assert_array_equal(np.isnan(rows).all(-1), labels != 1)
    values, _ = inside[case.name]
    np.testing.assert_array_equal(np.isnan(values), np.arange(B) == 1)


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

  return any(
    equation.primitive.name == 'iota'
    or (
      equation.primitive.name == 'eq'
      and jnp.issubdtype(equation.invars[0].aval.dtype, jnp.integer)
      and equation.outvars[0].aval.size >= B * K
    )
    for equation in equations(jax.make_jaxpr(function)(*arguments))
  )


def test_class_ids_never_become_one_hot():
  # Zipf's mask the label among the classes they rank.
  cases = [case for case in LABELLED if 'zipf' not in case.name]
  function = functools.partial(all_with_gradients, cases=cases)
  assert not makes_one_hot(function, LOGITS, LABELS)
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


def test_half_precision_is_computed_in_single():
  half = jnp.asarray(LOGITS, jnp.bfloat16)
  some = functools.partial(all_with_gradients, labels=LABELS, cases=SOME)
  expected = some(half.astype(np.float32))
  for name, (values, rows) in some(half).items():
    assert (values.dtype, rows.dtype) == (np.float32, half.dtype)
    close([values], [expected[name][0]], name, 0, 0)
    close([rows], [expected[name][1].astype(half.dtype)], name, 0, 0)


@pytest.mark.usefixtures('x64')
def test_the_logits_set_the_dtype():
  alpha, one_hot = np.float64(0.1), np.float64(ONE_HOT)
  for cases, labels in ((MAIN, LABELS), (SOFT, one_hot)):
    function = functools.partial(all_values, cases=cases)
    values = jax.eval_shape(function, LOGITS, labels, alpha)
    assert {value.dtype for value in values.values()} == {np.dtype('float32')}


def test_a_shift_and_large_logits_do_no_harm():
  # 2^13 takes 13 of the 24 bits of a float32; quarters survive it exactly.
  logits = np.round(LOGITS * 4) / 4
  plain, shifted, large = (
    masked(z.astype(np.float32), LABELS)
    for z in (logits, logits + 8192, 1e30 * np.roll(ONE_HOT, 1, 0))
  )
  for case in MAIN:
    if case.shifts:
      close(shifted[case.name], plain[case.name], case.name, 0)
      assert all(np.isfinite(x).all() for x in large[case.name]), case.name


def test_logits_of_minus_infinity():
  """They have probability 0: a loss is what it is without them, or infinite."""
  logits = np.tile(np.float32([1.0, -np.inf, 0.5, -3.0, 0.2]), (B, 1))
  labels = np.array([2, 2, 2, 1], np.int32)
  found, without = masked(logits, labels), masked(logits, labels, logits > -9)
  for case in MAIN:
    values, rows = found[case.name]
    if case.takes('labels') and not np.isnan(case.impossible):
      # No loss that sees the label may hide that it is impossible.
      unseen = ('regularization', 'zipf_penalty')
      assert np.isfinite(values[3]) == (case.name in unseen), case.name
    expected = case.impossible * without[case.name][0][:3]
    if case.impossible == np.inf:
      expected = np.full(3, np.inf)
    np.testing.assert_allclose(values[:3], expected, 1e-5, err_msg=case.name)
    if np.isfinite(case.impossible):
      assert np.isfinite(rows[:3]).all()
      np.testing.assert_array_equal(rows[:3, 1], 0)


def test_a_single_class():
  found = masked(LOGITS, LABELS, np.bool_(ONE_HOT))
  for case in MAIN:
    for value in found[case.name] if case.shifts else ():
      np.testing.assert_array_equal(value, np.zeros_like(value), case.name)
  for loss in (losses.maxsup_cross_entropy, losses.zipf_cross_entropy):
    np.testing.assert_array_equal(loss(np.float32([[3.0]]), np.array([0])), 0)


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
    case = BY_NAME[name]
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


def test_the_class_axis():
  plain = masked(LOGITS, LABELS, MASK)
  moved = jax.jit(functools.partial(all_values, axis=1))
  for name, values in moved(
    LOGITS.T[None], LABELS[None], where=MASK.T[None]
  ).items():
    close([values[0]], plain[name][:1], name)
  soft = losses.label_smoothing_cross_entropy
  one_hot = soft(LOGITS.T[None], ONE_HOT.T[None], axis=-2)
  np.testing.assert_allclose(one_hot[0], soft(LOGITS, LABELS), rtol=1e-5)


def test_no_batch_axis_and_an_empty_batch():
  for batch in ((), (0,)):
    row = jax.ShapeDtypeStruct((*batch, K), np.float32)
    label = jax.ShapeDtypeStruct(batch, np.int32)
    values = jax.eval_shape(all_values, row, label)
    assert {value.shape for value in values.values()} == {batch}


def test_no_strength_compiles_again():
  low, size = masked(LOGITS, LABELS, alpha=0.1), main._cache_size()
  high = masked(LOGITS, LABELS, alpha=0.9)
  assert main._cache_size() == size
  for case in SCALED:
    assert (low[case.name][0] != high[case.name][0]).any(), case.name


def test_vmap_and_pmap():
  """Each device gets one example, and sees it alone."""
  mapped = jax.pmap(jax.vmap(lambda z, y, where: all_values(z, y, where=where)))
  values = mapped(LOGITS[:, None], LABELS[:, None], MASK[:, None])
  assert len(values['maxsup'].sharding.device_set) == 4
  for name, expected in masked(LOGITS, LABELS, MASK).items():
    close([values[name][:, 0]], expected[:1], name)


def test_sharded_batches():
  mesh = jax.sharding.Mesh(jax.devices()[:4], 'devices')
  spec = jax.sharding.PartitionSpec('devices')
  sharding = jax.sharding.NamedSharding(mesh, spec)
  logits, labels = jax.device_put((LOGITS, LABELS), sharding)
  for loss in (losses.maxsup_cross_entropy, losses.zipf_cross_entropy):
    values = jax.jit(loss)(logits, labels)
    assert values.sharding.is_equivalent_to(sharding, 1)
    np.testing.assert_allclose(values, loss(LOGITS, LABELS), rtol=1e-5)


# What every loss refuses


@these(MAIN)
def test_every_loss_reads_its_arguments(loss):
  """By the readers of `test_checks`."""
  with pytest.raises(TypeError, match='logits is int'):
    loss(LOGITS.astype(int), LABELS)
  with pytest.raises(TypeError, match='where is int'):
    loss(LOGITS, LABELS, where=LABELS)
  if loss.takes('labels'):
    with pytest.raises(TypeError, match='labels are bool'):
      loss(LOGITS, LABELS > 0)
  if loss.takes('labels') and not loss.soft:
    with pytest.raises(ValueError, match='expected integer class ids: '):
      loss(LOGITS, LOGITS)
  if loss.takes('class_weights'):
    with pytest.raises(ValueError, match=r'class_weights is -1\.0; exp'):
      loss(LOGITS, LABELS, class_weights=-np.ones(K))
  if loss.symbol:
    with pytest.raises(ValueError, match=f'{loss.symbol} is nan; expected'):
      loss(LOGITS, LABELS, np.nan)
