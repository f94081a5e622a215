"""The ResNets compute what an independent ResNet in torch computes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from maxsup_jax.models.resnet import BasicBlock, BottleneckBlock, ResNet


def torch_resnet(stage_sizes, bottleneck, stem, width):
  """An independent ResNet whose children are named as in the Flax one."""
  torch = pytest.importorskip('torch')
  nn, relu = torch.nn, torch.relu

  class Block(nn.Module):
    def __init__(self, c_in, w, stride):
      super().__init__()
      c_out = 4 * w if bottleneck else w
      sizes = [1, 3, 1] if bottleneck else [3, 3]
      strides = [1, stride, 1] if bottleneck else [stride, 1]
      channels = [c_in, *[w] * (len(sizes) - 1), c_out]
      for i, (k, s) in enumerate(zip(sizes, strides), 1):
        a, b = channels[i - 1], channels[i]
        conv = nn.Conv2d(a, b, k, stride=s, padding=k // 2, bias=False)
        setattr(self, f'conv{i}', conv)
        setattr(self, f'bn{i}', nn.BatchNorm2d(b))
      self.count = len(sizes)
      self.project = stride != 1 or c_in != c_out
      if self.project:
        self.downsample_conv = nn.Conv2d(c_in, c_out, 1, stride, bias=False)
        self.downsample_bn = nn.BatchNorm2d(c_out)

    def forward(self, x):
      y = x
      for i in range(1, self.count + 1):
        y = getattr(self, f'bn{i}')(getattr(self, f'conv{i}')(y))
        y = relu(y) if i < self.count else y
      if self.project:
        x = self.downsample_bn(self.downsample_conv(x))
      return relu(x + y)

  class Net(nn.Module):
    def __init__(self):
      super().__init__()
      k, s = (7, 2) if stem == 'imagenet' else (3, 1)
      self.conv1 = nn.Conv2d(3, width, k, s, padding=k // 2, bias=False)
      self.bn1 = nn.BatchNorm2d(width)
      self.blocks, c = [], width
      for stage, size in enumerate(stage_sizes):
        for i in range(size):
          w = width * 2**stage
          block = Block(c, w, 2 if stage and not i else 1)
          name, c = f'layer{stage + 1}_{i}', 4 * w if bottleneck else w
          setattr(self, name, block)
          self.blocks.append(name)
      self.head = nn.Linear(c, 5)

    def forward(self, x):
      x = relu(self.bn1(self.conv1(x)))
      if stem == 'imagenet':
        x = torch.nn.functional.max_pool2d(x, 3, 2, 1)
      for name in self.blocks:
        x = getattr(self, name)(x)
      return self.head(x.mean((2, 3))), x

  torch.manual_seed(0)
  net = Net().eval()
  for module in net.modules():
    if isinstance(module, nn.BatchNorm2d):
      for tensor in (module.weight, module.running_var):
        nn.init.uniform_(tensor, 0.5, 1.5)
      for tensor in (module.bias, module.running_mean):
        nn.init.normal_(tensor, std=0.3)
  return torch, net


def from_torch(net):
  """The same weights as Flax variables."""
  names = {
    'weight': ('params', 'scale'),
    'bias': ('params', 'bias'),
    'running_mean': ('batch_stats', 'mean'),
    'running_var': ('batch_stats', 'var'),
  }
  variables = {'params': {}, 'batch_stats': {}}
  for path, tensor in net.state_dict().items():
    *modules, leaf = path.split('.')
    if leaf == 'num_batches_tracked':
      continue
    value = tensor.numpy()
    collection, name = names[leaf]
    if leaf == 'weight' and value.ndim > 1:
      name = 'kernel'
      value = value.transpose(2, 3, 1, 0) if value.ndim == 4 else value.T
    tree = variables[collection]
    for module in modules:
      tree = tree.setdefault(module, {})
    tree[name] = jnp.array(value)
  return variables


CASES = [
  pytest.param((1, 2), False, 'imagenet', (37, 42), id='basic-imagenet'),
  pytest.param((2, 1, 1), False, 'cifar', (11, 8), id='basic-cifar'),
  pytest.param((1, 2), True, 'imagenet', (32, 35), id='bottleneck-imagenet'),
  pytest.param((1, 1, 1), True, 'cifar', (8, 9), id='bottleneck-cifar'),
]


@pytest.mark.parametrize(('stage_sizes', 'bottleneck', 'stem', 'size'), CASES)
def test_same_logits_as_torch(stage_sizes, bottleneck, stem, size):
  torch, net = torch_resnet(stage_sizes, bottleneck, stem, width=6)
  block = BottleneckBlock if bottleneck else BasicBlock
  model = ResNet(5, stage_sizes, block, stem=stem, width=6)
  images = jax.random.normal(jax.random.key(1), (2, *size, 3))
  variables = from_torch(net)
  like = jax.eval_shape(model.init, jax.random.key(0), images)
  assert jax.tree.structure(variables) == jax.tree.structure(like)

  logits, out = jax.jit(model.apply)(variables, images)

  with torch.no_grad():
    images_NCHW = torch.from_numpy(np.array(images).transpose(0, 3, 1, 2))
    expected, feature_map = net(images_NCHW)
  np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-5)
  np.testing.assert_allclose(
    out['feature_map'], feature_map.permute(0, 2, 3, 1), rtol=1e-4, atol=1e-4
  )


def test_same_training_as_torch():
  torch, net = torch_resnet((1, 1), False, 'cifar', width=6)
  model = ResNet(5, (1, 1), BasicBlock, stem='cifar', width=6)
  images = jax.random.normal(jax.random.key(1), (4, 8, 8, 3))
  before = from_torch(net)
  before = jax.tree.map(jnp.copy, before)  # torch updates in place

  (logits, _), updates = jax.jit(
    lambda v, x: model.apply(v, x, train=True, mutable=['batch_stats'])
  )(before, images)

  net.train()
  with torch.no_grad():
    expected, _ = net(torch.from_numpy(np.array(images).transpose(0, 3, 1, 2)))
  after = from_torch(net)['batch_stats']
  np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-4)
  stem, old = updates['batch_stats']['bn1'], before['batch_stats']['bn1']
  np.testing.assert_allclose(stem['mean'], after['bn1']['mean'], rtol=1e-4)
  # Torch adds the unbiased variance, Flax the biased one.
  n = 4 * 8 * 8
  share = stem['var'] - 0.9 * old['var']
  torch_share = after['bn1']['var'] - 0.9 * old['var']
  np.testing.assert_allclose(share * n / (n - 1), torch_share, rtol=1e-3)
