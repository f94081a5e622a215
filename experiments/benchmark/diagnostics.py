"""The suite `diagnostics`: the measurements of `maxsup_jax.diagnostics`."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.benchmark import report, timing
from experiments.benchmark.losses import shape_of
from maxsup_jax.diagnostics import (
  _blocks,
  bootstrap,
  calibration,
  neural_collapse,
  selective,
)
from maxsup_jax.errors import UsageError

# What the parts of a report on ImageNet's validation set may take, in seconds
# on two cores, and how many times as long as their matrix products the
# accumulators of neural collapse.
TABLE_TARGET, BOOTSTRAP_TARGET, COLLAPSE_TARGET = 10, 30, 2


def measure(*, shapes: Any, **given: Any) -> dict[str, Any]:
  """Times everything, in turns."""
  shapes = shapes or ['50000x1000']
  if len(shapes) != 1:
    raise UsageError(f'--shapes is {",".join(shapes)}; expected only one')
  examples, classes = shape_of(shapes[0], low=(10, 3))
  s = timing.filled(
    {
      'examples': examples,
      'classes': classes,
      'features': 2048,
      'batch_size': 4096,
      'resamples': 1000,
      'rounds': 5,
    },
    given,
  )
  if s.batch_size < classes:
    raise UsageError(
      f'--batch_size is {s.batch_size}; expected at least {classes}, the '
      'number of classes'
    )
  timers = {**_host_timers(s), **_collapse_timers(s)}
  orders, seconds = timing.time_in_turn(timers, s.rounds, 1)
  ratio = timing.ratios(
    seconds['second pass update'], seconds['second pass products']
  )
  return {
    'settings': vars(s),
    'results': {
      'orders': orders,
      'seconds': {name: timing.summary(x) for name, x in seconds.items()},
      'ratios': {'second pass update': ratio},
    },
  }


def _host_timers(s):
  # A classifier that is right about three times in four.
  rng = np.random.default_rng(0)
  labels = rng.integers(0, s.classes, s.examples)
  logits = rng.standard_normal((s.examples, s.classes), dtype=np.float32)
  logits[np.arange(len(labels)), labels] += 4
  errors = selective.errors(logits, labels)
  ranking = selective.Ranking(selective.scores(logits)['msp'], errors)

  def resample():
    bootstrap.bootstrap(
      {'aurc': lambda w: selective.aurc(ranking.curve(w))},
      s.examples,
      resamples=s.resamples,
    )

  # What no measurement of probabilities can do without.
  def exponentials():
    _blocks.map_rows(lambda v: np.exp(v).sum(1), logits)

  return {
    'exponentials': timing.timer(exponentials),
    'calibration': timing.timer(lambda: calibration_table(logits, labels)),
    'selective': timing.timer(lambda: selective_table(logits, labels)),
    'bootstrap': timing.timer(resample),
  }


def calibration_table(logits: np.ndarray, labels: np.ndarray) -> list[Any]:
  """Every calibration error, and temperature scaling by both objectives."""
  per = calibration.per_example(logits, labels)
  results = [per.nll.mean(), per.brier.mean()]
  for binning in ('equal_width', 'equal_mass'):
    curve = calibration.reliability_curve(
      per.confidence, per.correct, binning=binning
    )
    results += [
      calibration.calibration_error(curve, norm) for norm in ('l1', 'l2', 'max')
    ]
  results.append(calibration.classwise_calibration_error(logits, labels))
  for objective in ('nll', 'ece'):
    results.append(
      calibration.temperature_scaling(logits, labels, objective=objective)
    )
  return results


def selective_table(logits: np.ndarray, labels: np.ndarray) -> list[Any]:
  """Every metric of every score, and the norm chosen on a fifth."""
  errors = selective.errors(logits, labels)
  results = []
  for confidence in selective.scores(logits).values():
    curve = selective.risk_coverage(confidence, errors)
    results += [
      *(
        selective.aurc(curve, convention)
        for convention in ('paper', 'torch_uncertainty', 'fd_shifts', 'mean')
      ),
      selective.augrc(curve),
      selective.e_aurc(curve),
      selective.naurc(curve),
      selective.auroc(curve),
      *(selective.coverage_at_risk(curve, r) for r in (0.01, 0.02, 0.05, 0.1)),
      *(selective.risk_at_coverage(curve, c) for c in (0.5, 0.8, 0.9)),
      selective.threshold_for_risk(curve, 0.05),
    ]
  held_out = len(labels) // 5
  fit = selective.fit_pnorm(logits[:held_out], labels[:held_out])
  curve = selective.risk_coverage(
    fit.score(logits[held_out:]), errors[held_out:]
  )
  results.append(selective.aurc(curve))
  results.append(selective.max_logit_given_confidence(logits, labels))
  return results


def _collapse_timers(s) -> dict[str, Callable[[int], float]]:
  """Updates of the accumulators, and the matrix products within them."""
  B, K, D = s.batch_size, s.classes, s.features
  keys = jax.random.split(jax.random.key(0), 2)
  features_BD = jax.random.normal(keys[0], (B, D), jnp.float32)
  labels_B = jax.random.permutation(keys[1], jnp.arange(B) % K)
  means = neural_collapse.ClassMeans.init(K, D)
  between = means.update(features_BD, labels_B).compute()
  # As they are on an accelerator, whose numbers are float32.
  between = jax.tree.map(jnp.asarray, between)
  within = neural_collapse.WithinClass.init(K)
  products = jax.jit(collapse_products)
  functions = {
    'first pass update': lambda: means.update(features_BD, labels_B),
    'second pass update': lambda: within.update(
      between, features_BD, labels_B, predictions=labels_B
    ),
    'second pass products': lambda: products(features_BD, between),
  }
  return {
    name: timing.timer(lambda f=f: jax.block_until_ready(f()))
    for name, f in functions.items()
  }


def collapse_products(features_BD: jax.Array, between: Any) -> jax.Array:
  """The features in the span of the class means, and from there to each."""
  inside_BR = jnp.matmul(features_BD, between.basis, precision='highest')
  return jnp.matmul(inside_BR, between.coordinates.T, precision='highest')


def describe(record: Mapping[str, Any]) -> list[str]:
  """The record as text."""
  results = record['results']
  seconds = results['seconds']
  columns = (('seconds', 'x', report.spread('.3f')),)
  rows = {name: {'x': x} for name, x in seconds.items()}
  both = seconds['calibration']['median'] + seconds['selective']['median']
  return [
    *report.table(rows, columns),
    *report.wrapped(
      f'Both tables: {both:.2f} s; target {TABLE_TARGET} s on two cores at '
      '50,000 x 1,000.',
      f'Bootstrap: {seconds["bootstrap"]["median"]:.1f} s; target '
      f'{BOOTSTRAP_TARGET} s for 1,000 at 50,000.',
      'Neural collapse, second pass over its matrix products: '
      + report.spread('.2f')(results['ratios']['second pass update'])
      + f'; target {COLLAPSE_TARGET}.',
    ),
  ]
