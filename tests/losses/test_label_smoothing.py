import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from maxsup_jax import losses

smooth = losses.label_smoothing_cross_entropy


@pytest.mark.parametrize(
  ('convention', 'expected'),
  [
    ('uniform', [0.5968130024, 1.2840672692, 1.5275355295]),
    ('others', [0.6459796690, 1.2965672692, 1.5225355295]),
  ],
)
def test_golden_values(golden, convention, expected):
  actual = smooth(golden.logits, golden.labels, 0.1, convention=convention)
  np.testing.assert_allclose(actual, expected, atol=1e-10)


def test_equals_optax(golden):
  one_hot = np.eye(4)[golden.labels]
  for labels, soft in (
    (golden.labels, one_hot),
    (golden.mixed, golden.mixed),
  ):
    np.testing.assert_allclose(
      smooth(golden.logits, labels, 0.3),
      optax.softmax_cross_entropy(
        golden.logits, optax.smooth_labels(soft, 0.3)
      ),
      rtol=1e-14,
    )


@pytest.mark.parametrize('form', ['labels', 'mixed'])
@pytest.mark.parametrize('alpha', [0.0, 0.1, 1.0])
def test_equals_torch(golden, alpha, form):
  torch = pytest.importorskip('torch')
  labels = getattr(golden, form)
  logits = torch.tensor(golden.logits, requires_grad=True)
  loss = torch.nn.CrossEntropyLoss(label_smoothing=alpha, reduction='none')
  expected = loss(logits, torch.tensor(labels))
  weights = np.array([0.5, -1.0, 2.0])
  expected.backward(torch.tensor(weights))

  def total(logits):
    values = smooth(logits, labels, alpha)
    return jnp.sum(weights * values), values

  gradient, actual = jax.grad(total, has_aux=True)(golden.logits)
  np.testing.assert_allclose(actual, expected.detach(), atol=1e-14)
  np.testing.assert_allclose(gradient, logits.grad, atol=1e-14)


def test_adds_alpha_times_label_logit_above_the_mean(golden):
  z_y = golden.logits[np.arange(3), golden.labels]
  term = 0.1 * (z_y - golden.logits.mean(-1))
  np.testing.assert_allclose(
    smooth(golden.logits, golden.labels, 0.1),
    losses.cross_entropy(golden.logits, golden.labels) + term,
    rtol=1e-14,
  )


@pytest.mark.parametrize('form', ['labels', 'mixed'])
def test_kl_is_others_less_a_constant(golden, form):
  labels = getattr(golden, form)

  def total(logits, convention):
    return smooth(logits, labels, 0.3, convention=convention).sum()

  gradient = jax.grad(total)
  np.testing.assert_allclose(
    gradient(golden.logits, 'kl'), gradient(golden.logits, 'others'), atol=1e-15
  )


@pytest.mark.usefixtures('x64')
@pytest.mark.parametrize(
  ('num_classes', 'alpha', 'gap', 'floor'),
  [
    (10, 0.1, 4.5109, 0.5003),
    (10, 0.6, 2.0369, 1.8764),
    (100, 0.05, 7.5501, 0.4245),
    (100, 0.1, 6.8035, 0.7778),
    (1000, 0.1, 9.1051, 1.0148),
  ],
)
def test_optimum(num_classes, alpha, gap, floor):
  """The logit gap and the loss at which the softmax is the smoothed label."""
  exact_gap = np.log(1 + num_classes * (1 - alpha) / alpha)
  np.testing.assert_allclose(exact_gap, gap, atol=5e-5)
  logits = exact_gap * np.eye(1, num_classes)
  labels = np.array([0])

  def loss(logits):
    return smooth(logits, labels, alpha)[0]

  value, gradient = jax.value_and_grad(loss)(logits)
  np.testing.assert_allclose(value, floor, atol=5e-5)
  np.testing.assert_allclose(gradient, np.zeros_like(logits), atol=1e-14)
  others = alpha * (num_classes - 1) / num_classes
  divergence = smooth(logits, labels, others, convention='kl')
  np.testing.assert_allclose(divergence, [0], atol=1e-14)


@pytest.mark.parametrize('num_classes', [2, 10, 1000])
def test_all_mass_on_the_others(num_classes):
  """The divergence stays finite where the label gets no mass at all."""
  logits = np.zeros((1, num_classes), np.float32)
  one_hot = np.eye(1, num_classes, dtype=np.float32)
  expected = np.log(num_classes) - np.log(num_classes - 1)
  for labels in (np.array([0]), one_hot):
    value = smooth(logits, labels, 1.0, convention='kl')
    np.testing.assert_allclose(value, [expected], atol=1e-5)
