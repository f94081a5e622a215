"""What several sections of a report need of a model, computed once."""

import dataclasses
import functools
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from maxsup_jax import errors
from maxsup_jax.errors import UsageError
from maxsup_jax.outputs import Outputs

if TYPE_CHECKING:
  from maxsup_jax.diagnostics import calibration, selective

# What results.json calls a report.
KIND = 'report'
# The sections of a report: each is a module of its name, in their order.
SECTIONS = (
  *('summary', 'calibration', 'selective', 'sets', 'classes'),
  *('logits', 'representation', 'projection', 'information', 'ood'),
)
RISK = 0.05
COVERAGE = 0.8
# What is more is a slip: it would fill the memory, and take days.
MOST_BINS, MOST_RESAMPLES = 10_000, 1_000_000
# By simulation, tests/reports/test_intervals.py.
ENOUGH_GROUPS = 50
# The held-out examples that a temperature is fitted to.
MOST_FITTED = 5_000


@dataclasses.dataclass(frozen=True)
class Options:
  """How to measure.

  Attributes:
    held_out: the share of the examples on which temperatures, norms and
      thresholds are chosen.
    seeds: of the splits into held-out and other examples; the first one also
      seeds the bootstrap.
    resamples: of the bootstrap; 0 for no intervals.
    level: of the intervals.
    bins: of the reliability diagrams and calibration errors.
    classes: the three classes of the projections.
    full_curves: whether the CSV file of risk-coverage curves has every point,
      and not only what a figure can show.
  """

  held_out: float = 0.2
  seeds: tuple[int, ...] = (0, 1, 2, 3, 4)
  resamples: int = 1000
  level: float = 0.95
  bins: int = 15
  classes: tuple[int, int, int] = (0, 1, 2)
  full_curves: bool = False

  def __post_init__(self) -> None:
    errors.number('held_out', self.held_out, above=0, below=1)
    errors.number('level', self.level, above=0, below=1)
    errors.integer('bins', self.bins, low=1, high=MOST_BINS)
    errors.integer('resamples', self.resamples, high=MOST_RESAMPLES)
    seeds, classes, resamples = self.seeds, self.classes, self.resamples
    # With fewer, a percentile interval is no more than its extremes.
    enough = math.ceil(round(2 / max(1 - self.level, 1e-9), 6))
    distinct = seeds and min(seeds) >= 0 and len(set(seeds)) == len(seeds)
    for ok, text in (
      (distinct, f'seeds are {seeds}; expected different numbers from 0 on'),
      (
        resamples == 0 or resamples >= enough,
        f'resamples is {resamples}; expected 0, or at least {enough} for '
        f'intervals of level {self.level}',
      ),
      (
        len(set(classes)) == 3 == len(classes),
        f'classes are {classes}; expected three different ones',
      ),
    ):
      if not ok:
        raise UsageError(text)


def check_sections(names: Sequence[str]) -> None:
  """Refuses unknown sections."""
  for name in names:
    if name not in SECTIONS:
      raise errors.unknown(f'section {name!r}', name, SECTIONS)


