"""UperNet, against what mmsegmentation 1.2.2 computed of random weights.

`fixtures/mmseg_upernet.npz` is its DeiT-S16 configuration with the neck, made
small: 12 channels, 4 blocks, patches of 4x4 learned for 16x16 pixels, K = 5;
images of 18x26 pixels, 5x7 patches with padding.
"""

import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from maxsup_jax.errors import UsageError
from maxsup_jax.models import (
  UPerNet,
  ViT,
  ViTBackbone,
  count_parameters,
  create_segmenter,
  parameter_kinds,
  torch_weights,
)
from maxsup_jax.models.upernet import FCNHead, MultiLevelNeck

FIXTURE = pathlib.Path(__file__).parents[1] / 'fixtures' / 'mmseg_upernet.npz'
TINY = {'dim': 12, 'depth': 4, 'heads': 3, 'patch_size': 4}
TINY |= {'features': 8, 'auxiliary_features': 6, 'num_classes': 5}


def tiny(**fields):
  fields = {'dropout': 0.0, 'drop_path': 0.0} | fields
  return UPerNet(**TINY | fields)


def shapes_of(model, size=16):
  images = jax.ShapeDtypeStruct((2, size, size, 3), jnp.float32)
  return jax.eval_shape(model.init, jax.random.key(0), images)


@pytest.fixture(scope='module')
def mmseg():
  with np.load(FIXTURE) as file:
    return dict(file)


@pytest.fixture(scope='module')
def weights(mmseg):
  prefix = 'weights/'
  found = {n: v for n, v in mmseg.items() if n.startswith(prefix)}
  return {n.removeprefix(prefix): v for n, v in found.items()}


def converted(weights, **fields):
  model = tiny(**fields)
  return torch_weights.from_torch(weights, model, shapes_of(model))


@pytest.mark.parametrize(
  ('name', 'options', 'classes', 'size', 'expected'),
  [
    pytest.param(
      *('upernet_vit_small', {'neck': 'none'}, 150, 512, 52_093_868),
      marks=pytest.mark.slow,
    ),
    pytest.param(
      *('upernet_vit_small', {'final_norm': True}, 150, 512, 57_995_948),
      marks=pytest.mark.slow,
    ),
    ('upernet_vit_tiny', {}, 11, 64, 534_998),
  ],
)
def test_parameter_counts(name, options, classes, size, expected):
  model = create_segmenter(name, classes, **options)
  params = shapes_of(model, size)['params']
  assert count_parameters(params) == expected


def test_parts_have_the_counts_of_mmsegmentation():
  model = create_segmenter('upernet_vit_small', 150)
  variables = shapes_of(model, 512)
  parts = {n: count_parameters(v) for n, v in variables['params'].items()}
  assert parts == {
    'backbone': 21_982_848,
    'neck': 5_901_312,
    'decoder': 29_187_222 - 76_950,
    'head': 76_950,
    'auxiliary_head': 923_798,
  }
  assert sum(parts.values()) == 57_995_180
  # Of the buffers there, 13 count batches and 6 normalise images.
  assert count_parameters(variables['batch_stats']) == 12_819 - 13 - 6


def test_same_logits_as_mmsegmentation(mmseg, weights):
  model, variables = tiny(), converted(weights)
  logits, out = jax.jit(model.apply)(variables, mmseg['images'])
  np.testing.assert_allclose(logits, mmseg['logits'], atol=1e-4)
  assert set(out) == {'penultimate'}
  head = variables['params']['head']
  by_hand = out['penultimate'] @ head['kernel'] + head['bias']
  np.testing.assert_allclose(by_hand, logits, atol=1e-4)

  backbone = {'params': variables['params']['backbone']}
  maps = jax.jit(model.make_backbone().apply)(backbone, mmseg['images'])
  for i in (0, 3):
    np.testing.assert_allclose(maps[i], mmseg[f'map{i}'], atol=1e-4)


@pytest.mark.slow
def test_same_training_as_mmsegmentation(mmseg, weights):
  model, variables = tiny(), converted(weights)
  (logits, out), updates = jax.jit(
    lambda v, x: model.apply(v, x, train=True, mutable=['batch_stats'])
  )(variables, mmseg['images'])
  np.testing.assert_allclose(logits, mmseg['train_logits'], atol=2e-4)
  auxiliary = out['auxiliary']
  np.testing.assert_allclose(auxiliary, mmseg['train_auxiliary'], atol=2e-4)
  found = updates['batch_stats']['decoder']['fusion']['bn']['mean']
  np.testing.assert_allclose(found, mmseg['train_mean'], atol=1e-5)


