"""Published numbers, and the same loss in PyTorch, for the family of losses."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from maxsup_jax import losses

TEACHER = np.array(
  [[1.5, 1.0, -0.3, -1.0], [0.1, 1.1, 1.2, -0.5], [3.0, 0.2, 0.1, 1.0]]
)


@pytest.mark.parametrize(
  ('function', 'expected'),
  [
    (
      functools.partial(losses.confidence_penalty_cross_entropy, alpha=0.1),
      [0.3532457234, 1.1272693574, 1.4045284483],
    ),
    (
      functools.partial(losses.focal_cross_entropy, gamma=2.0),
      [0.0588581909, 0.6328454633, 0.9533646142],
    ),
  ],
)
def test_golden_values(golden, function, expected):
  actual = function(golden.logits, golden.labels)
  np.testing.assert_allclose(actual, expected, atol=1e-10)


@pytest.fixture
def torch():
  return pytest.importorskip('torch')


def cross_entropy(torch, z, y):
  return torch.nn.functional.cross_entropy(z, y, reduction='none')


def logit_penalty(torch, z, y):
  return cross_entropy(torch, z, y) + 0.3 * 0.5 * (z**2).sum(-1)


def confidence_penalty(torch, z, y):
  entropy = torch.distributions.Categorical(logits=z).entropy()
  return cross_entropy(torch, z, y) - 0.3 * entropy


def confidence_penalty_kl(torch, z, y):
  uniform = torch.full_like(z, 0.25)
  divergence = torch.nn.functional.kl_div(
    uniform.log(), z.log_softmax(-1), reduction='none', log_target=True
  )
  return cross_entropy(torch, z, y) + 0.3 * divergence.sum(-1)


def logit_norm(torch, z, y):
  norms = torch.norm(z, p=2, dim=-1, keepdim=True) + 1e-7
  return cross_entropy(torch, z / norms / 0.3, y)


def focal(torch, z, y):
  surprise = cross_entropy(torch, z, y)
  return (1 - torch.exp(-surprise)) ** 3 * surprise


def mbls(torch, z, y):
  gaps = z.amax(-1, keepdim=True) - z
  penalty = torch.nn.functional.relu(gaps - 0.4).mean(-1)
  return cross_entropy(torch, z, y) + 0.3 * penalty


def acls(torch, z, y):
  top = z.amax(-1, keepdim=True)
  rest = torch.where(z < top, torch.relu(top.detach() - z - 0.4) ** 2, 0)
  penalty = torch.relu(top[:, 0] - 0.4) ** 2 + 0.1 * rest.sum(-1) / 3
  return cross_entropy(torch, z, y) + 0.3 * penalty


def hinton(torch, z, y):
  del y
  divergence = torch.nn.functional.kl_div(
    (z / 2).log_softmax(-1),
    (torch.tensor(TEACHER) / 2).softmax(-1),
    reduction='none',
  )
  return 4 * divergence.sum(-1)


def muller(torch, z, y):
  target = (torch.tensor(TEACHER) / 3).softmax(-1)
  imitation = torch.nn.functional.cross_entropy(z, target, reduction='none')
  return 0.6 * cross_entropy(torch, z, y) + 0.4 * imitation


def logit_matching(torch, z, y):
  distance = torch.nn.functional.mse_loss(
    z, torch.tensor(TEACHER), reduction='none'
  )
  return 0.4 * cross_entropy(torch, z, y) + 0.6 * 0.5 * distance.sum(-1)


@pytest.mark.parametrize(
  ('in_torch', 'function'),
  [
    (
      logit_penalty,
      functools.partial(losses.logit_penalty_cross_entropy, alpha=0.3),
    ),
    (
      confidence_penalty,
      functools.partial(losses.confidence_penalty_cross_entropy, alpha=0.3),
    ),
    (
      confidence_penalty_kl,
      functools.partial(
        losses.confidence_penalty_cross_entropy, alpha=0.3, form='kl'
      ),
    ),
    (
      logit_norm,
      functools.partial(losses.logit_norm_cross_entropy, temperature=0.3),
    ),
    (focal, functools.partial(losses.focal_cross_entropy, gamma=3.0)),
    (
      mbls,
      functools.partial(losses.mbls_cross_entropy, alpha=0.3, margin=0.4),
    ),
    (
      acls,
      functools.partial(losses.acls_cross_entropy, alpha=0.3, margin=0.4),
    ),
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
      muller,
      functools.partial(
        losses.distillation_cross_entropy,
        beta=0.4,
        teacher_logits=TEACHER,
        teacher_temperature=3.0,
      ),
    ),
    (
      logit_matching,
      functools.partial(
        losses.logit_matching_cross_entropy, beta=0.6, teacher_logits=TEACHER
      ),
    ),
  ],
  ids=lambda f: getattr(f, '__name__', ''),
)
def test_equals_torch(torch, golden, in_torch, function):
  logits = torch.tensor(golden.logits, requires_grad=True)
  expected = in_torch(torch, logits, torch.tensor(golden.labels))
  weights = np.array([1.0, -2.0, 0.5])
  (expected * torch.tensor(weights)).sum().backward()
  actual, pull_back = jax.vjp(
    lambda z: function(z, golden.labels), jnp.asarray(golden.logits)
  )
  np.testing.assert_allclose(actual, expected.detach(), rtol=1e-12)
  np.testing.assert_allclose(
    pull_back(jnp.asarray(weights))[0], logits.grad, atol=1e-13
  )


# Identities between the losses


def test_no_margin_is_max_suppression(golden):
  for logits in (golden.logits, np.array([[3.0, 1.0, 3.0, 0.0]])):
    for of_margin, of_maxsup in zip(
      jax.vjp(lambda z: losses.margin_penalty(z, 0.0), logits),
      jax.vjp(losses.max_suppression, logits),
    ):
      if callable(of_margin):
        ones = jnp.ones(len(logits))
        of_margin, of_maxsup = of_margin(ones), of_maxsup(ones)
      np.testing.assert_allclose(of_margin, of_maxsup, atol=1e-15)


def test_a_uniform_prior_is_label_smoothing(golden):
  uniform = np.full((1, 4), 0.25)
  for labels in (golden.labels, golden.mixed):
    np.testing.assert_allclose(
      losses.prior_smoothing_cross_entropy(golden.logits, labels, uniform, 0.3),
      losses.label_smoothing_cross_entropy(golden.logits, labels, 0.3),
      rtol=1e-13,
    )


def test_uniform_targets_make_online_smoothing_label_smoothing(golden):
  np.testing.assert_allclose(
    losses.ols_cross_entropy(
      golden.logits, golden.labels, losses.ols_init(4).targets, 0.7
    ),
    losses.label_smoothing_cross_entropy(golden.logits, golden.labels, 0.3),
    rtol=1e-7,
  )


def test_negative_label_smoothing(golden):
  # (1 - alpha) NLL + alpha mean(-log q), with alpha < 0.
  log_q = jax.nn.log_softmax(golden.logits)
  nll = -np.take_along_axis(log_q, golden.labels[:, None], 1)[:, 0]
  np.testing.assert_allclose(
    losses.label_smoothing_cross_entropy(golden.logits, golden.labels, -0.4),
    1.4 * nll - 0.4 * np.mean(-log_q, -1),
    rtol=1e-13,
  )


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


def test_the_teacher_has_no_gradient(golden):
  for function in (
    losses.distillation_cross_entropy,
    losses.logit_matching_cross_entropy,
    losses.adaptive_smoothing_cross_entropy,
  ):
    gradient = jax.grad(
      lambda teacher, function=function: jnp.sum(
        function(golden.logits, golden.labels, 0.5, teacher_logits=teacher)
      )
    )(TEACHER)
    assert not gradient.any()


# Alpha from confidence


def test_confidence_alpha(golden):
  q = jax.nn.softmax(golden.logits)
  entropy = -np.sum(q * np.log(q), -1)
  np.testing.assert_allclose(
    losses.confidence_alpha(golden.logits, 0.1, 0.3),
    0.1 + 0.2 * (1 - entropy / np.log(4)),
    rtol=1e-12,
  )


def test_confidence_alpha_stays_within_its_ends():
  logits = np.array([[0.3] * 7, [90.0] + [0.0] * 6], np.float32)
  logits = np.concatenate([logits, logits + 1000])
  alpha = losses.confidence_alpha(logits, 0.1, 0.3)
  np.testing.assert_allclose(alpha, [0.1, 0.3, 0.1, 0.3], rtol=1e-6)
  assert (alpha >= np.float32(0.1)).all()


def test_confidence_alpha_over_a_mask():
  logits = np.array([[0.0, 0, 9, 9], [0, 50, 0, 0], [1, 2, 3, 4]], np.float32)
  where = np.array([[1, 1, 0, 0], [0, 1, 0, 0], [0, 0, 0, 0]], bool)
  alpha = losses.confidence_alpha(
    np.where(where, logits, np.nan), 0.1, 0.3, where=where
  )
  # Undecided between two classes, one class only, and nothing.
  np.testing.assert_allclose(alpha, [0.1, 0.1, 0.1], rtol=1e-6)


def test_confidence_alpha_has_no_gradient(golden):
  gradient = jax.grad(lambda z: jnp.sum(losses.confidence_alpha(z)))(
    golden.logits
  )
  assert not gradient.any()
