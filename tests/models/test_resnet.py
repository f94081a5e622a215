import jax
import jax.numpy as jnp
import numpy as np
import pytest

from maxsup_jax.errors import UsageError
from maxsup_jax.models.resnet import BasicBlock, BottleneckBlock, ResNet


def tiny(block=BasicBlock, stage_sizes=(1, 1), **fields):
  fields = {'stem': 'cifar', 'width': 4} | fields
  return ResNet(5, stage_sizes, block, **fields)


def evaluate(model, variables, images):
  return jax.jit(model.apply)(variables, images)


def train(model, variables, images):
  def step(variables, images):
    return model.apply(variables, images, train=True, mutable=['batch_stats'])

  return jax.jit(step)(variables, images)


def normal(*shape, seed=1):
  return jax.random.normal(jax.random.key(seed), shape)


# ---- Shapes ------------------------------------------------------------------


@pytest.mark.parametrize(
  ('block', 'stages', 'stem', 'size', 'side', 'features'),
  [
    (BasicBlock, 4, 'imagenet', 224, 7, 512),
    (BasicBlock, 4, 'imagenet', 32, 1, 512),
    (BasicBlock, 4, 'cifar', 32, 4, 512),
    (BasicBlock, 3, 'cifar', 8, 2, 256),
    (BottleneckBlock, 4, 'imagenet', 224, 7, 2048),
    (BottleneckBlock, 4, 'cifar', 32, 4, 2048),
  ],
)
def test_output_shapes(block, stages, stem, size, side, features):
  model = ResNet(10, (1,) * stages, block, stem=stem)
  images = jax.ShapeDtypeStruct((2, size, size, 3), jnp.float32)
  (logits, out), _ = jax.eval_shape(
    model.init_with_output, jax.random.key(0), images
  )
  assert logits.shape == (2, 10)
  assert out['penultimate'].shape == (2, features)
  assert out['feature_map'].shape == (2, side, side, features)


@pytest.mark.parametrize('block', [BasicBlock, BottleneckBlock])
def test_the_shortcut_is_projected_where_it_must_be(block):
  def layers(channels, **fields):
    x = jax.ShapeDtypeStruct((2, 5, 5, channels), jnp.float32)
    y, variables = jax.eval_shape(
      block(**fields).init_with_output, jax.random.key(0), x
    )
    assert y.shape[1:3] == ((3, 3) if fields.get('stride') == 2 else (5, 5))
    return variables['params'].keys()

  features = 4 * block.expansion
  assert 'downsample_conv' not in layers(features, width=4)
  assert 'downsample_conv' in layers(features, width=4, stride=2)
  assert 'downsample_conv' in layers(features + 1, width=4)


def test_outputs_belong_together(random_variables):
  model, images = tiny(), normal(3, 8, 8, 3)
  variables = random_variables(model, images)
  logits, out = evaluate(model, variables, images)
  head = variables['params']['head']
  np.testing.assert_allclose(
    out['penultimate'], out['feature_map'].mean((1, 2)), rtol=1e-6
  )
  np.testing.assert_allclose(
    logits, out['penultimate'] @ head['kernel'] + head['bias'], rtol=1e-5
  )


def test_features_cost_nothing(flops, random_variables):
  model, images = tiny(), normal(2, 8, 8, 3)
  variables = random_variables(model, images)
  everything = flops(model.apply, variables, images)
  logits = flops(lambda v, x: model.apply(v, x)[0], variables, images)
  # The map itself may be computed twice over its last, elementwise step.
  assert 0.95 * everything < logits <= everything


# ---- Initial values ----------------------------------------------------------


def initialize(model, key=0, only=lambda variables: variables):
  init = jax.jit(lambda key, x: only(model.init(key, x)))
  variables = init(jax.random.key(key), normal(1, 8, 8, 3))
  return jax.tree.map(np.asarray, variables)


