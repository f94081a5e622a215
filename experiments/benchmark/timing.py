"""The timer of all suites: things side by side, and what their times say."""

import itertools
import random
import sys
import time
import types
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

# MaxSup may take this much longer than cross-entropy. The paper reports 3:51
# minutes an epoch for both: Zhou et al., NeurIPS 2025, Table 16.
TARGET = 0.01

# With fewer, quartiles say little about the spread.
_ENOUGH_ROUNDS = 5

# So many things have 24 orders, which some rounds can go through.
_FEW = 4


def timer(
  step: Callable[[], Any],
  wait: Callable[[], Any] = lambda: None,
  clock: Callable[[], float] = time.perf_counter,
) -> Callable[[int], float]:
  """Takes a number of steps in a row, and gives the seconds of one.

  Args:
    step: what is timed.
    wait: returns once everything that was started is there.
    clock: in seconds.
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
) -> tuple[list[list[str]], dict[str, list[float]]]:
  """Times several things round by round, in an order that keeps changing.

  Args:
    timers: see `timer`.
    rounds: how many rounds are timed. One more goes before, for clocks and
      caches to settle.
    count: steps in a turn.

  Returns:
    The order of each round, and the seconds of each timer, a number a round.
  """
  for run in timers.values():
    run(count)
  cycle = _orders(list(timers))
  orders, seconds = [], {name: [] for name in timers}
  for i in range(rounds):
    say(f'round {i + 1} of {rounds}')
    orders.append(list(next(cycle)))
    for name in orders[-1]:
      seconds[name].append(timers[name](count))
  return orders, seconds


def _orders(names: Sequence[str]) -> Iterator[Sequence[str]]:
  """Orders in which nothing always runs first, or always after another."""
  if len(names) <= _FEW:
    yield from itertools.cycle(itertools.permutations(names))
  # Of all orders of many, the first ones differ in the last few places only.
  draw = random.Random(0)
  while True:
    yield draw.sample(names, len(names))


def summary(values: Sequence[float]) -> dict[str, Any]:
  """The rounds, their median, quartiles and extremes, interpolated linearly."""
  low, q1, median, q3, high = np.quantile(values, [0, 0.25, 0.5, 0.75, 1])
  return {
    'per_round': list(values),
    'median': float(median),
    'quartile_1': float(q1),
    'quartile_3': float(q3),
    'min': float(low),
    'max': float(high),
  }


def ratios(
  seconds: Sequence[float], baseline: Sequence[float]
) -> dict[str, Any]:
  """How many times as long as the baseline, round by round, summarized.

  The median of the ratios, not the ratio of the medians: what slows a whole
  round down cancels out.
  """
  return summary([a / b for a, b in zip(seconds, baseline, strict=True)])


def verdict(ratio: Mapping[str, Any], target: float = TARGET) -> dict[str, Any]:
  """Whether a ratio exceeds 1 by at most `target`, as far as one can tell.

  Returns:
    `met`, which is None if one cannot tell, `text`, the reason in words, and
    the numbers that decided.
  """
  spread = ratio['quartile_3'] - ratio['quartile_1']
  if len(ratio['per_round']) < _ENOUGH_ROUNDS:
    met, text = None, f'fewer than {_ENOUGH_ROUNDS} rounds cannot tell'
  elif spread > target:
    met = None
    text = (
      f'the quartiles of the ratio are {spread:.2%} apart, more than the '
      'target: this machine cannot tell'
    )
  else:
    met = ratio['median'] <= 1 + target
    text = 'the target is met' if met else 'the target is missed'
  return {
    'ratio_at_most': 1 + target,
    'ratio': ratio['median'],
    'spread': spread,
    'met': met,
    'text': text,
  }


def filled(defaults: Mapping[str, Any], given: Mapping[str, Any]) -> Any:
  """The settings of a suite as attributes: None takes the default."""
  given = {name: value for name, value in given.items() if value is not None}
  return types.SimpleNamespace(**{**defaults, **given})


def say(text: str) -> None:
  """Tells the user how far it got."""
  print(text, file=sys.stderr, flush=True)
