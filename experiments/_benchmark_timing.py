"""Timing several things side by side, and what their times say."""

import itertools
import random
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


def time_in_turn(
  timers: Mapping[str, Callable[[int], float]],
  rounds: int,
  count: int,
  say: Callable[[str], None] = lambda text: None,
) -> tuple[list[list[str]], dict[str, list[float]]]:
  """Times several things round by round, in an order that keeps changing.

  Args:
    timers: each takes a number of steps and returns the seconds of one.
    rounds: how many rounds are timed. One more goes before, for clocks and
      caches to settle.
    count: steps in a turn.
    say: is told how far it got.

  Returns:
    The order of each round, and the seconds of each timer, a number a round.
  """
  for timer in timers.values():
    timer(count)
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


def summary(values: Sequence[float]) -> dict[str, float]:
  """Median, quartiles and extremes; the quartiles interpolate linearly."""
  low, q1, median, q3, high = np.quantile(values, [0, 0.25, 0.5, 0.75, 1])
  return {
    'median': float(median),
    'quartile_1': float(q1),
    'quartile_3': float(q3),
    'min': float(low),
    'max': float(high),
  }


def ratios(
  seconds: Sequence[float], baseline: Sequence[float]
) -> dict[str, Any]:
  """How many times as long as the baseline, round by round.

  The median of the ratios, not the ratio of the medians: what slows a whole
  round down cancels out.

  Args:
    seconds: one number for each round.
    baseline: the same rounds of what is compared with.

  Returns:
    The ratios of the rounds, and their summary.
  """
  per_round = [a / b for a, b in zip(seconds, baseline, strict=True)]
  return {'per_round': per_round, **summary(per_round)}


def verdict(ratio: Mapping[str, Any], target: float = TARGET) -> dict[str, Any]:
  """Whether a ratio meets the target, as far as its spread lets one tell.

  Args:
    ratio: see `ratios`.
    target: the most by which the ratio may exceed 1.

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
      f'the spread of the ratio, {spread:.2%} between the quartiles, is '
      'larger than the target: this machine cannot tell'
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
