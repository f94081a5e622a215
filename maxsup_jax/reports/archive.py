"""The .npz files that a report is made from: anyone's logits and labels.

| array | shape | |
|---|---|---|
| `logits` | `[N, K]` float | needed |
| `labels` | `[N]` integer | needed |
| `features` | `[N, D]` float | the penultimate features |
| `weights` | `[K, D]` float | of the last layer, a row for each class |
| `bias` | `[K]` float | of the last layer |
| `augmented_logits` | `[M, L, K]` float | of L augmentations of M examples |
| `augmented_labels` | `[M]` integer | of two classes |
| `class_names` | `[K]` str | |
| `metadata` | str | a JSON object: `name`, `dataset`, `split`, `objective` … |
| `history` | str | a JSON list: the lines of a run's `metrics.jsonl` |

`python -m experiments.extract` writes them; `numpy.savez` does, too.
"""

import dataclasses
import json
import os
import zipfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from maxsup_jax.diagnostics import _checks
from maxsup_jax.errors import UsageError

_KNOWN = (
  'logits',
  'labels',
  'features',
  'weights',
  'bias',
  'augmented_logits',
  'augmented_labels',
  'class_names',
  'metadata',
  'history',
)
# What is drawn of a record of diagnostics.
_DRAWN = ('accuracy', 'nc1', 'nc2', 'nc3', 'ece', 'h_norm', 'r_squared')
# Logits of a head computed in bfloat16 differ from its weights by this much.
_HEAD_TOLERANCE = 0.02


@dataclasses.dataclass(frozen=True)
class Outputs:
  """What a classifier gave for the examples of one split.

  Attributes:
    name: what the report calls the model.
    path: the file.
    logits: `[N, K]`, K at least 2.
    labels: int64 `[N]`.
    features: `[N, D]`, or None.
    weights: `[K, D]`, or None.
    bias: `[K]`, or None.
    augmented_logits: `[M, L, K]`, or None.
    augmented_labels: int64 `[M]`, of two classes, or None.
    class_names: K names, or None.
    metadata: what is known about the run.
    history: the lines of its `metrics.jsonl`.
    head_error: the largest difference between the logits and
      `features @ weights.T + bias`, over the standard deviation of the logits,
      on some examples; None if something of it is not there. Where it is not
      small, the classifier is not this linear layer.
  """

  name: str
  path: str
  logits: np.ndarray
  labels: np.ndarray
  features: np.ndarray | None = None
  weights: np.ndarray | None = None
  bias: np.ndarray | None = None
  augmented_logits: np.ndarray | None = None
  augmented_labels: np.ndarray | None = None
  class_names: tuple[str, ...] | None = None
  metadata: Mapping[str, Any] = dataclasses.field(default_factory=dict)
  history: Sequence[Mapping[str, Any]] = ()
  head_error: float | None = None

  @property
  def num_examples(self) -> int:
    """N."""
    return len(self.labels)

  @property
  def num_classes(self) -> int:
    """K."""
    return self.logits.shape[1]

  @property
  def linear(self) -> bool:
    """Whether the logits are those of the features and the weights."""
    return self.head_error is not None and self.head_error < _HEAD_TOLERANCE

  def class_name(self, k: int) -> str:
    """The name of a class, or its number."""
    return self.class_names[k] if self.class_names else f'class {k}'


def read(path: str | os.PathLike, name: str | None = None) -> Outputs:
  """Reads and checks a file.

  Args:
    path: of an .npz file.
    name: what to call the model; by default what its metadata say, or the
      file's name.

  Returns:
    Its content.

  Raises:
    UsageError: one line, which names the file and what is wrong with it.
  """
  arrays, others = _arrays(path)
  for needed in ('logits', 'labels'):
    if needed not in arrays:
      raise UsageError(
        f'{path} has no array {needed!r}; it has '
        f'{", ".join([*arrays, *others]) or "none"}'
      )
  try:
    return _checked(Path(path), name, arrays)
  except UsageError as e:
    raise UsageError(f'{path}: {e}') from None