def test_the_way_back_to_mmsegmentation_has_the_same_bits(weights):
  model = tiny()
  back = torch_weights.to_torch(converted(weights), model, batches=37)
  extra = {'backbone.patch_embed.projection.bias'}
  assert set(back) == {*weights} | extra
  assert not back[extra.pop()].any()
  for name, value in weights.items():
    np.testing.assert_array_equal(back[name], value, err_msg=name)
    assert back[name].shape == value.shape


def test_an_auxiliary_head_that_is_left_out(weights):
  params = converted(weights, auxiliary=False)['params']
  assert 'auxiliary_head' not in params
  del params['head']
  with_it = converted(weights)['params']
  np.testing.assert_array_equal(
    params['decoder']['fusion']['conv']['kernel'],
    with_it['decoder']['fusion']['conv']['kernel'],
  )


def test_refuses_weights_of_others(weights):
  classifier = ViT(7, 12, 4, 3, patch_size=4)
  timm = torch_weights.to_torch(
    jax.tree.map(lambda x: np.ones(x.shape, 'float32'), shapes_of(classifier)),
    classifier,
  )
  with pytest.raises(UsageError, match='names of timm, of a classifier of im'):
    converted(timm)
  lacking = {n: v for n, v in weights.items() if 'patch_embed' not in n}
  with pytest.raises(UsageError, match=r"no 'backbone\.patch_embed\.projecti"):
    converted(lacking)
  other = weights | {'decode_head.conv_seg.bias': np.zeros(9, np.float32)}
  with pytest.raises(UsageError, match=r'\[9\] .* another number of classes'):
    converted(other)
  with pytest.raises(UsageError, match=r"has 'auxiliary_head\.extra'"):
    converted(weights | {'auxiliary_head.extra': np.zeros(1)})


def test_a_backbone_from_weights_of_a_classifier():
  """What the head and the final norm were is of no use; positions grow."""
  classifier = ViT(7, 12, 4, 3, patch_size=4)
  rng = np.random.default_rng(0)
  variables = jax.tree.map(
    lambda x: rng.normal(size=x.shape).astype('float32'),
    shapes_of(classifier),
  )
  timm = torch_weights.to_torch(variables, classifier)
  backbone = ViTBackbone(dim=12, depth=4, heads=3, patch_size=4, levels=(3,))
  like = shapes_of(backbone, 24)
  with pytest.raises(UsageError, match='positions of another size of images'):
    torch_weights.from_torch(timm, backbone, like, head=False)
  found = torch_weights.from_torch(
    timm, backbone, like, head=False, resize_positions='bicubic'
  )
  assert jax.tree.structure(found) == jax.tree.structure(like)
  qkv = variables['params']['block3']['attn']['qkv']['kernel']
  np.testing.assert_array_equal(
    found['params']['block3']['attn']['qkv']['kernel'], qkv
  )
  assert found['params']['pos_embed'].shape == (1, 37, 12)


@pytest.mark.slow
def test_initial_values():
  """Of each kind of layer; to initialise a whole net takes long to compile."""

  def params(module, inputs):
    return jax.jit(module.init)(jax.random.key(0), inputs)['params']

  head = params(FCNHead(150, 32), jnp.zeros((2, 2, 2, 32)))
  sd = (2 / (9 * 32)) ** 0.5
  assert head['conv']['conv']['kernel'].std() == pytest.approx(sd, rel=0.02)
  np.testing.assert_array_equal(head['conv']['bn']['scale'], 1)
  assert head['head']['kernel'].std() == pytest.approx(0.01, rel=0.05)
  np.testing.assert_array_equal(head['head']['bias'], 0)
  neck = params(MultiLevelNeck(32), [jnp.zeros((1, 2, 2, 64))] * 4)
  for layer, bound in (('lateral3', 6 / 96), ('conv3', 6 / (9 * 64))):
    kernel = abs(neck[layer]['kernel'])
    assert 0.99 * bound**0.5 < kernel.max() <= bound**0.5
    np.testing.assert_array_equal(neck[layer]['bias'], 0)


