"""Scores of pixels, against definitions, scikit-learn, scipy and torch."""

import jax
import numpy as np
import pytest
import torch
from sklearn import metrics

from maxsup_jax.diagnostics import bootstrap, segmentation
from maxsup_jax.errors import UsageError

K = 4


def draw(shape=(6, 12, 15), seed=0):
  """Labels in blocks, a tenth of which do not count, and predictions."""
  rng = np.random.default_rng(seed)
  blocks = rng.integers(0, K, (shape[0], -(-shape[1] // 4), -(-shape[2] // 4)))
  labels = np.kron(blocks, np.ones((1, 4, 4), int))[:, : shape[1], : shape[2]]
  predictions = np.where(
    rng.random(shape) < 0.7, labels, rng.integers(0, K, shape)
  )
  labels[rng.random(shape) < 0.1] = 255
  return predictions.astype(np.uint8), labels.astype(np.uint8)


def test_the_scores_of_six_pixels_by_hand():
  labels = np.array([[0, 1, 255], [1, 2, 2]])
  predictions = np.array([[0, 1, 0], [0, 2, 1]])
  confusion = segmentation.Confusion.init(5).update(predictions, labels)
  scores = confusion.compute()
  np.testing.assert_allclose(scores.iou, [1 / 2, 1 / 3, 1 / 2, np.nan, np.nan])
  assert scores.mean_iou == pytest.approx(4 / 9)
  assert scores.accuracy == pytest.approx(3 / 5)
  np.testing.assert_allclose(scores.class_accuracy[:3], [1, 1 / 2, 1 / 2])
  np.testing.assert_allclose(scores.precision[:3], [1 / 2, 1 / 2, 1])
  assert scores.mean_accuracy == pytest.approx(2 / 3)
  assert scores.pixels.tolist() == [1, 2, 2, 0, 0]
  # A class that is said and never there has an IoU of 0, and counts.
  predictions[0, 0] = 3
  scores = segmentation.Confusion.init(5).update(predictions, labels).compute()
  np.testing.assert_allclose(scores.iou, [0, 1 / 3, 1 / 2, 0, np.nan])
  rows = scores.rows(['a', 'b', 'c', 'd', 'e'])
  assert rows[2] == {
    'name': 'c',
    'iou': 0.5,
    'accuracy': 0.5,
    'precision': 1.0,
    'pixels': 2,
  }
  nothing = segmentation.Confusion.init(2).compute()
  assert np.isnan([nothing.mean_iou, nothing.accuracy]).all()


def test_counts_are_those_of_scikit_learn_however_the_data_are_split():
  predictions, labels = draw()
  valid = labels != 255
  expected = metrics.confusion_matrix(labels[valid], predictions[valid])
  whole = segmentation.Confusion.init(K).update(predictions, labels)
  np.testing.assert_array_equal(whole.counts.sum(0), expected)
  assert whole.counts.dtype == np.int64
  iou = metrics.jaccard_score(labels[valid], predictions[valid], average=None)
  np.testing.assert_allclose(whole.compute().iou, iou)
  parts = segmentation.Confusion.init(K)
  for part in (slice(0, 1), slice(4, 6), slice(1, 4)):
    one = segmentation.Confusion.init(K).update(predictions[part], labels[part])
    parts = parts.merge(one)
  np.testing.assert_array_equal(parts.counts, whole.counts)
  counts = jax.pmap(
    lambda p, y: jax.lax.psum(
      segmentation.confusion_counts(p, y, num_classes=K), 'devices'
    ),
    axis_name='devices',
  )(predictions.reshape(2, 3, 12, 15), labels.reshape(2, 3, 12, 15))
  devices = segmentation.Confusion.init(K).add(np.asarray(counts[0], float))
  np.testing.assert_array_equal(devices.counts, whole.counts)
  # Beyond what float32 counts exactly.
  many = segmentation.Confusion(whole.counts * 2**25).add(whole.counts)
  np.testing.assert_array_equal(many.counts, whole.counts * (2**25 + 1))


@pytest.mark.parametrize('radius', [0, 2])
def test_a_boundary_is_where_another_class_is_near(radius):
  predictions, labels = draw((2, 12, 15))
  found = np.asarray(segmentation.near_boundary(labels, radius))
  expected = np.zeros_like(found)
  for b, i, j in np.ndindex(labels.shape):
    if labels[b, i, j] != 255:
      window = labels[
        b,
        max(i - radius, 0) : i + radius + 1,
        max(j - radius, 0) : j + radius + 1,
      ]
      others = set(window.ravel().tolist()) - {255, int(labels[b, i, j])}
      expected[b, i, j] = bool(others)
  np.testing.assert_array_equal(found, expected)
  confusion = segmentation.Confusion.init(K, radius)
  scores = confusion.update(predictions, labels).compute()
  right = predictions == labels
  if radius:
    assert scores.boundary_accuracy == pytest.approx(right[expected].mean())
  else:
    assert np.isnan(scores.boundary_accuracy)
  rest = (labels != 255) & ~expected
  assert scores.interior_accuracy == pytest.approx(right[rest].mean())
  assert scores.boundary_share == pytest.approx(
    expected.sum() / (labels != 255).sum()
  )


def test_a_constant_model_is_right_where_its_class_is():
  predictions, labels = draw()
  confusion = segmentation.Confusion.init(K).update(predictions, labels)
  commonest = np.bincount(labels[labels != 255]).argmax()
  for k in (None, 1):
    said = np.full_like(labels, commonest if k is None else k)
    expected = segmentation.Confusion.init(K).update(said, labels)
    np.testing.assert_array_equal(confusion.constant(k).counts, expected.counts)


def test_a_bootstrap_over_images_joins_their_areas():
  predictions, labels = draw()
  each = np.stack(
    [
      segmentation.areas(segmentation.confusion_counts(p, y, num_classes=K))
      for p, y in zip(predictions, labels)
    ]
  )
  weights = np.array([2, 0, 1, 0, 0, 3])
  drawn = np.repeat(np.arange(6), weights)
  expected = segmentation.Confusion.init(K).update(
    predictions[drawn], labels[drawn]
  )
  assert segmentation.mean_iou(each, weights) == pytest.approx(
    expected.compute().mean_iou
  )


def test_sampled_pixels_have_the_logits_of_the_resized_map():
  rng = np.random.default_rng(0)
  logits = rng.normal(size=(3, 5, 7, K)).astype(np.float32)
  labels = draw((3, 12, 15))[1]
  labels[1, 1:] = 255
  count = int((labels[1] != 255).sum())
  found, classes = segmentation.sample_pixels(
    logits, labels, [10, 11, 12], limit=40
  )
  found, classes = np.asarray(found), np.asarray(classes)
  assert found.shape == (3, 40, K)
  assert (classes != 255).sum(1).tolist() == [40, count, 40]
  resized = torch.nn.functional.interpolate(
    torch.tensor(logits).permute(0, 3, 1, 2), (12, 15), mode='bilinear'
  )
  resized = resized.permute(0, 2, 3, 1).numpy()
  for b in range(3):
    # Each drawn pixel is one of its image, and none is drawn twice.
    gaps = np.abs(found[b, :, None] - resized[b].reshape(1, -1, K)).max(-1)
    places = gaps.argmin(1)
    kept = classes[b] != 255
    assert gaps.min(1)[kept].max() < 1e-5
    assert len(set(places[kept])) == kept.sum()
    np.testing.assert_array_equal(
      labels[b].ravel()[places[kept]], classes[b][kept]
    )


def test_which_pixels_are_drawn_depends_on_the_image_alone():
  labels = draw((4, 12, 15))[1]
  place = np.arange(180.0, dtype=np.float32).reshape(1, 12, 15, 1)
  maps = np.repeat(place, 4, 0)

  def places(rows, images, **options):
    drawn, _ = segmentation.sample_pixels(
      maps[rows], labels[rows], images, limit=30, **options
    )
    return np.asarray(drawn)[..., 0]

  whole = places(slice(0, 4), [0, 1, 2, 3])
  parts = [places(slice(i, i + 2), [i, i + 1]) for i in (2, 0)]
  np.testing.assert_array_equal(whole, np.concatenate(parts[::-1]))
  same = np.broadcast_to(labels[:1], labels.shape)
  both, _ = segmentation.sample_pixels(maps, same, [0, 1, 0, 2], limit=30)
  both = np.asarray(both)
  assert (both[0] == both[2]).all()
  assert (both[0] != both[1]).any()
  assert (places(slice(0, 4), [0, 1, 2, 3], seed=1) != whole).any()
  # Every pixel is as likely as any other.
  drawn, _ = segmentation.sample_pixels(
    np.repeat(place, 200, 0),
    np.zeros((200, 12, 15), np.uint8),
    np.arange(200),
    limit=90,
  )
  counts = np.bincount(np.asarray(drawn).ravel().astype(int), minlength=180)
  assert counts.sum() == 200 * 90
  assert 65 < counts.min() < counts.max() < 135


def test_groups_are_drawn_whole():
  groups = np.array([7, 7, 3, 3, 3, 9])
  seen = []

  def statistic(weights):
    seen.append(weights)
    return float(weights.sum())

  bootstrap.bootstrap({'x': statistic}, 6, resamples=50, groups=groups)
  for weights in seen:
    each = [set(weights[groups == g].tolist()) for g in (3, 7, 9)]
    assert all(len(one) == 1 for one in each)
    assert sum(one.pop() for one in each) == 3
  with pytest.raises(UsageError, match=r'groups are int64 \[6\]; expected int'):
    bootstrap.bootstrap({'x': statistic}, 5, groups=groups)


@pytest.mark.parametrize(('size', 'low', 'high'), [(1, 0.9, 1), (25, 0, 0.7)])
def test_an_interval_over_pixels_alone_is_too_narrow(size, low, high):
  """Of groups of one, resampling groups is what it was; else it widens."""
  rng = np.random.default_rng(0)
  groups = np.repeat(np.arange(40), size)
  covered = {True: 0, False: 0}
  for _ in range(60):
    hard = np.repeat(rng.beta(2, 2, 40), size)
    errors = rng.random(40 * size) < hard
    for grouped in covered:
      samples = bootstrap.bootstrap(
        {'error': lambda w, e=errors: w @ e / w.sum()},
        40 * size,
        resamples=150,
        groups=groups if grouped else None,
      )
      inside = bootstrap.interval(samples['error'])
      covered[grouped] += inside.low <= 0.5 <= inside.high
  assert covered[True] / 60 > 0.85
  assert low <= covered[False] / 60 <= high


def test_what_does_not_fit_is_refused():
  confusion = segmentation.Confusion.init(3)
  labels = np.zeros((2, 4, 4), np.uint8)
  for arguments, message in (
    ((labels, labels[0]), r'\(2, 4, 4\), and labels, \(4, 4\), do not match'),
    ((labels, labels + 3), r'labels\[0\] is 3; expected from 0 to 2'),
    ((labels + 255, labels), r'predictions\[0\] is 255; expected from 0 to 2'),
    ((labels, labels * 0.0), 'labels has the dtype float64; expected integer'),
  ):
    with pytest.raises(UsageError, match=message):
      confusion.update(*arguments)
  with pytest.raises(UsageError, match='the radius is 5; expected 3'):
    confusion.merge(segmentation.Confusion.init(3, 5))
  with pytest.raises(UsageError, match=r'expected \[B, h, w, K\], \[B, H, W\]'):
    segmentation.sample_pixels(labels, labels, [0, 1], limit=3)
