"""The functions of the package, each beside the formula it must equal."""

import dataclasses
import inspect
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
  """Weights of the classes, one of them 0."""
  return np.where(np.arange(num_classes) == 1, 0, 1.5 + wave(num_classes))


@dataclasses.dataclass(frozen=True, eq=False)
class Case:
  """A function of the package and the formula that it must equal.

  Attributes:
    name: of the formula in `reference`.
    function: of the package.
    options: what the function takes by keyword.
    defines: what the formula takes by keyword; None for the options.
    symbol: what the function calls its strength; None if it has none.
    strength: from the alpha of a test, in [0, 1], to that of the function.
    per_logit: further arguments `[B, K]`, from the number of classes to `[K]`.
    per_label: the same, from the number of classes to `[K, K]`; the formula
      takes the row of the label.
    frozen: whether the function stops gradients in the logits.
    soft: whether labels may be distributions.
    shifts: whether the value stays when all logits are shifted.
    impossible: the factor to the loss without a class of logit -inf; inf where
      such a class makes the loss infinite.
    variant: whether another case has the same function.
  """

  name: str
  function: Callable[..., Any]
  options: dict[str, Any] = dataclasses.field(default_factory=dict)
  defines: dict[str, Any] | None = None
  symbol: str | None = 'alpha'
  strength: Callable[[Any], Any] = lambda alpha: alpha
  per_logit: dict[str, Callable] = dataclasses.field(default_factory=dict)
  per_label: dict[str, Callable] = dataclasses.field(default_factory=dict)
  frozen: bool = False
  soft: bool = True
  shifts: bool = True
  impossible: float = np.inf
  variant: bool = False

  def takes(self, name):
    return name in inspect.signature(self.function).parameters

  def __call__(self, logits, labels, alpha=0.1, *, axis=-1, **kwargs):
    shape = jnp.shape(logits)
    arrays = {n: make(shape[axis]) for n, make in self.per_label.items()}
    for name, make in self.per_logit.items():
      batch = np.delete(shape, axis).tolist()
      rows = np.broadcast_to(make(shape[axis]), [*batch, shape[axis]])
      arrays[name] = np.moveaxis(rows, -1, axis)
    if not self.takes('class_weights'):
      kwargs.pop('class_weights', None)
    if self.symbol:
      arrays[self.symbol] = self.strength(alpha)
    given = (labels,) if self.takes('labels') else ()
    return self.function(
      logits, *given, **self.options, **arrays, axis=axis, **kwargs
    )

  def expected(self, logits, labels, alpha=0.1, where=None, weights=None, **k):
    """The values of the definition, and their gradient."""
    num_classes = np.shape(logits)[-1]
    known = self.options if self.defines is None else self.defines

    def formula(z, y, alpha, *, kept, frozen):
      arguments = dict(known)
      for name, make in self.per_logit.items():
        arguments[name] = np.float64(make(num_classes))[kept]
      for name, make in self.per_label.items():
        row = np.float64(make(num_classes))[kept[np.argmax(y)]]
        arguments[name] = row[kept]
      if self.frozen:
        arguments['frozen'] = frozen
      reference.WEIGHTS = None
      if weights is not None and self.takes('class_weights'):
        reference.WEIGHTS = weights[kept]
      definition = getattr(reference, self.name.partition(' ')[0])
      return definition(z, y, self.strength(alpha), **arguments)

    return reference.with_gradient(formula, logits, labels, alpha, where, **k)


PENALTY = {'symbol': None}
ONE_CLASS = {'soft': False}
TEACHER = {'per_logit': {'teacher_logits': wave}}
MARGIN = {'margin': 1.5}
ACLS = {'margin': 0.5, 'top_weight': 0.7, 'rest_weight': 0.3}
WARM = {'temperature': 2.0}
HINTON = {
  'teacher_temperature': 2.0,
  'student_temperature': 2.0,
  'divergence': 'kl',
  'scale_by_squared_temperature': True,
}
DEFINES_HINTON = {'teacher': 2.0, 'student': 2.0, 'kl': True, 'scale': 4.0}
VARIANT = {'variant': True, 'defines': {}}
TERM, FORM = ONE_CLASS | VARIANT, PENALTY | VARIANT
BETA = {'symbol': 'beta'}
FIXED = {'shifts': False}
smooth = losses.label_smoothing_cross_entropy
regularize = losses.smoothing_regularization
amplify = losses.error_amplification
adaptive = losses.adaptive_smoothing_cross_entropy
zipf = losses.zipf_cross_entropy
squared = losses.logit_penalty_cross_entropy
confidence = losses.confidence_penalty

