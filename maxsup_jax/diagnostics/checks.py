"""Checks of the arrays that the measurements take, with one-line errors.

Each returns what it checked as a NumPy array, or raises UsageError.
"""

from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from maxsup_jax.errors import UsageError, one_line

# Numbers beyond it could overflow where they are squared, added or divided.
LARGEST = 1e150
# How far the sum of probabilities with two or three digits may be from 1.
_ROUNDED = 0.02


def wrong_shape(name: str, values: ArrayLike, expected: Any) -> UsageError:
  """The error for an array of another shape."""
  return UsageError(
    f'{name} has the shape {np.shape(values)}; expected {expected}'
  )


def wrong_dtype(name: str, values: Any, expected: str) -> UsageError:
  """The error for an array of another dtype."""
  return UsageError(f'{name} has the dtype {values.dtype}; expected {expected}')


def logits_and_labels(
  logits: ArrayLike, labels: ArrayLike, single: str = 'zero'
) -> tuple[np.ndarray, np.ndarray]:
  """Checks scores and the labels that belong to them.

  Args:
    logits, labels: see the package.
    single: what the single logit z of a binary classifier stands for:
      `'zero'`, the two logits `(0, z)`; `'symmetric'`, `(-z/2, z/2)`, for what
      changes when logits are shifted; or `'refused'`.

  Returns:
    The logits `[N, K]`, K at least 2, in their own dtype, and int64 labels.
    Those of masked classes may be -inf, but not that of the label.
  """
  logits_NK = class_scores(logits, single=single, masked=True)
  labels_N = class_ids(labels, logits_NK.shape[1])
  same_length(logits=logits_NK, labels=labels_N)
  masked_N = np.isneginf(logits_NK[np.arange(len(labels_N)), labels_N])
  expected = 'a class that its logits do not mask with -inf'
  _refuse_any(masked_N, labels_N, 'labels', expected)
  return logits_NK, labels_N


def class_scores(
  logits: ArrayLike,
  name: str = 'logits',
  single: str = 'zero',
  masked: bool = False,
) -> np.ndarray:
  """Checks logits alone; see `logits_and_labels`.

  Where `masked`, some of several classes may be -inf, all but two at most.
  """
  logits = array(logits, name)
  if logits.ndim == 1:
    logits = logits[:, None]
  masked &= logits.ndim == 2 and logits.shape[1] > 1
  logits = matrix(logits, name, columns='classes', masked=masked)
  refuse_probabilities(logits, name)
  if masked and np.isneginf(logits.min()):
    left_N = np.isfinite(logits).sum(1)
    if left_N.min() < 2:
      i = int(left_N.argmin())
      raise UsageError(
        f'{name}[{i}] has {left_N[i]} logits that are not -inf; expected at '
        'least 2'
      )
  if logits.shape[1] > 1:
    return logits
  if single == 'refused':
    raise UsageError(
      f'{name} holds the single logit of a binary classifier; expected one '
      'for each class, as the result depends on where 0 is'
    )
  if single == 'symmetric':
    return np.concatenate([-logits / 2, logits / 2], 1)
  return np.concatenate([np.zeros_like(logits), logits], 1)


def refuse_probabilities(values: np.ndarray, name: str) -> None:
  """Refuses probabilities `[..., K]` where logits are expected.

  That is, rows that are all non-negative and sum to 1, or to 100, to 2%; or
  single numbers that are all from 0 to 1. Log-probabilities are logits.
  """
  K = values.shape[-1]
  # Most logits are told by the first row.
  for some in (values.reshape(-1, K)[:1], values):
    if some.min() < 0:
      return
    if K == 1:
      if not some.max() <= 1 or not values.any():
        return
      what = 'all are from 0 to 1'
    else:
      total = some.sum(-1, dtype=np.float64)
      whole = 100.0 if total.flat[0] > 50 else 1.0
      if not np.abs(total / whole - 1).max() <= _ROUNDED:
        return
      what = f'no number is negative and every row sums to {whole:g}'
  cure = 'np.log(p) - np.log1p(-p)' if K == 1 else 'np.log(p)'
  raise UsageError(
    f'{name} holds probabilities, as {what}; expected logits: take {cure}, or '
    'read the file with probabilities=True'
  )


