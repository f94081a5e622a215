"""Trained networks, evaluated on the corrupted test sets of tfds."""

import dataclasses
import os
import pathlib
import sys
import zlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
from tqdm import tqdm

from experiments._corruption_data import (
  CLEAN,
  Benchmark,
  default_transform,
  open_corrupted,
)
from maxsup_jax import data
from maxsup_jax.errors import UsageError
from maxsup_jax.training import setup
from maxsup_jax.training.checkpoints import SEAL, Checkpoints
from maxsup_jax.training.config import SPEED_FIELDS, fields
from maxsup_jax.training.evaluation import evaluate
from maxsup_jax.training.workdir import Workdir, finite


@dataclasses.dataclass(frozen=True)
class Trained:
  """A run with the weights of one of its checkpoints.

  Attributes:
    name: what the results call it.
    run: what `setup.build` makes of its configuration.
    state: the state of the checkpoint, on the host.
    weights: 'raw' or 'ema'.
    transform: what is done to corrupted images, as config.dataset's fields
      write it; None for the run's own `eval_transform`.
    identity: what tells its results from those of other weights.
  """

  name: str
  run: setup.Run
  state: Any
  weights: str
  transform: str | None
  identity: dict[str, Any]


def restore(
  workdir: str,
  *,
  name: str,
  benchmark: Benchmark,
  first: tuple[str, int],
  data_dir: str | None,
  step: int | None,
  weights: str,
  transform: str | None,
) -> Trained:
  """Reads a run and one of its checkpoints, and checks it against the data.

  Args:
    workdir: of the run.
    name: what the results call it.
    benchmark: what it will be evaluated on.
    first: a corruption and a severity of it, to look at.
    data_dir: see `open_source`.
    step: which checkpoint; None for the newest.
    weights: 'raw' or 'ema'.
    transform: of corrupted images; None for that of the run, see
      `default_transform`.

  Raises:
    UsageError: one line, if the run cannot be evaluated on such images.
  """
  directory = Workdir(workdir, writes=False)
  config = directory.config()
  if weights == 'ema' and config.ema_decay is None:
    raise UsageError(
      f'--weights=ema: the run in {directory.path} keeps no averaged weights '
      '(its config.ema_decay is None)'
    )
  checkpoints = Checkpoints(directory.checkpoints)
  try:
    steps = checkpoints.steps()
    if not steps:
      raise UsageError(f'no checkpoint in {directory.checkpoints}')
    step = steps[-1] if step is None else step
    run = setup.build(config, data_dir=data_dir, training=False)
    transform = _checked_transform(run, benchmark, first, data_dir, transform)
    state, _ = checkpoints.restore(step, jax.eval_shape(run.init_state))
  finally:
    checkpoints.close()
  seal = (directory.checkpoints / str(step) / SEAL).read_bytes()
  own = config.dataset.eval_transform
  identity = {
    'step': step,
    'weights': weights,
    'dataset': benchmark.name,
    'transform': own if transform is None else transform,
    'checkpoint': f'{zlib.crc32(seal):08x}',
    'config': {
      n: v for n, v in fields(config).items() if n not in SPEED_FIELDS
    },
  }
  return Trained(name, run, state, weights, transform, identity)


