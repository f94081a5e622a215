"""The functions of the package, each beside the formula it must equal."""

import dataclasses
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
    name: of the formula in `reference`.
    function: of the package.
    options: what the function takes by keyword.
    defines: what the formula takes by keyword.
    takes: what the function takes by position after the logits.
    symbol: what the function calls its strength.
    strength: from the alpha of a test, in [0, 1], to that of the function.
    per_class: further arguments, from the number of classes to `[K]`.
    per_logit: the same, but the function takes them as `[B, K]`.
    per_label: the same, from the number of classes to `[K, K]`; the formula
      takes the row of the label.
    frozen: whether the function stops gradients in the logits.
    soft: whether labels may be distributions.
    shifts: whether the value stays when all logits are shifted.
    ranks: whether the function must tell the label from other classes.
    impossible: the factor to the loss without a class of logit -inf; inf where
      such a class makes the loss infinite.
  """

  name: str
  function: Callable[..., Any]
  options: dict[str, Any] = dataclasses.field(default_factory=dict)
  defines: dict[str, Any] = dataclasses.field(default_factory=dict)
  takes: tuple[str, ...] = ('labels', 'alpha')
  symbol: str = 'alpha'
  strength: Callable[[Any], Any] = lambda alpha: alpha
  per_class: dict[str, Callable] = dataclasses.field(default_factory=dict)
  per_logit: dict[str, Callable] = dataclasses.field(default_factory=dict)
  per_label: dict[str, Callable] = dataclasses.field(default_factory=dict)
  frozen: bool = False
  soft: bool = True
  shifts: bool = True
  ranks: bool = False
  impossible: float = np.inf

  def __call__(self, logits, labels, alpha=0.1, *, axis=-1, **kwargs):
    given = {'labels': labels, 'alpha': self.strength(alpha)}
    arguments = [given[name] for name in self.takes]
    arrays = self.arrays(jnp.shape(logits), axis)
    return self.function(
      logits, *arguments, **self.options, **arrays, axis=axis, **kwargs
    )

  def arrays(self, shape, axis):
    """The arrays that the function takes besides, for logits of a shape."""
    arrays = {
      name: make(shape[axis])
      for name, make in (self.per_class | self.per_label).items()
    }
    for name, make in self.per_logit.items():
      batch = np.delete(shape, axis).tolist()
      rows = np.broadcast_to(make(shape[axis]), [*batch, shape[axis]])
      arrays[name] = np.moveaxis(rows, -1, axis)
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
      definition = getattr(reference, self.name.partition(' ')[0])
      return definition(z, y, self.strength(alpha), **arguments)

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


PENALTY = {'takes': ()}
LABELLED = {'takes': ('labels',)}
ONE_CLASS = {'soft': False}
RANKED = {'frozen': True, 'soft': False, 'ranks': True}
TEACHER = {'per_logit': {'teacher_logits': wave}}
WEIGHTED = {'per_class': {'class_weights': class_weights}}
MARGIN = {'margin': 1.5}
ACLS = {'margin': 0.5, 'top_weight': 0.7, 'rest_weight': 0.3}
POWER = {'power': 2.0}
WARM = {'temperature': 2.0}
HINTON = {
  'teacher_temperature': 2.0,
  'student_temperature': 2.0,
  'divergence': 'kl',
  'scale_by_squared_temperature': True,
}
DEFINES_HINTON = {'teacher': 2.0, 'student': 2.0, 'kl': True, 'scale': 4.0}
smoothing = losses.label_smoothing_cross_entropy

CASES = (
  Case('cross_entropy', losses.cross_entropy, **LABELLED, impossible=1),
  Case('uniform_smoothing', smoothing),
  Case('others_smoothing', smoothing, {'convention': 'others'}),
  Case('kl_smoothing', smoothing, {'convention': 'kl'}),
  Case('max_suppression', losses.max_suppression, **PENALTY),
  Case('maxsup', losses.maxsup_cross_entropy),
  Case('regularization', losses.smoothing_regularization, **ONE_CLASS),
  Case(
    'regularization_below',
    losses.smoothing_regularization,
    {'normalization': 'below'},
    **ONE_CLASS,
  ),
  # The other classes are counted, and have nothing to add.
  Case(
    'amplification',
    losses.error_amplification,
    **ONE_CLASS,
    impossible=4 / 5,
  ),
  Case(
    'amplification_above',
    losses.error_amplification,
    {'normalization': 'above'},
    **ONE_CLASS,
    impossible=1,
  ),
  Case(
    'amplification_max',
    losses.error_amplification,
    {'normalization': 'max'},
    **ONE_CLASS,
    impossible=1,
  ),
  Case(
    'class_weighted',
    losses.cross_entropy,
    **LABELLED,
    **WEIGHTED,
    impossible=1,
  ),
  Case('class_weighted_smoothing', smoothing, **WEIGHTED),
  Case('class_weighted_maxsup', losses.maxsup_cross_entropy, **WEIGHTED),
  Case('half_square', losses.logit_penalty, **PENALTY, shifts=False),
  Case(
    'logit_penalty_full',
    losses.logit_penalty_cross_entropy,
    {'form': 'full'},
    shifts=False,
  ),
  Case('negative_entropy', losses.confidence_penalty, **PENALTY, impossible=1),
  Case(
    'divergence_from_uniform',
    losses.confidence_penalty,
    {'form': 'kl'},
    **PENALTY,
    impossible=np.nan,
  ),
  Case(
    'negative_mean_entropy',
    losses.confidence_penalty,
    {'form': 'mean'},
    **PENALTY,
    impossible=4 / 5,
  ),
  Case(
    'confidence_penalty', losses.confidence_penalty_cross_entropy, impossible=1
  ),
  Case(
    'logit_norm',
    losses.logit_norm_cross_entropy,
    symbol='temperature',
    strength=lambda alpha: alpha + 0.5,
    shifts=False,
  ),
  Case(
    'focal',
    losses.focal_cross_entropy,
    symbol='gamma',
    strength=lambda alpha: 3 * alpha,
    **ONE_CLASS,
    impossible=1,
  ),
  Case(
    'class_weighted_focal',
    losses.focal_cross_entropy,
    symbol='gamma',
    strength=lambda alpha: 1 + alpha,
    **ONE_CLASS,
    **WEIGHTED,
    impossible=1,
  ),
  Case('margin_penalty', losses.margin_penalty, MARGIN, MARGIN, **PENALTY),
  Case('mbls', losses.mbls_cross_entropy, MARGIN, MARGIN),
  Case(
    'acls_penalty',
    losses.acls_penalty,
    ACLS,
    ACLS,
    **PENALTY,
    frozen=True,
    shifts=False,
  ),
  Case(
    'acls', losses.acls_cross_entropy, ACLS, ACLS, frozen=True, shifts=False
  ),
  Case(
    'online', online_smoothing, per_label={'targets': soft_labels}, **ONE_CLASS
  ),
  Case('zipf_penalty', losses.zipf_penalty, **LABELLED, **RANKED),
  Case(
    'zipf', losses.zipf_cross_entropy, {'power': 2.0}, {'power': 2.0}, **RANKED
  ),
  Case(
    'zipf by votes',
    losses.zipf_cross_entropy,
    per_logit={'votes': votes},
    **RANKED,
  ),
  Case('prior_smoothing', prior_smoothing, per_logit={'prior': distribution}),
  Case(
    'adaptive', losses.adaptive_smoothing_cross_entropy, WARM, WARM, **TEACHER
  ),
  Case(
    'self_adaptive',
    losses.adaptive_smoothing_cross_entropy,
    WARM,
    WARM,
    frozen=True,
    impossible=1,
  ),
  Case(
    'distillation',
    losses.distillation,
    {'teacher_temperature': 2.0},
    {'teacher': 2.0},
    **PENALTY,
    **TEACHER,
  ),
  Case(
    'distillation of Hinton',
    losses.distillation,
    HINTON,
    DEFINES_HINTON,
    **PENALTY,
    **TEACHER,
  ),
  Case(
    'distillation_mixture',
    losses.distillation_cross_entropy,
    {'teacher_temperature': 3.0},
    {'teacher': 3.0},
    symbol='beta',
    **TEACHER,
  ),
  Case(
    'logit_matching', losses.logit_matching, **PENALTY, **TEACHER, shifts=False
  ),
  Case(
    'logit_matching of the mean',
    losses.logit_matching,
    {'reduction': 'mean'},
    {'mean': True},
    **PENALTY,
    **TEACHER,
    shifts=False,
  ),
  Case(
    'logit_matching_mixture',
    losses.logit_matching_cross_entropy,
    symbol='beta',
    **TEACHER,
    shifts=False,
  ),
)


def these(cases):
  """Runs a test for each of these functions."""
  return pytest.mark.parametrize('loss', cases, ids=lambda case: case.name)


every_loss = these(CASES)
labelled_loss = these([case for case in CASES if 'labels' in case.takes])
SOFT = [case for case in CASES if 'labels' in case.takes and case.soft]
soft_loss = these(SOFT)
shift_invariant_loss = these([case for case in CASES if case.shifts])
SCALED = [case for case in CASES if 'alpha' in case.takes]
scaled_loss = these(SCALED)


def evaluate(case, logits, labels, alpha=0.1, where=None, weights=1.0, axis=-1):
  """The losses, and the gradient of their weighted sum.

  Not compiled as a whole: all functions share what is compiled for the
  operations, which is faster by far.
  """

  def function(logits):
    return case(logits, labels, alpha, where=where, axis=axis)

  values, pull_back = jax.vjp(function, jnp.asarray(logits))
  (gradient,) = pull_back(weights * jnp.ones_like(values))
  return np.asarray(values), np.asarray(gradient)


def all_values(logits, labels, alpha=0.1, *, cases=CASES, **kwargs):
  """The values of all functions, by name."""
  return {case.name: case(logits, labels, alpha, **kwargs) for case in cases}


def all_with_gradients(logits, labels, alpha=0.1, *, cases=CASES, **kwargs):
  """The values of all functions and their gradients, by name."""
  results = {}
  for case in cases:

    def function(logits, case=case):
      return case(logits, labels, alpha, **kwargs)

    values, pull_back = jax.vjp(function, logits)
    results[case.name] = values, *pull_back(jnp.ones_like(values))
  return results