CASES = (
  Case('cross_entropy', losses.cross_entropy, **PENALTY, impossible=1),
  Case('uniform_smoothing', smooth),
  Case('others_smoothing', smooth, {'convention': 'others'}, **VARIANT),
  Case('kl_smoothing', smooth, {'convention': 'kl'}, **VARIANT),
  Case('max_suppression', losses.max_suppression, **PENALTY),
  Case('maxsup', losses.maxsup_cross_entropy),
  Case('regularization', regularize, **ONE_CLASS),
  Case('regularization_below', regularize, {'normalization': 'below'}, **TERM),
  # The other classes are counted, and have nothing to add.
  Case('amplification', amplify, **ONE_CLASS, impossible=4 / 5),
  Case('amplification_above', amplify, {'normalization': 'above'}, **TERM),
  Case('amplification_max', amplify, {'normalization': 'max'}, **TERM),
  Case('half_square', losses.logit_penalty, **PENALTY, **FIXED),
  Case('logit_penalty', squared, **FIXED),
  Case('logit_penalty_full', squared, {'form': 'full'}, **FIXED, **VARIANT),
  Case('negative_entropy', confidence, **PENALTY, impossible=1),
  Case('divergence_from_uniform', confidence, {'form': 'kl'}, **FORM),
  Case('negative_mean_entropy', confidence, {'form': 'mean'}, **FORM),
  Case(
    'confidence_penalty', losses.confidence_penalty_cross_entropy, impossible=1
  ),
  Case(
    'logit_norm',
    losses.logit_norm_cross_entropy,
    symbol='temperature',
    strength=lambda alpha: alpha + 0.5,
    impossible=np.nan,  # The norm is infinite.
    **FIXED,
  ),
  Case(
    'focal',
    losses.focal_cross_entropy,
    symbol='gamma',
    strength=lambda alpha: 3 * alpha,
    **ONE_CLASS,
    impossible=1,
  ),
  Case('margin_penalty', losses.margin_penalty, MARGIN, **PENALTY),
  Case('mbls', losses.mbls_cross_entropy, MARGIN),
  Case(
    'acls_penalty', losses.acls_penalty, ACLS, frozen=True, **PENALTY, **FIXED
  ),
  Case('acls', losses.acls_cross_entropy, ACLS, frozen=True, **FIXED),
  Case(
    'online',
    losses.ols_cross_entropy,
    per_label={'targets': soft_labels},
    **ONE_CLASS,
  ),
  Case(
    'zipf_penalty', losses.zipf_penalty, frozen=True, **PENALTY, **ONE_CLASS
  ),
  Case('zipf', zipf, {'power': 2.0}, frozen=True, **ONE_CLASS),
  Case('zipf by votes', zipf, per_logit={'votes': votes}, frozen=True, **TERM),
  Case(
    'prior_smoothing',
    losses.prior_smoothing_cross_entropy,
    per_logit={'prior': distribution},
  ),
  Case('adaptive', adaptive, WARM, **TEACHER),
  Case(
    'self_adaptive', adaptive, WARM, frozen=True, impossible=1, variant=True
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
    **BETA,
    **TEACHER,
  ),
  Case(
    'logit_matching of the mean',
    losses.logit_matching,
    {'reduction': 'mean'},
    {'mean': True},
    **PENALTY,
    **TEACHER,
    **FIXED,
  ),
  Case(
    'logit_matching_mixture',
    losses.logit_matching_cross_entropy,
    **BETA,
    **TEACHER,
    **FIXED,
  ),
)
MAIN = [case for case in CASES if not case.variant]
LABELLED = [case for case in MAIN if case.takes('labels')]
SOFT = [case for case in CASES if case.takes('labels') and case.soft]
SCALED = [case for case in MAIN if case.symbol]


def these(cases):
  """Runs a test for each of these functions."""
  return pytest.mark.parametrize('loss', cases, ids=lambda case: case.name)


def all_values(logits, labels, alpha=0.1, *, cases=MAIN, **kwargs):
  """The values of all functions, by name."""
  return {case.name: case(logits, labels, alpha, **kwargs) for case in cases}


def all_with_gradients(
  logits,
  labels,
  alpha=0.1,
  weights=1.0,
  *,
  cases=MAIN,
  of_alpha=False,
  **kwargs,
):
  """The values of all functions and the gradients of their weighted sums."""
  results = {}
  for case in cases:

    def function(logits, alpha, case=case):
      return case(logits, labels, alpha, **kwargs)

    if of_alpha:
      values, pull_back = jax.vjp(function, logits, alpha)
    else:
      values, pull_back = jax.vjp(lambda z, f=function: f(z, alpha), logits)
    results[case.name] = values, *pull_back(weights * jnp.ones_like(values))
  return results
