"""The kind of every parameter of a model, as told by the layer that owns it.

Names do not tell: the scale of a BatchNorm inside a ResNet's shortcut is called
neither 'bn' nor 'bias', and the bias of a multi-head projection has two
dimensions like a kernel. Recipes that go by names or by rank decay weights
that they say they do not decay.
"""

import functools
import math
from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from maxsup_jax.errors import UsageError, one_of, shown
from maxsup_jax.models.causal_norm import CausalNormHead

PARAMETER_KINDS = ('kernel', 'bias', 'normalization', 'embedding')

_NORMALIZATIONS = (
  nn.BatchNorm,
  nn.GroupNorm,
  nn.InstanceNorm,
  nn.LayerNorm,
  nn.RMSNorm,
  nn.SpectralNorm,
  nn.WeightNorm,
)
_LINEAR = (
  CausalNormHead,
  nn.Conv,
  nn.ConvLocal,
  nn.ConvTranspose,
  nn.Dense,
  nn.DenseGeneral,
  nn.Einsum,
)


def parameter_kinds(model: nn.Module, images_shape: tuple[Any, ...]) -> Any:
  """Labels every parameter with its kind.

  Subclasses of Flax's layers count as those layers, and so do the linear ones
  of this package. A parameter that a module of another class owns directly is
  an 'embedding', whatever its name.

  Args:
    model: a module with the call `model(images, train=...)`.
    images_shape: shape of images that the model can see, [B, H, W, C]; or, of a
      model that takes something else, a `jax.ShapeDtypeStruct` for each of its
      inputs. Nothing is computed.

  Returns:
    A pytree like the parameters, with one of `PARAMETER_KINDS` at each leaf:
    'kernel' (of dense layers and convolutions), 'bias' (their other
    parameters), 'normalization' (all parameters of normalisation layers) or
    'embedding' (tokens, positions, tables and the like).

  Examples:
    >>> from maxsup_jax.models import create_model
    >>> kinds = parameter_kinds(create_model('resnet8', 10), (1, 8, 8, 1))
    >>> kinds['layer2_0']['downsample_conv'], kinds['layer2_0']['downsample_bn']
    ({'kernel': 'kernel'}, {'bias': 'normalization', 'scale': 'normalization'})
  """
  owners: dict[tuple[str, ...], type[nn.Module]] = {}

  def record(call: Any, args: Any, kwargs: Any, context: Any) -> Any:
    # The first comer: a module's method runs before those of its children, and
    # a lifted child (`nn.remat`) first shows itself under its parent's path.
    owners.setdefault(context.module.path, type(context.module))
    return call(*args, **kwargs)

  inputs = images_shape
  if not all(isinstance(x, jax.ShapeDtypeStruct) for x in inputs):
    inputs = (jax.ShapeDtypeStruct(images_shape, jnp.float32),)
  with nn.intercept_methods(record):
    params = jax.eval_shape(
      functools.partial(model.init, train=False),
      # Its shape alone: a key would be the first program to be compiled.
      jax.eval_shape(lambda: jax.random.key(0)),
      *inputs,
    )['params']

  def kind(path: Any, _: Any) -> str:
    # Entries without a key are inside the parameter: a box such as Partitioned.
    names = tuple(getattr(entry, 'key', '') for entry in path)
    owner = max((o for o in owners if names[: len(o)] == o), key=len)
    return _kind(owners[owner], names[len(owner)])

  return jax.tree_util.tree_map_with_path(kind, params)


def decay_mask(
  model: nn.Module,
  images_shape: tuple[Any, ...],
  kinds: Sequence[str] = ('kernel',),
  layers: Sequence[str] = (),
) -> Any:
  """Marks the parameters that weight decay applies to, by default kernels.

  Args:
    model: a module with the call `model(images, train=...)`.
    images_shape: shapes of its inputs, see `parameter_kinds`.
    kinds: of `PARAMETER_KINDS`. Recipes that decay everything name them all;
      those of tensor2tensor name all but 'bias'.
    layers: names at the top of the tree of parameters, such as 'head'; only
      what is in them decays. None at all: every layer.

  Returns:
    A pytree of bools like the parameters, as `optax.add_decayed_weights` and
    `optax.adamw` take for `mask`.

  Raises:
    UsageError: a kind or a layer that there is not; one line, which lists the
      known ones.

  Examples:
    >>> from maxsup_jax.models import create_model
    >>> mask = decay_mask(create_model('resnet8', 10), (1, 8, 8, 1))
    >>> mask['head']
    {'bias': False, 'kernel': True}
  """
  _check_names('config.optimizer.decay', kinds, PARAMETER_KINDS)
  of_all = parameter_kinds(model, images_shape)
  _check_names('config.optimizer.decay_layers', layers, of_all)

  def decays(path: Any, kind: str) -> bool:
    return kind in kinds and (not layers or path[0].key in layers)

  return jax.tree_util.tree_map_with_path(decays, of_all)


def count_parameters(params: Any) -> int:
  """Returns the number of scalars in a pytree of arrays or of their shapes.

  Examples:
    >>> count_parameters({'kernel': jnp.zeros((3, 4)), 'bias': jnp.zeros(4)})
    16
  """
  return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(params))


def _check_names(field: str, names: Any, known: Any) -> None:
  # A string is a sequence too, of names of one letter.
  if isinstance(names, str) or not isinstance(names, Sequence):
    raise UsageError(f'{field} is {shown(names)}; expected a sequence of names')
  for name in names:
    one_of(field, name, sorted(known))


def _kind(owner: type[nn.Module], name: str) -> str:
  if issubclass(owner, _NORMALIZATIONS):
    return 'normalization'
  if issubclass(owner, _LINEAR):
    return 'kernel' if name == 'kernel' else 'bias'
  return 'embedding'
