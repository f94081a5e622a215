import jax
import jax.numpy as jnp
import numpy as np
import pytest

from maxsup_jax.models.resnet_bbn import ResNetBBN
from tests.models.torch_reference import compare


def tiny(**fields):
  fields = {'stage_sizes': (1, 2), 'width': 4} | fields
  return ResNetBBN(5, **fields)


def normal(*shape, seed=1):
  return jax.random.normal(jax.random.key(seed), shape)


def torch_resnet_bbn(net, x):
  relu = net.torch.relu

  def block(x, name, stride=1):
    y = relu(net.bn(net.conv(x, f'{name}/conv1', stride), f'{name}/bn1'))
    y = net.bn(net.conv(y, f'{name}/conv2'), f'{name}/bn2')
    # Option A, from its definition: skip positions, center the channels.
    shortcut = net.torch.zeros_like(y)
    before = (y.shape[1] - x.shape[1]) // 2
    shortcut[:, before : before + x.shape[1]] = x[:, :, ::stride, ::stride]
    return relu(y + shortcut)

  x = relu(net.bn(net.conv(x, 'conv1'), 'bn1'))
  x = block(x, 'layer1_0')
  x = block(block(x, 'layer2_0', 2), 'layer2_1')
  x = net.torch.cat([block(x, f'branches/block{i}') for i in (1, 2)], 1)
  return net.dense(x.mean((2, 3)), 'head'), x


def test_same_as_torch(random_variables):
  model, images = tiny(), normal(4, 9, 6, 3)
  variables = random_variables(model, images)
  _, out, _ = compare(model, variables, images, torch_resnet_bbn, train=True)
  assert out['feature_map'].shape == (4, 5, 3, 16)
  np.testing.assert_allclose(
    out['penultimate'], out['feature_map'].mean((1, 2)), rtol=1e-5
  )


def test_initial_values():
  model = tiny(stage_sizes=(1, 1), width=32)

  def init(key, images):
    params = model.init(key, images)['params']
    blocks = params['branches']
    layers = params, params['layer2_0'], blocks['block1'], blocks['block2']
    return [layer['conv1']['kernel'] for layer in layers]

  kernels = jax.jit(init)(jax.random.key(0), normal(1, 8, 8, 3))
  stem, strided, first, second = kernels
  assert strided.shape == (3, 3, 32, 64)
  assert strided.std() == pytest.approx((2 / (9 * 32)) ** 0.5, rel=0.03)
  assert stem.std() == pytest.approx((2 / 27) ** 0.5, rel=0.1)
  assert (first != second).all()


def test_direction_over_devices(random_variables):
  axis = 'devices'
  model = tiny(classifier='causal_norm', batch_norm_axis=axis)
  images = normal(8, 8, 8, 3)
  variables = random_variables(model, images)
  old = variables['batch_stats']['head']['direction']

  def step(v, x):
    (_, out), updates = model.apply(v, x, train=True, mutable=['batch_stats'])
    return out['penultimate'], updates['batch_stats']['head']['direction']

  step = jax.pmap(step, axis_name='devices', in_axes=(None, 0))
  features, new = step(variables, images.reshape(4, 2, 8, 8, 3))
  means = features.mean(1)
  means = jnp.broadcast_to(means.mean(0), means.shape)
  np.testing.assert_allclose(new, 0.9 * old + means, rtol=1e-5)
