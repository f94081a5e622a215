import flax.linen as nn
import jax
import jax.numpy as jnp
import pytest

from maxsup_jax.errors import UsageError
from maxsup_jax.models import (
  MODELS,
  SEGMENTERS,
  count_parameters,
  create_model,
  create_segmenter,
)
from maxsup_jax.models.drop_path import Dropout, DropPath

# Of torchvision (ResNets, MobileNetV2) and timm, with 1000 classes.
COUNTS = {
  'inception_v4': 42_679_816,
  'mobilenet_v2': 3_504_872,
  'resnet18': 11_689_512,
  'resnet34': 21_797_672,
  'resnet50': 25_557_032,
  'resnet101': 44_549_160,
  'vit_tiny': 5_717_416,
  'vit_small': 22_050_664,
  'vit_base': 86_567_656,
}

# Of nets for CIFAR: the number of classes, the size of the images, the count.
CIFAR_COUNTS = {
  'resnet8': (10, 8, 308_650),
  'resnet20': (10, 32, 272_474),
  'resnet20_a': (10, 32, 269_722),
  'resnet32_a': (10, 32, 464_154),
  'resnet44_a': (10, 32, 658_586),
  'resnet56_a': (10, 32, 853_018),
  'resnet110_a': (10, 32, 1_727_962),
  'resnet32_bbn': (10, 32, 538_778),
  'resnet56_t2t': (100, 32, 3_419_284),
  'alexnet_cifar': (10, 24, 1_068_298),
  'densenet_bc_100': (10, 32, 769_162),
  'mlp': (10, 4, 192 * 49 + 96 * 193 + 10 * 97),
}


def shapes(model, size=224, channels=3):
  images = jax.ShapeDtypeStruct((1, size, size, channels), jnp.float32)
  return jax.eval_shape(model.init, jax.random.key(0), images)


@pytest.mark.parametrize('name', COUNTS)
def test_parameter_counts(name):
  params = shapes(create_model(name, 1000))['params']
  assert count_parameters(params) == COUNTS[name]


@pytest.mark.parametrize('name', CIFAR_COUNTS)
def test_parameter_counts_of_cifar_nets(name):
  num_classes, size, expected = CIFAR_COUNTS[name]
  params = shapes(create_model(name, num_classes), size)['params']
  assert count_parameters(params) == expected
  assert params['head']['kernel'].shape[1] == num_classes


def test_every_model_is_counted():
  assert set(MODELS) == {*COUNTS, *CIFAR_COUNTS}


# One of each class; the others differ in their sizes.
KINDS = (
  *('resnet8', 'resnet32_bbn', 'resnet56_t2t', 'alexnet_cifar'),
  *('densenet_bc_100', 'mobilenet_v2', 'vit_tiny'),
)


@pytest.mark.parametrize('name', KINDS)
def test_every_model_is_called_alike(name):
  model = create_model(name, 7, dtype=jnp.bfloat16, batch_axis='devices')
  for too_many in (0, 10.0, '10', True, None):
    with pytest.raises(UsageError, match='num_classes is '):
      create_model(name, too_many)
  size = {'resnet8': 8, 'alexnet_cifar': 24}.get(name, 32)
  variables = shapes(model, size)
  assert all(x.dtype == jnp.float32 for x in jax.tree.leaves(variables))

  def step(variables, images):
    return model.apply(
      variables,
      images,
      train=True,
      mutable=['batch_stats'],
      rngs={'drop_path': jax.random.key(0)},
    )

  step = jax.vmap(step, in_axes=(None, 0), axis_name='devices')
  images = jax.ShapeDtypeStruct((1, 2, size, size, 3), jnp.float32)
  (logits, out), updates = jax.eval_shape(step, variables, images)
  features = variables['params']['head']['kernel'].shape[0]
  assert (logits.shape, logits.dtype) == ((1, 2, 7), jnp.float32)
  assert out['penultimate'].shape == (1, 2, features)
  assert out['penultimate'].dtype == jnp.float32
  assert set(updates) <= {'batch_stats'}
  other = 'tokens' if name.startswith('vit') else 'feature_map'
  assert set(out) == {'penultimate', other}
  if other == 'feature_map':
    assert out[other].dtype == model.dtype
  assert all(x.dtype == jnp.float32 for x in jax.tree.leaves(updates))


