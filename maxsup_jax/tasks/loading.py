"""The one way to open a run that has been trained."""

import dataclasses
import os
from typing import Any

from flax import linen as nn
from ml_collections import ConfigDict

from maxsup_jax import data, files
from maxsup_jax.data import text, texts
from maxsup_jax.errors import UsageError
from maxsup_jax.tasks import inputs
from maxsup_jax.tasks.building import build
from maxsup_jax.tasks.classification import Classification
from maxsup_jax.tasks.config import ENCODERS, check_task, open_workdir
from maxsup_jax.tasks.weights import (
  check_finite,
  check_weights,
  chosen_step,
)
from maxsup_jax.training.checkpoints import Checkpoints
from maxsup_jax.training.evaluation import evaluate
from maxsup_jax.training.parallel import Devices
from maxsup_jax.training.run import Run
from maxsup_jax.training.state import TrainState
from maxsup_jax.training.workdir import Workdir


@dataclasses.dataclass(frozen=True)
class LoadedRun:
  """A run with the state of one of its checkpoints.

  Attributes:
    run: what `build` makes of its configuration.
    workdir: where it was trained.
    step: of the checkpoint.
    weights: which weights `variables` are: 'raw' or 'ema'.
    split: what is evaluated.
    state: of the checkpoint, host arrays.
  """

  run: Run[Any]
  workdir: Workdir
  step: int
  weights: str
  split: str
  state: TrainState

  @property
  def task(self) -> Any:
    """The model, the data and the objective."""
    return self.run.task

  @property
  def variables(self) -> dict[str, Any]:
    """What to apply the model with: 'params' and 'batch_stats'."""
    return self.state.variables(ema=self.weights == 'ema')

  def evaluate(self) -> list[dict[str, Any]]:
    """Evaluates the split as training does, with the same numbers.

    Returns:
      A record as in `metrics.jsonl` for each set of weights that the run has.
    """
    devices = self.run.devices
    step = devices.map(self.run.eval_step())
    state = devices.replicate(self.state)
    records = []
    for weights in self.run.weights:
      sums = evaluate(
        step, state, self.task.eval_batches(), devices, ema=weights == 'ema'
      )
      about = {'kind': 'eval', 'step': self.step, 'split': self.split}
      means = self.task.report(sums)
      records.append(files.jsonable({**about, 'weights': weights, **means}))
    return records


def load_run(
  workdir: str | os.PathLike,
  step: int | str | None = None,
  weights: str = 'raw',
  *,
  data_dir: str | None = None,
  split: str | None = None,
  dataset: str | None = None,
  devices: Devices | None = None,
  model: nn.Module | None = None,
  sources: tuple[Any, Any] | None = None,
) -> LoadedRun:
  """Opens a trained run: its configuration, data, model and a checkpoint.

  Every process of several must call it alike.

  Args:
    workdir: the directory that it was trained in.
    step: which checkpoint; 'latest' or None for the newest, 'best' for that of
      the best evaluation, if `config.keep_best` kept one.
    weights: 'raw', as trained, or 'ema', their moving averages.
    data_dir: where datasets are prepared; None for the default of tfds.
    split: evaluates another split than the configuration says.
    dataset: evaluates a split, by default 'test', of another dataset with the
      same classes or some of them, matched by name: see
      `data.MatchedLabels`.
    devices: by default all devices of all processes.
    model: what was given to `build`, if the run was built so.
    sources: likewise.

  Returns:
    The run, on the host.

  Raises:
    UsageError: one line, if there is no such run, checkpoint or weights, or if
      its data are not there.

  Examples:
    Class probabilities of a few test images, in a notebook::

      import jax
      from maxsup_jax import tasks
      loaded = tasks.load_run('runs/maxsup')
      batch = next(loaded.task.eval_batches())
      logits, outputs = jax.jit(loaded.task.apply)(
          loaded.variables, batch['image'])
      probabilities = jax.nn.softmax(logits)
  """
  directory = open_workdir(workdir)
  config = directory.config()
  check_weights(directory, config, weights)
  encoder = _encoder(directory)
  with Checkpoints(directory.checkpoints) as checkpoints:
    step = chosen_step(directory, checkpoints, step)
    if dataset is not None:
      if sources is not None:
        raise UsageError('dataset and sources are given; expected one of them')
      split = split or 'test'
      sources = _other(config, dataset, split, data_dir, encoder)
      split = f'{dataset}/{split}'
    run = build(
      config,
      data_dir=data_dir,
      eval_split=split,
      devices=devices,
      training=False,
      model=model,
      sources=sources,
      encoder=encoder,
    )
    _check_classes(directory, run.task)
    if isinstance(run.task, Classification):
      directory.keep(run.task.held_out_file)
    state, _ = checkpoints.restore(step, run.shapes)
  loaded = state.variables(ema=weights == 'ema')
  check_finite(f'step {step} of {directory.path}', loaded)
  split = split or config.dataset.eval_split
  return LoadedRun(run, directory, step, weights, split, state)


def _other(
  config: ConfigDict,
  dataset: str,
  split: str,
  data_dir: str | None,
  encoder: Any,
) -> tuple[data.Source, data.Source]:
  """A run's training split, for its classes, and a split of another dataset."""
  check_task(config)
  own = inputs.open_split(
    config, config.dataset.train_split, data_dir, False, encoder
  )
  names = ['image_size', 'channels', 'held_out', 'split_seed']
  if encoder is not None:
    names += ['image_key', 'label_key', 'length']
  other = data.open_source(
    dataset,
    split,
    data_dir=data_dir,
    encoder=encoder,
    # Files of texts do not say it.
    num_classes=own.num_classes if dataset.startswith(texts.LINES) else None,
    **{name: config.dataset[name] for name in names},
  )
  return own, data.MatchedLabels(other, own.label_names, own.num_classes)


def _check_classes(directory: Workdir, task: Any) -> None:
  """Refuses data whose classes are not those that a run was started with."""
  known = directory.origin('classes')
  if known is None:  # Not of a directory of images.
    return
  found = list(task.eval_source.label_names or ())
  if known != found:
    differ = sorted(set(known) ^ set(found)) or ['their order']
    raise UsageError(
      f'the classes of {task.eval_source.name} are not those that '
      f'{directory.path} was trained with; they differ in '
      f'{", ".join(differ[:3])}'
    )


def _encoder(directory: Workdir) -> Any:
  """What a run of texts or of a table has kept; None of other runs."""
  for name in ENCODERS:
    if (directory.path / name).exists():
      if name == data.Columns.file:
        return data.Columns.read(directory.path / name)
      return text.read_vocabulary(directory.path / name)
  return None
