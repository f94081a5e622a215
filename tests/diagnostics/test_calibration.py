import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from maxsup_jax.diagnostics import calibration
from maxsup_jax.errors import UsageError
from maxsup_jax.tasks import metrics


def make(n=500, K=7, seed=0, scale=3.0, dtype=np.float64):
  rng = np.random.default_rng(seed)
  logits = (scale * rng.normal(size=(n, K))).astype(dtype)
  labels = (logits / 2 + rng.gumbel(size=(n, K))).argmax(1)
  return logits, labels


def naive_softmax(z):
  e = np.exp(np.asarray(z, np.float64))
  return e / e.sum()


def assert_same_bits(a, b):
  for x, y in zip(vars(a).values(), vars(b).values()):
    assert_array_equal(x, y)


@pytest.mark.parametrize('dtype', [np.float32, np.float64])
def test_one_pass_agrees_with_the_definitions(dtype):
  logits, labels = make(60, dtype=dtype)
  p_NK = np.array([naive_softmax(z) for z in logits])
  onehot_NK = np.eye(7)[labels]
  got = calibration.per_example(logits, labels)
  assert_allclose(got.confidence, p_NK.max(1), rtol=1e-13)
  assert_array_equal(got.correct, p_NK.argmax(1) == labels)
  nll_N = -np.log(p_NK[np.arange(60), labels])
  assert_allclose(got.nll, nll_N, rtol=1e-12)
  brier_N = ((p_NK - onehot_NK) ** 2).sum(1)
  assert_allclose(got.brier, brier_N, rtol=1e-12)
  assert got.confidence.dtype == np.float64
  assert got.correct.dtype == bool
  means = calibration.summary(got)
  assert means.negative_log_likelihood == pytest.approx(nll_N.mean(), rel=1e-12)
  assert means.brier_score == pytest.approx(brier_N.mean(), rel=1e-12)


def test_the_temperature_keeps_the_prediction():
  # Dividing would make these two equal, and the first class the prediction.
  close = np.array([[1.0, np.nextafter(1.0, 2)]])
  got = calibration.per_example(close, np.array([1]), temperature=3.0)
  assert got.correct.all()


def test_extreme_logits_neither_overflow_nor_lose_precision():
  logits = np.array([[1e4, 0, -1e4], [1e4, 0, -1e4], [50, 0, 0]], np.float32)
  labels = np.array([0, 2, 0])
  got = calibration.per_example(logits, labels)
  assert got.nll[:2].tolist() == [0.0, 2e4]
  assert got.brier[:2].tolist() == [0.0, 2.0]
  # 1 - p is far below the spacing of numbers beside 1.
  tail = np.exp(-50.0)
  assert got.nll[2] == pytest.approx(2 * tail, rel=1e-12, abs=0)
  assert got.brier[2] == pytest.approx(6 * tail**2, rel=1e-12, abs=0)
  # A float32 softmax would be exactly 1 here.
  assert calibration.per_example([[20.0, 0.0]], [0]).confidence[0] < 1


def test_values_of_torchmetrics_and_netcal():
  # torchmetrics 1.9.0: _ce_compute(confidence, correct, linspace(0, 1, 5),
  # norm) of functional.classification.calibration_error, all in float64;
  # netcal 1.4.0: ECE(4, detection=True).measure(confidence, correct).
  rng = np.random.default_rng(0)
  confidence = rng.integers(0, 9, 400) / 8
  correct = rng.uniform(size=400) < 0.9 * confidence
  curve = calibration.reliability_curve(
    confidence, correct, bins=4, convention='torchmetrics'
  )
  got = [calibration.calibration_error(curve, n) for n in ('l1', 'l2', 'max')]
  expected = [0.0784375, 0.10445396616553983, 0.1954022988505747]
  assert_allclose(got, expected, rtol=1e-12)
  left = calibration.reliability_curve(
    confidence, correct, bins=4, convention='left'
  )
  error = calibration.calibration_error(left)
  assert error == pytest.approx(0.07843749999999997, rel=1e-12)
  # netcal 1.4.0: ECE(15).measure(softmax(logits), labels).
  logits = 2 * rng.normal(size=(400, 6))
  labels = (logits / 2 + rng.gumbel(size=(400, 6))).argmax(1)
  assert calibration.expected_calibration_error(
    logits, labels, convention='left'
  ) == pytest.approx(0.19526753034814298, rel=1e-12)


