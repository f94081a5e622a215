"""Times the measurements of `maxsup_jax.diagnostics` side by side."""

import dataclasses
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments import _benchmark_timing
from experiments._benchmark_text import machine, quartiles, wrapped
from experiments._cli import UsageError
from maxsup_jax.diagnostics import (
  _blocks,
  bootstrap,
  calibration,
  neural_collapse,
  selective,
)

# What the parts of a report on ImageNet's validation set may take, in seconds
# on two cores, and how many times as long as their matrix products the
# accumulators of neural collapse.
TABLE_TARGET = 10.0
BOOTSTRAP_TARGET = 30.0
COLLAPSE_TARGET = 2.0


@dataclasses.dataclass(frozen=True)
class Settings:
  """What is measured.

  Attributes:
    examples: N, of the table and the bootstrap.
    classes: K.
    features: D, of neural collapse.
    batch_size: rows in an update of neural collapse.
    resamples: of the bootstrap.
    rounds: how often all take turns.
  """

  examples: int
  classes: int
  features: int
  batch_size: int
  resamples: int
  rounds: int


def choose_settings(
  *,
  shapes: Sequence[str] | None,
  features: int | None,
  batch_size: int | None,
  resamples: int | None,
  rounds: int | None,
) -> Settings:
  """The settings of the flags; None takes the default.

  Raises:
    UsageError: for a shape that cannot be read.
  """
  try:
    ((examples, classes),) = (
      [int(part) for part in shape.split('x')]
      for shape in shapes or ['50000x1000']
    )
  except ValueError:
    raise UsageError(
      f'--shapes={",".join(shapes)}: expected one, EXAMPLESxCLASSES'
    ) from None
  if examples < 10 or classes < 3:
    raise UsageError(f'--shapes={examples}x{classes}: expected at least 10x3')
  return Settings(
    examples=examples,
    classes=classes,
    features=features or 2048,
    batch_size=batch_size or 4096,
    resamples=resamples or 1000,
    rounds=rounds or 5,
  )


def measure(settings: Settings) -> dict[str, Any]:
  """Measures everything, in turns.

  Returns:
    `settings` and `results`: of each thing the seconds of every round; and the
    ratios of neural collapse to its matrix products.
  """
  timers = {**_host_timers(settings), **_collapse_timers(settings)}

  def say(text):
    print(f'\r{text} ', end='', file=sys.stderr, flush=True)

  orders, seconds = _benchmark_timing.time_in_turn(
    timers, settings.rounds, 1, say
  )
  print('\r', end='', file=sys.stderr)
  ratios = {
    f'{p} update': _benchmark_timing.ratios(
      seconds[f'{p} update'], seconds[f'{p} products']
    )
    for p in ('first pass', 'second pass')
    if f'{p} products' in seconds
  }
  return {
    'settings': dataclasses.asdict(settings),
    'results': {
      'orders': orders,
      'seconds': {
        name: {'per_round': s, **_benchmark_timing.summary(s)}
        for name, s in seconds.items()
      },
      'ratios': ratios,
    },
  }


def _data(settings: Settings) -> tuple[np.ndarray, np.ndarray]:
  """Logits of a classifier that is right about three times in four."""
  rng = np.random.default_rng(0)
  labels = rng.integers(0, settings.classes, settings.examples)
  logits = rng.standard_normal(
    (settings.examples, settings.classes), dtype=np.float32
  )
  logits[np.arange(len(labels)), labels] += 4
  return logits, labels


def _timer(function: Callable[[], Any]) -> Callable[[int], float]:
  def run(count):
    began = time.perf_counter()
    for _ in range(count):
      function()
    return (time.perf_counter() - began) / count

  return run


