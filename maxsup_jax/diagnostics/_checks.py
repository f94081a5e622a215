"""What the measurements take, and one clear line for what they do not."""

import numpy as np
from numpy.typing import ArrayLike

from maxsup_jax._errors import UsageError


def logits_and_labels(
  logits: ArrayLike, labels: ArrayLike
) -> tuple[np.ndarray, np.ndarray]:
  """Checks scores and the labels that belong to them.

  Args:
    logits: floating point `[N, K]`, or `[N]` or `[N, 1]` for the single logit
      of a binary classifier, which stands for the two logits `(0, z)`.
    labels: class ids, integer `[N]`.

  Returns:
    The logits `[N, K]`, K at least 2, in their own dtype, and int64 labels.

  Raises:
    UsageError: one line, for a wrong shape or dtype, no examples, NaN or
      infinity, or a label outside `[0, K)`.
  """
  logits_NK = class_scores(logits)
  labels_N = class_ids(labels, logits_NK.shape[1])
  same_length(logits=logits_NK, labels=labels_N)
  return logits_NK, labels_N


def class_scores(logits: ArrayLike, name: str = 'logits') -> np.ndarray:
  """Checks logits alone; see `logits_and_labels`."""
  logits = matrix(np.asarray(logits), name, columns='classes', single=True)
  if logits.shape[1] == 1:
    logits = np.concatenate([np.zeros_like(logits), logits], 1)
  return logits


def matrix(
  values: ArrayLike, name: str, columns: str = 'features', single: bool = False
) -> np.ndarray:
  """Checks finite floating-point numbers `[N, columns]`, N at least 1.

  Args:
    values: the numbers, in any floating dtype; bfloat16 and float16 become
      float32.
    name: what to call them in an error.
    columns: what the second axis counts.
    single: whether `[N]` stands for `[N, 1]`.
  """
  values = np.asarray(values)
  if single and values.ndim == 1:
    values = values[:, None]
  if values.ndim != 2 or not values.shape[1]:
    raise UsageError(
      f'{name} has the shape {values.shape}; expected [examples, {columns}]'
    )
  return finite(values, name)


def finite(values: ArrayLike, name: str) -> np.ndarray:
  """Checks floating-point numbers of any shape: at least one, none NaN or inf.

  Narrower floats than float32 become float32.
  """
  values = np.asarray(values)
  if values.dtype not in (np.float32, np.float64):
    # ml_dtypes' bfloat16 is not a subtype of np.floating.
    if values.dtype.name not in ('float16', 'bfloat16', 'longdouble'):
      raise UsageError(
        f'{name} has the dtype {values.dtype}; expected floating point'
      )
    values = values.astype(np.float32)
  if not values.size:
    raise UsageError(f'{name} is empty: it has the shape {values.shape}')
  # The sum is not finite if an element is not, and one pass over the data is
  # enough where it is.
  with np.errstate(over='ignore', invalid='ignore'):
    suspicious = not np.isfinite(values.sum(dtype=np.float64))
  if suspicious and not np.isfinite(values).all():
    where = np.unravel_index(
      np.flatnonzero(~np.isfinite(values))[0], values.shape
    )
    index = ', '.join(str(int(i)) for i in where)
    raise UsageError(
      f'{name}[{index}] is {values[where]}; expected finite numbers'
    )
  return values


def class_ids(
  labels: ArrayLike, num_classes: int, name: str = 'labels'
) -> np.ndarray:
  """Checks integer class ids `[N]` in `[0, num_classes)`, N at least 1."""
  labels = np.asarray(labels)
  if labels.ndim != 1:
    raise UsageError(
      f'{name} has the shape {labels.shape}; expected [examples]'
    )
  if not np.issubdtype(labels.dtype, np.integer):
    raise UsageError(
      f'{name} has the dtype {labels.dtype}; expected integer class ids'
    )
  if not labels.size:
    raise UsageError(f'{name} is empty')
  bad = (labels < 0) | (labels >= num_classes)
  if bad.any():
    i = int(bad.argmax())
    raise UsageError(
      f'{name}[{i}] is {labels[i]}; expected from 0 to {num_classes - 1}, as '
      f'there are {num_classes} classes'
    )
  return labels.astype(np.int64)


def scores_and_errors(
  confidence: ArrayLike, errors: ArrayLike
) -> tuple[np.ndarray, np.ndarray]:
  """Checks confidences and losses, `[N]` each, and makes them float64.

  Args:
    confidence: larger is surer; finite.
    errors: what each example costs: bool, or numbers from 0 to 1.
  """
  confidence = np.asarray(confidence)
  errors = np.asarray(errors)
  for name, values in (('confidence', confidence), ('errors', errors)):
    if values.ndim != 1:
      raise UsageError(
        f'{name} has the shape {values.shape}; expected [examples]'
      )
  if confidence.dtype.kind in 'biu':
    confidence = confidence.astype(np.float64)
  confidence = finite(confidence, 'confidence').astype(np.float64)
  if errors.dtype.kind in 'biu':
    errors = errors.astype(np.float64)
  errors = finite(errors, 'errors').astype(np.float64)
  bad = (errors < 0) | (errors > 1)
  if bad.any():
    i = int(bad.argmax())
    raise UsageError(f'errors[{i}] is {errors[i]}; expected from 0 to 1')
  same_length(confidence=confidence, errors=errors)
  return confidence, errors


def same_length(**arrays: np.ndarray) -> None:
  """Checks that the first axes agree."""
  if len({len(a) for a in arrays.values()}) > 1:
    lengths = ', '.join(f'{name} {len(a)}' for name, a in arrays.items())
    raise UsageError(f'the numbers of examples differ: {lengths}')


def between(value: float, name: str, low: float, high: float) -> float:
  """Checks a number from low to high, both included."""
  if not low <= value <= high:
    raise UsageError(f'{name} is {value}; expected from {low} to {high}')
  return float(value)


def at_least(value: int, name: str, low: int) -> int:
  """Checks a whole number from low on."""
  if value != int(value) or value < low:
    raise UsageError(f'{name} is {value}; expected a whole number >= {low}')
  return int(value)


def one_of(value: str, name: str, known: tuple[str, ...]) -> str:
  """Checks a name among the known ones."""
  if value not in known:
    raise UsageError(f'{name} is {value!r}; expected one of {", ".join(known)}')
  return value
