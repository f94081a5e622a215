"""The timer of all suites: things side by side, and what their times say."""

import itertools
import random
import sys
import time
import types
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np


def timer(
  step: Callable[[], Any],
  wait: Callable[[], Any] = lambda: None,
  clock: Callable[[], float] = time.perf_counter,
) -> Callable[[int], float]:
  """Takes a number of steps in a row, and gives the seconds of one.

  `wait` returns once everything that was started is there.
  """

  def seconds_per_step(count: int) -> float:
    wait()
    start = clock()
    for _ in range(count):
      step()
    wait()
    return (clock() - start) / count

  return seconds_per_step


def time_in_turn(
  timers: Mapping[str, Callable[[int], float]], rounds: int, count: int
) -> dict[str, list[float]]:
  """Times several things round by round, in an order that keeps changing.

  Nothing always runs first, or always after another. One more round goes
  before, for clocks and caches to settle. Gives the seconds of a step of each,
  a number a round.
  """
  draw, names = random.Random(0), list(timers)
  cycle = itertools.cycle(itertools.permutations(names))
  seconds: dict[Any, list[float]] = {name: [] for name in names}
  for run in timers.values():
    run(count)
  for i in range(rounds):
    say(f'round {i + 1} of {rounds}')
    # Four have 24 orders, which some rounds can go through.
    few = len(names) <= 4
    for name in next(cycle) if few else draw.sample(names, len(names)):
      seconds[name].append(timers[name](count))
  return seconds


def summary(values: Sequence[float]) -> dict[str, Any]:
  """The rounds, their median, quartiles and extremes, interpolated linearly."""
  names = 'min', 'quartile_1', 'median', 'quartile_3', 'max'
  found = np.quantile(values, [0, 0.25, 0.5, 0.75, 1]).tolist()
  return {'per_round': list(values), **dict(zip(names, found))}


def ratios(
  seconds: Sequence[float], baseline: Sequence[float]
) -> dict[str, Any]:
  """How many times as long as the baseline, round by round, summarized.

  What slows a whole round down cancels out.
  """
  return summary([a / b for a, b in zip(seconds, baseline, strict=True)])


def filled(defaults: Mapping[str, Any], given: Mapping[str, Any]) -> Any:
  """The settings of a suite as attributes: None takes the default."""
  given = {name: value for name, value in given.items() if value is not None}
  return types.SimpleNamespace(**{**defaults, **given})


def say(text: str) -> None:
  """Tells the user how far it got."""
  print(text, file=sys.stderr, flush=True)
