"""The models in PyTorch, under the names of torchvision and timm.

What `maxsup_jax.models` is compared with, in speed and in logits: names, shapes
and computation of torchvision (ResNet, MobileNetV2) and of timm (ViT, DeiT).
All take images [B, 3, H, W] and give logits [B, K].
"""

import functools
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional


class BlurPoolConv2d(nn.Module):
  """A convolution behind a fixed blur, [1, 2, 1]ᵀ[1, 2, 1] / 16 per channel."""

  def __init__(self, conv: nn.Conv2d):
    super().__init__()
    row = torch.tensor([1.0, 2.0, 1.0])
    kernel = torch.outer(row, row) / 16
    self.register_buffer(
      'blur_filter', kernel.repeat(conv.in_channels, 1, 1, 1)
    )
    self.conv = conv

  def forward(self, x: Tensor) -> Tensor:
    return self.conv(
      functional.conv2d(x, self.blur_filter, padding=1, groups=x.shape[1])
    )


def insert_blur_pool(module: nn.Module) -> None:
  """Wraps every strided convolution with at least 16 input channels."""
  for name, child in module.named_children():
    if isinstance(child, nn.Conv2d):
      if max(child.stride) > 1 and child.in_channels >= 16:
        setattr(module, name, BlurPoolConv2d(child))
    else:
      insert_blur_pool(child)


def _conv(c_in, c_out, size, stride=1, groups=1):
  return nn.Conv2d(
    c_in, c_out, size, stride, padding=size // 2, groups=groups, bias=False
  )


class _ResidualBlock(nn.Module):
  """Convolutions and a shortcut, which comes last in the state dict."""

  def __init__(self, c_in: int, stride: int, *layers: tuple[int, int, int]):
    super().__init__()
    c, self.depth = c_in, len(layers)
    for i, (c_out, size, step) in enumerate(layers, 1):
      setattr(self, f'conv{i}', _conv(c, c_out, size, step))
      setattr(self, f'bn{i}', nn.BatchNorm2d(c_out))
      c = c_out
    self.relu = nn.ReLU(inplace=True)
    self.downsample = None
    if stride != 1 or c_in != c:
      self.downsample = nn.Sequential(
        _conv(c_in, c, 1, stride), nn.BatchNorm2d(c)
      )

  def forward(self, x: Tensor) -> Tensor:
    y = x
    for i in range(1, self.depth + 1):
      y = getattr(self, f'bn{i}')(getattr(self, f'conv{i}')(y))
      y = self.relu(y) if i < self.depth else y
    return self.relu(
      y.add_(x if self.downsample is None else self.downsample(x))
    )


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
    block: type[_ResidualBlock],
    stage_sizes: tuple[int, ...],
    width: int = 64,
    blur_pool: bool = False,
  ):
    super().__init__()
    self.conv1 = _conv(3, width, 7, 2)
    self.bn1 = nn.BatchNorm2d(width)
    self.relu = nn.ReLU(inplace=True)
    self.maxpool = nn.MaxPool2d(3, 2, padding=1)
    channels, self.stages = width, []
    for stage, size in enumerate(stage_sizes):
      blocks = []
      for i in range(size):
        stride = 2 if stage > 0 and i == 0 else 1
        blocks.append(block(channels, width * 2**stage, stride))
        channels = width * 2**stage * block.expansion
      self.stages.append(f'layer{stage + 1}')
      self.add_module(self.stages[-1], nn.Sequential(*blocks))
    self.avgpool = nn.AdaptiveAvgPool2d(1)
    self.fc = nn.Linear(channels, num_classes)
    if blur_pool:
      insert_blur_pool(self)

  def forward(self, x: Tensor) -> Tensor:
    x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
    for name in self.stages:
      x = getattr(self, name)(x)
    return self.fc(torch.flatten(self.avgpool(x), 1))


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


def _conv_block(c_in, c_out, size, stride=1, groups=1):
  return nn.Sequential(
    _conv(c_in, c_out, size, stride, groups),
    nn.BatchNorm2d(c_out),
    nn.ReLU6(inplace=True),
  )


