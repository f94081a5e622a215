"""A run that takes seconds, and what to do with one while it is running."""

import time
from pathlib import Path

from maxsup_jax import tasks
from maxsup_jax.training.workdir import Workdir
from tests.runs import last_state

SMALL = (
  '--config.model.width=4',
  '--config.schedule.warmup=4 steps',
  '--config.batch_size=32',
  '--config.log_every=4 steps',
  '--config.eval_every=20 steps',
  '--config.checkpoint_every=6 steps',
  '--config.keep_checkpoints=20',
)
STEPS = '--config.duration=40 steps'


def wait_for_lines(path: Path, count: int, process) -> None:
  """Until a run has written so many lines of metrics, or has ended."""
  file = path / 'metrics.jsonl'
  while process.poll() is None:
    if file.exists() and file.read_text().count('\n') >= count:
      return
    time.sleep(0.001)


def state_of(path: Path, data_dir: Path):
  """What `last_state` gives for the run of a directory."""
  run = tasks.build(Workdir(path).config(), data_dir=data_dir, training=False)
  return last_state(run, path)
