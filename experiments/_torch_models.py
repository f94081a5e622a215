"""The models in PyTorch, under the names of torchvision and timm.

What `maxsup_jax.models` is compared with, in speed and in logits. Names, shapes
and computation are those of torchvision (ResNet, MobileNetV2) and of timm (ViT,
DeiT), with no need for either. PyTorch itself is imported by `create` alone.

  model = create('resnet50', 1000, blur_pool=True).eval()
  logits = model(images_NCHW)
"""

from collections.abc import Callable
from typing import Any

from maxsup_jax.errors import UsageError

_RESNETS = {
  'resnet18': ('basic', (2, 2, 2, 2)),
  'resnet34': ('basic', (3, 4, 6, 3)),
  'resnet50': ('bottleneck', (3, 4, 6, 3)),
  'resnet101': ('bottleneck', (3, 4, 23, 3)),
}
_VITS = {
  'vit_tiny': {'dim': 192, 'depth': 12, 'heads': 3},
  'vit_small': {'dim': 384, 'depth': 12, 'heads': 6},
  'vit_base': {'dim': 768, 'depth': 12, 'heads': 12},
}

NAMES = (*_RESNETS, 'mobilenet_v2', *_VITS)


def create(name: str, num_classes: int, **options: Any) -> Any:
  """Builds a model, in training mode, with fresh weights of torch's generator.

  Args:
    name: one of `NAMES`, the names of `maxsup_jax.models` too.
    num_classes: K.
    **options: ResNets: `width` (64), `blur_pool` (False). `mobilenet_v2`:
      `dropout` (0.2), `blur_pool` (False). ViTs: `image_size` (224),
      `patch_size` (16), `drop_path` (0.0), and `dim`, `depth` and `heads` in
      place of those that the name stands for.

  Returns:
    A `torch.nn.Module` that maps images, float [B, 3, H, W], to logits [B, K].

  Raises:
    UsageError: an unknown name or option, or PyTorch is not installed.
  """
  if name not in NAMES:
    raise UsageError(f'unknown model {name!r}; known: {", ".join(NAMES)}')
  try:
    import torch  # noqa: F401
  except ImportError:
    raise UsageError(
      "PyTorch is not installed: pip install 'maxsup_jax[torch]'"
    ) from None
  build, fields = _builder(name)
  try:
    return build(num_classes=num_classes, **{**fields, **options})
  except TypeError as error:
    raise UsageError(f'model {name!r}: {error}') from error


def _builder(name: str) -> tuple[Callable[..., Any], dict[str, Any]]:
  """The class of a model, and the fields that its name stands for."""
  if name in _RESNETS:
    from experiments._torch_resnet import ResNet

    block, stage_sizes = _RESNETS[name]
    return ResNet, {'block': block, 'stage_sizes': stage_sizes}
  if name == 'mobilenet_v2':
    from experiments._torch_mobilenet import MobileNetV2

    return MobileNetV2, {}
  from experiments._torch_vit import VisionTransformer

  return VisionTransformer, _VITS[name]
