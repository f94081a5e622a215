"""State dicts in files: those of torch.save, and safetensors."""

import argparse
import os
import pathlib
import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from maxsup_jax.errors import UsageError

# What torch.save writes, by whatever name; .tar is that of .pth.tar.
PICKLES = ('.pth', '.pt', '.ckpt', '.tar', '.bin')
SUFFIXES = (*PICKLES, '.safetensors')
# Under which of its names a checkpoint keeps the weights, as trained.
_WRAPPERS = ('state_dict', 'model', 'model_state_dict')


def is_torch_file(path: str | os.PathLike) -> bool:
  """Whether a path ends as files of PyTorch weights do, and is no directory."""
  path = pathlib.Path(path)
  return path.suffix in SUFFIXES and not path.is_dir()


def read(
  path: str | os.PathLike, *, key: str | None = None
) -> dict[str, np.ndarray]:
  """Reads a state dict from a file.

  Args:
    path: ends with .pth, .pt, .ckpt, .tar or .bin, as files of torch.save do,
      which need PyTorch, or with .safetensors, which needs the package of
      that name alone. Nothing in the file is executed: a pickle may hold
      arrays, plain values and an `argparse.Namespace`, which training scripts
      like to save.
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
  _check_suffix(path)
  if not path.is_file():
    raise UsageError(f'no file {path}')
  if path.suffix not in PICKLES:
    if key is not None:
      raise UsageError(f'{path} has no keys of checkpoints: expected none')
    return _read_safetensors(path)
  return {
    name: _numpy(value, f'{path}: {name}')
    for name, value in _unwrap(_read_pickle(path), key, path).items()
  }


def write(
  path: str | os.PathLike, state_dict: Mapping[str, np.ndarray]
) -> None:
  """Writes a state dict into a new file, all of it or nothing.

  Args:
    path: ends as in `read`. Its directory is made.
    state_dict: arrays by name.

  Raises:
    UsageError: one line, if the file is there already, cannot be written, or
      its package is missing.
  """
  path = pathlib.Path(path)
  _check_suffix(path)
  if path.exists():
    raise UsageError(f'{path} is there already; choose another file')
  # Neither package minds strides: safetensors writes the memory as it lies.
  arrays = {n: np.array(value, order='C') for n, value in state_dict.items()}
  temporary = path.with_name(f'.{path.name}.{os.getpid()}')
  if path.suffix in PICKLES:
    torch = _torch(path)
    content = {n: torch.from_numpy(value) for n, value in arrays.items()}
    save = torch.save
  else:
    content = arrays
    save = _safetensors(path).save_file
  try:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary.touch()
  except OSError as error:
    raise UsageError(f'{path} cannot be written: {error.strerror}') from None
  try:
    save(content, temporary)
    temporary.replace(path)
  finally:
    temporary.unlink(missing_ok=True)


def _check_suffix(path: pathlib.Path) -> None:
  if path.suffix not in SUFFIXES:
    raise UsageError(f'{path}: expected a name in {", ".join(SUFFIXES)}')


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
    raise UsageError(f'{path} cannot be read: {error}') from None
  except (AttributeError, KeyError, TypeError) as error:  # numpy.float8_...
    raise UsageError(
      f'{path} has arrays of a type that NumPy does not know ({error}); save '
      'them as float32'
    ) from None


def _read_pickle(path: pathlib.Path) -> Any:
  torch = _torch(path)
  try:
    with torch.serialization.safe_globals([argparse.Namespace]):
      return torch.load(path, map_location='cpu', weights_only=True)
  except Exception as error:  # a damaged file can fail in any way
    unknown = re.search(r'GLOBAL (\S+) (was not|whose module)', str(error))
    if unknown:
      raise UsageError(
        f'{path} holds a Python object, {unknown[1]}, which is not loaded '
        'because that could run any code; save the state dict alone'
      ) from None
    raise UsageError(
      f'{path} is damaged, or no file that torch.save wrote '
      f'({type(error).__name__})'
    ) from error


def _unwrap(
  loaded: Any, key: str | None, path: pathlib.Path
) -> Mapping[str, Any]:
  """The state dict in what was loaded."""
  if not isinstance(loaded, Mapping):
    raise UsageError(f'{path} holds a {type(loaded).__name__}, no state dict')
  inner = [k for k, value in loaded.items() if isinstance(value, Mapping)]
  if key is None:
    if not inner:
      return loaded
    key = next((k for k in _WRAPPERS if k in inner), None)
    if key is None:
      raise UsageError(
        f'{path} is a checkpoint; under which key are the weights? '
        f'{", ".join(map(str, inner))}'
      )
  if not isinstance(loaded.get(key), Mapping):
    raise UsageError(
      f'{path} has no state dict under {key!r}; '
      + (
        f'it has {", ".join(map(str, inner))}' if inner else 'it is one itself'
      )
    )
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
