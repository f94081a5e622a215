"""The suite `diagnostics`: the measurements of `maxsup_jax.diagnostics`."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.benchmark import timing
from maxsup_jax.diagnostics import bootstrap as boot
from maxsup_jax.diagnostics import calibration, neural_collapse, selective

_SIZES = {'examples': 50_000, 'classes': 1000, 'resamples': 1000}
_SIZES |= {'features': 2048, 'batch_size': 4096, 'rounds': 5}


def measure(**given: int | None) -> dict[str, Any]:
  """Times everything, in turns."""
  s = timing.filled(_SIZES, given)
  timers = {**_host_timers(s), **_collapse_timers(s)}
  seconds = timing.time_in_turn(timers, s.rounds, 1)
  ratio = timing.ratios(
    seconds['second pass update'], seconds['second pass products']
  )
  return {
    'settings': vars(s),
    'results': {
      'seconds': {name: timing.summary(x) for name, x in seconds.items()},
      'ratios': {'second pass update': ratio},
    },
  }


def _host_timers(s: Any) -> dict[str, Callable[[int], float]]:
  # A classifier that is right about three times in four.
  rng = np.random.default_rng(0)
  labels = rng.integers(0, s.classes, s.examples)
  logits = rng.standard_normal((s.examples, s.classes), dtype=np.float32)
  logits[np.arange(len(labels)), labels] += 4
  errors = selective.errors(logits, labels)
  ranking = selective.Ranking(selective.scores(logits)['msp'], errors)

  def resample():
    statistics = {'aurc': lambda w: selective.aurc(ranking.curve(w))}
    boot.bootstrap(statistics, s.examples, resamples=s.resamples)

  return {
    'calibration': timing.timer(lambda: calibration_table(logits, labels)),
    'selective': timing.timer(lambda: selective_table(logits, labels)),
    'bootstrap': timing.timer(resample),
  }


def calibration_table(logits: np.ndarray, labels: np.ndarray) -> None:
  """Every calibration error, and temperature scaling by both objectives."""
  per = calibration.per_example(logits, labels)
  for binning in ('equal_width', 'equal_mass'):
    both = per.confidence, per.correct
    curve = calibration.reliability_curve(*both, binning=binning)
    for norm in ('l1', 'l2', 'max'):
      calibration.calibration_error(curve, norm)
  calibration.classwise_calibration_error(logits, labels)
  for objective in ('nll', 'ece'):
    calibration.temperature_scaling(logits, labels, objective=objective)


def selective_table(logits: np.ndarray, labels: np.ndarray) -> None:
  """Every metric of every score, and the norm chosen on a fifth."""
  errors = selective.errors(logits, labels)
  for confidence in selective.scores(logits).values():
    curve = selective.risk_coverage(confidence, errors)
    for convention in ('paper', 'torch_uncertainty', 'fd_shifts', 'mean'):
      selective.aurc(curve, convention)
    for name in ('augrc', 'e_aurc', 'naurc', 'auroc'):
      getattr(selective, name)(curve)
    for risk in (0.01, 0.02, 0.05, 0.1):
      selective.coverage_at_risk(curve, risk)
    for coverage in (0.5, 0.8, 0.9):
      selective.risk_at_coverage(curve, coverage)
    selective.threshold_for_risk(curve, 0.05)
  held_out = len(labels) // 5
  fit = selective.fit_pnorm(logits[:held_out], labels[:held_out])
  score = fit.score(logits[held_out:])
  selective.aurc(selective.risk_coverage(score, errors[held_out:]))
  selective.max_logit_given_confidence(logits, labels)


def _collapse_timers(s: Any) -> dict[str, Callable[[int], float]]:
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

  def update():
    return within.update(between, features_BD, labels_B, predictions=labels_B)

  return {
    'second pass update': _blocking(update),
    'second pass products': _blocking(lambda: products(features_BD, between)),
  }


def _blocking(function: Callable[[], Any]) -> Callable[[int], float]:
  return timing.timer(lambda: jax.block_until_ready(function()))


def collapse_products(features_BD: jax.Array, between: Any) -> jax.Array:
  """The features in the span of the class means, and from there to each."""
  inside_BR = jnp.matmul(features_BD, between.basis, precision='highest')
  return jnp.matmul(inside_BR, between.coordinates.T, precision='highest')
