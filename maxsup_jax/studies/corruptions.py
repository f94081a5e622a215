"""Trained networks, evaluated on corrupted test sets."""

import contextlib
import dataclasses
import json
import os
import sys
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from tqdm import tqdm

from maxsup_jax import data, files, tasks
from maxsup_jax.errors import UsageError
from maxsup_jax.studies import corruption_results as results
from maxsup_jax.studies.corrupted_data import (
  CLEAN,
  Benchmark,
  check_prepared,
  choose_benchmark,
  choose_corruptions,
  default_transform,
  open_corrupted,
)
from maxsup_jax.studies.run_names import run_names
from maxsup_jax.tasks import LoadedRun
from maxsup_jax.tasks.classification import Classification
from maxsup_jax.tasks.config import check_images, check_task
from maxsup_jax.training.checkpoints import SEAL
from maxsup_jax.training.config import SPEED_FIELDS, fields
from maxsup_jax.training.evaluation import evaluate
from maxsup_jax.training.provenance import provenance


@dataclasses.dataclass(frozen=True)
class Network:
  """A run that is evaluated on corrupted images.

  `transform` is done to corrupted images in place of the run's own, unless it
  is None; `identity` tells its results from those of other weights.
  """

  name: str
  loaded: LoadedRun
  transform: str | None
  identity: dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Study:
  """Networks, and the corrupted datasets to evaluate them on.

  `sizes` are the examples of each corruption and severity; results are kept in
  `directory`.
  """

  networks: Sequence[Network]
  benchmark: Benchmark
  sizes: dict[tuple[str, int], int]
  directory: Path
  data_dir: str | None

  @property
  def title(self) -> str:
    """The dataset, and whether its images are made up."""
    made_up = self.networks[0].loaded.task.made_up
    return self.benchmark.name + (', made up' if made_up else '')


def prepare(
  workdirs: Sequence[str | os.PathLike],
  out: str | os.PathLike | None = None,
  *,
  dataset: str | None = None,
  corruptions: Sequence[str] = (),
  severities: Sequence[int] = (1, 2, 3, 4, 5),
  transform: str | None = None,
  step: int | str | None = None,
  weights: str = 'raw',
  data_dir: str | None = None,
) -> Study:
  """Opens the runs and checks them against the data; computes nothing.

  Args:
    workdirs: of the runs.
    out: where results are kept; needed for several runs, by default a directory
      in that of the run.
    dataset: see `choose_benchmark`.
    corruptions: see `choose_corruptions`.
    severities: from 1 to 5.
    transform: of corrupted images; see `default_transform`.
    step: see `load_run`, as for `weights` and `data_dir`.
    weights: 'raw' or 'ema'.
    data_dir: where datasets are prepared.
  """
  names = run_names(workdirs)
  if len(workdirs) > 1 and not out:
    raise UsageError('out is needed for several runs: a directory for results')
  files.require_disk('out', out or workdirs[0])
  directories = [tasks.open_workdir(w) for w in workdirs]
  configs = [directory.config() for directory in directories]
  for directory, config in zip(directories, configs):
    check_task(config)
    check_images(directory)
  benchmark = choose_benchmark(dataset, [c.dataset.name for c in configs])
  chosen = choose_corruptions(corruptions, benchmark)
  if not severities or not set(severities) <= {1, 2, 3, 4, 5}:
    raise UsageError(
      f'severities is {list(severities)}; expected numbers from 1 to 5'
    )
  severities, first = sorted(set(severities)), configs[0].dataset
  sizes = check_prepared(benchmark, chosen, severities, data_dir, first)
  networks = []
  for workdir, name in zip(workdirs, names):
    loaded = tasks.load_run(workdir, step, weights, data_dir=data_dir)
    networks.append(
      _network(loaded, name, benchmark, next(iter(sizes)), data_dir, transform)
    )
  if not out:
    ema = '-ema' if weights == 'ema' else ''
    name = f'{Path(benchmark.name).name}-{networks[0].loaded.step}{ema}'
    out = Path(workdirs[0]) / 'corruptions' / name
  return Study(networks, benchmark, sizes, Path(out), data_dir)


