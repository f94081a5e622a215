"""Learning-rate schedules, functions of the step, with a linear warm-up."""

import math
from collections.abc import Sequence

import jax.numpy as jnp
import optax

from maxsup_jax import errors
from maxsup_jax.errors import UsageError
from maxsup_jax.training.config import SCHEDULES

COSINE_CLOCKS = ('warmup', 'start')
UNITS = ('step', 'epoch')


def learning_rate_schedule(
  name: str,
  peak: float,
  *,
  total_steps: int,
  warmup_steps: int = 0,
  warmup_start: float = 0.0,
  end: float = 0.0,
  milestones: Sequence[int] = (),
  factor: float = 0.1,
  per: str = 'step',
  cosine_from: str = 'warmup',
  steps_per_epoch: int | None = None,
) -> optax.Schedule:
  r"""Builds a learning-rate schedule.

  After a linear warm-up from `warmup_start` to `peak` over :math:`w` steps:

  * `cosine`: :math:`e + (p - e)\,\frac12(1 + \cos\pi\frac{s-w}{S-w})` with
    peak :math:`p`, end :math:`e` and :math:`S` steps in all; from the start
    :math:`e + (p - e)\,\frac12(1 + \cos\pi\frac{s}{S})`, which never is at the
    peak where there is a warm-up;
  * `step`: the peak, multiplied by `factor` at each of the `milestones`
    (counted from the first step of training, warm-up included);
  * `exponential`: the peak, multiplied by `factor` after each epoch since the
    warm-up;
  * `linear`: :math:`p + (e - p)\frac{s-w}{S-w}`;
  * `constant`: the peak;
  * `inverse_sqrt`: :math:`p \sqrt{w / s}`, which needs a warm-up. That of
    tensor2tensor's Transformer of width D is
    :math:`p = 2\,(D\,w)^{-1/2}`.

  Per epoch, each step has the value of the first step of its epoch, warm-up
  included, as where a PyTorch scheduler is stepped once an epoch.

  Args:
    name: one of `SCHEDULES`.
    peak: the learning rate after warm-up.
    total_steps: steps of the whole training.
    warmup_steps: steps of the warm-up; 0 for none.
    warmup_start: the learning rate of step 0 when there is a warm-up.
    end: the learning rate that `cosine` and `linear` would have at step S, the
      one after the last.
    milestones: the steps at which `step` decays.
    factor: what `step` multiplies by at each milestone, `exponential` after
      each epoch.
    per: 'step', or 'epoch' for a staircase.
    cosine_from: of `cosine` only, when its clock starts: after the 'warmup', or
      at the 'start', as in timm.
    steps_per_epoch: needed per epoch, and by `exponential`.

  Returns:
    A function from the step, int or int array, to the learning rate.

  Raises:
    UsageError: for an unknown name, or a schedule that cannot be.

  Examples:
    >>> rate = learning_rate_schedule(
    ...   'step', 0.1, total_steps=90, milestones=(30, 60)
    ... )
    >>> [round(float(rate(s)), 6) for s in (0, 29, 30, 60, 89)]
    [0.1, 0.1, 0.01, 0.001, 0.001]

    A factor of 1/3 (1 - e/5) + e/5 in the first epochs e = 1, 2, ...: in the
    first it is 7/15, and in the fifth it is 1.

    >>> rate = learning_rate_schedule(
    ...   'constant', 1.0, total_steps=50, warmup_steps=4 * 5,
    ...   warmup_start=7 / 15, per='epoch', steps_per_epoch=5,
    ... )
    >>> [round(float(rate(5 * e)), 4) for e in range(6)]
    [0.4667, 0.6, 0.7333, 0.8667, 1.0, 1.0]
  """
  errors.one_of('name', name, SCHEDULES)
  errors.one_of('per', per, UNITS)
  errors.one_of('cosine_from', cosine_from, COSINE_CLOCKS)
  errors.number('peak', peak, above=0)
  errors.number('warmup_start', warmup_start, low=0)
  errors.number('end', end, low=0)
  errors.number('factor', factor, above=0)
  if not 0 <= warmup_steps < total_steps:
    raise UsageError(
      f'warmup is {warmup_steps} steps; expected at least 0 and below '
      f'{total_steps}, the steps of training'
    )
  if list(milestones) != sorted(m for m in set(milestones) if m > warmup_steps):
    raise UsageError(
      f'milestones are {list(milestones)}; expected increasing steps after '
      f'{warmup_steps}, the end of the warm-up'
    )
  if name == 'inverse_sqrt' and not warmup_steps:
    raise UsageError('the schedule inverse_sqrt needs a warmup')
  if (per == 'epoch' or name == 'exponential') and not steps_per_epoch:
    raise UsageError(f'the schedule {name!r} per {per} needs steps_per_epoch')
  rate = _after_warmup(
    name,
    peak,
    total_steps - warmup_steps,
    end=end,
    milestones=[m - warmup_steps for m in milestones],
    factor=factor,
    steps_per_epoch=steps_per_epoch,
    warmup_steps=warmup_steps,
  )
  if name == 'cosine' and cosine_from == 'start':
    from_start = optax.cosine_decay_schedule(
      peak, total_steps, alpha=end / peak
    )

    def rate(step):
      return from_start(step + warmup_steps)

  if warmup_steps:
    warmup = optax.linear_schedule(warmup_start, peak, warmup_steps)
    rate = optax.join_schedules([warmup, rate], [warmup_steps])
  if per == 'step':
    return rate
  return lambda step: rate(step // steps_per_epoch * steps_per_epoch)


def _after_warmup(
  name: str,
  peak: float,
  steps: int,
  *,
  end: float,
  milestones: Sequence[int],
  factor: float,
  steps_per_epoch: int | None,
  warmup_steps: int,
) -> optax.Schedule:
  """The schedule as a function of the step since the warm-up."""
  if name == 'cosine':
    return optax.cosine_decay_schedule(peak, steps, alpha=end / peak)
  if name == 'step':
    return optax.piecewise_constant_schedule(
      peak, dict.fromkeys(milestones, factor)
    )
  if name == 'exponential':
    # A power of a factor that is rounded to float32 would lose digits.
    log = math.log(factor)
    return lambda step: peak * jnp.exp(log * (step // steps_per_epoch))
  if name == 'linear':
    return optax.linear_schedule(peak, end, steps)
  if name == 'inverse_sqrt':
    # Asked for during the warm-up, too, where its answer is not taken.
    return lambda step: (
      peak * jnp.sqrt(warmup_steps / (jnp.maximum(step, 0) + warmup_steps))
    )
  return optax.constant_schedule(peak)
