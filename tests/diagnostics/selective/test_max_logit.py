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