def test_initial_values():
  model = tiny(width=32)
  variables = initialize(model)
  kernel = variables['params']['layer2_0']['conv1']['kernel']
  assert kernel.shape == (3, 3, 32, 64)
  fan_out = 9 * 64
  assert kernel.std() == pytest.approx((2 / fan_out) ** 0.5, rel=0.03)
  assert abs(kernel.mean()) < 0.03 * kernel.std()
  assert abs(kernel).max() > 3 * kernel.std()  # a normal, not truncated

  head = variables['params']['head']
  bound = 64**-0.5
  for leaf in jax.tree.leaves(head):
    assert abs(leaf).max() <= bound
    assert abs(leaf).max() > 0.5 * bound
  assert head['kernel'].std() == pytest.approx(bound / 3**0.5, rel=0.1)
  assert head['kernel'].min() < -0.9 * bound

  for leaf in jax.tree.leaves(variables['batch_stats']['bn1']):
    assert leaf.dtype == jnp.float32
  np.testing.assert_array_equal(variables['batch_stats']['bn1']['mean'], 0)
  np.testing.assert_array_equal(variables['batch_stats']['bn1']['var'], 1)


@pytest.mark.parametrize(
  ('block', 'last'), [(BasicBlock, 'bn2'), (BottleneckBlock, 'bn3')]
)
@pytest.mark.parametrize('zero', [False, True])
def test_zero_init_residual(block, last, zero):
  model = tiny(block, zero_init_residual=zero)

  def scales(variables):
    blocks = {k: v for k, v in variables['params'].items() if 'layer' in k}
    return {
      (block, layer): leaves['scale']
      for block, layers in blocks.items()
      for layer, leaves in layers.items()
      if 'scale' in leaves
    }

  initial = initialize(model, only=scales)
  assert len(initial) == 2 * int(last[-1]) + (1 if block is BasicBlock else 2)
  for (_, layer), scale in initial.items():
    expected = 0 if zero and layer == last else 1
    np.testing.assert_array_equal(scale, expected, err_msg=layer)


def test_init_follows_the_key():
  def kernel(variables):
    return variables['params']['conv1']['kernel']

  first, second, other = (initialize(tiny(), k, kernel) for k in (3, 3, 4))
  np.testing.assert_array_equal(first, second)
  assert (first != other).all()


# ---- BatchNorm over devices --------------------------------------------------


def over_devices(model, variables, images):
  """Applies the model in training mode to four shards, by pmap."""
  step = jax.pmap(
    lambda v, x: model.apply(v, x, train=True, mutable=['batch_stats']),
    axis_name='devices',
    in_axes=(None, 0),
  )
  return step(variables, images.reshape(4, -1, *images.shape[1:]))


def test_statistics_per_device(random_variables):
  model, images = tiny(), normal(12, 8, 8, 3)
  variables = random_variables(model, images)
  (logits, _), updates = over_devices(model, variables, images)
  for device in range(4):
    shard = images[3 * device : 3 * device + 3]
    (alone, _), own = train(model, variables, shard)
    np.testing.assert_allclose(logits[device], alone, rtol=1e-4, atol=1e-5)
    jax.tree.map(
      lambda a, b, i=device: np.testing.assert_allclose(a[i], b, rtol=1e-4),
      updates,
      own,
    )
  means = updates['batch_stats']['bn1']['mean']
  assert abs(means[0] - means[1]).max() > 1e-4


def test_statistics_across_devices(random_variables):
  images = normal(12, 8, 8, 3)
  variables = random_variables(tiny(), images)
  shared = tiny(batch_norm_axis='devices')
  (logits, out), updates = over_devices(shared, variables, images)
  (whole, whole_out), one = train(tiny(), variables, images)
  np.testing.assert_allclose(logits.reshape(12, 5), whole, rtol=1e-4, atol=1e-5)
  np.testing.assert_allclose(
    out['penultimate'].reshape(12, -1),
    whole_out['penultimate'],
    rtol=1e-4,
    atol=1e-5,
  )
  for device in range(4):
    jax.tree.map(
      lambda a, b, i=device: np.testing.assert_allclose(a[i], b, rtol=1e-4),
      updates,
      one,
    )


