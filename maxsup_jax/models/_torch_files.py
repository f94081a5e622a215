"""Files of PyTorch users: state dicts, and lists of classes."""

import argparse
import io
import os
import pathlib
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from maxsup_jax import files
from maxsup_jax.errors import UsageError, one_line

# What torch.save writes, by whatever name; .tar is that of .pth.tar.
PICKLES = ('.pth', '.pt', '.th', '.ckpt', '.tar', '.bin')
SUFFIXES = (*PICKLES, '.safetensors')
# What numbers of NumPy consist of in a pickle; their old name, too.
_SCALAR = np.float64(0).__reduce__()[0]
_NUMBERS: list[Any] = [
  *(_SCALAR, (_SCALAR, 'numpy.core.multiarray.scalar'), np.dtype),
  *(type(np.dtype(t)) for t in ('f2', 'f4', 'f8', 'i4', 'i8', '?')),
]
# Under which of its names a checkpoint keeps the weights, as trained.
_WRAPPERS = ('state_dict', 'model', 'model_state_dict')


def is_torch_file(path: str | os.PathLike) -> bool:
  """Whether a path has an ending of PyTorch weights and is not a directory."""
  path = pathlib.Path(path)
  return path.suffix in SUFFIXES and not path.is_dir()


def read(
  path: str | os.PathLike, *, key: str | None = None
) -> dict[str, np.ndarray]:
  """Reads a state dict from a file.

  Args:
    path: ends with .pth, .pt, .th, .ckpt, .tar or .bin, as files of torch.save
      do, which need PyTorch, or with .safetensors, which needs the package of
      that name alone. Nothing in the file is executed: a pickle may hold
      arrays, plain values, NumPy's numbers and an `argparse.Namespace`, which
      training scripts like to save.
    key: under which the checkpoint has the weights, such as 'model_ema'. None:
      the file is a state dict itself, or has one under 'state_dict', 'model' or
      'model_state_dict'.

  Returns:
    The arrays by name, as they are stored; bfloat16 of a pickle as float32.

  Raises:
    UsageError: one line, if the file or its package is not there, if it cannot
      be read, or has no state dict under the key.
  """
  path = pathlib.Path(path)
  files.check_ending(path, SUFFIXES)
  if not os.path.isfile(path):
    raise UsageError(f'no file {path}')
  if path.suffix not in PICKLES:
    if key is not None:
      raise UsageError(f'key is {key!r}; expected None for {path}')
    return _read_safetensors(path)
  return {
    name: _numpy(value, f'{path}: {name}')
    for name, value in _unwrap(_read_pickle(path), key, path).items()
  }


def write(
  path: str | os.PathLike, state_dict: Mapping[str, np.ndarray]
) -> None:
  """Writes a state dict to a new file, whole or not at all.

  Args:
    path: ends as in `read`. Its directory is made.
    state_dict: arrays by name.

  Raises:
    UsageError: one line, if the file is there already, cannot be written, or
      its package is missing.
  """
  path = pathlib.Path(path)
  files.check_ending(path, SUFFIXES)
  if os.path.lexists(path):
    raise UsageError(f'{path} exists; choose another file')
  files.check_writable(path)
  # Neither package minds strides: safetensors writes the memory as it lies.
  arrays = {n: np.array(value, order='C') for n, value in state_dict.items()}
  if path.suffix in PICKLES:
    torch, file = _torch(path), io.BytesIO()
    torch.save({n: torch.from_numpy(x) for n, x in arrays.items()}, file)
    content = file.getvalue()
  else:
    content = _safetensors(path).save(arrays)
  files.write(path, content)


def _torch(path: pathlib.Path) -> Any:
  try:
    import torch
  except ImportError:
    raise UsageError(
      f"{path} needs PyTorch, which is not installed: pip install 'maxsup_jax"
      "[torch]', or use a .safetensors file"
    ) from None
  return torch


def _safetensors(path: pathlib.Path) -> Any:
  try:
    import safetensors.numpy
  except ImportError:
    raise UsageError(
      f'{path} needs the package safetensors, which is not installed: pip '
      "install 'maxsup_jax[safetensors]'"
    ) from None
  return safetensors.numpy


def _read_safetensors(path: pathlib.Path) -> dict[str, np.ndarray]:
  package = _safetensors(path)
  from safetensors import SafetensorError

  try:
    return package.load_file(path)
  except (SafetensorError, OSError) as error:
    raise UsageError(f'{path} cannot be read: {one_line(error)}') from None
  except (AttributeError, KeyError, TypeError) as error:  # numpy.float8_...
    raise UsageError(
      f'{path} has arrays of a type that NumPy does not know ({error}); save '
      'them as float32'
    ) from None


def _read_pickle(path: pathlib.Path) -> Any:
  torch = _torch(path)
  try:
    with torch.serialization.safe_globals([argparse.Namespace, *_NUMBERS]):
      return torch.load(path, map_location='cpu', weights_only=True)
  except Exception as error:  # a damaged file can fail in any way
    unknown = re.search(r'GLOBAL (\S+) (was not|whose module)', str(error))
    if unknown:
      raise UsageError(
        f'{path} holds a Python object, {unknown[1]}, which is not loaded '
        'because that could run any code; save the state dict alone'
      ) from None
    raise UsageError(
      f'{path} is damaged, or was not written by torch.save '
      f'({type(error).__name__})'
    ) from error


