"""The functions of the package, each beside the formula it must equal."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from maxsup_jax import losses
from tests.losses import reference


def wave(num_classes):
  """A number for each class, neither sorted nor symmetric."""
  return np.cos(3 * np.arange(num_classes) + 1).astype(np.float32)


def distribution(num_classes):
  weights = np.exp(wave(num_classes))
  return weights / weights.sum()


def soft_labels(num_classes):
  """A distribution for every true class."""
  rows = [np.roll(distribution(num_classes), i) for i in range(num_classes)]
  return np.array(rows)


def votes(num_classes):
  """Votes with ties."""
  return np.floor(2 + 2 * wave(num_classes))


def class_weights(num_classes):
  return 1.5 + wave(num_classes)


@dataclasses.dataclass(frozen=True, eq=False)
class Case:
  """A function of the package and the formula that it must equal.

  Attributes:
    name: of the case.
    function: of the package.
    definition: of one example, see `reference`.
    options: what the function takes by keyword.
    defines: what the definition takes by keyword.
    takes: what the function takes by position after the logits.
    symbol: what the function calls its strength.
    strength: from the alpha of a test, in [0, 1], to that of the function.
    per_class: further arguments, from the number of classes to `[K]`.
    per_logit: the same, but the function takes them as `[B, K]`.
    per_label: the same, from the number of classes to `[K, K]`; the definition
      takes the row of the label.
    frozen: whether the function stops gradients in the logits.
    soft_labels: whether labels may be distributions.
    shift_invariant: whether the value stays when all logits are shifted.
    masks_label: whether the function must tell the label from other classes.
  """

  name: str
  function: Callable[..., Any]
  definition: Callable[..., float]
  options: dict[str, Any] = dataclasses.field(default_factory=dict)
  defines: dict[str, Any] = dataclasses.field(default_factory=dict)
  takes: tuple[str, ...] = ('labels', 'alpha')
  symbol: str = 'alpha'
  strength: Callable[[Any], Any] = lambda alpha: alpha
  per_class: dict[str, Callable] = dataclasses.field(default_factory=dict)
  per_logit: dict[str, Callable] = dataclasses.field(default_factory=dict)
  per_label: dict[str, Callable] = dataclasses.field(default_factory=dict)
  frozen: bool = False
  soft_labels: bool = True
  shift_invariant: bool = True
  masks_label: bool = False

  def __call__(self, logits, labels, alpha=0.1, *, axis=-1, **kwargs):
    given = {'labels': labels, 'alpha': self.strength(alpha)}
    return self.function(
      logits,
      *(given[name] for name in self.takes),
      **self.options,
      **self.arrays(jnp.shape(logits), axis),
      axis=axis,
      **kwargs,
    )

  def arrays(self, shape, axis):
    """The arrays that the function takes besides, for logits of a shape."""
    if not isinstance(axis, int) or not -len(shape) <= axis < len(shape):
      shape, axis = (1,), 0  # Will be refused.
    num_classes = shape[axis]
    along = [1] * len(shape)
    along[axis] = num_classes
    arrays = {}
    for name, make in (self.per_class | self.per_label).items():
      arrays[name] = make(num_classes)
    for name, make in self.per_logit.items():
      row = make(num_classes).reshape(along)
      arrays[name] = np.broadcast_to(row, shape)
    return arrays

  def formula(self, num_classes):
    """The definition, as `reference.over_batch` wants it."""

    def formula(z, y, alpha, *, kept, frozen):
      arguments = dict(self.defines)
      for name, make in (self.per_class | self.per_logit).items():
        arguments[name] = np.float64(make(num_classes))[kept]
      for name, make in self.per_label.items():
        row = np.float64(make(num_classes))[kept[np.argmax(y)]]
        arguments[name] = row[kept]
      if self.frozen:
        arguments['frozen'] = frozen
      return self.definition(z, y, self.strength(alpha), **arguments)

    return formula

  def expected(self, logits, labels, alpha=0.1, where=None):
    """The values of the definition."""
    formula = self.formula(np.shape(logits)[-1])
    return reference.over_batch(formula, logits, labels, alpha, where)

  def expected_gradient(self, logits, labels, alpha=0.1, where=None):
    """The values of the definition, and their gradient."""
    formula = self.formula(np.shape(logits)[-1])
    return reference.with_gradient(formula, logits, labels, alpha, where)


def prior_smoothing(logits, labels, alpha, *, prior, **kwargs):
  return losses.prior_smoothing_cross_entropy(
    logits, labels, prior, alpha, **kwargs
  )


def online_smoothing(logits, labels, alpha, *, targets, **kwargs):
  return losses.ols_cross_entropy(logits, labels, targets, alpha, **kwargs)


MARGIN = {'margin': 1.5}
ACLS = {'margin': 0.5, 'top_weight': 0.7, 'rest_weight': 0.3}
TEACHER = {'teacher_logits': wave}
WEIGHTS = {'class_weights': class_weights}
HINTON = {
  'teacher_temperature': 2.0,
  'student_temperature': 2.0,
  'divergence': 'kl',
  'scale_by_squared_temperature': True,
}

CASES = (
  Case('ce', losses.cross_entropy, reference.cross_entropy, takes=('labels',)),
  Case('ls', losses.label_smoothing_cross_entropy, reference.uniform_smoothing),
  Case(
    'ls_others',
    losses.label_smoothing_cross_entropy,
    reference.others_smoothing,
    {'convention': 'others'},
  ),
  Case(
    'ls_kl',
    losses.label_smoothing_cross_entropy,
    reference.kl_smoothing,
    {'convention': 'kl'},
  ),
  Case('penalty', losses.max_suppression, reference.max_suppression, takes=()),
  Case('maxsup', losses.maxsup_cross_entropy, reference.maxsup),
  Case(
    'regularization',
    losses.smoothing_regularization,
    reference.regularization,
    soft_labels=False,
  ),
  Case(
    'regularization_below',
    losses.smoothing_regularization,
    reference.regularization_below,
    {'normalization': 'below'},
    soft_labels=False,
  ),
  Case(
    'amplification',
    losses.error_amplification,
    reference.amplification,
    soft_labels=False,
  ),
  Case(
    'amplification_above',
    losses.error_amplification,
    reference.amplification_above,
    {'normalization': 'above'},
    soft_labels=False,
  ),
  Case(
    'amplification_max',
    losses.error_amplification,
    reference.amplification_max,
    {'normalization': 'max'},
    soft_labels=False,
  ),
  Case(
    'ce_weighted',
    losses.cross_entropy,
    reference.class_weighted,
    takes=('labels',),
    per_class=WEIGHTS,
  ),
  Case(
    'ls_weighted',
    losses.label_smoothing_cross_entropy,
    reference.class_weighted_smoothing,
    per_class=WEIGHTS,
  ),
  Case(
    'maxsup_weighted',
    losses.maxsup_cross_entropy,
    reference.class_weighted_maxsup,
    per_class=WEIGHTS,
  ),
  Case(
    'square',
    losses.logit_penalty,
    reference.half_square,
    takes=(),
    shift_invariant=False,
  ),
  Case(
    'square_full',
    losses.logit_penalty,
    reference.full_square,
    {'form': 'full'},
    takes=(),
    shift_invariant=False,
  ),
  Case(
    'logit_penalty',
    losses.logit_penalty_cross_entropy,
    reference.logit_penalty,
    shift_invariant=False,
  ),
  Case(
    'logit_penalty_full',
    losses.logit_penalty_cross_entropy,
    reference.logit_penalty_full,
    {'form': 'full'},
    shift_invariant=False,
  ),
  Case(
    'negative_entropy',
    losses.confidence_penalty,
    reference.negative_entropy,
    takes=(),
  ),
  Case(
    'entropy_kl',
    losses.confidence_penalty,
    reference.divergence_from_uniform,
    {'form': 'kl'},
    takes=(),
  ),
  Case(
    'entropy_mean',
    losses.confidence_penalty,
    reference.negative_mean_entropy,
    {'form': 'mean'},
    takes=(),
  ),
  Case(
    'confidence_penalty',
    losses.confidence_penalty_cross_entropy,
    reference.confidence_penalty,
  ),
  Case(
    'logit_norm',
    losses.logit_norm_cross_entropy,
    reference.logit_norm,
    symbol='temperature',
    strength=lambda alpha: alpha + 0.5,
    shift_invariant=False,
  ),
  Case(
    'focal',
    losses.focal_cross_entropy,
    reference.focal,
    symbol='gamma',
    strength=lambda alpha: 3 * alpha,
    soft_labels=False,
  ),
  Case(
    'focal_weighted',
    losses.focal_cross_entropy,
    reference.class_weighted_focal,
    symbol='gamma',
    strength=lambda alpha: 1 + alpha,
    per_class=WEIGHTS,
    soft_labels=False,
  ),
  Case(
    'margin_penalty',
    losses.margin_penalty,
    reference.margin_penalty,
    MARGIN,
    MARGIN,
    takes=(),
  ),
  Case('mbls', losses.mbls_cross_entropy, reference.mbls, MARGIN, MARGIN),
  Case(
    'acls_penalty',
    losses.acls_penalty,
    reference.acls_penalty,
    ACLS,
    ACLS,
    takes=(),
    frozen=True,
    shift_invariant=False,
  ),
  Case(
    'acls',
    losses.acls_cross_entropy,
    reference.acls,
    ACLS,
    ACLS,
    frozen=True,
    shift_invariant=False,
  ),
  Case(
    'ols',
    online_smoothing,
    reference.online,
    per_label={'targets': soft_labels},
    soft_labels=False,
  ),
  Case(
    'zipf_penalty',
    losses.zipf_penalty,
    reference.zipf_penalty,
    takes=('labels',),
    frozen=True,
    soft_labels=False,
    masks_label=True,
  ),
  Case(
    'zipf',
    losses.zipf_cross_entropy,
    reference.zipf,
    {'power': 2.0},
    {'power': 2.0},
    frozen=True,
    soft_labels=False,
    masks_label=True,
  ),
  Case(
    'zipf_votes',
    losses.zipf_cross_entropy,
    reference.zipf,
    per_logit={'votes': votes},
    frozen=True,
    soft_labels=False,
    masks_label=True,
  ),
  Case(
    'prior_smoothing',
    prior_smoothing,
    reference.prior_smoothing,
    per_logit={'prior': distribution},
  ),
  Case(
    'adaptive',
    losses.adaptive_smoothing_cross_entropy,
    reference.adaptive,
    {'temperature': 2.0},
    {'temperature': 2.0},
    per_logit=TEACHER,
  ),
  Case(
    'adaptive_self',
    losses.adaptive_smoothing_cross_entropy,
    reference.self_adaptive,
    {'temperature': 2.0},
    {'temperature': 2.0},
    frozen=True,
  ),
  Case(
    'distillation',
    losses.distillation,
    reference.distillation,
    {'teacher_temperature': 2.0},
    {'teacher': 2.0},
    takes=(),
    per_logit=TEACHER,
  ),
  Case(
    'distillation_hinton',
    losses.distillation,
    reference.distillation,
    HINTON,
    {'teacher': 2.0, 'student': 2.0, 'kl': True, 'scale': 4.0},
    takes=(),
    per_logit=TEACHER,
  ),
  Case(
    'distillation_mixture',
    losses.distillation_cross_entropy,
    reference.distillation_mixture,
    {'teacher_temperature': 3.0},
    {'teacher': 3.0},
    symbol='beta',
    per_logit=TEACHER,
  ),
  Case(
    'logit_matching',
    losses.logit_matching,
    reference.logit_matching,
    takes=(),
    per_logit=TEACHER,
    shift_invariant=False,
  ),
  Case(
    'logit_matching_mean',
    losses.logit_matching,
    reference.logit_matching,
    {'reduction': 'mean'},
    {'mean': True},
    takes=(),
    per_logit=TEACHER,
    shift_invariant=False,
  ),
  Case(
    'logit_matching_mixture',
    losses.logit_matching_cross_entropy,
    reference.logit_matching_mixture,
    symbol='beta',
    per_logit=TEACHER,
    shift_invariant=False,
  ),
)

every_loss = pytest.mark.parametrize('loss', CASES, ids=lambda case: case.name)
labelled_loss = pytest.mark.parametrize(
  'loss',
  [case for case in CASES if 'labels' in case.takes],
  ids=lambda case: case.name,
)
soft_loss = pytest.mark.parametrize(
  'loss',
  [case for case in CASES if 'labels' in case.takes and case.soft_labels],
  ids=lambda case: case.name,
)
shift_invariant_loss = pytest.mark.parametrize(
  'loss',
  [case for case in CASES if case.shift_invariant],
  ids=lambda case: case.name,
)
scaled_loss = pytest.mark.parametrize(
  'loss',
  [case for case in CASES if 'alpha' in case.takes],
  ids=lambda case: case.name,
)


def cases_for(labels):
  """The cases that take such labels."""
  class_ids = jnp.issubdtype(jnp.asarray(labels).dtype, jnp.integer)
  return [case for case in CASES if class_ids or case.soft_labels]


def all_values(logits, labels, alpha=0.1, *, frozen=True, **kwargs):
  """The values of all functions that take such labels, by name.

  Without those that stop gradients, if `frozen` is false.
  """
  return {
    case.name: case(logits, labels, alpha, **kwargs)
    for case in cases_for(labels)
    if frozen or not case.frozen
  }


@jax.jit
def _evaluate_all(logits, labels, alpha, where, weights):
  # One program for all functions: compiling takes most of the time here.
  results = {}
  for case in cases_for(labels):
    function = functools.partial(case, labels=labels, alpha=alpha, where=where)
    values, pull_back = jax.vjp(function, logits)
    results[case.name] = values, *pull_back(weights * jnp.ones_like(values))
  return results


def evaluate(case, logits, labels, alpha=0.1, where=None, weights=1.0, axis=-1):
  """The losses, and the gradient of their weighted sum, compiled."""
  results = _evaluate_all(logits, labels, alpha, where, weights)
  return tuple(map(np.asarray, results[case.name]))
