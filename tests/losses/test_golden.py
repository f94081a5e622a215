"""Published numbers, the same losses in PyTorch, identities between them."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from maxsup_jax import losses

TEACHER = np.array(
  [[1.5, 1.0, -0.3, -1.0], [0.1, 1.1, 1.2, -0.5], [3.0, 0.2, 0.1, 1.0]]
)
smooth = losses.label_smoothing_cross_entropy
others = functools.partial(smooth, convention='others')
maxsup = losses.maxsup_cross_entropy


def test_golden_values(golden):
  for loss, alpha, expected in (
    (smooth, 0.0, [0.4493130024, 1.2465672692, 1.5425355295]),
    (smooth, 0.1, [0.5968130024, 1.2840672692, 1.5275355295]),
    (others, 0.1, [0.6459796690, 1.2965672692, 1.5225355295]),
    (maxsup, 0.1, [0.5968130024, 1.3340672692, 1.5575355295]),
    (
      losses.confidence_penalty_cross_entropy,
      0.1,
      [0.3532457234, 1.1272693574, 1.4045284483],
    ),
    (
      losses.focal_cross_entropy,
      2.0,
      [0.0588581909, 0.6328454633, 0.9533646142],
    ),
  ):
    actual = loss(golden.logits, golden.labels, alpha)
    np.testing.assert_allclose(actual, expected, atol=1e-10)
  # The mixed labels of this one were in single precision.
  np.testing.assert_allclose(
    maxsup(golden.logits, golden.mixed, 0.1),
    [0.8968130143, 1.1840672632, 1.4675355259],
    atol=2e-8,
  )


def test_equals_optax(golden):
  for labels in (golden.labels, golden.mixed):
    soft = np.eye(4)[labels] if labels.ndim == 1 else labels
    for alpha in (0.0, 0.3, 1.0):
      target = optax.smooth_labels(soft, alpha)
      np.testing.assert_allclose(
        smooth(golden.logits, labels, alpha),
        optax.softmax_cross_entropy(golden.logits, target),
        rtol=1e-14,
      )


WEIGHTS = np.array([1.0, 2.0, 0.5, 3.0])


def in_torch(torch):
  """Every loss as PyTorch has it, and the same loss here."""
  functional, teacher = torch.nn.functional, torch.tensor(TEACHER)
  ce = functools.partial(functional.cross_entropy, reduction='none')
  weight, bound = torch.tensor(WEIGHTS), functools.partial

  def mbls(z, y):
    gaps = z.amax(-1, keepdim=True) - z
    return ce(z, y) + 0.3 * torch.relu(gaps - 0.4).mean(-1)

  def acls(z, y):
    top = z.amax(-1, keepdim=True)
    rest = torch.where(z < top, torch.relu(top.detach() - z - 0.4) ** 2, 0)
    penalty = torch.relu(top[:, 0] - 0.4) ** 2 + 0.1 * rest.sum(-1) / 3
    return ce(z, y) + 0.3 * penalty

  def hinton(z, y):
    target = (teacher / 2).softmax(-1)
    student = (z / 2).log_softmax(-1)
    return 4 * functional.kl_div(student, target, reduction='none').sum(-1)

  def entropy(z):
    return torch.distributions.Categorical(logits=z).entropy()

  return (
    (bound(ce, label_smoothing=0.2), bound(smooth, alpha=0.2)),
    (
      bound(ce, label_smoothing=0.2, weight=weight),
      bound(smooth, alpha=0.2, class_weights=WEIGHTS),
    ),
    (
      lambda z, y: ce(z, y) + 0.2 * (z.amax(-1) - z.mean(-1)),
      bound(maxsup, alpha=0.2),
    ),
    (
      lambda z, y: ce(z, y) - 0.3 * entropy(z),
      bound(losses.confidence_penalty_cross_entropy, alpha=0.3),
    ),
    (
      lambda z, y: (1 - torch.exp(-ce(z, y))) ** 3 * ce(z, y),
      bound(losses.focal_cross_entropy, gamma=3.0),
    ),
    (mbls, bound(losses.mbls_cross_entropy, alpha=0.3, margin=0.4)),
    (acls, bound(losses.acls_cross_entropy, alpha=0.3, margin=0.4)),
    (
      hinton,
      lambda z, y: losses.distillation(
        z,
        TEACHER,
        teacher_temperature=2.0,
        student_temperature=2.0,
        divergence='kl',
        scale_by_squared_temperature=True,
      ),
    ),
    (
      lambda z, y: 0.6 * ce(z, y) + 0.4 * ce(z, (teacher / 3).softmax(-1)),
      bound(
        losses.distillation_cross_entropy,
        beta=0.4,
        teacher_temperature=3.0,
        teacher_logits=TEACHER,
      ),
    ),
  )


def test_equals_torch(golden):
  torch = pytest.importorskip('torch')
  cotangent = np.array([1.0, -2.0, 0.5])
  for theirs, ours in in_torch(torch):
    logits = torch.tensor(golden.logits, requires_grad=True)
    expected = theirs(logits, torch.tensor(golden.labels))
    expected.backward(torch.tensor(cotangent))
    actual, pull_back = jax.vjp(
      lambda z, f=ours: f(z, golden.labels), jnp.asarray(golden.logits)
    )
    np.testing.assert_allclose(actual, expected.detach(), rtol=1e-12)
    gradient = pull_back(jnp.asarray(cotangent))[0]
    np.testing.assert_allclose(gradient, logits.grad, atol=1e-13)


def test_small_losses_keep_their_digits():
  """The loss of a confident example is not lost beside its logits."""
  logits = np.array([[1016.0, 1000.0]] * 2, np.float32)
  value = losses.cross_entropy(logits, np.array([0, 1]))
  np.testing.assert_allclose(value[0], np.log1p(np.exp(-16)), rtol=0.1)
  np.testing.assert_allclose(value[1], 16.0, rtol=1e-7)


# Identities between the losses


def test_maxsup_and_label_smoothing(golden):
  """The same where the label is on top; else MaxSup is larger by the gap."""

  def difference(logits, labels):
    return maxsup(logits, labels, 0.3) - smooth(logits, labels, 0.3)

  on_top = golden.logits.argmax(-1)
  values, pull_back = jax.vjp(lambda z: difference(z, on_top), golden.logits)
  np.testing.assert_allclose(values, 0, atol=1e-14)
  gradient = pull_back(jnp.ones_like(values))[0]
  np.testing.assert_allclose(gradient, 0, atol=1e-15)
  z_y = golden.logits[np.arange(3), golden.labels]
  gap = 0.3 * (golden.logits.max(-1) - z_y)
  actual = difference(golden.logits, golden.labels)
  np.testing.assert_allclose(actual, gap, atol=1e-15)


def test_special_cases_are_other_losses(golden):
  z, y, uniform = golden.logits, golden.labels, np.full((1, 4), 0.25)
  targets = losses.ols_init(4).targets
  log_q = jax.nn.log_softmax(z)
  zipf = losses.zipf_distribution(z)
  law = 0.7 * np.eye(4)[y] + 0.3 * zipf
  for actual, expected in (
    (losses.margin_penalty(z, 0.0), losses.max_suppression(z)),
    (
      losses.prior_smoothing_cross_entropy(z, golden.mixed, uniform, 0.3),
      smooth(z, golden.mixed, 0.3),
    ),
    (losses.ols_cross_entropy(z, y, targets, 0.7), smooth(z, y, 0.3)),
    # (1 - alpha) NLL + alpha mean(-log q), with alpha < 0.
    (
      smooth(z, y, -0.4),
      -1.4 * log_q[np.arange(3), y] + 0.4 * log_q.mean(-1),
    ),
    (
      losses.prior_smoothing_cross_entropy(z, y, zipf, 0.3),
      losses.cross_entropy(z, law),
    ),
  ):
    np.testing.assert_allclose(actual, expected, rtol=1e-7)


def test_high_temperatures_match_logits(golden):
  """Hinton et al., section 2.1: T^2 KL tends to the distance over K."""
  logits, teacher = (
    z - z.mean(-1, keepdims=True) for z in (golden.logits, TEACHER)
  )
  distilled = losses.distillation(
    logits,
    teacher,
    teacher_temperature=1e4,
    student_temperature=1e4,
    divergence='kl',
    scale_by_squared_temperature=True,
  )
  matched = losses.logit_matching(logits, teacher, reduction='mean')
  np.testing.assert_allclose(distilled, matched, rtol=1e-3)


def test_teachers_priors_and_confidence_have_no_gradient(golden):
  def total(teacher, targets, logits):
    given = golden.logits, golden.labels
    imitations = (
      losses.distillation_cross_entropy,
      losses.logit_matching_cross_entropy,
      losses.adaptive_smoothing_cross_entropy,
    )
    values = [f(*given, 0.5, teacher_logits=teacher) for f in imitations]
    values.append(losses.prior_smoothing_cross_entropy(*given, teacher, 0.5))
    values.append(losses.ols_cross_entropy(*given, targets))
    values.append(losses.confidence_alpha(logits))
    return sum(jnp.sum(x) for x in values)

  arguments = TEACHER, losses.ols_init(4).targets, golden.logits
  for gradient in jax.grad(total, (0, 1, 2))(*arguments):
    assert not gradient.any()


# Label smoothing


@pytest.mark.usefixtures('x64')
@pytest.mark.parametrize(
  ('num_classes', 'alpha', 'gap', 'floor'),
  [(10, 0.1, 4.5109, 0.5003), (10, 0.6, 2.0369, 1.8764)],
)
def test_optimum(num_classes, alpha, gap, floor):
  """The logit gap and the loss at which the softmax is the smoothed label."""
  exact_gap = np.log(1 + num_classes * (1 - alpha) / alpha)
  np.testing.assert_allclose(exact_gap, gap, atol=5e-5)
  logits, labels = exact_gap * np.eye(1, num_classes), np.array([0])
  value, gradient = jax.value_and_grad(lambda z: smooth(z, labels, alpha)[0])(
    logits
  )
  np.testing.assert_allclose(value, floor, atol=5e-5)
  np.testing.assert_allclose(gradient, np.zeros_like(logits), atol=1e-14)
  mass = alpha * (num_classes - 1) / num_classes
  divergence = smooth(logits, labels, mass, convention='kl')
  np.testing.assert_allclose(divergence, [0], atol=1e-14)


def test_all_mass_on_the_others():
  """The divergence stays finite where the label gets no mass at all."""
  logits, one_hot = np.zeros((1, 10), np.float32), np.eye(1, 10)
  for labels in (np.array([0]), one_hot.astype(np.float32)):
    value = smooth(logits, labels, 1.0, convention='kl')
    np.testing.assert_allclose(value, [np.log(10 / 9)], atol=1e-5)


@pytest.mark.usefixtures('x64')
def test_a_class_without_weight_may_be_impossible():
  logits = np.array([[2.0, -np.inf, 0.1, -1.0]])
  weights, target = np.array([1.5, 0.0, 3.0, 0.5]), np.full(4, 0.3 / 4)
  target[0] += 0.7
  actual = smooth(logits, np.array([0]), 0.3, class_weights=weights)
  log_q = np.log(np.exp(logits) / np.exp(logits).sum() + (weights == 0))
  expected = -np.sum(weights * target * log_q, -1)
  np.testing.assert_allclose(actual, expected, rtol=1e-12)


# The top logit


def test_max_suppression_is_zero_exactly_where_all_logits_are_equal():
  rng = np.random.default_rng(0)
  logits = (
    rng.integers(-1, 2, size=(500, 3)) * rng.choice([1e-6, 1, 99], 500)[:, None]
  )
  value = losses.max_suppression(logits.astype(np.float32))
  assert (value >= 0).all()
  np.testing.assert_array_equal(value == 0, np.ptp(logits, -1) == 0)


def test_ties_share_the_gradient_and_masked_classes_do_not_tie():
  def gradient(logits, where=None):
    return jax.grad(lambda z: losses.max_suppression(z, where=where)[0])(logits)

  ties = gradient(np.array([[3.0, 1.0, 3.0, 3.0, 3.0]], np.float32))
  np.testing.assert_allclose(ties, [[0.05, -0.2, 0.05, 0.05, 0.05]], 1e-6)
  # The top is 0 after the shift, and so is what replaces a masked logit.
  exists = np.array([[True, False, True, False]])
  rows = gradient(np.array([[3.0, 3.0, 1.0, 9.0]], np.float32), exists)
  np.testing.assert_array_equal(rows, [[0.5, 0, -0.5, 0]])


# Alpha from confidence


def test_confidence_alpha(golden):
  q = jax.nn.softmax(golden.logits)
  entropy = -np.sum(q * np.log(q), -1)
  alpha = functools.partial(losses.confidence_alpha, low=0.1, high=0.3)
  expected = 0.1 + 0.2 * (1 - entropy / np.log(4))
  np.testing.assert_allclose(alpha(golden.logits), expected, rtol=1e-12)
  # It stays within its ends.
  logits = np.array([[0.3] * 7, [90.0] + [0.0] * 6], np.float32)
  ends = alpha(np.r_[logits, logits + 1000])
  np.testing.assert_allclose(ends, [0.1, 0.3, 0.1, 0.3], rtol=1e-6)
  assert (ends >= np.float32(0.1)).all()
  # Undecided between two classes, one class only, and nothing.
  logits = np.array([[0.0, 0, 9, 9], [0, 50, 0, 0], [1, 2, 3, 4]], np.float32)
  where = np.array([[1, 1, 0, 0], [0, 1, 0, 0], [0, 0, 0, 0]], bool)
  masked = alpha(np.where(where, logits, np.nan), where=where)
  np.testing.assert_allclose(masked, [0.1, 0.1, 0.1], rtol=1e-6)


# The two terms of label smoothing, apart

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


def test_the_gradient_of_the_top_logit_survives_logits_computed_twice():
  """As XLA may compute those of a soft cap: then nothing equals the maximum."""
  from maxsup_jax.losses._rows import _share_of_top

  z = jnp.array([[-1e-6, -2.0, -1.0], [0.0, 0.0, -1.0], [-1e-6, -1e-6, -3.0]])
  shift = jnp.full((3, 1), 3.0)
  gradient = jax.grad(lambda z: _share_of_top(z, shift, None, 1).sum())(z)
  np.testing.assert_array_equal(
    gradient, [[1, 0, 0], [0.5, 0.5, 0], [0.5, 0.5, 0]]
  )
  classes = jnp.array([[False, True, True]] * 3)
  masked = jax.grad(lambda z: _share_of_top(z, shift, classes, 1).sum())(z)
  np.testing.assert_array_equal(masked[1], [0, 1, 0])
  every = jnp.zeros((1, 1000))
  even = jax.grad(lambda z: _share_of_top(z, z[:, :1], None, 1).sum())(every)
  np.testing.assert_allclose(even, 1e-3)
