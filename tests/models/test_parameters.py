import collections

import flax.linen as nn
import jax
import jax.numpy as jnp
import pytest

from maxsup_jax.errors import UsageError
from maxsup_jax.models.parameters import (
  PARAMETER_KINDS,
  count_parameters,
  decay_mask,
  parameter_kinds,
)
from maxsup_jax.models.registry import create_model

IMAGES = (2, 4, 4, 3)


class OwnNorm(nn.LayerNorm):
  """A subclass of a normalisation layer."""


class OwnDense(nn.Dense):
  """A subclass of a linear layer, with a parameter of its own."""

  @nn.compact
  def __call__(self, x):
    return self.param('gain', nn.initializers.ones, ()) * super().__call__(x)


class Misleading(nn.Module):
  """Layers with the names of other layers."""

  @nn.compact
  def __call__(self, x, *, train):
    x = nn.Conv(4, (1, 1), name='scale')(x)
    x = nn.BatchNorm(use_running_average=not train, name='kernel')(x)
    x = nn.GroupNorm(2, name='Conv_0')(x)
    x = OwnDense(6, name='bn')(x)
    x = OwnNorm(name='Dense_0')(x)
    x = nn.DenseGeneral((2, 3), name='LayerNorm_0')(x)
    x = nn.DenseGeneral(4, axis=(-2, -1), name='norm')(x)
    x = nn.ConvTranspose(4, (1, 1), name='bias')(x)
    x = nn.RMSNorm(name='conv')(x)
    x = nn.WeightNorm(nn.Dense(4, name='downsample'), name='dense')(x)
    x = x + nn.Embed(3, 4, name='kernel_1')(jnp.array(1))
    return x + self.param('kernel_2', nn.initializers.zeros, (4, 4))[0]


class Nested(nn.Module):
  """Modules in attributes, shared, rematerialised, and by `setup`."""

  inner: nn.Module

  def setup(self):
    self.norm = nn.LayerNorm()
    self.layers = [nn.remat(nn.Dense)(3), nn.Dense(3)]
    self.token = self.param('token', nn.initializers.zeros, (3,))

  def __call__(self, x, *, train):
    for layer in self.layers:
      x = layer(self.norm(x))
    return self.inner(x) + self.token


def test_kinds_do_not_go_by_names():
  linear = {'kernel': 'kernel', 'bias': 'bias'}
  norm = {'scale': 'normalization', 'bias': 'normalization'}
  assert parameter_kinds(Misleading(), IMAGES) == {
    'scale': linear,
    'kernel': norm,
    'Conv_0': norm,
    'bn': {**linear, 'gain': 'bias'},
    'Dense_0': norm,
    'LayerNorm_0': linear,
    'norm': linear,
    'bias': linear,
    'conv': {'scale': 'normalization'},
    'downsample': linear,
    'dense': {'downsample/kernel/scale': 'normalization'},
    'kernel_1': {'embedding': 'embedding'},
    'kernel_2': 'embedding',
  }


def test_kinds_in_nested_modules():
  assert parameter_kinds(Nested(nn.Dense(3, use_bias=False)), IMAGES) == {
    'norm': {'scale': 'normalization', 'bias': 'normalization'},
    'layers_0': {'kernel': 'kernel', 'bias': 'bias'},
    'layers_1': {'kernel': 'kernel', 'bias': 'bias'},
    'inner': {'kernel': 'kernel'},
    'token': 'embedding',
  }


class Lifted(nn.Module):
  """Modules under Flax's transformations, one inside the other."""

  @nn.compact
  def __call__(self, x, *, train):
    x = nn.remat(Frozen)(name='block')(x)
    dense = nn.scan(
      nn.remat(NormedDense),
      variable_axes={'params': 0},
      split_rngs={'params': True},
      length=2,
    )
    x, _ = dense(4, name='kernel')(x, None)
    return x + self.param('bias', nn.initializers.zeros, (4,))


class Frozen(Misleading):
  def __call__(self, x):
    return super().__call__(x, train=False)