def log_probabilities(values: ArrayLike, name: str) -> np.ndarray:
  """Logits whose softmax are these probabilities, `[..., K]`, or `[N]`.

  Rows sum to 1, to 2%; of two classes one may do, `[N]` or `[N, 1]`, which
  becomes a single logit. Zeros, which rounding made, count as the smallest
  positive number of the dtype, at least that of float32.
  """
  values = finite(values, name)
  smallest = np.finfo(values.dtype).smallest_subnormal
  _refuse_any(
    (values < 0) | (values > 1.001), values, name, 'probabilities, from 0 to 1'
  )
  logs = np.log(np.maximum(values, smallest))
  if values.ndim == 1 or values.shape[1] == 1:
    return logs - np.log(np.maximum(1 - values, smallest))
  total = values.sum(-1, dtype=np.float64)
  expected = 'probabilities of all classes, which sum to 1'
  _refuse_any(
    np.abs(total - 1) > _ROUNDED, total, f'the sum of {name}', expected
  )
  return logs


def matrix(
  values: ArrayLike, name: str, columns: str = 'features', masked: bool = False
) -> np.ndarray:
  """Checks `[examples, columns]` with `finite`."""
  values = array(values, name)
  if values.ndim != 2 or not values.shape[1]:
    raise wrong_shape(name, values, f'[examples, {columns}]')
  return finite(values, name, masked=masked)


def array(values: Any, name: str) -> np.ndarray:
  """Converts lists, and tensors of PyTorch, to an array in native byte order.

  Lists must not be ragged.
  """
  if hasattr(values, 'detach'):
    values = values.detach().cpu()
    # NumPy has no such numbers, and float32 holds them all.
    if str(values.dtype) == 'torch.bfloat16':
      values = values.float()
  try:
    values = np.asarray(values)
  except ValueError:  # NumPy's message speaks of an "inhomogeneous shape"
    raise UsageError(
      f'{name} is not an array: its rows differ in length'
    ) from None
  except RuntimeError as e:  # such as a list of tensors with gradients
    raise UsageError(f'{name} is not an array: {one_line(e)}') from None
  if values.dtype.hasobject:
    raise wrong_dtype(name, values, 'numbers or text, not Python objects')
  return values.astype(values.dtype.newbyteorder('='), copy=False)


def finite(
  values: ArrayLike, name: str, limit: float = LARGEST, masked: bool = False
) -> np.ndarray:
  """Checks floating-point numbers of any shape: at least one, none NaN or inf.

  Where `masked`, -inf is fine. Float64 numbers may be as large as the limit.
  Narrower floats than float32 become float32.
  """
  values = array(values, name)
  if values.dtype not in (np.float32, np.float64):
    # ml_dtypes' bfloat16 is not a subtype of np.floating.
    if values.dtype.name not in ('float16', 'bfloat16', 'longdouble'):
      raise wrong_dtype(name, values, 'floating point')
    with np.errstate(over='ignore'):
      values = values.astype(np.float32)
  if not values.size:
    raise UsageError(f'{name} is empty, of the shape {values.shape}')
  # In float32 all but infinity are small enough. Both ends are NaN if an
  # element is.
  limit = min(limit, float(np.finfo(values.dtype).max))
  if not (values.max() <= limit and values.min() >= -limit):
    bad = ~(np.abs(values) <= limit)
    if masked:
      bad &= ~np.isneginf(values)
      if not bad.any():
        return values
    expected = 'finite numbers'
    if np.isfinite(values[bad][0]):
      expected = f'numbers from {-limit:g} to {limit:g}'
    _refuse_any(bad, values, name, expected)
  return values


