"""Converts weights of PyTorch models to Flax variables, and back.

The models are `ResNet` and `MobileNetV2` under torchvision's names, `ViT` and
`InceptionV4` under timm's, the former those of DeiT, too, `UPerNet` under
mmsegmentation's, and backbones under the names of their classifiers. Nothing
here needs PyTorch, but for reading and writing its pickles.
"""

import math
from collections.abc import Mapping
from typing import Any

import flax
import flax.linen as nn
import jax.numpy as jnp
import numpy as np

from maxsup_jax.errors import UsageError
from maxsup_jax.models._torch_files import SUFFIXES as SUFFIXES
from maxsup_jax.models._torch_files import class_order as class_order
from maxsup_jax.models._torch_files import is_torch_file as is_torch_file
from maxsup_jax.models._torch_files import read as read
from maxsup_jax.models._torch_files import write as write
from maxsup_jax.models._torch_names import Names, Place, names_of
from maxsup_jax.models.resampling import resize_positions

# What DataParallel, Lightning and torch.compile put before every name.
PREFIXES = ('module.', 'model.', '_orig_mod.')
# What torch's averaged models have besides weights.
_BOOKKEEPING = ('n_averaged',)
_BLUR = np.outer([1, 2, 1], [1, 2, 1]) / 16


def from_torch(
  state_dict: Mapping[str, np.ndarray],
  model: nn.Module,
  like: Any,
  *,
  prefix: str | None = None,
  head: bool = True,
  class_order: np.ndarray | None = None,
  resize_positions: bool | str = False,
) -> dict[str, Any]:
  """Makes variables of a state dict; every array must have a place in them.

  Args:
    state_dict: arrays by their names in torchvision, timm or mmsegmentation, of
      any floating point dtype. `PREFIXES` that all names share are taken off.
    model: a `ResNet`, `MobileNetV2`, `InceptionV4`, `ViT` or `UPerNet`, or a
      backbone. Where it has `blur_pool`, the state dict must have the kernels
      of the blur as buffers `blur_filter`. An UperNet may lack the bias of the
      patches, which mmsegmentation 1.2.2 does not have: it is 0 then.
    like: the variables of the model, or their shapes; no value is read.
    prefix: take the names that begin with it, and no others, without it.
    head: False leaves the classifier out, whatever its number of classes, and
      that of an auxiliary head.
    class_order: int [K], which row of the classifier there is class k here; see
      the function `class_order`. None if the classes have the same order.
    resize_positions: whether to resample the learned positions of a ViT that
      are for another size of images, as timm does (bicubic, antialiased).

  Returns:
    The collections of `like`, float32 NumPy arrays; without each 'head' if
    it is left out.

  Raises:
    UsageError: in one line, at the first name that is missing or left over, at
      the first array of another shape, with both shapes, and at the first that
      is not finite in float32 or has negative variances.

  Examples:
    >>> import jax
    >>> from maxsup_jax.models import create_model
    >>> model = create_model('resnet8', 10, width=8)
    >>> like = jax.eval_shape(model.init, jax.random.key(0),
    ...                       jnp.ones((1, 8, 8, 3)))
    >>> ours = jax.tree.map(lambda x: np.ones(x.shape, x.dtype), like)
    >>> there = to_torch(ours, model)
    >>> there['layer2.0.downsample.0.weight'].shape
    (16, 8, 1, 1)
    >>> back = from_torch(there, model, like)
    >>> back['params']['layer2_0']['downsample_conv']['kernel'].shape
    (1, 1, 8, 16)
  """
  names = names_of(model, like)
  given = _stripped(state_dict, prefix, names)
  for name in ('dist_token', 'head_dist.weight', 'head_dist.bias'):
    if name in given:
      raise UsageError(
        f'the weights have {name!r}, as a distilled DeiT does; no model here '
        'has its second token and head'
      )
  _check_blur(given, names)
  shapes = {place.name: place.shape for place in names.places}
  for name in names.optional:
    given.setdefault(name, np.zeros(shapes[name], np.float32))
  given = {n: v for n, v in given.items() if not n.startswith(names.unused)}
  in_head = {f'{h}.{leaf}' for h in names.heads for leaf in ('weight', 'bias')}
  taken = [p for p in names.places if head or p.name not in in_head]
  ignored = set() if head else in_head
  _check_names(given, names, {p.name for p in taken}, ignored)
  flat: dict[tuple[str, ...], np.ndarray] = {}
  for place in taken:
    value = given[place.name]
    if not jnp.issubdtype(value.dtype, jnp.floating):
      raise UsageError(
        f'{place.name} is {value.dtype}; expected floating point'
      )
    with np.errstate(over='ignore'):
      value = np.asarray(value, np.float32)
    if not np.isfinite(value).all():
      raise UsageError(
        f'{place.name} has numbers that are not finite in float32'
      )
    if place.name.endswith('running_var') and (value < 0).any():
      raise UsageError(f'{place.name} has negative variances')
    if place.path[-1] == 'pos_embed' and resize_positions:
      method = 'antialias' if resize_positions is True else resize_positions
      value = _resized(value, place.shape, method)
    if value.shape != place.shape:
      raise UsageError(_other_shape(place, value.shape, names))
    if class_order is not None and place.name in in_head:
      value = value[_checked_order(class_order, len(value))]
    if place.axes is not None:
      value = value.transpose(place.axes)
    flat[place.path] = np.ascontiguousarray(value).reshape(place.here)
  nested = flax.traverse_util.unflatten_dict(flat)
  return {collection: nested.get(collection, {}) for collection in like}