class InvertedResidual(nn.Module):
  """Widens, filters each channel, narrows."""

  def __init__(self, c_in: int, c_out: int, stride: int, expansion: int):
    super().__init__()
    hidden = c_in * expansion
    widen = [_conv_block(c_in, hidden, 1)] if expansion != 1 else []
    self.conv = nn.Sequential(
      *widen,
      _conv_block(hidden, hidden, 3, stride, groups=hidden),
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
    layers, channels = [_conv_block(3, 32, 3, 2)], 32
    for expansion, width, size, stride in _MOBILE_STAGES:
      for i in range(size):
        layers.append(
          InvertedResidual(channels, width, stride if i == 0 else 1, expansion)
        )
        channels = width
    layers.append(_conv_block(channels, 1280, 1))
    self.features = nn.Sequential(*layers)
    self.classifier = nn.Sequential(
      nn.Dropout(dropout), nn.Linear(1280, num_classes)
    )
    if blur_pool:
      insert_blur_pool(self)

  def forward(self, x: Tensor) -> Tensor:
    return self.classifier(self.features(x).mean((2, 3)))


class PatchEmbed(nn.Module):
  """Images [B, 3, H, W] to patches [B, N, D], row by row."""

  def __init__(self, patch_size: int, dim: int):
    super().__init__()
    self.proj = nn.Conv2d(3, dim, patch_size, patch_size)

  def forward(self, x: Tensor) -> Tensor:
    return self.proj(x).flatten(2).transpose(1, 2)


class Attention(nn.Module):
  """Multi-head self-attention."""

  def __init__(self, dim: int, heads: int):
    super().__init__()
    self.heads = heads
    self.qkv = nn.Linear(dim, 3 * dim)
    self.proj = nn.Linear(dim, dim)

  def forward(self, x: Tensor) -> Tensor:
    B, T, D = x.shape
    qkv = self.qkv(x).view(B, T, 3, self.heads, D // self.heads)
    query, key, value = qkv.permute(2, 0, 3, 1, 4).unbind(0)
    y = functional.scaled_dot_product_attention(query, key, value)
    return self.proj(y.transpose(1, 2).reshape(B, T, D))


class Mlp(nn.Module):
  """Two layers with an exact GELU between them."""

  def __init__(self, dim: int):
    super().__init__()
    self.fc1 = nn.Linear(dim, 4 * dim)
    self.act = nn.GELU()
    self.fc2 = nn.Linear(4 * dim, dim)

  def forward(self, x: Tensor) -> Tensor:
    return self.fc2(self.act(self.fc1(x)))


class Block(nn.Module):
  """Pre-norm attention and MLP, each a residual branch."""

  def __init__(self, dim: int, heads: int):
    super().__init__()
    self.norm1 = nn.LayerNorm(dim, eps=1e-6)
    self.attn = Attention(dim, heads)
    self.norm2 = nn.LayerNorm(dim, eps=1e-6)
    self.mlp = Mlp(dim)

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
    self.cls_token = nn.Parameter(torch.zeros(1, 1, dim))
    self.pos_embed = nn.Parameter(torch.zeros(1, 1 + patches, dim))
    self.patch_embed = PatchEmbed(patch_size, dim)
    self.blocks = nn.Sequential(*[Block(dim, heads) for _ in range(depth)])
    self.norm = nn.LayerNorm(dim, eps=1e-6)
    self.head = nn.Linear(dim, num_classes)

  def forward(self, x: Tensor) -> Tensor:
    x = self.patch_embed(x)
    x = torch.cat([self.cls_token.expand(len(x), -1, -1), x], 1)
    x = self.blocks(x + self.pos_embed)
    return self.head(self.norm(x[:, 0]))


def _resnet(block, *stage_sizes):
  return functools.partial(ResNet, block=block, stage_sizes=stage_sizes)


def _vit(dim, heads):
  return functools.partial(VisionTransformer, dim=dim, depth=12, heads=heads)


MODELS = {
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
