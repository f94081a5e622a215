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


@dataclasses.dataclass(frozen=True, eq=False)
class Case:
  """A function of the package and the formula that it must equal."""

  name: str
  function: Callable[..., Any]
  formula: Callable[..., float]
  options: dict[str, str] = dataclasses.field(default_factory=dict)
  takes: tuple[str, ...] = ('labels', 'alpha')
  soft_labels: bool = True

  def __call__(self, logits, labels, alpha=0.1, **kwargs):
    given = {'labels': labels, 'alpha': alpha}
    return self.function(
      logits, *(given[name] for name in self.takes), **self.options, **kwargs
    )


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
scaled_loss = pytest.mark.parametrize(
  'loss',
  [case for case in CASES if 'alpha' in case.takes],
  ids=lambda case: case.name,
)


def cases_for(labels):
  """The cases that take such labels."""
  class_ids = jnp.issubdtype(jnp.asarray(labels).dtype, jnp.integer)
  return [case for case in CASES if class_ids or case.soft_labels]


def all_values(logits, labels, alpha=0.1, **kwargs):
  """The values of all functions that take such labels, by name."""
  return {
    case.name: case(logits, labels, alpha, **kwargs)
    for case in cases_for(labels)
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