def to_torch(
  variables: Any,
  model: nn.Module,
  *,
  batches: int = 0,
  class_order: np.ndarray | None = None,
) -> dict[str, np.ndarray]:
  """Makes the state dict that the PyTorch model loads, with `strict=True`.

  Args:
    variables: of the model; what `from_torch` gives comes back bit for bit.
    model: as in `from_torch`. With `blur_pool`, the convolution
      behind a blur has the names that its wrapper in the code of the authors of
      MaxSup, and in ffcv's, gives it.
    batches: what BatchNorm's counters `num_batches_tracked` say; torch's
      averages do not depend on them unless their momentum is None.
    class_order: as in `from_torch`: back into the order there.

  Returns:
    Arrays by name, float32, and int64 for the counters. A ResNet whose stem is
    'cifar' has a 3x3 kernel in 'conv1.weight', and no maximum pooling follows.

  Raises:
    UsageError: for another kind of model.
  """
  names = names_of(model, variables)
  flat = flax.traverse_util.flatten_dict(dict(variables))
  state_dict = {}
  for place in names.places:
    value = np.asarray(flat[place.path], np.float32)
    if place.axes is not None:
      value = value.reshape([place.shape[i] for i in place.axes])
      value = value.transpose(np.argsort(place.axes))
    if class_order is not None and place.name.startswith(f'{names.head}.'):
      order = _checked_order(class_order, len(value))
      value = value[np.argsort(order)]
    state_dict[place.name] = np.ascontiguousarray(value)
  for name in names.counters:
    state_dict[name] = np.array(batches, np.int64)
  for name, shape in names.blurs.items():
    state_dict[name] = np.broadcast_to(_BLUR, shape).astype(np.float32)
  return state_dict


def count_classes(
  state_dict: Mapping[str, np.ndarray],
  model: nn.Module,
  *,
  prefix: str | None = None,
) -> int | None:
  """The number of classes of a state dict; None if it has no classifier.

  Arguments are as in `from_torch`; the model may have any number of classes.

  Examples:
    >>> from maxsup_jax.models import create_model
    >>> count_classes({'fc.bias': np.zeros(9)}, create_model('resnet18', 10))
    9
  """
  names = names_of(model, {})
  bias, given = f'{names.head}.bias', _stripped(state_dict, prefix, names)
  return len(given[bias]) if bias in given else None


def _resized(
  value: np.ndarray, shape: tuple[int, ...], method: str
) -> np.ndarray:
  """Positions [1, 1 + n, D] as [1, 1 + m, D], of square images."""
  if value.ndim != 3 or value.shape[::2] != shape[::2]:
    return value
  old, new = value.shape[1] - 1, shape[1] - 1
  sides = [math.isqrt(count) for count in (old, new)]
  if [side**2 for side in sides] != [old, new]:
    raise UsageError(
      f'pos_embed: positions of {old} patches cannot be resampled to {new}; '
      'expected square images for both'
    )
  grid = sides[1], sides[1]
  return np.asarray(resize_positions(jnp.asarray(value), grid, method))


