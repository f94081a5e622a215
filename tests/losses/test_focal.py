"""Precision of the focal loss where the label is almost certain."""

import math

import jax
import numpy as np
import pytest

from maxsup_jax import losses


def focal(z, label, gamma):
  """Double precision, from the sum over the other classes."""
  others = math.fsum(math.exp(v - z[label]) for v in np.delete(z, label))
  doubt = others / (1 + others)
  return doubt**gamma * math.log1p(others)


def gradient(z, label, gamma):
  """The derivative of the same, by hand."""
  weights = np.exp(np.float64(z) - z[label])
  others = math.fsum(np.delete(weights, label))
  q = weights / (1 + others)
  doubt, surprise = others / (1 + others), math.log1p(others)
  slope = doubt**gamma + gamma * doubt ** (gamma - 1) * q[label] * surprise
  rows = slope * q
  rows[label] = -slope * doubt
  return rows


with_gradient = jax.jit(jax.value_and_grad(losses.focal_cross_entropy))
ROWS = (
  [20.0, 0.0, 1.0],
  [17.0, 3.0, -5.0],
  [5.0, 5.0, 1.0],
  [2.0, 0.5, 1.0],
  [-30.0, 4.0, 1.0],
  [40.0, 0.0, 0.0],
  [1.0, 1.0 - 2**-20, 0.0],
  [1.0, 1.0 + 2**-20, 0.0],
)


@pytest.mark.parametrize('gamma', [0.5, 1.0, 2.0, 3.0])
@pytest.mark.parametrize('row', ROWS, ids=str)
def test_value_and_gradient_keep_their_digits(row, gamma):
  for shift in (0, 1024):
    logits = np.array(row, np.float32)
    value, slopes = with_gradient(logits + np.float32(shift), 0, gamma)
    if shift and (logits + np.float32(shift) - shift != logits).any():
      continue  # The shift alone has lost the digits.
    # Below 1e-38 single precision has no normal numbers.
    expected = focal(logits, 0, gamma), gradient(logits, 0, gamma)
    np.testing.assert_allclose(value, expected[0], rtol=1e-5, atol=1e-38)
    np.testing.assert_allclose(slopes, expected[1], rtol=1e-5, atol=1e-38)


def test_the_naive_form_loses_them():
  """What the test above is for."""
  logits = np.array([20.0, 0.0, 1.0], np.float32)
  q = jax.nn.softmax(logits)[0]
  assert q == 1
  assert focal(logits, 0, 2.0) > 0


@pytest.mark.parametrize('gamma', [0.0, 0.5, 1.0, 2.0])
def test_nothing_is_left_of_the_other_classes(gamma):
  logits = np.array([200.0, 0.0], np.float32)
  value, (slopes, of_gamma) = jax.jit(
    jax.value_and_grad(losses.focal_cross_entropy, (0, 2))
  )(logits, 0, gamma)
  assert value == 0
  np.testing.assert_array_equal(slopes, [0, 0])
  assert of_gamma == 0