def _host_timers(settings: Settings) -> dict[str, Callable[[int], float]]:
  logits, labels = _data(settings)
  errors = selective.errors(logits, labels)
  ranking = selective.Ranking(selective.scores(logits)['msp'], errors)

  def resample():
    bootstrap.bootstrap(
      {'aurc': lambda w: selective.aurc(ranking.curve(w))},
      settings.examples,
      resamples=settings.resamples,
    )

  # What no measurement of probabilities can do without.
  def exponentials():
    _blocks.map_rows(lambda v: np.exp(v).sum(1), logits)

  return {
    'exponentials': _timer(exponentials),
    'calibration': _timer(lambda: calibration_table(logits, labels)),
    'selective': _timer(lambda: selective_table(logits, labels)),
    'bootstrap': _timer(resample),
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


def _collapse_timers(settings: Settings) -> dict[str, Callable[[int], float]]:
  """Updates of the accumulators, and the matrix products within them."""
  B, K, D = settings.batch_size, settings.classes, settings.features
  keys = jax.random.split(jax.random.key(0), 2)
  features_BD = jax.random.normal(keys[0], (B, D), jnp.float32)
  labels_B = jax.random.permutation(keys[1], jnp.arange(B) % K)
  if B < K:
    raise UsageError(f'--batch_size={B}: expected at least {K}, the classes')
  means = neural_collapse.ClassMeans.init(K, D)
  between = means.update(features_BD, labels_B).compute()
  # As they are on an accelerator, whose numbers are float32.
  between = jax.tree.map(jnp.asarray, between)
  within = neural_collapse.WithinClass.init(K)

  @jax.jit
  def products(features_BD, between):
    # The features in the span of the class means, and from there to each one.
    inside_BR = jnp.matmul(features_BD, between.basis, precision='highest')
    return jnp.matmul(inside_BR, between.coordinates.T, precision='highest')

  def blocking(function):
    return _timer(lambda: jax.block_until_ready(function()))

  return {
    'first pass update': blocking(lambda: means.update(features_BD, labels_B)),
    'second pass update': blocking(
      lambda: within.update(
        between, features_BD, labels_B, predictions=labels_B
      )
    ),
    'second pass products': blocking(lambda: products(features_BD, between)),
  }


def describe(record: dict[str, Any]) -> str:
  """The record as text."""
  s, results = record['settings'], record['results']
  seconds = results['seconds']
  N, K, D = s['examples'], s['classes'], s['features']
  unit = seconds['exponentials']['median']
  lines = [
    *machine(record),
    '',
    f'{"":<34}{"seconds":>9}{"quartiles":>16}{"x exp":>8}',
  ]

  def row(title, name):
    t = seconds[name]
    lines.append(
      f'{title:<34}{t["median"]:>9.3f}{quartiles(t, 1, ".3f"):>16}'
      f'{t["median"] / unit:>8.1f}'
    )

  row(f'exp of {N:,} x {K:,} logits', 'exponentials')
  row('calibration table', 'calibration')
  row('selective table', 'selective')
  row(f'{s["resamples"]:,} resamples of AURC', 'bootstrap')
  rows = f'{s["batch_size"]:,} x {D:,}'
  row(f'class means, {rows}', 'first pass update')
  row(f'spread within classes, {rows}', 'second pass update')
  row('its matrix products', 'second pass products')
  both = seconds['calibration']['median'] + seconds['selective']['median']
  ratio = results['ratios']['second pass update']
  return '\n'.join(
    [
      *lines,
      '',
      *wrapped(
        f'Both tables: {both:.2f} s; target {TABLE_TARGET:g} s on two cores '
        'at 50,000 x 1,000: every calibration error, temperature scaling by '
        'both objectives, every metric of every score, the norm, the top '
        'logit at equal confidence.',
        f'Bootstrap: {seconds["bootstrap"]["median"]:.1f} s; target '
        f'{BOOTSTRAP_TARGET:g} s for 1,000 at 50,000.',
        f'Neural collapse, second pass: {ratio["median"]:.2f} times its matrix '
        f'products (quartiles {quartiles(ratio, 1, ".2f")}); target '
        f'{COLLAPSE_TARGET:g}. The first pass has none: it adds features up.',
      ),
    ]
  )
