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


def test_padding_takes_no_part(data):
  features, labels, predictions, _, _ = data
  pad = np.full((3, D), np.nan, np.float32)
  h = np.concatenate([features, pad])
  y = np.append(labels, [0, -1, 99])
  p = np.append(predictions, [1, 1, -1])
  real = np.arange(len(y)) < len(labels)
  between = ClassMeans.init(K, D).update(h, y, real).compute()
  within = WithinClass.init(K).update(between, h, y, real, predictions=p)
  whole = two_passes(features, labels, predictions, [slice(None)])
  result, expected = within.compute(between), whole[1].compute(whole[0])
  assert result.nc1 == pytest.approx(expected.nc1, rel=1e-6)
  assert result.num_samples == len(labels)
  assert result.ncc_mismatch == expected.ncc_mismatch
  assert result.num_wrong == expected.num_wrong


def test_under_jit_other_labels_are_masked(data):
  features, labels, predictions, _, _ = data
  y = np.where(np.arange(len(labels)) % 10 == 3, -1, labels)
  y[4] = K
  p = np.where(np.arange(len(labels)) % 10 == 5, K, predictions)
  means = jax.jit(lambda *a: ClassMeans.init(K, D).update(*a))(features, y)
  kept = (y >= 0) & (y < K)
  between = means.compute()
  assert_array_equal(between.count, np.bincount(labels[kept]))
  within = jax.jit(
    lambda b, h, y, p: WithinClass.init(K).update(b, h, y, predictions=p)
  )(between, features, y, p)
  kept &= p < K
  assert within.compute(between).num_samples == kept.sum()
  with pytest.raises(UsageError, match=r'labels\[3\] is -1'):
    ClassMeans.init(K, D).update(features, y)
  with pytest.raises(UsageError, match=r'predictions\[5\] is 5'):
    WithinClass.init(K).update(between, features, labels, predictions=p)


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
  logits = np.eye(K)[predictions]
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


@pytest.mark.parametrize('block', [50, 60])
def test_blocks_equal_the_whole(data, monkeypatch, block):
  """On CPUs, with and without a rest."""
  features, labels, _, _, _ = data
  between = ClassMeans.init(K, D).update(features, labels).compute()
  whole = passes.row_measures(np, between, features, labels)
  monkeypatch.setattr(passes, '_CPU_BLOCK', block)
  found = jax.jit(lambda *a: passes._measure_blocks(*a))(
    between, features, labels
  )
  for a, b in zip(found, whole):
    assert_allclose(a, b, rtol=1e-4)


def test_bad_input_is_one_line(data):
  features, labels, predictions, _, _ = data
  means = ClassMeans.init(K, D)
  with pytest.raises(UsageError, match='there are no examples'):
    means.compute()
  with pytest.raises(UsageError, match='class 1 has no examples'):
    means.update(features[labels != 1], labels[labels != 1]).compute()
  bad = features.copy()
  bad[labels == 2, 0] = np.inf
  with pytest.raises(UsageError, match='features of class 2 are not all'):
    means.update(bad, labels).compute()
  for arguments, message in (
    ((features[:, 1:], labels), r'shape \(200, 11\); expected \[examples, 12'),
    ((labels[:, None] * np.ones(D, int), labels), 'features has the dtype int'),
    ((features, labels[1:]), r'labels has the shape \(199,\)'),
    ((features, labels, labels[1:] > 0), 'where has the shape'),
  ):
    with pytest.raises(UsageError, match=message):
      means.update(*arguments)
  between = means.update(features, labels).compute()
  within = WithinClass.init(K)
  with pytest.raises(UsageError, match='needs the predictions'):
    within.update(between, features, labels, group_by='predictions')
  with pytest.raises(UsageError, match='between has 5 classes; expected 6'):
    WithinClass.init(6).update(between, features, labels)
  with pytest.raises(UsageError, match='class 2 are not all finite'):
    within.update(between, bad, labels).compute(between)
  mixed = within.update(between, features, labels)
  mixed = mixed.update(between, features, labels, predictions=predictions)
  with pytest.raises(UsageError, match='some batches had predictions'):
    mixed.compute(between)


def test_groups_are_not_mixed(data):
  features, labels, predictions, _, _ = data
  between = ClassMeans.init(K, D).update(features, labels).compute()
  groups = ('labels', 'predictions')
  parts = {
    group: WithinClass.init(K).update(
      between, features, labels, predictions=predictions, group_by=group
    )
    for group in groups
  }
  sums = {
    group: WithinClass.batch_sums(
      between, features, labels, predictions=predictions, group_by=group
    )
    for group in groups
  }
  same = parts['labels'].add(sums['labels'], predicted=True, group_by='labels')
  assert same.merge(parts['labels']).compute(between).num_samples == 600
  for group, other in (groups, groups[::-1]):
    for mixed in (
      parts[group].merge(parts[other]),
      parts[group].add(sums[other], predicted=True, group_by=other),
    ):
      with pytest.raises(UsageError, match='grouped by labels and some by'):
        mixed.compute(between)
  with pytest.raises(UsageError, match="group_by is 'label'"):
    parts['labels'].add(sums['labels'], predicted=True, group_by='label')


def test_sums_of_other_shapes_are_refused(data):
  features, labels, _, _, _ = data
  means = ClassMeans.init(K, D)
  sums = ClassMeans.batch_sums(features[:, :1], labels, None, K)
  within = WithinClass.init(K)
  for call in (
    lambda: means.merge(ClassMeans.init(1 + K, D)),
    lambda: means.add(sums),
    lambda: within.merge(WithinClass.init(2)),
  ):
    with pytest.raises(UsageError, match='the sums have the shape'):
      call()


def test_what_float32_cannot_square_is_refused(data):
  features, labels, _, _, _ = data
  expected = neural_collapse(features, labels)
  for scale in (1e-14, 1e-21, 1e17, 1e19):
    h = np.float32(scale) * features
    means = ClassMeans.init(K, D).update(h, labels)
    if 1e-20 < scale < 1e18:
      between = means.compute()
      result = WithinClass.init(K).update(between, h, labels).compute(between)
      for name in ('cdnv', 'trace_ratio', 'ncc_accuracy', 'nc1'):
        assert getattr(result, name) == pytest.approx(
          getattr(expected, name), rel=1e-5
        ), (name, scale)
    else:
      with pytest.raises(UsageError, match=r'class means differ by .* float32'):
        means.compute()
  # The class means are near each other, an example is far from them.
  between = ClassMeans.init(K, D).update(features, labels).compute()
  far = np.full((1, D), 1e20, np.float32)
  within = WithinClass.init(K).update(between, far, labels[:1])
  with pytest.raises(UsageError, match='all finite, or too large to square'):
    within.compute(between)
