"""The outputs of a model on a split: the one reader and writer of the .npz.

- `logits`, `[N, K]` float: needed
- `labels`, `[N]` integer: needed
- `features`, `[N, D]` float: the penultimate features
- `weights`, `[K, D]` float: of the last layer, a row for each class
- `bias`, `[K]` float: of the last layer
- `augmented_logits`, `[M, L, K]` float: of L augmentations of M examples
- `augmented_labels`, `[M]` integer: of two classes
- `groups`, `[N]` integer: examples of one, as pixels of an image, depend
- `class_names`, `[K]` str
- `metadata`, str: a JSON object: `name`, `group`, `dataset`, `split` …
- `history`, str: a JSON list: the lines of a run's `metrics.jsonl`

`python -m experiments.extract` writes them; `numpy.savez` does, too.
"""

import contextlib
import dataclasses
import fcntl
import json
import math
import os
import shutil
import tempfile
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.lib import format as npy
from numpy.typing import DTypeLike

from maxsup_jax import files
from maxsup_jax.diagnostics import checks
from maxsup_jax.errors import UsageError, one_line, printable

_KNOWN = (
  'logits',
  'labels',
  'features',
  'weights',
  'bias',
  'augmented_logits',
  'augmented_labels',
  'groups',
  'class_names',
  'metadata',
  'history',
)
# Numbers, or null, in a record of diagnostics of `history`.
_DRAWN = ('accuracy', 'nc1', 'nc2', 'nc3', 'ece', 'h_norm', 'r_squared')
# Logits of a head computed in bfloat16 differ from its weights by this much.
_HEAD_TOLERANCE = 0.02
# Room for headers and for small members, in bytes: asked for, not taken.
_SLACK = 2**24
# Read and written at once when members are joined.
_CHUNK = 2**20


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
    groups: int64 `[N]`, the group that each example belongs to, as a pixel does
      to its image; or None, where all are independent.
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
  groups: np.ndarray | None = None
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

  @property
  def method(self) -> str:
    """What the file is a seed of, by `group` of its metadata; '' if unknown."""
    return str(self.metadata.get('group') or '')

  def class_name(self, k: int) -> str:
    """The name of a class, or its number."""
    return self.class_names[k] if self.class_names else f'class {k}'


def read(
  path: str | os.PathLike,
  name: str | None = None,
  probabilities: bool = False,
) -> Outputs:
  """Reads and checks a file.

  Args:
    path: of an .npz file.
    name: what to call the model; by default what its metadata say, or the
      file's name.
    probabilities: whether `logits` and `augmented_logits` hold probabilities,
      of which the logarithm is taken.

  Returns:
    Its content.

  Raises:
    UsageError: one line, which names the file and what is wrong with it.
  """
  return from_arrays(read_arrays(path), path, name, probabilities)


def from_arrays(
  arrays: Mapping[str, Any],
  path: str | os.PathLike,
  name: str | None = None,
  probabilities: bool = False,
) -> Outputs:
  """Checks what a file holds, or might.

  Args:
    arrays: by their names in an .npz file; others are ignored.
    path: where they come from.
    name: as in `read`.
    probabilities: likewise; so are the errors.

  Examples:
    >>> rng = np.random.default_rng(0)
    >>> arrays = {'logits': rng.normal(size=(4, 3)), 'labels': [0, 1, 2, 0]}
    >>> from_arrays(arrays, 'memory', 'CE').num_classes
    3
  """
  for needed in ('logits', 'labels'):
    if needed not in arrays:
      raise UsageError(
        f'{path} has no array {needed!r}; it has {", ".join(arrays) or "none"}'
      )
  known = {n: checks.array(a, n) for n, a in arrays.items() if n in _KNOWN}
  try:
    return _checked(Path(path), name, known, probabilities)
  except UsageError as e:
    raise UsageError(f'{path}: {e}') from None


