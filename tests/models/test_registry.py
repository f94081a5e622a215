import jax
import jax.numpy as jnp
import pytest

from maxsup_jax import models
from maxsup_jax._errors import UsageError
from maxsup_jax.models import MODELS, count_parameters, create_model

# Of torchvision (ResNets) and timm (ViTs), with 1000 classes.
COUNTS = {
  'resnet18': 11_689_512,
  'resnet34': 21_797_672,
  'resnet50': 25_557_032,
  'resnet101': 44_549_160,
  'vit_tiny': 5_717_416,
  'vit_small': 22_050_664,
  'vit_base': 86_567_656,
}


def shapes(model, size=224, channels=3):
  images = jax.ShapeDtypeStruct((1, size, size, channels), jnp.float32)
  return jax.eval_shape(model.init, jax.random.key(0), images)


@pytest.mark.parametrize('name', COUNTS)
def test_parameter_counts(name):
  params = shapes(create_model(name, 1000))['params']
  assert count_parameters(params) == COUNTS[name]


def test_every_model_is_counted():
  assert set(MODELS) == {*COUNTS, 'resnet8'}


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


@pytest.mark.parametrize('dtype', ['float32', 'bfloat16', jnp.bfloat16])
@pytest.mark.parametrize('name', MODELS)
def test_every_model_is_called_alike(name, dtype):
  model = create_model(name, 7, dtype=dtype, batch_axis='devices')
  size = 8 if name == 'resnet8' else 32
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

  images = jax.ShapeDtypeStruct((2, size, size, 3), jnp.float32)
  (logits, out), updates = jax.eval_shape(step, variables, images)
  features = variables['params']['head']['kernel'].shape[0]
  assert (logits.shape, logits.dtype) == ((2, 7), jnp.float32)
  assert out['penultimate'].shape == (2, features)
  assert out['penultimate'].dtype == jnp.float32
  assert set(updates) <= {'batch_stats'}
  other = 'tokens' if name.startswith('vit') else 'feature_map'
  assert set(out) == {'penultimate', other}


def test_the_head_is_not_rounded(equations):
  """Neither by the dtype of the model nor by the default precision."""
  for name in ('resnet8', 'vit_tiny'):
    model = create_model(name, 7, dtype='bfloat16')
    variables = shapes(model, 16)
    images = jax.ShapeDtypeStruct((2, 16, 16, 3), jnp.float32)
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
    batch_norm_axis='devices',
  )
  assert (resnet.stem, resnet.width) == ('cifar', 16)
  assert resnet.zero_init_residual
  assert resnet.batch_norm_axis == 'devices'
  vit = create_model(
    'vit_small', 10, patch_size=8, drop_path=0.1, batch_axis='devices'
  )
  assert (vit.patch_size, vit.drop_path) == (8, 0.1)
  assert vit.batch_axis == 'devices'


def test_defaults():
  assert create_model('resnet8', 10).stem == 'cifar'
  for name in ('resnet18', 'resnet34', 'resnet50', 'resnet101'):
    model = create_model(name, 10)
    assert (model.stem, model.width) == ('imagenet', 64)
    assert not model.zero_init_residual
    assert model.batch_norm_axis is None
  for name in ('vit_tiny', 'vit_small', 'vit_base'):
    model = create_model(name, 10)
    assert (model.patch_size, model.drop_path) == (16, 0.0)
    assert model.batch_axis is None


KNOWN = (
  'resnet101, resnet18, resnet34, resnet50, resnet8, '
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
      'known: batch_norm_axis, stem, width, zero_init_residual',
    ),
    (
      'vit_tiny',
      {'stem': 'cifar'},
      "model 'vit_tiny' has no option 'stem'; known: drop_path, patch_size",
    ),
    # The architecture is the name; it is no option.
    (
      'vit_tiny',
      {'depth': 3},
      "model 'vit_tiny' has no option 'depth'; known: drop_path, patch_size",
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
@pytest.mark.parametrize('name', ['resnet8', 'vit_tiny'])
def test_bad_num_classes(name, num_classes):
  with pytest.raises(UsageError, match='num_classes: expected an int'):
    create_model(name, num_classes)


def test_public_names_are_documented():
  for name in vars(models):
    value = getattr(models, name)
    if callable(value) and not name.startswith('_'):
      assert value.__doc__, name
