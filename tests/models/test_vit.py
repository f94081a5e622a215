import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from maxsup_jax.errors import UsageError
from maxsup_jax.models.drop_path import DropPath
from maxsup_jax.models.resampling import resize_positions
from maxsup_jax.models.vit import EncoderBlock, ViT, ViTBackbone


def tiny(**fields):
  fields = {'depth': 2, 'patch_size': 4} | fields
  return ViT(num_classes=5, dim=12, heads=3, **fields)


def evaluate(model, variables, images):
  return jax.jit(model.apply)(variables, images)


def normal(*shape, seed=1):
  return jax.random.normal(jax.random.key(seed), shape)


def test_initial_values():
  model = ViT(num_classes=100, dim=96, depth=1, heads=3, patch_size=8)
  init = jax.jit(model.init)
  images = jnp.zeros((1, 64, 64, 3))
  variables, other = (init(jax.random.key(k), images) for k in (0, 1))
  params = jax.tree.map(np.asarray, variables['params'])
  assert (params['cls_token'] != other['params']['cls_token']).all()

  block = params['block0']
  for layer in (
    block['attn']['qkv'],
    block['attn']['proj'],
    block['mlp']['fc1'],
    block['mlp']['fc2'],
    params['head'],
  ):
    assert layer['kernel'].std() == pytest.approx(0.02, rel=0.03)
    assert abs(layer['kernel']).max() > 3 * 0.02  # not truncated at 2 sigma
    np.testing.assert_array_equal(layer['bias'], 0)
  assert params['pos_embed'].std() == pytest.approx(0.02, rel=0.05)
  assert params['cls_token'].std() == pytest.approx(0.02, rel=0.3)
  bound = (8 * 8 * 3) ** -0.5
  for leaf in jax.tree.leaves(params['patch_embed']):
    assert abs(leaf).max() <= bound
    assert leaf.min() < -0.8 * bound
    assert leaf.max() > 0.8 * bound
  for norm in (block['norm1'], block['norm2'], params['norm']):
    np.testing.assert_array_equal(norm['scale'], 1)
    np.testing.assert_array_equal(norm['bias'], 0)


def drop_path_rates(model):
  rates = {}

  def record(call, args, kwargs, context):
    if isinstance(context.module, DropPath):
      rates[context.module.path] = context.module.rate
    return call(*args, **kwargs)

  with nn.intercept_methods(record):
    images = jax.ShapeDtypeStruct((1, 8, 8, 3), jnp.float32)
    jax.eval_shape(model.init, jax.random.key(0), images)
  return rates


def test_rates_grow_linearly():
  rates = drop_path_rates(tiny(depth=5, drop_path=0.2))
  assert len(rates) == 10
  for branch in ('drop_path1', 'drop_path2'):
    actual = [rates[f'block{i}', branch] for i in range(5)]
    assert actual == pytest.approx([0, 0.05, 0.1, 0.15, 0.2])


def train_logits(model, variables, images):
  rngs = {'drop_path': jax.random.key(7)}
  return model.apply(variables, images, train=True, rngs=rngs)[0]


def test_four_devices_give_what_one_gives(random_variables):
  images = normal(16, 8, 8, 3)
  one = tiny(depth=3, drop_path=0.5)
  variables = random_variables(one, images)
  expected = jax.jit(lambda v, x: train_logits(one, v, x))(variables, images)

  def over_devices(**fields):
    model = tiny(depth=3, drop_path=0.5, **fields)
    step = jax.pmap(
      lambda v, x: train_logits(model, v, x),
      axis_name='devices',
      in_axes=(None, 0),
    )
    shards = images.reshape(4, 4, 8, 8, 3)
    return step(variables, shards).reshape(16, 5)

  np.testing.assert_allclose(
    over_devices(batch_axis='devices'), expected, rtol=1e-4, atol=1e-5
  )
  # The comparison can tell: without the axis all devices draw the same.
  assert abs(over_devices() - expected).max() > 0.1


def test_head_dropout_is_before_the_head(random_variables):
  model, images = tiny(depth=1, head_dropout=0.5), normal(4, 8, 8, 3)
  variables = random_variables(model, images)
  variables['params']['head'] = {
    'kernel': jnp.eye(12, 5),
    'bias': jnp.full(5, 3.0),
  }

  @jax.jit
  def train(variables, images):
    rngs = {'drop_path': jax.random.key(7)}
    return model.apply(variables, images, train=True, rngs=rngs)

  logits, out = train(variables, images)
  dropped = logits == 3
  assert 0 < dropped.sum() < dropped.size
  expected = 3 + jnp.where(dropped, 0, 2 * out['penultimate'][:, :5])
  np.testing.assert_allclose(logits, expected, rtol=1e-5)


