"""The names that PyTorch's libraries give to the parameters of models here.

Those of torchvision to ResNets and MobileNets, of timm to ViTs and Inception-v4
and of mmsegmentation 1.2.2 to UperNets.

Every array of a model has one place in a state dict; what a state dict has
besides are counters of BatchNorm and the constant kernels of BlurPool.
"""

import dataclasses
import itertools
import re
from collections.abc import Callable, Mapping
from typing import Any

import flax
import flax.linen as nn

from maxsup_jax.errors import UsageError
from maxsup_jax.models.inception import STEM_BLOCKS, InceptionV4
from maxsup_jax.models.mobilenet import MobileNetV2
from maxsup_jax.models.resnet import BasicBlock, ResNet
from maxsup_jax.models.upernet import POOLED, UPerNet
from maxsup_jax.models.vit import ViT, ViTBackbone

Path = tuple[str, ...]

_LEAVES = {
  'kernel': 'weight',
  'scale': 'weight',
  'bias': 'bias',
  'mean': 'running_mean',
  'var': 'running_var',
}


@dataclasses.dataclass(frozen=True)
class Place:
  """Where one array is, here and there."""

  path: Path  # In the variables, with the collection first.
  name: str  # In the state dict.
  # Of the array there, in the order of those here; None if they agree.
  axes: tuple[int, ...] | None
  shape: tuple[int, ...]  # Of the array there.
  here: tuple[int, ...]  # The shape of the array here.


@dataclasses.dataclass(frozen=True)
class Names:
  """The state dict of a model."""

  places: tuple[Place, ...]  # Of all the arrays of the model.
  counters: tuple[str, ...]  # Names of BatchNorm's counters of batches.
  # Names of the kernels of BlurPool, and their shapes.
  blurs: Mapping[str, tuple[int, ...]]
  head: str  # The name of the classifier.
  heads: tuple[str, ...]  # That, and those of auxiliary classifiers.
  # Names that may be missing; their arrays are zeros then.
  optional: tuple[str, ...] = ()
  # What names may begin with that the model has no use for.
  unused: tuple[str, ...] = ()


def names_of(model: nn.Module, variables: Any) -> Names:
  """The state dict of a model, without the values.

  Args:
    model: one of `_KINDS`, or a backbone.
    variables: its variables, or their shapes.

  Raises:
    UsageError: for another kind of model.
  """
  kind = next((k for k in _KINDS if isinstance(model, k)), None)
  if kind is None:
    raise UsageError(
      f'a {type(model).__name__} has no known PyTorch names; expected one of '
      f'{", ".join(k.__name__ for k in _KINDS)}'
    )
  module_name, strided = _KINDS[kind]
  places: list[Place] = []
  counters: list[str] = []
  blurs: dict[str, tuple[int, ...]] = {}
  flat = flax.traverse_util.flatten_dict(dict(variables))
  # Parameters first, so that they are what is first found to be missing.
  for path in sorted(flat, key=lambda path: path[0] != 'params'):
    *layers, leaf = path[1:]
    module = module_name(model, tuple(layers))
    shape: tuple[int, ...] = tuple(flat[path].shape)
    axes: tuple[int, ...] | None = None
    if leaf == 'kernel' and len(shape) == 4:
      channels = _input_channels(model, shape)
      axes = (2, 3, 1, 0)
      shape = (shape[3], shape[2], *shape[:2])
      blurred = getattr(model, 'blur_pool', False) and channels >= 16
      if blurred and strided(model, tuple(layers)):
        blurs[f'{module}.blur_filter'] = (channels, 1, 3, 3)
        module += '.conv'
    elif leaf == 'kernel' and layers[-1] == 'head' and kind is UPerNet:
      # A convolution there, of one tap.
      axes, shape = (2, 3, 1, 0), (*shape[::-1], 1, 1)
    elif leaf == 'kernel':
      axes, shape = (1, 0), shape[::-1]
    if leaf == 'mean':
      counters.append(f'{module}.num_batches_tracked')
    name = '.'.join(filter(None, [module, _LEAVES.get(leaf, leaf)]))
    name = name.replace('.in_proj.', '.in_proj_')
    places.append(Place(path, name, axes, shape, tuple(flat[path].shape)))
  head = module_name(model, ('head',))
  heads: tuple[str, ...] = (head,)
  optional: tuple[str, ...] = ()
  unused: tuple[str, ...] = ()
  if isinstance(model, UPerNet):
    # mmsegmentation 1.2.2 builds its patches without one.
    optional = ('backbone.patch_embed.projection.bias',)
    unused = () if model.auxiliary else ('auxiliary_head.',)
    heads += ('auxiliary_head.conv_seg',)
  elif isinstance(model, ViTBackbone) and not model.final_norm:
    unused = ('norm.',)
  return Names(
    tuple(places), tuple(counters), blurs, head, heads, optional, unused
  )


