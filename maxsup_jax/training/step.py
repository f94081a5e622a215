"""The training and evaluation steps: pure functions of one device's part.

Both reduce over the axis `parallel.AXIS`; `parallel.Devices.map` compiles them.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax

from maxsup_jax import errors
from maxsup_jax.training.parallel import AXIS
from maxsup_jax.training.state import TrainState
from maxsup_jax.training.task import Aux, Batch, Sums, Task


def make_train_step(
  task: Task,
  optimizer: optax.GradientTransformation,
  learning_rate: Callable[[jax.Array], jax.Array],
  *,
  seed: int,
  accumulate: int = 1,
  ema_decay: float | None = None,
  ema_warmup: str | None = None,
  loss_scale: float = 1.0,
  sam_rho: float | None = None,
  sam_synced: bool = True,
  sam_clip_value: float | None = None,
  train_only: Sequence[str] = (),
) -> Callable[[TrainState, Batch], tuple[TrainState, Sums]]:
  r"""Builds one optimizer step on one device's part of the batch.

  The gradient is that of the mean of the objective over the real examples of
  the global batch, so it does not depend on the number of devices. BatchNorm's
  running statistics are averaged over the devices; with cross-device
  statistics they are equal already.

  With `sam_rho`, sharpness-aware minimisation: the gradient is taken at
  :math:`w + \rho\,g / \lVert g \rVert_2` instead of at :math:`w`, where
  :math:`g` is the gradient at :math:`w` (zero: no ascent). Both passes see the
  same inputs, masks of drop-path and state of the objective. Metrics, running
  statistics and the next state of the objective are those of the first pass.

  With `accumulate` = N, each device's part of the batch goes through the model
  in N equal parts, one after the other, and their gradients are added, so that
  memory holds the activations of one part alone. The mean is still over the
  real examples of the whole global batch, whatever share of each part is
  masked: the step is that of the whole batch where examples do not influence
  each other. BatchNorm makes them do so: it normalises each part by its own
  statistics, and its running statistics move N times a step. Randomness and
  mixing draw anew for each part, and an objective with a state sees the parts
  as N batches.

  Args:
    task: what is trained.
    optimizer: applies to the averaged gradient.
    learning_rate: the optimizer's schedule, for the metrics only.
    seed: seeds all randomness of the steps; each has the key of seed and step.
    accumulate: N.
    ema_decay: the decay of the moving averages in `state.ema`.
    ema_warmup: 'tensorflow' for the smaller of that and (1 + t) / (10 + t),
      where t steps were taken before.
    loss_scale: what the objective is multiplied by where it is minimised. The
      gradient, and so `grad_norm`, is that of the product.
    sam_rho: :math:`\rho`; None for no ascent.
    sam_synced: whether :math:`g` is the gradient over all devices. False: each
      device ascends along that of the mean over its own examples, which saves
      an all-reduce, as in PyTorch where the first backward pass is not
      synchronised. Then the result depends on the number of devices. (Where
      BatchNorm takes its statistics over all devices, their parts of the
      objective are one function, of which each takes its own derivative.)
    sam_clip_value: each element of :math:`g` is limited to
      [-`sam_clip_value`, `sam_clip_value`] first. The optimizer does that to
      the second gradient.
    train_only: names at the top of the parameters; the others stay as they are
      and have gradient 0. None at all: every one learns.

  Returns:
    `train_step(state, batch) -> (state, sums)`, to be mapped over devices. The
    sums are over the global batch: those of the task and `objective`, and with
    count 1 the `learning_rate` and the global `grad_norm` (of what the
    optimizer gets, before clipping), `param_norm` (after the step) and
    `update_norm`.

  Raises:
    UsageError: for a number out of its range.

  References:
    Foret et al., `Sharpness-Aware Minimization
    <https://arxiv.org/abs/2010.01412>`_, 2021, eq. 2 and 3.
  """
  for name, value in (
    ('loss_scale', loss_scale),
    ('optimizer.sam_rho', sam_rho),
    ('optimizer.clip_value', sam_clip_value),
  ):
    if value is not None:
      errors.number(f'config.{name}', value, above=0)

  def train_step(state, batch):
    key = jax.random.fold_in(jax.random.key(seed), state.step)

    def objective(params, part, stats, objective_state, key, whole):
      if train_only:
        frozen = jax.lax.stop_gradient(params)
        params = {**frozen, **{name: params[name] for name in train_only}}
      values, where, aux = task.train_loss(
        {'params': params, 'batch_stats': stats},
        part,
        step=state.step,
        objective_state=objective_state,
        key=key,
      )
      total, own = values.sum(), where.sum()
      count = jax.lax.psum(own, AXIS) if whole else 1
      return loss_scale * total / count, (total, own, aux)

    def gradient(params):
      """That of the device's share of the mean, and what was summed."""
      grad = jax.grad(objective, has_aux=True)
      begin = state.batch_stats, state.objective_state
      if accumulate == 1:
        grads, (total, own, aux) = grad(params, batch, *begin, key, True)
        return grads, (total, own, jax.lax.psum(own, AXIS), aux)

      def add(carried, part):
        number, stats, objective_state, sums = carried
        its_key = jax.random.fold_in(key, number)
        grads, (total, own, aux) = grad(
          params, part, stats, objective_state, its_key, False
        )
        sums = jax.tree.map(jnp.add, sums, (grads, total, own, aux.sums))
        return (number + 1, aux.batch_stats, aux.objective_state, sums), None

      parts = jax.tree.map(
        lambda x: x.reshape(accumulate, -1, *x.shape[1:]), batch
      )
      first = jax.tree.map(lambda x: x[0], parts)
      grads, (total, own, aux) = jax.eval_shape(
        lambda: grad(params, first, *begin, key, False)
      )
      zeros = jax.tree.map(
        lambda x: jnp.zeros(x.shape, x.dtype), (grads, total, own, aux.sums)
      )
      carried, _ = jax.lax.scan(
        add,
        (0, *begin, zeros),
        parts,
        # Convolutions in a loop are slow on CPUs.
        unroll=accumulate if jax.default_backend() == 'cpu' else 1,
      )
      _, stats, objective_state, (grads, total, own, sums) = carried
      count = jax.lax.psum(own, AXIS)
      grads = jax.tree.map(lambda g: g / count, grads)
      return grads, (total, own, count, Aux(sums, stats, objective_state))

    grads, (total, own, count, aux) = gradient(state.params)
    if sam_rho is not None:
      if sam_synced:
        grads = jax.lax.psum(grads, AXIS)
      else:
        # Of the mean over the device's own examples; that matters to clipping.
        share = count / jnp.maximum(own, 1)
        grads = jax.tree.map(lambda g: share * g, grads)
      grads, _ = gradient(_ascend(state.params, grads, sam_rho, sam_clip_value))
    # Each device differentiated its share of the mean: the shares add up.
    grads = jax.lax.psum(grads, AXIS)
    stats = jax.lax.pmean(aux.batch_stats, AXIS)
    updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
    if train_only:  # What decays would move without a gradient.
      still = jax.tree.map(jnp.zeros_like, updates)
      updates = {**still, **{name: updates[name] for name in train_only}}
    params = optax.apply_updates(state.params, updates)
    ema = state.ema
    if ema_decay is not None:
      rate: Any = 1 - ema_decay
      if ema_warmup is not None:
        rate = jnp.maximum(rate, 9 / (10 + state.step))
      ema = optax.incremental_update(
        {'params': params, 'batch_stats': stats}, ema, rate
      )
    sums = jax.lax.psum({**aux.sums, 'objective': (total, own)}, AXIS)
    one = jnp.ones((), jnp.int32)
    sums |= {
      'learning_rate': (jnp.asarray(learning_rate(state.step)), one),
      'grad_norm': (optax.tree.norm(grads), one),
      'param_norm': (optax.tree.norm(params), one),
      'update_norm': (optax.tree.norm(updates), one),
    }
    state = TrainState(
      state.step + 1, params, stats, opt_state, aux.objective_state, ema
    )
    return state, sums

  return train_step


def _ascend(
  params: Any, grads: Any, rho: float, clip_value: float | None
) -> Any:
  """The parameters, `rho` further along the gradient; there if it is zero."""
  if clip_value is not None:
    grads = jax.tree.map(lambda g: jnp.clip(g, -clip_value, clip_value), grads)
  norm = optax.tree.norm(grads)
  scale = jnp.where(norm > 0, rho / jnp.where(norm > 0, norm, 1), 0)
  return jax.tree.map(lambda p, g: p + scale * g, params, grads)


def make_eval_step(
  task: Task,
) -> Callable[[TrainState, dict[str, Any], Batch], Sums]:
  """Builds the evaluation of one device's part of a batch.

  Returns:
    `eval_step(state, variables, batch) -> sums`, to be mapped over devices: the
    task's sums over the global batch. `state` gives the step and the
    objective's state, `variables` are those to apply the model with.
  """

  def eval_step(state, variables, batch):
    # Alpha as of the last step taken, as in the training metrics beside it.
    sums = task.eval_sums(
      variables,
      batch,
      step=jnp.maximum(state.step - 1, 0),
      objective_state=state.objective_state,
    )
    return jax.lax.psum(sums, AXIS)

  return eval_step