def layers_of(model, kind):
  """The layers of a class, and the dtypes of what they return."""
  found = {}

  def record(call, args, kwargs, context):
    y = call(*args, **kwargs)
    if isinstance(context.module, kind):
      found[context.module.path] = (context.module, y.dtype)
    return y

  with nn.intercept_methods(record):
    shapes(model, 32)
  return found.values()


@pytest.mark.parametrize(
  'name', [n for n in KINDS if 'batch_norm_axis' in MODELS[n].options]
)
def test_every_convolution_and_norm_is_set_alike(name):
  model = create_model(name, 7, dtype='bfloat16', batch_norm_axis='devices')
  convolutions = layers_of(model, nn.Conv)
  norms = layers_of(model, nn.BatchNorm)
  assert len(norms) > 5
  for _, dtype in (*convolutions, *norms):
    assert dtype == jnp.bfloat16
  assert {(n.axis_name, n.momentum, n.epsilon) for n, _ in norms} == {
    ('devices', 0.9, 1e-5)
  }


@pytest.mark.parametrize('name', ['upernet_vit_tiny', 'deeplabv3plus_resnet8'])
def test_segmenters_are_set_alike(name):
  model = create_segmenter(
    name,
    7,
    dtype='bfloat16',
    batch_axis='devices',
    batch_norm_axis='devices',
  )
  assert model.batch_axis == 'devices'
  for _, dtype in (*layers_of(model, nn.Conv), *layers_of(model, nn.BatchNorm)):
    assert dtype == jnp.bfloat16
  norms = {(n.axis_name, n.epsilon) for n, _ in layers_of(model, nn.BatchNorm)}
  assert norms == {('devices', 1e-5)}
  drops = {d.batch_axis for d, _ in layers_of(model, (DropPath, Dropout))}
  assert drops <= {'devices'}
  images = jax.ShapeDtypeStruct((2, 32, 32, 3), jnp.float32)
  logits, _ = jax.eval_shape(model.apply, shapes(model, 32), images)
  assert (logits.shape[-1], logits.dtype) == (7, jnp.float32)


def test_every_option_reaches_the_model():
  for name, entry in {**MODELS, **SEGMENTERS}.items():
    create = create_model if name in MODELS else create_segmenter
    model = create(name, 10)
    for option, default in entry.options.items():
      field = entry.renamed.get(option, option)
      assert getattr(model, field) == default, (name, option)


@pytest.mark.parametrize(
  ('name', 'fields', 'message'),
  [
    (
      'resnet19',
      {},
      "model 'resnet19'; did you mean 'resnet1.'.*vit_b",
    ),
    # The architecture is the name; it is no option.
    (
      'vit_tiny',
      {'depth': 3},
      "option 'depth' of the model 'vit_tiny'",
    ),
    ('alexnet_cifar', {'width': 3}, "'width' of .* known: none"),
    # The name of a field that the option has another name for.
    (
      'resnet32_bbn',
      {'classifier': 'linear'},
      'nown: head, width, ',
    ),
    (
      'resnet32_bbn',
      {'head': 'cosine'},
      "'cosine'; expected one of linear",
    ),
    (
      'resnet8',
      {'dtype': 'float16'},
      "dtype is 'float16'; did you mean",
    ),
    (
      'resnet50',
      {'stem': 'large'},
      "stem is 'large'; expected one of",
    ),
    ('resnet50', {'width': True}, 'width is True; expected an integer'),
    (
      'resnet18',
      {'blur_pool': 'yes'},
      "blur_pool is 'yes'; expected True",
    ),
    ('resnet18', {'batch_norm_axis': 0}, 'is 0; expected the name of an axis'),
    ('densenet_bc_100', {'growth': 0}, 'growth is 0; expected an integer'),
    (
      'mobilenet_v2',
      {'dropout': 1.0},
      'dropout is 1.0; expected',
    ),
  ],
)
def test_refusals(name, fields, message):
  with pytest.raises(UsageError, match=message):
    create_model(name, 10, **fields)
