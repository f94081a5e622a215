import numpy as np
import pytest
from numpy.testing import assert_array_equal
from scipy import optimize, special

from maxsup_jax.diagnostics import calibration
from maxsup_jax.errors import UsageError


def make(n=800, K=5, seed=0, scale=2.5, dtype=np.float64):
  """Logits that are `scale` times too large."""
  rng = np.random.default_rng(seed)
  logits = rng.normal(size=(n, K))
  labels = (logits + rng.gumbel(size=(n, K))).argmax(1)
  return (scale * logits).astype(dtype), labels


def nll(logits, labels, T):
  z = logits.astype(np.float64) / T
  top = z.max(1)
  normalizer = top + np.log(np.exp(z - top[:, None]).sum(1))
  return (normalizer - z[np.arange(len(z)), labels]).mean()


def ece(logits, labels, T, bins=15):
  z = np.asarray(logits, np.float64) / T
  p = np.exp(z - z.max(1, keepdims=True))
  confidence = (p / p.sum(1, keepdims=True)).max(1)
  correct = z.argmax(1) == labels
  bin_N = np.ceil(confidence * bins)
  return sum(
    abs((correct[bin_N == b] - confidence[bin_N == b]).sum())
    for b in range(1, bins + 1)
  ) / len(z)


@pytest.mark.parametrize(
  ('scale', 'dtype'),
  [(0.05, np.float64), (2.5, np.float32), (40.0, np.float64)],
)
def test_agrees_with_scipy(scale, dtype):
  logits, labels = make(scale=scale, dtype=dtype)
  fit = calibration.fit_temperature(logits, labels)
  z = logits.astype(np.float64)

  def slope(beta):
    p = np.exp(beta * z - (beta * z).max(1, keepdims=True))
    p /= p.sum(1, keepdims=True)
    return ((p * z).sum(1) - z[np.arange(len(z)), labels]).mean()

  T = 1 / optimize.brentq(slope, 1e-2, 1e2, xtol=1e-15, rtol=1e-14)
  assert fit.temperature == pytest.approx(T, rel=1e-9)
  # The minimum, found without derivatives; it is flat there.
  direct = optimize.minimize_scalar(
    lambda x: nll(logits, labels, np.exp(x)),
    bounds=np.log([1e-2, 1e2]),
    method='bounded',
    options={'xatol': 1e-9},
  )
  assert fit.temperature == pytest.approx(np.exp(direct.x), rel=1e-6)
  assert fit.value == pytest.approx(direct.fun, rel=1e-12)
  assert fit.value == pytest.approx(nll(logits, labels, T), rel=1e-12)
  assert fit.value_at_one == pytest.approx(nll(logits, labels, 1), rel=1e-12)
  assert fit.bound is None
  assert fit.objective == 'nll'


def test_bounds_of_the_search():
  labels = np.array([0, 1, 2, 1])
  for size in (1e-3, 1.0, 1e4):
    # Separable data want the lowest temperature, and wrong ones the highest.
    for shift, expected in ((0, (0.01, 'lower')), (1, (100.0, 'upper'))):
      logits = size * np.eye(3)[(labels + shift) % 3] - size / 3
      fit = calibration.fit_temperature(logits, labels)
      assert (fit.temperature, fit.bound) == expected
      assert fit.value <= fit.value_at_one


@pytest.mark.parametrize('objective', ['nll', 'ece'])
def test_hard_data_are_never_fitted_worse_than_at_one(objective):
  rng = np.random.default_rng(3)
  for _ in range(30):
    n, K = rng.integers(1, 12), rng.integers(2, 5)
    logits = 10.0 ** rng.uniform(-3, 4) * rng.standard_t(1, size=(n, K))
    labels = rng.integers(0, K, n)
    fit = calibration.fit_temperature(logits, labels, objective=objective)
    assert fit.value <= fit.value_at_one
    if objective == 'nll':
      assert 0.01 <= fit.temperature <= 100
      # No temperature of a fine grid is better.
      grid = [nll(logits, labels, T) for T in np.geomspace(0.01, 100, 200)]
      assert fit.value <= min(grid) * (1 + 1e-12) + 1e-14


