import jax
import jax.numpy as jnp
import numpy as np
import pytest

from maxsup_jax.training.parallel import AXIS, Devices


def step(state, batch):
  total = jax.lax.psum(batch['x'].sum(), AXIS)
  return state + total, {'total': total}


@pytest.mark.parametrize('count', [1, 2, 4])
def test_maps_a_step_and_brings_it_back(count):
  devices = Devices(jax.devices()[:count])
  assert devices.count == count
  state = devices.replicate({'a': np.arange(3.0), 'b': jnp.float32(1)}['a'])
  batch = devices.shard({'x': np.arange(8, dtype=np.float32)})
  assert batch['x'].shape == (count, 8 // count)
  new, sums = devices.map(step)(state, batch)
  np.testing.assert_array_equal(devices.fetch(new), np.arange(3) + 28)
  assert devices.fetch(sums) == {'total': 28}
  assert all(s.data.shape[0] == 1 for s in new.addressable_shards)


@pytest.mark.parametrize('count', [1, 4])
def test_donated_state_is_gone_and_what_was_fetched_stays(count):
  devices = Devices(jax.devices()[:count])
  mapped = devices.map(step, donate=True)
  state = devices.replicate(np.zeros((64, 64), np.float32))
  batch = devices.shard({'x': np.ones(4, np.float32)})
  # A state that came out of a step is owned by the device.
  state, _ = mapped(state, batch)
  kept = devices.fetch(state)
  after, _ = mapped(state, batch)
  assert state.is_deleted()
  np.testing.assert_array_equal(kept, np.full((64, 64), 4.0))
  np.testing.assert_array_equal(devices.fetch(after), np.full((64, 64), 8.0))


@pytest.mark.parametrize('count', [1, 4])
def test_gathers_the_rows_in_the_order_they_were_sharded_in(count):
  devices = Devices(jax.devices()[:count][::-1])
  rows = np.arange(24).reshape(8, 3)
  mapped = devices.map(lambda batch: {'twice': batch['x'] * 2, **batch})
  gathered = devices.gather(mapped(devices.shard({'x': rows})))
  np.testing.assert_array_equal(gathered['x'], rows)
  np.testing.assert_array_equal(gathered['twice'], rows * 2)


@pytest.mark.parametrize('count', [1, 4])
def test_shapes_are_those_of_the_arrays(count):
  devices = Devices(jax.devices()[:count])
  state, batch = np.ones((3, 2), np.float32), {'x': np.zeros(8, np.int32)}
  for split, tree in ((False, state), (True, batch)):
    arrays = (devices.shard if split else devices.replicate)(tree)
    shapes = devices.shapes(tree, split=split)
    assert jax.tree.structure(shapes) == jax.tree.structure(arrays)
    for shape, array in zip(jax.tree.leaves(shapes), jax.tree.leaves(arrays)):
      assert (shape.shape, shape.dtype) == (array.shape, array.dtype)
      assert shape.sharding == array.sharding


def test_stream_keeps_order_and_forgets_nothing():
  devices = Devices()
  batches = [{'x': np.full(4, i, np.float32)} for i in range(5)]
  streamed = list(devices.stream(iter(batches)))
  assert [float(b['x'][0, 0]) for b in streamed] == [0, 1, 2, 3, 4]
  assert list(devices.stream(iter([]))) == []


def test_all_devices_by_default():
  assert Devices().count == jax.device_count() == 4
