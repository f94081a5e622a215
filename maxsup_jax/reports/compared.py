"""The models of one report: files of outputs that can be compared."""

import dataclasses
import os
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from maxsup_jax.errors import UsageError
from maxsup_jax.outputs import Outputs, read


def read_all(
  paths: Sequence[str | os.PathLike],
  names: Sequence[str] = (),
  groups: Sequence[str] = (),
  done: Callable[[], Any] = lambda: None,
  probabilities: bool = False,
) -> list[Outputs]:
  """Reads the .npz files of a report: models that can be compared.

  They have distinct names, those given or their own, and the same classes.
  `groups` say which method each is a seed of, in place of their metadata.
  `done` is called after each file; `probabilities` as in `outputs.read`.
  """
  if names and len(names) != len(paths):
    raise UsageError(f'names has {len(names)} names for {len(paths)} files')
  if groups and len(groups) != len(paths):
    raise UsageError(f'group has {len(groups)} groups for {len(paths)} files')
  models = []
  wanted: Sequence[str | None] = names or [None] * len(paths)
  for path, name in zip(paths, wanted):
    models.append(read(path, name, probabilities))
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
