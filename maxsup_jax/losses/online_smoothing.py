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
  """The state of online label smoothing, a pytree of float32 arrays."""

  targets: jax.Array  # the soft label of every class in its row, `[K, K]`
  sums: jax.Array  # of the softmax over correct examples of an epoch, `[K, K]`
  counts: jax.Array  # the number of these examples of every class, `[K]`


def ols_init(
  num_classes: int, *, initial: str = 'uniform', smoothing: float = 0.1
) -> OnlineSmoothing:
  r"""The state of online label smoothing before the first epoch.

  It holds two matrices of :math:`K^2` numbers: 8 MB for 1,000 classes, 3.8 GB
  for 21,843. From half a gigabyte on a warning says how much.

  Args:
    num_classes: `K`.
    initial: the soft labels of the first epoch. ``'uniform'``: 1/K, as in the
      paper and in its code for fine-grained classes. ``'smoothed'``:
      :math:`1 - \epsilon` for the true class and :math:`\epsilon / (K - 1)` for
      the others, as in the code published with MaxSup. ``'zeros'``: no soft
      term in the first epoch, as in the paper's code for CIFAR.
    smoothing: :math:`\epsilon` of ``'smoothed'``.

  Examples:
    >>> print(ols_init(3, initial='smoothed').targets)
    [[0.9  0.05 0.05]
     [0.05 0.9  0.05]
     [0.05 0.05 0.9...]]

  References: Zhang et al., 2021.
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
  # Two arrays: one buffer cannot be donated twice.
  targets, sums = jnp.zeros(shape, jnp.float32), jnp.zeros(shape, jnp.float32)
  if initial == 'uniform' or (initial == 'smoothed' and num_classes == 1):
    targets = jnp.full(shape, 1 / num_classes, jnp.float32)
  elif initial == 'smoothed':
    others = smoothing / (num_classes - 1)
    targets = jnp.full(shape, others, jnp.float32)
    targets = jnp.fill_diagonal(targets, 1 - smoothing, inplace=False)
  return OnlineSmoothing(targets, sums, jnp.zeros(num_classes, jnp.float32))


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

  An example whose top class, the first of several, is its label adds its
  softmax to the sum of that class, and 1 to its count. One whose top logit is
  not finite adds nothing. Call it on training batches only, after the loss.

  Args:
    state: the state of the same number of classes.
    logits, labels, axis, where: see `cross_entropy`. Class ids only; those
      outside `[0, K)` add nothing.
    axis_name: the axis of devices over which the batch is spread, if it is:
      their statistics, `K^2 + K` numbers, are summed.

  Examples:
    >>> logits = jnp.array([[2.0, 1.0, 0.1], [0.5, 1.5, 1.0]])
    >>> print(ols_update(ols_init(3), logits, jnp.array([0, 2])).counts)
    [1. 0. 0.]
  """
  logits = jax.lax.stop_gradient(logits)
  rows, target = Rows.labelled(
    logits, labels, None, axis, where, one_class=_ONE_CLASS
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
  Rows of the targets with an entry of at least `freeze_above` stay as they are;
  the paper's code for fine-grained classes has 0.88.

  Examples:
    >>> state = ols_update(
    ...     ols_init(3), jnp.array([[2.0, 1.0, 0.1]]), jnp.array([0]))
    >>> state = ols_end_of_epoch(state)
    >>> print(state.targets)
    [[0.6590... 0.2424... 0.0985...]
     [0.3333... 0.3333... 0.3333...]
     [0.3333... 0.3333... 0.3333...]]
  """
  counts_K1 = state.counts[:, None]
  means = state.sums / jnp.maximum(counts_K1, 1)
  targets = jnp.where(counts_K1 > 0, means, 1 / state.counts.size)
  if freeze_above is not None:
    freeze_above = errors.number('freeze_above', freeze_above, 0, 1)
    frozen_K1 = jnp.max(state.targets, -1, keepdims=True) >= freeze_above
    targets = jnp.where(frozen_K1, state.targets, targets)
  return OnlineSmoothing(
    targets, jnp.zeros_like(state.sums), jnp.zeros_like(state.counts)
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

  Examples:
    >>> logits = jnp.array([[2.0, 1.0, 0.1, -1.0], [0.5, 1.5, 1.0, -0.5]])
    >>> labels, targets = jnp.array([0, 2]), ols_init(4).targets
    >>> print(ols_cross_entropy(logits, labels, targets))
    [1.1868... 1.4340...]

  References: Zhang et al., 2021.
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
