"""Models from elsewhere, by the name of what makes them."""

import importlib
import inspect
import traceback
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from maxsup_jax.errors import UsageError, nearest, one_line

# Whose lines say nothing of what is wrong with a module.
_LIBRARIES = {
  *('contextlib', 'flax', 'functools', 'importlib', 'inspect', 'jax', 'jaxlib'),
  *('maxsup_jax', 'ml_dtypes', 'numpy', 'optax'),
}


class OwnModel(nn.Module):
  """A module of a user's, with the outputs that `create_model` promises.

  Its parameters have the names that they have without this class.

  Attributes:
    inner: called as `inner(images, train=...)`; gives logits [B, K], alone or
      with a dictionary of what led to them.
    num_classes: K.
    source: what made it, for messages.
  """

  inner: nn.Module
  num_classes: int
  source: str = 'the model'

  def setup(self) -> None:
    """Puts the parameters where those of the module itself would be."""
    nn.share_scope(self, self.inner)

  def __call__(self, images: Any, train: bool = False) -> Any:
    """Logits float32 [B, K], and what led to them."""
    try:
      found: Any = self.inner(images, train=train)
    except UsageError:
      raise
    except Exception as error:  # Whatever a module does.
      raise UsageError(
        f'{self.source} fails for images {list(images.shape)}: {_told(error)}'
      ) from error
    logits, out = found if isinstance(found, tuple) else (found, {})
    expected = len(images), self.num_classes
    if getattr(logits, 'shape', None) != expected:
      shape = list(getattr(logits, 'shape', ())) or type(logits).__name__
      raise UsageError(
        f'{self.source} gives logits {shape} for images {list(images.shape)}; '
        f'expected {list(expected)}'
      )
    if not isinstance(out, Mapping):
      raise UsageError(
        f'{self.source} gives a {type(out).__name__} beside the logits; '
        'expected a dictionary'
      )
    return jnp.asarray(logits, jnp.float32), dict(out)


def own_model(
  name: str, num_classes: int, options: Mapping[str, Any]
) -> OwnModel:
  """Calls what is named, such as 'my_package.my_module:make_model'.

  Args:
    name: a module that can be imported, and a function or class in it.
    num_classes: passed under this name.
    options: likewise; 'dtype', 'batch_axis' and 'batch_norm_axis', which
      configurations add, only where they are taken.

  Raises:
    UsageError: one line, if it cannot be called so, or makes something else.

  Examples:
    >>> model = own_model('flax.linen:Dense', 10, {})
    Traceback (most recent call last):
    ...
    maxsup_jax.errors.UsageError: flax.linen:Dense cannot be called with ...
  """
  where, _, attribute = name.partition(':')
  try:
    module = importlib.import_module(where)
  except Exception as error:  # Whatever a module does when it is imported.
    raise UsageError(
      f'{name}: {where} cannot be imported: {_told(error)}'
    ) from error
  if not hasattr(module, attribute):
    near = nearest(attribute, dir(module))
    hint = f'; did you mean {near!r}?' if near else ''
    raise UsageError(f'{name}: {where} has no {attribute!r}{hint}')
  make = getattr(module, attribute)
  given = {'num_classes': num_classes, **options}
  try:
    taken = inspect.signature(make).parameters
    free = any(p.kind == p.VAR_KEYWORD for p in taken.values())
    for added in ('dtype', 'batch_axis', 'batch_norm_axis'):
      if added not in taken and not free:
        given.pop(added, None)
    model = make(**given)
  except Exception as error:  # Likewise.
    raise UsageError(
      f'{name} cannot be called with {", ".join(given)}: {_told(error)}'
    ) from error
  return checked_model(model, num_classes, name)


def checked_model(model: Any, num_classes: int, source: str) -> OwnModel:
  """A module that is checked as it is called.

  Args:
    model: called as `model(images, train=...)`.
    num_classes: K.
    source: what made it, for messages.

  Raises:
    UsageError: for something else.

  Examples:
    >>> checked_model(nn.Dense(10), 10, 'mine')
    Traceback (most recent call last):
    ...
    maxsup_jax.errors.UsageError: mine is a module that takes inputs; ...
  """
  if not isinstance(model, nn.Module):
    raise UsageError(
      f'{source} is of type {type(model).__name__}; expected a '
      'flax.linen.Module'
    )
  taken = inspect.signature(model.__call__).parameters
  if 'train' not in taken and not any(
    p.kind == p.VAR_KEYWORD for p in taken.values()
  ):
    raise UsageError(
      f'{source} is a module that takes {", ".join(taken)}; expected to call '
      'it as module(images, train=...)'
    )
  return OwnModel(model, num_classes, source)


def _told(error: BaseException) -> str:
  """An error and where it came from: the last line that is not of a library."""
  frames = list(traceback.walk_tb(error.__traceback__))
  own = [
    f'{frame.f_code.co_filename}:{line}'
    for frame, line in frames
    if frame.f_globals.get('__name__', '').partition('.')[0] not in _LIBRARIES
  ]
  where = f' ({own[-1]})' if own else ''
  return f'{type(error).__name__}: {one_line(error)}{where}'
