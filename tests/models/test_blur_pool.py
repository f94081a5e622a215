import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from maxsup_jax.models.blur_pool import BlurPool
from maxsup_jax.models.registry import create_model
from maxsup_jax.models.resnet import BasicBlock, BottleneckBlock, ResNet
from tests.models.torch_reference import TorchNet, compare


def normal(*shape, seed=1):
  return jax.random.normal(jax.random.key(seed), shape)


def test_same_blur_as_torch():
  x = normal(2, 5, 8, 3)
  net = TorchNet({})
  expected = net.blur(net.torch.from_numpy(np.array(x).transpose(0, 3, 1, 2)))
  expected = expected.permute(0, 2, 3, 1)
  for stride in (1, 2):
    y = BlurPool(stride).apply({}, x)
    np.testing.assert_allclose(y, expected[:, ::stride, ::stride], atol=1e-6)


@pytest.mark.parametrize(
  ('stride', 'dtype'), [(1, jnp.bfloat16), (2, jnp.float32)]
)
def test_a_tpu_convolves_and_gets_the_same(stride, dtype):
  blur = BlurPool(stride)
  x = normal(2, 7, 6, 5).astype(dtype)

  @functools.partial(jax.jit, static_argnums=0)
  def value_and_gradient(method):
    y, pull = jax.vjp(lambda x: blur.apply({}, x, method=method), x)
    return y, pull(jnp.cos(y))[0]

  pairs = zip(
    value_and_gradient(blur._convolved), value_and_gradient(blur._summed)
  )
  for convolved, summed in pairs:
    assert convolved.dtype == summed.dtype == dtype
    np.testing.assert_allclose(
      convolved.astype(np.float32),
      summed.astype(np.float32),
      rtol=1e-2 if dtype == jnp.bfloat16 else 1e-5,
      atol=1e-6,
    )


def test_each_platform_has_its_own_form():
  x = jax.ShapeDtypeStruct((1, 4, 4, 2), jnp.float32)
  blur = jax.jit(jax.grad(lambda x: BlurPool().apply({}, x).sum()))
  for platform, convolutions in (('tpu', 1), ('cpu', 0), ('cuda', 0)):
    text = blur.trace(x).lower(lowering_platforms=(platform,)).as_text()
    assert (text.count('stablehlo.convolution') > 0) == convolutions, platform


def places(model, size=64, channels=3):
  """Paths of the blurs of a model, and the channels that they see."""
  found = {}

  def record(call, args, kwargs, context):
    if isinstance(context.module, BlurPool):
      found['/'.join(context.module.path)] = args[0].shape[-1]
    return call(*args, **kwargs)

  images = jax.ShapeDtypeStruct((1, size, size, channels), jnp.float32)
  with nn.intercept_methods(record):
    variables = jax.eval_shape(model.init, jax.random.key(0), images)
  assert 'blur' not in str(jax.tree.structure(variables))
  return found


def test_places_in_resnet18():
  assert places(create_model('resnet18', 10)) == {}
  assert places(create_model('resnet18', 10, blur_pool=True)) == {
    'layer2_0/conv1_blur': 64,
    'layer2_0/downsample_conv_blur': 64,
    'layer3_0/conv1_blur': 128,
    'layer3_0/downsample_conv_blur': 128,
    'layer4_0/conv1_blur': 256,
    'layer4_0/downsample_conv_blur': 256,
  }


def test_places_in_mobilenet_v2():
  model = create_model('mobilenet_v2', 10, stem='cifar', blur_pool=True)
  assert places(model) == {
    'stage3_0/depthwise/blur': 144,
    'stage4_0/depthwise/blur': 192,
    'stage6_0/depthwise/blur': 576,
  }


def test_few_channels_are_left_alone():
  few = create_model('resnet8', 10, width=15, blur_pool=True)
  assert set(places(few)) == {
    'layer3_0/conv1_blur',
    'layer3_0/downsample_conv_blur',
  }
  # The stem alone sees the images.
  assert not any('stem' in p for p in places(few, channels=3))


def torch_resnet(bottleneck):
  """One block at full resolution and one of stride 2, with blurs."""

  def block(net, x, name, stride):
    y, relu = x, net.torch.relu
    sizes = (1, 3, 1) if bottleneck else (3, 3)
    strided = 2 if bottleneck else 1
    for i, _ in enumerate(sizes, 1):
      if i == strided and stride == 2:
        y = net.blur(y)
      y = net.conv(y, f'{name}/conv{i}', stride if i == strided else 1)
      y = net.bn(y, f'{name}/bn{i}')
      y = relu(y) if i < len(sizes) else y
    if stride == 2 or bottleneck:
      x = net.blur(x) if stride == 2 else x
      x = net.conv(x, f'{name}/downsample_conv', stride)
      x = net.bn(x, f'{name}/downsample_bn')
    return relu(x + y)

  def reference(net, x):
    x = net.torch.relu(net.bn(net.conv(x, 'conv1'), 'bn1'))
    x = block(net, block(net, x, 'layer1_0', 1), 'layer2_0', 2)
    return net.dense(x.mean((2, 3)), 'head'), x

  return reference


@pytest.mark.parametrize(
  ('block', 'train'), [(BasicBlock, True), (BottleneckBlock, False)]
)
def test_same_resnet_as_torch(block, train, random_variables):
  model = ResNet(5, (1, 1), block, stem='cifar', width=16, blur_pool=True)
  images = normal(4, 9, 6, 3)
  variables = random_variables(model, images)
  reference = torch_resnet(block is BottleneckBlock)
  compare(model, variables, images, reference, train=train)
