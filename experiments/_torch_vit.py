"""Vision transformers in PyTorch (Touvron et al. 2021), under timm's names."""

import torch
from torch import Tensor, nn
from torch.nn import functional

from experiments._torch_layers import DropPath


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

  def __init__(self, dim: int, heads: int, drop_path: float):
    super().__init__()
    self.norm1 = nn.LayerNorm(dim, eps=1e-6)
    self.attn = Attention(dim, heads)
    self.drop_path1 = DropPath(drop_path)
    self.norm2 = nn.LayerNorm(dim, eps=1e-6)
    self.mlp = Mlp(dim)
    self.drop_path2 = DropPath(drop_path)

  def forward(self, x: Tensor) -> Tensor:
    x = x + self.drop_path1(self.attn(self.norm1(x)))
    return x + self.drop_path2(self.mlp(self.norm2(x)))


class VisionTransformer(nn.Module):
  """Images [B, 3, H, W] to logits [B, K], from the class token."""

  def __init__(
    self,
    num_classes: int,
    dim: int,
    depth: int,
    heads: int,
    image_size: int = 224,
    patch_size: int = 16,
    drop_path: float = 0.0,
  ):
    super().__init__()
    patches = (image_size // patch_size) ** 2
    self.cls_token = nn.Parameter(torch.zeros(1, 1, dim))
    self.pos_embed = nn.Parameter(torch.zeros(1, 1 + patches, dim))
    self.patch_embed = PatchEmbed(patch_size, dim)
    rates = [drop_path * i / max(1, depth - 1) for i in range(depth)]
    self.blocks = nn.Sequential(*[Block(dim, heads, rate) for rate in rates])
    self.norm = nn.LayerNorm(dim, eps=1e-6)
    self.head = nn.Linear(dim, num_classes)
    nn.init.trunc_normal_(self.cls_token, std=0.02)
    nn.init.trunc_normal_(self.pos_embed, std=0.02)
    for module in self.modules():
      if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        nn.init.zeros_(module.bias)

  def forward(self, x: Tensor) -> Tensor:
    x = self.patch_embed(x)
    x = torch.cat([self.cls_token.expand(len(x), -1, -1), x], 1)
    x = self.blocks(x + self.pos_embed)
    return self.head(self.norm(x[:, 0]))
