import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from maxsup_jax.errors import UsageError
from maxsup_jax.models.layers import at_layer, saliency_layer
from maxsup_jax.models.registry import create_model
from maxsup_jax.models.resnet import BasicBlock, ResNet
from maxsup_jax.models.vit import ViT


def resnet(**fields):
  return ResNet(5, (1, 2), BasicBlock, stem='cifar', width=4, **fields)


def vit(**fields):
  return ViT(5, dim=12, depth=2, heads=3, patch_size=4, **fields)


def images(seed=1):
  return jax.random.normal(jax.random.key(seed), (2, 8, 12, 3))


@pytest.mark.parametrize('model', [resnet(), vit(dtype=jnp.bfloat16)])
def test_the_logits_are_those_of_the_model(model, random_variables):
  variables = random_variables(model, images())
  expected, _ = jax.jit(model.apply)(variables, images())
  apply = at_layer(model, saliency_layer(model))
  logits, _ = jax.jit(apply)(variables, images())
  np.testing.assert_array_equal(logits, expected)


def test_a_perturbation_is_added(random_variables):
  model = resnet()
  variables = random_variables(model, images())
  apply = at_layer(model, 'layer2_1')
  logits, activations = apply(variables, images())
  delta = jnp.ones(activations.shape)
  moved, with_it = apply(variables, images(), delta)
  np.testing.assert_array_equal(with_it, activations + 1)
  # The head is linear: each logit moves by the sum of its weights.
  kernel = variables['params']['head']['kernel']
  step = np.broadcast_to(kernel.sum(0), logits.shape)
  np.testing.assert_allclose(moved - logits, step, atol=1e-4)


def test_layers_that_are_not_there(random_variables):
  for model, layer, known in (
    (resnet(), 'layer9_0', 'known: bn1, conv1, head, layer1_0, layer2_0'),
    (vit(), 'block0/norm3', 'known: block0/attn, block0/drop_path1'),
    (vit(), 'block0/norm1/x', "'block0/norm1' has no layers inside"),
  ):
    variables = random_variables(model, images())
    with pytest.raises(UsageError, match='unknown layer') as e:
      at_layer(model, layer)(variables, images())
    assert known in str(e.value)
    assert '\n' not in str(e.value)


@pytest.mark.parametrize(
  'name', ['resnet8', 'resnet32_bbn', 'resnet56_t2t', 'alexnet_cifar']
)
def test_convolutional_nets_are_looked_at_in_their_feature_map(name):
  model = create_model(name, 10)
  x = jax.ShapeDtypeStruct((1, 32, 32, 3), jnp.float32)
  variables = jax.eval_shape(model.init, jax.random.key(0), x)
  seen = []

  def record(call, args, kwargs, context):
    y = call(*args, **kwargs)
    if '/'.join(context.module.path) == saliency_layer(model):
      seen.append(y)
    return y

  def apply(variables, x):
    with nn.intercept_methods(record):
      return model.apply(variables, x)[1]['feature_map']

  # The very same array, not one of its shape.
  jaxpr = jax.make_jaxpr(lambda v, x: (apply(v, x), seen[-1]))(variables, x)
  first, second = jaxpr.jaxpr.outvars
  assert first is second
