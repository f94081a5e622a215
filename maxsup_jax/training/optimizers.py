"""The optimizers of the recipes, as optax transformations."""

from typing import Any

import optax

from maxsup_jax import errors
from maxsup_jax.errors import UsageError
from maxsup_jax.training.config import OPTIMIZERS


def make_optimizer(
  name: str,
  learning_rate: optax.ScalarOrSchedule,
  *,
  weight_decay: float = 0.0,
  decay_mask: Any = None,
  clip_norm: float | None = None,
  clip_decayed: bool = False,
  clip_value: float | None = None,
  momentum: float = 0.9,
  nesterov: bool = True,
  b1: float = 0.9,
  b2: float = 0.999,
  eps: float = 1e-8,
) -> optax.GradientTransformation:
  r"""Builds SGD with momentum, or AdamW, as PyTorch defines them.

  Each element of the gradient :math:`g` is first limited to
  [-`clip_value`, `clip_value`]; then :math:`g` is clipped to the global norm
  `clip_norm`.

  * `sgd`: the decay joins the gradient, :math:`g \leftarrow g + \lambda w`,
    then :math:`m \leftarrow \mu m + g` and :math:`w \leftarrow w - \eta m`,
    or :math:`w - \eta(g + \mu m)` with Nesterov momentum. With `clip_decayed`
    the sum :math:`g + \lambda w` is clipped to `clip_norm` instead of
    :math:`g`, as where the decay is a term of the loss.
  * `adamw`: the decay is decoupled,
    :math:`w \leftarrow w - \eta(\hat m / (\sqrt{\hat v} + \epsilon) +
    \lambda w)`.

  Args:
    name: one of `OPTIMIZERS`.
    learning_rate: :math:`\eta`, a float or a function of the step.
    weight_decay: :math:`\lambda`.
    decay_mask: a tree like the parameters, True where the decay applies; None
      for everywhere.
    clip_norm: the largest global norm of the gradient; None for no clipping.
    clip_decayed: `sgd` only: clips to `clip_norm` after the decay has joined.
    clip_value: the largest magnitude of an element of the gradient; None for no
      clipping.
    momentum: :math:`\mu` of `sgd`.
    nesterov: Nesterov momentum, `sgd` only.
    b1: decay rate of the first moment, `adamw` only.
    b2: decay rate of the second moment, `adamw` only.
    eps: :math:`\epsilon` of `adamw`.

  Returns:
    An optax transformation whose updates are added to the parameters.

  Raises:
    UsageError: for an unknown name or a value out of its range.

  Examples:
    >>> import jax.numpy as jnp
    >>> tx = make_optimizer('sgd', 0.1, weight_decay=0.01, momentum=0.0,
    ...                     nesterov=False)
    >>> w = {'w': jnp.array([1.0])}
    >>> updates, _ = tx.update({'w': jnp.array([2.0])}, tx.init(w), w)
    >>> print(updates['w'])
    [-0.201]

  References:
    Loshchilov and Hutter, `Decoupled Weight Decay Regularization
    <https://arxiv.org/abs/1711.05101>`_, 2019.
  """
  errors.one_of('name', name, OPTIMIZERS)
  errors.number('weight_decay', weight_decay, low=0)
  for field, value in (('clip_norm', clip_norm), ('clip_value', clip_value)):
    if value is not None:
      errors.number(field, value, above=0)
  for field, value in (('momentum', momentum), ('b1', b1), ('b2', b2)):
    errors.number(field, value, low=0, below=1)
  errors.number('eps', eps, above=0)
  if clip_decayed and name != 'sgd':
    raise UsageError(
      f'clip_decayed is True, but {name!r} does not add its decay to the '
      'gradient; expected False, or the optimizer sgd'
    )
  if clip_decayed and clip_norm is None:
    raise UsageError('clip_decayed is True; expected clip_norm as well')
  before = [] if clip_value is None else [optax.clip(clip_value)]
  clip = [] if clip_norm is None else [optax.clip_by_global_norm(clip_norm)]
  if name == 'adamw':
    adamw = optax.adamw(
      learning_rate, b1, b2, eps, weight_decay=weight_decay, mask=decay_mask
    )
    return optax.chain(*before, *clip, adamw)
  decay = [optax.add_decayed_weights(weight_decay, decay_mask)]
  before += decay + clip if clip_decayed else clip + decay
  sgd = optax.sgd(learning_rate, momentum or None, nesterov and momentum > 0)
  return optax.chain(*before, sgd)
