"""Online label smoothing (OLS): soft labels from the model's own statistics."""

import warnings
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from maxsup_jax.losses import _checks
from maxsup_jax.losses._cross_entropy import target_cross_entropy
from maxsup_jax.losses._objective import Objective, as_schedule
from maxsup_jax.losses._rows import Rows
from maxsup_jax.losses._schedules import Schedule, check_step

ALPHA_RANGE = _checks.Range(low=0.0, high=1.0)
INITIAL_TARGETS = ('uniform', 'smoothed', 'zeros')
_SMOOTHING_RANGE = _checks.Range(low=0.0, high=1.0, name='smoothing')
_FREEZE_RANGE = _checks.Range(low=0.0, high=1.0, name='freeze_above')
_WHY_CLASS_IDS = 'online label smoothing keeps one soft label per true class'
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

  Raises:
    TypeError: if a number is not one.
    ValueError: if the number of classes is not positive, the initial state is
      unknown or the smoothing is outside [0, 1].

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
  num_classes = _checks.check_count('num_classes', num_classes)
  _checks.check_choice('initial', initial, INITIAL_TARGETS)
  smoothing = _checks.check_number('smoothing', smoothing)
  _SMOOTHING_RANGE.check(smoothing)
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
    logits: floating point, `[B, K]`.
    labels: class ids, integer, `[B]`. Those outside `[0, K)` add nothing.
    axis: the class axis of the logits.
    where: boolean, what takes part: examples, `[B]`, or logits, `[B, K]` (axes
      of size one broadcast).
    axis_name: the axis of devices over which the batch is spread, if it is:
      their statistics are summed, and all get the same state. Costs a sum of
      `K^2 + K` numbers over the devices.

  Returns:
    The next state; its targets are still those of the last epoch.

  Raises:
    TypeError: if an argument has the wrong dtype.
    ValueError: if the shape of an argument does not fit, or labels are
      distributions.

  Examples:
    >>> import jax.numpy as jnp
    >>> from maxsup_jax import losses
    >>> logits = jnp.array([[2.0, 1.0, 0.1], [0.5, 1.5, 1.0]])
    >>> state = losses.ols_update(
    ...     losses.ols_init(3), logits, jnp.array([0, 2]))
    >>> print(state.counts)
    [1. 0. 0.]
  """
  _checks.check_class_ids(labels, _WHY_CLASS_IDS)
  rows = Rows.of(jax.lax.stop_gradient(logits), axis, where)
  _check_num_classes(state, rows)
  target = rows.target(labels)
  # Masked classes are -inf here, and never on top.
  counted_B = jnp.argmax(rows.logits, rows.axis) == target.ids
  counted_B &= ~jnp.isnan(target.known)
  # A single NaN would stay in the soft labels.
  counted_B &= jnp.isfinite(jnp.max(rows.logits, rows.axis))
  if rows.examples is not None:
    counted_B &= rows.examples
  softmax_BK = jnp.moveaxis(rows.softmax(jnp.ones(())), rows.axis, -1)
  num_classes = rows.z.shape[rows.axis]
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

  Raises:
    TypeError: if `freeze_above` is not a number.
    ValueError: if it is outside [0, 1].

  Examples:
    >>> import jax.numpy as jnp
    >>> import numpy as np
    >>> from maxsup_jax import losses
    >>> state = losses.ols_update(
    ...     losses.ols_init(3), jnp.array([[2.0, 1.0, 0.1]]), jnp.array([0]))
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
    freeze_above = _checks.check_number('freeze_above', freeze_above)
    _FREEZE_RANGE.check(freeze_above)
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
    logits: unnormalised scores `z`, floating point, `[B, K]`; `B` may be any
      number of batch axes, also none.
    labels: class ids `y`, integer, `[B]`. The loss is not defined for mixed
      labels.
    targets: `S`, floating point, `[K, K]`: the soft label of every class in its
      row, as in `OnlineSmoothing.targets`. Used as they are, without gradient;
      what they give to masked classes is dropped.
    alpha: weight of the label, in [0, 1]: a scalar or an array that broadcasts
      to `[B]`. It may be traced, and then its value is not checked.
    class_weights: weights of the classes, at least 0, `[K]`, of label and soft
      label alike. `label_weights` has the denominator of PyTorch's mean.
    axis: the class axis of the logits.
    where: boolean, what takes part: examples, `[B]`, or logits, `[B, K]` (axes
      of size one broadcast). The loss of a masked example, and its gradient,
      is exactly 0 whatever its logits and label are. A masked class takes no
      part in the softmax.

  Returns:
    The loss of every example, `[B]`, in float32, or in float64 for logits in
    float64. It is NaN, and so is its gradient, where the label is outside
    `[0, K)` or a masked class.

  Raises:
    TypeError: if an argument has the wrong dtype.
    ValueError: if the shape of an argument does not fit the logits, if labels
      are distributions, or if a number is known and outside its range.

  Examples:
    >>> import jax.numpy as jnp
    >>> import numpy as np
    >>> from maxsup_jax import losses
    >>> logits = jnp.array([[2.0, 1.0, 0.1, -1.0], [0.5, 1.5, 1.0, -0.5]])
    >>> state = losses.ols_init(4)
    >>> loss = losses.ols_cross_entropy(
    ...     logits, jnp.array([0, 2]), state.targets)
    >>> print(np.asarray(loss).round(4))
    [1.1868 1.4341]

  References:
    Zhang et al., `Delving Deep into Label Smoothing
    <https://arxiv.org/abs/2011.12562>`_, TIP 2021.
  """
  _checks.check_class_ids(labels, _WHY_CLASS_IDS)
  rows = Rows.of(logits, axis, where)
  targets_KK = _checks.check_targets(targets, rows.z, rows.axis)
  target = rows.target(labels, class_weights)
  alpha = rows.number(alpha, ALPHA_RANGE)
  soft_BK = jnp.moveaxis(targets_KK[target.ids], -1, rows.axis)
  soft_BK = rows.distribution('targets', soft_BK, class_weights)
  loss = alpha * target_cross_entropy(rows, target)
  loss = loss + (1 - alpha) * rows.cross_entropy_with(soft_BK)
  return rows.finish(loss, target)


