import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from maxsup_jax.errors import UsageError
from maxsup_jax.models.blur_pool import BlurPool
from maxsup_jax.models.registry import create_model
from maxsup_jax.models.resnet import BasicBlock, BottleneckBlock, ResNet
from tests.models.torch_reference import TorchNet, compare


def normal(*shape, seed=1):
  return jax.random.normal(jax.random.key(seed), shape)


@pytest.mark.parametrize('shape', [(2, 5, 8, 3), (1, 1, 1, 2), (2, 2, 1, 1)])
def test_same_blur_as_torch(shape):
  x = normal(*shape)
  net = TorchNet({})
  expected = net.blur(net.torch.from_numpy(np.array(x).transpose(0, 3, 1, 2)))
  y = BlurPool().apply({}, x)
  np.testing.assert_allclose(y, expected.permute(0, 2, 3, 1), atol=1e-6)


@pytest.mark.parametrize('stride', [1, 2])
@pytest.mark.parametrize('dtype', [jnp.float32, jnp.bfloat16])
def test_a_tpu_convolves_and_gets_the_same(stride, dtype):
  blur = BlurPool(stride)
  x = normal(2, 7, 6, 5).astype(dtype)

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


@pytest.mark.parametrize('shape', [(2, 5, 8, 3), (1, 1, 1, 2)])
def test_a_stride_skips_positions(shape):
  x = normal(*shape)
  np.testing.assert_array_equal(
    BlurPool(2).apply({}, x), BlurPool().apply({}, x)[:, ::2, ::2]
  )


def test_constants_stay_inside():
  y = BlurPool().apply({}, jnp.ones((1, 6, 6, 2)))
  np.testing.assert_array_equal(y[:, 1:-1, 1:-1], 1)
  np.testing.assert_array_equal(y[0, 0, :, 0], [9 / 16] + [0.75] * 4 + [9 / 16])


def test_bfloat16_is_rounded_once():
  x = normal(2, 6, 6, 4).astype(jnp.bfloat16)
  y = BlurPool().apply({}, x)
  assert y.dtype == jnp.bfloat16
  exact = BlurPool().apply({}, x.astype(jnp.float32))
  np.testing.assert_array_equal(y, exact.astype(jnp.bfloat16))


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


@pytest.mark.parametrize('stem', ['imagenet', 'cifar'])
def test_places_in_resnet18(stem):
  assert places(create_model('resnet18', 10, stem=stem, blur_pool=True)) == {
    'layer2_0/conv1_blur': 64,
    'layer2_0/downsample_conv_blur': 64,
    'layer3_0/conv1_blur': 128,
    'layer3_0/downsample_conv_blur': 128,
    'layer4_0/conv1_blur': 256,
    'layer4_0/downsample_conv_blur': 256,
  }


def test_places_in_resnet50():
  assert places(create_model('resnet50', 10, blur_pool=True)) == {
    'layer2_0/conv2_blur': 128,
    'layer2_0/downsample_conv_blur': 256,
    'layer3_0/conv2_blur': 256,
    'layer3_0/downsample_conv_blur': 512,
    'layer4_0/conv2_blur': 512,
    'layer4_0/downsample_conv_blur': 1024,
  }


@pytest.mark.parametrize('stem', ['imagenet', 'cifar'])
def test_places_in_mobilenet_v2(stem):
  first = {} if stem == 'cifar' else {'stage2_0/depthwise/blur': 96}
  model = create_model('mobilenet_v2', 10, stem=stem, blur_pool=True)
  assert places(model) == {
    **first,
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


@pytest.mark.parametrize('name', ['resnet18', 'mobilenet_v2'])
def test_no_blur_by_default(name):
  assert places(create_model(name, 10)) == {}


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


@pytest.mark.parametrize('train', [False, True])
@pytest.mark.parametrize('block', [BasicBlock, BottleneckBlock])
def test_same_resnet_as_torch(block, train, random_variables):
  model = ResNet(5, (1, 1), block, stem='cifar', width=16, blur_pool=True)
  images = normal(4, 9, 6, 3)
  variables = random_variables(model, images)
  reference = torch_resnet(block is BottleneckBlock)
  compare(model, variables, images, reference, train=train)


def test_bad_value():
  with pytest.raises(UsageError, match='blur_pool: expected True or False'):
    create_model('resnet18', 10, blur_pool='yes')
