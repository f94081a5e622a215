"""Words and numbers that the reports share."""

import textwrap
from collections.abc import Sequence
from typing import Any

UNKNOWN = 'unknown'


def machine(record: dict[str, Any]) -> list[str]:
  """What a record says of when, how and on what it was taken."""
  hardware = record['hardware']
  return [
    f'{hardware["device_count"]} {hardware["device_kind"]} device(s) of '
    f'{hardware["process_count"]} process(es); host: '
    f'{hardware["host_cpu"] or "unknown processor"}, '
    f'{hardware["host_cpu_count"]} CPUs, load {hardware["host_load"]:.1f} '
    'before the start',
    ', '.join(f'{name} {x}' for name, x in record['versions'].items()),
    f'commit {record["git_commit"] or "unknown"}; {record["time"]}',
  ]


def wrapped(*paragraphs: str) -> list[str]:
  """Lines of at most 80 columns."""
  return [
    line
    for paragraph in paragraphs
    for line in textwrap.wrap(paragraph, 80, subsequent_indent='  ')
  ]


def quartiles(summary: dict[str, float], scale: float, form: str) -> str:
  """The quartiles of `_benchmark_timing.summary`."""
  low, high = scale * summary['quartile_1'], scale * summary['quartile_3']
  return f'{low:{form}}-{high:{form}}'


def prefix(values: Sequence[float | None]) -> tuple[float, str]:
  """The SI prefix that suits the largest of the values."""
  largest = max((v for v in values if v is not None), default=0)
  for scale, letter in ((1e12, 'T'), (1e9, 'G'), (1e6, 'M'), (1e3, 'k')):
    if largest >= scale:
      return scale, letter
  return 1.0, ''


def number(value: float | None, scale: float) -> str:
  """A value in units of a prefix."""
  return UNKNOWN if value is None else f'{value / scale:.2f}'


def with_prefix(value: float, unit: str) -> str:
  """A value with its unit."""
  scale, letter = prefix([value])
  return f'{number(value, scale)} {letter}{unit}'
