"""Masks, labels and precision: what every loss takes from `_rows`."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from maxsup_jax import losses
from tests.losses.cases import (
  CASES,
  all_values,
  evaluate,
  every_loss,
  labelled_loss,
  shift_invariant_loss,
  soft_loss,
)

B, K = 6, 5


@pytest.fixture
def logits():
  return np.random.default_rng(0).normal(size=(B, K)).astype(np.float32) * 3


@pytest.fixture
def labels():
  return np.array([0, 1, 2, 3, 4, 0], np.int32)


@pytest.fixture
def mixed():
  """Soft labels, as mixup makes them."""
  rng = np.random.default_rng(1)
  return rng.dirichlet(np.ones(K), size=B).astype(np.float32)


@pytest.fixture
def class_mask():
  """Masks one to three classes of most examples, never that of the label."""
  mask = np.ones((B, K), bool)
  mask[0, 1:4] = mask[1, 0] = mask[2, 3:] = mask[5, 2] = False
  return mask


@pytest.fixture
def example_mask():
  return np.array([True, False, True, True, False, True])


def spoil(values, keep):
  """Replaces what is masked by everything that could do harm."""
  garbage = np.array([np.nan, np.inf, -np.inf, 1e38], values.dtype)
  values = values.copy()
  values[~keep] = np.resize(garbage, np.sum(~keep))
  return values


# Masked classes


@every_loss
def test_masked_classes_are_removed_classes(loss, logits, labels, class_mask):
  expected = loss.expected(logits, labels, where=class_mask)
  actual, _ = evaluate(loss, logits, labels, where=class_mask)
  np.testing.assert_allclose(actual, expected, rtol=2e-5)


@soft_loss
def test_masked_classes_with_soft_labels(loss, logits, mixed, class_mask):
  mixed = np.where(class_mask, mixed, 0)
  mixed = mixed / mixed.sum(-1, keepdims=True)
  expected = loss.expected(logits, mixed, where=class_mask)
  actual, _ = evaluate(loss, logits, mixed, where=class_mask)
  np.testing.assert_allclose(actual, expected, rtol=2e-5)


@every_loss
def test_masked_logits_do_not_matter(loss, logits, labels, class_mask):
  class_mask[3] = False
  clean = evaluate(loss, logits, labels, where=class_mask)
  spoilt = spoil(logits, class_mask)
  values, rows = evaluate(loss, spoilt, labels, where=class_mask)
  np.testing.assert_array_equal(values, clean[0])
  np.testing.assert_array_equal(rows, clean[1])
  np.testing.assert_array_equal(values[3], 0)
  np.testing.assert_array_equal(rows[~class_mask], 0)


def test_forward_mode_ignores_masked_logits(logits, labels, class_mask):
  class_mask[3] = False

  @jax.jit
  def slopes(logits, tangents):
    def function(z):
      return all_values(z, labels, where=class_mask)

    return jax.jvp(function, (logits,), (tangents,))[1]

  clean = slopes(logits, class_mask.astype(np.float32))
  spoilt = slopes(spoil(logits, class_mask), np.ones_like(logits))
  for name, expected in clean.items():
    np.testing.assert_array_equal(spoilt[name], expected, err_msg=name)


# Masked examples


@every_loss
def test_masked_examples_are_zero(loss, logits, labels, example_mask):
  plain = evaluate(loss, logits, labels)
  spoilt = spoil(logits, np.repeat(example_mask[:, None], K, 1))
  padded = np.where(example_mask, labels, -1)
  values, rows = evaluate(loss, spoilt, padded, where=example_mask)
  np.testing.assert_array_equal(values[~example_mask], 0)
  np.testing.assert_array_equal(rows[~example_mask], 0)
  for actual, expected in zip((values, rows), plain):
    np.testing.assert_allclose(
      actual[example_mask], expected[example_mask], rtol=1e-5, atol=1e-6
    )


@soft_loss
def test_masked_examples_with_soft_labels(loss, logits, mixed, example_mask):
  plain = evaluate(loss, logits, mixed)
  keep = np.repeat(example_mask[:, None], K, 1)
  values, rows = evaluate(
    loss, spoil(logits, keep), spoil(mixed, keep), where=example_mask
  )
  np.testing.assert_array_equal(values[~example_mask], 0)
  np.testing.assert_array_equal(rows[~example_mask], 0)
  for actual, expected in zip((values, rows), plain):
    np.testing.assert_allclose(
      actual[example_mask], expected[example_mask], rtol=1e-5, atol=1e-6
    )


@every_loss
def test_masking_makes_no_nan_on_the_way(loss, logits, labels, class_mask):
  class_mask[3] = False
  logits = np.where(class_mask, logits, -np.inf).astype(np.float32)
  labels = np.where(class_mask.any(-1), labels, -1)
  for where in (class_mask, class_mask.all(-1)):
    with jax.debug_nans(True):
      jax.grad(lambda z, where=where: jnp.sum(loss(z, labels, where=where)))(
        logits
      )


@every_loss
@pytest.mark.parametrize('shape', [(B,), (B, K)])
def test_everything_masked(loss, labels, shape):
  logits = np.full((B, K), np.nan, np.float32)
  where = np.zeros(shape, bool)
  for value in evaluate(loss, logits, labels, where=where):
    np.testing.assert_array_equal(value, np.zeros_like(value))


@every_loss
@pytest.mark.parametrize('shape', [(B,), (B, K)])
def test_a_mask_of_ones_changes_nothing(loss, logits, labels, shape):
  plain = evaluate(loss, logits, labels)
  masked = evaluate(loss, logits, labels, where=np.ones(shape, bool))
  for actual, expected in zip(masked, plain):
    np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize('shape', [(1, K), (B, 1), (1, 1)])
def test_masks_broadcast_over_axes_of_size_one(logits, labels, shape):
  mask = np.arange(np.prod(shape)).reshape(shape) != 4
  full = np.broadcast_to(mask, (B, K))
  for name, actual in all_values(logits, labels % 4, where=mask).items():
    expected = all_values(logits, labels % 4, where=full)[name]
    np.testing.assert_allclose(actual, expected, rtol=1e-6, err_msg=name)


# Labels


@soft_loss
@pytest.mark.parametrize('mask', [None, 'class_mask', 'example_mask'])
def test_one_hot_labels_agree_with_class_ids(
  loss, logits, labels, mask, request
):
  where = request.getfixturevalue(mask) if mask else None
  one_hot = np.eye(K, dtype=np.float32)[labels]
  for actual, expected in zip(
    evaluate(loss, logits, one_hot, where=where),
    evaluate(loss, logits, labels, where=where),
  ):
    np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-6)


@soft_loss
def test_soft_labels_are_not_normalised(loss, logits, mixed):
  masses = np.linspace(0, 1, B, dtype=np.float32)[:, None]
  expected = loss.expected(logits, mixed * masses)
  actual, _ = evaluate(loss, logits, mixed * masses)
  np.testing.assert_allclose(actual, expected, rtol=2e-5)


@labelled_loss
@pytest.mark.parametrize('label', [-1, -100, K, 2**31 - 1])
def test_class_ids_outside_are_nan(loss, logits, labels, label):
  labels[1] = label
  outside = labels == label
  values, rows = evaluate(loss, logits, labels)
  np.testing.assert_array_equal(np.isnan(values), outside)
  assert np.isfinite(rows[~outside]).all()


@soft_loss
def test_gradient_of_an_unknown_label_is_nan(loss, logits, labels):
  labels[1] = -1
  _, rows = evaluate(loss, logits, labels)
  unknown = np.repeat((labels == -1)[:, None], K, 1)
  np.testing.assert_array_equal(np.isnan(rows), unknown)


@labelled_loss
def test_masked_label_classes_are_nan(loss, logits, labels, class_mask):
  class_mask[1, labels[1]] = False
  logits[1, labels[1]] = -np.inf
  one_hot = np.eye(K, dtype=np.float32)[labels]
  for form in (labels, one_hot) if loss.soft_labels else (labels,):
    values, _ = evaluate(loss, logits, form, where=class_mask)
    np.testing.assert_array_equal(np.isnan(values), np.arange(B) == 1)


@pytest.mark.parametrize(
  'dtype', [np.int8, np.uint8, np.int16, np.uint16, np.int32, np.uint32]
)
def test_class_ids_of_any_integer_type(dtype):
  maxsup = next(case for case in CASES if case.name == 'maxsup')
  # 300 classes do not fit into eight bits.
  logits = np.linspace(0, 3, 300, dtype=np.float32)[None]
  expected = maxsup.expected(logits, [100])
  actual = losses.maxsup_cross_entropy(logits, np.array([100], dtype))
  np.testing.assert_allclose(actual, expected, rtol=1e-5)


# Precision


@every_loss
@pytest.mark.parametrize('dtype', [jnp.bfloat16, jnp.float16])
def test_half_precision_is_computed_in_single(loss, logits, labels, dtype):
  half = np.asarray(logits, dtype)
  values, rows = evaluate(loss, half, labels)
  expected, expected_rows = evaluate(loss, half.astype(np.float32), labels)
  assert values.dtype == np.float32
  assert rows.dtype == dtype
  np.testing.assert_array_equal(values, expected)
  np.testing.assert_array_equal(rows, expected_rows.astype(dtype))


@pytest.mark.usefixtures('x64')
@every_loss
def test_double_precision_stays_double(loss, logits, labels):
  values, rows = evaluate(loss, logits.astype(np.float64), labels)
  assert values.dtype == rows.dtype == np.float64
  expected = loss.expected(logits, labels)
  np.testing.assert_allclose(values, expected, rtol=1e-12)


@pytest.mark.usefixtures('x64')
@every_loss
def test_the_logits_set_the_dtype(loss, logits, labels):
  alpha = np.asarray(0.1)
  one_hot = np.eye(K)[labels]
  for form in (labels, one_hot) if loss.soft_labels else (labels,):
    values = jax.eval_shape(loss, logits, form, alpha)
    assert values.dtype == np.float32


@shift_invariant_loss
def test_unchanged_by_a_shift(loss, logits, labels):
  # 2^13 takes 13 of the 24 bits of a float32; quarters survive it exactly.
  logits = np.round(logits * 4) / 4
  plain = evaluate(loss, logits, labels)
  shifted = evaluate(loss, logits + np.float32(8192), labels)
  for actual, expected in zip(shifted, plain):
    np.testing.assert_array_equal(actual, expected)


@shift_invariant_loss
def test_large_logits_stay_finite(loss, labels):
  logits = np.float32(1e30) * np.eye(K, dtype=np.float32)[np.roll(labels, 1)]
  for value in evaluate(loss, logits, labels):
    assert np.isfinite(value).all()
