import numpy as np
import pytest

from maxsup_jax.diagnostics import conformal
from maxsup_jax.errors import UsageError


def loops(logits, method, seed, penalty=0.01, allowed=5):
  """The scores by their definitions, one after the other."""
  u = np.random.default_rng(seed).random(len(logits))
  scores = np.empty(logits.shape)
  for i, z in enumerate(logits):
    p = np.exp(z) / np.exp(z).sum()
    for k in range(len(p)):
      before = [j for j in range(len(p)) if (-p[j], j) < (-p[k], k)]
      if method == 'lac':
        scores[i, k] = 1 - p[k]
      else:
        scores[i, k] = sum(p[before]) + u[i] * p[k]
      if method == 'raps':
        scores[i, k] += penalty * max(0, len(before) + 1 - allowed)
  return scores


@pytest.mark.parametrize('method', conformal.METHODS)
def test_scores_are_those_of_the_definitions(method):
  z = np.random.default_rng(0).normal(size=(50, 8))
  z[:10] = np.round(z[:10])  # with ties
  np.testing.assert_allclose(
    conformal.class_scores(z, method, seed=3), loops(z, method, 3), atol=1e-14
  )
  other = conformal.class_scores(z, 'raps', seed=3, penalty=0.5, allowed=2)
  np.testing.assert_allclose(other, loops(z, 'raps', 3, 0.5, 2), atol=1e-14)
  z[:, 2] = -np.inf
  masked = conformal.class_scores(z, method, seed=3)
  # A masked class comes last.
  assert (masked[:, 2] >= np.delete(masked, 2, 1).max(1) - 1e-12).all()


@pytest.mark.parametrize('method', conformal.METHODS)
def test_sets_hold_the_label_as_often_as_they_say(method):
  """Of a bad model, too: from 1 - a to 1 - a + 1/(n + 1), on average."""
  rng = np.random.default_rng(0)
  n, held = 20, []
  for seed in range(250):
    z = 3 * rng.normal(size=(n + 40, 4))
    y = rng.integers(0, 4, n + 40)
    scores = conformal.class_scores(z, method, seed=seed)
    true = scores[np.arange(len(y)), y]
    held.append((true[n:] <= conformal.threshold(true[:n], 0.9)).mean())
  error = np.std(held) / np.sqrt(len(held))
  assert 0.9 - 3 * error <= np.mean(held) <= 0.9 + 1 / (n + 1) + 3 * error
  assert error < 0.006


def test_what_is_wrong_is_refused():
  with pytest.raises(UsageError, match="method is 'asp'; did you mean 'aps'"):
    conformal.class_scores(np.zeros((2, 3)), 'asp')
  with pytest.raises(UsageError, match='coverage is 1'):
    conformal.threshold([0.1], 1)