def test_bfloat16(equations, random_variables):
  images = normal(4, 8, 8, 3)
  model, half = tiny(), tiny(dtype=jnp.bfloat16)
  variables = random_variables(model, images)
  shapes = jax.eval_shape(half.init, jax.random.key(0), images)
  assert all(x.dtype == jnp.float32 for x in jax.tree.leaves(shapes))

  logits, out = jax.jit(half.apply)(variables, images)
  assert logits.dtype == jnp.float32
  assert out['tokens'].dtype == out['penultimate'].dtype == jnp.float32
  expected, _ = evaluate(model, variables, images)
  error = abs(logits - expected).max() / abs(expected).max()
  assert 0 < error < 0.03

  traced = equations(half.apply, variables, images)
  products = [e for e in traced if e.primitive.name == 'dot_general']
  dtypes = [{str(v.aval.dtype) for v in e.invars} for e in products]
  # Per block: qkv, scores, values, projection and two of the MLP.
  assert dtypes == [{'bfloat16'}] * 12 + [{'float32'}]
  # The head is not rounded by the default precision either.
  highest = jax.lax.Precision.HIGHEST
  assert products[-1].params['precision'] == (highest, highest)


def test_refusals():
  with pytest.raises(UsageError, match='patch_size is 0; expected an integer'):
    tiny(patch_size=0)
  with pytest.raises(UsageError, match='drop_path is 1; expected at least 0'):
    tiny(drop_path=1)
  with pytest.raises(UsageError, match='heads is 5; expected a divisor of dim'):
    ViT(num_classes=2, dim=12, depth=1, heads=5)
  images = jax.ShapeDtypeStruct((2, 8, 10, 3), jnp.float32)
  with pytest.raises(UsageError, match='8x10 are not divisible into patches'):
    jax.eval_shape(tiny().init, jax.random.key(0), images)


def test_positions_fix_the_image_size():
  images = jax.ShapeDtypeStruct((2, 8, 8, 3), jnp.float32)
  variables = jax.eval_shape(tiny().init, jax.random.key(0), images)
  larger = jax.ShapeDtypeStruct((2, 12, 8, 3), jnp.float32)
  with pytest.raises(UsageError, match=r'6 patches, but positions .* for 4'):
    jax.eval_shape(tiny().apply, variables, larger)


def backbone(**fields):
  fields = {'levels': (0, 2), 'depth': 3, 'patch_size': 4} | fields
  return ViTBackbone(dim=12, heads=3, **fields)


def inside(model, variables, images):
  """The result and what each block returns."""

  def block(module, method):
    return isinstance(module, EncoderBlock) and method == '__call__'

  @jax.jit
  def apply(variables, images):
    return model.apply(variables, images, capture_intermediates=block)

  result, seen = apply(variables, images)
  return result, seen['intermediates']


def test_maps_are_the_tokens_after_some_blocks(random_variables):
  """Those of the classifier with the same weights, before its final norm."""
  images, model = normal(2, 8, 8, 3), tiny(depth=3)
  variables = random_variables(model, images)
  (_, out), seen = inside(model, variables, images)
  maps = evaluate(backbone(), variables, images)
  for i, found in zip((0, 2), maps, strict=True):
    (tokens,) = seen[f'block{i}']['__call__']
    np.testing.assert_allclose(
      found.reshape(2, 4, 12), tokens[:, 1:], rtol=1e-5
    )
  *_, last = evaluate(backbone(final_norm=True), variables, images)
  last = last.reshape(2, 4, 12)
  np.testing.assert_allclose(last, out['tokens'][:, 1:], rtol=1e-4, atol=1e-5)

  # No parameter but those that are used.
  own = jax.eval_shape(backbone().init, jax.random.key(0), images)
  own = own['params']
  assert set(own) == {*variables['params']} - {'norm', 'head'}


def test_maps_of_images_of_any_size(random_variables):
  """Padding at the corner, and positions of another grid."""
  model = backbone()
  variables = random_variables(model, normal(1, 16, 16, 3))
  images = normal(2, 9, 14, 3)
  maps = evaluate(model, variables, images)
  assert [x.shape for x in maps] == [(2, 3, 4, 12)] * 2
  padded = jnp.pad(images, ((0, 0), (0, 3), (0, 2), (0, 0)))
  params = variables['params']
  positions = resize_positions(params['pos_embed'], (3, 4))
  # The classifier takes these positions for its own.
  plain = tiny(depth=3)
  rest = random_variables(plain, padded)['params']
  given = {'params': rest | params | {'pos_embed': positions}}
  _, seen = inside(plain, given, padded)
  tokens = seen['block2']['__call__'][0][:, 1:]
  np.testing.assert_allclose(maps[1].reshape(2, 12, 12), tokens, rtol=1e-4)
  other = evaluate(backbone(positions='antialias'), variables, images)
  assert abs(other[1] - maps[1]).max() > 1e-3


def test_refusals_of_backbones():
  for levels in ((), (2, 1), (0, 3)):
    with pytest.raises(UsageError, match=r'levels is .* blocks, from 0 to 2'):
      backbone(levels=levels)
  with pytest.raises(UsageError, match="positions is 'nearest'"):
    backbone(positions='nearest')
  images = jax.ShapeDtypeStruct((1, 8, 12, 3), jnp.float32)
  with pytest.raises(UsageError, match='2x3 patches at init; expected a squ'):
    jax.eval_shape(backbone().init, jax.random.key(0), images)
