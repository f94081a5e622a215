"""Learning-rate schedules, functions of the step, with a linear warm-up."""

from collections.abc import Sequence

import optax

from maxsup_jax._errors import UsageError

SCHEDULES = ('cosine', 'step', 'constant')


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
) -> optax.Schedule:
  r"""Builds a learning-rate schedule.

  After a linear warm-up from `warmup_start` to `peak` over :math:`w` steps:

  * `cosine`: :math:`e + (p - e)\,\frac12(1 + \cos\pi\frac{s-w}{S-w})` with
    peak :math:`p`, end :math:`e` and :math:`S` steps in all;
  * `step`: the peak, multiplied by `factor` at each of the `milestones`
    (counted from the first step of training, warm-up included);
  * `constant`: the peak.

  Args:
    name: one of `SCHEDULES`.
    peak: the learning rate after warm-up.
    total_steps: steps of the whole training.
    warmup_steps: steps of the warm-up; 0 for none.
    warmup_start: the learning rate of step 0 when there is a warm-up.
    end: the learning rate that cosine decays to.
    milestones: the steps at which `step` decays.
    factor: what `step` multiplies by at each milestone.

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
  """
  if name not in SCHEDULES:
    raise UsageError(
      f'config.schedule.name is {name!r}; known schedules: '
      f'{", ".join(SCHEDULES)}'
    )
  if not peak > 0:
    raise UsageError(
      f'config.optimizer.learning_rate is {peak!r}; expected more than 0'
    )
  if not 0 <= warmup_steps < total_steps:
    raise UsageError(
      f'config.schedule.warmup is {warmup_steps} steps; expected from 0 to '
      f'less than the {total_steps} steps of training'
    )
  if list(milestones) != sorted(m for m in set(milestones) if m > warmup_steps):
    raise UsageError(
      f'config.schedule.milestones are the steps {list(milestones)}; '
      f'expected increasing ones after the {warmup_steps} of the warm-up'
    )
  if name == 'cosine':
    after = optax.cosine_decay_schedule(
      peak, total_steps - warmup_steps, alpha=end / peak
    )
  elif name == 'step':
    after = optax.piecewise_constant_schedule(
      peak, {m - warmup_steps: factor for m in milestones}
    )
  else:
    after = optax.constant_schedule(peak)
  if not warmup_steps:
    return after
  warmup = optax.linear_schedule(warmup_start, peak, warmup_steps)
  return optax.join_schedules([warmup, after], [warmup_steps])