@pytest.mark.slow
def test_four_devices_give_what_one_gives(random_variables):
  """Drawn channels, paths and batch statistics are those of the batch."""
  fields = {'dropout': 0.5, 'drop_path': 0.5}
  images = np.random.default_rng(0).normal(size=(8, 16, 16, 3))
  images = images.astype(np.float32)
  one = tiny(**fields)
  variables = random_variables(one, images)

  def train(model, variables, images):
    rngs = {'drop_path': jax.random.key(7)}
    (logits, out), updates = model.apply(
      variables, images, train=True, rngs=rngs, mutable=['batch_stats']
    )
    return logits, out['auxiliary'], updates['batch_stats']

  expected = jax.jit(lambda v, x: train(one, v, x))(variables, images)
  many = tiny(**fields, batch_axis='devices', batch_norm_axis='devices')
  found = jax.vmap(
    lambda v, x: train(many, v, x), in_axes=(None, 0), axis_name='devices'
  )
  found = jax.jit(found)(variables, images.reshape(4, 2, 16, 16, 3))
  for a, b in zip(found[:2], expected[:2]):
    np.testing.assert_allclose(a.reshape(b.shape), b, rtol=1e-3, atol=1e-3)
  for a, b in zip(jax.tree.leaves(found[2]), jax.tree.leaves(expected[2])):
    np.testing.assert_allclose(a[0], b, rtol=1e-3, atol=1e-4)


def test_whole_channels_are_dropped():
  from maxsup_jax.models import ChannelDropout

  x = jnp.ones((3, 4, 5, 16))
  drop = ChannelDropout(0.25)
  y = drop.apply({}, x, train=True, rngs={'drop_path': jax.random.key(0)})
  np.testing.assert_array_equal(y, jnp.broadcast_to(y[:, :1, :1], x.shape))
  values, counts = np.unique(y[:, 0, 0], return_counts=True)
  np.testing.assert_allclose(values, [0, 4 / 3], rtol=1e-6)
  assert 4 <= counts[0] <= 20
  assert len(np.unique(y[:, 0, 0], axis=0)) == 3
  np.testing.assert_array_equal(drop.apply({}, x), x)


def test_bfloat16_and_kinds():
  model = tiny(dtype=jnp.bfloat16)
  variables = shapes_of(model)
  images = jax.ShapeDtypeStruct((2, 16, 16, 3), jnp.float32)
  (logits, out), _ = jax.eval_shape(
    lambda v, x: model.apply(v, x, train=True, mutable=['batch_stats']),
    variables,
    images,
  )
  dtypes = {x.dtype for x in jax.tree.leaves((variables, logits, out))}
  assert dtypes == {np.dtype('float32')}
  kinds = parameter_kinds(model, images.shape)
  embeddings = [
    path
    for path, kind in jax.tree.leaves_with_path(kinds)
    if kind == 'embedding'
  ]
  # Those that the recipe does not decay.
  assert {path[-1].key for path in embeddings} == {'cls_token', 'pos_embed'}


@pytest.mark.parametrize(
  ('fields', 'message'),
  [
    ({'neck': 'fpn'}, "neck is 'fpn'; expected one of multilevel, none"),
    ({'depth': 6}, 'depth is 6; expected a multiple of 4'),
    ({'num_classes': 0}, 'num_classes is 0'),
    ({'heads': 5}, 'heads is 5; expected a divisor of dim=12'),
    ({'positions': 'linear'}, "positions is 'linear'"),
    ({'auxiliary': 'no'}, "auxiliary is 'no'; expected True or False"),
  ],
)
def test_refuses_other_fields(fields, message):
  with pytest.raises(UsageError, match=message):
    tiny(**fields)


def test_refuses_other_images():
  model = tiny()
  variables = shapes_of(model)

  def apply(shape, **options):
    images = jax.ShapeDtypeStruct(shape, jnp.float32)
    jax.eval_shape(lambda v, x: model.apply(v, x, **options), variables, images)

  with pytest.raises(UsageError, match='images are 4x16; expected at least 5x'):
    apply((2, 4, 16, 3))
  train = {'train': True, 'mutable': ['batch_stats']}
  with pytest.raises(UsageError, match='a batch of 1 image in training; exp'):
    apply((1, 16, 16, 3), **train)
  apply((1, 16, 16, 3))
