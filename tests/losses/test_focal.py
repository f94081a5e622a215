"""Precision of the focal loss where the label is almost certain."""

import math

import jax
import numpy as np

from maxsup_jax import losses


def focal(z, label, gamma):
  """Value and gradient in double precision, from the other classes' sum."""
  weights = np.exp(np.float64(z) - z[label])
  others = math.fsum(np.delete(weights, label))
  q = weights / (1 + others)
  doubt, surprise = others / (1 + others), math.log1p(others)
  slope = doubt**gamma + gamma * doubt ** (gamma - 1) * q[label] * surprise
  rows = slope * q
  rows[label] = -slope * doubt
  return doubt**gamma * surprise, rows


with_gradient = jax.jit(jax.value_and_grad(losses.focal_cross_entropy))
# The softmax of the first is exactly 1 in single precision.
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


def test_value_and_gradient_keep_their_digits():
  for gamma in (0.5, 1.0, 2.0, 3.0):
    for row in ROWS:
      logits = np.array(row, np.float32)
      for shift in (np.float32(0), np.float32(1024)):
        if (logits + shift - shift != logits).any():
          continue  # The shift alone has lost the digits.
        found = with_gradient(logits + shift, 0, gamma)
        # Below 1e-38 single precision has no normal numbers.
        for a, b in zip(found, focal(logits, 0, gamma)):
          np.testing.assert_allclose(a, b, 1e-5, 1e-38, err_msg=str(row))


def test_nothing_is_left_of_the_other_classes():
  logits = np.array([200.0, 0.0], np.float32)
  function = jax.jit(jax.value_and_grad(losses.focal_cross_entropy, (0, 2)))
  for gamma in (0.0, 0.5, 1.0, 2.0):
    value, (slopes, of_gamma) = function(logits, 0, gamma)
    assert value == of_gamma == 0
    np.testing.assert_array_equal(slopes, [0, 0])