def _checked_transform(run, benchmark, first, data_dir, transform):
  """What is done to corrupted images; refuses what the model cannot take."""
  source = open_corrupted(
    benchmark, *first, dataset=run.config.dataset, data_dir=data_dir
  )
  clean = run.eval_source
  if source.num_classes != clean.num_classes:
    raise UsageError(
      f'{source.name} has {source.num_classes} classes; the run was trained on '
      f'{run.train_source.name}, which has {clean.num_classes}'
    )
  names = [s.label_names for s in (source, clean)]
  # Where a dataset has no names, tfds calls the classes 0, 1, ...
  named = [n is not None and not all(map(str.isdigit, n)) for n in names]
  if all(named) and names[0] != names[1]:
    raise UsageError(
      f'the classes of {source.name} are not those of {clean.name}, or have '
      'another order'
    )
  if transform is None:
    transform = default_transform(
      run.config.dataset.eval_transform,
      clean=clean.image_shape,
      corrupted=source.image_shape,
      seen=run.eval_shape,
    )
  batches = _batches(run, source, transform)
  shape = next(batches)['image'].shape[1:]
  batches.close()
  if tuple(shape) != run.eval_shape:
    raise UsageError(
      f'the images of {source.name} are {list(shape)} in the end, the model '
      f'sees {list(run.eval_shape)}: see --transform'
    )
  return transform


def _batches(
  run: setup.Run, source: data.Source, transform: str | None
) -> Iterator[data.Batch]:
  if transform is None:
    return run.eval_batches(source)
  dataset = run.config.dataset
  try:
    parsed = data.parse_transform(transform, mean=dataset.mean, std=dataset.std)
  except UsageError as error:
    raise UsageError(f'--transform={transform}: {error}') from error
  if parsed.random:
    raise UsageError(
      f'--transform={transform} is random; evaluation must not be'
    )
  return run.eval_batches(source, transform=parsed)


# ---- Evaluation --------------------------------------------------------------


def evaluate_all(
  trained: Trained,
  benchmark: Benchmark,
  wanted: Sequence[tuple[str, int]],
  data_dir: str | None,
  progress: tqdm,
  keep: Callable[[dict[str, Any]], None],
) -> None:
  """Evaluates a run on many datasets, with a single compiled step.

  Args:
    trained: the run.
    benchmark: the corrupted dataset.
    wanted: corruption and severity of each; `(CLEAN, 0)` for the run's own
      evaluation split.
    data_dir: see `open_source`.
    progress: counts images.
    keep: gets the record of each dataset as soon as it is there.
  """
  if not wanted:
    return
  run = trained.run
  state = run.devices.replicate(trained.state)
  eval_step = run.devices.map(run.eval_step())
  for corruption, severity in wanted:
    progress.set_postfix_str(f'{corruption} {severity or ""}'.strip())
    if corruption == CLEAN:
      batches = run.eval_batches()
    else:
      source = open_corrupted(
        benchmark,
        corruption,
        severity,
        dataset=run.config.dataset,
        data_dir=data_dir,
      )
      batches = _batches(run, source, trained.transform)
    means = evaluate(
      eval_step,
      state,
      _counted(batches, progress),
      run.devices,
      ema=trained.weights == 'ema',
    )
    keep(
      finite(
        {
          'kind': 'eval',
          'run': trained.name,
          'corruption': corruption,
          'severity': severity,
          'examples': means['examples'],
          'accuracy': means['accuracy'],
          'error': 1 - means['accuracy'],
          'nll': means['nll'],
          'ece': means['ece'],
        }
      )
    )


def _counted(batches, progress):
  for batch in batches:
    yield batch
    progress.update(int(batch['mask'].sum()))


def progress_bar(total: int, done: int) -> tqdm:
  """Counts images, and says how long it will take."""
  return tqdm(
    total=total,
    initial=done,
    unit=' images',
    unit_scale=True,
    # A log file wants few lines, a terminal a lively one.
    mininterval=0.2 if sys.stderr.isatty() else 10,
  )


def names_of(workdirs: Sequence[str]) -> list[str]:
  """The shortest ends of the paths that tell the runs apart.

  Raises:
    UsageError: if a run is given twice.
  """
  paths = [pathlib.Path(os.path.abspath(w)).parts for w in workdirs]
  if len(set(paths)) < len(paths):
    raise UsageError('--workdir: a run is given twice')
  for length in range(1, max(map(len, paths)) + 1):
    names = [os.path.join(*p[-length:]) for p in paths]
    if len(set(names)) == len(names):
      break
  return names
