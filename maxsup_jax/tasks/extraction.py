"""Logits and features of every example of a split, written into one .npz."""

import dataclasses
import os
import re
import sys
import tempfile
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from scipy.special import logsumexp
from tqdm import tqdm

from maxsup_jax import data, errors, files
from maxsup_jax.errors import UsageError
from maxsup_jax.outputs import NpzWriter
from maxsup_jax.tasks import translating
from maxsup_jax.tasks.config import check_task
from maxsup_jax.tasks.loading import LoadedRun
from maxsup_jax.training.parallel import Devices
from maxsup_jax.training.provenance import provenance


@dataclasses.dataclass(frozen=True)
class Augmentations:
  """What is also written, for the mutual information of Müller et al.

  Attributes:
    count: random augmentations of each example, those of training; 5 there.
    pair: the two classes.
    per_class: how many examples of each, the first ones of the split.
  """

  count: int
  pair: Sequence[int] = (0, 1)
  per_class: int = 300


# If nothing else is asked for: of segmentation, of each image, ...
PIXELS = 1000
# ... and of translation, in all, as many as Müller et al. take.
_TOKENS = 10_000


class Extracted(NamedTuple):
  """What was written.

  Attributes:
    path: the file.
    examples: how many.
    source: the name of the split.
    accuracy: of all examples.
    nll: likewise.
  """

  path: Path
  examples: int
  source: str
  accuracy: float
  nll: float


def outputs(
  mapped_extract_step: Callable,
  variables: dict[str, Any],
  batches: Iterable[dict[str, np.ndarray]],
  devices: Devices,
) -> Iterator[dict[str, np.ndarray]]:
  """Applies a model to the batches of a split, one batch in memory at a time.

  Args:
    mapped_extract_step: `Classification.extract_step`, mapped by `devices`.
    variables: those to apply the model with, on the devices, replicated.
    batches: this process's part of every batch, padding masked.
    devices: where the variables live.

  Yields:
    For each batch, without its padding, in the order of the examples: `logits`
    float32 [b, K], `features` float32 [b, D] (the penultimate ones, which the
    head sees) and `labels` int32 [b].
  """
  pending: deque[Any] = deque()

  def collect():
    found = devices.gather(pending.popleft())
    mask = found.pop('mask')
    return {name: rows[mask] for name, rows in found.items()}

  for batch in devices.stream(batches):
    pending.append(mapped_extract_step(variables, batch))
    # One batch computes while the outputs of the one before travel.
    if len(pending) > 1:
      yield collect()
  while pending:
    yield collect()


def default_path(loaded: LoadedRun) -> Path:
  """The default file for the outputs of a run."""
  # A split may be written as in 'train[:10%]'.
  name = re.sub(r'[^\w.+-]+', '_', loaded.split).strip('_')
  ema = '-ema' if loaded.weights == 'ema' else ''
  return loaded.workdir.path / 'extract' / f'{name}-{loaded.step}{ema}.npz'


