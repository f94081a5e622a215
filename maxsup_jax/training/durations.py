"""Durations written as people write them: '90 epochs', '500 steps'."""

import re

from maxsup_jax.errors import UsageError

_PATTERN = re.compile(r'\s*(\d+(?:\.\d+)?)\s*(step|epoch|example)s?\s*')


def parse(duration: str, *, field: str) -> tuple[float, str]:
  """The number and the unit of a duration, see `to_steps`."""
  match = _PATTERN.fullmatch(duration) if isinstance(duration, str) else None
  if not match:
    raise UsageError(
      f'config.{field} is {duration!r}; expected a number and a unit, such as '
      "'90 epochs', '1000 steps' or '50000 examples'"
    )
  return float(match[1]), match[2]


def to_steps(
  duration: str,
  *,
  batch_size: int,
  steps_per_epoch: int,
  field: str,
  minimum: int = 1,
) -> int:
  """Converts a duration to a number of optimizer steps.

  An epoch is `steps_per_epoch` steps (the number of examples divided by the
  batch size, rounded down). Fractions of an epoch and numbers of examples are
  rounded to the nearest step.

  Args:
    duration: a number and a unit, 'step', 'epoch' or 'example', singular or
      plural: `'90 epochs'`, `'0.5 epoch'`, `'1000 steps'`, `'50000 examples'`.
    batch_size: examples in one step, over all devices.
    steps_per_epoch: steps in one epoch.
    field: the config field that holds the duration, for the error message.
    minimum: the smallest number of steps that makes sense here.

  Returns:
    The number of steps, at least `minimum`.

  Raises:
    UsageError: if the duration cannot be read, is shorter than `minimum`, or is
      2**31 steps or more.

  Examples:
    >>> kwargs = dict(batch_size=128, steps_per_epoch=11, field='duration')
    >>> to_steps('20 epochs', **kwargs)
    220
    >>> to_steps('1000 examples', **kwargs)
    8
  """
  number, unit = parse(duration, field=field)
  steps = {
    'step': number,
    'epoch': number * steps_per_epoch,
    'example': number / batch_size,
  }[unit]
  if round(steps) < minimum:
    raise UsageError(
      f'config.{field} is {duration!r}, which is {steps:g} steps of '
      f'{batch_size} examples; expected at least {minimum}'
    )
  if round(steps) >= 2**31:
    raise UsageError(
      f'config.{field} is {duration!r}, which is {steps:g} steps; expected a '
      'count that fits in 32 bits'
    )
  return round(steps)
