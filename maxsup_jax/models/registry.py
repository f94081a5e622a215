"""The table of models by name, and the function that looks them up."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from maxsup_jax.errors import one_of, unknown
from maxsup_jax.models.alexnet import AlexNetCifar
from maxsup_jax.models.deeplab import DeepLabV3Plus
from maxsup_jax.models.densenet import DenseNet
from maxsup_jax.models.inception import InceptionV4
from maxsup_jax.models.lstm import LSTMClassifier
from maxsup_jax.models.mlp import MLP
from maxsup_jax.models.mobilenet import MobileNetV2
from maxsup_jax.models.own import own_model
from maxsup_jax.models.resnet import BasicBlock, BottleneckBlock, ResNet
from maxsup_jax.models.resnet_bbn import ResNetBBN
from maxsup_jax.models.resnet_preact import PreActivationResNet
from maxsup_jax.models.transformer import Transformer
from maxsup_jax.models.upernet import UPerNet
from maxsup_jax.models.vit import ViT

DTYPES: Mapping[str, Any] = {
  'float32': jnp.float32,
  'bfloat16': jnp.bfloat16,
}


@dataclasses.dataclass(frozen=True)
class ModelEntry:
  """One row of `MODELS`."""

  module: type[nn.Module]  # The class that is built.
  architecture: Mapping[str, Any]  # The fields that the name stands for.
  options: Mapping[str, Any]  # What the caller may set, with its defaults.
  # The fields of options whose own name a layer has.
  renamed: Mapping[str, str] = dataclasses.field(default_factory=dict)


def _resnet(block: Any, stage_sizes: Any, **defaults: Any) -> ModelEntry:
  options = {
    'stem': 'imagenet',
    'width': 64,
    'zero_init_residual': False,
    'blur_pool': False,
    'batch_norm_axis': None,
  }
  return ModelEntry(
    module=ResNet,
    architecture={'block': block, 'stage_sizes': stage_sizes},
    options={**options, **defaults},
  )


def _cifar_resnet(blocks: int) -> ModelEntry:
  """A CIFAR-10 net of He et al., with shortcuts without parameters."""
  return ModelEntry(
    module=ResNet,
    architecture={
      'block': BasicBlock,
      'stage_sizes': (blocks,) * 3,
      'stem': 'cifar',
      'shortcut': 'padded',
    },
    options={'width': 16, 'zero_init_residual': False, 'batch_norm_axis': None},
  )


def _vit(dim: int, depth: int, heads: int) -> ModelEntry:
  return ModelEntry(
    module=ViT,
    architecture={'dim': dim, 'depth': depth, 'heads': heads},
    options={'patch_size': 16, 'drop_path': 0.0, 'head_dropout': 0.0},
  )


MODELS: Mapping[str, ModelEntry] = {
  # For images of 8x8 to 32x32; 0.3 million parameters.
  'resnet8': _resnet(BasicBlock, (1, 1, 1), stem='cifar', width=32),
  'resnet18': _resnet(BasicBlock, (2, 2, 2, 2)),
  'resnet34': _resnet(BasicBlock, (3, 4, 6, 3)),
  'resnet50': _resnet(BottleneckBlock, (3, 4, 6, 3)),
  'resnet101': _resnet(BottleneckBlock, (3, 4, 23, 3)),
  # The CIFAR-10 net of He et al., with projected shortcuts.
  'resnet20': _resnet(BasicBlock, (3, 3, 3), stem='cifar', width=16),
  # Those of the paper, with option A for shortcuts.
  'resnet20_a': _cifar_resnet(3),
  'resnet32_a': _cifar_resnet(5),
  'resnet44_a': _cifar_resnet(7),
  'resnet56_a': _cifar_resnet(9),
  'resnet110_a': _cifar_resnet(18),
  'resnet32_bbn': ModelEntry(
    module=ResNetBBN,
    architecture={'stage_sizes': (5, 5, 4)},
    options={'head': 'linear', 'width': 16, 'batch_norm_axis': None},
    renamed={'head': 'classifier'},
  ),
  'resnet56_t2t': ModelEntry(
    module=PreActivationResNet,
    architecture={'stage_sizes': (9, 9, 9)},
    options={'width': 16, 'widening': 2, 'batch_norm_axis': None},
  ),
  'alexnet_cifar': ModelEntry(AlexNetCifar, architecture={}, options={}),
  'densenet_bc_100': ModelEntry(
    module=DenseNet,
    architecture={'block_sizes': (16, 16, 16)},
    options={'growth': 12, 'batch_norm_axis': None},
  ),
  # For images of 299x299.
  'inception_v4': ModelEntry(
    module=InceptionV4,
    architecture={'batch_norm_momentum': 0.9997},
    options={'dropout': 0.2, 'batch_norm_axis': None},
  ),
  'mobilenet_v2': ModelEntry(
    module=MobileNetV2,
    architecture={},
    options={
      'stem': 'imagenet',
      'blur_pool': False,
      'dropout': 0.2,
      'batch_norm_axis': None,
    },
  ),
  'vit_tiny': _vit(dim=192, depth=12, heads=3),
  'vit_small': _vit(dim=384, depth=12, heads=6),
  'vit_base': _vit(dim=768, depth=12, heads=12),
  # For the rows of tables.
  'mlp': ModelEntry(
    MLP, architecture={}, options={'widths': (4, 2), 'single_logit': False}
  ),
}


# Those that read texts.
READERS: Mapping[str, ModelEntry] = {
  'lstm': ModelEntry(
    LSTMClassifier,
    architecture={},
    options={
      'vocabulary_size': None,
      'dim': 300,
      'hidden': 256,
      'widths': (256, 128),
      'dropout': 0.2,
      'single_logit': False,
      'frozen': False,
    },
  )
}


def _transformer(
  dim: int, depth: int, heads: int, hidden: int, dropout: float
) -> ModelEntry:
  sizes = {'dim': dim, 'depth': depth, 'heads': heads, 'hidden': hidden}
  return ModelEntry(Transformer, sizes, options={'dropout': dropout})


# Those that translate.
TRANSFORMERS: Mapping[str, ModelEntry] = {
  # A minute or two on a CPU; no dropout, which it has no use for.
  'transformer_tiny': _transformer(64, 2, 4, 256, dropout=0.0),
  # For sets of the size of Multi30k (Wu et al. 2021, `transformer_tiny`).
  'transformer_small': _transformer(128, 4, 4, 256, dropout=0.3),
  'transformer_base': _transformer(512, 6, 8, 2048, dropout=0.1),
}


def _upernet(dim: int, depth: int, heads: int, **changes: Any) -> ModelEntry:
  options = {
    'patch_size': 16,
    'drop_path': 0.1,
    'dropout': 0.1,
    'neck': 'multilevel',
    'neck_features': None,
    'auxiliary': True,
    'final_norm': False,
    'positions': 'bicubic',
    'batch_norm_axis': None,
  }
  sizes = {'dim': dim, 'depth': depth, 'heads': heads}
  sizes |= {n: v for n, v in changes.items() if n not in options}
  options |= {n: v for n, v in changes.items() if n in options}
  return ModelEntry(UPerNet, sizes, options)


def _deeplab(block: Any, stage_sizes: Any, **architecture: Any) -> ModelEntry:
  options = {'dropout': 0.1, 'batch_norm_axis': None}
  if block is BottleneckBlock:
    options['dilated_stages'] = 0
  sizes = {'block': block, 'stage_sizes': stage_sizes, **architecture}
  return ModelEntry(DeepLabV3Plus, sizes, options)


# Those that classify pixels.
SEGMENTERS: Mapping[str, ModelEntry] = {
  # For images of 64x64 on a CPU; half a million parameters.
  'upernet_vit_tiny': _upernet(
    64,
    4,
    4,
    patch_size=8,
    drop_path=0.0,
    features=32,
    auxiliary_features=32,
  ),
  'upernet_vit_small': _upernet(384, 12, 6),
  'upernet_vit_base': _upernet(768, 12, 12),
  'deeplabv3plus_resnet8': _deeplab(
    BasicBlock,
    (1, 1, 1),
    stem='cifar',
    width=32,
    features=32,
    low_level_features=8,
  ),
  'deeplabv3plus_resnet101': _deeplab(BottleneckBlock, (3, 4, 23, 3)),
}


def create_model(
  name: str,
  num_classes: int,
  *,
  dtype: str = 'float32',
  batch_axis: str | None = None,
  **options: Any,
) -> nn.Module:
  """Builds a model by its name.

  Every model is called as `logits, out = model.apply(variables, images)`, with
  images floating point [B, H, W, C], normalised and not smaller than the total
  stride; with logits float32 [B, K] and `out['penultimate']` float32 [B, D],
  which the head sees. Convolutional nets add `out['feature_map']` [B, h, w, C]
  in the dtype of the computation, of which, but for AlexNet, the penultimate
  features are the mean over positions; ViTs add `out['tokens']` float32
  [B, 1 + N, D] after the final norm, the class token first. Entries that are
  not used cost nothing under jit. The linear classifier is `params['head']`,
  with 'kernel' [D, K] and 'bias' [K]; the causal-norm head of `resnet32_bbn`
  has no bias.

  `mlp` takes rows of tables, [B, F], and gives the features alone. Those of
  `READERS` take texts, ids of tokens int32 [B, T], need `vocabulary_size`, and
  give likewise. With `single_logit` the last layer is 'logit', not 'head'.

  Those of `TRANSFORMERS` take two arguments, source and target, and K is the
  size of the vocabulary; see `Transformer`.

  To train, pass `train=True`, `mutable=['batch_stats']` and
  `rngs={'drop_path': key}`, the same key on every device, all of which every
  model accepts: BatchNorm then normalises with the statistics of the batch and
  updates its running ones, dropout and stochastic depth draw.

  Args:
    name: a key of `MODELS`, `READERS` or `TRANSFORMERS`; or what makes a module
      of your own, such as 'my_package.my_module:make_model', see
      `own.own_model`.
    num_classes: K.
    dtype: dtype of the computation, 'float32' or 'bfloat16'. Parameters, batch
      statistics, penultimate features and logits are float32 always.
    batch_axis: name of the mapped axis (of pmap or vmap) over which the batch
      is split, which keeps what is drawn per example independent of the number
      of devices. None: the array is the whole batch.
    **options: those of the model, `MODELS[name].options`, which are explained
      at its class. `head` of `resnet32_bbn` is `classifier` there.
      `batch_norm_axis`, which all with BatchNorm have, is the name of the
      mapped axis over which batch statistics, and the direction of the
      causal-norm head, are shared; None: every device has its own.

  Returns:
    A Flax linen module.

  Raises:
    UsageError: a name, dtype or option that is not known, or a value that
      cannot be; one line, which lists the known ones.

  Examples:
    >>> import jax, jax.numpy as jnp
    >>> model = create_model('resnet8', 10, width=8)
    >>> images = jnp.ones((2, 8, 8, 1))
    >>> variables = jax.jit(model.init)(jax.random.key(0), images)
    >>> logits, out = jax.jit(model.apply)(variables, images)
    >>> logits.shape, out['penultimate'].shape, out['feature_map'].shape
    ((2, 10), (2, 32), (2, 2, 2, 32))

  References:
    He et al. 2016, *Deep residual learning for image recognition*; Touvron et
    al. 2021, *Training data-efficient image transformers*; those at the other
    classes.
  """
  if isinstance(name, str) and ':' in name:
    given = {**options, 'dtype': dtype, 'batch_axis': batch_axis}
    return own_model(name, num_classes, given)
  return _create(
    {**MODELS, **READERS, **TRANSFORMERS},
    name,
    num_classes,
    dtype,
    batch_axis,
    options,
  )


def create_segmenter(
  name: str,
  num_classes: int,
  *,
  dtype: str = 'float32',
  batch_axis: str | None = None,
  **options: Any,
) -> nn.Module:
  """Builds a model that classifies pixels, by its name.

  It is called as `logits, out = model.apply(variables, images)`, with images
  floating point [B, H, W, C], normalised; with logits float32 [B, h, w, K] at
  the resolution of the decoder, which `losses.pixel_loss` and
  `models.resize_bilinear` bring to that of the labels, and `out['penultimate']`
  float32 [B, h, w, D], the features that the classifier sees. In training
  UperNet adds `out['auxiliary']`, the logits [B, h', w', K] of its auxiliary
  head. The linear classifier is `params['head']`, with 'kernel' [D, K] and
  'bias' [K]; what was trained to classify images before is
  `params['backbone']`, and `batch_stats['backbone']` of a ResNet.

  Training is as with `create_model`. Every model has BatchNorm after a global
  mean, so a batch needs at least two images.

  Args:
    name: a key of `SEGMENTERS`.
    num_classes: K.
    dtype: dtype of the computation, 'float32' or 'bfloat16'. Parameters, batch
      statistics, penultimate features and logits are float32 always.
    batch_axis: see `create_model`.
    **options: those of the model, `SEGMENTERS[name].options`, which are
      explained at its class, `UPerNet` or `DeepLabV3Plus`.

  Returns:
    A Flax linen module.

  Raises:
    UsageError: as `create_model`.

  Examples:
    >>> import jax, jax.numpy as jnp
    >>> model = create_segmenter('upernet_vit_tiny', 11, neck='none')
    >>> images = jnp.ones((2, 64, 48, 3))
    >>> variables = jax.eval_shape(
    ...   model.init, jax.random.key(0), images[:, :48])
    >>> logits, out = jax.eval_shape(model.apply, variables, images)
    >>> logits.shape, out['penultimate'].shape
    ((2, 8, 6, 11), (2, 8, 6, 32))
  """
  return _create(SEGMENTERS, name, num_classes, dtype, batch_axis, options)


def _create(
  known: Mapping[str, ModelEntry],
  name: str,
  num_classes: int,
  dtype: str,
  batch_axis: str | None,
  options: Mapping[str, Any],
) -> nn.Module:
  if not isinstance(name, str) or name not in known:
    raise unknown(f'model {name!r}', name, known)
  entry = known[name]
  for option in options:
    if option not in entry.options:
      what = f'option {option!r} of the model {name!r}'
      raise unknown(what, option, entry.options)
  fields = {**entry.architecture, **entry.options, **options}
  fields = {entry.renamed.get(k, k): value for k, value in fields.items()}
  # A ResNet draws nothing per example and has no use for the axis.
  if any(f.name == 'batch_axis' for f in dataclasses.fields(entry.module)):
    fields['batch_axis'] = batch_axis
  return entry.module(
    num_classes=num_classes, dtype=_compute_dtype(dtype), **fields
  )


def _compute_dtype(dtype: Any) -> Any:
  try:  # 'bfloat16' and jnp.bfloat16 alike
    name = jnp.dtype(dtype).name
  except TypeError:
    name = dtype
  return DTYPES[one_of('dtype', name, DTYPES)]
