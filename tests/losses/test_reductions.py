import jax
import jax.numpy as jnp
import numpy as np
import pytest

from maxsup_jax import losses

VALUES = np.array([0.5, 2.0, -1.0, 7.0], np.float32)
WEIGHTS = np.array([1.0, 0.0, 3.0, 2.0], np.float32)
REAL = np.array([True, True, True, False])


def test_weighted_mean():
  for kwargs, expected in (
    ({}, 8.5 / 4),
    ({'where': REAL}, 1.5 / 3),
    ({'weights': WEIGHTS}, 11.5 / 6),
    ({'weights': WEIGHTS, 'where': REAL}, -2.5 / 4),
    ({'normalizer': WEIGHTS}, 8.5 / 6),
    ({'normalizer': WEIGHTS, 'where': REAL}, 1.5 / 4),
    ({'weights': WEIGHTS, 'normalizer': np.ones(4, int)}, 11.5 / 4),
    ({'where': ~REAL & REAL}, 0.0),
    ({'weights': np.zeros(4)}, 0.0),
  ):
    actual = losses.weighted_mean(VALUES, **kwargs)
    np.testing.assert_allclose(actual, expected, rtol=1e-6)


def test_masked_values_do_not_matter():
  def mean(values, weights, normalizer):
    return losses.weighted_mean(
      values, weights=weights, normalizer=normalizer, where=REAL
    )

  function = jax.jit(jax.value_and_grad(mean, (0, 1, 2)))
  clean = function(VALUES, WEIGHTS, WEIGHTS + 1)
  for garbage in (np.nan, np.inf, -np.inf):
    arguments = (VALUES, WEIGHTS, WEIGHTS + 1)
    spoilt = function(*(np.where(REAL, x, garbage) for x in arguments))
    jax.tree.map(np.testing.assert_array_equal, spoilt, clean)
  assert all(gradient[3] == 0 for gradient in clean[1])


SHARES = {
  'even': [[0, 1], [2, 3], [4, 5], [6, 7]],
  'uneven': [[0, 1, 2, 3], [4, 5, 6], [7], []],
  'one device only': [[0, 1, 2, 3, 4, 5, 6, 7], [], [], []],
}


@pytest.mark.parametrize(
  ('transform', 'shares'), [*zip(('vmap', 'pmap', 'pmap'), SHARES.values())]
)
def test_devices_do_not_matter(transform, shares):
  rng = np.random.default_rng(0)
  images = rng.normal(size=(8, 3)).astype(np.float32)
  weights = rng.uniform(size=8).astype(np.float32)
  slopes = rng.normal(size=3).astype(np.float32)

  def loss(slopes, images, weights, where=None, axis_name=None):
    values = jnp.sin(images @ slopes)
    return losses.weighted_mean(
      values, weights=weights, where=where, axis_name=axis_name
    )

  def step(slopes, images, weights, where):
    value, gradient = jax.value_and_grad(loss)(
      slopes, images, weights, where, 'devices'
    )
    return value, jax.lax.psum(gradient, 'devices')

  # Every device gets eight rows; those without an example are garbage.
  where = np.zeros((4, 8), bool)
  padded_images = np.full((4, 8, 3), 1e9, np.float32)
  padded_weights = np.full((4, 8), np.nan, np.float32)
  for device, indices in enumerate(shares):
    rows = slice(len(indices))
    where[device, rows] = True
    padded_images[device, rows] = images[indices]
    padded_weights[device, rows] = weights[indices]
  over_devices = getattr(jax, transform)(
    step, axis_name='devices', in_axes=(None, 0, 0, 0)
  )
  if transform == 'vmap':
    over_devices = jax.jit(over_devices)
  actual = over_devices(slopes, padded_images, padded_weights, where)
  value, gradient = jax.jit(jax.value_and_grad(loss))(slopes, images, weights)
  for device in range(4):
    np.testing.assert_allclose(actual[0][device], value, rtol=1e-5)
    np.testing.assert_allclose(actual[1][device], gradient, rtol=1e-4)


def test_under_shard_map():
  devices = jax.sharding.Mesh(jax.devices()[:4], 'devices')
  values = np.arange(8, dtype=np.float32)
  where = values != 6
  along, everywhere = (
    jax.sharding.PartitionSpec(*axes) for axes in (['devices'], [])
  )

  def loss(scale, values, where):
    return losses.weighted_mean(
      scale * values**2, where=where, axis_name='devices'
    )

  def step(scale, values, where):
    return jax.value_and_grad(loss)(scale, values, where)

  sharded = jax.shard_map(
    step,
    mesh=devices,
    in_specs=(everywhere, along, along),
    out_specs=(everywhere, everywhere),
  )
  expected = np.mean(values[where] ** 2)
  np.testing.assert_allclose(
    jax.jit(sharded)(2.0, values, where), (2 * expected, expected), rtol=1e-6
  )


