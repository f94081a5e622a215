"""The inside of a model: outputs of any layer, and what they do to the logits.

Nothing here changes a model, so training pays nothing for it.
"""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from maxsup_jax.errors import UsageError

AtLayer = Callable[..., tuple[jax.Array, jax.Array]]


def at_layer(model: nn.Module, layer: str) -> AtLayer:
  """Looks at the output of one layer, and adds to it.

  The returned function evaluates the model as `model.apply(variables, images)`
  does, but adds `perturbation` to what the layer returns. The gradient of a
  logit with respect to it is the gradient with respect to the layer's output.

  Args:
    model: a module with the contract of this package.
    layer: the path of a submodule that returns one array, in the names of the
      parameter tree, such as 'layer3_0' or 'block11/norm1'.

  Returns:
    `apply(variables, images, perturbation=0.0) -> (logits, activations)`. The
    perturbation broadcasts to the shape of the activations, which are returned
    with it.

  Raises:
    UsageError: when the function is called, if the model has no such layer;
      one line, which lists those beside it.

  Examples:
    >>> import jax.numpy as jnp
    >>> from maxsup_jax.models import create_model
    >>> model = create_model('resnet8', 10, width=8)
    >>> images = jnp.ones((2, 8, 8, 1))
    >>> variables = jax.eval_shape(model.init, jax.random.key(0), images)
    >>> apply = at_layer(model, 'layer3_0')
    >>> _, activations = jax.eval_shape(apply, variables, images)
    >>> activations.shape
    (2, 2, 2, 32)
  """
  path = tuple(layer.split('/'))

  def apply(
    variables: Any, images: jax.Array, perturbation: Any = 0.0
  ) -> tuple[jax.Array, jax.Array]:
    found: list[jax.Array] = []
    names: list[tuple[str, ...]] = []

    def watch(method: Any, args: Any, kwargs: Any, context: Any) -> Any:
      y = method(*args, **kwargs)
      if context.method_name == '__call__':
        names.append(context.module.path)
        if context.module.path == path:
          if not isinstance(y, jax.Array):
            raise UsageError(f'layer {layer!r} does not return one array')
          found.append(y + perturbation)
          return found[-1]
      return y

    with nn.intercept_methods(watch):
      logits, _ = model.apply(variables, images, train=False)
    if not found:
      raise UsageError(f'unknown layer {layer!r}; {_nearby(path, names)}')
    return logits, found[0]

  return apply


@contextlib.contextmanager
def without_head() -> Iterator[list[jax.Array]]:
  """Models that are applied inside stop before their classifier.

  Their logits have no classes, `[B, 0]`: there is never an array `[B, K]`.

  Yields:
    A list, to which each application adds what the classifier would have seen,
    `[B, D]`, after its dropout.

  Raises:
    UsageError: when a model is applied whose layer 'head' is no `nn.Dense`.

  Examples:
    >>> from maxsup_jax.models import create_model
    >>> model, images = create_model('resnet8', 10), jnp.ones((2, 8, 8, 1))
    >>> variables = jax.eval_shape(model.init, jax.random.key(0), images)
    >>> def features(variables, images):
    ...   with without_head() as seen:
    ...     model.apply(variables, images)
    ...   return seen[0]
    >>> jax.eval_shape(features, variables, images).shape
    (2, 128)
  """
  seen: list[jax.Array] = []

  def stop(method: Any, args: Any, kwargs: Any, context: Any) -> Any:
    if context.module.path != ('head',) or context.method_name != '__call__':
      return method(*args, **kwargs)
    if not isinstance(context.module, nn.Dense):
      kind = type(context.module).__name__
      raise UsageError(f'the head is a {kind}; expected an nn.Dense')
    seen.append(args[0])
    return jnp.zeros((*args[0].shape[:-1], 0), args[0].dtype)

  with nn.intercept_methods(stop):
    yield seen


def _nearby(path: tuple[str, ...], names: list[tuple[str, ...]]) -> str:
  """Lists the layers at the deepest level of the path that exists."""
  level = 0
  while any(n[: level + 1] == path[: level + 1] for n in names):
    level += 1
  known = {
    '/'.join(n[: level + 1])
    for n in names
    if len(n) > level and n[:level] == path[:level]
  }
  if not known:
    return f'{"/".join(path[:level])!r} has no layers inside'
  return f'known: {", ".join(sorted(known))}'


def saliency_layer(model: nn.Module) -> str:
  """The layer whose output Grad-CAM weights, unless told otherwise.

  For convolutional nets the layer whose output is `out['feature_map']`, the
  last one before pooling or flattening. For ViTs the first norm of the last
  block: what the class token attends to last. After that block the patches
  influence no logit, and their gradients vanish.

  Args:
    model: a model of this package, or any module that names such a layer in an
      attribute `saliency_layer`.

  Returns:
    A path for `at_layer`.

  Examples:
    >>> from maxsup_jax.models import create_model
    >>> saliency_layer(create_model('resnet18', 10))
    'layer4_1'
    >>> saliency_layer(create_model('vit_tiny', 10))
    'block11/norm1'
  """
  layer = getattr(model, 'saliency_layer', None)
  if layer is None:
    raise UsageError(f'a {type(model).__name__} has no default layer; name one')
  return layer
