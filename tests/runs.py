"""Reads what a run left behind."""

import json
from pathlib import Path

import chex

from maxsup_jax.training.checkpoints import Checkpoints
from maxsup_jax.training.run import Run


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


assert_same_bits = chex.assert_trees_all_equal
