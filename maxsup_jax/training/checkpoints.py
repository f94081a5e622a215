"""Checkpoints through orbax: the one file that knows `CheckpointManager`.

A checkpoint holds the state as host arrays, a small JSON document beside it,
and the checksums of its files. Orbax writes into a temporary directory and
renames it when all is on disk, so a run that is killed while saving keeps the
checkpoint before.
"""

import contextlib
import copy
import dataclasses
import json
import sys
import warnings
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from maxsup_jax import files
from maxsup_jax.errors import UsageError
from maxsup_jax.training import agreement

# The file of a checkpoint that holds the checksums of the others.
SEAL = 'checksums.json'
# What orbax writes last into a checkpoint in a bucket.
_MARK = 'commit_success.txt'


class Checkpoints:
  """The checkpoints of one run, by step.

  Every process of a run calls `save` and `restore` alike; the first one writes.
  """

  def __init__(self, directory: Path, *, keep: int | None = None):
    """Opens the directory.

    Args:
      directory: made at the first save.
      keep: how many of the newest checkpoints to keep; None for all.

    Attributes:
      best: a step that is kept besides, or None.
    """
    self.best: int | None = None
    self._directory = files.located(directory)
    if self._directory.exists() and not self._directory.is_dir():
      raise UsageError(
        f'{self._directory} is a file; expected a directory of checkpoints'
      )
    self._saving: int | None = None
    self._manager = ocp.CheckpointManager(
      self._directory,
      options=ocp.CheckpointManagerOptions(
        preservation_policy=None if keep is None else _Newest(self, keep),
        create=False,
        async_options=ocp.AsyncOptions(post_finalization_callback=self._seal),
      ),
    )

  def __enter__(self) -> 'Checkpoints':
    return self

  def __exit__(self, *_):
    self.close()

  def steps(self) -> list[int]:
    """The steps that have a checkpoint, in increasing order."""
    return sorted(self._manager.all_steps())

  def save(self, step: int, state: Any, extra: dict[str, Any]) -> None:
    """Starts to save, in the background; the arrays must not change.

    Args:
      step: names the checkpoint.
      state: a tree of host arrays, the same on every process.
      extra: what JSON can hold; it is copied.
    """
    self.wait()
    self._saving = step
    # It is written in the background, when the caller's may have changed.
    extra = copy.deepcopy(extra)
    # Where one array cannot be written, TensorStore prints a traceback for each
    # of the others, at any time from then on.
    if sys.unraisablehook is sys.__unraisablehook__:
      sys.unraisablehook = _without_closed_loops
    with self._one_line_errors():
      self._directory.mkdir(parents=True, exist_ok=True)
      self._manager.save(
        step,
        args=ocp.args.Composite(
          state=ocp.args.StandardSave(state), extra=ocp.args.JsonSave(extra)
        ),
      )

  def restore(self, step: int, like: Any) -> tuple[Any, dict[str, Any]]:
    """Reads one checkpoint.

    Args:
      step: which one.
      like: a tree with the structure, shapes and dtypes of the saved state;
        its values are not read.

    Returns:
      The state as host arrays, and the JSON document.

    Raises:
      UsageError: if there is no such checkpoint or it is damaged.
    """
    self._checked_path(step)
    return self._read(step, like)

  def restore_part(self, step: int, names: Sequence[str]) -> dict[str, Any]:
    """Reads some fields of a saved state, whatever they look like.

    Args:
      step: which checkpoint.
      names: of fields of the state, such as 'params'. The others are not read.

    Returns:
      The fields by name: trees of host arrays, of dictionaries and lists; None
      for a field that is None.

    Raises:
      UsageError: if there is no such checkpoint or it is damaged.
    """
    path = self._checked_path(step) / 'state'
    with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as checkpointer:
      saved = checkpointer.metadata(path).item_metadata.tree
      there = {name: saved[name] for name in names if saved[name] is not None}
      if not there:
        return dict.fromkeys(names)
      like = jax.tree.map(
        lambda x: np.broadcast_to(np.zeros((), x.dtype), x.shape), there
      )
      as_arrays = ocp.RestoreArgs(restore_type=np.ndarray)
      read = checkpointer.restore(
        path,
        args=ocp.args.PyTreeRestore(
          item=like,
          restore_args=jax.tree.map(lambda _: as_arrays, like),
          partial_restore=True,
        ),
      )
    return {name: read.get(name) for name in names}

  def restore_latest(self, like: Any) -> tuple[Any, dict[str, Any]] | None:
    """Reads the newest checkpoint that is whole.

    A damaged one is moved out of the way, to `damaged/` beside the checkpoints,
    with a warning that names it.

    Args:
      like: see `restore`.

    Returns:
      See `restore`; None if there is no checkpoint at all.

    Raises:
      UsageError: if there are checkpoints but none is whole.
    """
    # One decides for all: a file system may show each host another state.
    step, count = agreement.gather(
      self._choose() if jax.process_index() == 0 else None
    )[0]
    if step is not None:
      self.wait_for(step)
      # Its checksums have been looked at.
      return self._read(step, like)
    if count:
      raise UsageError(
        f'none of the {count} checkpoints in {self._directory} can be read; '
        'move the work directory away to restart from step 0'
      )
    return None

  def newest(self) -> int | None:
    """The newest step that has a checkpoint, the same for all processes."""
    step = agreement.gather(max(self.steps(), default=None))[0]
    if step is not None:
      self.wait_for(step)
    return step

  def chosen(self, step: int | None = None) -> int:
    """The step that is asked for, or else the newest; see `newest`.

    Raises:
      UsageError: if there is no checkpoint at all.
    """
    newest = self.newest()
    if newest is None:
      raise UsageError(f'no checkpoint in {self._directory}')
    return newest if step is None else step

  def wait_for(self, step: int) -> None:
    """Waits until all processes see the checkpoint that the first one sees.

    Raises:
      UsageError: if one does not.
    """
    if jax.process_count() > 1:
      path = self._directory / str(step) / SEAL
      agreement.require_seen('the checkpoints', self._directory, path.exists)
      self._manager.reload()

  def reached_preemption(self, step: int) -> bool:
    """Whether all processes agreed to stop at this step, on one's SIGTERM.

    Only runs of several processes are told so; all must ask at every step.
    """
    return self._manager.reached_preemption(step)

  def check(self) -> None:
    """Raises the error of a save in the background, if one has failed."""
    if self._saving is not None and not self._manager.is_saving_in_progress():
      self.wait()

  def wait(self) -> None:
    """Waits until everything saved is on disk.

    Raises:
      WriteError: if it cannot be written.
    """
    with self._one_line_errors():
      self._manager.wait_until_finished()
    self._saving = None

  @contextlib.contextmanager
  def _one_line_errors(self) -> Iterator[None]:
    try:
      yield
    except Exception as e:
      if not (isinstance(e, OSError) or files.is_of_storage(e)):
        raise
      path = self._directory / str(self._saving)
      raise files.unwritable(path, e) from e

  def close(self) -> None:
    """Waits, and frees the manager's threads."""
    self._manager.close()

  def _read(self, step: int, like: Any) -> tuple[Any, dict[str, Any]]:
    template = jax.tree.map(
      lambda x: np.broadcast_to(np.zeros((), x.dtype), x.shape), like
    )
    read = self._manager.restore(
      step,
      args=ocp.args.Composite(
        state=ocp.args.StandardRestore(template),
        extra=ocp.args.JsonRestore(),
      ),
    )
    # Orbax gives arrays of another shape as they are.
    found = jax.tree.leaves(read['state'])
    paths = jax.tree.leaves_with_path(like)
    for (path, expected), value in zip(paths, found, strict=True):
      if value.shape != expected.shape:
        name = jax.tree_util.keystr(path, simple=True, separator='/')
        raise UsageError(
          f'the checkpoint {self._directory / str(step)} does not match the '
          f'state: {name} is {list(value.shape)}; expected '
          f'{list(expected.shape)}'
        )
    return read['state'], read['extra']

  def _checked_path(self, step: int) -> Path:
    """Where a checkpoint is, being whole."""
    if step not in self.steps():
      raise UsageError(
        f'no checkpoint of step {step} in {self._directory}; known: '
        f'{", ".join(map(str, self.steps())) or "none"}'
      )
    path = self._directory / str(step)
    if damaged := _damaged_files(path):
      raise UsageError(f'the checkpoint {path} is damaged ({damaged[0]})')
    return path

  def _seal(self) -> None:
    """Writes the checksums of what was saved, before orbax renames it.

    Or, in a bucket, before it writes that all is there.
    """
    if jax.process_index() == 0:
      path = self._directory / str(self._saving)
      if not files.is_remote(path):
        path = max(
          self._directory.glob(f'{self._saving}.orbax-checkpoint-tmp*'),
          key=lambda p: p.stat().st_mtime,
        )
      seal = {'step': self._saving, 'files': _checksums(path)}
      (path / SEAL).write_text(json.dumps(seal, indent=2))

  def _choose(self) -> tuple[int | None, int]:
    """The newest step whose checkpoint is whole, and how many there were.

    Only the first process may do this: it moves damaged ones away.
    """
    steps = self.steps()
    damaged = []
    for step in reversed(steps):
      try:
        self._checked_path(step)
      except UsageError as e:
        warnings.warn(f'{e}; falling back to the one before', stacklevel=3)
        damaged.append(step)
        continue
      # Only now: as long as none is whole, nothing may look like a fresh start.
      for other in damaged:
        self._set_aside(other)
      return step, len(steps)
    return None, len(steps)

  def _set_aside(self, step: int) -> None:
    if files.is_remote(self._directory):
      # Nothing is renamed there. Without this mark it is no checkpoint, and is
      # removed at the next start.
      (self._directory / str(step) / _MARK).unlink()
      self._manager.reload()
      return
    target = self._directory.parent / 'damaged' / str(step)
    target.parent.mkdir(exist_ok=True)
    while target.exists():
      target = target.with_name(target.name + '~')
    (self._directory / str(step)).rename(target)
    self._manager.reload()