def _refuse_any(
  bad: np.ndarray, values: np.ndarray, name: str, expected: str
) -> None:
  """Names the first element that is not as expected."""
  if bad.any():
    where = np.unravel_index(bad.argmax(), bad.shape)
    index = ', '.join(str(int(i)) for i in where)
    at = f'{name}[{index}]' if index else name
    raise UsageError(f'{at} is {values[where]}; expected {expected}')


def shares(values: ArrayLike, name: str) -> np.ndarray:
  """Checks bool or numbers from 0 to 1, and makes them float64."""
  values = array(values, name)
  if values.dtype.kind in 'biu':
    values = values.astype(np.float64)
  values = finite(values, name).astype(np.float64)
  _refuse_any((values < 0) | (values > 1), values, name, 'from 0 to 1')
  return values


def vector(values: ArrayLike, name: str) -> np.ndarray:
  """Checks that there is one axis, that of the examples."""
  values = array(values, name)
  if values.ndim != 1:
    raise wrong_shape(name, values, '[examples]')
  return values


def class_ids(
  labels: ArrayLike,
  num_classes: int,
  name: str = 'labels',
  where: np.ndarray | None = None,
) -> np.ndarray:
  """Checks integer class ids `[N]` in `[0, num_classes)`, N at least 1.

  With `where`, only those at which it is True.
  """
  labels = _integers(labels, name)
  bad = (labels < 0) | (labels >= num_classes)
  expected = f'from 0 to {num_classes - 1}, as there are {num_classes} classes'
  _refuse_any(bad if where is None else bad & where, labels, name, expected)
  return labels.astype(np.int64)


def labels_alone(labels: ArrayLike, name: str = 'labels') -> np.ndarray:
  """Checks integer class ids `[N]` whose number K is one more than the largest.

  A class has no examples if K exceeds N, so that it is refused before anybody
  allocates memory for K classes.
  """
  labels = _integers(labels, name)
  _refuse_any(labels < 0, labels, name, 'class ids from 0 on')
  expected = f'less, as {len(labels)} examples leave a class below it empty'
  _refuse_any(labels >= len(labels), labels, name, expected)
  return labels.astype(np.int64)


def _integers(labels: ArrayLike, name: str) -> np.ndarray:
  labels = vector(labels, name)
  if not np.issubdtype(labels.dtype, np.integer):
    raise wrong_dtype(name, labels, 'integer class ids')
  if not labels.size:
    raise UsageError(f'{name} is empty')
  return labels


def scores_and_errors(
  confidence: ArrayLike, errors: ArrayLike
) -> tuple[np.ndarray, np.ndarray]:
  """Checks confidences and losses from 0 to 1, and makes them float64."""
  confidence = vector(confidence, 'confidence')
  errors = shares(vector(errors, 'errors'), 'errors')
  if confidence.dtype.kind in 'biu':
    confidence = confidence.astype(np.float64)
  # They are compared and nothing else, so they may be as large as they like.
  confidence = finite(confidence, 'confidence', np.inf).astype(np.float64)
  same_length(confidence=confidence, errors=errors)
  return confidence, errors


def same_length(**arrays: np.ndarray) -> None:
  """Checks that the first axes agree."""
  if len({len(a) for a in arrays.values()}) > 1:
    lengths = ', '.join(f'{name} {len(a)}' for name, a in arrays.items())
    raise UsageError(f'the numbers of examples differ: {lengths}')


def multiplicities(weights: ArrayLike, length: int) -> np.ndarray:
  """Checks how often each example counts: whole numbers, not all 0.

  In all less than 2**31: examples that are repeated so often must fit.
  """
  weights = array(weights, 'weights')
  if weights.shape != (length,):
    raise wrong_shape('weights', weights, f'({length},), one for each example')
  if weights.dtype.kind not in 'biu':
    raise wrong_dtype('weights', weights, 'integers, the count of each example')
  _refuse_any(weights < 0, weights, 'weights', 'at least 0')
  if not weights.any():
    raise UsageError('weights are all 0; expected at least one above 0')
  if weights.sum(dtype=np.float64) >= 2.0**31:
    raise UsageError('weights add up to 2**31 or more; expected less')
  return weights.astype(np.int64, copy=False)
