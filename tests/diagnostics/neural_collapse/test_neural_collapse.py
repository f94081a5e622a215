"""Measures of arrays in memory, against their definitions."""

import numpy as np
import pytest
import scipy.linalg
import scipy.special
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.neighbors import NearestCentroid

from maxsup_jax.diagnostics.neural_collapse import neural_collapse
from maxsup_jax.errors import UsageError

FEATURES = np.array([
  [3.0, 0, 1, 0], [2, 1, 0, 0], [0, 3, 0, 1],
  [1, 2, 1, 0], [0, 0, 3, 2], [0, 1, 2, 1],
])  # fmt: skip
LABELS = np.array([0, 0, 1, 1, 2, 2])
WEIGHTS = np.array([[1, 0, -0.5, 0], [-0.5, 1, 0, 0.25], [0, -0.5, 1, 0.5]])
BIAS = np.array([0.1, -0.2, 0.05])


def words(text):
  return text.split()


def sample(counts, D, *, noise=0.3, seed=0, offset=0.0):
  """Features in random order, weights near the means, and a bias."""
  rng = np.random.default_rng(seed)
  K = len(counts)
  means = rng.normal(size=(K, D))
  labels = rng.permutation(np.repeat(np.arange(K), counts))
  features = means[labels] + noise * rng.normal(size=(len(labels), D)) + offset
  weights = means + 0.5 * rng.normal(size=(K, D))
  return features, labels, weights, rng.normal(size=K)


def textbook(h, y, K, W, b, global_mean='classes'):
  """Every measure from its formula, with matrices [D, D] and with loops."""
  N = len(h)
  m = np.stack([h[y == k].mean(0) for k in range(K)])
  g = m.mean(0) if global_mean == 'classes' else h.mean(0)
  sigma = []
  for k in range(K):
    d = h[y == k] - m[k]
    sigma.append(d.T @ d / len(d))
  S_W = sum(s * np.sum(y == k) for k, s in enumerate(sigma)) / N
  S_B = sum(np.outer(x - g, x - g) for x in m) / K
  # Between the numbers that are 0 and those that are not.
  pinv = scipy.linalg.pinv(S_B, rtol=1e-10)
  Hbar = (m - g).T
  E = (np.eye(K) - np.ones((K, K)) / K) / np.sqrt(K - 1)

  def unit(a):
    return a / np.sqrt((a**2).sum())

  def error(a):
    return np.sqrt(((unit(a) - E) ** 2).sum())

  norms = [np.sqrt(((x - g) ** 2).sum()) for x in m]
  w_norms = [np.sqrt((w**2).sum()) for w in W]
  pairs = [(i, j) for i in range(K) for j in range(K) if i != j]
  cos_h = [(m[i] - g) @ (m[j] - g) / norms[i] / norms[j] for i, j in pairs]
  cos_w = [W[i] @ W[j] / w_norms[i] / w_norms[j] for i, j in pairs]
  W_c = W - W.mean(0)
  nearest = np.array([np.argmin(((m - x) ** 2).sum(1)) for x in h])
  predicted = (h @ W.T + b).argmax(1)
  return {
    'nc1': np.trace(S_W @ pinv) / K,
    'nc1_unnormalized': np.trace(S_W @ pinv),
    'nc1_per_class': [np.trace(s @ pinv) / K for s in sigma],
    'trace_ratio': np.trace(S_W) / np.trace(S_B),
    'cdnv': np.mean(
      [
        (np.trace(sigma[i]) + np.trace(sigma[j]))
        / (2 * ((m[i] - m[j]) ** 2).sum())
        for i, j in pairs
      ]
    ),
    'nc2': error(W @ Hbar),
    'nc2_centered': error(W_c @ Hbar),
    'nc2h': error(Hbar.T @ Hbar),
    'nc2w': error(W @ W.T),
    'nc2w_centered': error(W_c @ W_c.T),
    'nc3': np.sqrt(((unit(W) - unit(Hbar.T)) ** 2).sum()),
    'nc3_squared': ((unit(W) - unit(Hbar.T)) ** 2).sum(),
    'residual': np.sqrt(((W @ g + b) ** 2).sum()),
    'equinorm_h': np.std(norms, ddof=1) / np.mean(norms),
    'equinorm_w': np.std(w_norms, ddof=1) / np.mean(w_norms),
    'equiangularity_h': np.mean(np.abs(np.array(cos_h) + 1 / (K - 1))),
    'equiangularity_w': np.mean(np.abs(np.array(cos_w) + 1 / (K - 1))),
    'cosine_std_h': np.std(cos_h),
    'cosine_std_w': np.std(cos_w),
    'w_norm': np.mean(w_norms),
    'h_norm': np.mean(norms),
    'ncc_accuracy': np.mean(nearest == y),
    'ncc_mismatch': np.mean(nearest != predicted),
  }


