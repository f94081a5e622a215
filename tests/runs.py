"""Reads what a run left behind."""

import json
import shutil
from pathlib import Path

import chex

from maxsup_jax.training import loop
from maxsup_jax.training.checkpoints import Checkpoints
from maxsup_jax.training.run import Run
from maxsup_jax.training.workdir import Workdir


def timeless(path: Path) -> list[dict]:
  """The lines of `metrics.jsonl` without what depends on the clock."""
  lines = (path / 'metrics.jsonl').read_text().splitlines()
  return [
    {
      k: v
      for k, v in json.loads(line).items()
      if not k.endswith('seconds') and not k.endswith('_per_second')
    }
    for line in lines
  ]


def last_state(run: Run, path: Path):
  """The state of the newest checkpoint, and the pending window of metrics."""
  checkpoints = Checkpoints(path / 'checkpoints')
  state, extra = checkpoints.restore_latest(run.shapes)
  checkpoints.close()
  return state, extra['window']


def assert_resumes(run: Run, workdir: Workdir, path: Path) -> None:
  """Trains the steps after the first checkpoint again, to the same bits.

  Args:
    run: of a trained work directory with several checkpoints.
    workdir: that directory.
    path: where a copy of it is made.
  """
  shutil.copytree(workdir.path, path)
  first, *later = sorted(
    int(p.name) for p in (path / 'checkpoints').iterdir() if p.name.isdigit()
  )
  assert first
  assert later
  for step in later:
    shutil.rmtree(path / 'checkpoints' / str(step))
  loop.train(run, Workdir(path))
  assert timeless(path) == timeless(workdir.path)
  assert_same_bits(last_state(run, path), last_state(run, workdir.path))


assert_same_bits = chex.assert_trees_all_equal