def extract(
  loaded: LoadedRun,
  out: str | os.PathLike | None = None,
  *,
  augmentations: Augmentations | None = None,
  limit: int | None = None,
  overwrite: bool = False,
) -> Extracted:
  """Writes the outputs of a trained run on its evaluation split.

  The file holds what `maxsup_jax.outputs` says, with the lines of the run's
  `metrics.jsonl` up to the checkpoint. Images are not augmented, nor is the
  model in training mode, whatever the split. It is written batch by batch, so
  that its size does not matter: 1.28 million images with 1,000 logits and 2,048
  features are 15.6 GB.

  Of translation the examples are next tokens after the true beginnings, and the
  `groups` their sentences; see `translating.token_outputs`.

  Args:
    loaded: from `load_run`, of a single process.
    out: the file; by default `default_path`. One in a bucket is written on the
      disk first.
    augmentations: what is written besides; None for nothing.
    limit: of segmentation, how many pixels of each image at most; None for
      1,000. They are drawn by their labels alone, the same ones for all models,
      and all are in memory at once; there are no features. Of translation, how
      many tokens at most; None for 10,000.
    overwrite: whether a file that is there is replaced, at the end.

  Returns:
    What was written.

  Raises:
    UsageError: if the file exists or cannot be written, or if the run was
      trained without augmentations and some are asked for.
  """
  if jax.process_count() > 1:
    raise UsageError(
      'extract runs in one process: each would have only a part of every batch'
    )
  run, task = loaded.run, loaded.task
  kind = run.config.task
  if kind == 'classification' and limit is not None:
    raise UsageError(
      f'limit is {limit}; expected None: all images of a split are written'
    )
  if kind != 'classification' and augmentations:
    check_task(run.config)
  if out is None:
    out = default_path(loaded)
  files.refuse_existing(out, overwrite=overwrite)
  if files.is_remote(out):
    with tempfile.TemporaryDirectory() as folder:
      local = Path(folder) / Path(out).name
      written = extract(loaded, local, augmentations=augmentations, limit=limit)
      files.upload(local, out)
    return written._replace(path=files.located(out))
  if kind == 'segmentation':
    return _extract_pixels(loaded, out, limit or PIXELS, overwrite)
  if kind == 'translation':
    return _extract_tokens(loaded, out, limit or _TOKENS, overwrite)
  if augmentations:
    _check_augmentations(loaded, augmentations)
  source, head = task.eval_source, loaded.variables['params'].get('head', {})
  N, K = len(source), source.num_classes
  columns = {'logits': ((N, K), np.float32), 'labels': ((N,), np.int32)}
  _, given = jax.eval_shape(task.apply, loaded.variables, task.eval_form)
  D = given['penultimate'].shape[-1] if 'penultimate' in given else None
  if D is not None:
    columns['features'] = ((N, D), np.float32)
  devices = run.devices
  step = devices.map(task.extract_step())
  variables = devices.replicate(loaded.variables)
  correct, nll, labels = 0, 0.0, []
  with NpzWriter(out, columns, overwrite=overwrite) as file:
    # Others are not linear.
    if 'bias' in head and head['kernel'].shape == (D, K):
      file.write('weights', np.ascontiguousarray(head['kernel'].T))
      file.write('bias', np.asarray(head['bias']))
    if source.label_names is not None:
      file.write('class_names', np.array(source.label_names))
    _write_about(file, loaded, N)
    with tqdm(
      total=N,
      unit=f' {task.unit}',
      unit_scale=True,
      mininterval=0.2 if sys.stderr.isatty() else 10,
    ) as progress:
      for batch in outputs(step, variables, task.eval_batches(), devices):
        for name in columns:
          file.append(name, batch[name])
        right, loss = _classified(batch['logits'], batch['labels'])
        correct, nll = correct + right, nll + loss
        labels.append(batch['labels'])
        progress.update(len(batch['labels']))
    if augmentations:
      found = _augmented(loaded, np.concatenate(labels), augmentations)
      # They are transformed already.
      batches = task.eval_batches(found, transform=data.parse_transform(''))
      parts = list(outputs(step, variables, batches, devices))
      logits, ids = (
        np.concatenate([part[name] for part in parts])
        for name in ('logits', 'labels')
      )
      L = augmentations.count
      file.write('augmented_logits', logits.reshape(-1, L, K))
      file.write('augmented_labels', ids[::L])
  return Extracted(Path(out), N, source.name, correct / N, nll / N)


def _extract_pixels(
  loaded: LoadedRun, out: str | os.PathLike, limit: int, overwrite: bool
) -> Extracted:
  """Logits, labels and images of some pixels of each image."""
  task, devices = loaded.task, loaded.run.devices
  errors.integer('limit', limit, low=1)

  def numbered() -> Iterator[dict[str, np.ndarray]]:
    start = 0
    for batch in task.eval_batches():
      size = len(batch['mask'])
      yield {**batch, 'index': np.arange(start, start + size, dtype=np.int32)}
      start += size

  found = list(
    outputs(
      devices.map(task.extract_step(limit)),
      devices.replicate(loaded.variables),
      tqdm(numbered(), unit=' batches', mininterval=10),
      devices,
    )
  )
  logits, labels, groups = (
    np.concatenate([part[name] for part in found])
    for name in ('logits', 'labels', 'groups')
  )
  if not len(labels):
    raise UsageError(f'{task.eval_source.name} has no pixel with a label')
  members = {'logits': logits, 'labels': labels, 'groups': groups}
  columns = {name: (a.shape, a.dtype) for name, a in members.items()}
  with NpzWriter(out, columns, overwrite=overwrite) as file:
    for name, array in members.items():
      file.append(name, array)
    if task.eval_source.label_names is not None:
      file.write('class_names', np.array(task.eval_source.label_names))
    _write_about(file, loaded, len(labels))
  correct, nll = _classified(logits, labels)
  N, name = len(labels), f'{task.eval_source.name} (pixels)'
  return Extracted(Path(out), N, name, correct / N, nll / N)


