"""Weights of PyTorch models give the logits that PyTorch gives, and return."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from maxsup_jax.errors import UsageError
from maxsup_jax.models import (
  BasicBlock,
  BlurPool,
  BottleneckBlock,
  MobileNetV2,
  ResNet,
  ViT,
  create_model,
  torch_weights,
)
from maxsup_jax.models._torch_names import names_of

K = 7
SIZE = (32, 32)
MODEL = ResNet(K, (1, 1), BasicBlock, width=16)


def torch_of(model):
  """The PyTorch model of one of ours, with random weights and statistics."""
  torch = pytest.importorskip('torch')
  from experiments.benchmark import torch_models

  torch.manual_seed(0)
  if isinstance(model, ResNet):
    blocks = {
      BasicBlock: torch_models.BasicBlock,
      BottleneckBlock: torch_models.Bottleneck,
    }
    net = torch_models.ResNet(
      model.num_classes,
      blocks[model.block],
      model.stage_sizes,
      model.width,
      model.blur_pool,
    )
    if model.stem == 'cifar':
      net.conv1 = torch.nn.Conv2d(3, model.width, 3, padding=1, bias=False)
      net.maxpool = torch.nn.Identity()
  elif isinstance(model, MobileNetV2):
    net = torch_models.create(
      'mobilenet_v2', model.num_classes, blur_pool=model.blur_pool
    )
  else:
    net = torch_models.create(
      'vit_tiny',
      model.num_classes,
      dim=model.dim,
      depth=model.depth,
      heads=model.heads,
      patch_size=model.patch_size,
      image_size=4 * model.patch_size,
    )
  return randomized(net)


def randomized(net):
  """Nothing stays at its initial value, statistics and counters included."""
  torch = pytest.importorskip('torch')
  generator = torch.Generator().manual_seed(0)
  for name, value in net.state_dict().items():
    if name.endswith('num_batches_tracked'):
      value.fill_(37)
    elif value.ndim == 1:
      value.copy_(torch.rand(value.shape, generator=generator) + 0.5)
    elif not name.endswith('blur_filter'):
      normal = torch.randn(value.shape, generator=generator)
      value.copy_(normal / value[0].numel() ** 0.5)
  return net.eval()


def arrays_of(net):
  return {name: value.numpy() for name, value in net.state_dict().items()}


def shapes_of(model, size):
  return jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, *size, 3)))


def assert_same_logits(net, model, size, variables=None):
  """Returns the variables and the logits."""
  torch = pytest.importorskip('torch')
  if variables is None:
    variables = torch_weights.from_torch(
      arrays_of(net), model, shapes_of(model, size)
    )
  images = np.random.default_rng(1).normal(size=(2, *size, 3))
  images = images.astype(np.float32)
  logits, _ = jax.jit(model.apply)(variables, images)
  with torch.no_grad():
    expected = net(torch.from_numpy(images.transpose(0, 3, 1, 2)))
  assert expected.std() > 0.1
  np.testing.assert_allclose(logits, expected, atol=1e-4, rtol=1e-5)
  return variables, logits


TINY = [
  pytest.param(ResNet(K, (2, 1), BasicBlock, width=8), (33, 32), id='basic'),
  pytest.param(
    ResNet(K, (1, 1), BasicBlock, width=16, blur_pool=True),
    (32, 37),
    id='basic-blur',
  ),
  pytest.param(
    ResNet(K, (1, 2), BottleneckBlock, width=16, blur_pool=True),
    (32, 37),
    id='bottleneck-blur',
  ),
  pytest.param(
    ResNet(K, (1, 1, 1), BasicBlock, width=8, stem='cifar'),
    (8, 9),
    id='cifar',
  ),
  pytest.param(MobileNetV2(K, blur_pool=True), (32, 33), id='mobilenet-blur'),
  pytest.param(ViT(K, 24, 2, 3, patch_size=4), (16, 16), id='vit'),
]


@pytest.mark.usefixtures('cached_compilation')
@pytest.mark.parametrize(('model', 'size'), TINY)
def test_same_logits_as_torch(model, size):
  assert_same_logits(torch_of(model), model, size)


def test_faint_tokens_as_in_torch():
  """A faint residual stream shows the epsilon of the norms."""
  model = ViT(K, 24, 1, 3, patch_size=4)
  net = torch_of(model)
  for name, value in net.state_dict().items():
    if not name.startswith(('norm', 'head')):
      value.mul_(1e-2)
  assert_same_logits(net, model, (16, 16))


def test_same_training_as_torch():
  torch = pytest.importorskip('torch')
  net = torch_of(MODEL)
  before = from_torch(arrays_of(net))
  before = jax.tree.map(jnp.array, before)  # torch updates in place
  images = np.random.default_rng(1).normal(size=(4, *SIZE, 3))
  images = images.astype(np.float32)
  (logits, _), updates = jax.jit(
    lambda v, x: MODEL.apply(v, x, train=True, mutable=['batch_stats'])
  )(before, images)
  net.train()
  with torch.no_grad():
    expected = net(torch.from_numpy(images.transpose(0, 3, 1, 2)))
  np.testing.assert_allclose(logits, expected, rtol=1e-3, atol=1e-3)
  ours, theirs = (
    x['batch_stats']['bn1'] for x in (updates, from_torch(arrays_of(net)))
  )
  np.testing.assert_allclose(ours['mean'], theirs['mean'], rtol=1e-4, atol=1e-6)
  # Torch adds the unbiased variance, Flax the biased one.
  n, old = 4 * 16 * 16, 0.9 * before['batch_stats']['bn1']['var']
  np.testing.assert_allclose(
    (ours['var'] - old) * n / (n - 1), theirs['var'] - old, rtol=1e-3, atol=1e-5
  )


BOTH_WAYS = [
  create_model('resnet18', K),
  create_model('resnet50', K, blur_pool=True),
  MobileNetV2(K),
  ViT(K, 12, 11, 3, patch_size=8),
]


@pytest.mark.parametrize('model', BOTH_WAYS)
def test_the_way_back_has_the_same_bits(model):
  torch = pytest.importorskip('torch')
  net = torch_of(model)
  given = arrays_of(net)
  variables = torch_weights.from_torch(given, model, shapes_of(model, SIZE))
  back = torch_weights.to_torch(variables, model, batches=37)
  assert given.keys() == back.keys()
  for key, value in given.items():
    assert value.dtype == back[key].dtype, key
    assert value.shape == back[key].shape, key
    np.testing.assert_array_equal(value, back[key], err_msg=key)
  tensors = {key: torch.from_numpy(value) for key, value in back.items()}
  net.load_state_dict(tensors, strict=True)


@pytest.mark.parametrize('name', ['resnet18', 'mobilenet_v2'])
def test_blurs_are_named_where_the_model_blurs(name):
  import flax.linen as nn

  model = create_model(name, K, blur_pool=True)
  blurred = {}

  def watch(call, args, kwargs, context):
    if isinstance(context.module, BlurPool):
      *block, layer = context.module.path
      conv = 'conv' if layer == 'blur' else layer.removesuffix('_blur')
      blurred[*block, conv] = args[0].shape[-1]
    return call(*args, **kwargs)

  with nn.intercept_methods(watch):
    like = shapes_of(model, (64, 64))
  names = names_of(model, like)
  weight_of = {p.path[1:-1]: p.name for p in names.places}
  assert blurred
  assert names.blurs == {
    weight_of[path].replace('.conv.weight', '.blur_filter'): (channels, 1, 3, 3)
    for path, channels in blurred.items()
  }


@pytest.fixture
def weights():
  return arrays_of(torch_of(MODEL))


def from_torch(weights, model=MODEL, **options):
  return torch_weights.from_torch(
    weights, model, shapes_of(model, SIZE), **options
  )


def assert_same_trees(a, b):
  assert jax.tree.structure(a) == jax.tree.structure(b)
  jax.tree.map(np.testing.assert_array_equal, a, b)


@pytest.mark.parametrize('prefix', ['module.', 'module._orig_mod.model.'])
def test_prefixes_that_all_names_share(weights, prefix):
  named = {prefix + name: value for name, value in weights.items()}
  named['n_averaged'] = np.array(3)  # As averaged models have.
  assert_same_trees(from_torch(named), from_torch(weights))


def test_a_prefix_that_is_chosen(weights):
  expected = from_torch(weights)
  named = {f'student.{name}': value for name, value in weights.items()}
  named['criterion.matrix'] = np.zeros(3)
  assert_same_trees(from_torch(named, prefix='student.'), expected)
  with pytest.raises(
    UsageError, match=r"has no 'bn1.bias'; it has 'student\.bn"
  ):
    from_torch(named)
  with pytest.raises(
    UsageError, match=r"prefix is 'net\.', .* first is 'student\.co"
  ):
    from_torch(named, prefix='net.')
  with pytest.raises(UsageError, match='has no known PyTorch names'):
    torch_weights.to_torch({}, create_model('alexnet_cifar', K))


@pytest.mark.parametrize('dtype', [jnp.bfloat16, 'float64'])
def test_stored_in_another_precision(weights, dtype):
  stored = {
    name: value.astype(dtype) if value.dtype == np.float32 else value
    for name, value in weights.items()
  }
  found = jax.tree.leaves(from_torch(stored))
  exact = jax.tree.leaves(from_torch(weights))
  assert {x.dtype for x in found} == {np.dtype('float32')}
  for a, b in zip(found, exact, strict=True):
    np.testing.assert_array_equal(a, b.astype(dtype).astype(np.float32))


def changed(weights, removed=(), **added):
  kept = {n: value for n, value in weights.items() if n not in removed}
  return kept | {n.replace('__', '.'): value for n, value in added.items()}


@pytest.mark.parametrize(
  ('change', 'message'),
  [
    (lambda w: {}, 'the weights are empty'),
    (lambda w: changed(w, ['bn1.weight']), "has no 'bn1.weight'"),
    (
      lambda w: changed(w, layer9=np.zeros((2, 3))),
      r"the state dict has 'layer9', \[2, 3\], which the model lacks",
    ),
    (
      lambda w: changed(w, conv1__weight=np.zeros((16, 3, 3, 3))),
      r'conv1.weight: \[16, 3, 3, 3\] in the weights, \[16, 3, 7, 7\] in t',
    ),
    (
      lambda w: changed(w, bn1__weight=np.zeros(16, int)),
      'bn1.weight is int64; expected floating point',
    ),
    (
      lambda w: changed(w, fc__weight=np.zeros((9, 32))),
      r'fc.weight: \[9, 32\] .* \[7, 32\] .* another number of classes',
    ),
    (
      lambda w: changed(w, layer2__0__conv1__blur_filter=np.zeros(1)),
      r"have BlurPool \('layer2.0.conv1.blur_filter'\), but the model does not",
    ),
    (
      lambda w: changed(w, head_dist__bias=np.zeros(7)),
      "have 'head_dist.bias', as a distilled DeiT does",
    ),
    (
      lambda w: changed(w, fc__bias=np.full(7, np.nan)),
      'fc.bias has numbers that are not finite in float32',
    ),
    (
      lambda w: changed(w, fc__bias=np.full(7, 1e300)),
      'fc.bias has numbers that are not finite in float32',
    ),
    (
      lambda w: changed(w, bn1__running_var=-w['bn1.running_var']),
      'bn1.running_var has negative variances',
    ),
  ],
)
def test_refuses_other_weights(weights, change, message):
  with pytest.raises(UsageError, match=message) as error:
    from_torch(change(weights))
  assert '\n' not in str(error.value)


def test_refuses_other_blurs(weights):
  model = ResNet(K, (1, 1), BasicBlock, width=16, blur_pool=True)
  with pytest.raises(UsageError, match='blur_pool=True, but the weights have'):
    from_torch(weights, model)
  blurred = arrays_of(torch_of(model))
  lacking = changed(blurred, ['layer2.0.conv1.blur_filter'])
  with pytest.raises(UsageError, match=r"no 'layer2\.0\.conv1\.blur_filter'"):
    from_torch(lacking, model)
  name = 'layer2.0.downsample.0.blur_filter'
  blurred[name] = np.full_like(blurred[name], 1 / 9)
  with pytest.raises(UsageError, match=f'{name}: expected the kernel'):
    from_torch(blurred, model)
  blurred[name] = blurred[name][:3]
  with pytest.raises(UsageError, match=r'\[3, 1, 3, 3\] .* \[16, 1, 3, 3\]'):
    from_torch(blurred, model)


def test_a_head_that_is_left_out(weights):
  other = changed(weights, fc__weight=np.zeros((9, 32)), fc__bias=np.zeros(9))
  assert torch_weights.count_classes(other, MODEL) == 9
  found = from_torch(other, head=False)
  expected = from_torch(weights)
  del expected['params']['head']
  assert_same_trees(found, expected)
  headless = changed(weights, ['fc.weight', 'fc.bias'])
  assert torch_weights.count_classes(headless, MODEL) is None
  assert_same_trees(from_torch(headless, head=False), expected)


def test_classes_in_another_order(weights):
  order = np.random.default_rng(0).permutation(K)
  net = torch_of(MODEL)
  _, plain = assert_same_logits(net, MODEL, SIZE)
  variables = from_torch(weights, class_order=order)
  images = np.random.default_rng(1).normal(size=(2, *SIZE, 3))
  logits, _ = jax.jit(MODEL.apply)(variables, images.astype(np.float32))
  np.testing.assert_array_equal(logits, np.asarray(plain)[:, order])
  back = torch_weights.to_torch(variables, MODEL, batches=37, class_order=order)
  assert_same_trees(back, weights)
  with pytest.raises(UsageError, match='has 6 indices; expected each of the 7'):
    from_torch(weights, class_order=order[1:])
  with pytest.raises(UsageError, match='is float64; expected integers'):
    from_torch(weights, class_order=order.astype(float))


def test_positions_of_another_size():
  torch = pytest.importorskip('torch')
  model = ViT(K, 12, 1, 3, patch_size=4)
  weights = arrays_of(torch_of(model))  # of 4x4 patches
  for side in (2, 4, 7):
    like = shapes_of(model, (4 * side, 4 * side))
    found = torch_weights.from_torch(
      weights, model, like, resize_positions=True
    )['params']['pos_embed']
    grid = weights['pos_embed'][:, 1:].reshape(1, 4, 4, 12)
    expected = torch.nn.functional.interpolate(
      torch.from_numpy(grid.transpose(0, 3, 1, 2).copy()),
      size=(side, side),
      mode='bicubic',
      antialias=True,
    ).permute(0, 2, 3, 1)
    np.testing.assert_allclose(
      found[0, 1:], expected.reshape(side**2, 12), atol=1e-5
    )
    np.testing.assert_array_equal(found[:, 0], weights['pos_embed'][:, 0])
  with pytest.raises(
    UsageError, match=r'\[1, 17, 12\] .* \[1, 50, 12\] .* posi'
  ):
    torch_weights.from_torch(weights, model, like)
  oblong = shapes_of(model, (8, 12))
  with pytest.raises(UsageError, match='expected square images for both'):
    torch_weights.from_torch(weights, model, oblong, resize_positions=True)
