import jax
import jax.numpy as jnp
import numpy as np
import pytest

from maxsup_jax.models.densenet import DenseNet
from maxsup_jax.models.registry import create_model
from tests.models.torch_reference import compare


def tiny(**fields):
  fields = {'block_sizes': (2, 1), 'growth': 3} | fields
  return DenseNet(5, **fields)


def normal(*shape, seed=1):
  return jax.random.normal(jax.random.key(seed), shape)


def torch_densenet(net, x):
  relu = net.torch.relu

  def layer(x, name):
    y = net.conv(relu(net.bn(x, f'{name}/bn1')), f'{name}/conv1')
    y = net.conv(relu(net.bn(y, f'{name}/bn2')), f'{name}/conv2')
    return net.torch.cat([x, y], 1)

  x = net.conv(x, 'conv1')
  x = layer(layer(x, 'block1_0'), 'block1_1')
  x = net.conv(relu(net.bn(x, 'transition1/bn')), 'transition1/conv')
  x = net.functional.avg_pool2d(x, 2)
  x = relu(net.bn(layer(x, 'block2_0'), 'last/bn'))
  return net.dense(x.mean((2, 3)), 'head'), x


def test_same_as_torch(random_variables):
  # 6 + 2 · 3 channels, of which the transition keeps int(0.3 · 12).
  model, images = tiny(compression=0.3), normal(4, 9, 6, 3)
  variables = random_variables(model, images)
  assert variables['params']['transition1']['conv']['kernel'].shape[-1] == 3
  _, out, _ = compare(model, variables, images, torch_densenet, train=True)
  assert out['feature_map'].shape == (4, 4, 3, 6)
  np.testing.assert_allclose(
    out['penultimate'], out['feature_map'].mean((1, 2)), rtol=1e-5
  )


def count(num_classes):
  """The parameters of DenseNet-BC-100 (k = 12), added up by hand."""
  channels = 24
  total = 27 * channels
  for block in range(3):
    for _ in range(16):
      total += 2 * channels + 48 * channels  # BatchNorm and 1x1 to 4k
      total += 2 * 48 + 9 * 48 * 12
      channels += 12
    if block < 2:
      total += 2 * channels + channels * (channels // 2)
      channels //= 2
  assert channels == 342
  return total + 2 * channels + channels * num_classes + num_classes


def test_parameter_counts():
  num_classes, expected = 100, 800_032
  model = create_model('densenet_bc_100', num_classes)
  images = jax.ShapeDtypeStruct((1, 32, 32, 3), jnp.float32)
  (_, out), variables = jax.eval_shape(
    model.init_with_output, jax.random.key(0), images
  )
  sizes = [leaf.size for leaf in jax.tree.leaves(variables['params'])]
  assert count(num_classes) == sum(sizes) == expected
  assert out['feature_map'].shape == (1, 8, 8, 342)


def test_initial_values():
  model = tiny(growth=24)

  def init(key, images):
    params = model.init(key, images)['params']
    return params['block1_0']['conv2']['kernel'], params['head']

  kernel, head = jax.jit(init)(jax.random.key(0), normal(1, 8, 8, 3))
  assert kernel.shape == (3, 3, 96, 24)
  assert kernel.std() == pytest.approx((2 / (9 * 24)) ** 0.5, rel=0.03)
  bound = len(head['kernel']) ** -0.5
  assert 0.95 * bound < abs(head['kernel']).max() <= bound
  np.testing.assert_array_equal(head['bias'], 0)