def _unwrap(
  loaded: Any, key: str | None, path: pathlib.Path
) -> Mapping[str, Any]:
  """The state dict in what was loaded."""
  if not isinstance(loaded, Mapping):
    raise UsageError(
      f'{path} holds a {type(loaded).__name__}; expected a state dict'
    )
  inner = [k for k, value in loaded.items() if isinstance(value, Mapping)]
  if key is None:
    if not inner:
      return loaded
    key = next((k for k in _WRAPPERS if k in inner), None)
    if key is None:
      raise UsageError(
        f'{path} is a checkpoint; set key to that of the weights, one of '
        f'{", ".join(map(str, inner))}'
      )
  if not isinstance(loaded.get(key), Mapping):
    there = f'it has {", ".join(map(str, inner))}' if inner else 'it is one'
    raise UsageError(f'{path} has no state dict under {key!r}; {there}')
  return loaded[key]


def _numpy(value: Any, where: str) -> np.ndarray:
  import torch

  if not isinstance(value, torch.Tensor):
    raise UsageError(f'{where} is a {type(value).__name__}, not an array')
  if value.dtype is torch.bfloat16:  # which NumPy does not know
    value = value.float()
  try:
    return value.detach().numpy()
  except (TypeError, RuntimeError):  # 8 bits, sparse, quantised
    raise UsageError(
      f'{where} is {value.dtype} in the layout {value.layout}, which NumPy '
      'does not know; save it as float32'
    ) from None


def class_order(
  source: str | os.PathLike | Iterable[str], names: Sequence[str]
) -> np.ndarray:
  """Finds each class of a dataset among the rows of another classifier.

  The lines are either files with the index of their class, such as

      val/n03146219/ILSVRC2012_val_00027260.JPEG    0

  in any order, of which some part of the path names the class: the
  `train_map.txt` and `val_map.txt` of the DeiT code of the authors of MaxSup,
  whose indices are not the usual ones. Or they are the names of the classes
  alone, one a line, in the order of the rows.

  Args:
    source: the path of a text file, or its lines.
    names: the classes in the order wanted. For ImageNet in tfds these are
      WordNet ids in alphabetical order, as in torchvision.

  Returns:
    int64 [K]: for each of `names`, which row of the classifier is its own.

  Raises:
    UsageError: in one line, at the first line that cannot be read or
      contradicts one before, or for a class without a row.

  Examples:
    >>> lines = ['val/n03/a.JPEG 0', 'val/n01/b.JPEG 1', 'val/n01/c.JPEG 1']
    >>> print(class_order(lines, ['n01', 'n03']))
    [1 0]
    >>> print(class_order(['n03', 'n01'], ['n01', 'n03']))
    [1 0]
  """
  if isinstance(source, str | os.PathLike):
    where = os.fspath(source)
    try:
      with open(source, encoding='utf-8') as file:
        lines = file.read().splitlines()
    except (OSError, UnicodeDecodeError) as error:
      raise UsageError(f'{where} cannot be read: {one_line(error)}') from None
  else:
    where, lines = 'the order of classes', list(source)
  known = set(names)
  if len(known) != len(names):
    raise UsageError('names contains a class twice')
  indices: dict[str, int] = {}
  owners: dict[int, str] = {}
  bare: bool | None = None  # Whether the lines are names alone.
  for number, line in enumerate(lines, 1):
    if not line.strip():
      continue
    here = f'{where}, line {number}'
    path, index = _split(line, here)
    if bare not in (None, index is None):
      raise UsageError(
        f'{here}: {line!r}; expected an index on every line or on none'
      )
    bare = index is None
    name = _class_in(path, known, here)
    if index is None:
      if name in indices:
        raise UsageError(f'{here}: class {name} is repeated')
      index = len(indices)
    if indices.setdefault(name, index) != index:
      raise UsageError(
        f'{here}: class {name} has index {index}, but {indices[name]} on an '
        'earlier line'
      )
    if owners.setdefault(index, name) != name:
      raise UsageError(
        f'{here}: index {index} is class {name}, but {owners[index]} on an '
        'earlier line'
      )
  missing = [name for name in names if name not in indices]
  if missing:
    raise UsageError(
      f'{where}: {len(missing)} of the {len(names)} classes have no line, '
      f'first {missing[0]}'
    )
  order = np.array([indices[name] for name in names], np.int64)
  if order.max() >= len(names) or order.min() < 0:
    raise UsageError(
      f'{where}: the indices are from {order.min()} to {order.max()}; expected '
      f'from 0 to {len(names) - 1}'
    )
  return order


def _split(line: str, here: str) -> tuple[str, int | None]:
  """The path and the index of a line; None if there is no index."""
  line = line.strip()
  path, *rest = line.rsplit('\t' if '\t' in line else None, 1)
  if not rest:
    return path, None
  try:
    return path, int(rest[0])
  except ValueError:
    raise UsageError(
      f'{here}: expected a path and an index, or the name of a class, got '
      f'{line!r}'
    ) from None


def _class_in(path: str, known: set[str], here: str) -> str:
  found = {part for part in path.strip().split('/') if part in known}
  if len(found) != 1:
    what = 'no class' if not found else 'more than one class'
    raise UsageError(
      f'{here}: {path!r} names {what} of the {len(known)} of the dataset'
    )
  return found.pop()