class NormedDense(nn.Module):
  features: int

  @nn.compact
  def __call__(self, x, _):
    x = nn.LayerNorm(name='kernel')(nn.Dense(self.features, name='norm')(x))
    return x + self.param('scale', nn.initializers.zeros, (4,)), None


def test_kinds_under_transformations():
  kinds = parameter_kinds(Lifted(), IMAGES)
  assert kinds['block'] == parameter_kinds(Misleading(), IMAGES)
  assert kinds['kernel'] == {
    'norm': {'kernel': 'kernel', 'bias': 'bias'},
    'kernel': {'scale': 'normalization', 'bias': 'normalization'},
    'scale': 'embedding',
  }
  assert kinds['bias'] == 'embedding'


def test_every_parameter_of_a_vit():
  name, images = 'vit_tiny', (1, 224, 224, 3)
  model = create_model(name, 1000)
  shape = jax.ShapeDtypeStruct(images, jnp.float32)
  params = jax.eval_shape(model.init, jax.random.key(0), shape)['params']
  kinds = parameter_kinds(model, images)
  assert jax.tree.structure(kinds) == jax.tree.structure(params)
  sizes = collections.Counter()
  for kind, leaf in zip(jax.tree.leaves(kinds), jax.tree.leaves(params)):
    assert kind in PARAMETER_KINDS
    sizes[kind] += leaf.size
  assert kinds['cls_token'] == kinds['pos_embed'] == 'embedding'
  assert sizes['embedding'] == 198 * 192
  assert sizes['normalization'] == (2 * 12 + 1) * 2 * 192
  assert sizes['bias'] == 12 * (3 + 1 + 4 + 1) * 192 + 192 + 1000
  assert sizes['kernel'] == 5_717_416 - sum(
    sizes[kind] for kind in ('embedding', 'normalization', 'bias')
  )


def masked(model, images, **fields):
  """Paths of the parameters that decay."""
  mask = decay_mask(model, images, **fields)
  leaves = jax.tree_util.tree_leaves_with_path(mask)
  return {'/'.join(k.key for k in path) for path, leaf in leaves if leaf}


def test_kinds_and_layers_to_decay():
  model, images = create_model('alexnet_cifar', 10), (1, 24, 24, 3)
  layers = ['conv1', 'conv2', 'local3', 'local4', 'head']
  kernels = {f'{layer}/kernel' for layer in layers}
  biases = {f'{layer}/bias' for layer in layers}
  assert masked(model, images) == kernels
  assert masked(model, images, kinds=('bias',)) == biases
  assert masked(model, images, kinds=['kernel', 'bias']) == kernels | biases
  assert masked(model, images, kinds=PARAMETER_KINDS) == kernels | biases
  assert masked(model, images, kinds=()) == set()
  dense = ('local3', 'local4')
  assert masked(model, images, layers=dense) == {
    'local3/kernel',
    'local4/kernel',
  }
  assert masked(model, images, kinds=('bias',), layers=['head']) == {
    'head/bias'
  }


def test_count_parameters():
  params = {'a': jnp.zeros((2, 3)), 'b': {'c': jnp.zeros(()), 'd': ()}}
  assert count_parameters(params) == 7
  assert count_parameters(jax.eval_shape(lambda: params)) == 7
  assert count_parameters({}) == 0


@pytest.mark.parametrize(
  ('fields', 'message'),
  [
    (
      {'kinds': ('kernel', 'weight')},
      "optimizer.decay is 'weight'; ",
    ),
    ({'kinds': 'kernel'}, "is 'kernel'; expected a sequence of names"),
    (
      {'layers': ('softmax',)},
      "is 'softmax'; .*conv1, conv2, head",
    ),
  ],
)
def test_unknown_kinds_and_layers(fields, message):
  model = create_model('alexnet_cifar', 10)
  with pytest.raises(UsageError, match=message):
    decay_mask(model, (1, 24, 24, 3), **fields)
