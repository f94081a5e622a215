"""MobileNetV2 against torch, its initial values, dropout and refusals."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from maxsup_jax.models.mobilenet import MobileNetV2
from tests.models.torch_reference import compare

# One block with a shortcut, one that widens nothing, strides of 2 and of 1.
TINY = ((1, 8, 1, 1), (6, 6, 2, 2), (3, 8, 1, 2))


def tiny(**fields):
  fields = {'dropout': 0.0, 'stages': TINY} | fields
  return MobileNetV2(5, stem_width=8, last_width=12, **fields)


def normal(*shape, seed=1):
  return jax.random.normal(jax.random.key(seed), shape)


def torch_mobilenet(stem, blur):
  def conv_block(net, x, name, stride=1, depthwise=False):
    if blur and stride == 2 and x.shape[1] >= 16:
      x = net.blur(x)
    groups = x.shape[1] if depthwise else 1
    x = net.conv(x, f'{name}/conv', stride, groups)
    return net.functional.relu6(net.bn(x, f'{name}/bn'))

  def inverted(net, x, name, expansion, width, stride):
    y = conv_block(net, x, f'{name}/expand') if expansion > 1 else x
    y = conv_block(net, y, f'{name}/depthwise', stride, depthwise=True)
    y = net.conv(y, f'{name}/project_conv')
    y = net.bn(y, f'{name}/project_bn')
    return x + y if stride == 1 and width == x.shape[1] else y

  def reference(net, x):
    x = conv_block(net, x, 'stem', 2 if stem == 'imagenet' else 1)
    for s, (expansion, width, size, stride) in enumerate(TINY, 1):
      if stem == 'cifar' and s == 2:
        stride = 1
      for i in range(size):
        name = f'stage{s}_{i}'
        x = inverted(net, x, name, expansion, width, 1 if i else stride)
    x = conv_block(net, x, 'last')
    return net.dense(x.mean((2, 3)), 'head'), x

  return reference


@pytest.mark.parametrize(
  ('stem', 'blur', 'train', 'side'),
  [
    ('imagenet', True, True, (5, 4)),
    ('cifar', False, False, (17, 16)),
  ],
)
def test_same_as_torch(stem, blur, train, side, random_variables):
  model = tiny(stem=stem, blur_pool=blur)
  images = normal(4, 33, 32, 3)
  variables = random_variables(model, images)
  variables['params'] = jax.tree_util.tree_map_with_path(
    lambda path, x: 3 * x if path[-1].key == 'scale' else x,
    variables['params'],
  )
  reference = torch_mobilenet(stem, blur)
  _, out, _ = compare(model, variables, images, reference, train=train)
  assert out['feature_map'].shape == (4, *side, 12)
  # The activation is clipped from both sides.
  assert out['feature_map'].max() == 6
  assert out['feature_map'].min() == 0


def train(model, variables, images, key=7):
  (logits, out), _ = model.apply(
    variables,
    images,
    train=True,
    mutable=['batch_stats'],
    rngs={'drop_path': jax.random.key(key)},
  )
  return logits, out['penultimate']


def test_dropout_is_before_the_head(random_variables):
  model, images = tiny(dropout=0.5), normal(4, 8, 8, 3)
  variables = random_variables(model, images)
  variables['params']['head'] = {
    'kernel': jnp.eye(12, 5),
    'bias': jnp.full(5, 3.0),
  }
  logits, features = jax.jit(lambda v, x: train(model, v, x))(variables, images)
  features = features[:, :5]
  dropped = logits == 3
  live = features > 0
  assert 0 < (dropped & live).sum() < live.sum()
  np.testing.assert_allclose(
    logits, 3 + jnp.where(dropped, 0, 2 * features), rtol=1e-5
  )
