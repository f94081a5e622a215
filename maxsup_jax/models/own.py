"""Models from elsewhere, by the name of what makes them."""

import importlib
import inspect
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from maxsup_jax.errors import UsageError, nearest, one_line


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
    found: Any = self.inner(images, train=train)
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
      f'{name}: {where} cannot be imported: {one_line(error)}'
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
      f'{name} cannot be called with {", ".join(given)}: {one_line(error)}'
    ) from error
  if not isinstance(model, nn.Module):
    raise UsageError(
      f'{name} made a {type(model).__name__}; expected a flax.linen.Module'
    )
  taken = inspect.signature(model.__call__).parameters
  if 'train' not in taken and not any(
    p.kind == p.VAR_KEYWORD for p in taken.values()
  ):
    raise UsageError(
      f'{name} made a module that takes {", ".join(taken)}; expected to call '
      'it as module(images, train=...)'
    )
  return OwnModel(model, num_classes, name)