def _extract_tokens(
  loaded: LoadedRun, out: str | os.PathLike, limit: int, overwrite: bool
) -> Extracted:
  found = translating.token_outputs(loaded, limit)
  logits, labels = found['logits'], found['labels']
  rows = {n: found.pop(n) for n in ('logits', 'features', 'labels', 'groups')}
  columns = {name: (array.shape, array.dtype) for name, array in rows.items()}
  with NpzWriter(out, columns, overwrite=overwrite) as file:
    for name, array in found.items():
      file.write(name, array)
    _write_about(file, loaded, len(labels))
    for name, array in rows.items():
      file.append(name, array)
  correct, nll = _classified(logits, labels)
  N, name = len(labels), loaded.task.eval_pairs.name
  return Extracted(Path(out), N, name, correct / N, nll / N)


def _write_about(file: NpzWriter, loaded: LoadedRun, examples: int) -> None:
  """Where the arrays come from, and the run's metrics up to there."""
  file.write_json('metadata', _metadata(loaded, examples))
  history = [r for r in loaded.workdir.metrics() if r['step'] <= loaded.step]
  file.write_json('history', history)


def _check_augmentations(loaded: LoadedRun, wanted: Augmentations) -> None:
  """Refuses what cannot be augmented, before anything is done."""
  errors.integer('augmentations', wanted.count, low=2)
  errors.integer('per_class', wanted.per_class, low=1)
  K, pair = loaded.task.eval_source.num_classes, list(wanted.pair)
  if len(pair) != 2 or len(set(pair)) != 2 or not set(pair) <= set(range(K)):
    raise UsageError(f'pair is {pair}; expected two classes from 0 to {K - 1}')
  if not loaded.task.train_transform.random:
    raise UsageError(
      'augmentations: the run was trained without any (see its '
      'config.dataset.train_transform)'
    )


def _augmented(
  loaded: LoadedRun, labels: np.ndarray, wanted: Augmentations
) -> data.Source:
  """The augmentations of the first examples of each class."""
  source = loaded.task.eval_source
  found = [np.flatnonzero(labels == k)[: wanted.per_class] for k in wanted.pair]
  for k, indices in zip(wanted.pair, found):
    if not len(indices):
      raise UsageError(f'pair: {source.name} has no examples of class {k}')
  return data.AugmentedSource(
    source,
    np.concatenate(found).tolist(),
    wanted.count,
    loaded.task.train_transform,
    seed=loaded.run.config.seed,
  )


def _metadata(loaded: LoadedRun, examples: int) -> dict[str, Any]:
  """Where the arrays come from."""
  config, path = loaded.run.config, loaded.workdir.path
  # As a study names the directories of its runs: VARIANT/seedN.
  seeded = re.fullmatch(r'seed\d+', path.name)
  return {
    'name': path.name,
    **({'group': path.parent.name} if seeded else {}),
    'dataset': config.dataset.name
    + (', made up' if loaded.task.made_up else ''),
    'split': loaded.split,
    'model': config.model.name,
    'objective': config.objective.name,
    'seed': config.seed,
    'step': loaded.step,
    'epoch': loaded.step / loaded.run.steps_per_epoch,
    'weights': loaded.weights,
    'examples': examples,
    **provenance(),
    'config': config.to_dict(),
  }


def _classified(logits: np.ndarray, labels: np.ndarray) -> tuple[int, float]:
  """How many are right, and the sum of their cross-entropies."""
  logits = logits.astype(np.float64)
  true = np.take_along_axis(logits, labels[:, None], -1)[:, 0]
  return (
    int((logits.argmax(-1) == labels).sum()),
    float((logsumexp(logits, -1) - true).sum()),
  )
