"""Linear transfer and neighbours, beside scikit-learn."""

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier
from sklearn.preprocessing import StandardScaler

from maxsup_jax.diagnostics.transfer import (
  STRENGTHS,
  fit_linear,
  linear_probe,
  nearest_neighbours,
)
from maxsup_jax.errors import UsageError


def features(n, D=12, K=4, seed=0):
  rng = np.random.default_rng(seed)
  labels = rng.permutation(np.arange(n) % K)
  means = np.random.default_rng(9).normal(size=(K, D))
  x = means[labels] + 1.5 * rng.normal(size=(n, D))
  return x * np.logspace(-1, 1, D), labels


def objective(x, y, W, b, strength):
  logits = x @ W.T + b
  log_p = logits - np.log(np.exp(logits).sum(1, keepdims=True))
  return (
    -log_p[np.arange(len(y)), y].mean() + strength / 2 / len(y) * (W**2).sum()
  )


@pytest.mark.parametrize('strength', [0.1, 300.0])
def test_the_optimum_is_scikit_learns(strength):
  x, y = features(300)
  ours = fit_linear(x, y, strength, tolerance=1e-8)
  theirs = LogisticRegression(C=1 / strength, tol=1e-10, max_iter=20_000)
  theirs.fit(x, y)
  expected = objective(x, y, theirs.coef_, theirs.intercept_, strength)
  assert ours.loss == pytest.approx(
    objective(x, y, ours.weights, ours.bias, strength), abs=1e-12
  )
  assert ours.loss <= expected + 1e-8
  assert ours.loss == pytest.approx(expected, abs=1e-5)
  np.testing.assert_allclose(
    ours.weights - ours.weights.mean(0),
    theirs.coef_ - theirs.coef_.mean(0),
    atol=2e-3,
  )
  usual = fit_linear(x, y, strength)
  assert usual.loss == pytest.approx(ours.loss, abs=1e-5)
  assert fit_linear(x, y, strength, start=ours).iterations <= 2


def test_small_strengths_are_reached_from_large_ones():
  """On separable data, where all gradients are small there."""
  rng = np.random.default_rng(0)
  y = np.arange(1500) % 10
  x = rng.normal(size=(1500, 64)) + 3 * np.eye(10, 64)[y]
  fit = None
  for strength in (1.0, 1e-2, 1e-4, 1e-6):
    fit = fit_linear(x, y, strength, start=fit)
  exact = fit_linear(x, y, 1e-6, tolerance=1e-9)
  assert fit.loss == pytest.approx(exact.loss, abs=3e-6)


def test_the_probe_is_that_of_its_parts():
  """The weights are those of the features as given, the rest standardised."""
  x, y = features(400)
  test, test_y = features(200, seed=1)
  x[:, 3] = test[:, 3] = 7.0  # It does not vary.
  probe = linear_probe(x, y, test, test_y, strengths=STRENGTHS[::4])
  assert len(probe.held_out_accuracy) == len(probe.strengths) == 12
  best = np.flatnonzero(
    probe.held_out_accuracy == probe.held_out_accuracy.max()
  )
  assert probe.strength == probe.strengths[best[-1]]
  # With hardly any penalty it fits best, with a huge one it guesses.
  assert probe.train_accuracy[0] > probe.train_accuracy[-1]
  scaler = StandardScaler().fit(x)
  theirs = LogisticRegression(C=1 / probe.strength, tol=1e-9, max_iter=10_000)
  theirs.fit(scaler.transform(x), y)
  assert probe.accuracy == theirs.score(scaler.transform(test), test_y)
  logits = test @ probe.fit.weights.T + probe.fit.bias
  expected = theirs.decision_function(scaler.transform(test))
  center = lambda z: z - z.mean(1, keepdims=True)  # noqa: E731
  np.testing.assert_allclose(center(logits), center(expected), atol=1e-3)


def test_neighbours_are_scikit_learns():
  x, y = features(300)
  test, test_y = features(500, seed=2)
  for k in (1, 7, 300):
    theirs = KNeighborsClassifier(
      k, metric='cosine', weights=lambda d: np.exp((1 - d) / 0.07)
    ).fit(x, y)
    found = nearest_neighbours(x, y, test, test_y, neighbours=k)
    assert found == theirs.score(test, test_y)


def test_what_does_not_fit_is_one_line():
  x, y = features(40)
  for call, message in (
    (lambda: fit_linear(x, y[:-1], 1.0), 'numbers of examples differ'),
    (lambda: fit_linear(x, y, 0.0), 'strength is 0.0; expected above 0'),
    (lambda: linear_probe(x, y, x[:, :3], y), 'has 3 columns; features has 12'),
    (lambda: linear_probe(x, y, x, y, held_out=0.99), 'leaves none of the 10'),
    (lambda: linear_probe(x, y, x, y, held_out=0.01), 'holds out no example'),
    (
      lambda: nearest_neighbours(x, y, x, y, neighbours=41),
      'neighbours is 41; expected an integer, from 1 to 40',
    ),
    (
      lambda: nearest_neighbours(x * (y > 0)[:, None], y, x, y),
      r'features\[\d+\] is all zeros',
    ),
  ):
    with pytest.raises(UsageError, match=message) as e:
      call()
    assert '\n' not in str(e.value)
