"""The training and evaluation steps: pure functions of one device's part.

Both reduce over the axis `parallel.AXIS`; `parallel.Devices.map` compiles them.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from maxsup_jax.errors import UsageError
from maxsup_jax.losses import Objective, dense_votes
from maxsup_jax.training import metrics
from maxsup_jax.training.mixing import Mixing, mix_images, mix_labels
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
  mixing: Mixing | None = None,
  loss_scale: float = 1.0,
  sam_rho: float | None = None,
  sam_synced: bool = True,
  sam_clip_value: float | None = None,
) -> Callable[[TrainState, Batch], tuple[TrainState, metrics.Sums]]:
  r"""Builds one optimizer step on one device's part of the batch.

  The gradient is that of the mean of the objective over the real examples of
  the global batch, so it does not depend on the number of devices. BatchNorm's
  running statistics are averaged over the devices; with cross-device
  statistics they are equal already.

  With `sam_rho`, sharpness-aware minimisation: the gradient is taken at
  :math:`w + \rho\,g / \lVert g \rVert_2` instead of at :math:`w`, where
  :math:`g` is the gradient at :math:`w` (zero: no ascent). Both passes see the
  same images, masks of drop-path and state of the objective. Metrics, running
  statistics and the next state of the objective are those of the first pass.

  Args:
    model: a module with the contract of `maxsup_jax.models`. Its drop-path
      draws from the stream 'drop_path', keyed by `seed` and step.
    objective: what is minimised.
    optimizer: applies to the averaged gradient.
    learning_rate: the optimizer's schedule, for the metrics only.
    seed: seeds the randomness inside the model, and of the mixing.
    mean: see `normalize`.
    std: see `normalize`.
    ema_decay: the decay of the moving averages in `state.ema`.
    mixing: mixup and cutmix of the normalised images; None for neither.
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

  Returns:
    `train_step(state, batch) -> (state, sums)`, to be mapped over devices. The
    sums are over the global batch: `nll`, `accuracy`, `top5` and `objective`,
    and with count 1 the `learning_rate` and the global `grad_norm` (of what the
    optimizer gets, before clipping), `param_norm` (after the step) and
    `update_norm`. Where images are mixed, all of them are about the mixed
    images: `nll` and `objective` with the mixed labels, `accuracy` and `top5`
    with their most probable class.

  Raises:
    UsageError: for a number out of its range.

  References:
    Foret et al., `Sharpness-Aware Minimization
    <https://arxiv.org/abs/2010.01412>`_, 2021, eq. 2 and 3.
  """
  _check_positive(
    loss_scale=loss_scale,
    **{'optimizer.sam_rho': sam_rho, 'optimizer.clip_value': sam_clip_value},
  )
  mixes = mixing is not None and mixing.active

  def train_step(state, batch):
    images = normalize(batch['image'], mean, std)
    labels, mask = batch['label'], batch['mask']
    count = jax.lax.psum(mask.sum(), AXIS)
    key = jax.random.fold_in(jax.random.key(seed), state.step)
    if mixes:
      images, kept = mix_images(key, images, mixing, AXIS, mask)

    def mean_objective(params):
      (logits, outputs), updates = model.apply(
        {'params': params, 'batch_stats': state.batch_stats},
        images,
        train=True,
        mutable=['batch_stats'],
        rngs={'drop_path': key},
      )
      targets = mix_labels(labels, kept, logits.shape[-1]) if mixes else labels
      values, objective_state = objective.apply(
        state.objective_state,
        logits,
        targets,
        step=state.step,
        where=mask,
        **_objective_inputs(objective, params, outputs),
      )
      total = values.sum()
      stats = updates.get('batch_stats', state.batch_stats)
      return loss_scale * total / count, (
        total,
        metrics.classification_sums(logits, targets, mask),
        stats,
        objective_state,
      )

    gradient = jax.grad(mean_objective, has_aux=True)
    grads, (total, sums, stats, objective_state) = gradient(state.params)
    if sam_rho is not None:
      if sam_synced:
        grads = jax.lax.psum(grads, AXIS)
      else:
        # Of the mean over the device's own examples; that matters to clipping.
        share = count / jnp.maximum(mask.sum(), 1)
        grads = jax.tree.map(lambda g: share * g, grads)
      grads, _ = gradient(_ascend(state.params, grads, sam_rho, sam_clip_value))
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


def _check_positive(**fields: float | None) -> None:
  for field, value in fields.items():
    if value is not None and not 0 < value < math.inf:
      raise UsageError(
        f'config.{field} is {value!r}; expected a number more than 0'
      )


def _ascend(
  params: Any, grads: Any, rho: float, clip_value: float | None
) -> Any:
  """The parameters, `rho` further along the gradient; there if it is zero."""
  if clip_value is not None:
    grads = jax.tree.map(lambda g: jnp.clip(g, -clip_value, clip_value), grads)
  norm = optax.tree.norm(grads)
  scale = jnp.where(norm > 0, rho / jnp.where(norm > 0, norm, 1), 0)
  return jax.tree.map(lambda p, g: p + scale * g, params, grads)


def check_votes(params: Any) -> None:
  """Refuses a model whose feature map cannot vote for classes.

  Args:
    params: of the model, or only their shapes.

  Raises:
    UsageError: if the classifier is not a linear layer with a bias.
  """
  head = params.get('head', {})
  if not {'kernel', 'bias'} <= set(head):
    raise UsageError(
      "objective: ranking 'votes' needs a linear classifier with a bias; this "
      f"model's has {' and '.join(sorted(head)) or 'no parameters'} only"
    )


def _objective_inputs(
  objective: Objective, params: Any, outputs: dict[str, jax.Array]
) -> dict[str, jax.Array]:
  """What the objective needs besides logits and labels."""
  if 'votes' not in objective.needs:
    return {}
  check_votes(params)
  head = params['head']
  votes = dense_votes(outputs['feature_map'], head['kernel'], head['bias'])
  return {'votes': votes}


def make_eval_step(
  model: nn.Module,
  objective: Objective,
  *,
  mean: Sequence[float] = (0.0,),
  std: Sequence[float] = (1.0,),
  per_class: bool = False,
) -> Callable[[TrainState, dict[str, Any], Batch], dict[str, Any]]:
  """Builds the evaluation of one device's part of a batch.

  Args:
    model: see `make_train_step`.
    objective: its value is reported under 'objective'; its state stays.
    mean: see `normalize`.
    std: see `normalize`.
    per_class: whether to count the examples of each class, too.

  Returns:
    `eval_step(state, variables, batch) -> sums`, to be mapped over devices:
    `classification` holds (sum, count) pairs, `calibration` the sums per
    confidence bin and, where asked for, `classes` those per class, all over the
    global batch. `state` gives the step and the objective's state, `variables`
    are those to apply the model with.
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
    sums = {
      'classification': sums,
      'calibration': metrics.calibration_sums(logits, labels, mask),
    }
    if per_class:
      sums['classes'] = metrics.class_sums(
        logits, labels, mask, logits.shape[-1]
      )
    return jax.lax.psum(sums, AXIS)

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
