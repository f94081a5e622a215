"""What follows from the programs of the losses at one shape and their times."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from experiments import _benchmark_costs as costs
from experiments import _benchmark_timing as timing
from experiments._benchmark_losses import Entry

# Reading the logits for the sum of exponentials, reading them again for the
# gradient, and writing it.
LIMIT_PASSES = 3


class Target(NamedTuple):
  """What is asked of a loss, of the times and bytes of the baseline.

  Attributes:
    seconds: the most of its time; None if that is not asked.
    bytes_accessed: likewise of its bytes accessed.
    temporaries: the most temporary memory, in sizes of the logits.
  """

  seconds: float | None
  bytes_accessed: float | None
  temporaries: float


TARGETS = {
  'tpu': Target(None, 1.01, 0.01),
  'gpu': Target(1.10, None, 0.01),
}

KINDS = ('ours', 'composed', 'torch')


def section(
  shape: dict[str, Any],
  device: Any,
  *,
  compiled: Mapping[tuple[str, str], Any],
  values: Mapping[tuple[str, str], float],
  reasons: Mapping[tuple[str, str], str],
  entries: Mapping[str, Entry],
) -> dict[str, Any]:
  """The section of a shape.

  Args:
    shape: what is known of it; `seconds` has those of each program that ran, a
      number a round.
    device: what was compiled for.
    compiled: the programs, by the name of the loss and whose they are.
    values: the mean losses.
    reasons: why a program did not run.
    entries: the rows of the losses, by name.

  Returns:
    The section, with a row for each program.
  """
  shape = dict(shape)
  seconds = shape.pop('seconds', {})
  bandwidth = costs.memory_bandwidth(device.device_kind)
  limit_bytes = LIMIT_PASSES * shape['logits_bytes']
  limit = limit_bytes / bandwidth if bandwidth else None
  first = 'baseline', 'ours'
  baseline_bytes = costs.bytes_accessed(compiled[first])

  def row(name):
    if not any(name in x for x in (compiled, seconds, reasons)):
      return None
    return {
      'reason': reasons.get(name),
      'value': values.get(name),
      **_space(compiled.get(name), shape['logits_bytes'], baseline_bytes),
      **_time(seconds.get(name), seconds.get(first), limit),
    }

  def loss(name):
    rows = {kind: row((name, kind)) for kind in KINDS}
    ours = seconds.get((name, 'ours'))
    for kind in KINDS[1:]:
      other = seconds.get((name, kind))
      both = ours is not None and other is not None
      rows[f'ratio_to_{kind}'] = timing.ratios(ours, other) if both else None
    return {
      'title': entries[name].title,
      **rows,
      'target': (
        verdict(rows['ours'], device.platform)
        if entries[name].targeted
        else None
      ),
    }

  return {
    **shape,
    'limit_bytes': limit_bytes,
    'limit_seconds': limit,
    'baseline': row(first),
    'losses': {name: loss(name) for name in entries},
  }


def verdict(row: Mapping[str, Any], platform: str) -> dict[str, Any] | None:
  """Whether a loss meets the target of the platform, if there is one.

  Args:
    row: of the loss.
    platform: what it was compiled for.

  Returns:
    `met`, which is None if one cannot tell, and `text`, what was in the way.
  """
  target = TARGETS.get(platform)
  if target is None:
    return None
  checks = [
    _at_most('temporaries', row['temporaries_share'], target.temporaries)
  ]
  if target.bytes_accessed is not None:
    checks.append(_at_most('bytes', row['bytes_ratio'], target.bytes_accessed))
  if target.seconds is not None:
    checks.append(_fast_enough(row['ratio_to_baseline'], target.seconds))
  met = [x for x, _ in checks]
  return {
    'met': False if False in met else None if None in met else True,
    'text': '; '.join(text for x, text in checks if x is not True),
  }


def _at_most(what, value, most):
  if value is None:
    return None, f'{what} unknown'
  return value <= most, f'{what} {value:.3f}, at most {most:.3f}'


def _fast_enough(ratio, most):
  if ratio is None:
    return None, 'time unknown'
  told = timing.verdict(ratio, most - 1)
  return told['met'], f'time {told["ratio"]:.2f}: {told["text"]}'


def _space(compiled, logits_bytes, baseline_bytes):
  accessed = memory = None
  if compiled is not None:
    accessed, memory = costs.bytes_accessed(compiled), costs.memory(compiled)
  known = accessed is not None and baseline_bytes is not None
  return {
    'bytes_accessed': accessed,
    'bytes_ratio': accessed / baseline_bytes if known else None,
    'passes': None if accessed is None else accessed / logits_bytes,
    'memory_bytes': memory,
    'temporaries_share': memory and memory['temporaries'] / logits_bytes,
  }


def _time(seconds, baseline, limit):
  if seconds is None:
    return {'seconds': None, 'ratio_to_baseline': None, 'times_limit': None}
  summary = timing.summary(seconds)
  return {
    'seconds': {'per_round': seconds, **summary},
    'ratio_to_baseline': timing.ratios(seconds, baseline),
    'times_limit': summary['median'] / limit if limit else None,
  }