def _network(
  loaded: LoadedRun,
  name: str,
  benchmark: Benchmark,
  first: tuple[str, int],
  data_dir: str | None,
  transform: str | None,
) -> Network:
  """A run with the transform of corrupted images."""
  config = loaded.run.config
  given = benchmark, first, data_dir, transform
  transform = _checked_transform(loaded.task, *given)
  seal = loaded.workdir.checkpoints / str(loaded.step) / SEAL
  own, known = config.dataset.eval_transform, fields(config)
  identity = {
    'step': loaded.step,
    'weights': loaded.weights,
    'dataset': benchmark.name,
    'transform': own if transform is None else transform,
    'checkpoint': f'{zlib.crc32(seal.read_bytes()):08x}',
    'config': {n: v for n, v in known.items() if n not in SPEED_FIELDS},
  }
  return Network(name, loaded, transform, identity)


def _checked_transform(
  task: Classification,
  benchmark: Benchmark,
  first: tuple[str, int],
  data_dir: str | None,
  transform: str | None,
) -> str | None:
  """What is done to corrupted images; refuses what the model cannot take."""
  of = {'dataset': task.config.dataset, 'data_dir': data_dir}
  source, clean = open_corrupted(benchmark, *first, **of), task.eval_source
  if source.num_classes != clean.num_classes:
    raise UsageError(
      f'{source.name} has {source.num_classes} classes; the run was trained on '
      f'{task.train_name}, which has {clean.num_classes}'
    )
  names = [s.label_names for s in (source, clean)]
  # Where a dataset has no names, tfds calls the classes 0, 1, ...
  named = [n is not None and not all(map(str.isdigit, n)) for n in names]
  if all(named) and names[0] != names[1]:
    raise UsageError(
      f'the classes of {source.name} differ from those of {clean.name}, or '
      'their order does'
    )
  if transform is None:
    transform = default_transform(
      task.config.dataset.eval_transform,
      clean=clean.image_shape,
      corrupted=source.image_shape,
    )
  batches = _batches(task, source, transform)
  shape = next(batches)['image'].shape[1:]
  batches.close()
  if tuple(shape) != task.eval_shape:
    _check_size(task, source, shape, transform)
  return transform


def _check_size(
  task: Classification,
  source: data.Source,
  shape: Sequence[int],
  transform: str | None,
) -> None:
  """Refuses another size than that of clean images.

  Images that are left as they are may have one that the model can see.
  """

  def run():
    variables = task.init_variables(jax.random.key(0))
    return task.model.apply(variables, jnp.zeros((1, *shape)), train=False)

  with contextlib.suppress(UsageError):
    if transform is not None and tuple(shape) == source.image_shape:
      jax.eval_shape(run)
      return
  raise UsageError(
    f'the transformed images of {source.name} are {list(shape)}; expected '
    f'{list(task.eval_shape)}, as the model saw; see transform'
  )


def _batches(
  task: Classification, source: data.Source, transform: str | None
) -> data.BatchIterator:
  if transform is None:
    return task.eval_batches(source)
  dataset = task.config.dataset
  try:
    parsed = data.parse_transform(transform, mean=dataset.mean, std=dataset.std)
  except UsageError as error:
    raise UsageError(f'transform: {error}') from error
  if parsed.random:
    raise UsageError(
      f'transform is {transform!r}, which is random; evaluation needs one '
      'that is not'
    )
  return task.eval_batches(source, transform=parsed)


def run(study: Study) -> dict[str, Any]:
  """Evaluates what is not in the directory yet; gives what results.json holds.

  Each dataset is added to results.jsonl as soon as it is finished: after an
  interruption the same study goes on from there.
  """
  log = results.Log(study.directory)
  with log.opened():
    log.add_runs({n.name: n.identity for n in study.networks})
    done = {_key(r) for r in log.records() if r['kind'] == 'eval'}
    wanted = {
      (n.name, *which): size
      for n in study.networks
      for which, size in (
        ((CLEAN, 0), len(n.loaded.task.eval_source)),
        *study.sizes.items(),
      )
    }
    with tqdm(
      total=sum(wanted.values()),
      initial=sum(wanted[key] for key in done & set(wanted)),
      unit=' images',
      unit_scale=True,
      # A log file wants few lines, a terminal a lively one.
      mininterval=0.2 if sys.stderr.isatty() else 10,
    ) as progress:
      for n in study.networks:
        missing = [k[1:] for k in wanted if k[0] == n.name and k not in done]
        _evaluate(n, study, missing, progress, log.add)
    return _summary(study, log)