def reference(confidence, correct, bins, convention):
  """ECE, RMS and MCE of the convention, bin by bin, in its own dtype."""
  if convention == 'torchmetrics':
    # _binning_bucketize and _ce_compute of torchmetrics 1.9.0.
    torch = pytest.importorskip('torch')
    confidence = torch.tensor(confidence).float()
    edges = torch.linspace(0, 1, bins + 1)
    index = torch.bucketize(confidence, edges, right=True) - 1
    confidence, index = confidence.numpy().astype(float), index.numpy()
  elif convention == 'left':
    # numpy.histogram, as netcal.
    edges = np.linspace(0, 1, bins + 1)
    ends = np.cumsum(np.histogram(confidence, edges)[0])
    index = np.searchsorted(ends, np.arange(len(confidence)), 'right')
    order = np.argsort(confidence, kind='stable')
    confidence, correct = confidence[order], correct[order]
  else:
    # The loop of Guo et al.: low < confidence <= high.
    edges = np.linspace(0, 1, bins + 1)
    above = (confidence[:, None] > edges[:-1]) & (
      confidence[:, None] <= edges[1:]
    )
    index = above.argmax(1)
  gaps = [
    (
      (index == b).mean(),
      abs(np.mean(confidence[index == b] - correct[index == b])),
    )
    for b in np.unique(index)
  ]
  share, gap = np.array(gaps).T
  return share @ gap, np.sqrt(share @ gap**2), gap.max()


@pytest.mark.parametrize('convention', ['right', 'left', 'torchmetrics'])
def test_conventions_on_saturated_and_tied_confidences(convention):
  rng = np.random.default_rng(0)
  for bins in (10, 15, 7):
    edges = np.linspace(0, 1, bins + 1)[1:]
    confidence = np.concatenate(
      [
        rng.uniform(0.2, 1, 100),
        rng.choice(edges, 100),
        edges.astype(np.float32).astype(float),
        # Not 1, but 1 in float32.
        np.full(200, 1 - 1e-9),
        1 - np.geomspace(1e-12, 1e-6, 60),
        np.ones(20),
      ]
    )
    correct = rng.uniform(size=len(confidence)) < 0.8
    curve = calibration.reliability_curve(
      confidence, correct, bins=bins, convention=convention
    )
    got = [calibration.calibration_error(curve, n) for n in ('l1', 'l2', 'max')]
    expected = reference(confidence, correct, bins, convention)
    assert_allclose(got, expected, rtol=1e-12)


def test_the_debiased_error_is_0_on_average_where_calibration_is_perfect():
  rng = np.random.default_rng(0)
  errors, plain = [], []
  for _ in range(400):
    confidence = rng.beta(4, 1, 200)
    correct = rng.uniform(size=200) < confidence
    curve = calibration.reliability_curve(confidence, correct)
    errors.append(calibration.debiased_squared_error(curve))
    plain.append(calibration.calibration_error(curve, 'l2') ** 2)
  # Kumar et al., bin by bin.
  index = np.ceil(confidence * 15)
  expected = 0
  for b in np.unique(index):
    c, y = confidence[index == b], correct[index == b].astype(np.float64)
    if len(y) > 1:
      chance = y.mean() * (1 - y.mean()) / (len(y) - 1)
      expected += len(y) / 200 * ((c.mean() - y.mean()) ** 2 - chance)
  assert errors[-1] == pytest.approx(expected, rel=1e-10)
  deviation = np.std(errors) / 20
  assert abs(np.mean(errors)) < 3 * deviation
  assert np.mean(plain) > 10 * deviation


