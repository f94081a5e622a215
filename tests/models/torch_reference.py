"""For references in torch that read the parameters of a Flax model.

A reference is a function `(net, images_NCHW) -> (logits, feature_map_NCHW)`
that names the layers, and computes with torch's functions alone.
"""

import jax
import numpy as np
import pytest


class TorchNet:
  """The layers of a model, by their paths in the tree of parameters."""

  def __init__(self, variables, *, train=False):
    self.torch = pytest.importorskip('torch')
    self.functional = self.torch.nn.functional
    self.variables = jax.tree.map(
      lambda x: self.torch.from_numpy(np.array(x)), variables
    )
    self.train = train
    self.statistics = {}

  def leaf(self, path, collection='params'):
    tree = self.variables[collection]
    for name in path.split('/'):
      tree = tree[name]
    return tree

  def conv(self, x, path, stride=1, groups=1, bias=False, dilation=1):
    kernel = self.leaf(f'{path}/kernel').permute(3, 2, 0, 1)
    return self.functional.conv2d(
      x,
      kernel,
      self.leaf(f'{path}/bias') if bias else None,
      stride=stride,
      padding=kernel.shape[-1] // 2 * dilation,
      groups=groups,
      dilation=dilation,
    )

  def bn(self, x, path):
    old = self.leaf(path, 'batch_stats')
    if self.train:
      mean, var = x.mean((0, 2, 3)), x.var((0, 2, 3), correction=0)
      self.statistics[path] = {
        'mean': 0.9 * old['mean'] + 0.1 * mean,
        'var': 0.9 * old['var'] + 0.1 * var,
      }
    else:
      mean, var = old['mean'], old['var']
    q = self.leaf(path)
    return self.functional.batch_norm(
      x, mean, var, q['scale'], q['bias'], eps=1e-5
    )

  def blur(self, x):
    row = self.torch.tensor([1.0, 2.0, 1.0])
    kernel = (row[:, None] * row / 16).expand(x.shape[1], 1, 3, 3)
    return self.functional.conv2d(x, kernel, padding=1, groups=x.shape[1])

  def dense(self, x, path):
    q = self.leaf(path)
    return self.functional.linear(x, q['kernel'].T, q['bias'])


def compare(model, variables, images, reference, *, train, **tolerances):
  """Asserts that a model and its reference agree; returns the model's result.

  Everything is compared: logits, feature map and, in training, the statistics
  of every BatchNorm.
  """
  tolerances = {'rtol': 1e-3, 'atol': 1e-4} | tolerances
  net = TorchNet(variables, train=train)
  with net.torch.no_grad():
    images_NCHW = net.torch.from_numpy(np.array(images).transpose(0, 3, 1, 2))
    expected, feature_map = reference(net, images_NCHW)

  (logits, out), updates = jax.jit(
    lambda v, x: model.apply(v, x, train=train, mutable=['batch_stats'])
  )(variables, images)
  feature_map = feature_map.permute(0, 2, 3, 1)
  np.testing.assert_allclose(out['feature_map'], feature_map, **tolerances)
  np.testing.assert_allclose(logits, expected, **tolerances)

  stats = updates.get('batch_stats', {})
  count = len(jax.tree.leaves(variables.get('batch_stats', {})))
  if train:
    assert 2 * len(net.statistics) == count
  for path, values in net.statistics.items():
    actual = stats
    for name in path.split('/'):
      actual = actual[name]
    for name, value in values.items():
      np.testing.assert_allclose(
        actual[name], value, **tolerances, err_msg=path
      )
  return logits, out, updates