def _check_num_classes(state: OnlineSmoothing, rows: Rows) -> None:
  if state.counts.shape != (rows.z.shape[rows.axis],):
    raise ValueError(
      f'state must be that of the classes of logits of shape {rows.z.shape}, '
      f'got one of {state.counts.size} classes'
    )


def ols_objective(
  num_classes: int,
  alpha: float | Schedule = 0.5,
  *,
  steps_per_epoch: int,
  initial: str = 'uniform',
  smoothing: float = 0.1,
  freeze_above: float | None = None,
  axis_name: str | None = None,
) -> Objective:
  """Online label smoothing: `ols_cross_entropy`, and its state.

  Every call of `apply` returns the loss under the soft labels of the last
  epoch, and a state that has seen the batch. At the last step of an epoch the
  returned state has the new soft labels; this happens inside the compiled step,
  and depends on the step only, so that a training that is resumed goes on as it
  would have. To evaluate, drop the returned state.

  Labels must be class ids.

  Args:
    num_classes: `K`.
    alpha: weight of the label, in [0, 1]: a number or a function of the step.
    steps_per_epoch: the number of steps in an epoch.
    initial: the soft labels of the first epoch, see `ols_init`.
    smoothing: see `ols_init`.
    freeze_above: see `ols_end_of_epoch`.
    axis_name: the axis of devices over which batches are spread, if they are.

  Returns:
    An objective whose state is an `OnlineSmoothing`.

  Raises:
    TypeError: if alpha is neither a number nor a function, or another argument
      has the wrong type.
    ValueError: if an argument is outside its range or unknown.

  Examples:
    >>> import jax.numpy as jnp
    >>> import numpy as np
    >>> from maxsup_jax import losses
    >>> logits, labels = jnp.array([[0.5, 1.5, 1.0, -0.5]]), jnp.array([1])
    >>> objective = losses.ols_objective(4, steps_per_epoch=2)
    >>> state = objective.init()
    >>> for step in range(3):
    ...   loss, state = objective.apply(state, logits, labels, step=step)
    ...   print(np.asarray(loss).round(4), state.counts[1])
    [1.1841] 1.0
    [1.1841] 0.0
    [0.9698] 1.0
  """
  alpha = as_schedule(alpha, ALPHA_RANGE)
  steps_per_epoch = _checks.check_count('steps_per_epoch', steps_per_epoch)
  if freeze_above is not None:
    _FREEZE_RANGE.check(_checks.check_number('freeze_above', freeze_above))

  def init():
    return ols_init(num_classes, initial=initial, smoothing=smoothing)

  jax.eval_shape(init)  # Refuses wrong arguments now; makes no array.

  def apply(state, logits, labels, *, step=0, where=None, class_weights=None):
    values = ols_cross_entropy(
      logits,
      labels,
      state.targets,
      alpha(step),
      class_weights=class_weights,
      where=where,
    )
    state = ols_update(state, logits, labels, where=where, axis_name=axis_name)
    step = check_step(step)
    state = jax.lax.cond(
      (step + 1) % steps_per_epoch == 0,
      lambda state: ols_end_of_epoch(state, freeze_above=freeze_above),
      lambda state: state,
      state,
    )
    return values, state

  return Objective(init=init, apply=apply)