@pytest.mark.parametrize(
  'options',
  [
    {},
    {'norm': 'l2', 'bins': 10, 'convention': 'torchmetrics'},
    {'norm': 'max', 'binning': 'equal_mass'},
  ],
)
def test_what_perfect_calibration_gives(options):
  rng = np.random.default_rng(0)
  confidence = rng.beta(4, 1, 300)
  low, high = calibration.calibrated_range(confidence, **options)
  options = dict(options)
  norm = options.pop('norm', 'l1')
  errors = np.array(
    [
      calibration.calibration_error(
        calibration.reliability_curve(
          confidence, rng.uniform(size=300) < confidence, **options
        ),
        norm,
      )
      for _ in range(500)
    ]
  )
  assert np.mean(errors < low) == pytest.approx(0.05, abs=0.03)
  assert np.mean(errors > high) == pytest.approx(0.05, abs=0.03)
  assert (low, high) == calibration.calibrated_range(
    confidence, norm=norm, **options
  )


def test_what_perfect_calibration_gives_class_by_class():
  rng = np.random.default_rng(0)
  logits = 2 * rng.normal(size=(200, 4))
  low, high = calibration.classwise_calibrated_range(logits)
  errors = np.array(
    [
      calibration.classwise_calibration_error(
        logits, (logits + rng.gumbel(size=logits.shape)).argmax(1)
      )
      for _ in range(300)
    ]
  )
  assert np.mean(errors < low) == pytest.approx(0.05, abs=0.04)
  assert np.mean(errors > high) == pytest.approx(0.05, abs=0.04)


@pytest.mark.parametrize('binning', ['equal_width', 'equal_mass'])
def test_order_and_weights_change_no_bit(binning):
  rng = np.random.default_rng(0)
  confidence = rng.uniform(size=300)
  confidence[100:200] = confidence[:100].round(1)
  correct = rng.uniform(size=300) < confidence
  weights = rng.integers(0, 4, 300)

  def curve(order, weights=None):
    return calibration.reliability_curve(
      confidence[order], correct[order], binning=binning, weights=weights
    )

  everything = np.arange(300)
  whole = curve(everything)
  assert_same_bits(curve(rng.permutation(300)), whole)
  assert_same_bits(curve(everything, np.ones(300, int)), whole)
  assert_same_bits(
    curve(everything, weights), curve(np.repeat(everything, weights))
  )


def test_equal_mass_without_ties_splits_the_sorted_examples():
  rng = np.random.default_rng(1)
  confidence, correct = rng.uniform(size=60), rng.uniform(size=60) < 0.5
  curve = calibration.reliability_curve(
    confidence, correct, bins=12, binning='equal_mass'
  )
  parts = np.array_split(np.argsort(confidence), 12)
  assert_array_equal(curve.count, 5)
  assert_allclose(
    curve.confidence, [confidence[p].mean() for p in parts], rtol=1e-13
  )
  assert_allclose(
    curve.accuracy, [correct[p].mean() for p in parts], rtol=1e-13
  )
  assert_array_equal(
    curve.edges[1:-1], [confidence[p].max() for p in parts[:-1]]
  )
  assert (curve.edges[0], curve.edges[-1]) == (0, 1)


def test_equal_mass_keeps_ties_together():
  # The middle of six ones among ten is the seventh place: bin 2 of 3.
  confidence = np.array([0.1, 0.2, 0.3, 0.4] + [1.0] * 6)
  curve = calibration.reliability_curve(
    confidence, np.arange(10) % 2, bins=3, binning='equal_mass'
  )
  assert curve.count.tolist() == [3, 1, 6]
  assert_allclose(curve.confidence, [0.2, 0.4, 1.0], rtol=1e-13)
  alone = calibration.reliability_curve(
    np.full(4, 0.7), np.ones(4), bins=3, binning='equal_mass'
  )
  assert alone.count.tolist() == [0, 4, 0]
  assert np.isnan(alone.accuracy[[0, 2]]).all()
  assert calibration.calibration_error(alone) == pytest.approx(0.3)