@dataclasses.dataclass(frozen=True)
class Measured:
  """A model with what was computed from it, of a split and the training one.

  `ood` are its outputs for examples that are of no class; their labels say
  nothing.
  """

  outputs: Outputs
  train: Outputs | None = None
  ood: Outputs | None = None

  @property
  def name(self) -> str:
    """What the report calls it."""
    return self.outputs.name

  @functools.cached_property
  def examples(self) -> 'calibration.PerExample':
    """Confidence, correctness, NLL and Brier score of every example."""
    from maxsup_jax.diagnostics import calibration

    return calibration.per_example(self.outputs.logits, self.outputs.labels)

  @functools.cached_property
  def errors(self) -> np.ndarray:
    """True where the prediction is wrong, `[N]`."""
    return ~self.examples.correct

  @functools.cached_property
  def scores(self) -> dict[str, np.ndarray]:
    """Every confidence score, `[N]` each."""
    from maxsup_jax.diagnostics import selective

    return selective.scores(self.outputs.logits, tuple(selective.SCORES))

  def ranking(self, score: str = 'msp') -> 'selective.Ranking':
    """The examples ordered by a score."""
    from maxsup_jax.diagnostics import selective

    if score not in self._rankings:
      self._rankings[score] = selective.Ranking(self.scores[score], self.errors)
    return self._rankings[score]

  def temperature(
    self, fit: np.ndarray, seed: int, objective: str, bins: int
  ) -> 'calibration.TemperatureFit':
    """The temperature of the held-out examples `fit` of a seed's split.

    It is fitted to at most `MOST_FITTED` of them.
    """
    from maxsup_jax.diagnostics import calibration

    key = seed, len(fit), objective, bins
    # One number needs no more; spread evenly, as labels may be in order.
    fit = fit[:: -(-len(fit) // MOST_FITTED)]
    if key not in self._temperatures:
      self._temperatures[key] = calibration.fit_temperature(
        self.outputs.logits[fit],
        self.outputs.labels[fit],
        objective=objective,
        bins=bins,
      )
    return self._temperatures[key]

  @functools.cached_property
  def _temperatures(self) -> 'dict[tuple, calibration.TemperatureFit]':
    return {}

  @functools.cached_property
  def _rankings(self) -> 'dict[str, selective.Ranking]':
    return {}


def methods(models: Sequence[Measured]) -> dict[str, list[Measured]]:
  """The models of each method, which has one colour and one column.

  A model whose metadata name no `group` is a method by itself.
  """
  found: dict[str, list[Measured]] = {}
  for m in models:
    found.setdefault(m.outputs.method or m.name, []).append(m)
  return found


def pairs(
  a: Sequence[Measured], b: Sequence[Measured]
) -> list[tuple[Measured, Measured]]:
  """The models of two methods in pairs: of equal seeds, or in their order.

  Any order that does not look at results pairs honestly; equal seeds, which
  may share initial weights and batches, leave less to chance.
  """
  if not same_seeds(a, b):
    return list(zip(a, b))
  of = {m.outputs.metadata['seed']: m for m in b}
  return [(m, of[m.outputs.metadata['seed']]) for m in a]


def same_seeds(a: Sequence[Measured], b: Sequence[Measured]) -> bool:
  """Whether the files tell the seeds, and they are the same."""
  seeds = [[m.outputs.metadata.get('seed') for m in ms] for ms in (a, b)]
  known = all(isinstance(s, int) for of in seeds for s in of)
  return (
    known
    and len(set(seeds[0])) == len(a)
    and set(seeds[0]) == set(seeds[1])
    and len(a) == len(b)
  )


def clopper_pearson(
  right: np.ndarray, count: np.ndarray, level: float
) -> np.ndarray:
  """The exact ends of a share of each of several counts, `[2, ...]`; or NaN."""
  from scipy import special

  tail = (1 - level) / 2
  low = special.betaincinv(right, count - right + 1, tail)
  high = special.betaincinv(right + 1, count - right, 1 - tail)
  ends = np.where(right == 0, 0, low), np.where(right == count, 1, high)
  return np.where(count > 0, ends, np.nan)


def held_out(outputs: Outputs, options: Options) -> str:
  """How many examples, or groups of them, are held out, in words."""
  n, what = outputs.num_examples, 'examples'
  if outputs.groups is not None:
    n, what = len(np.unique(outputs.groups)), 'groups of examples'
  return f'{_held_out(n, options):,} of {n:,} {what}'


def over_splits(options: Options) -> str:
  """Describes a number over all splits, in words."""
  if len(options.seeds) == 1:
    return 'one random split'
  return f'median and range over {len(options.seeds)} random splits'


def _held_out(n: int, options: Options) -> int:
  return min(max(1, round(options.held_out * n)), n - 1)


def splits(
  n: int, options: Options, groups: np.ndarray | None = None
) -> list[tuple[np.ndarray, np.ndarray]]:
  """Splits n examples, once for each seed, into held-out and other ones.

  Examples of one group are never in both.
  """
  members = np.arange(n)
  if groups is not None:
    there, members = np.unique(groups, return_inverse=True)
    n = len(there)
  count, parts = _held_out(n, options), []
  for seed in options.seeds:
    chosen = np.zeros(n, bool)
    chosen[np.random.default_rng(seed).permutation(n)[:count]] = True
    fit = chosen[members]
    parts.append((np.flatnonzero(fit), np.flatnonzero(~fit)))
  return parts


def describe(models: list[Measured], *, train: bool = False) -> str:
  """The data in one line, for captions; the training split, too, if asked."""
  outputs = [m.outputs for m in models]
  text = _data(outputs)
  trained = [m.train for m in models if m.train is not None]
  if train and trained:
    text += f'; training split: {_data(trained)}'
  return f'{text}, {outputs[0].num_classes:,} classes'


def _data(outputs: list[Outputs]) -> str:
  sets = dict.fromkeys(
    ', '.join(
      str(o.metadata[k]) for k in ('dataset', 'split') if o.metadata.get(k)
    )
    for o in outputs
  )
  named = '; '.join(filter(None, sets))
  counts = ' / '.join(dict.fromkeys(f'{o.num_examples:,}' for o in outputs))
  if outputs[0].groups is not None:
    counts += f' examples in {len(np.unique(outputs[0].groups)):,} groups'
  else:
    counts += ' examples'
  return f'{named + ": " if named else ""}{counts}'
