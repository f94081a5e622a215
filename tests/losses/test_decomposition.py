import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import strategies as st

from maxsup_jax import losses

TERMS = (
  (losses.smoothing_regularization, 'classes'),
  (losses.smoothing_regularization, 'below'),
  (losses.error_amplification, 'classes'),
  (losses.error_amplification, 'above'),
  (losses.error_amplification, 'max'),
)
every_term = pytest.mark.parametrize(('term', 'normalization'), TERMS)


def rows_of_gradient(term, normalization, logits, labels):
  return jax.grad(
    lambda z: jnp.sum(term(z, labels, 0.1, normalization=normalization))
  )(logits)


@pytest.mark.parametrize(
  ('term', 'normalization', 'expected'),
  [
    (*term, expected)
    for term, expected in zip(
      TERMS,
      (
        [0.1475, 0.05, 0.0],
        [0.59 / 3, 0.1, 0.0],
        [0.0, -0.0125, -0.015],
        [0.0, -0.05, -0.02],
        [0.0, -0.05, -0.03],
      ),
    )
  ],
)
def test_golden_values(golden, term, normalization, expected):
  actual = term(golden.logits, golden.labels, 0.1, normalization=normalization)
  np.testing.assert_allclose(actual, expected, atol=1e-15)


def test_golden_gradients(golden):
  """The second example: z = (0.5, 1.5, 1.0, -0.5), y = 2, M = 2, N = 1."""
  arguments = golden.logits[1:2], golden.labels[1:2]
  for (term, normalization), expected in zip(
    TERMS,
    (
      [[-0.025, 0, 0.05, -0.025]],
      [[-0.05, 0, 0.1, -0.05]],
      [[0, -0.025, 0.025, 0]],
      [[0, -0.1, 0.1, 0]],
      [[0, -0.1, 0.1, 0]],
    ),
  ):
    actual = rows_of_gradient(term, normalization, *arguments)
    np.testing.assert_allclose(actual, expected, atol=1e-15)


@hypothesis.given(
  halves=st.lists(st.integers(-4, 4), min_size=5, max_size=5),
  label=st.integers(0, 4),
  alpha=st.floats(-1, 1),
)
@hypothesis.settings(max_examples=100, deadline=None, derandomize=True)
def test_parts_sum_to_what_label_smoothing_adds(halves, label, alpha):
  logits = np.array(halves, np.float32) / 2
  # The product with the smallest gap must not vanish.
  alpha = np.float32(alpha if abs(alpha) > 1e-30 else 0)
  arguments = logits, np.array(label), alpha
  smoothed, plain, regularization, amplification = parts(*arguments)
  np.testing.assert_allclose(
    regularization + amplification, smoothed - plain, atol=2e-6
  )
  if alpha >= 0:
    assert regularization >= 0
    assert amplification <= 0
    assert alpha == 0 or (amplification < 0) == (logits[label] < max(logits))


@jax.jit
def parts(logits, label, alpha):
  return (
    losses.label_smoothing_cross_entropy(logits, label, alpha),
    losses.cross_entropy(logits, label),
    losses.smoothing_regularization(logits, label, alpha),
    losses.error_amplification(logits, label, alpha),
  )


@every_term
@pytest.mark.parametrize(
  'logits', [[1.0, 1.0, 1.0], [2.0, 0.0, 2.0], [0.0, 2.0, 0.0], [5.0, 1.0, 3.0]]
)
@pytest.mark.parametrize('label', [0, 1, 2])
def test_empty_sides_are_zero(term, normalization, logits, label):
  """Ties with the label are on neither side, in the gradient neither."""
  logits = np.array([logits], np.float32)
  labels = np.array([label])
  below = term is losses.smoothing_regularization
  gaps = logits[0, label] - logits[0]
  side = gaps > 0 if below else gaps < 0
  value = term(logits, labels, 0.1, normalization=normalization)
  rows = rows_of_gradient(term, normalization, logits, labels)
  assert np.isfinite(rows).all()
  if side.any():
    assert value > 0 if below else value < 0
    # Towards the label above, away from it below: the term narrows the one
    # gap and widens the other.
    assert rows[0, label] > 0
    untouched = ~side & (np.arange(3) != label)
    np.testing.assert_array_equal(rows[0, untouched], 0)
  else:
    np.testing.assert_array_equal(value, [0])
    np.testing.assert_array_equal(rows, np.zeros_like(logits))


def test_top_ties_share_the_gradient_of_the_max_form():
  logits = np.array([[2.0, 0.0, 2.0, 1.0]], np.float32)
  np.testing.assert_allclose(
    rows_of_gradient(losses.error_amplification, 'max', logits, np.array([1])),
    [[-0.05, 0.1, -0.05, 0]],
    rtol=1e-6,
  )


@every_term
def test_masked_classes_are_on_no_side(term, normalization):
  logits = np.array([[9.0, 1.0, -9.0]], np.float32)
  only = np.array([[False, True, False]])
  value = term(
    logits, np.array([1]), 0.1, normalization=normalization, where=only
  )
  np.testing.assert_array_equal(value, [0])


@every_term
def test_soft_labels_are_refused(golden, term, normalization):
  with pytest.raises(ValueError, match='labels must be integer class ids'):
    term(golden.logits, golden.mixed, 0.1, normalization=normalization)


@every_term
def test_alpha_outside_its_range(golden, term, normalization):
  with pytest.raises(ValueError, match=r'alpha must be in \(-inf, 1\], got 2'):
    term(golden.logits, golden.labels, 2.0, normalization=normalization)


def test_unknown_normalization(golden):
  arguments = golden.logits, golden.labels
  with pytest.raises(ValueError, match="'classes', 'below', got 'above'"):
    losses.smoothing_regularization(*arguments, normalization='above')
  with pytest.raises(ValueError, match="'above', 'max', got 'below'"):
    losses.error_amplification(*arguments, normalization='below')