def test_shared_statistics_need_no_axis_outside_of_training(random_variables):
  model, images = tiny(batch_norm_axis='devices'), normal(2, 8, 8, 3)
  jax.eval_shape(lambda k: model.init(k, images, train=True), jax.random.key(0))
  variables = random_variables(model, images)
  logits, _ = evaluate(model, variables, images)
  expected, _ = evaluate(tiny(), variables, images)
  np.testing.assert_array_equal(logits, expected)


def test_evaluation_uses_and_keeps_the_running_statistics(random_variables):
  model, images = tiny(), normal(4, 8, 8, 3)
  variables = random_variables(model, images)
  apply = jax.jit(lambda x: model.apply(variables, x, mutable=['batch_stats']))
  (logits, _), updates = apply(images)
  jax.tree.map(
    np.testing.assert_array_equal,
    updates['batch_stats'],
    variables['batch_stats'],
  )
  # No example sees the others.
  one_by_one = [apply(x[None])[0][0][0] for x in images]
  np.testing.assert_allclose(logits, one_by_one, rtol=1e-4, atol=1e-5)


# ---- bfloat16 ----------------------------------------------------------------


def test_bfloat16(equations, random_variables):
  images = normal(8, 8, 8, 3)
  half = tiny(dtype=jnp.bfloat16)
  shapes = jax.eval_shape(half.init, jax.random.key(0), images)
  assert all(x.dtype == jnp.float32 for x in jax.tree.leaves(shapes))

  variables = random_variables(tiny(), images)
  (logits, out), updates = train(half, variables, images)
  assert logits.dtype == out['penultimate'].dtype == jnp.float32
  assert out['feature_map'].dtype == jnp.bfloat16
  assert all(x.dtype == jnp.float32 for x in jax.tree.leaves(updates))
  (expected, _), _ = train(tiny(), variables, images)
  error = abs(logits - expected).max() / abs(expected).max()
  assert 0 < error < 0.03

  traced = equations(half.apply, variables, images)
  names = [e.primitive.name for e in traced]
  assert names.count('conv_general_dilated') == 6
  for equation in traced:
    if equation.primitive.name == 'conv_general_dilated':
      dtypes = {str(v.aval.dtype) for v in equation.invars}
      assert dtypes == {'bfloat16'}


# ---- Refusals ----------------------------------------------------------------


@pytest.mark.parametrize(
  ('fields', 'message'),
  [
    ({'stem': 'resnet'}, "unknown stem 'resnet'; known: cifar, imagenet"),
    ({'width': 0}, 'width: expected an int of at least 1, got 0'),
    ({'width': True}, 'width: expected an int'),
    ({'zero_init_residual': 'no'}, 'zero_init_residual: expected True or'),
    ({'batch_norm_axis': 0}, 'batch_norm_axis: expected an axis name'),
  ],
)
def test_bad_fields(fields, message):
  with pytest.raises(UsageError) as error:
    tiny(**fields)
  assert message in str(error.value)
  assert '\n' not in str(error.value)


@pytest.mark.parametrize(
  ('stem', 'shape', 'dtype', 'message'),
  [
    ('imagenet', (2, 31, 64, 3), 'float32', '31x64 are too small for stem'),
    ('imagenet', (2, 64, 31, 3), 'float32', 'expected at least 32x32'),
    ('cifar', (2, 7, 7, 3), 'float32', 'expected at least 8x8'),
    ('cifar', (8, 8, 3), 'float32', 'images: expected [B, H, W, C]'),
    ('cifar', (2, 8, 8, 3), 'uint8', 'got uint8'),
  ],
)
def test_bad_images(stem, shape, dtype, message):
  model = tiny(stage_sizes=(1, 1, 1, 1), stem=stem)
  images = jax.ShapeDtypeStruct(shape, dtype)
  with pytest.raises(UsageError) as error:
    jax.eval_shape(model.init, jax.random.key(0), images)
  assert message in str(error.value)
  assert '\n' not in str(error.value)


@pytest.mark.parametrize(('stem', 'size'), [('imagenet', 32), ('cifar', 8)])
def test_smallest_images(stem, size):
  model = tiny(stage_sizes=(1, 1, 1, 1), stem=stem)
  images = jax.ShapeDtypeStruct((2, size, size, 3), 'float32')
  jax.eval_shape(model.init, jax.random.key(0), images)
