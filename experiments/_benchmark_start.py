"""How long a run takes from its command to its first step."""

import os
import pathlib
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from typing import Any

from experiments import _benchmark_text as text
from experiments._cli import UsageError

DEFAULT_CARD = 'configs/digits.py'
DEFAULT_ROUNDS = 5

# `--help` is to answer within so many seconds.
HELP_TARGET = 2.0

# One step, as soon as can be.
_ONE_STEP = (
  '--config.schedule.warmup=0 steps',
  '--config.schedule.milestones=()',
  '--config.duration=1 steps',
)
_FIRST_STEP = re.compile(
  r'first step after ([\d.]+) s; (\d+) programs compiled, (\d+) read'
)


# What `start_runs` has found.
_found: dict[str, Any] = {}


def choose_settings(*, card: str | None, rounds: int | None) -> dict[str, Any]:
  """The settings of the flags; None takes the default."""
  return {'card': card or DEFAULT_CARD, 'rounds': rounds or DEFAULT_ROUNDS}


def measure(settings: dict[str, Any]) -> dict[str, Any]:
  """The sections `settings` and `results`, of what `start_runs` has found."""
  return {'settings': settings, 'results': dict(_found)}


def start_runs(*, card: str | None, rounds: int | None) -> None:
  """Starts a run with nothing kept, and one that finds its programs kept.

  The runs are processes of their own, in a temporary directory, one after the
  other. They use the devices that this process would: call it before JAX has
  taken them, and `measure` afterwards.

  Args:
    card: the run card, with its arguments; None for the default.
    rounds: how often; one more goes before, for files to be in memory.

  Raises:
    UsageError: if a run fails; with its last line.
  """
  settings = choose_settings(card=card, rounds=rounds)
  rounds = settings['rounds']
  found = {'help': [], 'cold': [], 'warm': []}
  for i in range(rounds + 1):
    with tempfile.TemporaryDirectory() as directory:
      measured = _round(settings['card'], pathlib.Path(directory))
    if i:
      for name, value in measured.items():
        found[name].append(value)
      print(f'round {i} of {rounds}', file=sys.stderr, flush=True)
  _found['help_seconds'] = summarized(found['help'])
  for name in ('cold', 'warm'):
    seconds, compiled, read = zip(*found[name])
    _found[name] = {
      'first_step_seconds': summarized(seconds),
      'programs_compiled': list(compiled),
      'programs_read': list(read),
    }


def summarized(values: Sequence[float]) -> dict[str, Any]:
  """The values with their summary."""
  from experiments import _benchmark_timing

  return {'per_round': list(values), **_benchmark_timing.summary(values)}


def describe(record: dict[str, Any]) -> str:
  """The record as text, of at most 80 columns."""
  settings, results = record['settings'], record['results']

  def row(title, summary, programs):
    return (
      f'{title:<38}{summary["median"]:>8.2f}'
      f'{text.quartiles(summary, 1, ".2f"):>16}{programs:>18}'
    )

  def programs(name):
    compiled = max(results[name]['programs_compiled'])
    return f'{compiled}, {max(results[name]["programs_read"])}'

  help_seconds = results['help_seconds']
  return '\n'.join(
    [
      *text.wrapped(
        f'{settings["card"]}, {settings["rounds"]} rounds',
        *text.machine(record),
      ),
      '',
      f'{"seconds":<38}{"median":>8}{"quartiles":>16}{"compiled, read":>18}',
      row('train --help', help_seconds, ''),
      row(
        'first step, nothing kept',
        results['cold']['first_step_seconds'],
        programs('cold'),
      ),
      row(
        'first step, programs kept',
        results['warm']['first_step_seconds'],
        programs('warm'),
      ),
      '',
      *text.wrapped(
        f'Target: --help within {HELP_TARGET:.0f} s: '
        + ('met' if help_seconds['max'] <= HELP_TARGET else 'missed')
        + '; no program compiled where they are kept: '
        + ('met' if not any(results['warm']['programs_compiled']) else 'missed')
      ),
    ]
  )


def _round(card: str, directory: pathlib.Path) -> dict[str, Any]:
  began = time.perf_counter()
  _run(card, '--help', success=1)  # As absl ends after help.
  measured = {'help': time.perf_counter() - began}
  for name in ('cold', 'warm'):
    log = _run(card, f'--workdir={directory / name}', *_ONE_STEP, success=0)
    seconds, compiled, read = _FIRST_STEP.search(log).groups()
    measured[name] = float(seconds), int(compiled), int(read)
  return measured


def _run(card: str, *arguments: str, success: int) -> str:
  environment = dict(os.environ)
  environment.pop('JAX_COMPILATION_CACHE_DIR', None)
  done = subprocess.run(
    [
      *(sys.executable, '-m', 'experiments.train', f'--config={card}'),
      *arguments,
    ],
    env=environment,
    capture_output=True,
    text=True,
    check=False,
  )
  if done.returncode != success:
    last = (done.stderr.strip().splitlines() or ['nothing was said'])[-1]
    raise UsageError(f'--card={card} cannot be run: {last}')
  return done.stderr
