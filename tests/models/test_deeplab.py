"""DeepLabV3+, against the same net in PyTorch's functions."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from maxsup_jax.errors import UsageError
from maxsup_jax.models import (
  BottleneckBlock,
  DeepLabV3Plus,
  count_parameters,
  create_segmenter,
)
from tests.models.torch_reference import TorchNet

SIZES = (1, 1, 2)


def tiny(**fields):
  return DeepLabV3Plus(
    num_classes=5,
    stage_sizes=SIZES,
    block=BottleneckBlock,
    width=4,
    features=8,
    low_level_features=4,
    dropout=0.0,
    **fields,
  )


def shapes_of(model, size=64):
  images = jax.ShapeDtypeStruct((2, size, size, 3), jnp.float32)
  return jax.eval_shape(model.init, jax.random.key(0), images)


def test_parameter_counts():
  model = create_segmenter('deeplabv3plus_resnet101', 19)
  params = shapes_of(model)['params']
  assert count_parameters(params) == 58_753_459
  assert {n: count_parameters(v) for n, v in params.items()} == {
    'backbone': 42_500_160,
    'low_level': 12_384,
    'pyramid': 15_535_104,
    'fusion': 700_928,
    'head': 4_883,
  }


def in_torch(net, x, strides, dilations, rates):
  """Logits of `tiny`; strides of the stages, dilations of their blocks."""
  relu, interpolate = net.functional.relu, net.functional.interpolate

  def layer(x, path, dilation=1):
    return relu(
      net.bn(net.conv(x, f'{path}/conv', dilation=dilation), f'{path}/bn')
    )

  def block(x, path, stride, dilation):
    y = relu(net.bn(net.conv(x, f'{path}/conv1'), f'{path}/bn1'))
    y = net.conv(y, f'{path}/conv2', stride, dilation=dilation)
    y = net.conv(relu(net.bn(y, f'{path}/bn2')), f'{path}/conv3')
    y = net.bn(y, f'{path}/bn3')
    if path.endswith('_0'):
      x = net.conv(x, f'{path}/downsample_conv', stride)
      x = net.bn(x, f'{path}/downsample_bn')
    return relu(x + y)

  def resized(x, like):
    size = like.shape[2:]
    return interpolate(x, size, mode='bilinear', align_corners=False)

  x = relu(net.bn(net.conv(x, 'backbone/conv1', 2), 'backbone/bn1'))
  x = net.functional.max_pool2d(x, 3, 2, 1)
  maps = []
  for stage, (stride, each) in enumerate(zip(strides, dilations), 1):
    for i, dilation in enumerate(each):
      path = f'backbone/layer{stage}_{i}'
      x = block(x, path, stride if i == 0 else 1, dilation)
    maps.append(x)
  low, high = maps[0], maps[-1]
  mean = layer(high.mean((2, 3), keepdim=True), 'pyramid/mean')
  views = [layer(high, 'pyramid/near')]
  views += [layer(high, f'pyramid/rate{rate}', rate) for rate in rates]
  views.append(resized(mean, high))
  high = layer(net.torch.cat(views, 1), 'pyramid/projection')
  low = layer(low, 'low_level')
  both = net.torch.cat([low, resized(high, low)], 1)
  features = layer(both, 'fusion')
  return net.dense(features.permute(0, 2, 3, 1), 'head')


@pytest.mark.parametrize(
  ('dilated', 'train', 'strides', 'dilations', 'rates'),
  [
    pytest.param(
      *(0, False, (1, 2, 2), ((1,), (1,), (1, 1)), (6, 12, 18)),
      marks=pytest.mark.slow,
    ),
    (2, True, (1, 1, 1), ((1,), (1,), (2, 4)), (12, 24, 36)),
  ],
)
def test_same_logits_as_torch(
  dilated, train, strides, dilations, rates, random_variables
):
  model = tiny(dilated_stages=dilated)
  images = np.random.default_rng(1).normal(size=(2, 64, 77, 3))
  images = images.astype(np.float32)
  variables = random_variables(model, images)
  net = TorchNet(variables, train=train)
  given = net.torch.from_numpy(images.transpose(0, 3, 1, 2).copy())
  with net.torch.no_grad():
    expected = in_torch(net, given, strides, dilations, rates)
  (logits, out), updates = jax.jit(
    lambda v, x: model.apply(v, x, train=train, mutable=['batch_stats'])
  )(variables, images)
  assert logits.shape == (2, 16, 20, 5)
  assert set(out) == {'penultimate'}
  np.testing.assert_allclose(logits, expected, rtol=1e-3, atol=2e-3)
  if train:
    # 0.99 of the old statistics in the backbone, 0.9 elsewhere.
    for (part, name), old_share in (
      (('backbone', 'bn1'), 0.99),
      (('fusion', 'bn'), 0.9),
    ):
      old = variables['batch_stats'][part][name]['mean']
      there = net.statistics[f'{part}/{name}']['mean'].numpy()
      batch = (there - 0.9 * old) / 0.1
      found = updates['batch_stats'][part][name]['mean']
      expected = old_share * old + (1 - old_share) * batch
      np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-3)


def test_small_one_keeps_the_resolution():
  model = create_segmenter('deeplabv3plus_resnet8', 11)
  images = jax.ShapeDtypeStruct((2, 32, 32, 3), jnp.float32)
  logits, _ = jax.eval_shape(model.apply, shapes_of(model, 32), images)
  assert logits.shape == (2, 32, 32, 11)


def test_refusals():
  with pytest.raises(UsageError, match='dilated_stages is 3; expected an in'):
    tiny(dilated_stages=3)
  with pytest.raises(UsageError, match="option 'dilated_stages' of the model"):
    create_segmenter('deeplabv3plus_resnet8', 11, dilated_stages=1)
  with pytest.raises(UsageError, match="model 'upernet_vit_smal'; did you me"):
    create_segmenter('upernet_vit_smal', 11)
