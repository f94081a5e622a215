"""Online label smoothing (OLS): soft labels from the model's own statistics."""

import warnings
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from maxsup_jax import errors
from maxsup_jax.losses import _checks
from maxsup_jax.losses._rows import Rows

_ONE_CLASS = 'online label smoothing keeps one soft label per true class'
# The state of 8,192 classes has half a gigabyte.
_LARGE_BYTES = 2**29


class OnlineSmoothing(NamedTuple):
  """The state of online label smoothing, a pytree of float32 arrays.

  Attributes:
    targets: the soft label of every class in its row, `[K, K]`, as of the last
      epoch.
    sums: the sum of the softmax over this epoch's correctly classified
      examples of every class, `[K, K]`.
    counts: the number of these examples, `[K]`.
  """

  targets: jax.Array
  sums: jax.Array
  counts: jax.Array


def ols_init(
  num_classes: int, *, initial: str = 'uniform', smoothing: float = 0.1
) -> OnlineSmoothing:
  r"""The state of online label smoothing before the first epoch.

  It holds two matrices of :math:`K^2` numbers: 8 MB for 1,000 classes, 3.8 GB
  for 21,843, on every device and in every checkpoint. From half a gigabyte on a
  warning says how much.

  Args:
    num_classes: `K`.
    initial: the soft labels of the first epoch. ``'uniform'``: 1/K, as in the
      paper and in its code for fine-grained classes. ``'smoothed'``:
      :math:`1 - \epsilon` for the true class and :math:`\epsilon / (K - 1)` for
      the others, as in the code published with MaxSup. ``'zeros'``: no soft
      term in the first epoch, as in the paper's code for CIFAR.
    smoothing: :math:`\epsilon` of ``'smoothed'``.

  Returns:
    The state.

  Examples:
    >>> from maxsup_jax import losses
    >>> print(losses.ols_init(3, initial='smoothed').targets)
    [[0.9  0.05 0.05]
     [0.05 0.9  0.05]
     [0.05 0.05 0.9 ]]

  References:
    Zhang et al., `Delving Deep into Label Smoothing
    <https://arxiv.org/abs/2011.12562>`_, TIP 2021.
  """
  num_classes = errors.integer('num_classes', num_classes, 1)
  errors.one_of('initial', initial, ('uniform', 'smoothed', 'zeros'))
  smoothing = errors.number('smoothing', smoothing, 0, 1)
  size = 2 * 4 * num_classes**2
  if size >= _LARGE_BYTES:
    warnings.warn(
      f'online label smoothing of {num_classes} classes keeps '
      f'{size / 1e9:.1f} GB on every device and in every checkpoint',
      stacklevel=2,
    )
  shape = (num_classes, num_classes)
  if initial == 'zeros':
    targets = jnp.zeros(shape, jnp.float32)
  elif initial == 'uniform' or num_classes == 1:
    targets = jnp.full(shape, 1 / num_classes, jnp.float32)
  else:
    others = smoothing / (num_classes - 1)
    targets = jnp.full(shape, others, jnp.float32)
    targets = jnp.fill_diagonal(targets, 1 - smoothing, inplace=False)
  return OnlineSmoothing(
    targets=targets,
    sums=jnp.zeros(shape, jnp.float32),
    counts=jnp.zeros(num_classes, jnp.float32),
  )


def ols_update(
  state: OnlineSmoothing,
  logits: ArrayLike,
  labels: ArrayLike,
  *,
  axis: int = -1,
  where: ArrayLike | None = None,
  axis_name: str | None = None,
) -> OnlineSmoothing:
  """Adds the correctly classified examples of a training batch.

  An example whose top class is its label adds its softmax to the sum of that
  class, and 1 to its count. Where classes tie for the top, the first counts.
  An example whose top logit is not finite adds nothing.
  Nothing gets a gradient. Call it on training batches only, after the loss.

  Args:
    state: the state of the same number of classes.
    logits, labels, axis, where: see `cross_entropy`. Class ids only; those
      outside `[0, K)` add nothing.
    axis_name: the axis of devices over which the batch is spread, if it is:
      their statistics are summed, and all get the same state. Costs a sum of
      `K^2 + K` numbers over the devices.

  Returns:
    The next state; its targets are still those of the last epoch.

  Examples:
    >>> import jax.numpy as jnp
    >>> from maxsup_jax import losses
    >>> logits = jnp.array([[2.0, 1.0, 0.1], [0.5, 1.5, 1.0]])
    >>> state = losses.ols_update(
    ...     losses.ols_init(3), logits, jnp.array([0, 2]))
    >>> print(state.counts)
    [1. 0. 0.]
  """
  rows, target = Rows.labelled(
    jax.lax.stop_gradient(logits),
    labels,
    None,
    axis,
    where,
    one_class=_ONE_CLASS,
  )
  num_classes = rows.z.shape[rows.axis]
  if state.counts.shape != (num_classes,):
    raise ValueError(
      f'state has {state.counts.size} classes; expected {num_classes}'
      f'{_checks.of_logits(rows.z)}'
    )
  # Masked classes are -inf here, and never on top.
  assert target.ids is not None  # Distributions are refused before.
  counted_B = jnp.argmax(rows.logits, rows.axis) == target.ids
  counted_B &= ~jnp.isnan(target.known)
  # A single NaN would stay in the soft labels.
  counted_B &= jnp.isfinite(jnp.max(rows.logits, rows.axis))
  if rows.examples is not None:
    counted_B &= rows.examples
  softmax_BK = jnp.moveaxis(rows.softmax(), rows.axis, -1)
  softmax_NK = softmax_BK.reshape(-1, num_classes).astype(jnp.float32)
  labels_N, counted_N = target.ids.reshape(-1), counted_B.reshape(-1)
  # An index of K is out of bounds, and dropped.
  index_N = jnp.where(counted_N, labels_N, num_classes)
  sums = jnp.zeros_like(state.sums).at[index_N].add(softmax_NK, mode='drop')
  counts = jnp.zeros_like(state.counts).at[index_N].add(1, mode='drop')
  if axis_name is not None:
    sums, counts = jax.lax.psum((sums, counts), axis_name)
  return state._replace(sums=state.sums + sums, counts=state.counts + counts)


