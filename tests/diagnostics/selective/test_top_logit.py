"""What losses do to the largest logit."""

import functools
import math

import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose
from scipy import special

from maxsup_jax import losses
from maxsup_jax.diagnostics import selective
from maxsup_jax.errors import UsageError

ALPHA, N, K = 0.2, 30, 5
LS = functools.partial(losses.label_smoothing_cross_entropy, alpha=ALPHA)
MAXSUP = functools.partial(losses.maxsup_cross_entropy, alpha=ALPHA)


@pytest.fixture
def logits():
  return np.random.default_rng(0).normal(size=(N, K)) * 2


@pytest.fixture
def labels(logits):
  rng = np.random.default_rng(1)
  return np.where(
    rng.random(N) < 0.5, logits.argmax(1), rng.integers(K, size=N)
  )


def distilled(teacher_logits):
  return functools.partial(
    losses.distillation_cross_entropy, beta=ALPHA, teacher_logits=teacher_logits
  )


def close(a, b):
  assert_allclose(a, b, atol=2e-6)


def test_label_smoothing_and_maxsup(logits, labels):
  correct = logits.argmax(1) == labels
  assert 0 < correct.sum() < N
  value = selective.suppression(LS, logits, labels)
  assert value.dtype == np.float64
  close(value, np.where(correct, ALPHA * (1 - 1 / K), -ALPHA / K))
  close(selective.suppression(MAXSUP, logits, labels), ALPHA * (1 - 1 / K))


def averaged(loss, logits, p_labels):
  """The mean over all labels, each with its probability."""
  return sum(
    p_labels[:, y] * selective.suppression(loss, logits, np.full(N, y))
    for y in range(K)
  )


@pytest.mark.parametrize('target', ['ls', 'maxsup', 'soft'])
def test_expected_suppression(logits, target):
  p_labels = np.random.default_rng(3).dirichlet(np.ones(K), size=N)
  teacher = np.random.default_rng(4).normal(size=(N, K))
  rows, top = np.arange(N), logits.argmax(1)
  loss = {'ls': LS, 'maxsup': MAXSUP, 'soft': distilled(teacher)}[target]
  q = special.softmax(teacher, 1)[rows, top] if target == 'soft' else None
  expected = selective.expected_suppression(
    1 - p_labels[rows, top], K, ALPHA, target=target, top_probability=q
  )
  assert expected.shape == (N,)
  close(averaged(loss, logits, p_labels), expected)


def test_bad_input(logits, labels):
  with pytest.raises(UsageError, match=r'the loss has the shape \(\); expect'):
    selective.suppression(lambda z, y: LS(z, y).mean(), logits, labels)
  with pytest.raises(UsageError, match=r'logits\[0, 1\] is inf'):
    selective.suppression(LS, [[0.0, 1e100]], [0])
  # The derivative of the root at 0 is infinite, and infinity times 0 is NaN.
  with pytest.raises(UsageError, match='the gradient of the loss at example 0'):
    selective.suppression(lambda z, y: jnp.sqrt(z.sum(1) * 0), logits, labels)
  expected = selective.expected_suppression
  with pytest.raises(UsageError, match="target is 'ce'; expected one of ls"):
    expected(0.1, K, ALPHA, target='ce')
  with pytest.raises(UsageError, match='top_probability belongs to'):
    expected(0.1, K, ALPHA, target='soft')
  with pytest.raises(UsageError, match=r'error_probability\[1\] is 1\.5'):
    expected([0.1, 1.5], K, ALPHA)
  with pytest.raises(UsageError, match='alpha is nan; expected a finite num'):
    expected(0.1, K, np.nan)
  with pytest.raises(UsageError, match=r'top_probability has the shape \(3,'):
    expected([0.1, 0.2], K, ALPHA, target='soft', top_probability=[0.1] * 3)


def examples(n=800, K=4, offset=0.0):
  rng = np.random.default_rng(0)
  logits = rng.normal(size=(n, K)) * 2 + offset
  labels = np.where(
    rng.random(n) < 0.6, logits.argmax(1), rng.integers(K, size=n)
  )
  return logits, labels


def test_by_the_definition():
  logits, labels = examples(offset=1e6)
  profile = selective.max_logit_given_confidence(logits, labels)
  pi = special.softmax(logits, 1).max(1)
  centres = np.linspace(0.025, 0.975, 191)
  assert_allclose(profile.confidence, centres, rtol=1e-12)
  wrong = logits.argmax(1) != labels
  for windows, chosen in ((profile.correct, ~wrong), (profile.wrong, wrong)):
    for i, c in enumerate(profile.confidence):
      v = logits.max(1)[chosen & (abs(pi - c) <= 0.025)]
      assert windows.count[i] == len(v)
      mean = v.mean() if len(v) else math.nan
      std = v.std(ddof=1) if len(v) > 1 else math.nan
      assert_allclose([windows.mean[i], windows.std[i]], [mean, std], rtol=1e-9)
  counts = np.concatenate([profile.correct.count, profile.wrong.count])
  assert {0, 1} < set(counts.tolist())


def test_bad_windows():
  profile = selective.max_logit_given_confidence
  for window, message in (((0, 0.1), 'width is 0'), ((0.1, 0), 'step is 0')):
    with pytest.raises(UsageError, match=message):
      profile([[0.0, 1.0]], [0], *window)