def _arrays(
  path: str | os.PathLike,
) -> tuple[dict[str, np.ndarray], list[str]]:
  """The arrays of a file that have a meaning here, and the others' names."""
  try:
    with open(path, 'rb') as stream:
      file = np.load(stream, allow_pickle=False)
      if not isinstance(file, np.lib.npyio.NpzFile):
        raise UsageError(f'{path} is not an npz file of named arrays')
      with file:
        return (
          {k: file[k] for k in file.files if k in _KNOWN},
          [k for k in file.files if k not in _KNOWN],
        )
  except UsageError:
    raise
  except FileNotFoundError:
    raise UsageError(f'no file {path}') from None
  except (OSError, ValueError, EOFError, zipfile.BadZipFile):
    raise UsageError(
      f'{path} cannot be read as an npz file of plain arrays'
    ) from None


def _checked(
  path: Path, name: str | None, arrays: dict[str, np.ndarray]
) -> Outputs:
  # One logit z stands for the two logits -z/2 and z/2; so does its layer.
  logits, labels = _checks.logits_and_labels(
    arrays['logits'], arrays['labels'], single='symmetric'
  )
  K = logits.shape[1]
  features = weights = bias = None
  if 'features' in arrays:
    features = _checks.matrix(arrays['features'], 'features')
    _checks.same_length(logits=logits, features=features)
  single = np.ndim(arrays['logits']) == 1 or arrays['logits'].shape[1] == 1
  for key in ('weights', 'bias'):
    if single and key in arrays and len(np.atleast_1d(arrays[key])) == 1:
      row = np.atleast_1d(arrays[key])
      arrays[key] = np.concatenate([-row / 2, row / 2])
  if 'weights' in arrays:
    weights = _checks.matrix(arrays['weights'], 'weights')
    if len(weights) != K or (
      features is not None and weights.shape[1] != features.shape[1]
    ):
      D = '' if features is None else f' = [{K}, {features.shape[1]}]'
      raise UsageError(
        f'weights has the shape {weights.shape}; expected [classes, features]'
        f'{D}, a row for each class'
      )
  if 'bias' in arrays:
    bias = _checks.finite(arrays['bias'], 'bias')
    if bias.shape != (K,):
      raise UsageError(f'bias has the shape {bias.shape}; expected ({K},)')
  augmented_logits, augmented_labels = _augmented(arrays, K)
  class_names = None
  if 'class_names' in arrays:
    class_names = tuple(str(c) for c in np.ravel(arrays['class_names']))
    if len(class_names) != K:
      raise UsageError(
        f'class_names has {len(class_names)} names; there are {K} classes'
      )
  if len(labels) < 2:
    raise UsageError('there is one example; expected at least 2')
  metadata = _json(arrays, 'metadata', dict)
  history = _json(arrays, 'history', list)
  _check_history(history)
  return Outputs(
    name=name or str(metadata.get('name') or path.stem),
    path=str(path),
    logits=logits,
    labels=labels,
    features=features,
    weights=weights,
    bias=bias,
    augmented_logits=augmented_logits,
    augmented_labels=augmented_labels,
    class_names=class_names,
    metadata=metadata,
    history=history,
    head_error=_head_error(logits, features, weights, bias),
  )


def _augmented(arrays: dict[str, np.ndarray], K: int):
  names = ('augmented_logits', 'augmented_labels')
  there = [n for n in names if n in arrays]
  if not there:
    return None, None
  if len(there) == 1:
    raise UsageError(f'{" and ".join(names)} belong together')
  logits = _checks.finite(arrays['augmented_logits'], 'augmented_logits')
  if logits.ndim != 3 or logits.shape[1] < 2 or logits.shape[2] != K:
    raise UsageError(
      f'augmented_logits has the shape {logits.shape}; expected [examples, '
      f'augmentations, {K}], at least 2 augmentations'
    )
  labels = _checks.class_ids(arrays['augmented_labels'], K, 'augmented_labels')
  _checks.same_length(augmented_logits=logits, augmented_labels=labels)
  if len(np.unique(labels)) != 2:
    raise UsageError(
      f'augmented_labels has {len(np.unique(labels))} classes; expected 2'
    )
  return logits, labels