def assert_equal_measures(result, expected, rtol, atol=0.0, skip=()):
  for name, value in expected.items():
    if name not in skip:
      assert_allclose(getattr(result, name), value, rtol, atol, err_msg=name)


def test_golden_values():
  result = neural_collapse(FEATURES, LABELS, WEIGHTS, BIAS)
  expected = {
    'nc1': 0.1635911397,
    'nc1_unnormalized': 0.4907734190,
    'nc2': 0.4154598349,
    'nc2h': 0.2505023779,
    'nc2w': 0.1908796210,
    'nc2_centered': 0.4074219728,
    'nc2w_centered': 0.0344673946,
    'nc3': 0.5359593453,
    'nc3_squared': 0.2872524198,
    'w_norm': 1.1628075946,
    'h_norm': 1.8177217644,
    'residual': 1.2658988901,
    'equinorm_h': 0.1151768427,
    'equiangularity_h': 0.1175486849,
    'cdnv': 0.0868850669,
    'trace_ratio': 0.25,
    'ncc_accuracy': 1,
  }
  assert_equal_measures(result, expected, 0, 1e-10)


@pytest.mark.parametrize('global_mean', ['classes', 'samples'])
@pytest.mark.parametrize(
  ('counts', 'D'), [([5, 5, 5, 5], 9), ([2, 30, 7, 1, 11], 12), ([4, 9], 1)]
)
def test_equals_the_textbook(counts, D, global_mean):
  h, y, W, b = sample(counts, D, noise=0.8)
  result = neural_collapse(h, y, W, b, global_mean=global_mean)
  expected = textbook(h, y, len(counts), W, b, global_mean)
  assert_equal_measures(result, expected, 1e-9, 1e-12)
  assert result.rank == len(counts) - 1
  assert_array_equal(result.counts, counts)
  if global_mean == 'classes':
    average = np.average(result.nc1_per_class, weights=counts)
    assert average == pytest.approx(result.nc1)


def test_class_means_that_span_less():
  h, y, W, b = sample([9] * 4, 10)
  # The class means lie on a line; the spread does not.
  line = np.linspace(-1, 1, 4)[:, None] * np.ones(10)
  means = np.stack([h[y == k].mean(0) for k in range(4)])
  h = h - means[y] + line[y]
  result = neural_collapse(h, y, W, b)
  assert result.rank == 1
  assert_equal_measures(result, textbook(h, y, 4, W, b), 1e-9, 1e-9)
  single = neural_collapse(h.astype(np.float32), y)
  assert single.rank == 1
  assert single.nc1 == pytest.approx(result.nc1, rel=1e-5)


def test_float32_features_do_not_invert_rounding():
  """The pseudo-inverse of NumPy with its default tolerance does."""
  h, y, _, _ = sample([50] * 10, 128, noise=0.1)
  single = h.astype(np.float32)
  result = neural_collapse(single, y)
  means = np.stack([single[y == k].mean(0) for k in range(10)])
  S_B = np.cov(means.T, bias=True).astype(np.float32)
  spread = single - means[y]
  S_W = spread.T @ spread / len(y)
  naive = np.trace(S_W @ np.linalg.pinv(S_B, rcond=1e-15)) / 10
  right = np.trace(S_W @ scipy.linalg.pinv(S_B.astype(np.float64), rtol=1e-5))
  assert result.nc1 == pytest.approx(right / 10, rel=1e-4)
  assert abs(naive) > 1000 * result.nc1


def test_nearest_class_mean_equals_scikit_learn():
  h, y, W, b = sample([40, 60, 50, 20], 5, noise=1.5)
  nearest = NearestCentroid().fit(h, y).predict(h)
  logits = np.random.default_rng(1).normal(size=(len(y), 4))
  result = neural_collapse(h, y, W, b, logits)
  assert result.ncc_accuracy == pytest.approx(np.mean(nearest == y))
  mismatch = np.mean(nearest != logits.argmax(1))
  assert result.ncc_mismatch == pytest.approx(mismatch)
  assert 0.2 < result.ncc_accuracy < 0.9


def test_correct_and_wrong_predictions():
  """Grouped by prediction, as for a test set; class 3 is never predicted."""
  h, y, _, _ = sample([30, 20, 25, 9], 7, noise=1.0)
  rng = np.random.default_rng(5)
  logits = rng.normal(size=(len(y), 4)) + 3 * np.eye(4)[y]
  logits[:, 3] = -100
  p = logits.argmax(1)
  result = neural_collapse(h, y, logits=logits, group_by='predictions')
  m = np.stack([h[p == k].mean(0) for k in range(3)])
  S_B = np.cov(m.T, bias=True)
  pinv = scipy.linalg.pinv(S_B, rtol=1e-10)

  def nc1(which):
    d = (h - m[p])[which]
    return np.trace(d.T @ d / len(d) @ pinv) / 3

  assert result.nc1_correct == pytest.approx(nc1(p == y))
  assert result.nc1_wrong == pytest.approx(nc1(p != y))
  assert result.nc1 == pytest.approx(nc1(p >= 0))
  assert (result.num_correct, result.num_wrong) == (sum(p == y), sum(p != y))
  assert (result.num_classes, result.num_dropped) == (3, 1)
  assert result.classes.tolist() == [0, 1, 2]
  nearest = NearestCentroid().fit(h, p).predict(h)
  assert result.ncc_accuracy == pytest.approx(np.mean(nearest == y))
  assert result.ncc_mismatch == pytest.approx(np.mean(nearest != p))


