"""The models in PyTorch, under the names of torchvision and timm.

What `maxsup_jax.models` is compared with, in speed and in logits: names, shapes
and computation of torchvision (ResNet, MobileNetV2) and of timm (ViT, DeiT).
All take images [B, 3, H, W] and give logits [B, K].
"""

import functools
from collections import OrderedDict
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional


class BlurPoolConv2d(nn.Module):
  """A convolution behind a fixed blur, [1, 2, 1]ᵀ[1, 2, 1] / 16 per channel."""

  def __init__(self, conv: nn.Conv2d):
    super().__init__()
    row = torch.tensor([1.0, 2.0, 1.0])
    kernel = (torch.outer(row, row) / 16).repeat(conv.in_channels, 1, 1, 1)
    self.register_buffer('blur_filter', kernel)
    self.conv = conv

  def forward(self, x: Tensor) -> Tensor:
    blur: Any = self.blur_filter
    return self.conv(functional.conv2d(x, blur, padding=1, groups=x.shape[1]))


def insert_blur_pool(module: nn.Module) -> None:
  """Wraps every strided convolution with at least 16 input channels."""
  for name, child in module.named_children():
    if not isinstance(child, nn.Conv2d):
      insert_blur_pool(child)
    elif max(child.stride) > 1 and child.in_channels >= 16:
      setattr(module, name, BlurPoolConv2d(child))


def _conv(
  c_in: int, c_out: int, size: int, stride: int = 1, groups: int = 1
) -> nn.Conv2d:
  return nn.Conv2d(
    c_in, c_out, size, stride, padding=size // 2, groups=groups, bias=False
  )


class _ResidualBlock(nn.Module):
  """Convolutions and a shortcut, which comes last in the state dict."""

  expansion: int

  def __init__(self, c_in: int, stride: int, *layers: tuple[int, int, int]):
    super().__init__()
    c, self.depth = c_in, len(layers)
    for i, (c_out, size, step) in enumerate(layers, 1):
      self.add_module(f'conv{i}', _conv(c, c_out, size, step))
      self.add_module(f'bn{i}', nn.BatchNorm2d(c_out))
      c = c_out
    self.downsample = None
    if stride != 1 or c_in != c:
      shortcut = _conv(c_in, c, 1, stride)
      self.downsample = nn.Sequential(shortcut, nn.BatchNorm2d(c))

  def forward(self, x: Tensor) -> Tensor:
    y = x
    for i in range(1, self.depth + 1):
      y = getattr(self, f'bn{i}')(getattr(self, f'conv{i}')(y))
      y = functional.relu(y, inplace=True) if i < self.depth else y
    shortcut = x if self.downsample is None else self.downsample(x)
    return functional.relu(y.add_(shortcut), inplace=True)


class BasicBlock(_ResidualBlock):
  """Two 3x3 convolutions."""

  expansion = 1

  def __init__(self, c_in: int, width: int, stride: int):
    super().__init__(c_in, stride, (width, 3, stride), (width, 3, 1))


class Bottleneck(_ResidualBlock):
  """1x1, 3x3 and 1x1 convolutions, with the stride on the 3x3 one."""

  expansion = 4

  def __init__(self, c_in: int, width: int, stride: int):
    last = 4 * width, 1, 1
    super().__init__(c_in, stride, (width, 1, 1), (width, 3, stride), last)


class ResNet(nn.Module):
  """With the stem for ImageNet."""

  def __init__(
    self,
    num_classes: int,
    block: Any,
    stage_sizes: tuple[int, ...],
    width: int = 64,
    blur_pool: bool = False,
  ):
    super().__init__()
    self.conv1 = _conv(3, width, 7, 2)
    self.bn1 = nn.BatchNorm2d(width)
    self.maxpool = nn.MaxPool2d(3, 2, padding=1)
    channels, self.stages = width, len(stage_sizes)
    for stage, size in enumerate(stage_sizes):
      blocks = []
      for i in range(size):
        stride = 2 if stage > 0 and i == 0 else 1
        blocks.append(block(channels, width * 2**stage, stride))
        channels = width * 2**stage * block.expansion
      self.add_module(f'layer{stage + 1}', nn.Sequential(*blocks))
    self.fc = nn.Linear(channels, num_classes)
    if blur_pool:
      insert_blur_pool(self)

  def forward(self, x: Tensor) -> Tensor:
    x = self.maxpool(functional.relu(self.bn1(self.conv1(x)), inplace=True))
    for stage in range(1, self.stages + 1):
      x = getattr(self, f'layer{stage}')(x)
    return self.fc(functional.adaptive_avg_pool2d(x, 1).flatten(1))


# Expansion, width, number of blocks and stride of each stage.
_MOBILE_STAGES = (
  (1, 16, 1, 1),
  (6, 24, 2, 2),
  (6, 32, 3, 2),
  (6, 64, 4, 2),
  (6, 96, 3, 1),
  (6, 160, 3, 2),
  (6, 320, 1, 1),
)


def _conv_block(c_in: int, c_out: int, *conv: int) -> nn.Sequential:
  return nn.Sequential(
    _conv(c_in, c_out, *conv), nn.BatchNorm2d(c_out), nn.ReLU6(inplace=True)
  )