def _json(arrays: dict[str, np.ndarray], key: str, kind: type) -> Any:
  if key not in arrays:
    return kind()
  try:
    value = json.loads(str(arrays[key]))
  except ValueError as e:
    raise UsageError(f'{key} is not JSON ({e})') from None
  if not isinstance(value, kind):
    wanted = {dict: 'an object', list: 'a list'}[kind]
    raise UsageError(f'{key} is no JSON that holds {wanted}')
  return value


def _check_history(history: list) -> None:
  """Refuses records of diagnostics that could not be drawn."""
  for i, record in enumerate(history):
    if not isinstance(record, dict):
      raise UsageError(f'history[{i}] is no JSON object')
    if record.get('kind') != 'diagnostics':
      continue
    if not isinstance(record.get('split'), str):
      raise UsageError(f'history[{i}] has no split')
    for key in ('step', 'epoch', *_DRAWN):
      value = record.get(key)
      if not (isinstance(value, int | float) or value is None):
        raise UsageError(f'history[{i}] has {key} {value!r}; expected a number')


def _head_error(logits, features, weights, bias):
  if features is None or weights is None:
    return None
  some = slice(None, None, -(-len(logits) // 1000))
  computed = features[some].astype(np.float64) @ weights.T.astype(np.float64)
  if bias is not None:
    computed += bias
  scale = logits[some].std(dtype=np.float64)
  error = np.abs(computed - logits[some]).max()
  return float(error / scale) if scale else (0.0 if not error else np.inf)


def read_all(
  paths: Sequence[str | os.PathLike],
  names: Sequence[str] = (),
  done: Callable[[], Any] = lambda: None,
) -> list[Outputs]:
  """Reads the files of a report: models that can be compared.

  Args:
    paths: of .npz files.
    names: one for each, or none.
    done: is called after each file.

  Returns:
    Their contents, with distinct names and the same number of classes.

  Raises:
    UsageError: one line.
  """
  if names and len(names) != len(paths):
    raise UsageError(f'{len(names)} names for {len(paths)} files')
  models = []
  for path, name in zip(paths, names or [None] * len(paths)):
    models.append(read(path, name))
    done()
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
      raise UsageError('the files have equal names; give them distinct ones')
  check_same_classes(models)
  return models


def check_same_classes(models: Sequence[Outputs]) -> None:
  """Refuses files with other classes than the first one's."""
  for m in models[1:]:
    known = m.class_names and models[0].class_names
    if known and m.class_names != models[0].class_names:
      raise UsageError(
        f'{m.path} has other class_names than {models[0].path}, or in another '
        'order; models of one report share their classes'
      )
    if m.num_classes != models[0].num_classes:
      raise UsageError(
        f'{m.path} has {m.num_classes} classes, {models[0].path} '
        f'{models[0].num_classes}; models of one report share their classes'
      )


def check_same_model(outputs: Outputs, train: Outputs) -> None:
  """Refuses the training split of another model, as far as files tell.

  Raises:
    UsageError: if both are the same data, or if weights or metadata differ.
  """
  hint = 'give the files of --train in the order of the models'
  if outputs.logits.shape == train.logits.shape and np.array_equal(
    outputs.logits, train.logits
  ):
    raise UsageError(
      f'{train.path} holds the logits of {outputs.path}; expected those of the '
      'training split'
    )
  for array in ('weights', 'bias'):
    a, b = getattr(outputs, array), getattr(train, array)
    # One of the files may have been written in float64.
    if (
      a is not None
      and b is not None
      and not np.array_equal(a.astype(np.float32), b.astype(np.float32))
    ):
      raise UsageError(
        f'{train.path} has other {array} than {outputs.path}; {hint}'
      )
  for key in ('model', 'objective', 'seed', 'step', 'weights'):
    a, b = outputs.metadata.get(key), train.metadata.get(key)
    plain = isinstance(a, str | int) and isinstance(b, str | int)
    if plain and str(a) != str(b):
      raise UsageError(
        f'{train.path} is of {key} {b!r}, {outputs.path} of {a!r}; {hint}'
      )


def paired(models: Sequence[Outputs]) -> bool:
  """Whether all files hold the same labels in the same order."""
  return all(np.array_equal(models[0].labels, m.labels) for m in models)
