"""The models of one report: outputs that can be compared, from any source."""

import csv
import dataclasses
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from maxsup_jax import files
from maxsup_jax import outputs as archives
from maxsup_jax.errors import UsageError, one_line
from maxsup_jax.outputs import Outputs

# A file, logits and labels, arrays by the names of an .npz, or what was read.
Source = str | os.PathLike | tuple[Any, Any] | Mapping[str, Any] | Outputs
TORCH = ('.pt', '.pth', '.safetensors')
ENDINGS = ('.npz', '.npy', '.csv', *TORCH)


def read(
  source: Source,
  name: str | None = None,
  probabilities: bool = False,
  labelled: bool = True,
) -> Outputs:
  """Reads the outputs of a model.

  Args:
    source: a pair of logits and labels, a mapping of the arrays that an .npz
      file may hold, or a file. That is, by its ending, an .npz; logits in .npy,
      with the labels beside it in `labels.npy` or under its own name with
      `labels` in place of `logits`; tensors by name, as torch.save or
      safetensors write them (nothing in them is executed); or .csv: a header
      with `label` and the classes, a line for each example.
    name: what to call the model; by default as the file says, or its own name.
    probabilities: whether they are given in place of logits.
    labelled: whether there are labels; otherwise they are ignored, or need not
      be there, and the predictions stand for them.

  Raises:
    UsageError: one line that says where, and what is wrong.
  """
  if isinstance(source, Outputs):
    return dataclasses.replace(source, name=name or source.name)
  if isinstance(source, tuple):
    source = dict(zip(('logits', 'labels'), source, strict=True))
  if isinstance(source, Mapping):
    arrays, path = source, Path(name or 'model')
  else:
    check_file(source, labelled)
    path = Path(source)
    ending = path.suffix.lower()
    if labelled or ending != '.npy':
      arrays = _READERS[ending](path)
    else:
      arrays = {'logits': _load(path)}
  if not labelled and 'logits' in arrays:
    logits = np.asarray(arrays['logits'])
    several = logits.ndim > 1 and logits.shape[1] > 1
    top = logits.argmax(1) if several else np.zeros(len(logits), np.int64)
    arrays = {'logits': logits, 'labels': top}
  return archives.from_arrays(arrays, path, name, probabilities)


def check_file(path: str | os.PathLike, labelled: bool = True) -> None:
  """Refuses what is not there, or no file of outputs, before it is read."""
  ending = files.check_ending(path, ENDINGS)
  if ending == '.npz':
    return archives.check_archive(path)
  files.refuse_irregular(path)
  if not os.path.exists(path):
    raise UsageError(f'no file {path}')
  if ending == '.npy' and labelled:
    _labels_beside(Path(path))
  return None


def _labels_beside(path: Path) -> Path:
  own = path.with_name(path.name.replace('logits', 'labels'))
  tried = [own] if own != path else []
  tried.append(path.with_name('labels.npy'))
  for beside in tried:
    if beside.is_file() and beside != path:
      return beside
  names = ' or '.join(p.name for p in tried)
  raise UsageError(f'{path} has no labels beside it; expected {names}')


def _read_npy(path: Path) -> dict[str, Any]:
  return {'logits': _load(path), 'labels': _load(_labels_beside(path))}


def _load(path: Path) -> np.ndarray:
  try:
    return np.load(path, allow_pickle=False)
  except (OSError, ValueError, EOFError) as e:
    raise UsageError(f'{path} cannot be read: {one_line(e)}') from None


def _read_tensors(path: Path) -> dict[str, Any]:
  # It takes seconds to import.
  from maxsup_jax.models import torch_weights

  return torch_weights.read(path)


def _read_csv(path: Path) -> dict[str, Any]:
  """A column `label`, of class ids or names, and a column for each class."""
  try:
    with path.open(newline='', encoding='utf-8-sig') as file:
      header, *lines = csv.reader(file)
  except (OSError, ValueError, csv.Error) as e:
    raise UsageError(f'{path} cannot be read: {one_line(e)}') from None
  if header.count('label') != 1:
    raise UsageError(
      f'{path} has the columns {", ".join(header)[:80]}; expected one of the '
      "name 'label', and one for each class"
    )
  at = header.index('label')
  classes = header[:at] + header[at + 1 :]
  ids = {name: k for k, name in enumerate(classes)}
  logits, labels = np.empty((len(lines), len(classes))), []
  for i, line in enumerate(lines):
    try:
      label = line.pop(at)
      labels.append(ids[label] if label in ids else int(label))
      # A single number would fill the row.
      logits[i] = np.array(line, np.float64).reshape(len(classes))
    except (ValueError, IndexError):
      raise UsageError(
        f'{path}: line {i + 2} cannot be read; expected {len(classes)} numbers '
        'and a label'
      ) from None
  found = {'logits': logits, 'labels': np.array(labels, np.int64)}
  # Numbers are no names.
  named = not all(name.strip().isdigit() for name in classes)
  return found | ({'class_names': np.array(classes)} if named else {})