def ols_end_of_epoch(
  state: OnlineSmoothing, *, freeze_above: float | None = None
) -> OnlineSmoothing:
  """Makes the means of the epoch the soft labels of the next one.

  A class without a correctly classified example gets the uniform distribution.

  Args:
    state: the state after the last update of the epoch.
    freeze_above: rows of the targets with an entry of at least this stay as
      they are; the paper's code for fine-grained classes has 0.88. None
      replaces all.

  Returns:
    The state with new targets, and with sums and counts of 0.

  Examples:
    >>> import numpy as np
    >>> from maxsup_jax import losses
    >>> state = losses.ols_update(
    ...     losses.ols_init(3), np.array([[2.0, 1.0, 0.1]]), np.array([0]))
    >>> state = losses.ols_end_of_epoch(state)
    >>> print(np.asarray(state.targets).round(3))
    [[0.659 0.242 0.099]
     [0.333 0.333 0.333]
     [0.333 0.333 0.333]]
  """
  counts_K1 = state.counts[:, None]
  means = state.sums / jnp.maximum(counts_K1, 1)
  targets = jnp.where(counts_K1 > 0, means, 1 / state.counts.size)
  if freeze_above is not None:
    freeze_above = errors.number('freeze_above', freeze_above, 0, 1)
    frozen_K1 = jnp.max(state.targets, -1, keepdims=True) >= freeze_above
    targets = jnp.where(frozen_K1, state.targets, targets)
  return OnlineSmoothing(
    targets=targets,
    sums=jnp.zeros_like(state.sums),
    counts=jnp.zeros_like(state.counts),
  )


def ols_cross_entropy(
  logits: ArrayLike,
  labels: ArrayLike,
  targets: ArrayLike,
  alpha: ArrayLike = 0.5,
  *,
  class_weights: ArrayLike | None = None,
  axis: int = -1,
  where: ArrayLike | None = None,
) -> jax.Array:
  r"""Cross-entropy with the label and with its soft label, per example.

  .. math::
    \alpha H(y, q) + (1 - \alpha) H(S_y, q)

  Mind the strength: here :math:`\alpha = 1` is plain cross-entropy. The paper's
  code for fine-grained classes adds both terms with weight 1, which is twice
  the loss for :math:`\alpha = 1/2`.

  Args:
    targets: `S`, floating point, `[K, K]`: the soft label of every class in its
      row, as in `OnlineSmoothing.targets`. Used as they are, without gradient;
      what they give to masked classes is dropped. Weights of the classes
      multiply them like the label.
    alpha: weight of the label, in [0, 1].
    logits, labels, class_weights, axis, where: see `cross_entropy`. Class ids
      only.

  Returns:
    The loss of every example, `[B]`.

  Examples:
    >>> import numpy as np
    >>> from maxsup_jax import losses
    >>> logits = np.array([[2.0, 1.0, 0.1, -1.0], [0.5, 1.5, 1.0, -0.5]])
    >>> loss = losses.ols_cross_entropy(
    ...     logits, np.array([0, 2]), losses.ols_init(4).targets)
    >>> print(np.asarray(loss).round(4))
    [1.1868 1.4341]

  References:
    Zhang et al., `Delving Deep into Label Smoothing
    <https://arxiv.org/abs/2011.12562>`_, TIP 2021.
  """
  rows, target = Rows.labelled(
    logits, labels, class_weights, axis, where, one_class=_ONE_CLASS
  )
  targets_KK = _checks.floating('targets', targets)
  size = rows.z.shape[rows.axis]
  why = _checks.of_logits(rows.z)
  _checks.shape('targets', targets_KK, (size, size), why)
  alpha = rows.number('alpha', alpha, low=0, high=1)
  soft_BK = jnp.moveaxis(targets_KK[target.ids], -1, rows.axis)
  soft_BK = rows.distribution('targets', soft_BK, class_weights)
  loss = alpha * rows.cross_entropy(target)
  loss = loss + (1 - alpha) * rows.cross_entropy_with(soft_BK)
  return rows.finish(loss, target)
