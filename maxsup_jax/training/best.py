"""The best checkpoint of a run, by a metric of its evaluations."""

import math
from collections.abc import Collection, Iterable, Mapping
from typing import Any

from maxsup_jax import errors
from maxsup_jax.errors import UsageError


def parse_best(
  text: str, metrics: Collection[str] | None = None
) -> tuple[bool, str]:
  """Reads a rule such as 'max accuracy'.

  Args:
    text: 'max' or 'min', and the name of a metric.
    metrics: the names that there are; None for any.

  Returns:
    Whether more is better, and the name.

  Examples:
    >>> parse_best('min nll')
    (False, 'nll')
  """
  words = text.split()
  if len(words) != 2 or words[0] not in ('max', 'min'):
    raise UsageError(
      f"config.keep_best is {text!r}; expected 'max' or 'min' and a metric, "
      "such as 'max accuracy'"
    )
  if metrics is not None:
    errors.one_of('config.keep_best: the metric', words[1], metrics)
  return words[0] == 'max', words[1]


def best_step(
  rule: str | None,
  records: Iterable[Mapping[str, Any]],
  steps: Collection[int] | None = None,
) -> int | None:
  """The step of the best evaluation during training, the first of several.

  Of a run that averages its weights, the evaluations of these count.

  Args:
    rule: see `parse_best`; None for no step.
    records: the lines of `metrics.jsonl`.
    steps: those that have a checkpoint; None for any.

  Examples:
    >>> lines = [
    ...   {'kind': 'eval', 'step': s, 'weights': 'raw', 'nll': v}
    ...   for s, v in ((10, 0.5), (20, 0.4), (30, 0.4))
    ... ]
    >>> best_step('min nll', lines)
    20
  """
  if rule is None:
    return None
  largest, name = parse_best(rule)
  evaluations = [r for r in records if r['kind'] == 'eval' and name in r]
  kinds = {r['weights'] for r in evaluations}
  wanted = 'ema' if 'ema' in kinds else 'raw'
  found: tuple[float, int] | None = None
  for record in evaluations:
    value, step = record[name], record['step']
    if record['weights'] != wanted or value is None or math.isnan(value):
      continue
    value = value if largest else -value
    if (steps is None or step in steps) and (not found or value > found[0]):
      found = value, step
  return found and found[1]
