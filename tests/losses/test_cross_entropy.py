import math

import jax
import numpy as np
import optax
import pytest

from maxsup_jax import losses


def test_golden_values(golden):
  np.testing.assert_allclose(
    losses.cross_entropy(golden.logits, golden.labels),
    [0.4493130024, 1.2465672692, 1.5425355295],
    atol=1e-10,
  )


def test_equals_optax(golden):
  np.testing.assert_allclose(
    losses.cross_entropy(golden.logits, golden.labels),
    optax.softmax_cross_entropy_with_integer_labels(
      golden.logits, golden.labels
    ),
    rtol=1e-14,
  )
  np.testing.assert_allclose(
    losses.cross_entropy(golden.logits, golden.mixed),
    optax.softmax_cross_entropy(golden.logits, golden.mixed),
    rtol=1e-14,
  )


@pytest.mark.usefixtures('x64')
def test_equal_logits_cost_the_log_of_the_number_of_classes():
  value = losses.cross_entropy(np.full((1, 7), 3.0), np.array([2]))
  np.testing.assert_allclose(value, [math.log(7)], rtol=1e-15)


def test_gradient_is_softmax_minus_label(golden):
  def total(logits):
    return losses.cross_entropy(logits, golden.labels).sum()

  softmax = np.exp(golden.logits) / np.exp(golden.logits).sum(-1, keepdims=True)
  np.testing.assert_allclose(
    jax.grad(total)(golden.logits),
    softmax - np.eye(4)[golden.labels],
    atol=1e-14,
  )


def test_small_losses_keep_their_digits():
  """The loss of a confident example is not lost beside its logits."""
  logits = np.array([[1016.0, 1000.0]], np.float32)
  value = losses.cross_entropy(logits, np.array([0]))
  np.testing.assert_allclose(value, [math.log1p(math.exp(-16))], rtol=0.1)
  value = losses.cross_entropy(logits, np.array([1]))
  np.testing.assert_allclose(value, [16.0], rtol=1e-7)
