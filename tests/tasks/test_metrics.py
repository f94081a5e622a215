import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.metrics import log_loss, recall_score, top_k_accuracy_score

from maxsup_jax.tasks import metrics
from maxsup_jax.training.sums import Window

RNG = np.random.default_rng(0)
LOGITS = RNG.normal(size=(200, 10)).astype(np.float32) * 3
LABELS = RNG.integers(0, 10, 200).astype(np.int32)
MASK = RNG.random(200) < 0.7


def reference_ece(logits, labels, bins):
  """Guo et al. 2017, eq. 3 and 5, one example at a time, in float64."""
  z = logits.astype(np.float64)
  p = np.exp(z - z.max(-1, keepdims=True))
  p /= p.sum(-1, keepdims=True)
  confidence, correct = p.max(-1), z.argmax(-1) == labels
  total = 0.0
  for i in range(bins):
    inside = (confidence > i / bins) & (confidence <= (i + 1) / bins)
    if inside.any():
      gap = abs(correct[inside].mean() - confidence[inside].mean())
      total += inside.mean() * gap
  return total


def test_means_are_scikit_learns_over_the_real_examples():
  window = Window()
  window.add(metrics.classification_sums(LOGITS, LABELS, MASK))
  means = window.means()
  z, y = LOGITS[MASK], LABELS[MASK]
  p = np.asarray(jax.nn.softmax(z.astype(np.float64)))
  assert means['accuracy'] == np.mean(z.argmax(-1) == y)
  top5 = top_k_accuracy_score(y, z, k=5, labels=range(10))
  assert means['top5'] == pytest.approx(top5)
  expected = log_loss(y, p / p.sum(-1, keepdims=True), labels=range(10))
  assert means['nll'] == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize('bins', [10, 15])
def test_ece_is_the_definitions(bins):
  sums = metrics.calibration_sums(LOGITS, LABELS, MASK, bins)
  ece = metrics.expected_calibration_error(sums)
  expected = reference_ece(LOGITS[MASK], LABELS[MASK], bins)
  assert ece == pytest.approx(expected, abs=1e-6)


def test_ece_bins_are_closed_on_the_right():
  """Confidences 1/2 and 1 of two classes fall into the first and last bin."""
  logits = np.array([[0, 0], [90, 0]], np.float32)
  sums = metrics.calibration_sums(logits, np.array([0, 0]), np.ones(2, bool), 2)
  np.testing.assert_array_equal(sums['count'], [1, 1])


def test_any_split_gives_the_same_counts():
  whole = metrics.classification_sums(LOGITS, LABELS, MASK)
  bins = metrics.calibration_sums(LOGITS, LABELS, MASK)
  window, counts = Window(), 0
  for part in np.array_split(np.arange(200), 7):
    window.add(
      metrics.classification_sums(LOGITS[part], LABELS[part], MASK[part])
    )
    sums = metrics.calibration_sums(LOGITS[part], LABELS[part], MASK[part])
    counts = counts + np.asarray(sums['count'])
  for name in ('accuracy', 'top5'):
    assert window.totals[name] == tuple(map(float, whole[name]))
  assert window.totals['nll'][0] == pytest.approx(float(whole['nll'][0]))
  np.testing.assert_array_equal(counts, bins['count'])


def test_a_tied_or_nan_label_is_not_counted_as_correct():
  logits = np.zeros((3, 6), np.float32)
  logits[2] = np.nan
  labels = np.array([0, 5, 0])
  sums = metrics.classification_sums(logits, labels, np.ones(3, bool))
  assert int(sums['accuracy'][0]) == 1
  assert int(sums['top5'][0]) == 1


def test_masked_nan_does_not_leak():
  logits = LOGITS.copy()
  logits[~MASK] = np.nan
  a = metrics.classification_sums(logits, LABELS, MASK)
  b = metrics.classification_sums(LOGITS, LABELS, MASK)
  assert jax.tree.map(float, a) == jax.tree.map(float, b)
  a = metrics.calibration_sums(logits, LABELS, MASK)
  b = metrics.calibration_sums(LOGITS, LABELS, MASK)
  jax.tree.map(np.testing.assert_array_equal, a, b)


def test_five_classes_or_fewer_have_no_top5():
  sums = metrics.classification_sums(LOGITS[:, :5], LABELS % 5, MASK)
  assert 'top5' not in sums


def test_soft_labels_count_as_their_most_probable_class():
  soft = np.asarray(jax.nn.one_hot(LABELS, 10)) * 0.8 + 0.02
  hard = metrics.classification_sums(LOGITS, LABELS, MASK)
  sums = metrics.classification_sums(LOGITS, jnp.asarray(soft), MASK)
  assert int(sums['accuracy'][0]) == int(hard['accuracy'][0])
  a = metrics.calibration_sums(LOGITS, jnp.asarray(soft), MASK)
  b = metrics.calibration_sums(LOGITS, LABELS, MASK)
  np.testing.assert_array_equal(a['correct'], b['correct'])
  assert float(sums['nll'][0]) != pytest.approx(float(hard['nll'][0]))


def test_window_survives_a_checkpoint_bit_for_bit():
  values = RNG.normal(size=20).astype(np.float32)
  whole, before = Window(), Window()
  for i, value in enumerate(values):
    whole.add({'nll': (value, np.int32(3))})
    if i < 9:
      before.add({'nll': (value, np.int32(3))})
  # JSON turns the pairs into lists.
  after = Window({k: list(v) for k, v in before.totals.items()})
  for value in values[9:]:
    after.add({'nll': (value, np.int32(3))})
  assert after.means() == whole.means()


def test_counts_per_class_are_scikit_learns():
  """Recall is the accuracy of a class; ties, NaN and padding as elsewhere."""
  labels = np.where(LABELS == 3, 4, LABELS)
  sums = metrics.class_sums(LOGITS, labels, MASK, 10)
  y, predicted = labels[MASK], LOGITS[MASK].argmax(-1)
  np.testing.assert_array_equal(sums['count'], np.bincount(y, minlength=10))
  assert sums['count'][3] == 0
  recalls = recall_score(
    y, predicted, labels=range(10), average=None, zero_division=0
  )
  np.testing.assert_allclose(
    sums['correct'] / np.maximum(sums['count'], 1), recalls
  )
  assert sums['correct'].dtype == sums['count'].dtype == jnp.int32


def test_counts_per_class_add_up_to_the_accuracy():
  logits = np.round(LOGITS)
  logits[::9, 4] = np.nan
  logits[~MASK] = np.nan
  soft = np.asarray(jax.nn.one_hot(LABELS, 10)) * 0.8 + 0.02
  for labels in (LABELS, jnp.asarray(soft)):
    sums = metrics.class_sums(logits, labels, MASK, 10)
    whole = metrics.classification_sums(logits, labels, MASK)['accuracy']
    assert int(sums['correct'].sum()) == int(whole[0])
    assert int(sums['count'].sum()) == int(whole[1]) == MASK.sum()


def test_nothing_counted_is_nan():
  assert np.isnan(Window({'nll': (0.0, 0.0)}).means()['nll'])
  empty = metrics.calibration_sums(LOGITS, LABELS, np.zeros(200, bool))
  assert np.isnan(metrics.expected_calibration_error(empty))
