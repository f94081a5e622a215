"""torchvision and timm themselves, where they can be imported."""

import pytest

from maxsup_jax.models import create_model
from tests.models import test_torch_weights as weights

CASES = [
  ('torchvision', 'resnet18', 'resnet18', {}),
  ('torchvision', 'resnet34', 'resnet34', {}),
  ('torchvision', 'resnet50', 'resnet50', {}),
  ('torchvision', 'resnet50', 'resnet50', {'blur_pool': True}),
  ('torchvision', 'resnet101', 'resnet101', {}),
  ('torchvision', 'mobilenet_v2', 'mobilenet_v2', {}),
  ('torchvision', 'mobilenet_v2', 'mobilenet_v2', {'blur_pool': True}),
  ('timm', 'vit_tiny_patch16_224', 'vit_tiny', {}),
  ('timm', 'vit_small_patch16_224', 'vit_small', {}),
  ('timm', 'deit_small_patch16_224', 'vit_small', {}),
  ('timm', 'vit_base_patch16_224', 'vit_base', {}),
  ('timm', 'resnet50', 'resnet50', {}),
]


@pytest.mark.slow
@pytest.mark.filterwarnings('default')  # of the libraries
@pytest.mark.parametrize(('library', 'theirs', 'ours', 'options'), CASES)
def test_same_logits_and_names(library, theirs, ours, options):
  torch = pytest.importorskip('torch')
  package = pytest.importorskip(library)
  from experiments.benchmark import torch_models

  if library == 'timm':
    net = package.create_model(theirs, num_classes=10)
  else:
    net = getattr(package.models, theirs)(weights=None, num_classes=10)
  if options.get('blur_pool'):
    torch_models.insert_blur_pool(net)
  net = weights.randomized(net)
  size = (224, 224) if ours.startswith('vit') else (64, 96)
  weights.assert_same_logits(net, create_model(ours, 10, **options), size)

  own = torch_models.create(ours, 10, **options).eval()
  assert list(own.state_dict()) == list(net.state_dict())
  own.load_state_dict(net.state_dict(), strict=True)
  images = torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(0))
  with torch.no_grad():
    torch.testing.assert_close(own(images), net(images), atol=1e-5, rtol=1e-5)
