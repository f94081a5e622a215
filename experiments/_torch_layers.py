"""Layers of the PyTorch models that torch does not have."""

import torch
from torch import Tensor, nn
from torch.nn import functional


class BlurPoolConv2d(nn.Module):
  """A convolution behind a fixed blur, [1, 2, 1]ᵀ[1, 2, 1] / 16 per channel.

  The convolution is `conv`, the kernel of the blur the buffer `blur_filter`.
  """

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


class DropPath(nn.Module):
  """Drops a residual branch of each example with probability `rate`."""

  def __init__(self, rate: float):
    super().__init__()
    self.rate = rate

  def forward(self, x: Tensor) -> Tensor:
    if not self.training or self.rate == 0:
      return x
    keep = 1 - self.rate
    shape = (x.shape[0], *[1] * (x.ndim - 1))
    return x * x.new_empty(shape).bernoulli_(keep).div_(keep)
