"""The strength of a loss as a function of the step, or of the confidence."""

import dataclasses
import itertools
import math
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from maxsup_jax import errors
from maxsup_jax.losses._rows import Rows

Schedule = Callable[[ArrayLike], jax.Array]


@dataclasses.dataclass(frozen=True)
class EpochSchedule:
  """A schedule with one value per epoch, held within the epoch.

  An optax-style schedule: call it with the step, which may be traced. Steps
  after the last epoch have its value. The values are computed beforehand in
  double precision.
  """

  values: tuple[float, ...]  # one per epoch
  steps_per_epoch: int  # for which each of them holds
  # Between which the values were laid, if any: must be strengths as well.
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
    raise TypeError(f'step is {step.dtype}; expected an integer')
  return step


def constant_alpha(value: float = 0.1) -> EpochSchedule:
  """The same value at every step.

  Examples:
    >>> print(constant_alpha(0.1)(1000))
    0.1
  """
  return EpochSchedule((errors.number('value', value),), steps_per_epoch=1)


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
    begin: the value in the first epoch, also if it is the only one.
    end: the value where `t` equals the denominator.
    epochs: the number of epochs of the training, `T`.
    steps_per_epoch: the number of steps in an epoch.
    denominator: `D`, as above.

  Examples:
    >>> alpha = linear_alpha(0.1, 0.2, epochs=4, steps_per_epoch=100)
    >>> print([round(float(alpha(step)), 3) for step in (0, 99, 100, 399, 999)])
    [0.1, 0.1, 0.125, 0.175, 0.175]
    >>> alpha = linear_alpha(
    ...     0.1, 0.2, epochs=5, steps_per_epoch=100, denominator='epochs-1')
    >>> print([round(float(alpha(step)), 3) for step in (0, 100, 499)])
    [0.1, 0.125, 0.2]

  References: Zhou et al., 2025, appendix F.
  """
  begin, end = errors.number('begin', begin), errors.number('end', end)
  fractions = _fractions(epochs, denominator)
  values = tuple(begin + (end - begin) * x for x in fractions)
  return EpochSchedule(values, _steps(steps_per_epoch), ends=(begin, end))


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

  The arguments are those of `linear_alpha`; later values than `end` are `end`.

  Examples:
    >>> alpha = cosine_alpha(0.2, 0.0, epochs=4, steps_per_epoch=100)
    >>> print([round(float(alpha(step)), 3) for step in (0, 100, 200, 300)])
    [0.2, 0.171, 0.1, 0.029]
  """
  begin, end = errors.number('begin', begin), errors.number('end', end)
  fractions = _fractions(epochs, denominator)
  values = tuple(
    end + (begin - end) * (1 + math.cos(math.pi * min(x, 1))) / 2
    for x in fractions
  )
  return EpochSchedule(values, _steps(steps_per_epoch), ends=(begin, end))


def piecewise_alpha(
  values: Sequence[float], boundaries: Sequence[int], *, steps_per_epoch: int
) -> EpochSchedule:
  """Constant between epochs at which the value changes.

  Args:
    values: one more than boundaries.
    boundaries: the epochs, counted from 0, from which on the next value holds;
      positive and increasing.
    steps_per_epoch: the number of steps in an epoch.

  Examples:
    >>> alpha = piecewise_alpha([0.0, 0.1], [2], steps_per_epoch=100)
    >>> print([round(float(alpha(step)), 3) for step in (0, 199, 200, 999)])
    [0.0, 0.0, 0.1, 0.1]
  """
  values = [errors.number('values', value) for value in values]
  bounds = [errors.integer('boundaries', bound, 1) for bound in boundaries]
  if len(values) != len(bounds) + 1:
    raise errors.UsageError(
      f'there are {len(values)} values; expected one more than the '
      f'{len(bounds)} boundaries'
    )
  if any(a >= b for a, b in itertools.pairwise(bounds)):
    raise errors.UsageError(
      f'boundaries are {bounds}; expected increasing epochs'
    )
  lengths = [b - a for a, b in itertools.pairwise([0, *bounds])]
  per_epoch = [v for v, n in zip(values, [*lengths, 1]) for _ in range(n)]
  return EpochSchedule(tuple(per_epoch), _steps(steps_per_epoch))


def _steps(steps_per_epoch: int) -> int:
  return errors.integer('steps_per_epoch', steps_per_epoch, 1)


def _fractions(epochs: int, denominator: str | int) -> list[float]:
  """The epochs, counted from 0, divided by the denominator."""
  epochs = errors.integer('epochs', epochs, 1)
  named = {'epochs': epochs, 'epochs-1': max(epochs - 1, 1)}
  if isinstance(denominator, str) and denominator in named:
    divisor = named[denominator]
  else:
    expected = "'epochs', 'epochs-1' or a positive integer"
    divisor = errors.integer('denominator', denominator, 1, expected=expected)
  return [epoch / divisor for epoch in range(epochs)]


def confidence_alpha(
  logits: ArrayLike,
  low: ArrayLike = 0.0,
  high: ArrayLike = 1.0,
  *,
  axis: int = -1,
  where: ArrayLike | None = None,
) -> jax.Array:
  r"""A strength that grows with the model's confidence, per example.

  .. math::
    \alpha = \alpha_\mathrm{low} + (\alpha_\mathrm{high} - \alpha_\mathrm{low})
    \left(1 - \frac{H(q)}{\log K}\right), \qquad H(q) = -\sum_k q_k \log q_k

  It may be given as `alpha` to any loss here. No gradient flows through it.

  The form is the one commonly attributed to Lee et al., from whom Zhou et al.
  adopted their adaptive alpha; it was not checked against their paper.

  Args:
    low: the strength where the softmax is uniform, or has one class only.
    high: the strength where the model is sure.
    logits, axis, where: see `cross_entropy`. A masked example gets `low`.

  Examples:
    >>> logits = jnp.array([[9.0, 0.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 0.0]])
    >>> print(confidence_alpha(logits, 0.0, 0.2))
    [0.1995... 0.0224... 0...]

  References: Lee et al., 2022; Zhou et al., 2025, table 15.
  """
  rows = Rows.of(logits, axis, where)
  low, high = rows.number('low', low), rows.number('high', high)
  several = rows.count() > 1
  share = rows.entropy() / jnp.log(jnp.where(several, rows.count(), 2))
  # Rounding may lift the entropy of a uniform softmax above log K.
  confidence = jnp.where(several, jnp.clip(1 - share, 0, 1), 0)
  confidence = jax.lax.stop_gradient(confidence)
  if rows.examples is not None:
    confidence = jnp.where(rows.examples, confidence, 0)
  return low + (high - low) * confidence
