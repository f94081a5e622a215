import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from maxsup_jax import losses

LOGITS = hnp.arrays(np.float32, 5, elements=st.floats(-100, 100, width=32))
PROPERTY = hypothesis.settings(
  max_examples=100, deadline=None, derandomize=True
)
penalty = jax.jit(losses.max_suppression)


def rows_of_gradient(function, logits):
  return jax.grad(lambda z: jnp.sum(function(z)))(logits)


def test_golden_values(golden):
  np.testing.assert_allclose(
    losses.maxsup_cross_entropy(golden.logits, golden.labels, 0.1),
    [0.5968130024, 1.3340672692, 1.5575355295],
    atol=1e-10,
  )
  # The fixture of the mixed labels is in single precision.
  np.testing.assert_allclose(
    losses.maxsup_cross_entropy(golden.logits, golden.mixed, 0.1),
    [0.8968130143, 1.1840672632, 1.4675355259],
    atol=2e-8,
  )


def test_equals_torch(golden):
  torch = pytest.importorskip('torch')
  logits = torch.tensor(golden.logits, requires_grad=True)
  labels = torch.tensor(golden.labels)
  expected = torch.nn.functional.cross_entropy(logits, labels, reduction='none')
  expected = expected + 0.2 * (logits.amax(-1) - logits.mean(-1))
  expected.sum().backward()

  def loss(logits):
    return losses.maxsup_cross_entropy(logits, golden.labels, 0.2)

  np.testing.assert_allclose(loss(golden.logits), expected.detach(), atol=1e-14)
  np.testing.assert_allclose(
    rows_of_gradient(loss, golden.logits), logits.grad, atol=1e-14
  )


def test_equals_label_smoothing_where_the_label_is_on_top(golden):
  labels = golden.logits.argmax(-1)

  def maxsup(logits):
    return losses.maxsup_cross_entropy(logits, labels, 0.3)

  def smoothing(logits):
    return losses.label_smoothing_cross_entropy(logits, labels, 0.3)

  np.testing.assert_allclose(
    maxsup(golden.logits), smoothing(golden.logits), rtol=1e-14
  )
  np.testing.assert_allclose(
    rows_of_gradient(maxsup, golden.logits),
    rows_of_gradient(smoothing, golden.logits),
    atol=1e-15,
  )


def test_exceeds_label_smoothing_by_the_gap_to_the_top(golden):
  z_y = golden.logits[np.arange(3), golden.labels]
  gap = losses.maxsup_cross_entropy(
    golden.logits, golden.labels, 0.3
  ) - losses.label_smoothing_cross_entropy(golden.logits, golden.labels, 0.3)
  expected = 0.3 * (golden.logits.max(-1) - z_y)
  np.testing.assert_allclose(gap, expected, atol=1e-15)


@hypothesis.given(LOGITS)
@PROPERTY
def test_penalty_is_zero_exactly_where_all_logits_are_equal(logits):
  value = penalty(logits)
  assert value >= 0
  # A gap that is not lost when divided by the number of classes.
  hypothesis.assume(np.ptp(logits) == 0 or np.ptp(logits) > 1e-30)
  assert (value == 0) == (np.ptp(logits) == 0)


def test_ties_share_the_gradient_evenly():
  logits = np.array([[3.0, 1.0, 3.0, 3.0, 3.0]], np.float32)
  np.testing.assert_allclose(
    rows_of_gradient(losses.max_suppression, logits),
    [[0.05, -0.2, 0.05, 0.05, 0.05]],
    rtol=1e-6,
  )


def test_masked_classes_do_not_tie():
  # The top is 0 after the shift, and so is what replaces a masked logit.
  logits = np.array([[3.0, 3.0, 1.0, 9.0]], np.float32)
  exists = np.array([[True, False, True, False]])

  def masked(logits):
    return losses.max_suppression(logits, where=exists)

  np.testing.assert_array_equal(masked(logits), [1.0])
  np.testing.assert_array_equal(
    rows_of_gradient(masked, logits), [[0.5, 0, -0.5, 0]]
  )


def test_the_rule_of_other_platforms_gives_the_same(monkeypatch):
  """What runs on TPUs and GPUs, run here."""
  logits = np.array(
    [[3.0, 1.0, 3.0, 0.0], [0.5, 1.5, 9.0, -0.5], [9.0, 9.0, 9.0, 9.0]],
    np.float32,
  )
  exists = np.array([[True] * 4, [True, True, False, True], [False] * 4])

  def values_and_gradients():
    return [
      (
        losses.max_suppression(logits, where=where),
        jax.jacrev(lambda z, w=where: losses.max_suppression(z, where=w))(
          logits
        ),
      )
      for where in (None, exists)
    ]

  on_cpu = values_and_gradients()
  calls = []

  def elsewhere(*arguments, default, **others):
    calls.append(others)
    return default(*arguments)

  monkeypatch.setattr(jax.lax, 'platform_dependent', elsewhere)
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6),
    values_and_gradients(),
    on_cpu,
  )
  assert calls
