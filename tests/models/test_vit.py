import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from maxsup_jax.errors import UsageError
from maxsup_jax.models.drop_path import Dropout, DropPath
from maxsup_jax.models.vit import Attention, EncoderBlock, ViT


def tiny(**fields):
  fields = {'depth': 2, 'patch_size': 4} | fields
  return ViT(num_classes=5, dim=12, heads=3, **fields)


def evaluate(model, variables, images):
  return jax.jit(model.apply)(variables, images)


def normal(*shape, seed=1):
  return jax.random.normal(jax.random.key(seed), shape)


# ---- Against a ViT written in torch ------------------------------------------


def torch_vit(variables, images, heads, patch, depth):
  """Logits and tokens by an independent ViT from torch's primitives."""
  torch = pytest.importorskip('torch')
  functional = torch.nn.functional
  p = jax.tree.map(lambda x: torch.from_numpy(np.array(x)), variables)['params']

  def dense(x, q):
    return functional.linear(x, q['kernel'].T, q['bias'])

  def norm(x, q):
    return functional.layer_norm(x, x.shape[-1:], q['scale'], q['bias'], 1e-6)

  def attention(x, q):
    B, T, D = x.shape
    qkv = dense(x, q['qkv']).reshape(B, T, 3, heads, D // heads)
    query, key, value = qkv.permute(2, 0, 3, 1, 4).unbind(0)
    scores = query @ key.transpose(-2, -1) * (D // heads) ** -0.5
    y = scores.softmax(-1) @ value
    return dense(y.transpose(1, 2).reshape(B, T, D), q['proj'])

  x = torch.from_numpy(np.array(images)).permute(0, 3, 1, 2)
  q = p['patch_embed']
  kernel = q['kernel'].permute(3, 2, 0, 1)
  x = functional.conv2d(x, kernel, q['bias'], stride=patch)
  x = x.flatten(2).transpose(1, 2)
  cls = p['cls_token'].expand(len(x), -1, -1)
  x = torch.cat([cls, x], 1) + p['pos_embed']
  for i in range(depth):
    q = p[f'block{i}']
    x = x + attention(norm(x, q['norm1']), q['attn'])
    y = functional.gelu(dense(norm(x, q['norm2']), q['mlp']['fc1']))
    x = x + dense(y, q['mlp']['fc2'])
  tokens = norm(x, p['norm'])
  return dense(tokens[:, 0], p['head']), tokens


# A faint residual stream shows the epsilon of the norms.
@pytest.mark.parametrize('scale', [1, 1e-3])
def test_same_logits_as_torch(scale, random_variables):
  model, images = tiny(), normal(2, 8, 12, 3)
  variables = random_variables(model, images)
  params = variables['params']
  for name in ('cls_token', 'pos_embed', 'patch_embed'):
    params[name] = jax.tree.map(lambda x: scale * x, params[name])
  for name in ('attn', 'mlp'):
    params['block0'][name] = jax.tree.map(
      lambda x: scale * x, params['block0'][name]
    )
  logits, out = evaluate(model, variables, images)
  expected, tokens = torch_vit(variables, images, heads=3, patch=4, depth=2)
  np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-4)
  np.testing.assert_allclose(out['tokens'], tokens, rtol=1e-4, atol=1e-4)


# ---- Shapes ------------------------------------------------------------------


@pytest.mark.parametrize(
  ('size', 'patch', 'count'), [(224, 16, 197), (32, 16, 5), (32, 4, 65)]
)
def test_output_shapes(size, patch, count):
  images = jax.ShapeDtypeStruct((2, size, size, 3), jnp.float32)
  (logits, out), variables = jax.eval_shape(
    tiny(patch_size=patch).init_with_output, jax.random.key(0), images
  )
  assert logits.shape == (2, 5)
  assert out['penultimate'].shape == (2, 12)
  assert out['tokens'].shape == (2, count, 12)
  assert variables['params']['pos_embed'].shape == (1, count, 12)


def test_outputs_belong_together(random_variables):
  model, images = tiny(), normal(2, 8, 8, 3)
  variables = random_variables(model, images)
  logits, out = evaluate(model, variables, images)
  head = variables['params']['head']
  np.testing.assert_array_equal(out['penultimate'], out['tokens'][:, 0])
  np.testing.assert_allclose(
    logits,
    out['penultimate'] @ head['kernel'] + head['bias'],
    rtol=1e-5,
    atol=1e-5,
  )


def test_tokens_cost_nothing(flops, random_variables):
  model, images = tiny(), normal(2, 8, 8, 3)
  variables = random_variables(model, images)
  everything = flops(model.apply, variables, images)
  logits = flops(lambda v, x: model.apply(v, x)[0], variables, images)
  assert 0.95 * everything < logits <= everything


def test_examples_do_not_see_each_other(random_variables):
  model, images = tiny(), normal(3, 8, 8, 3)
  variables = random_variables(model, images)
  apply = jax.jit(model.apply)
  logits, _ = apply(variables, images)
  one_by_one = [apply(variables, x[None])[0][0] for x in images]
  np.testing.assert_allclose(logits, one_by_one, rtol=1e-4, atol=1e-5)


# ---- Initial values ----------------------------------------------------------


def test_initial_values():
  model = ViT(num_classes=100, dim=96, depth=1, heads=3, patch_size=8)
  init = jax.jit(model.init)
  images = jnp.zeros((1, 64, 64, 3))
  variables, again, other = (init(jax.random.key(k), images) for k in (0, 0, 1))
  jax.tree.map(np.testing.assert_array_equal, variables, again)
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


# ---- Stochastic depth --------------------------------------------------------


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


def test_a_single_block_drops_nothing():
  assert set(drop_path_rates(tiny(depth=1, drop_path=0.2)).values()) == {0}


def test_both_branches_drop():
  block = EncoderBlock(heads=2, drop_path=0.999)
  x = normal(8, 3, 4)
  variables = jax.jit(block.init)(jax.random.key(0), x)
  rngs = {'drop_path': jax.random.key(0)}
  step = jax.jit(lambda x: block.apply(variables, x, train=True, rngs=rngs))
  np.testing.assert_array_equal(step(x), x)
  assert abs(evaluate(block, variables, x) - x).max() > 1e-3


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


def test_head_dropout_knows_the_devices():
  found = []

  def record(call, args, kwargs, context):
    if isinstance(context.module, Dropout):
      found.append((context.module.rate, context.module.batch_axis))
    return call(*args, **kwargs)

  model = tiny(head_dropout=0.3, batch_axis='devices')
  images = jax.ShapeDtypeStruct((1, 8, 8, 3), jnp.float32)
  with nn.intercept_methods(record):
    jax.eval_shape(model.init, jax.random.key(0), images)
  assert found == [(0.3, 'devices')]


def test_evaluation_is_deterministic_and_needs_no_key(random_variables):
  model, images = tiny(drop_path=0.5, batch_axis='devices'), normal(4, 8, 8, 3)
  variables = random_variables(model, images)
  logits, _ = evaluate(model, variables, images)
  again, _ = evaluate(model, variables, images)
  without, _ = evaluate(tiny(), variables, images)
  np.testing.assert_array_equal(logits, again)
  np.testing.assert_array_equal(logits, without)


def test_init_in_training_mode_needs_no_axis():
  model = tiny(drop_path=0.5, batch_axis='devices')
  keys = {'params': jax.random.key(0), 'drop_path': jax.random.key(1)}
  images = jax.ShapeDtypeStruct((2, 8, 8, 3), jnp.float32)
  jax.eval_shape(lambda k, x: model.init(k, x, train=True), keys, images)


# ---- bfloat16 ----------------------------------------------------------------


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


def test_softmax_is_float32(equations):
  x = jax.ShapeDtypeStruct((1, 3, 4), jnp.bfloat16)
  attention = Attention(heads=2, dtype=jnp.bfloat16)
  y, variables = jax.eval_shape(
    attention.init_with_output, jax.random.key(0), x
  )
  assert y.dtype == jnp.bfloat16
  traced = equations(attention.apply, variables, x)
  exponentials = [e for e in traced if e.primitive.name == 'exp']
  assert len(exponentials) == 1
  assert exponentials[0].invars[0].aval.dtype == jnp.float32


def test_the_residual_stream_is_float32():
  x = jax.ShapeDtypeStruct((2, 3, 4), jnp.float32)
  block = EncoderBlock(heads=2, dtype=jnp.bfloat16)
  y, _ = jax.eval_shape(block.init_with_output, jax.random.key(0), x)
  assert y.dtype == jnp.float32


# ---- Refusals ----------------------------------------------------------------


@pytest.mark.parametrize(
  ('fields', 'message'),
  [
    ({'patch_size': 0}, 'patch_size: expected an int of at least 1, got 0'),
    ({'patch_size': 4.0}, 'patch_size: expected an int of at least 1, got 4.0'),
    ({'depth': 0}, 'depth: expected an int of at least 1, got 0'),
    ({'drop_path': 1}, 'drop_path: expected a number in [0, 1), got 1'),
    ({'head_dropout': 1}, 'head_dropout: expected a number in [0, 1), got 1'),
    ({'batch_axis': 3}, 'batch_axis: expected an axis name or None, got 3'),
  ],
)
def test_bad_fields(fields, message):
  with pytest.raises(UsageError) as error:
    tiny(**fields)
  assert str(error.value) == message


def test_heads_divide_the_width():
  with pytest.raises(UsageError, match='heads: 5 do not divide dim 12'):
    ViT(num_classes=2, dim=12, depth=1, heads=5)


@pytest.mark.parametrize(
  ('shape', 'dtype', 'message'),
  [
    ((2, 8, 10, 3), 'float32', '8x10 are not divisible into patches of 4x4'),
    ((2, 10, 8, 3), 'float32', '10x8 are not divisible into patches of 4x4'),
    ((8, 8, 3), 'float32', 'expected [B, H, W, C], got shape (8, 8, 3)'),
    ((2, 8, 8, 3), 'uint8', 'expected normalised floating point, got uint8'),
  ],
)
def test_bad_images(shape, dtype, message):
  images = jax.ShapeDtypeStruct(shape, dtype)
  with pytest.raises(UsageError) as error:
    jax.eval_shape(tiny().init, jax.random.key(0), images)
  assert message in str(error.value)
  assert '\n' not in str(error.value)


def test_positions_fix_the_image_size():
  images = jax.ShapeDtypeStruct((2, 8, 8, 3), jnp.float32)
  variables = jax.eval_shape(tiny().init, jax.random.key(0), images)
  larger = jax.ShapeDtypeStruct((2, 12, 8, 3), jnp.float32)
  with pytest.raises(UsageError, match=r'6 patches, but positions .* for 4'):
    jax.eval_shape(tiny().apply, variables, larger)
