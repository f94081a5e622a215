"""MobileNetV2 in PyTorch (Sandler et al. 2018), under torchvision's names."""

from torch import Tensor, nn

from experiments._torch_layers import insert_blur_pool

# Expansion, width, number of blocks and stride of each stage.
_STAGES = (
  (1, 16, 1, 1),
  (6, 24, 2, 2),
  (6, 32, 3, 2),
  (6, 64, 4, 2),
  (6, 96, 3, 1),
  (6, 160, 3, 2),
  (6, 320, 1, 1),
)


def _conv_block(
  c_in: int, c_out: int, size: int, stride: int = 1, groups: int = 1
) -> nn.Sequential:
  conv = nn.Conv2d(
    c_in, c_out, size, stride, padding=size // 2, groups=groups, bias=False
  )
  return nn.Sequential(conv, nn.BatchNorm2d(c_out), nn.ReLU6(inplace=True))


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
  """Images [B, 3, H, W] to logits [B, K]."""

  def __init__(
    self, num_classes: int, dropout: float = 0.2, blur_pool: bool = False
  ):
    super().__init__()
    layers, channels = [_conv_block(3, 32, 3, 2)], 32
    for expansion, width, size, stride in _STAGES:
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
    for module in self.modules():
      if isinstance(module, nn.Conv2d):
        nn.init.kaiming_normal_(module.weight, mode='fan_out')
      elif isinstance(module, nn.Linear):
        nn.init.normal_(module.weight, std=0.01)
        nn.init.zeros_(module.bias)
    if blur_pool:
      insert_blur_pool(self)

  def forward(self, x: Tensor) -> Tensor:
    return self.classifier(self.features(x).mean((2, 3)))
