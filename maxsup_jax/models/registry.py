"""The table of models by name, and the function that looks them up."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from maxsup_jax._errors import UsageError
from maxsup_jax.models import _checks
from maxsup_jax.models.resnet import BasicBlock, BottleneckBlock, ResNet
from maxsup_jax.models.vit import ViT

DTYPES: Mapping[str, Any] = {
  'float32': jnp.float32,
  'bfloat16': jnp.bfloat16,
}


@dataclasses.dataclass(frozen=True)
class ModelEntry:
  """One row of `MODELS`.

  Attributes:
    module: the class that is built.
    architecture: the fields that the name stands for.
    options: the fields that the caller may set, with their defaults.
  """

  module: type[nn.Module]
  architecture: Mapping[str, Any]
  options: Mapping[str, Any]


def _resnet(block, stage_sizes, **defaults) -> ModelEntry:
  options = {
    'stem': 'imagenet',
    'width': 64,
    'zero_init_residual': False,
    'batch_norm_axis': None,
  }
  return ModelEntry(
    module=ResNet,
    architecture={'block': block, 'stage_sizes': stage_sizes},
    options={**options, **defaults},
  )


def _vit(dim, depth, heads) -> ModelEntry:
  return ModelEntry(
    module=ViT,
    architecture={'dim': dim, 'depth': depth, 'heads': heads},
    options={'patch_size': 16, 'drop_path': 0.0},
  )


MODELS: Mapping[str, ModelEntry] = {
  # For images of 8x8 to 32x32; 0.3 million parameters.
  'resnet8': _resnet(BasicBlock, (1, 1, 1), stem='cifar', width=32),
  'resnet18': _resnet(BasicBlock, (2, 2, 2, 2)),
  'resnet34': _resnet(BasicBlock, (3, 4, 6, 3)),
  'resnet50': _resnet(BottleneckBlock, (3, 4, 6, 3)),
  'resnet101': _resnet(BottleneckBlock, (3, 4, 23, 3)),
  'vit_tiny': _vit(dim=192, depth=12, heads=3),
  'vit_small': _vit(dim=384, depth=12, heads=6),
  'vit_base': _vit(dim=768, depth=12, heads=12),
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
  logits float32 [B, K] and `out['penultimate']` float32 [B, D]; ResNets add
  `out['feature_map']`, ViTs `out['tokens']`. Entries that are not used cost
  nothing under jit. The linear classifier is `params['head']`, with 'kernel'
  [D, K] and 'bias' [K]. To train, pass `train=True`, `mutable=['batch_stats']`
  and `rngs={'drop_path': key}`, all of which every model accepts.

  Args:
    name: a key of `MODELS`.
    num_classes: K.
    dtype: dtype of the computation, 'float32' or 'bfloat16'. Parameters and
      logits are float32 always.
    batch_axis: name of the mapped axis (of pmap or vmap) over which the batch
      is split, for models that draw random numbers per example. None: the
      array is the whole batch.
    **options: the options of that model, `MODELS[name].options`. ResNets:
      `stem` ('imagenet' or 'cifar'), `width`, `zero_init_residual`,
      `batch_norm_axis`. ViTs: `patch_size`, `drop_path`. What they mean stands
      at the fields of `ResNet` and `ViT`.

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
    al. 2021, *Training data-efficient image transformers*.
  """
  _checks.check_choice('model', name, MODELS)
  entry = MODELS[name]
  for option in options:
    if option not in entry.options:
      raise UsageError(
        f'model {name!r} has no option {option!r}; '
        f'known: {_checks.known(entry.options)}'
      )
  fields = {**entry.architecture, **entry.options, **options}
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
  _checks.check_choice('dtype', name, DTYPES)
  return DTYPES[name]
