"""What a study will take, from a few steps of each kind of run."""

import statistics
import time
from collections.abc import Sequence
from pathlib import Path

import jax

from maxsup_jax import tasks
from maxsup_jax.studies.study import Run, Study
from maxsup_jax.tasks import extraction

# Steps that are timed, after the first one, which compiles.
_STEPS = 5
# Diagnostics, evaluation and measures read splits without a gradient.
_FORWARD_SHARE = 1 / 3


def estimate(
  study: Study,
  runs: Sequence[Run],
  workdir: Path,
  *,
  jobs: int = 1,
  data_dir: str | None = None,
) -> str:
  """Says what runs will take: how many, how long, and how much of the disk.

  One run of each variant is built and takes a few steps; nothing is written.
  Evaluations and diagnostics are reckoned at a third of a training step for
  each example. A variant whose teacher is not trained yet is reckoned as the
  slowest of the others. Beam search is not reckoned. It is an estimate: a
  machine that is busy now will be faster, and what jobs share they do not have
  twice.

  Args:
    study: whose runs they are.
    runs: those that are left.
    workdir: of the study.
    jobs: how many will run at a time.
    data_dir: where datasets are prepared.

  Returns:
    A few lines of text.
  """
  seconds: dict[str, float] = {}
  disk: dict[str, float] = {}
  for variant in dict.fromkeys(run.variant for run in runs):
    if study.teacher(variant) is None:
      run = Run(variant, study.seeds[0])
      seconds[variant], disk[variant] = _measure(study, run, workdir, data_dir)
  total = sum(seconds.get(r.variant, max(seconds.values())) for r in runs)
  space = sum(disk.get(r.variant, max(disk.values())) for r in runs)
  lines = [
    f'{len(runs)} of {len(study.runs())} runs are left; about '
    f'{_hours(total / jobs)} with --jobs={jobs}, {space / 2**20:,.0f} MiB'
  ]
  width = max(map(len, seconds), default=0)
  lines += [
    f'  {variant:{width}}  {_hours(s)} a run' for variant, s in seconds.items()
  ]
  return '\n'.join(lines)


def _measure(
  study: Study, run: Run, workdir: Path, data_dir: str | None
) -> tuple[float, float]:
  """Seconds of a run, and the bytes of its checkpoints and outputs."""
  built = tasks.build(study.config(run, workdir), data_dir=data_dir)
  began = time.perf_counter()
  devices, task = built.devices, built.task
  state = devices.replicate(built.init_state())
  step = devices.map(built.train_step(), donate=True)
  times = []
  batches = devices.stream(task.train_batches(0))
  for _ in range(_STEPS + 1):
    started = time.perf_counter()
    state, sums = step(state, next(batches))
    jax.block_until_ready(sums)
    times.append(time.perf_counter() - started)
  starting = time.perf_counter() - began - sum(times[1:])
  each = statistics.median(times[1:])
  config, total = built.config, built.total_steps
  outputs = 0
  if config.task == 'translation':
    # Of tokens, which batches are full of; nothing is extracted.
    train, test = task.train_examples, len(task.evaluation.data.target.ids)
  else:
    train, test = len(task.train_source), len(task.eval_source)
  if config.task == 'classification':
    features, classes = built.shapes.params['head']['kernel'].shape
    outputs = 4 * (train + test) * (features + classes + 1)
  if config.task == 'segmentation':
    # Logits, a label and the number of the image.
    outputs = 4 * test * extraction.PIXELS * (task.num_classes + 3)
  looked_at = test * (total / built.eval_every + 1) + train
  if built.diagnostics_every is not None:
    # Two passes over both splits.
    looked_at += 2 * (train + test) * total / built.diagnostics_every
  forward = _FORWARD_SHARE * each * looked_at / config.batch_size
  saved = sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(built.shapes))
  kept = min(config.keep_checkpoints, -(-total // built.checkpoint_every))
  # Programs of the measures compile as long as that of the step does.
  return 2 * starting + total * each + forward, kept * saved + outputs


def _hours(seconds: float) -> str:
  if seconds < 90:
    return f'{seconds:.0f} s'
  if seconds < 5400:
    return f'{seconds / 60:.0f} min'
  return f'{seconds / 3600:.1f} h'
