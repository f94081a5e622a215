"""The strength alpha as a function of the training step."""

import dataclasses
import itertools
import math
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from maxsup_jax.losses import _checks

Schedule = Callable[[ArrayLike], jax.Array]


@dataclasses.dataclass(frozen=True)
class EpochSchedule:
  """A schedule with one value per epoch, held within the epoch.

  An optax-style schedule: call it with the step, which may be traced. Steps
  after the last epoch have the value of the last epoch. The values are computed
  beforehand in double precision, so each is the floating-point number nearest
  to what its formula says.

  Attributes:
    values: one value per epoch.
    steps_per_epoch: the number of steps for which each of them holds.
    ends: the numbers between which the values were laid, if any. They need not
      be among the values, but must be strengths as well.
  """

  values: tuple[float, ...]
  steps_per_epoch: int
  ends: tuple[float, ...] = ()

  def __call__(self, step: ArrayLike) -> jax.Array:
    """The value at a step, which counts from 0."""
    step = check_step(step)
    last = len(self.values) - 1
    epoch = jnp.clip(step // self.steps_per_epoch, 0, last)
    return jnp.asarray(self.values)[epoch]


def check_step(step: ArrayLike) -> jax.Array:
  """Returns a step, which must be an integer."""
  step = jnp.asarray(step)
  if not jnp.issubdtype(step.dtype, jnp.integer):
    raise TypeError(f'step must be an integer, got {step.dtype}')
  return step


def constant_alpha(value: float = 0.1) -> EpochSchedule:
  """The same value at every step.

  Args:
    value: the value.

  Returns:
    A schedule: a function of the step.

  Examples:
    >>> from maxsup_jax import losses
    >>> print(losses.constant_alpha(0.1)(1000))
    0.1
  """
  value = _checks.check_number('value', value)
  return EpochSchedule((value,), steps_per_epoch=1)


def linear_alpha(
  begin: float = 0.1,
  end: float = 0.2,
  *,
  epochs: int,
  steps_per_epoch: int,
  denominator: str | int = 'epochs',
) -> EpochSchedule:
  r"""Linear in the epoch, as the paper on MaxSup schedules its losses.

  .. math::
    \alpha(t) = \alpha_\mathrm{begin} +
      (\alpha_\mathrm{end} - \alpha_\mathrm{begin}) \frac{t}{D},
    \qquad t = \lfloor \mathrm{step} / \mathrm{steps\ per\ epoch} \rfloor

  The epoch `t` counts from 0 to `T - 1`. The paper and the code published with
  it differ in the denominator `D`:

  * ``'epochs'``: `T`, as in the paper and in its ffcv trainer. The last epoch
    stays one step short of `end`.
  * ``'epochs-1'``: `T - 1`, as in its torchvision-style trainer and in its
    corruption experiments. The last epoch has `end`.
  * an integer: this number whatever `T` is. Its DeiT trainer has 299; the value
    then passes `end` in trainings of more than 300 epochs.

  Args:
    begin: the value in the first epoch.
    end: the value where `t` equals the denominator.
    epochs: the number of epochs of the training, `T`.
    steps_per_epoch: the number of steps in an epoch.
    denominator: ``'epochs'``, ``'epochs-1'`` or a positive integer.

  Returns:
    A schedule: a function of the step. After the last epoch it keeps the value
    of the last epoch. A single epoch has the value `begin`.

  Raises:
    TypeError: if a number is not one.
    ValueError: if a count is not positive or the denominator is unknown.

  Examples:
    >>> from maxsup_jax import losses
    >>> alpha = losses.linear_alpha(0.1, 0.2, epochs=4, steps_per_epoch=100)
    >>> print([round(float(alpha(step)), 3) for step in (0, 99, 100, 399, 999)])
    [0.1, 0.1, 0.125, 0.175, 0.175]
    >>> alpha = losses.linear_alpha(
    ...     0.1, 0.2, epochs=5, steps_per_epoch=100, denominator='epochs-1')
    >>> print([round(float(alpha(step)), 3) for step in (0, 100, 499)])
    [0.1, 0.125, 0.2]

  References:
    Zhou et al., `MaxSup: Overcoming Representation Collapse in Label Smoothing
    <https://arxiv.org/abs/2502.15798>`_, NeurIPS 2025, appendix F.
  """
  begin = _checks.check_number('begin', begin)
  end = _checks.check_number('end', end)
  values = (
    begin + (end - begin) * fraction
    for fraction in _fractions(epochs, denominator)
  )
  return EpochSchedule(
    tuple(values),
    _checks.check_count('steps_per_epoch', steps_per_epoch),
    ends=(begin, end),
  )


def cosine_alpha(
  begin: float = 0.1,
  end: float = 0.0,
  *,
  epochs: int,
  steps_per_epoch: int,
  denominator: str | int = 'epochs',
) -> EpochSchedule:
  r"""Half a period of a cosine over the epochs, from `begin` to `end`.

  .. math::
    \alpha(t) = \alpha_\mathrm{end} +
      (\alpha_\mathrm{begin} - \alpha_\mathrm{end})
      \frac{1 + \cos(\pi t / D)}{2}

  Args:
    begin: the value in the first epoch.
    end: the value where `t` equals the denominator.
    epochs: the number of epochs of the training, `T`.
    steps_per_epoch: the number of steps in an epoch.
    denominator: `D`, see `linear_alpha`. Beyond an integer `D` the value is
      `end`.

  Returns:
    A schedule: a function of the step. After the last epoch it keeps the value
    of the last epoch.

  Raises:
    TypeError: if a number is not one.
    ValueError: if a count is not positive or the denominator is unknown.

  Examples:
    >>> from maxsup_jax import losses
    >>> alpha = losses.cosine_alpha(0.2, 0.0, epochs=4, steps_per_epoch=100)
    >>> print([round(float(alpha(step)), 3) for step in (0, 100, 200, 300)])
    [0.2, 0.171, 0.1, 0.029]
  """
  begin = _checks.check_number('begin', begin)
  end = _checks.check_number('end', end)
  values = (
    end + (begin - end) * (1 + math.cos(math.pi * min(fraction, 1))) / 2
    for fraction in _fractions(epochs, denominator)
  )
  return EpochSchedule(
    tuple(values),
    _checks.check_count('steps_per_epoch', steps_per_epoch),
    ends=(begin, end),
  )


def piecewise_alpha(
  values: Sequence[float],
  boundaries: Sequence[int],
  *,
  steps_per_epoch: int,
) -> EpochSchedule:
  """Constant between epochs at which the value changes.

  Args:
    values: one more than boundaries.
    boundaries: the epochs, counted from 0, from which on the next value holds;
      positive and increasing.
    steps_per_epoch: the number of steps in an epoch.

  Returns:
    A schedule: a function of the step.

  Raises:
    TypeError: if a number is not one.
    ValueError: if the boundaries do not increase, or there is not one value
      more.

  Examples:
    >>> from maxsup_jax import losses
    >>> alpha = losses.piecewise_alpha([0.0, 0.1], [2], steps_per_epoch=100)
    >>> print([round(float(alpha(step)), 3) for step in (0, 199, 200, 999)])
    [0.0, 0.0, 0.1, 0.1]
  """
  values = [_checks.check_number('values', value) for value in values]
  bounds = [_checks.check_count('boundaries', bound) for bound in boundaries]
  if len(values) != len(bounds) + 1:
    raise ValueError(
      'values must be one more than boundaries, '
      f'got {len(values)} and {len(bounds)}'
    )
  if any(a >= b for a, b in itertools.pairwise(bounds)):
    raise ValueError(f'boundaries must increase, got {bounds}')
  lengths = [b - a for a, b in itertools.pairwise([0, *bounds])]
  per_epoch = [v for v, n in zip(values, [*lengths, 1]) for _ in range(n)]
  return EpochSchedule(
    tuple(per_epoch), _checks.check_count('steps_per_epoch', steps_per_epoch)
  )


def _fractions(epochs: int, denominator: str | int) -> list[float]:
  """The epochs, counted from 0, divided by the denominator."""
  epochs = _checks.check_count('epochs', epochs)
  if denominator == 'epochs':
    divisor = epochs
  elif denominator == 'epochs-1':
    divisor = max(epochs - 1, 1)
  elif isinstance(denominator, str):
    raise ValueError(
      "denominator must be 'epochs', 'epochs-1' or a positive integer, "
      f'got {denominator!r}'
    )
  else:
    divisor = _checks.check_count('denominator', denominator)
  return [epoch / divisor for epoch in range(epochs)]