@pytest.mark.parametrize(
  'options',
  [
    {},
    {'convention': 'torchmetrics', 'bins': 10},
    {'binning': 'equal_mass', 'bins': 9},
  ],
)
def test_errors_of_logits_are_those_of_their_curves(options):
  logits, labels = make()
  p_NK = np.array([naive_softmax(z) for z in logits])
  curve = calibration.reliability_curve(
    p_NK.max(1), p_NK.argmax(1) == labels, **options
  )
  ece = calibration.expected_calibration_error(logits, labels, **options)
  assert ece == pytest.approx(calibration.calibration_error(curve), rel=1e-12)
  classwise = [
    calibration.calibration_error(
      calibration.reliability_curve(p_NK[:, k], labels == k, **options)
    )
    for k in range(7)
  ]
  got = calibration.classwise_calibration_error(logits, labels, **options)
  assert got == pytest.approx(np.mean(classwise), rel=1e-12)


def test_training_reports_the_same_calibration_error():
  logits, labels = make(2000, K=10, dtype=np.float32)
  sums = metrics.calibration_sums(logits, labels, np.ones(2000, bool))
  got = calibration.per_example(logits, labels)
  curve = calibration.reliability_curve(
    got.confidence, got.correct, bins=metrics.ECE_BINS
  )
  assert_array_equal(sums['count'], curve.count)
  used = curve.count > 0
  assert_allclose(
    np.asarray(sums['correct'])[used],
    (curve.accuracy * curve.count)[used],
    rtol=1e-12,
  )
  ece = metrics.expected_calibration_error(sums)
  assert ece > 0.02
  assert ece == pytest.approx(
    calibration.expected_calibration_error(logits, labels), abs=1e-6
  )


def test_a_confidence_on_an_edge_falls_where_training_puts_it():
  # 1/2 is on an edge of 2 bins, and exact in float32.
  logits, labels = np.zeros((3, 2), np.float32), np.array([0, 0, 1])
  sums = metrics.calibration_sums(logits, labels, np.ones(3, bool), 2)
  got = calibration.per_example(logits, labels)
  curve = calibration.reliability_curve(got.confidence, got.correct, bins=2)
  assert_array_equal(sums['count'], curve.count)


def test_bad_input_is_one_line():
  for arguments, message in (
    ({'confidence': [0.5, 1.1]}, r'confidence\[1\] is 1.1; expected from 0'),
    ({'confidence': [[0.5, 0.5]]}, 'confidence has the shape'),
    ({'correct': [1]}, 'differ: confidence 2, correct 1'),
    ({'bins': 0}, 'bins is 0'),
    ({'binning': 'mass'}, "binning is 'mass'; expected one of equal_width"),
    ({'convention': 'up'}, "convention is 'up'; expected one of right"),
    ({'binning': 'equal_mass', 'convention': 'left'}, 'expected the default'),
    ({'weights': [0, 0]}, 'weights are all 0; expected'),
  ):
    arguments = {'confidence': [0.5, 0.6], 'correct': [0, 1]} | arguments
    with pytest.raises(UsageError, match=message):
      calibration.reliability_curve(**arguments)


def test_the_largest_logits():
  logits = np.array([[1e150, -1e150], [-1e150, 1e150]])
  examples = calibration.per_example(logits, [0, 0], temperature=1e-100)
  assert_allclose(examples.nll, [0, 2e250])
  with pytest.raises(UsageError, match=r'logits.0, 0. is 1.*e.200; expected'):
    calibration.per_example(1e50 * logits, [0, 0])
