import math

import numpy as np
import pytest
from numpy.testing import assert_allclose
from scipy import special

from maxsup_jax.diagnostics import selective
from maxsup_jax.errors import UsageError


def examples(n=800, K=4, offset=0.0):
  rng = np.random.default_rng(0)
  logits = rng.normal(size=(n, K)) * 2 + offset
  labels = np.where(
    rng.random(n) < 0.6, logits.argmax(1), rng.integers(K, size=n)
  )
  return logits, labels


@pytest.mark.parametrize('offset', [0.0, 1e6])
def test_by_the_definition(offset):
  logits, labels = examples(offset=offset)
  profile = selective.max_logit_given_confidence(logits, labels)
  pi = special.softmax(logits, 1).max(1)
  assert_allclose(
    profile.confidence, np.linspace(0.025, 0.975, 191), rtol=1e-12
  )
  wrong = logits.argmax(1) != labels
  for windows, chosen in ((profile.correct, ~wrong), (profile.wrong, wrong)):
    for i, c in enumerate(profile.confidence):
      v = logits.max(1)[chosen & (abs(pi - c) <= 0.025)]
      assert windows.count[i] == len(v)
      assert_allclose(
        [windows.mean[i], windows.std[i]],
        [
          v.mean() if len(v) else math.nan,
          v.std(ddof=1) if len(v) > 1 else math.nan,
        ],
        rtol=1e-9,
      )
  counts = np.concatenate([profile.correct.count, profile.wrong.count])
  assert {0, 1} < set(counts.tolist())


@pytest.mark.parametrize(
  ('width', 'step', 'message'),
  [(0, 0.1, 'width is 0'), (0.1, 1e-300, 'step is 1e-300')],
)
def test_bad_windows(width, step, message):
  with pytest.raises(UsageError, match=message):
    selective.max_logit_given_confidence([[0.0, 1.0]], [0], width, step)
