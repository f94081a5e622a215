"""The suite `start`: from the command of a run to its first step."""

import os
import pathlib
import re
import subprocess
import sys
import tempfile
import time
from typing import Any

from experiments.benchmark import timing
from maxsup_jax.errors import UsageError

# One step, as soon as can be.
_ONE_STEP = (
  '--config.schedule.warmup=0 steps',
  '--config.schedule.milestones=()',
  '--config.duration=1 steps',
)
_FIRST_STEP = (
  r'first step after ([\d.]+) s; (\d+) programs compiled, (\d+) read'
)


def measure(
  rounds: int | None, card: str = 'configs/digits.py'
) -> dict[str, Any]:
  """Starts a run with nothing kept, and one that finds its programs kept.

  The runs are processes of their own, which use the devices that this process
  would: call it before JAX has taken them. One round more goes before, for
  files to be in memory.
  """
  rounds = rounds or 5
  found = []
  for i in range(rounds + 1):
    with tempfile.TemporaryDirectory() as directory:
      found.append(_round(card, pathlib.Path(directory)))
    timing.say(f'round {i} of {rounds}')
  help_seconds, *starts = zip(*found[1:])
  results = {'help_seconds': timing.summary(help_seconds)}
  for name, logs in zip(('cold', 'warm'), starts):
    seconds, compiled, read = zip(*logs)
    results[name] = {
      'first_step_seconds': timing.summary(seconds),
      'programs_compiled': list(compiled),
      'programs_read': list(read),
    }
  return {'settings': {'card': card, 'rounds': rounds}, 'results': results}


def _round(card, directory):
  began = time.perf_counter()
  _run(card, '--help', success=1)  # As absl ends after help.
  measured = [time.perf_counter() - began]
  for name in ('cold', 'warm'):
    log = _run(card, f'--workdir={directory / name}', *_ONE_STEP, success=0)
    seconds, compiled, read = re.search(_FIRST_STEP, log).groups()
    measured.append((float(seconds), int(compiled), int(read)))
  return measured


def _run(card, *arguments, success):
  environment = dict(os.environ)
  environment.pop('JAX_COMPILATION_CACHE_DIR', None)
  command = sys.executable, '-m', 'experiments.train', f'--config={card}'
  done = subprocess.run(
    [*command, *arguments], env=environment, capture_output=True, text=True
  )
  if done.returncode != success:
    raise UsageError(f'{card} cannot be run: {done.stderr.strip()[-300:]}')
  return done.stderr
