"""The two terms of label smoothing, apart."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from maxsup_jax import losses

TERMS = (
  (losses.smoothing_regularization, 'classes'),
  (losses.smoothing_regularization, 'below'),
  (losses.error_amplification, 'classes'),
  (losses.error_amplification, 'above'),
  (losses.error_amplification, 'max'),
)


@functools.partial(jax.jit, static_argnums=(0, 1))
def with_gradient(term, normalization, logits, labels):
  function = functools.partial(term, normalization=normalization)
  values, pull_back = jax.vjp(lambda z: function(z, labels, 0.1), logits)
  return values, pull_back(jnp.ones_like(values))[0]


def test_golden_values_and_gradients(golden):
  """The gradient of the second: z = (0.5, 1.5, 1.0, -0.5), y = 2."""
  for term, values, rows in zip(
    TERMS,
    (
      [0.1475, 0.05, 0.0],
      [0.59 / 3, 0.1, 0.0],
      [0.0, -0.0125, -0.015],
      [0.0, -0.05, -0.02],
      [0.0, -0.05, -0.03],
    ),
    (
      [-0.025, 0, 0.05, -0.025],
      [-0.05, 0, 0.1, -0.05],
      [0, -0.025, 0.025, 0],
      [0, -0.1, 0.1, 0],
      [0, -0.1, 0.1, 0],
    ),
  ):
    actual = with_gradient(*term, golden.logits, golden.labels)
    np.testing.assert_allclose(actual[0], values, atol=1e-15)
    np.testing.assert_allclose(actual[1][1], rows, atol=1e-15)


def test_parts_sum_to_what_label_smoothing_adds():
  rng = np.random.default_rng(0)
  # So few values that most rows have ties.
  logits = (rng.integers(-2, 3, size=(200, 5)) / 2).astype(np.float32)
  labels = rng.integers(5, size=200)
  alpha = rng.uniform(-1, 1, size=200).astype(np.float32)
  below = losses.smoothing_regularization(logits, labels, alpha)
  above = losses.error_amplification(logits, labels, alpha)
  added = losses.label_smoothing_cross_entropy(
    logits, labels, alpha
  ) - losses.cross_entropy(logits, labels)
  np.testing.assert_allclose(below + above, added, atol=2e-6)
  assert (below * np.sign(alpha) >= 0).all()
  wrong = logits[np.arange(200), labels] < logits.max(-1)
  np.testing.assert_array_equal(above * np.sign(alpha) < 0, wrong)


def test_ties_with_the_label_are_on_neither_side():
  rows = [[1.0, 1.0, 1.0], [2.0, 0.0, 2.0], [0.0, 2.0, 0.0], [5.0, 1.0, 3.0]]
  logits = np.repeat(np.array(rows, np.float32), 3, 0)
  labels = np.tile(np.arange(3), 4)
  is_label = np.eye(3, dtype=bool)[labels]
  gaps = logits[is_label][:, None] - logits
  for term, normalization in TERMS:
    below = term is losses.smoothing_regularization
    side = gaps > 0 if below else gaps < 0
    values, slopes = with_gradient(term, normalization, logits, labels)
    # Away from the label below, towards that above: the term narrows the one
    # gap and widens the other.
    np.testing.assert_array_equal(
      np.sign(values), side.any(-1) * (2 * below - 1)
    )
    np.testing.assert_array_equal(slopes[is_label] > 0, side.any(-1))
    np.testing.assert_array_equal(slopes[~side & ~is_label], 0)
