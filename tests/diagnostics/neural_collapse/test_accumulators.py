"""The two passes over batches, against arrays in memory in float64."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from maxsup_jax.diagnostics._class_sums import Pair, class_sums
from maxsup_jax.diagnostics.neural_collapse import (
  ClassMeans,
  WithinClass,
  neural_collapse,
  passes,
)
from maxsup_jax.errors import UsageError

K, D = 5, 12


@pytest.fixture(scope='module')
def data():
  """Unbalanced classes with positive features, as after a ReLU."""
  rng = np.random.default_rng(0)
  labels = rng.permutation(np.repeat(np.arange(K), [40, 7, 90, 23, 40]))
  means = rng.normal(size=(K, D))
  features = np.maximum(
    means[labels] + 0.7 * rng.normal(size=(len(labels), D)), 0
  ).astype(np.float32)
  weights = means + 0.3 * rng.normal(size=(K, D))
  bias = rng.normal(size=K)
  predictions = (features @ weights.T + bias).argmax(1)
  return features, labels, predictions, weights, bias


def two_passes(features, labels, predictions, shards, group_by='labels'):
  means = ClassMeans.init(K, D)
  groups = labels if group_by == 'labels' else predictions
  for rows in shards:
    means = means.update(features[rows], groups[rows])
  between = means.compute(allow_empty=group_by == 'predictions')
  within = WithinClass.init(K)
  for rows in shards:
    within = within.update(
      between,
      features[rows],
      labels[rows],
      predictions=predictions[rows],
      group_by=group_by,
    )
  return between, within


def assert_same(a, b, rtol=2e-6, atol=1e-7):
  for field in dataclasses.fields(a):
    assert_allclose(
      getattr(a, field.name),
      getattr(b, field.name),
      rtol,
      atol,
      err_msg=field.name,
    )


@pytest.mark.parametrize('group_by', ['labels', 'predictions'])
def test_shards_equal_the_whole(data, group_by):
  features, labels, predictions, weights, bias = data
  N = len(labels)
  whole = neural_collapse(features, labels, weights, bias, group_by=group_by)
  assert 0 < whole.num_wrong < whole.num_correct
  order = np.random.default_rng(1).permutation(N)
  shards = np.array_split(order, 4)
  between, within = two_passes(features, labels, predictions, shards, group_by)
  assert_same(within.compute(between, weights, bias), whole)


def test_padding_and_unknown_labels_take_no_part(data):
  """The latter under `jit`, where nothing can be refused."""
  features, labels, predictions, *classifier = data
  h = np.concatenate([features, np.full((3, D), np.nan, np.float32)])
  y, p = np.append(labels, [0, -1, 99]), np.append(predictions, [1, 1, -1])
  real = np.arange(len(y)) < len(labels)
  y[3], p[5] = -1, K
  kept = real.copy()
  kept[[3, 5]] = False

  @jax.jit
  def both(between, h, y, p, where):
    means = ClassMeans.init(K, D).update(h, y, where)
    within = WithinClass.init(K)
    return means, within.update(between, h, y, where, predictions=p)

  between, within = two_passes(h, y, p, [np.flatnonzero(kept)])
  means, found = both(between, h, y, p, real)
  assert_array_equal(means.count, np.bincount(y[real & (y >= 0)]))
  assert_same(
    found.compute(between, *classifier), within.compute(between, *classifier)
  )
  for state in (found, within):
    assert state.compute(between).num_samples == kept.sum()
  with pytest.raises(UsageError, match=r'labels\[3\] is -1'):
    ClassMeans.init(K, D).update(h[real], y[real])
  with pytest.raises(UsageError, match=r'predictions\[5\] is 5'):
    WithinClass.init(K).update(between, features, labels, predictions=p[real])


def test_a_mapped_step_sums_over_devices(data):
  features, labels, predictions, _, _ = data

  h, y, p = (a.reshape(4, 50, *a.shape[1:]) for a in data[:3])
  # Half of the last device's batch is padding.
  real = np.ones((4, 50), bool)
  real[3, 25:] = False
  flat = real.reshape(-1)

  @functools.partial(jax.pmap, axis_name='devices', in_axes=(None, 0, 0, 0))
  def first(state, h, y, w):
    sums = ClassMeans.batch_sums(h, y, w, K)
    return state.add(jax.lax.psum(sums, 'devices'))

  @functools.partial(
    jax.pmap, axis_name='devices', in_axes=(None, None, 0, 0, 0, 0)
  )
  def second(state, between, h, y, p, w):
    sums = WithinClass.batch_sums(between, h, y, w, predictions=p)
    sums = jax.lax.psum(sums, 'devices')
    return state.add(sums, predicted=True, group_by='labels')

  def one(tree, device):
    return jax.tree.map(lambda a: a[device], tree)

  between = one(first(ClassMeans.init(K, D), h, y, real), 2).compute()
  assert_array_equal(between.count, np.bincount(labels[flat]))
  within = one(second(WithinClass.init(K), between, h, y, p, real), 1)
  logits = 2 * np.eye(K)[predictions]
  whole = neural_collapse(features[flat], labels[flat], logits=logits[flat])
  result = within.compute(between)
  for name in ('nc1', 'nc1_wrong', 'ncc_accuracy', 'ncc_mismatch', 'cdnv'):
    expected = getattr(whole, name)
    assert getattr(result, name) == pytest.approx(expected, rel=2e-6), name


def test_pairs_keep_what_float32_loses():
  """The compiler must not simplify the compensation away."""
  add = jax.jit(Pair.add)
  rng = np.random.default_rng(0)
  values = (1e6 * rng.normal(size=(2000, 3))).astype(np.float32)
  values = np.concatenate([values + 1e6, -values - np.float32(1e6)])
  values = rng.permutation(values).astype(np.float32)
  pair = Pair.zeros((3,))
  plain = np.zeros(3, np.float32)
  for value in values:
    pair = add(pair, value)
    plain = plain + value
  exact = values.astype(np.float64).sum(0)
  assert np.abs(plain - exact).min() > 1
  assert_allclose(pair.compute(), exact, rtol=1e-6, atol=1e-3)
  half = functools.reduce(add, values[:2000], Pair.zeros((3,)))
  rest = functools.reduce(add, values[2000:], Pair.zeros((3,)))
  assert_allclose(half.merge(rest).compute(), exact, rtol=1e-6, atol=1e-3)


def test_sums_of_accelerators_equal_those_of_the_host(data, monkeypatch):
  """Other platforms multiply by a one-hot matrix."""
  features, labels, _, _, _ = data
  ids = np.where(np.arange(len(labels)) % 7 == 0, K, labels)
  features = features.copy()
  features[0] = np.nan
  expected = class_sums(jnp.asarray(features), jnp.asarray(ids), K)
  monkeypatch.setattr(
    jax.lax, 'platform_dependent', lambda *a, cpu, default: default(*a)
  )
  other = class_sums(jnp.asarray(features), jnp.asarray(ids), K)
  assert_allclose(other, expected, rtol=1e-6)
  assert np.isfinite(np.asarray(expected)).all()


def test_blocks_equal_the_whole(data, monkeypatch):
  """On CPUs, with a rest."""
  features, labels, _, _, _ = data
  between = ClassMeans.init(K, D).update(features, labels).compute()
  whole = passes.row_measures(np, between, features, labels)
  monkeypatch.setattr(passes, '_CPU_BLOCK', 60)
  found = jax.jit(lambda *a: passes._measure_blocks(*a))(
    between, features, labels
  )
  for a, b in zip(found, whole):
    assert_allclose(a, b, rtol=1e-4)


def test_bad_input_is_one_line(data):
  features, labels, predictions, _, _ = data
  means, within = ClassMeans.init(K, D), WithinClass.init(K)
  between = means.update(features, labels).compute()
  bad = features.copy()
  bad[labels == 2, 0] = np.inf
  few, far = labels != 1, np.full((1, D), 1e20, np.float32)
  by_label, by_prediction = (
    within.update(
      between, features, labels, predictions=predictions, group_by=group
    )
    for group in ('labels', 'predictions')
  )
  plain = within.update(between, features, labels)
  one = ClassMeans.batch_sums(features[:, :1], labels, None, K)
  tiny, huge = (
    means.update(np.float32(scale) * features, labels)
    for scale in (1e-21, 1e19)
  )
  for call, message in (
    (means.compute, 'there are no examples'),
    (means.update(features[few], labels[few]).compute, 'class 1 has no exam'),
    (means.update(bad, labels).compute, 'features of class 2 are not all'),
    (lambda: means.update(features[:, 1:], labels), r'expected \[examples, 12'),
    (lambda: means.update(features, labels[1:]), r'labels has the shape \(199'),
    (lambda: means.update(features, labels, labels[1:] > 0), 'where has the'),
    (
      lambda: within.update(between, features, labels, group_by='predictions'),
      'needs the predictions',
    ),
    (
      lambda: WithinClass.init(6).update(between, features, labels),
      'between has 5 classes; expected 6',
    ),
    (
      lambda: within.update(between, far, labels[:1]).compute(between),
      'all finite, or too large to square',
    ),
    (
      lambda: plain.merge(by_label).compute(between),
      'some batches had predictions',
    ),
    (
      lambda: by_label.merge(by_prediction).compute(between),
      'grouped by labels and some by',
    ),
    (lambda: plain.add((), predicted=True, group_by='x'), "group_by is 'x'"),
    (lambda: means.merge(ClassMeans.init(1 + K, D)), 'the sums have the shape'),
    (lambda: means.add(one), 'the sums have the shape'),
    (tiny.compute, r'class means differ by .* float32'),
    (huge.compute, r'class means differ by .* float32'),
  ):
    with pytest.raises(UsageError, match=message):
      call()
  twice = by_label.merge(by_label).compute(between)
  assert twice.num_samples == 2 * len(labels)


def test_small_and_large_features(data):
  features, labels, _, _, _ = data
  expected = neural_collapse(features, labels)
  for scale in (1e-14, 1e17):
    h = np.float32(scale) * features
    between = ClassMeans.init(K, D).update(h, labels).compute()
    result = WithinClass.init(K).update(between, h, labels).compute(between)
    for name in ('cdnv', 'trace_ratio', 'ncc_accuracy', 'nc1'):
      value = getattr(expected, name)
      assert getattr(result, name) == pytest.approx(value, rel=1e-5), name
