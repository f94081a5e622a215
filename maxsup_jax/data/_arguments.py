"""Checks of the arguments of image operations: one line for each mistake."""

import math
from typing import Any

from maxsup_jax.errors import UsageError

# The largest length, in pixels; what is longer would only fill the memory.
MOST_PIXELS = 2**16


def check_integer(operation: str, name: str, value: Any, least: int) -> None:
  """Refuses anything but an integer in `[least, MOST_PIXELS]`."""
  if isinstance(value, bool) or not isinstance(value, int) or value < least:
    raise UsageError(
      f'{operation}: {name} must be an integer >= {least}, not {value!r}'
    )
  if value > MOST_PIXELS:
    raise UsageError(
      f'{operation}: {name} must be at most {MOST_PIXELS} pixels'
    )


def check_number(
  operation: str, name: str, value: Any, least: float, most: float = math.inf
) -> None:
  """Refuses anything but a finite number in `[least, most]`."""
  if not _is_number(value) or not least <= value <= most:
    limits = f'>= {least}' if most == math.inf else f'in [{least}, {most}]'
    raise UsageError(
      f'{operation}: {name} must be a number {limits}, not {value!r}'
    )


def check_range(
  operation: str,
  name: str,
  value: Any,
  least: float = -math.inf,
  most: float = math.inf,
  *,
  positive: bool = False,
) -> None:
  """Refuses anything but two numbers, least <= low <= high <= most.

  Args:
    operation: whose argument it is.
    name: the name of the argument.
    value: what the user passed.
    least: the smallest number allowed.
    most: the largest number allowed.
    positive: whether the numbers must be above zero.
  """
  if (
    not isinstance(value, tuple)
    or len(value) != 2
    or not all(map(_is_number, value))
    or not least <= value[0] <= value[1] <= most
    or (positive and value[0] <= 0)
  ):
    limits = ' above 0' if positive else ''
    if math.isfinite(least) or math.isfinite(most):
      limits = f' in [{least}, {most}]' + (' and' if positive else '') + limits
    raise UsageError(
      f'{operation}: {name} must be two numbers (low, high){limits}, not '
      f'{value!r}'
    )


def check_choice(
  operation: str, name: str, value: Any, choices: tuple[str, ...]
) -> None:
  """Refuses anything but one of the choices."""
  if not isinstance(value, str) or value not in choices:
    raise UsageError(
      f'{operation}: {name} must be one of {", ".join(choices)}, not {value!r}'
    )


def per_channel(
  operation: str, name: str, values: tuple[float, ...], channels: int
) -> tuple[float, ...]:
  """One number for each channel, where a single one stands for all."""
  if len(values) == 1:
    return tuple(values) * channels
  if len(values) != channels:
    raise UsageError(
      f'{operation}: {name} has {len(values)} values, but the image has '
      f'{channels} channels'
    )
  return tuple(values)


def _is_number(value: Any) -> bool:
  return (
    isinstance(value, (int, float))
    and not isinstance(value, bool)
    and math.isfinite(value)
  )
