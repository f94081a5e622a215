"""Refusals of what cannot work, one line each, before anything compiles."""

from collections.abc import Iterable
from typing import Any

import jax
import jax.numpy as jnp

from maxsup_jax.errors import UsageError


def known(names: Iterable[str]) -> str:
  """Returns the names as one sorted, comma-separated string."""
  return ', '.join(sorted(names))


def check_choice(field: str, value: Any, choices: Iterable[str]) -> None:
  """Refuses a value that is not one of the named choices."""
  choices = tuple(choices)
  if not isinstance(value, str) or value not in choices:
    raise UsageError(f'unknown {field} {value!r}; known: {known(choices)}')


def check_positive_int(field: str, value: Any) -> None:
  """Refuses anything but an int of at least 1."""
  # bool is an int to Python: `width=True` would build a model of width 1.
  if isinstance(value, bool) or not isinstance(value, int) or value < 1:
    raise UsageError(f'{field}: expected an int of at least 1, got {value!r}')


def check_bool(field: str, value: Any) -> None:
  """Refuses anything but True and False (the string 'false' is true)."""
  if not isinstance(value, bool):
    raise UsageError(f'{field}: expected True or False, got {value!r}')


def check_rate(field: str, value: Any) -> None:
  """Refuses anything but a number in [0, 1)."""
  is_number = isinstance(value, int | float) and not isinstance(value, bool)
  if not is_number or not 0 <= value < 1:
    raise UsageError(f'{field}: expected a number in [0, 1), got {value!r}')


def check_axis_name(field: str, value: Any) -> None:
  """Refuses anything but the name of a mapped axis, or None."""
  if value is not None and not isinstance(value, str):
    raise UsageError(f'{field}: expected an axis name or None, got {value!r}')


def check_images(images: jax.Array) -> None:
  """Refuses images that are not floating point [B, H, W, C]."""
  if images.ndim != 4:
    raise UsageError(f'images: expected [B, H, W, C], got shape {images.shape}')
  # Raw bytes would train, badly: they lack the normalisation of the pipeline.
  if not jnp.issubdtype(images.dtype, jnp.floating):
    raise UsageError(
      f'images: expected normalised floating point, got {images.dtype}'
    )


def check_size(images: jax.Array, smallest: int, model: str) -> None:
  """Refuses images with a side smaller than the total stride of the model."""
  # Padding would let even one pixel through, to layers that see only zeros.
  height, width = images.shape[1:3]
  if min(height, width) < smallest:
    raise UsageError(
      f'images of {height}x{width} are too small for {model}: '
      f'expected at least {smallest}x{smallest}'
    )