def read_logits(
  path: str | os.PathLike, rows: int = 4096
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
  """Logits and labels of a file and nothing else of it, a few rows at a time.

  Args:
    path: of an .npz file.
    rows: so many, or fewer in the last block.

  Yields:
    Logits, float `[rows, K]`, and labels, integer `[rows]`.

  Raises:
    UsageError: one line, which names the file and what is wrong with it.
  """
  with _opened(path) as archive:
    names = archive.namelist()
    for needed in ('logits', 'labels'):
      if f'{needed}.npy' not in names:
        raise UsageError(f'it has no array {needed!r}')
    info = archive.getinfo('labels.npy')
    with archive.open(info) as member:
      labels_N = _array(member, info.file_size, 'labels')
    info = archive.getinfo('logits.npy')
    with archive.open(info) as member:
      shape, fortran, dtype = _header(member, info.file_size, 'logits')
      if len(shape) != 2 or dtype.kind != 'f' or (fortran and shape[1] > 1):
        order = 'Fortran order' if fortran else 'C order'
        raise UsageError(
          f'logits is {dtype} {list(shape)} in {order}; expected '
          'floating point [examples, classes] in C order'
        )
      if labels_N.shape != shape[:1]:
        raise UsageError(
          f'labels has the shape {list(labels_N.shape)}; logits {list(shape)}'
        )
      row = shape[1] * dtype.itemsize
      for start in range(0, shape[0], rows):
        count = min(rows, shape[0] - start)
        block = np.frombuffer(member.read(count * row), dtype)
        checks.finite(block, 'logits')
        yield block.reshape(count, -1), labels_N[start : start + count]
      member.read()  # Only at the end is its checksum compared.


def check_archive(path: str | os.PathLike) -> None:
  """Refuses what is not there, or no archive at all, before it is read."""
  files.refuse_irregular(path)
  if not os.path.exists(path):
    raise UsageError(f'no file {path}')
  if not zipfile.is_zipfile(path):
    raise UsageError(
      f'{path} cannot be read as an npz file of plain arrays: it is no archive'
    )


def read_arrays(path: str | os.PathLike) -> dict[str, Any]:
  """The arrays of a file that have a meaning here; None for all others."""
  arrays: dict[str, Any] = {}
  with _opened(path) as archive:
    for info in archive.infolist():
      name = info.filename.removesuffix('.npy')
      if name in arrays:
        raise UsageError(f'it has two arrays {name!r}')
      # It also compares the two names that the archive has of a member.
      with archive.open(info) as member:
        size, known = info.file_size, name in _KNOWN
        arrays[name] = _array(member, size, name) if known else None
  return arrays


@contextlib.contextmanager
def _opened(path: str | os.PathLike) -> Iterator[zipfile.ZipFile]:
  """An archive to read; what is damaged in it becomes one line."""
  check_archive(path)
  try:
    with zipfile.ZipFile(path) as archive:
      yield archive
  except UsageError as e:
    raise UsageError(f'{path}: {e}') from None
  # What is damaged fails in zipfile, zlib, tokenize, struct, ...
  except Exception as e:
    raise UsageError(
      f'{path} cannot be read as an npz file of plain arrays: '
      f'{one_line(e) or type(e).__name__}'
    ) from None


def _array(member: IO[bytes], size: int, name: str) -> np.ndarray:
  """Reads a member, to its end: only there its checksum is compared."""
  _, _, dtype = _header(member, size, name)
  member.seek(0)
  array = npy.read_array(member, allow_pickle=False)
  member.read()
  return array.astype(dtype.newbyteorder('='), copy=False)


def _header(
  member: IO[bytes], size: int, name: str
) -> tuple[tuple[int, ...], bool, np.dtype]:
  """The shape, whether it is in Fortran order, and the type of a member."""
  version = npy.read_magic(member)
  header = {
    (1, 0): npy.read_array_header_1_0,
    (2, 0): npy.read_array_header_2_0,
  }[version]
  shape, fortran, dtype = header(member)
  if dtype.hasobject:
    raise UsageError(
      f'{name} holds Python objects; expected numbers, or text as in '
      'np.array(names, dtype=str)'
    )
  # Before memory is taken for what a damaged header claims.
  if math.prod(shape) * dtype.itemsize != size - member.tell():
    raise ValueError(f'the size of {name!r} is not that of its header')
  return shape, fortran, dtype


def _checked(
  path: Path,
  name: str | None,
  arrays: dict[str, np.ndarray],
  probabilities: bool,
) -> Outputs:
  if probabilities:
    for key in ('logits', 'augmented_logits'):
      if key in arrays:
        arrays[key] = checks.log_probabilities(arrays[key], key)
  # One logit z stands for the two logits -z/2 and z/2; so does its layer.
  logits, labels = checks.logits_and_labels(
    arrays['logits'], arrays['labels'], single='symmetric'
  )
  K = logits.shape[1]
  features = weights = bias = None
  if 'features' in arrays:
    features = checks.matrix(arrays['features'], 'features')
    checks.same_length(logits=logits, features=features)
  single = np.ndim(arrays['logits']) == 1 or arrays['logits'].shape[1] == 1
  for key in ('weights', 'bias'):
    if single and key in arrays and len(np.atleast_1d(arrays[key])) == 1:
      row = np.atleast_1d(arrays[key])
      arrays[key] = np.concatenate([-row / 2, row / 2])
  if 'weights' in arrays:
    weights = checks.matrix(arrays['weights'], 'weights')
    if len(weights) != K or (
      features is not None and weights.shape[1] != features.shape[1]
    ):
      D = '' if features is None else f' = [{K}, {features.shape[1]}]'
      raise UsageError(
        f'weights has the shape {weights.shape}; expected [classes, features]'
        f'{D}, a row for each class'
      )
  if 'bias' in arrays:
    bias = checks.finite(arrays['bias'], 'bias')
    if bias.shape != (K,):
      raise UsageError(f'bias has the shape {bias.shape}; expected ({K},)')
  augmented_logits, augmented_labels = _augmented(arrays, K)
  groups = None
  if 'groups' in arrays:
    groups = arrays['groups']
    if groups.shape != labels.shape or groups.dtype.kind not in 'iu':
      raise UsageError(
        f'groups is {groups.dtype} {list(groups.shape)}; expected integers '
        f'{list(labels.shape)}'
      )
    if len(np.unique(groups)) < 2:
      raise UsageError('groups has one group; expected at least 2')
    groups = groups.astype(np.int64)
  class_names = None
  if 'class_names' in arrays:
    names = arrays['class_names']
    if names.dtype.kind == 'S':
      names = np.char.decode(names, 'utf-8', 'replace')
    class_names = tuple(printable(str(c)) for c in names.flat)
    if len(class_names) != K:
      raise UsageError(
        f'class_names has {len(class_names)} names; expected {K}, one for '
        'each class'
      )
  if len(labels) < 2:
    raise UsageError('there is 1 example; expected at least 2')
  metadata = _json(arrays, 'metadata', dict)
  history = _json(arrays, 'history', list)
  _check_history(history)
  return Outputs(
    name=printable(name or str(metadata.get('name') or path.stem)),
    path=str(path),
    logits=logits,
    labels=labels,
    features=features,
    weights=weights,
    bias=bias,
    augmented_logits=augmented_logits,
    augmented_labels=augmented_labels,
    groups=groups,
    class_names=class_names,
    metadata=metadata,
    history=history,
    head_error=_head_error(logits, features, weights, bias, probabilities),
  )


def _augmented(arrays: dict[str, np.ndarray], K: int):
  names = ('augmented_logits', 'augmented_labels')
  there = [n for n in names if n in arrays]
  if not there:
    return None, None
  if len(there) == 1:
    raise UsageError(f'{" and ".join(names)} must be given together')
  logits = checks.finite(arrays['augmented_logits'], 'augmented_logits')
  if logits.ndim != 3 or logits.shape[1] < 2 or logits.shape[2] != K:
    raise UsageError(
      f'augmented_logits has the shape {logits.shape}; expected [examples, '
      f'augmentations, {K}] with at least 2 augmentations'
    )
  checks.refuse_probabilities(logits, 'augmented_logits')
  labels = checks.class_ids(arrays['augmented_labels'], K, 'augmented_labels')
  checks.same_length(augmented_logits=logits, augmented_labels=labels)
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
  except (ValueError, RecursionError) as e:
    raise UsageError(f'{key} is not JSON ({one_line(e)})') from None
  if not isinstance(value, kind):
    wanted = 'an object' if kind is dict else 'a list'
    raise UsageError(
      f'{key} is a JSON {type(value).__name__}; expected {wanted}'
    )
  return _all_printable(value)


def _all_printable(value: Any) -> Any:
  if isinstance(value, dict):
    return {printable(k): _all_printable(v) for k, v in value.items()}
  if isinstance(value, list):
    return [_all_printable(v) for v in value]
  return printable(value) if isinstance(value, str) else value


def _check_history(history: list) -> None:
  """Refuses records of diagnostics that could not be drawn."""
  for i, record in enumerate(history):
    if not isinstance(record, dict):
      raise UsageError(f'history[{i}] is not a JSON object')
    if record.get('kind') != 'diagnostics':
      continue
    if not isinstance(record.get('split'), str):
      raise UsageError(f'history[{i}] has no split')
    for key in ('step', 'epoch', *_DRAWN):
      value = record.get(key)
      if not (isinstance(value, int | float) or value is None):
        raise UsageError(f'history[{i}]: {key} is {value!r}; expected a number')


def _head_error(logits, features, weights, bias, shifted):
  if features is None or weights is None:
    return None
  some = slice(None, None, -(-len(logits) // 1000))
  computed = features[some].astype(np.float64) @ weights.T.astype(np.float64)
  if bias is not None:
    computed += bias
  given = logits[some].astype(np.float64)
  # Masked classes, and probabilities that rounding made 0, say nothing.
  known = given > (np.log(np.finfo(np.float32).tiny) if shifted else -np.inf)
  if shifted:
    # The logarithm of a softmax is the logits but for a shift of each row.
    share = known / known.sum(1, keepdims=True)
    for values in (computed, given):
      values -= np.where(known, values * share, 0).sum(1, keepdims=True)
  scale = given[known].std()
  error = np.abs(computed - given)[known].max()
  return float(error / scale) if scale else (0.0 if not error else np.inf)


class NpzWriter:
  """An archive with members that grow row by row; a context manager.

  It is written under another name and gets its own when the context ends;
  nothing is left of it if that ends in an error. The largest member goes
  straight into the archive, the others wait in nameless files beside it.

  Examples:
    >>> path = Path(tempfile.mkdtemp()) / 'x.npz'
    >>> with NpzWriter(path, {'a': ((3, 2), np.float32)}) as file:
    ...   for row in range(3):
    ...     file.append('a', np.full((1, 2), row, np.float32))
    ...   file.write('b', np.array('text'))
    >>> with np.load(path) as arrays:
    ...   print(arrays['a'].tolist(), arrays['b'])
    [[0.0, 0.0], [1.0, 1.0], [2.0, 2.0]] text
  """

  def __init__(
    self,
    path: str | os.PathLike,
    members: Mapping[str, tuple[tuple[int, ...], DTypeLike]],
    *,
    overwrite: bool = False,
  ):
    """Names the archive; nothing is made before the context is entered.

    Args:
      path: of the archive.
      members: the final shape and the dtype of each member that grows along its
        first axis; at least one.
      overwrite: whether a file that is there is replaced, at the end.
    """
    self.path = Path(path).absolute()
    self._members = {
      name: (tuple(shape), np.dtype(dtype))
      for name, (shape, dtype) in members.items()
    }
    self._sizes = {
      name: math.prod(shape) * dtype.itemsize
      for name, (shape, dtype) in self._members.items()
    }
    self._overwrite = overwrite
    # The same name every time: what a killed process left does not add up.
    self._partial = self.path.with_name(f'.{self.path.name}.partial')
    self._rows = dict.fromkeys(self._members, 0)
    self._whole: dict[str, np.ndarray] = {}
    self._renamed = False

  def __enter__(self) -> 'NpzWriter':
    """Opens the files.

    Raises:
      UsageError: if the archive exists, cannot be written, does not fit onto
        the disk, or is being written by another process.
    """
    files.refuse_existing(self.path, overwrite=self._overwrite)
    with files.one_line_errors(self.path), contextlib.ExitStack() as stack:
      self.path.parent.mkdir(parents=True, exist_ok=True)
      self._check_space()
      self._file = stack.enter_context(self._locked())
      stack.callback(self._remove_partial)
      self._file.truncate(0)
      self._zip = zipfile.ZipFile(self._file, 'w', zipfile.ZIP_STORED)
      self._largest = max(self._sizes, key=self._sizes.__getitem__)
      self._targets: dict[str, IO[bytes]] = {}
      for name, (shape, dtype) in self._members.items():
        if name == self._largest:
          target = self._open_member(name)
        else:
          target = stack.enter_context(
            tempfile.TemporaryFile(dir=self.path.parent)
          )
        header = npy.header_data_from_array_1_0(np.empty(0, dtype))
        npy.write_array_header_1_0(target, header | {'shape': shape})
        self._targets[name] = target
      stack.callback(self._close_archive)
      self._stack = stack.pop_all()
    return self

  def append(self, name: str, rows: np.ndarray) -> None:
    """Adds rows to a member.

    Args:
      name: one of the members that grow.
      rows: `[n, ...]` for any n, of the dtype and the shape that were promised.

    Raises:
      ValueError: if they are not, or are too many.
      UsageError: if the disk is full.
    """
    shape, dtype = self._members[name]
    if rows.dtype != dtype or rows.shape[1:] != shape[1:]:
      raise ValueError(
        f'rows of {name!r} are {rows.dtype} {list(rows.shape[1:])}; expected '
        f'{dtype} {list(shape[1:])}'
      )
    self._rows[name] += len(rows)
    if self._rows[name] > shape[0]:
      raise ValueError(f'{name!r} has more rows than the {shape[0]} promised')
    with files.one_line_errors(self.path):
      self._targets[name].write(rows.tobytes())

  def write(self, name: str, array: np.ndarray) -> None:
    """Adds a small array as a member of its own, when the context ends.

    Args:
      name: of the member.
      array: numbers or text.

    Raises:
      ValueError: if the name is taken, or the array holds Python objects.
    """
    array = np.asarray(array)
    if name in self._members or name in self._whole:
      raise ValueError(f'the array {name!r} has already been written')
    if array.dtype.hasobject:
      raise ValueError(f'{name!r} holds Python objects')
    self._whole[name] = array

  def write_json(self, name: str, value: Any) -> None:
    """Adds a value as JSON text."""
    self.write(name, np.array(json.dumps(value)))

  def __exit__(self, kind, *_) -> None:
    with files.one_line_errors(self.path), self._stack:
      if kind is None:
        self._finish()

  def _finish(self) -> None:
    for name, (shape, _) in self._members.items():
      if self._rows[name] != shape[0]:
        raise ValueError(
          f'{name!r} has {self._rows[name]} rows; {shape[0]} were promised'
        )
    self._targets.pop(self._largest).close()
    for name, spool in self._targets.items():
      spool.seek(0)
      with self._open_member(name) as member:
        shutil.copyfileobj(spool, member, _CHUNK)
      spool.close()
    for name, array in self._whole.items():
      with self._open_member(name) as member:
        npy.write_array(member, array, allow_pickle=False)
    self._zip.close()
    self._file.flush()
    os.fsync(self._file.fileno())
    files.refuse_existing(self.path, overwrite=self._overwrite)
    self._partial.replace(self.path)
    self._renamed = True

  def _remove_partial(self) -> None:
    # Once renamed, a file of that name is another process's.
    if not self._renamed:
      self._partial.unlink(missing_ok=True)

  def _open_member(self, name: str) -> IO[bytes]:
    # With a date, as by default, equal contents would give unequal archives.
    info = zipfile.ZipInfo(f'{name}.npy', (1980, 1, 1, 0, 0, 0))
    return self._zip.open(info, 'w', force_zip64=True)

  def _close_archive(self) -> None:
    """Closes what is open of it; what that writes is of no use any more."""
    largest = self._targets.get(self._largest)
    with contextlib.suppress(OSError, ValueError):
      if largest:
        largest.close()
    with contextlib.suppress(OSError, ValueError):
      self._zip.close()

  def _locked(self) -> IO[bytes]:
    descriptor = os.open(self._partial, os.O_RDWR | os.O_CREAT, 0o666)
    file = os.fdopen(descriptor, 'r+b')
    try:
      fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
      # Between opening and locking, another process may have renamed it.
      mine = os.path.samestat(os.fstat(descriptor), os.stat(self._partial))
    except (BlockingIOError, FileNotFoundError):
      mine = False
    if not mine:
      file.close()
      raise UsageError(f'another process is writing {self.path}')
    return file

  def _check_space(self) -> None:
    sizes = sorted(self._sizes.values())
    # Members that had to wait are there twice while they are joined, one after
    # the other.
    needed = sum(sizes) + max(sizes[:-1], default=0) + _SLACK
    free = shutil.disk_usage(self.path.parent).free
    if self._partial.exists():
      free += self._partial.stat().st_blocks * 512
    if needed > free:
      raise UsageError(
        f'writing {self.path} needs {_gigabytes(needed)}; {_gigabytes(free)} '
        'are free there'
      )


def _gigabytes(size: int) -> str:
  return f'{size / 1e9:,.2f} GB'