def test_two_axes_of_devices():
  values = np.arange(8, dtype=np.float32).reshape(2, 2, 2)

  def mean(values):
    return losses.weighted_mean(values, axis_name=('a', 'b'))

  over_both = jax.vmap(jax.vmap(mean, axis_name='b'), axis_name='a')
  np.testing.assert_allclose(jax.jit(over_both)(values), np.full((2, 2), 3.5))
  devices = jax.sharding.Mesh(
    np.array(jax.devices()[:4]).reshape(2, 2), ('a', 'b')
  )
  spec = jax.sharding.PartitionSpec(('a', 'b'))
  sharded = jax.shard_map(
    mean, mesh=devices, in_specs=spec, out_specs=jax.sharding.PartitionSpec()
  )
  np.testing.assert_allclose(jax.jit(sharded)(values.reshape(-1)), 3.5)


def test_an_infinite_loss_is_an_infinite_mean():
  values = np.array([[1.0, np.inf], [2.0, 3.0]], np.float32)
  means = jax.vmap(
    lambda x: losses.weighted_mean(x, axis_name='devices'),
    axis_name='devices',
  )(values)
  np.testing.assert_array_equal(means, [np.inf, np.inf])


CLASS_WEIGHTS = np.array([1.0, 0.0, 2.5], np.float32)


def test_label_weights():
  labels = np.array([2, 0, 1, -1, 3])
  np.testing.assert_array_equal(
    losses.label_weights(labels, CLASS_WEIGHTS), [2.5, 1, 0, np.nan, np.nan]
  )
  np.testing.assert_array_equal(
    losses.label_weights(labels, CLASS_WEIGHTS, where=labels == 2),
    [2.5, 0, 0, 0, 0],
  )


def test_label_weights_of_distributions():
  mixed = np.array([[0.5, 0.0, 0.5], [0.25, 0.75, 0.0]], np.float32)
  for labels, axis in ((mixed, -1), (mixed.T, 0)):
    actual = losses.label_weights(labels, CLASS_WEIGHTS, axis=axis)
    np.testing.assert_allclose(actual, [1.75, 0.25])


def test_means_with_class_weights_equal_torch(golden):
  torch = pytest.importorskip('torch')
  class_weights = np.array([1.0, 2.0, 0.5, 3.0])
  for labels in (golden.labels, golden.mixed):
    expected = torch.nn.functional.cross_entropy(
      torch.tensor(golden.logits),
      torch.tensor(labels),
      weight=torch.tensor(class_weights),
      label_smoothing=0.2,
    )
    values = losses.label_smoothing_cross_entropy(
      golden.logits, labels, 0.2, class_weights=class_weights
    )
    weights = None
    if labels is golden.labels:
      weights = losses.label_weights(labels, class_weights)
    # PyTorch divides by the number of examples for distributions.
    mean = losses.weighted_mean(values, normalizer=weights)
    np.testing.assert_allclose(mean, expected, rtol=1e-13)


def test_what_is_refused():
  ids, mean, weigh = (
    np.zeros(2, int),
    losses.weighted_mean,
    losses.label_weights,
  )
  for call, error, message in (
    (lambda: mean(np.ones(3, int)), TypeError, 'values is int.*; expected'),
    (lambda: mean(VALUES, where=np.ones(4)), TypeError, 'where is float32'),
    (lambda: mean(VALUES, where=REAL[1:]), ValueError, r'where has shape \(3,'),
    (lambda: mean(VALUES, weights=REAL[1:]), ValueError, 'weights has shape'),
    (
      lambda: mean(VALUES, normalizer=np.ones((4, 1))),
      ValueError,
      r'normalizer has shape \(4, 1\); expected \(4,\), one for each value',
    ),
    (lambda: weigh(ids > 0, CLASS_WEIGHTS), TypeError, 'labels are bool'),
    (lambda: weigh(ids, CLASS_WEIGHTS > 0), TypeError, 'class_weights is'),
    (lambda: weigh(ids, -CLASS_WEIGHTS), ValueError, 'class_weights is -2.5'),
    (lambda: weigh(ids, CLASS_WEIGHTS[None]), ValueError, r'expected \[K\]'),
    (lambda: weigh(np.zeros((2, 4)), CLASS_WEIGHTS), ValueError, '3 classes'),
    (
      lambda: weigh(ids, CLASS_WEIGHTS, where=np.ones(2)),
      TypeError,
      'where is float32; expected bool',
    ),
  ):
    with pytest.raises(error, match=message):
      call()