_READERS: dict[str, Callable[[Path], Mapping[str, Any]]] = {
  '.npz': archives.read_arrays,
  '.npy': _read_npy,
  '.csv': _read_csv,
  **dict.fromkeys(TORCH, _read_tensors),
}


def read_all(
  sources: Sequence[Source],
  names: Sequence[str] = (),
  groups: Sequence[str] = (),
  done: Callable[[], Any] = lambda: None,
  probabilities: bool = False,
) -> list[Outputs]:
  """Reads the models of a report, see `read`: they can be compared.

  They have distinct names, those given or their own, and the same classes.
  `groups` say which method each is a seed of, in place of their metadata.
  `done` is called after each file; `probabilities` as there.
  """
  if names and len(names) != len(sources):
    raise UsageError(f'names has {len(names)} names for {len(sources)} models')
  if groups and len(groups) != len(sources):
    raise UsageError(
      f'group has {len(groups)} groups for {len(sources)} models'
    )
  models = []
  wanted: Sequence[str | None] = names or [None] * len(sources)
  for source, name in zip(sources, wanted):
    models.append(read(source, name, probabilities))
    done()
  if groups:
    models = [
      dataclasses.replace(m, metadata={**m.metadata, 'group': g})
      for m, g in zip(models, groups)
    ]
  taken = [m.name for m in models]
  if len(set(taken)) < len(taken):
    if names:
      raise UsageError(f'the names are not distinct: {", ".join(taken)}')
    # Files of different runs with one name: number them.
    models = [
      dataclasses.replace(m, name=f'{m.name} {taken[: i + 1].count(m.name)}')
      if taken.count(m.name) > 1
      else m
      for i, m in enumerate(models)
    ]
    if len({m.name for m in models}) < len(models):
      raise UsageError('some files have the same name; give distinct names')
  methods = {m.method for m in models}
  for m in models:
    if not m.method and m.name in methods:
      raise UsageError(
        f'{m.name} is the name of {m.path} and a group of others; give the '
        'group of every file'
      )
  check_same_classes(models)
  return models


def check_same_classes(models: Sequence[Outputs]) -> None:
  """Refuses files with other classes than the first one's."""
  for m in models[1:]:
    known = m.class_names and models[0].class_names
    if known and m.class_names != models[0].class_names:
      raise UsageError(
        f'the class_names of {m.path} differ from those of {models[0].path}; '
        'the models of a report must have the same classes in the same order'
      )
    if m.num_classes != models[0].num_classes:
      raise UsageError(
        f'{m.path} has {m.num_classes} classes, {models[0].path} '
        f'{models[0].num_classes}; the models of a report must have the same '
        'classes'
      )


def check_same_model(outputs: Outputs, train: Outputs) -> None:
  """Refuses the training split of another model, as far as the files tell."""
  hint = 'give the files of the training split in the order of the models'
  if outputs.logits.shape == train.logits.shape and np.array_equal(
    outputs.logits, train.logits
  ):
    raise UsageError(
      f'{train.path} has the logits of {outputs.path}; expected those of the '
      'training split'
    )
  both = f'{train.path} and {outputs.path} differ in'
  for array in ('weights', 'bias'):
    pair = getattr(outputs, array), getattr(train, array)
    # One of the files may have been written in float64.
    if all(x is not None for x in pair) and not np.array_equal(
      *(x.astype(np.float32) for x in pair)
    ):
      raise UsageError(f'{both} {array}; {hint}')
  for key in ('model', 'objective', 'seed', 'step', 'weights'):
    a, b = outputs.metadata.get(key), train.metadata.get(key)
    plain = isinstance(a, str | int) and isinstance(b, str | int)
    if plain and str(a) != str(b):
      raise UsageError(f'{both} {key}, {b!r} and {a!r}; {hint}')


def paired(models: Sequence[Outputs]) -> bool:
  """Whether all files hold the same labels in the same order, and groups."""
  first = models[0]
  return all(
    np.array_equal(first.labels, m.labels)
    and np.array_equal(np.asarray(first.groups), np.asarray(m.groups))
    for m in models
  )