def test_what_was_not_given_is_none():
  without = neural_collapse(FEATURES, LABELS)
  assert {k for k, v in vars(without).items() if v is None} == {
    *words('nc2 nc2_centered nc2w nc2w_centered nc3 nc3_squared residual'),
    *words('equinorm_w equiangularity_w'),
    *words('cosine_std_w w_norm ncc_mismatch'),
    *words('nc1_correct nc1_wrong num_correct num_wrong'),
  }
  no_bias = neural_collapse(FEATURES, LABELS, WEIGHTS)
  assert no_bias.residual is None
  assert no_bias.ncc_mismatch is None
  assert no_bias.nc3 == pytest.approx(0.5359593453)


@pytest.mark.parametrize('value', [0.0, 0.1])
def test_trivial_collapse_is_undefined(value):
  h = np.full((6, 4), value, np.float32)
  result = neural_collapse(h, LABELS, WEIGHTS, BIAS)
  undefined = words(
    'nc1 nc1_unnormalized nc1_per_class nc1_correct trace_ratio cdnv '
    'nc2 nc2_centered nc2h nc3 nc3_squared equinorm_h equiangularity_h'
  )
  for name in undefined:
    assert np.isnan(getattr(result, name)).all(), name
  assert result.rank == 0
  assert result.h_norm == 0
  assert result.nc2w == pytest.approx(0.1908796210)


def test_trivial_collapse_up_to_rounding():
  """The mean of seven times 0.1 is not 0.1."""
  y = np.repeat([0, 1, 2], [3, 7, 6])
  h = np.full((16, 4), 0.1)
  assert len({float(sum(h[y == k, 0]) / sum(y == k)) for k in range(3)}) > 1
  result = neural_collapse(h, y)
  assert result.rank == 0
  assert np.isnan([result.nc1, result.nc2h, result.cdnv]).all()
  assert result.h_norm == 0


def test_bad_input_is_one_line():
  for arguments, message in (
    ({'num_classes': 4}, 'class 3 has no examples'),
    ({'num_classes': 12}, 'classes 3, 4, 5, 6, 7, ... have no'),
    ({'labels': 0 * LABELS}, 'there is 1 class; expected at least 2'),
    ({'features': FEATURES * 1e-200}, 'absolute value of features is 3e-200'),
    ({'weights': WEIGHTS * 1e-200}, 'absolute value of weights is 1e-200'),
    ({'weights': WEIGHTS, 'bias': BIAS[:2]}, r'bias has the shape \(2,\)'),
    ({'bias': BIAS}, 'bias was given without weights'),
    ({'weights': WEIGHTS, 'num_classes': 4}, 'num_classes 4, weights 3'),
    ({'group_by': 'predictions'}, 'needs logits, or weights and bias'),
    ({'group_by': 'class'}, "group_by is 'class'; expected one of labels"),
    ({'global_mean': 'mean'}, "global_mean is 'mean'; expected one of classes"),
  ):
    with pytest.raises(UsageError, match=message):
      neural_collapse(**{'features': FEATURES, 'labels': LABELS} | arguments)


@pytest.mark.parametrize('scale', [1e-59, 1e58])
def test_tiny_and_huge_features_and_weights(scale):
  expected = neural_collapse(FEATURES, LABELS, WEIGHTS)
  found = neural_collapse(scale * FEATURES, LABELS, scale * WEIGHTS)
  for name in words('nc1 nc2 nc2h nc2w nc3 trace_ratio cdnv equinorm_h'):
    assert getattr(found, name) == pytest.approx(getattr(expected, name)), name


def test_near_class_means_keep_their_digits():
  """By the Gram matrix their distance would be 1% off."""
  h = np.array([[7.0, 0], [7, 0], [7, 1e-7], [7, 3e-7], [-7, 1], [-7, 1]])
  result = neural_collapse(h, LABELS)
  far = np.square(14) + 1
  # Of a variance of 1e-14, about means 2e-7 apart.
  expected = (1e-14 / (2 * 4e-14) + 1e-14 / (2 * far)) / 3
  assert result.cdnv == pytest.approx(expected, rel=1e-7)