def _stripped(
  state_dict: Mapping[str, np.ndarray], prefix: str | None, names: Names
) -> dict[str, np.ndarray]:
  """The arrays by the names of the model itself."""
  given = _without_prefix(state_dict, prefix)
  if names.head == 'fc' and 'fc.weight' not in given:
    # As ResNets for CIFAR often call it.
    named = {'linear.weight': 'fc.weight', 'linear.bias': 'fc.bias'}
    given = {named.get(n, n): value for n, value in given.items()}
  return given


def _without_prefix(
  state_dict: Mapping[str, np.ndarray], prefix: str | None
) -> dict[str, np.ndarray]:
  given = {n: np.asarray(value) for n, value in state_dict.items()}
  if prefix is not None:
    chosen = {n: value for n, value in given.items() if n.startswith(prefix)}
    if not chosen:
      first = next(iter(given), None)
      raise UsageError(
        f'prefix is {prefix!r}, but no name in the weights begins with it; '
        f'the first is {first!r}'
      )
    return {n.removeprefix(prefix): value for n, value in chosen.items()}
  given = {n: v for n, v in given.items() if n not in _BOOKKEEPING}
  if not given:
    raise UsageError('the weights are empty; expected at least one array')
  while shared := [p for p in PREFIXES if all(n.startswith(p) for n in given)]:
    given = {n.removeprefix(shared[0]): value for n, value in given.items()}
  return given


def _check_blur(given: Mapping[str, np.ndarray], names: Names) -> None:
  """Refuses blurs in the one but not the other, and other kernels."""
  for name in given:
    if name.endswith('.blur_filter') and not names.blurs:
      raise UsageError(
        f'the weights have BlurPool ({name!r}), but the model does not; set '
        'blur_pool=True'
      )
  blurred = any(name.endswith('.blur_filter') for name in given)
  for name, shape in names.blurs.items():
    plain = name.replace('.blur_filter', '.weight')
    if not blurred and plain in given:
      raise UsageError(
        'the model has blur_pool=True, but the weights have no BlurPool: '
        f'{plain!r} in place of {name!r}'
      )
    if name in given:
      kernel = np.asarray(given[name], np.float32)
      if kernel.shape != shape:
        raise UsageError(
          f'{name} is {list(kernel.shape)} in the weights; expected '
          f'{list(shape)}'
        )
      # Powers of two: no precision rounds them.
      if not (kernel == _BLUR).all():
        raise UsageError(
          f'{name}: expected the kernel [1, 2, 1]ᵀ[1, 2, 1] / 16 for every '
          f'channel, got {kernel[0, 0].tolist()} for the first'
        )


def _check_names(
  given: Mapping[str, np.ndarray],
  names: Names,
  wanted: set[str],
  ignored: set[str],
) -> None:
  """Refuses what is missing or left over."""
  expected = [p.name for p in names.places if p.name in wanted]
  for name in [*expected, *names.blurs]:
    if name not in given:
      longer = [n for n in given if n.endswith(f'.{name}')]
      hint = f'; it has {longer[0]!r}: choose the prefix' if longer else ''
      if 'cls_token' in given and 'cls_token' not in expected:
        hint = ': these are names of timm, of a classifier of images'
      raise UsageError(f'the state dict has no {name!r}{hint}')
  known = {*wanted, *ignored, *names.counters, *names.blurs}
  for name, value in given.items():
    if name not in known:
      raise UsageError(
        f'the state dict has {name!r}, {list(value.shape)}, which the model '
        'lacks'
      )


def _other_shape(place: Place, found: tuple[int, ...], names: Names) -> str:
  """The line that says of an array that it has another shape, and why."""
  text = (
    f'{place.name}: {list(found)} in the weights, {list(place.shape)} in the '
    'model'
  )
  if place.name.startswith(f'{names.head}.') and found[1:] == place.shape[1:]:
    return f'{text}: they have another number of classes'
  if place.path[-1] == 'pos_embed' and found[::2] == place.shape[::2]:
    return f'{text}: positions of another size of images; resize_positions'
  return text


def _checked_order(order: np.ndarray, classes: int) -> np.ndarray:
  """An order of classes as an array [K], if it has each class once."""
  order = np.asarray(order)
  if not np.issubdtype(order.dtype, np.integer):
    raise UsageError(f'class_order is {order.dtype}; expected integers')
  if not np.array_equal(np.sort(order), np.arange(classes)):
    raise UsageError(
      f'class_order has {order.size} indices; expected each of the {classes} '
      'classes once'
    )
  return order