class InvertedResidual(nn.Module):
  """Widens, filters each channel, narrows."""

  def __init__(self, c_in: int, c_out: int, stride: int, expansion: int):
    super().__init__()
    hidden = c_in * expansion
    widen = [_conv_block(c_in, hidden, 1)] if expansion != 1 else []
    self.conv = nn.Sequential(
      *widen,
      _conv_block(hidden, hidden, 3, stride, hidden),
      nn.Conv2d(hidden, c_out, 1, bias=False),
      nn.BatchNorm2d(c_out),
    )
    self.joins = stride == 1 and c_in == c_out

  def forward(self, x: Tensor) -> Tensor:
    return x + self.conv(x) if self.joins else self.conv(x)


class MobileNetV2(nn.Module):
  """Inverted residuals."""

  def __init__(
    self, num_classes: int, dropout: float = 0.2, blur_pool: bool = False
  ):
    super().__init__()
    layers: list[nn.Module] = [_conv_block(3, 32, 3, 2)]
    channels = 32
    for expansion, width, size, stride in _MOBILE_STAGES:
      for i in range(size):
        step = stride if i == 0 else 1
        layers.append(InvertedResidual(channels, width, step, expansion))
        channels = width
    self.features = nn.Sequential(*layers, _conv_block(channels, 1280, 1))
    self.classifier = nn.Sequential(
      nn.Dropout(dropout), nn.Linear(1280, num_classes)
    )
    if blur_pool:
      insert_blur_pool(self)

  def forward(self, x: Tensor) -> Tensor:
    return self.classifier(self.features(x).mean((2, 3)))


class Attention(nn.Module):
  """Multi-head self-attention."""

  def __init__(self, dim: int, heads: int):
    super().__init__()
    self.heads = heads
    self.qkv = nn.Linear(dim, 3 * dim)
    self.proj = nn.Linear(dim, dim)

  def forward(self, x: Tensor) -> Tensor:
    qkv = self.qkv(x).unflatten(-1, (3, self.heads, -1))
    query, key, value = qkv.permute(2, 0, 3, 1, 4).unbind(0)
    y = functional.scaled_dot_product_attention(query, key, value)
    return self.proj(y.transpose(1, 2).flatten(2))


class Block(nn.Module):
  """Pre-norm attention and MLP with an exact GELU, each a residual branch."""

  def __init__(self, dim: int, heads: int):
    super().__init__()
    fc1, fc2 = nn.Linear(dim, 4 * dim), nn.Linear(4 * dim, dim)
    self.norm1 = nn.LayerNorm(dim, eps=1e-6)
    self.attn = Attention(dim, heads)
    self.norm2 = nn.LayerNorm(dim, eps=1e-6)
    self.mlp = nn.Sequential(OrderedDict(fc1=fc1, act=nn.GELU(), fc2=fc2))

  def forward(self, x: Tensor) -> Tensor:
    x = x + self.attn(self.norm1(x))
    return x + self.mlp(self.norm2(x))


class VisionTransformer(nn.Module):
  """With a class token."""

  def __init__(
    self,
    num_classes: int,
    dim: int,
    depth: int,
    heads: int,
    image_size: int = 224,
    patch_size: int = 16,
  ):
    super().__init__()
    patches = (image_size // patch_size) ** 2
    project = nn.Conv2d(3, dim, patch_size, patch_size)
    self.cls_token = nn.Parameter(torch.zeros(1, 1, dim))
    self.pos_embed = nn.Parameter(torch.zeros(1, 1 + patches, dim))
    self.patch_embed = nn.Sequential(OrderedDict(proj=project))
    self.blocks = nn.Sequential(*[Block(dim, heads) for _ in range(depth)])
    self.norm = nn.LayerNorm(dim, eps=1e-6)
    self.head = nn.Linear(dim, num_classes)

  def forward(self, x: Tensor) -> Tensor:
    x = self.patch_embed(x).flatten(2).transpose(1, 2)
    x = torch.cat([self.cls_token.expand(len(x), -1, -1), x], 1)
    x = self.blocks(x + self.pos_embed)
    return self.head(self.norm(x[:, 0]))


def _resnet(block: Any, *stage_sizes: int) -> Any:
  return functools.partial(ResNet, block=block, stage_sizes=stage_sizes)


def _vit(dim: int, heads: int) -> Any:
  return functools.partial(VisionTransformer, dim=dim, depth=12, heads=heads)


MODELS: dict[str, Any] = {
  'resnet18': _resnet(BasicBlock, 2, 2, 2, 2),
  'resnet34': _resnet(BasicBlock, 3, 4, 6, 3),
  'resnet50': _resnet(Bottleneck, 3, 4, 6, 3),
  'resnet101': _resnet(Bottleneck, 3, 4, 23, 3),
  'mobilenet_v2': MobileNetV2,
  'vit_tiny': _vit(192, 3),
  'vit_small': _vit(384, 6),
  'vit_base': _vit(768, 12),
}


def create(name: str, num_classes: int, **options: Any) -> nn.Module:
  """A model of `MODELS`, in training mode; its weights are to be loaded."""
  return MODELS[name](num_classes=num_classes, **options)