def _key(record: dict[str, Any]) -> tuple[str, str, int]:
  return record['run'], record['corruption'], record['severity']


def _evaluate(
  network: Network,
  study: Study,
  wanted: Sequence[tuple[str, int]],
  progress: tqdm,
  keep: Callable[[dict[str, Any]], None],
) -> None:
  """Evaluates a run on many datasets, with a single compiled step."""
  if not wanted:
    return
  loaded, task = network.loaded, network.loaded.task
  devices = loaded.run.devices
  state = devices.replicate(loaded.state)
  eval_step = devices.map(loaded.run.eval_step())
  for corruption, severity in wanted:
    progress.set_postfix_str(f'{corruption} {severity or ""}'.strip())
    if corruption == CLEAN:
      batches = task.eval_batches()
    else:
      of = {'dataset': task.config.dataset, 'data_dir': study.data_dir}
      source = open_corrupted(study.benchmark, corruption, severity, **of)
      batches = _batches(task, source, network.transform)
    counted, ema = _counted(batches, progress), loaded.weights == 'ema'
    sums = evaluate(eval_step, state, counted, devices, ema=ema)
    means = task.report(sums)
    record = {
      'kind': 'eval',
      'run': network.name,
      'corruption': corruption,
      'severity': severity,
      **{n: means[n] for n in ('examples', 'accuracy')},
      'error': 1 - means['accuracy'],
      **{n: means[n] for n in ('nll', 'ece')},
    }
    keep(files.jsonable(record))


def _counted(
  batches: Iterable[dict[str, np.ndarray]], progress: tqdm
) -> Iterator[dict[str, np.ndarray]]:
  for batch in batches:
    yield batch
    progress.update(int(batch['mask'].sum()))


def _summary(study: Study, log: results.Log) -> dict[str, Any]:
  """What the log says of these runs and datasets."""
  found = {_key(r): r for r in log.records() if r['kind'] == 'eval'}
  runs = []
  for n in study.networks:
    records = [found[n.name, *which] for which in study.sizes]
    runs.append(
      {
        'name': n.name,
        **n.identity,
        'clean_split': n.loaded.task.eval_source.name,
        'clean': _numbers(found[n.name, CLEAN, 0]),
        **results.summarize(records),
        'mce': results.mean_corruption_error(records)
        if study.benchmark.of_imagenet
        else None,
        'datasets': [_numbers(r) for r in records],
      }
    )
  return {
    'kind': 'corruptions',
    'dataset': study.title,
    'split': study.benchmark.split,
    'definitions': results.DEFINITIONS,
    **provenance(),
    'runs': runs,
  }


def _numbers(record: dict[str, Any]) -> dict[str, Any]:
  return {k: v for k, v in record.items() if k not in ('kind', 'run')}


def write(study: Study, found: dict[str, Any], picture: bytes) -> None:
  """Writes results.csv, corruptions.png and results.json of what `run` found.

  The picture is `reports.corruptions.heat_maps` of it.
  """
  rows = []
  for one in found['runs']:
    name, records = one['name'], [one['clean'], *one['datasets']]
    rows += [{'run': name, **record} for record in records]
  text = json.dumps(found, indent=2, allow_nan=False)
  with results.Log(study.directory).opened():
    files.write(study.directory / 'results.csv', results.to_csv(rows))
    files.write(study.directory / 'corruptions.png', picture)
    files.write(study.directory / 'results.json', text + '\n')


def caption(study: Study) -> str:
  """What the picture shows."""
  loaded = [n.loaded for n in study.networks]
  size = next(iter(study.sizes.values()))
  ema = 'averaged weights of ' if loaded[0].weights == 'ema' else ''
  steps = ', '.join(dict.fromkeys(f'{one.step:,}' for one in loaded))
  return (
    f'{study.title}: each cell a dataset of {size:,} images; ECE with 15 bins; '
    f'{ema}step {steps}'
  )
