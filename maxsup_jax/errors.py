"""The exception for bad input, and the checks that all packages share.

Each check takes the name of an argument and its value, and returns the value
or raises one line: what it is, and what was expected.
"""

import contextlib
import difflib
import math
import numbers
import re
import reprlib
from collections.abc import Iterable, Iterator, Sequence
from typing import Any


class UsageError(ValueError):
  """The user passed something that cannot be used; the message is one line.

  The command-line programs print the message alone and exit with code 2. Any
  other exception is a fault of the program and keeps its traceback.
  """


def number(
  name: str,
  value: Any,
  low: float = -math.inf,
  high: float = math.inf,
  *,
  above: float | None = None,
  below: float | None = None,
  expected: str | None = None,
) -> float:
  """Checks a finite real number.

  Args:
    name: the argument, for the message.
    value: what the user passed; a NumPy or JAX scalar becomes Python's.
    low: the smallest value allowed.
    high: the largest value allowed.
    above: instead of `low`, a bound that is itself excluded.
    below: instead of `high`, a bound that is itself excluded.
    expected: says what was expected, in place of the range.

  Returns:
    The number.

  Raises:
    UsageError: for anything else, such as a bool, a string or NaN.

  Examples:
    >>> number('alpha', 0.1, low=0)
    0.1
    >>> number('alpha', -1, low=0, below=1)
    Traceback (most recent call last):
    maxsup_jax.errors.UsageError: alpha is -1; expected at least 0 and below 1
  """
  value = _scalar(value)
  real = isinstance(value, numbers.Real) and not isinstance(value, bool)
  inside = (
    real
    and math.isfinite(value)
    and low <= value <= high
    and (above is None or value > above)
    and (below is None or value < below)
  )
  if not inside:
    wanted = expected or _range('a finite number', low, high, above, below)
    raise UsageError(f'{name} is {shown(value)}; expected {wanted}')
  return value


def integer(
  name: str,
  value: Any,
  low: int | None = None,
  high: int | None = None,
  *,
  expected: str | None = None,
) -> int:
  """Checks a whole number, as `number` does; 3.0 is not one.

  Examples:
    >>> integer('width', 16, low=1)
    16
    >>> integer('width', 0, low=1)
    Traceback (most recent call last):
    maxsup_jax.errors.UsageError: width is 0; expected an integer, at least 1
  """
  value = _scalar(value)
  whole = isinstance(value, numbers.Integral) and not isinstance(value, bool)
  if (
    not whole
    or (low is not None and value < low)
    or (high is not None and value > high)
  ):
    limits = _range(
      '',
      -math.inf if low is None else low,
      math.inf if high is None else high,
    )
    wanted = expected or ', '.join(filter(None, ('an integer', limits)))
    raise UsageError(f'{name} is {shown(value)}; expected {wanted}')
  return int(value)


def boolean(name: str, value: Any) -> bool:
  """Checks True or False: the string 'false' would count as true."""
  if not isinstance(value, bool):
    raise UsageError(f'{name} is {shown(value)}; expected True or False')
  return value


def one_of(name: str, value: Any, known: Iterable[str]) -> str:
  """Checks that a value is one of these names.

  Examples:
    >>> one_of('mode', 'pairs', ('batch', 'pair'))
    Traceback (most recent call last):
    maxsup_jax.errors.UsageError: mode is 'pairs'; did you mean 'pair'? \
Expected one of batch, pair
  """
  known = tuple(known)
  if not isinstance(value, str) or value not in known:
    near = nearest(value, known)
    names = ', '.join(known)
    if near:
      wanted = f'did you mean {near!r}? Expected one of {names}'
    else:
      wanted = f'expected one of {names}'
    raise UsageError(f'{name} is {shown(value)}; {wanted}')
  return value


