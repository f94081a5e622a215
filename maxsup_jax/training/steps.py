"""The training and evaluation steps: pure functions of one device's part.

Both reduce over the axis `parallel.AXIS`; `parallel.Devices.map` compiles them.
"""

from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from maxsup_jax.losses import Objective, dense_votes
from maxsup_jax.training import metrics
from maxsup_jax.training.parallel import AXIS
from maxsup_jax.training.state import TrainState

Batch = dict[str, jax.Array]


def normalize(
  images: jax.Array, mean: Sequence[float], std: Sequence[float]
) -> jax.Array:
  """Maps uint8 images to float32: `(images / 255 - mean) / std`.

  Float images pass through as float32; they are taken to be normalised.

  Args:
    images: `[..., H, W, C]`.
    mean: one number per channel, or one for all, of images in [0, 1].
    std: likewise.

  Returns:
    float32, the shape of `images`.

  Examples:
    >>> import numpy as np
    >>> print(normalize(np.full((1, 1, 1), 255, np.uint8), (0.5,), (0.25,)))
    [[[2.]]]
  """
  if not jnp.issubdtype(images.dtype, jnp.integer):
    return images.astype(jnp.float32)
  unit = images.astype(jnp.float32) / 255
  return (unit - jnp.asarray(mean, jnp.float32)) / jnp.asarray(std, jnp.float32)


def make_train_step(
  model: nn.Module,
  objective: Objective,
  optimizer: optax.GradientTransformation,
  learning_rate: Callable[[jax.Array], jax.Array],
  *,
  seed: int,
  mean: Sequence[float] = (0.0,),
  std: Sequence[float] = (1.0,),
  ema_decay: float | None = None,
) -> Callable[[TrainState, Batch], tuple[TrainState, metrics.Sums]]:
  """Builds one optimizer step on one device's part of the batch.

  The gradient is that of the mean of the objective over the real examples of
  the global batch, so it does not depend on the number of devices. BatchNorm's
  running statistics are averaged over the devices; with cross-device
  statistics they are equal already.

  Args:
    model: a module with the contract of `maxsup_jax.models`. Its drop-path
      draws from the stream 'drop_path', keyed by `seed` and step.
    objective: what is minimised.
    optimizer: applies to the averaged gradient.
    learning_rate: the optimizer's schedule, for the metrics only.
    seed: seeds the randomness inside the model.
    mean: see `normalize`.
    std: see `normalize`.
    ema_decay: the decay of the moving averages in `state.ema`.

  Returns:
    `train_step(state, batch) -> (state, sums)`, to be mapped over devices. The
    sums are over the global batch: `nll`, `accuracy`, `top5` and `objective`,
    and with count 1 the `learning_rate` and the global `grad_norm` (before
    clipping), `param_norm` (after the step) and `update_norm`.
  """

  def train_step(state, batch):
    images = normalize(batch['image'], mean, std)
    labels, mask = batch['label'], batch['mask']
    count = jax.lax.psum(mask.sum(), AXIS)
    key = jax.random.fold_in(jax.random.key(seed), state.step)

    def mean_objective(params):
      (logits, outputs), updates = model.apply(
        {'params': params, 'batch_stats': state.batch_stats},
        images,
        train=True,
        mutable=['batch_stats'],
        rngs={'drop_path': key},
      )
      values, objective_state = objective.apply(
        state.objective_state,
        logits,
        labels,
        step=state.step,
        where=mask,
        **_objective_inputs(objective, params, outputs),
      )
      total = values.sum()
      stats = updates.get('batch_stats', state.batch_stats)
      return total / count, (logits, total, stats, objective_state)

    grads, (logits, total, stats, objective_state) = jax.grad(
      mean_objective, has_aux=True
    )(state.params)
    # Each device differentiated its share of the mean: the shares add up.
    grads = jax.lax.psum(grads, AXIS)
    stats = jax.lax.pmean(stats, AXIS)
    updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    ema = state.ema
    if ema_decay is not None:
      ema = optax.incremental_update(
        {'params': params, 'batch_stats': stats}, ema, 1 - ema_decay
      )
    sums = metrics.classification_sums(logits, labels, mask)
    sums['objective'] = (total, mask.sum())
    sums = jax.lax.psum(sums, AXIS)
    one = jnp.ones((), jnp.int32)
    sums |= {
      'learning_rate': (jnp.asarray(learning_rate(state.step)), one),
      'grad_norm': (optax.tree.norm(grads), one),
      'param_norm': (optax.tree.norm(params), one),
      'update_norm': (optax.tree.norm(updates), one),
    }
    state = TrainState(
      state.step + 1, params, stats, opt_state, objective_state, ema
    )
    return state, sums

  return train_step


def _objective_inputs(
  objective: Objective, params: Any, outputs: dict[str, jax.Array]
) -> dict[str, jax.Array]:
  """What the objective needs besides logits and labels."""
  if 'votes' not in objective.needs:
    return {}
  head = params['head']
  votes = dense_votes(outputs['feature_map'], head['kernel'], head['bias'])
  return {'votes': votes}


def make_eval_step(
  model: nn.Module,
  objective: Objective,
  *,
  mean: Sequence[float] = (0.0,),
  std: Sequence[float] = (1.0,),
) -> Callable[[TrainState, dict[str, Any], Batch], dict[str, Any]]:
  """Builds the evaluation of one device's part of a batch.

  Args:
    model: see `make_train_step`.
    objective: its value is reported under 'objective'; its state stays.
    mean: see `normalize`.
    std: see `normalize`.

  Returns:
    `eval_step(state, variables, batch) -> sums`, to be mapped over devices:
    `classification` holds (sum, count) pairs, `calibration` the sums per
    confidence bin, all over the global batch. `state` gives the step and the
    objective's state, `variables` are those to apply the model with.
  """

  def eval_step(state, variables, batch):
    labels, mask = batch['label'], batch['mask']
    images = normalize(batch['image'], mean, std)
    logits, outputs = model.apply(variables, images, train=False)
    # Alpha as of the last step taken, as in the training metrics beside it.
    step = jnp.maximum(state.step - 1, 0)
    values, _ = objective.apply(
      state.objective_state,
      logits,
      labels,
      step=step,
      where=mask,
      **_objective_inputs(objective, variables['params'], outputs),
    )
    sums = metrics.classification_sums(logits, labels, mask)
    sums['objective'] = (values.sum(), mask.sum())
    return jax.lax.psum(
      {
        'classification': sums,
        'calibration': metrics.calibration_sums(logits, labels, mask),
      },
      AXIS,
    )

  return eval_step


def make_extract_step(
  model: nn.Module,
  *,
  mean: Sequence[float] = (0.0,),
  std: Sequence[float] = (1.0,),
) -> Callable[[dict[str, Any], Batch], dict[str, jax.Array]]:
  """Builds what gives a model's outputs themselves, for one device's part.

  Args:
    model: see `make_train_step`.
    mean: see `normalize`.
    std: see `normalize`.

  Returns:
    `extract_step(variables, batch) -> outputs`, to be mapped over devices:
    `logits` [b, K] and `features` [b, D], what the head sees, float32, in
    evaluation mode; `labels` and `mask` are those of the batch.
  """

  def extract_step(variables, batch):
    images = normalize(batch['image'], mean, std)
    logits, outputs = model.apply(variables, images, train=False)
    return {
      'logits': logits,
      'features': outputs['penultimate'],
      'labels': batch['label'],
      'mask': batch['mask'],
    }

  return extract_step