@dataclasses.dataclass
class _Newest:
  """Orbax's `PreservationPolicy` of the newest checkpoints and the best one."""

  checkpoints: Checkpoints
  keep: int

  def should_preserve(self, checkpoints: Any, *, context: Any) -> list[bool]:
    del context
    steps = [checkpoint.step for checkpoint in checkpoints]
    kept = {*sorted(steps)[-self.keep :], self.checkpoints.best}
    return [step in kept for step in steps]


def _without_closed_loops(unraisable: Any) -> None:
  closed = 'Event loop is closed'
  if not (
    unraisable.exc_type is RuntimeError and str(unraisable.exc_value) == closed
  ):
    sys.__unraisablehook__(unraisable)


def _checksums(path: Path) -> dict[str, int]:
  """The CRC-32 of every file that holds data.

  Of a bucket, which keeps checksums of its own, the number of bytes: to read a
  checkpoint back would take as long as to write it.
  """
  # Orbax stamps its own metadata with the time of the renaming.
  others = (SEAL, '_CHECKPOINT_METADATA')
  found = {
    name: size
    for name, size in files.listed(path).items()
    if name.rpartition('/')[2] not in others
  }
  if files.is_remote(path):
    return {n: size for n, size in found.items() if n != _MARK}
  return {name: zlib.crc32((path / name).read_bytes()) for name in found}


def _damaged_files(path: Path) -> list[str]:
  """What differs from the checksums."""
  try:
    seal = json.loads((path / SEAL).read_text())
    # Earlier versions wrote the checksums alone.
    expected = dict(seal.get('files', seal))
    step = seal.get('step', path.name) if 'files' in seal else path.name
    found = _checksums(path)
  except (OSError, ValueError, TypeError, AttributeError, RecursionError):
    return [f'{SEAL} cannot be read']
  if str(step) != path.name:
    return [f'it is that of step {step}']
  return [
    f'{name} is missing' if name not in found else f'{name} has changed'
    for name, checksum in expected.items()
    if found.get(name) != checksum
  ]