def distinct(name: str, values: Sequence[Any]) -> Sequence[Any]:
  """Checks that nothing is given twice: it would count twice, or not at all.

  Examples:
    >>> distinct('seeds', [0, 1, 0])
    Traceback (most recent call last):
    maxsup_jax.errors.UsageError: seeds has 0 twice; expected distinct values
  """
  for i, value in enumerate(values):
    if value in values[:i]:
      raise UsageError(
        f'{name} has {shown(value)} twice; expected distinct values'
      )
  return values


def unknown(
  what: str,
  name: Any,
  known: Iterable[str],
  *,
  prefix: str = '',
  elsewhere: Iterable[str] = (),
) -> UsageError:
  """The error for an unknown name, with the nearest known one.

  If none of those known here is near, a dotted name from `elsewhere` may be,
  by its last part.

  Examples:
    >>> raise unknown('field config.sed', 'sed', ('seed', 'model'))
    Traceback (most recent call last):
    maxsup_jax.errors.UsageError: unknown field config.sed; did you mean \
'seed'? Known: seed, model
  """
  known = tuple(known)
  names = ', '.join(f'{prefix}{n}' for n in known) or 'none'
  near = nearest(name, known)
  near = near and prefix + near
  if not near:
    last = {dotted.rpartition('.')[2]: dotted for dotted in elsewhere}
    near = last.get(nearest(name, last) or '')
  if near:
    return UsageError(f'unknown {what}; did you mean {near!r}? Known: {names}')
  return UsageError(f'unknown {what}; known: {names}')


def nearest(name: Any, known: Iterable[str]) -> str | None:
  """The known name that a misspelt one is closest to, if any is close."""
  if not isinstance(name, str):
    return None
  found = difflib.get_close_matches(name, list(known), n=1)
  return found[0] if found else None


@contextlib.contextmanager
def within(prefix: str) -> Iterator[None]:
  """Puts a prefix before messages, such as the field that holds an argument.

  Examples:
    >>> with within('config.optimizer.'):
    ...   number('eps', 0, above=0)
    Traceback (most recent call last):
    maxsup_jax.errors.UsageError: config.optimizer.eps is 0; expected above 0
  """
  try:
    yield
  except UsageError as error:
    raise UsageError(f'{prefix}{error}') from error


def one_line(error: BaseException | str) -> str:
  """The text of an error without line breaks, and not longer than a message."""
  return printable(' '.join(str(error).split())[:300])


def printable(text: str) -> str:
  r"""Text without what steers a terminal, such as the colours of ANSI.

  Examples:
    >>> printable('\x1b[31mred\x1b[0m')
    'red'
  """
  text = re.sub(r'\x1b\[[0-?]*[ -/]*[@-~]', '', text)
  # Lone surrogates cannot be written as UTF-8.
  text = text.encode('utf-8', 'replace').decode()
  return ''.join(c for c in text if c in '\n\t' or c.isprintable())


def shown(value: Any) -> str:
  """A value as a message shows it: short and on one line."""
  if isinstance(value, str):
    return repr(value)
  return ' '.join(reprlib.repr(value).split())


def _scalar(value: Any) -> Any:
  # Of NumPy and JAX, with no axis.
  return value.item() if getattr(value, 'shape', None) == () else value


def _range(
  otherwise: str,
  low: float,
  high: float,
  above: float | None = None,
  below: float | None = None,
) -> str:
  bounded = math.isfinite(low) and math.isfinite(high)
  if above is None and below is None and bounded:
    return f'from {_text(low)} to {_text(high)}'
  parts = []
  if above is not None:
    parts.append(f'above {_text(above)}')
  elif low != -math.inf:
    parts.append(f'at least {_text(low)}')
  if below is not None:
    parts.append(f'below {_text(below)}')
  elif high != math.inf:
    parts.append(f'at most {_text(high)}')
  return ' and '.join(parts) or otherwise


def _text(bound: float) -> str:
  return str(bound) if isinstance(bound, int) else f'{bound:g}'
