import flax.linen as nn
import jax
import jax.numpy as jnp
import pytest

from maxsup_jax import models
from maxsup_jax.errors import UsageError
from maxsup_jax.models import MODELS, count_parameters, create_model

# Of torchvision (ResNets, MobileNetV2) and timm (ViTs), with 1000 classes.
COUNTS = {
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
  'resnet20': (10, 32, 272_474),
  'resnet32_bbn': (10, 32, 538_778),
  'resnet56_t2t': (100, 32, 3_419_284),
  'alexnet_cifar': (10, 24, 1_068_298),
  'densenet_bc_100': (10, 32, 769_162),
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


def test_resnet20_by_hand():
  convs = 27 * 16 + 6 * 9 * 16**2
  convs += 9 * (16 * 32 + 5 * 32**2) + 9 * (32 * 64 + 5 * 64**2)
  shortcuts = 16 * 32 + 32 * 64
  norms = 2 * (7 * 16 + 7 * 32 + 7 * 64)
  assert convs + shortcuts + norms + 64 * 10 + 10 == 272_474


def test_every_model_is_counted():
  assert set(MODELS) == {*COUNTS, *CIFAR_COUNTS, 'resnet8'}


@pytest.mark.parametrize(
  ('name', 'channels'), [('resnet18', 4_800), ('resnet50', 26_560)]
)
def test_running_statistics(name, channels):
  variables = shapes(create_model(name, 1000))
  assert count_parameters(variables['batch_stats']) == 2 * channels
  stats = variables['batch_stats']['layer1_0']['bn1']
  assert stats['mean'].shape == stats['var'].shape == (64,)
  assert 'downsample_bn' in variables['batch_stats']['layer2_0']


def test_resnet8_is_small_and_takes_digits():
  variables = shapes(create_model('resnet8', 10), size=8, channels=1)
  assert count_parameters(variables['params']) == 308_074
  assert variables['params']['head']['kernel'].shape == (128, 10)


def test_dtypes_have_names():
  for dtype in ('bfloat16', jnp.bfloat16):
    assert create_model('resnet8', 7, dtype=dtype).dtype == jnp.bfloat16


@pytest.mark.parametrize('dtype', ['float32', 'bfloat16'])
@pytest.mark.parametrize('name', MODELS)
def test_every_model_is_called_alike(name, dtype):
  model = create_model(name, 7, dtype=dtype, batch_axis='devices')
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


CONVOLUTIONAL = [name for name in MODELS if not name.startswith('vit')]


@pytest.mark.parametrize('name', CONVOLUTIONAL)
def test_convolutions_and_norms_compute_in_bfloat16(name):
  model = create_model(name, 7, dtype='bfloat16')
  convolutions = layers_of(model, nn.Conv)
  assert len(convolutions) >= 2
  assert {str(dtype) for _, dtype in convolutions} == {'bfloat16'}
  norms = layers_of(model, nn.BatchNorm)
  assert {str(dtype) for _, dtype in norms} <= {'bfloat16'}


@pytest.mark.parametrize(
  'name', [n for n in MODELS if 'batch_norm_axis' in MODELS[n].options]
)
def test_every_batch_norm_is_set_alike(name):
  model = create_model(name, 7, batch_norm_axis='devices')
  norms = layers_of(model, nn.BatchNorm)
  assert len(norms) > 5
  assert {(n.axis_name, n.momentum, n.epsilon) for n, _ in norms} == {
    ('devices', 0.9, 1e-5)
  }


def test_the_head_is_not_rounded(equations):
  """Neither by the dtype of the model nor by the default precision."""
  for name in ('resnet8', 'vit_tiny', 'alexnet_cifar'):
    model = create_model(name, 7, dtype='bfloat16')
    variables = shapes(model, 32)
    images = jax.ShapeDtypeStruct((2, 32, 32, 3), jnp.float32)
    traced = equations(model.apply, variables, images)
    head = [e for e in traced if e.primitive.name == 'dot_general'][-1]
    assert {v.aval.dtype for v in head.invars} == {jnp.dtype('float32')}
    highest = jax.lax.Precision.HIGHEST
    assert head.params['precision'] == (highest, highest)


def test_options_reach_the_model():
  resnet = create_model(
    'resnet18',
    10,
    stem='cifar',
    width=16,
    zero_init_residual=True,
    blur_pool=True,
    batch_norm_axis='devices',
  )
  assert (resnet.stem, resnet.width) == ('cifar', 16)
  assert resnet.zero_init_residual
  assert resnet.blur_pool
  assert resnet.batch_norm_axis == 'devices'
  vit = create_model(
    'vit_small',
    10,
    patch_size=8,
    drop_path=0.1,
    head_dropout=0.2,
    batch_axis='devices',
  )
  assert (vit.patch_size, vit.drop_path, vit.head_dropout) == (8, 0.1, 0.2)
  assert vit.batch_axis == 'devices'
  mobilenet = create_model(
    'mobilenet_v2',
    10,
    stem='cifar',
    blur_pool=True,
    dropout=0.1,
    batch_norm_axis='bn',
    batch_axis='devices',
  )
  assert (mobilenet.stem, mobilenet.dropout) == ('cifar', 0.1)
  assert mobilenet.blur_pool
  assert (mobilenet.batch_norm_axis, mobilenet.batch_axis) == ('bn', 'devices')
  bbn = create_model('resnet32_bbn', 10, head='causal_norm', width=8)
  assert (bbn.classifier, bbn.width) == ('causal_norm', 8)
  wide = create_model('resnet56_t2t', 10, width=8, widening=4)
  assert (wide.width, wide.widening) == (8, 4)
  assert create_model('densenet_bc_100', 10, growth=6).growth == 6


def test_every_option_reaches_the_model():
  for name, entry in MODELS.items():
    model = create_model(name, 10)
    for option, default in entry.options.items():
      field = entry.renamed.get(option, option)
      assert getattr(model, field) == default, (name, option)


def test_defaults():
  assert create_model('resnet8', 10).stem == 'cifar'
  assert create_model('resnet20', 10).stem == 'cifar'
  assert create_model('resnet20', 10).width == 16
  assert create_model('resnet32_bbn', 10).classifier == 'linear'
  assert create_model('mobilenet_v2', 10).stem == 'imagenet'
  for name in ('resnet18', 'resnet34', 'resnet50', 'resnet101'):
    model = create_model(name, 10)
    assert (model.stem, model.width) == ('imagenet', 64)
    assert not model.zero_init_residual
    assert not model.blur_pool
    assert model.batch_norm_axis is None
  for name in ('vit_tiny', 'vit_small', 'vit_base'):
    model = create_model(name, 10)
    assert (model.patch_size, model.drop_path) == (16, 0.0)
    assert model.head_dropout == 0
    assert model.batch_axis is None


KNOWN = (
  'alexnet_cifar, densenet_bc_100, mobilenet_v2, resnet101, resnet18, '
  'resnet20, resnet32_bbn, resnet34, resnet50, resnet56_t2t, resnet8, '
  'vit_base, vit_small, vit_tiny'
)


@pytest.mark.parametrize(
  ('name', 'fields', 'message'),
  [
    ('resnet19', {}, f"unknown model 'resnet19'; known: {KNOWN}"),
    (
      'resnet8',
      {'drop_path': 0.1},
      "model 'resnet8' has no option 'drop_path'; "
      'known: batch_norm_axis, blur_pool, stem, width, zero_init_residual',
    ),
    (
      'vit_tiny',
      {'stem': 'cifar'},
      "model 'vit_tiny' has no option 'stem'; "
      'known: drop_path, head_dropout, patch_size',
    ),
    # The architecture is the name; it is no option.
    (
      'vit_tiny',
      {'depth': 3},
      "model 'vit_tiny' has no option 'depth'; "
      'known: drop_path, head_dropout, patch_size',
    ),
    (
      'alexnet_cifar',
      {'width': 3},
      "model 'alexnet_cifar' has no option 'width'; known: none",
    ),
    # The name of a field that the option has another name for.
    (
      'resnet32_bbn',
      {'classifier': 'linear'},
      "model 'resnet32_bbn' has no option 'classifier'; "
      'known: batch_norm_axis, head, width',
    ),
    (
      'resnet8',
      {'dtype': 'float16'},
      "unknown dtype 'float16'; known: bfloat16, float32",
    ),
    (
      'resnet8',
      {'dtype': 'fp32'},
      "unknown dtype 'fp32'; known: bfloat16, float32",
    ),
    (
      'resnet50',
      {'stem': 'large'},
      "unknown stem 'large'; known: cifar, imagenet",
    ),
    (
      'vit_tiny',
      {'drop_path': 1.5},
      'drop_path: expected a number in [0, 1), got 1.5',
    ),
  ],
)
def test_refusals(name, fields, message):
  with pytest.raises(UsageError) as error:
    create_model(name, 10, **fields)
  assert str(error.value) == message


@pytest.mark.parametrize('num_classes', [0, -1, 10.0, '10', True, None])
@pytest.mark.parametrize('name', MODELS)
def test_bad_num_classes(name, num_classes):
  with pytest.raises(UsageError, match='num_classes: expected an int'):
    create_model(name, num_classes)


def test_public_names_are_documented():
  for name in vars(models):
    value = getattr(models, name)
    if callable(value) and not name.startswith('_'):
      assert value.__doc__, name
