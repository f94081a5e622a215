"""Grad-CAM of ResNets and ViTs is what hooks in torch give."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from maxsup_jax.diagnostics import gradcam
from maxsup_jax.models.layers import at_layer, saliency_layer
from maxsup_jax.models.resnet import BasicBlock, ResNet
from maxsup_jax.models.vit import ViT
from tests.models.test_resnet_torch import from_torch, torch_resnet


def hooked_maps(torch, net, layer, images, classes, to_map):
  """Grad-CAM by hand: one image, one backward pass, a hook on a module."""
  maps = []
  for image, y in zip(images, classes):
    kept = []
    handle = layer.register_forward_hook(lambda _, __, out: kept.append(out))  # noqa: B023
    logits = net(torch.from_numpy(np.array(image)).permute(2, 0, 1)[None])
    handle.remove()
    gradient = torch.autograd.grad(logits[0, int(y)], kept[0])[0]
    a, g = to_map(kept[0][0].detach()), to_map(gradient[0])  # [C, h, w]
    weights = g.mean((1, 2), keepdim=True)
    maps.append((weights * a).sum(0).clamp(min=0))
  return torch.stack(maps).numpy()


def our_maps(model, variables, images, classes, grid=None):
  apply = at_layer(model, saliency_layer(model))

  @jax.jit
  def differentiated(variables, images):
    return gradcam.class_gradients(
      lambda delta: apply(variables, images, delta), classes
    )

  result = differentiated(variables, images)
  parts = result.activations, result.gradients
  if grid:
    parts = [gradcam.tokens_to_map(p, grid=grid) for p in parts]
  return np.asarray(gradcam.gradcam(*parts))


def test_resnet():
  torch, net = torch_resnet((1, 2), False, 'cifar', width=6)
  model = ResNet(5, (1, 2), BasicBlock, stem='cifar', width=6)
  images = jax.random.normal(jax.random.key(1), (3, 12, 8, 3))
  classes = np.array([0, 4, 2])
  expected = hooked_maps(
    torch, lambda x: net(x)[0], net.layer2_1, images, classes, lambda t: t
  )
  maps = our_maps(model, from_torch(net), images, classes)
  assert maps.shape == (3, 6, 4)
  assert (expected.max((1, 2)) > 0).sum() > 1
  np.testing.assert_allclose(maps, expected, rtol=1e-3, atol=1e-5)


def torch_vit(torch, variables, heads, patch, depth):
  """A ViT of torch modules with the weights of the Flax one."""
  nn = torch.nn
  params = jax.tree.map(
    lambda x: torch.from_numpy(np.array(x)), variables['params']
  )

  def loaded(module, q):
    weight = q.get('kernel', q.get('scale'))
    if weight.ndim == 4:
      weight = weight.permute(3, 2, 0, 1)
    elif weight.ndim == 2:
      weight = weight.T
    module.weight.data, module.bias.data = weight, q['bias']
    return module

  def dense(q):
    return loaded(nn.Linear(*q['kernel'].shape), q)

  def norm(q):
    return loaded(nn.LayerNorm(len(q['bias']), eps=1e-6), q)

  class Block(nn.Module):
    def __init__(self, q):
      super().__init__()
      self.norm1, self.norm2 = norm(q['norm1']), norm(q['norm2'])
      self.qkv, self.proj = dense(q['attn']['qkv']), dense(q['attn']['proj'])
      self.fc1, self.fc2 = dense(q['mlp']['fc1']), dense(q['mlp']['fc2'])

    def forward(self, x):
      parts = self.qkv(self.norm1(x)).chunk(3, -1)
      query, key, value = (
        p.unflatten(-1, (heads, -1)).transpose(1, 2) for p in parts
      )
      scores = query @ key.mT / math.sqrt(query.shape[-1])
      y = (scores.softmax(-1) @ value).transpose(1, 2).flatten(2)
      x = x + self.proj(y)
      y = nn.functional.gelu(self.fc1(self.norm2(x)))
      return x + self.fc2(y)

  class Net(nn.Module):
    def __init__(self):
      super().__init__()
      q = params['patch_embed']
      _, _, c, d = q['kernel'].shape
      self.embed = loaded(nn.Conv2d(c, d, patch, patch), q)
      self.blocks = nn.ModuleList(
        Block(params[f'block{i}']) for i in range(depth)
      )
      self.norm, self.head = norm(params['norm']), dense(params['head'])

    def forward(self, x):
      x = self.embed(x).flatten(2).mT
      x = torch.cat([params['cls_token'].expand(len(x), -1, -1), x], 1)
      x = x + params['pos_embed']
      for block in self.blocks:
        x = block(x)
      return self.head(self.norm(x)[:, 0])

  return Net()


@pytest.fixture
def vit(random_variables):
  torch = pytest.importorskip('torch')
  model = ViT(num_classes=5, dim=12, depth=2, heads=3, patch_size=4)
  images = jax.random.normal(jax.random.key(1), (3, 12, 8, 3))
  variables = random_variables(model, images)
  return torch, model, variables, images


def test_vit(vit):
  torch, model, variables, images = vit
  classes = np.array([1, 4, 2])
  net = torch_vit(torch, variables, heads=3, patch=4, depth=2)
  expected = hooked_maps(
    torch,
    net,
    net.blocks[-1].norm1,
    images,
    classes,
    lambda t: t[1:].unflatten(0, (3, 2)).permute(2, 0, 1),
  )
  maps = our_maps(model, variables, images, classes, grid=(3, 2))
  assert maps.shape == (3, 3, 2)
  assert (expected.max((1, 2)) > 0).sum() > 1
  np.testing.assert_allclose(maps, expected, rtol=1e-3, atol=1e-5)


def test_the_last_tokens_of_a_vit_have_no_gradient(vit):
  _, model, variables, images = vit
  apply = at_layer(model, 'norm')
  result = gradcam.class_gradients(lambda d: apply(variables, images, d))
  # Why the default layer is not the one that gives the tokens.
  assert jnp.abs(result.gradients[:, 0]).max() > 0
  assert jnp.abs(result.gradients[:, 1:]).max() == 0
