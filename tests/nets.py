"""A network that is traced and compiled at once, for what any network shows."""

import flax.linen as nn


class Small(nn.Module):
  """A convolution, BatchNorm over all devices, and a head; for any images."""

  num_classes: int
  width: int = 4
  stem: str = ''  # as the card of the digits has it

  @nn.compact
  def __call__(self, images, train=False):
    x = nn.Conv(self.width, (2, 2), strides=2, name='conv')(images)
    axis = 'devices' if train else None
    x = nn.relu(nn.BatchNorm(not train, axis_name=axis, name='norm')(x))
    out = {'penultimate': x.mean((1, 2)), 'feature_map': x}
    return nn.Dense(self.num_classes, name='head')(out['penultimate']), out