def test_the_grid_of_the_calibration_error():
  logits, labels = make()
  fit = calibration.fit_temperature(logits, labels, objective='ece')
  values = {}

  def search(grid, best):
    for T in grid:
      if T > 0:
        values[T] = ece(logits, labels, T)
        if best is None or values[T] < values[best] - 1e-12:
          best = T
    return best

  T = search([0.1 + 0.5 * i for i in range(20)], None)
  T = search([T - 0.5 + i / 9 for i in range(10)], T)
  T = search([T - 0.1 + 0.2 * i / 9 for i in range(10)], T)
  assert fit.temperature == pytest.approx(T, rel=1e-12)
  assert fit.value == pytest.approx(values[T], rel=1e-9)
  assert fit.value_at_one == pytest.approx(ece(logits, labels, 1), rel=1e-9)
  assert fit.bound is None
  assert fit.objective == 'ece'


@pytest.mark.parametrize('objective', ['nll', 'ece'])
def test_scaling_fits_and_reports_on_different_examples(objective):
  logits, labels = make(401)
  result = calibration.temperature_scaling(
    logits, labels, fit_fraction=0.25, seed=3, objective=objective, bins=10
  )
  a, b = result.fit_examples, result.report_examples
  assert len(a) == 100
  assert_array_equal(np.sort(np.append(a, b)), np.arange(401))
  assert result.fit == calibration.fit_temperature(
    logits[a], labels[a], objective=objective, bins=10
  )
  T = result.fit.temperature
  for at, temperature in ((result.before, 1.0), (result.after, T)):
    z, y = logits[b] / temperature, labels[b]
    assert at.expected_calibration_error == pytest.approx(
      calibration.expected_calibration_error(z, y, bins=10), rel=1e-9
    )
    assert at.negative_log_likelihood == pytest.approx(nll(z, y, 1), rel=1e-9)
  assert result.before.accuracy == result.after.accuracy
  assert result.before.accuracy == (logits[b].argmax(1) == labels[b]).mean()
  assert (
    result.after.expected_calibration_error
    < result.before.expected_calibration_error
  )


def test_the_split_depends_on_the_seed_alone():
  logits, labels = make(100)

  def split(logits, seed):
    return calibration.temperature_scaling(logits, labels, seed=seed)

  a, b, c = split(logits, 0), split(2 * logits, 0), split(logits, 1)
  assert_array_equal(a.fit_examples, b.fit_examples)
  assert a.fit.temperature == pytest.approx(b.fit.temperature / 2, rel=1e-9)
  assert not np.array_equal(a.fit_examples, c.fit_examples)
  # Not the first half: data are often sorted by class.
  assert not np.array_equal(a.fit_examples, np.arange(50))
  with pytest.raises(UsageError, match='at least 2 groups'):
    calibration.temperature_scaling(logits, labels, groups=np.zeros(100))


def test_bad_input_is_one_line():
  fit, scale = calibration.fit_temperature, calibration.temperature_scaling
  logits, labels = 2 * np.eye(2), np.array([0, 1])
  for function, arguments, message in (
    (fit, {'objective': 'mse'}, "objective is 'mse'; expected one of nll, ece"),
    (fit, {'bins': 0}, 'bins is 0'),
    (fit, {'labels': [0, 2]}, r'labels\[1\] is 2'),
    (scale, {'logits': [[0.0, 1e200]] * 2}, r'logits\[0, 1\] is 1e\+200'),
    (scale, {'fit_fraction': 1}, 'fit_fraction is'),
    (scale, {'fit_fraction': None}, 'fit_fraction is'),
    (scale, {'logits': logits[:1], 'labels': [0]}, 'at least 2 examples'),
  ):
    with pytest.raises(UsageError, match=message):
      function(**{'logits': logits, 'labels': labels} | arguments)


def test_vector_scaling_is_the_optimum():
  """Against BFGS with numerical gradients."""
  rng = np.random.default_rng(0)
  z = rng.normal(size=(2000, 3)) * [1.0, 2.0, 0.5]
  u = z * [2.0, 0.5, 1.0] + [0.5, -0.5, 0.0]
  y = (u + rng.gumbel(size=u.shape)).argmax(1)
  fit = calibration.fit_vector_scaling(z, y)

  def nll(x):
    logits = z * x[:3] + x[3:]
    return (special.logsumexp(logits, 1) - logits[np.arange(2000), y]).mean()

  best = optimize.minimize(nll, [1, 1, 1, 0, 0, 0], tol=1e-12)
  assert fit.value == pytest.approx(best.fun, abs=1e-7)
  assert fit.value < fit.value_before - 0.02
  per = calibration.per_example(fit.scaled(z), y)
  assert per.nll.mean() == pytest.approx(fit.value)
