"""ResNets in PyTorch (He et al. 2016), under torchvision's names."""

import torch
from torch import Tensor, nn

from experiments._torch_layers import insert_blur_pool


def _conv(c_in: int, c_out: int, size: int, stride: int = 1) -> nn.Conv2d:
  return nn.Conv2d(c_in, c_out, size, stride, padding=size // 2, bias=False)


class _Block(nn.Module):
  """The shortcut, which both kinds of blocks have."""

  def _add_shortcut(self, c_in: int, c_out: int, stride: int) -> None:
    """Comes last, as in torchvision's state dict."""
    self.relu = nn.ReLU(inplace=True)
    self.downsample = None
    if stride != 1 or c_in != c_out:
      self.downsample = nn.Sequential(
        _conv(c_in, c_out, 1, stride), nn.BatchNorm2d(c_out)
      )

  def _join(self, y: Tensor, x: Tensor) -> Tensor:
    shortcut = x if self.downsample is None else self.downsample(x)
    return self.relu(y.add_(shortcut))


class BasicBlock(_Block):
  """Two 3x3 convolutions."""

  expansion = 1

  def __init__(self, c_in: int, width: int, stride: int):
    super().__init__()
    self.conv1 = _conv(c_in, width, 3, stride)
    self.bn1 = nn.BatchNorm2d(width)
    self.conv2 = _conv(width, width, 3)
    self.bn2 = nn.BatchNorm2d(width)
    self._add_shortcut(c_in, width, stride)

  def forward(self, x: Tensor) -> Tensor:
    y = self.relu(self.bn1(self.conv1(x)))
    return self._join(self.bn2(self.conv2(y)), x)


class Bottleneck(_Block):
  """1x1, 3x3 and 1x1 convolutions, with the stride on the 3x3 one."""

  expansion = 4

  def __init__(self, c_in: int, width: int, stride: int):
    super().__init__()
    self.conv1 = _conv(c_in, width, 1)
    self.bn1 = nn.BatchNorm2d(width)
    self.conv2 = _conv(width, width, 3, stride)
    self.bn2 = nn.BatchNorm2d(width)
    self.conv3 = _conv(width, 4 * width, 1)
    self.bn3 = nn.BatchNorm2d(4 * width)
    self._add_shortcut(c_in, 4 * width, stride)

  def forward(self, x: Tensor) -> Tensor:
    y = self.relu(self.bn1(self.conv1(x)))
    y = self.relu(self.bn2(self.conv2(y)))
    return self._join(self.bn3(self.conv3(y)), x)


class ResNet(nn.Module):
  """Images [B, 3, H, W] to logits [B, K]."""

  def __init__(
    self,
    num_classes: int,
    block: str,
    stage_sizes: tuple[int, ...],
    width: int = 64,
    blur_pool: bool = False,
  ):
    super().__init__()
    make = {'basic': BasicBlock, 'bottleneck': Bottleneck}[block]
    self.conv1 = _conv(3, width, 7, 2)
    self.bn1 = nn.BatchNorm2d(width)
    self.relu = nn.ReLU(inplace=True)
    self.maxpool = nn.MaxPool2d(3, 2, padding=1)
    channels, self.stages = width, []
    for stage, size in enumerate(stage_sizes):
      blocks = []
      for i in range(size):
        stride = 2 if stage > 0 and i == 0 else 1
        blocks.append(make(channels, width * 2**stage, stride))
        channels = width * 2**stage * make.expansion
      self.stages.append(f'layer{stage + 1}')
      self.add_module(self.stages[-1], nn.Sequential(*blocks))
    self.avgpool = nn.AdaptiveAvgPool2d(1)
    self.fc = nn.Linear(channels, num_classes)
    for module in self.modules():
      if isinstance(module, nn.Conv2d):
        nn.init.kaiming_normal_(
          module.weight, mode='fan_out', nonlinearity='relu'
        )
    if blur_pool:
      insert_blur_pool(self)

  def forward(self, x: Tensor) -> Tensor:
    x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
    for name in self.stages:
      x = getattr(self, name)(x)
    return self.fc(torch.flatten(self.avgpool(x), 1))
