import jax
import jax.numpy as jnp
import numpy as np
import pytest

from maxsup_jax.models.registry import create_model
from maxsup_jax.models.resnet_preact import PreActivationResNet
from tests.models.torch_reference import compare


def tiny(**fields):
  fields = {'stage_sizes': (2, 1), 'width': 4} | fields
  return PreActivationResNet(5, **fields)


def normal(*shape, seed=1):
  return jax.random.normal(jax.random.key(seed), shape)


def torch_resnet(net, x):
  relu = net.torch.relu

  def block(x, name, stride, first):
    y = relu(net.bn(x, f'{name}/bn1'))
    if first:
      x = net.conv(y, f'{name}/downsample_conv', stride)
      x = net.bn(x, f'{name}/downsample_bn')
    y = net.conv(y, f'{name}/conv1', stride)
    y = net.conv(relu(net.bn(y, f'{name}/bn2')), f'{name}/conv2')
    return x + y

  x = relu(net.bn(net.conv(x, 'conv1'), 'bn1'))
  x = block(x, 'layer1_0', 1, first=True)
  x = block(x, 'layer1_1', 1, first=False)
  x = block(x, 'layer2_0', 2, first=True)
  return net.dense(x.mean((2, 3)), 'head'), x


def test_same_as_torch(random_variables):
  widening, train = 2, True
  model, images = tiny(widening=widening), normal(4, 9, 6, 3)
  variables = random_variables(model, images)
  _, out, _ = compare(model, variables, images, torch_resnet, train=train)
  assert out['feature_map'].shape == (4, 5, 3, 8 * widening)
  # No activation follows the last sum.
  assert out['penultimate'].min() < 0
  np.testing.assert_allclose(
    out['penultimate'], out['feature_map'].mean((1, 2)), rtol=1e-4, atol=1e-5
  )


def count(widening, num_classes):
  """The parameters of ResNet-56, added up by hand."""
  total, width = 27 * 16 + 2 * 16, 16
  for stage in range(3):
    w = 16 * widening * 2**stage
    projection = width * w + 2 * w
    first = 2 * width + 9 * width * w + 2 * w + 9 * w * w + projection
    other = 2 * w + 9 * w * w + 2 * w + 9 * w * w
    total += first + 8 * other
    width = w
  return total + width * num_classes + num_classes


@pytest.mark.parametrize(
  ('widening', 'num_classes', 'expected'),
  [(2, 10, 3_407_674), (1, 100, 861_812)],
)
def test_parameter_counts(widening, num_classes, expected):
  model = create_model('resnet56_t2t', num_classes, widening=widening)
  images = jax.ShapeDtypeStruct((1, 32, 32, 3), jnp.float32)
  (_, out), variables = jax.eval_shape(
    model.init_with_output, jax.random.key(0), images
  )
  sizes = [leaf.size for leaf in jax.tree.leaves(variables['params'])]
  assert count(widening, num_classes) == sum(sizes) == expected
  assert out['feature_map'].shape == (1, 8, 8, 64 * widening)


def test_initial_values():
  model = PreActivationResNet(100, stage_sizes=(1, 1), width=16)

  def init(key, images):
    params = model.init(key, images)['params']
    return params['layer2_0']['conv1']['kernel'], params['head']

  kernel, head = jax.jit(init)(jax.random.key(0), normal(1, 8, 8, 3))
  assert kernel.shape == (3, 3, 32, 64)
  assert kernel.std() == pytest.approx((9 * 32) ** -0.5, rel=0.03)
  # Cut at two standard deviations of the normal before the cut.
  assert abs(kernel).max() < 2.3 * (9 * 32) ** -0.5
  assert head['kernel'].shape == (64, 100)
  assert head['kernel'].std() == pytest.approx((4 / 164) ** 0.5, rel=0.05)
  np.testing.assert_array_equal(head['bias'], 0)
