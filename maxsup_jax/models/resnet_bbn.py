"""The ResNet-32 of long-tailed CIFAR, with two last blocks (Zhou et al. 2020).

It is the net of the long-tailed experiments of the MaxSup paper.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.nn.initializers import Initializer

from maxsup_jax.errors import one_of
from maxsup_jax.models._parts import (
  ConvModule,
  ConvNet,
  Output,
  check_images,
  check_sizes,
  he_fan_in,
)
from maxsup_jax.models.causal_norm import CausalNormHead
from maxsup_jax.models.resnet import BasicBlock

CLASSIFIERS = ('linear', 'causal_norm')


class PaddedBlock(BasicBlock):
  """A basic block whose shortcut has no parameters ('option A').

  Where the shapes differ the shortcut skips positions and pads the channels
  with zeros, half of them before and half behind. Fields as in `BasicBlock`.

  References:
    He et al. 2016, *Deep residual learning for image recognition*, section 4.2.
  """

  kernel_init: Initializer = he_fan_in

  def _join(self, y: jax.Array, x: jax.Array, norm: Any) -> jax.Array:
    x = x[:, :: self.stride, :: self.stride]
    new = y.shape[-1] - x.shape[-1]
    channels = (new // 2, new - new // 2)
    return nn.relu(y + jnp.pad(x, ((0, 0), (0, 0), (0, 0), channels)))


class Branches(ConvModule):
  """Two blocks side by side: [B, h, w, C] to [B, h, w, 2 width].

  Attributes:
    width: channels of each block.
  """

  width: int

  @nn.compact
  def __call__(self, x: jax.Array, *, train: bool = False) -> jax.Array:
    """Returns the outputs of both blocks, concatenated."""
    outputs = [
      PaddedBlock(
        self.width,
        **self.common,
        name=name,
      )(x, train=train)
      for name in ('block1', 'block2')
    ]
    return jnp.concatenate(outputs, axis=-1)


class ResNetBBN(ConvNet):
  """ResNet-32 with two last blocks: `logits, out = model.apply(variables, x)`.

  A 3x3 stem, three stages of basic blocks, each of half the resolution and
  twice the width of the one before, then two parallel blocks whose outputs are
  concatenated. With `train=True` apply with `mutable=['batch_stats']`.

  Convolutions begin normal with variance 2 / fan_in, the head with
  U(±1/√fan_in), kernel and bias.

  Attributes:
    num_classes, batch_norm_axis, dtype: see `create_model`.
    classifier: 'linear', or 'causal_norm' for a `CausalNormHead`, whose
      `params['head']` has a 'kernel' [D, K] but no 'bias', and whose logits in
      evaluation are not linear in the penultimate features.
    stage_sizes: number of blocks in each stage.
    width: channels of the stem and of the first stage.

  References:
    Zhou et al. 2020, *BBN: bilateral-branch network with cumulative learning
    for long-tailed visual recognition*; the MaxSup paper, Table 7, and its
    authors' code.
  """

  classifier: str = 'linear'
  stage_sizes: tuple[int, ...] = (5, 5, 4)
  width: int = 16

  def __post_init__(self) -> None:
    check_sizes(self, 'width')
    one_of('head', self.classifier, CLASSIFIERS)
    super().__post_init__()

  @nn.compact
  def __call__(self, images: jax.Array, *, train: bool = False) -> Output:
    """Classifies images; see `create_model`."""
    stages = len(self.stage_sizes)
    check_images(images, 2 ** (stages - 1))

    norm = self.norm(train)
    stem = self.conv(self.width, 3, name='conv1', kernel_init=he_fan_in)
    x = nn.relu(norm(name='bn1')(stem(images.astype(self.dtype))))
    for stage, size in enumerate(self.stage_sizes):
      for i in range(size):
        x = PaddedBlock(
          width=self.width * 2**stage,
          stride=2 if stage > 0 and i == 0 else 1,
          **self.common,
          name=f'layer{stage + 1}_{i}',
        )(x, train=train)
    x = Branches(x.shape[-1], **self.common, name='branches')(x, train=train)

    if self.classifier == 'linear':
      return self.classified(x)
    penultimate = x.mean(axis=(1, 2), dtype=jnp.float32)
    head = CausalNormHead(
      self.num_classes, batch_axis=self.batch_norm_axis, name='head'
    )
    logits = head(penultimate, train=train)
    return logits, {'feature_map': x, 'penultimate': penultimate}

  @property
  def saliency_layer(self) -> str:
    """The two last blocks, whose output is `out['feature_map']`."""
    return 'branches'
