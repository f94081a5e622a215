"""Work directories of runs that were never trained: random weights."""

import math

import jax
import numpy as np

from maxsup_jax import tasks
from maxsup_jax.training.checkpoints import Checkpoints
from maxsup_jax.training.config import to_json


def random_tree(shapes, seed=0):
  """Numbers for variables; to initialise them would take seconds to compile."""
  rng = np.random.default_rng(seed)

  def leaf(x):
    if not np.issubdtype(x.dtype, np.floating):
      return np.zeros(x.shape, x.dtype)
    if len(x.shape) > 1:
      fan_in = math.prod(x.shape[:-1])
      return rng.normal(0, 2 * fan_in**-0.5, x.shape).astype(x.dtype)
    return rng.uniform(0.5, 1.5, x.shape).astype(x.dtype)

  return jax.tree.map(leaf, shapes)


def make_run(path, changes, data_dir, steps=(0,), seed=0):
  """Writes a config, and a checkpoint of random weights for each step."""
  path.mkdir(parents=True)
  config = tasks.resolve(changes)
  (path / 'config.json').write_text(to_json(config))
  if steps:
    run = tasks.build(config, data_dir=data_dir, training=False)
    shapes = run.shapes
    with Checkpoints(path / 'checkpoints') as checkpoints:
      for step in steps:
        checkpoints.save(step, random_tree(shapes, seed + step), {})
  return path