def _input_channels(model: nn.Module, shape: tuple[int, ...]) -> int:
  """Of a convolution, by the shape of its kernel here."""
  depthwise = isinstance(model, MobileNetV2) and shape[:3] == (3, 3, 1)
  return shape[3] if depthwise else shape[2]


def _resnet(model: ResNet, layers: Path) -> str:
  del model
  names = {
    'head': 'fc',
    'downsample_conv': 'downsample.0',
    'downsample_bn': 'downsample.1',
  }
  return '.'.join(
    re.sub(r'^(layer\d+)_', r'\1.', names.get(layer, layer)) for layer in layers
  )


def _resnet_strided(model: ResNet, layers: Path) -> bool:
  """Whether a convolution behind the stem skips positions."""
  main = 'conv1' if model.block is BasicBlock else 'conv2'
  first = [f'layer{s + 1}_0' for s in range(1, len(model.stage_sizes))]
  return layers[0] in first and layers[1] in (main, 'downsample_conv')


def _mobilenet(model: MobileNetV2, layers: Path) -> str:
  if layers == ('head',):
    return 'classifier.1'
  sizes = [size for _, _, size, _ in model.stages]
  ends = {'stem': 0, 'last': 1 + sum(sizes)}
  if layers[0] in ends:
    names, number = layers[1:], ends[layers[0]]
  else:
    stage, block = map(int, layers[0].removeprefix('stage').split('_'))
    number = [0, *itertools.accumulate(sizes)][stage - 1] + block + 1
    parts = ['expand', 'depthwise', 'project_conv', 'project_bn']
    if model.stages[stage - 1][0] == 1:
      parts = parts[1:]  # There is nothing to widen.
    names = ('conv', str(parts.index(layers[1])), *layers[2:])
  inside = {'conv': '0', 'bn': '1'}
  *outer, last = names
  return '.'.join(['features', str(number), *outer, inside.get(last, last)])


def _mobilenet_strided(model: MobileNetV2, layers: Path) -> bool:
  strides = {
    f'stage{s + 1}_0': stride
    for s, stride in enumerate(model._strides()[1:])
    if stride > 1
  }
  return layers[0] in strides and layers[1] == 'depthwise'


def _inception(model: InceptionV4, layers: Path) -> str:
  if layers == ('head',):
    return 'last_linear'
  number = int(layers[0].removeprefix('features_'))
  branch, leaf = layers[1].rsplit('_', 1)
  if number < 3:
    return f'features.{number}.{leaf}'
  # A number is a place in a sequence, but for two branches of the last blocks.
  last = number > STEM_BLOCKS + sum(model.blocks[:2]) + 1
  if not (last and branch.startswith(('branch1', 'branch2'))):
    branch = branch.replace('_', '.')
  return f'features.{number}.{branch}.{leaf}'


def _vit(model: ViT, layers: Path) -> str:
  del model
  names = {'patch_embed': 'patch_embed.proj'}
  return '.'.join(
    re.sub(r'^block(\d+)$', r'blocks.\1', names.get(layer, layer))
    for layer in layers
  )


# Layers of an UperNet, and what mmsegmentation calls them, in turn.
_MMSEG = tuple(
  (re.compile(ours), theirs)
  for ours, theirs in (
    (r'^head', 'decode_head.conv_seg'),
    (r'^auxiliary_head\.head', 'auxiliary_head.conv_seg'),
    (r'^auxiliary_head\.conv\.', 'auxiliary_head.convs.0.'),
    (r'^decoder', 'decode_head'),
    (r'pool(\d)', lambda m: f'psp_modules.{POOLED.index(int(m[1]))}.1'),
    (r'(lateral|fpn)(\d)', r'\1_convs.\2'),
    (r'fusion', 'fpn_bottleneck'),
    (r'^neck\.conv(\d)', r'neck.convs.\1'),
    (r'^(neck.*)', r'\1.conv'),
    (r'patch_embed', 'patch_embed.projection'),
    (r'block(\d+)', r'layers.\1'),
    (r'norm(\d)', r'ln\1'),
    (r'^backbone\.norm$', 'backbone.ln1'),
    (r'attn\.qkv', 'attn.attn.in_proj'),
    (r'attn\.proj', 'attn.attn.out_proj'),
    (r'mlp\.fc1', 'ffn.layers.0.0'),
    (r'mlp\.fc2', 'ffn.layers.1'),
  )
)


def _upernet(model: UPerNet, layers: Path) -> str:
  del model
  name = '.'.join(layers)
  for ours, theirs in _MMSEG:
    name = ours.sub(theirs, name)
  return name


_KINDS: Mapping[
  type[nn.Module],
  tuple[Callable[[Any, Path], str], Callable[[Any, Path], bool]],
] = {
  ResNet: (_resnet, _resnet_strided),
  MobileNetV2: (_mobilenet, _mobilenet_strided),
  InceptionV4: (_inception, lambda *_: False),
  ViT: (_vit, lambda *_: False),
  UPerNet: (_upernet, lambda *_: False),
}
