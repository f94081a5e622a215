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


def initialize(model, key=0, only=lambda variables: variables):
  init = jax.jit(lambda key, x: only(model.init(key, x)))
  variables = init(jax.random.key(key), normal(1, 8, 8, 3))
  return jax.tree.map(np.asarray, variables)


def test_initial_values():
  kernel, head, stats = initialize(
    tiny(width=32),
    only=lambda v: (
      v['params']['layer2_0']['conv1']['kernel'],
      v['params']['head'],
      v['batch_stats']['bn1'],
    ),
  )
  assert kernel.shape == (3, 3, 32, 64)
  fan_out = 9 * 64
  assert kernel.std() == pytest.approx((2 / fan_out) ** 0.5, rel=0.03)
  assert abs(kernel.mean()) < 0.03 * kernel.std()
  assert abs(kernel).max() > 3 * kernel.std()  # a normal, not truncated

  bound = 64**-0.5
  for leaf in jax.tree.leaves(head):
    assert abs(leaf).max() <= bound
    assert abs(leaf).max() > 0.5 * bound
  assert head['kernel'].std() == pytest.approx(bound / 3**0.5, rel=0.1)
  assert head['kernel'].min() < -0.9 * bound

  np.testing.assert_array_equal(stats['mean'], 0)
  np.testing.assert_array_equal(stats['var'], 1)


def test_zero_init_residual():
  names = ('bn1', 'bn2', 'bn3', 'downsample_bn')
  scales = initialize(
    tiny(BottleneckBlock, zero_init_residual=True),
    only=lambda v: [v['params']['layer2_0'][n]['scale'] for n in names],
  )
  for name, scale in zip(names, scales):
    np.testing.assert_array_equal(scale, 0 if name == 'bn3' else 1)


def over_devices(model, variables, images):
  """Applies the model in training mode to four shards, by pmap."""
  step = jax.pmap(
    lambda v, x: model.apply(v, x, train=True, mutable=['batch_stats']),
    axis_name='devices',
    in_axes=(None, 0),
  )
  return step(variables, images.reshape(4, -1, *images.shape[1:]))


def test_statistics_across_devices(random_variables):
  images = normal(12, 8, 8, 3)
  variables = random_variables(tiny(), images)
  shared = tiny(batch_norm_axis='devices')
  (logits, out), updates = over_devices(shared, variables, images)
  (whole, whole_out), one = train(tiny(), variables, images)
  # Without the axis every device has its own.
  _, own = over_devices(tiny(), variables, images)
  means = own['batch_stats']['bn1']['mean']
  assert abs(means[0] - means[1]).max() > 1e-4
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


@pytest.mark.parametrize(
  ('stem', 'shape', 'dtype', 'message'),
  [
    ('imagenet', (2, 31, 64, 3), 'float32', 'are 31x64; expected at least 32x'),
    ('cifar', (2, 8, 7, 3), 'float32', 'are 8x7; expected at least 8x8'),
    ('cifar', (8, 8, 3), 'float32', 'are [8, 8, 3]; expected [B, H, W, C]'),
    ('cifar', (2, 8, 8, 3), 'uint8', 'are uint8; expected normalised'),
  ],
)
def test_bad_images(stem, shape, dtype, message):
  model = tiny(stage_sizes=(1, 1, 1, 1), stem=stem)
  images = jax.ShapeDtypeStruct(shape, dtype)
  with pytest.raises(UsageError) as error:
    jax.eval_shape(model.init, jax.random.key(0), images)
  assert message in str(error.value)
