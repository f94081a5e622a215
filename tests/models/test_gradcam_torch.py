"""Grad-CAM of ResNets and ViTs is what hooks in torch give."""

import jax
import numpy as np
import pytest

from maxsup_jax.diagnostics import gradcam
from maxsup_jax.models import torch_weights
from maxsup_jax.models.layers import at_layer, saliency_layer
from maxsup_jax.models.resnet import BasicBlock, ResNet
from maxsup_jax.models.vit import ViT
from tests.models.test_torch_weights import arrays_of, shapes_of, torch_of


def hooked_maps(net, layer, images, classes, to_map):
  """Grad-CAM by hand: one image, one backward pass, a hook on a module."""
  torch = pytest.importorskip('torch')
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


@pytest.mark.parametrize(
  ('model', 'layer_of', 'grid'),
  [
    (
      ResNet(5, (1, 2), BasicBlock, stem='cifar', width=6),
      lambda net: net.layer2[1],
      None,
    ),
    (
      ViT(5, dim=12, depth=2, heads=3, patch_size=4),
      lambda net: net.blocks[-1].norm1,
      (4, 4),
    ),
  ],
)
def test_same_maps_as_torch(model, layer_of, grid):
  images = jax.random.normal(jax.random.key(1), (3, 16, 16, 3))
  classes = np.array([0, 4, 2])
  net = torch_of(model)
  variables = torch_weights.from_torch(
    arrays_of(net), model, shapes_of(model, (16, 16))
  )

  def to_map(t):
    return t[1:].unflatten(0, grid).permute(2, 0, 1) if grid else t

  expected = hooked_maps(net, layer_of(net), images, classes, to_map)
  apply = at_layer(model, saliency_layer(model))
  result = jax.jit(
    lambda variables, images: gradcam.class_gradients(
      lambda delta: apply(variables, images, delta), classes
    )
  )(variables, images)
  parts = result.activations, result.gradients
  if grid:
    parts = [gradcam.tokens_to_map(p, grid=grid) for p in parts]
  assert expected.max() > 0.01
  np.testing.assert_allclose(
    gradcam.gradcam(*parts), expected, rtol=1e-3, atol=1e-5
  )
