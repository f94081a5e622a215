"""What real files of weights have wrong, and what they have too much."""

from collections.abc import Mapping

import numpy as np

from maxsup_jax.errors import UsageError
from maxsup_jax.models._torch_names import Names, Place

# What DataParallel, Lightning and torch.compile put before every name.
PREFIXES = ('module.', 'model.', '_orig_mod.')
# What torch's averaged models have besides weights.
_BOOKKEEPING = ('n_averaged',)
_DISTILLED = ('dist_token', 'head_dist.weight', 'head_dist.bias')
BLUR = np.outer([1, 2, 1], [1, 2, 1]) / 16


def stripped(
  state_dict: Mapping[str, np.ndarray], prefix: str | None
) -> dict[str, np.ndarray]:
  """The arrays by the names of the model itself."""
  given = {n: np.asarray(value) for n, value in state_dict.items()}
  if prefix is not None:
    chosen = {n: value for n, value in given.items() if n.startswith(prefix)}
    if not chosen:
      first = next(iter(given), None)
      raise UsageError(
        f'no name in the weights begins with {prefix!r}; {first!r} is the first'
      )
    return {n.removeprefix(prefix): value for n, value in chosen.items()}
  given = {n: v for n, v in given.items() if n not in _BOOKKEEPING}
  if not given:
    raise UsageError('the weights are empty: there is no array in them')
  while shared := [p for p in PREFIXES if all(n.startswith(p) for n in given)]:
    given = {n.removeprefix(shared[0]): value for n, value in given.items()}
  return given


def check_kind(given: Mapping[str, np.ndarray]) -> None:
  """Refuses what has two classifiers."""
  for name in _DISTILLED:
    if name in given:
      raise UsageError(
        f'the weights are of a distilled DeiT: they have {name!r}, and no '
        'model here has a second token and head'
      )


def check_blur(given: Mapping[str, np.ndarray], names: Names) -> None:
  """Refuses blurs in the one but not the other, and other kernels."""
  for name in given:
    if name.endswith('.blur_filter') and not names.blurs:
      raise UsageError(
        f'the weights have BlurPool ({name!r}), and the model has not: set '
        'blur_pool=True'
      )
  blurred = any(name.endswith('.blur_filter') for name in given)
  for name, shape in names.blurs.items():
    plain = name.replace('.blur_filter', '.weight')
    if not blurred and plain in given:
      raise UsageError(
        f'the model has blur_pool=True, and the weights have no BlurPool: '
        f'{plain!r} is there, and no {name!r}'
      )
    if name in given:
      kernel = np.asarray(given[name], np.float32)
      if kernel.shape != shape:
        raise UsageError(
          f'{name}: {list(kernel.shape)} in the weights, {list(shape)} in the '
          'model'
        )
      # Powers of two: no precision rounds them.
      if not (kernel == BLUR).all():
        raise UsageError(
          f'{name}: expected the kernel [1, 2, 1]ᵀ[1, 2, 1] / 16 for every '
          f'channel, got {kernel[0, 0].tolist()} for the first'
        )


def check_names(
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
      raise UsageError(f'the state dict has no {name!r}{hint}')
  known = {*wanted, *ignored, *names.counters, *names.blurs}
  for name, value in given.items():
    if name not in known:
      raise UsageError(
        f'the model has no place for {name!r}, {list(value.shape)}, of the '
        'state dict'
      )


def other_shape(place: Place, found: tuple[int, ...], names: Names) -> str:
  """The line that says of an array that it has another shape, and why.

  Args:
    place: where it belongs.
    found: its shape.
    names: of the model.
  """
  text = (
    f'{place.name}: {list(found)} in the weights, {list(place.shape)} in the '
    'model'
  )
  if place.name.startswith(f'{names.head}.') and found[1:] == place.shape[1:]:
    return f'{text}: they have another number of classes'
  if place.name == 'pos_embed' and found[::2] == place.shape[::2]:
    return f'{text}: positions of another size of images; resize_positions'
  return text


def checked_order(order: np.ndarray, classes: int) -> np.ndarray:
  """An order of classes as an array, if it has each class once.

  Args:
    order: int [K].
    classes: K.

  Raises:
    UsageError: in one line, if it has not.
  """
  order = np.asarray(order)
  if not np.issubdtype(order.dtype, np.integer):
    raise UsageError(f'class_order: expected integers, got {order.dtype}')
  if not np.array_equal(np.sort(order), np.arange(classes)):
    raise UsageError(
      f'class_order: expected each of the {classes} classes once, got '
      f'{order.size} indices'
    )
  return order
