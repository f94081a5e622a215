"""The work directory: its owner, and what is written into it.

`config.json`, `run.json` and `metrics.jsonl` are plain text; docs/training.md
says what they hold. Only the first process writes. In a bucket, where nothing
is appended to, metrics.jsonl is written whole: every `_EVERY` seconds, and
before a checkpoint, so that a run that resumes finds the lines before it.
"""

import contextlib
import fcntl
import json
import os
import secrets
import shutil
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from maxsup_jax import files
from maxsup_jax.errors import UsageError, one_line, within
from maxsup_jax.training import agreement, leases
from maxsup_jax.training import config as config_lib
from maxsup_jax.training.provenance import provenance, versions

# Packages whose version all processes of a run must have.
_SAME_VERSIONS = ('maxsup_jax', 'jax', 'jaxlib')
# Seconds between two writings of metrics.jsonl in a bucket.
_EVERY = 30.0


class Workdir:
  """A run's directory, opened for writing by its first process."""

  def __init__(
    self,
    path: str | os.PathLike,
    *,
    writes: bool = True,
    resolve: Callable[[Mapping[str, Any]], ConfigDict] = ConfigDict,
  ):
    """Names the directory; nothing is made yet.

    Args:
      path: of the directory.
      writes: False for all processes but the first.
      resolve: completes the configuration of an older run, which may lack
        fields of today.
    """
    self.path = files.located(path)
    self._remote = files.is_remote(path)
    self._writes = writes
    self._resolve = resolve
    # In a bucket: the lines of metrics.jsonl, and when they were written.
    self._lines: list[str] | None = None
    self._lease: leases.Lease | None = None
    self._written = (0, 0.0)

  @property
  def writes(self) -> bool:
    """Whether this process writes here."""
    return self._writes

  @property
  def checkpoints(self) -> Path:
    """The directory of the checkpoints."""
    return self.path / 'checkpoints'

  @property
  def has_checkpoints(self) -> bool:
    """Whether a run here has saved anything."""
    return self.checkpoints.exists() and any(self.checkpoints.glob('*'))

  def advice(self) -> str:
    """What to say to whoever sees a run here end before its time."""
    if self._remote:  # It may be the bucket that is gone.
      return f'the same command resumes from the last checkpoint in {self.path}'
    # While orbax writes, a directory has a longer name.
    steps = [
      int(p.name) for p in self.checkpoints.glob('*') if p.name.isdigit()
    ]
    if not steps:
      return f'no checkpoint is in {self.path}; the same command starts again'
    return (
      f'the last checkpoint in {self.path} is that of step {max(steps)}; the '
      'same command resumes'
    )

  @property
  def _metrics(self) -> Path:
    return self.path / 'metrics.jsonl'

  def config(self) -> ConfigDict:
    """Reads the configuration of the run that is here.

    Raises:
      UsageError: if there is none, or it cannot be read.
    """
    path = self.path / 'config.json'
    files.refuse_irregular(path)
    try:
      given = json.loads(path.read_text())
    except FileNotFoundError:
      raise UsageError(
        f'{self.path} is not the work directory of a run: it has no config.json'
      ) from None
    except Exception as e:
      expected = (OSError, ValueError, RecursionError)
      if not (self._remote or isinstance(e, expected)):
        raise
      reason = getattr(e, 'strerror', None) or one_line(e)
      raise UsageError(f'{path} cannot be read: {reason[:300]}') from None
    with within(f'{path}: '):
      return self._resolve(given)

  def check(self, config: ConfigDict) -> None:
    """Refuses a directory that holds anything but a run of this config.

    Raises:
      UsageError: which names what differs. Nothing is written.
    """
    with files.one_line_errors(self.path):
      if not self.path.exists():
        if self._remote:
          leases.check_bucket(self.path)
        else:
          # The first one of those above it that is there.
          os.stat(f'{next(p for p in self.path.parents if p.exists())}/')
        return
    if not self.path.is_dir():
      raise UsageError(f'the work directory {self.path} is a file')
    if not (self.path / 'config.json').exists():
      # What a run leaves that was killed before its config was in place.
      ours = ('.lock', '.config.json.')
      if all(p.name.startswith(ours) for p in self.path.iterdir()):
        return
      raise UsageError(
        f'the work directory {self.path} is not empty and has no run; choose '
        'another'
      )
    different = config_lib.differences(self.config(), config)
    if different:
      raise UsageError(
        f'the work directory {self.path} has a run of another config '
        f'({"; ".join(different)}); choose another'
      )

  @contextlib.contextmanager
  def opened(self, config: ConfigDict, **facts: Any) -> Iterator[None]:
    """Takes the directory for this run, until the context ends.

    Args:
      config: of the run.
      **facts: what else is the same in all processes of a run.

    Raises:
      UsageError: if it holds another run, or another process is using it; if
        the processes do not run the same, or do not share the directory.
    """
    self.check(config)
    # Nobody writes before everybody has looked.
    found = versions()
    packages = {name: found.get(name) for name in _SAME_VERSIONS}
    agreement.require_same(config, **facts, **packages)
    with self._locked(config) if self._writes else contextlib.nullcontext():
      if agreement.process_count() > 1:
        self._require_shared()
      yield

  @contextlib.contextmanager
  def _locked(self, config: ConfigDict) -> Iterator[None]:
    if self._remote:
      with leases.held(self.path / '.lock') as lease:
        self._lease = lease
        self._clean()
        self._keep_config(config)
        try:
          yield
        finally:
          self.flush()
      return
    try:
      self.path.mkdir(parents=True, exist_ok=True)
      lock = (self.path / '.lock').open('w')
    except OSError as e:
      raise UsageError(
        f'the work directory {self.path} cannot be written: {e.strerror}'
      ) from None
    with lock:
      try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
      except BlockingIOError:
        raise UsageError(
          f'another process is training in the work directory {self.path}'
        ) from None
      # What processes left here that were killed while they wrote.
      for name in ('config.json', 'run.json', 'metrics.jsonl'):
        files.remove_leftovers(self.path / name, older_than=0)
      for left in self.checkpoints.glob('*.orbax-checkpoint-tmp*'):
        shutil.rmtree(left, ignore_errors=True)
      self._keep_config(config)
      yield

  def _clean(self) -> None:
    """Removes checkpoints in a bucket that were never finished."""
    if not self.checkpoints.exists():
      return
    for step in self.checkpoints.iterdir():
      if not (step / 'commit_success.txt').exists():
        files.remove_all(step)

  def _keep_config(self, config: ConfigDict) -> None:
    if not (self.path / 'config.json').exists():
      files.write(self.path / 'config.json', config_lib.to_json(config))

  def _require_shared(self) -> None:
    """Refuses processes that do not see what the first one writes."""
    # A name that is new: nobody's file system can remember that it was not
    # there, and it is not there from an older run.
    name = agreement.gather(f'.shared-{secrets.token_hex(8)}')[0]
    mark = self.path / name
    if self._writes:
      mark.touch()
    agreement.gather('written')
    try:
      agreement.require_seen('the files', self.path, mark.exists)
    finally:
      if self._writes:
        mark.unlink()

  def keep(self, contents: Mapping[str, bytes]) -> None:
    """Writes files that belong to the run; those that are there must be equal.

    Args:
      contents: of the files, by their names.

    Raises:
      UsageError: if another content is there.
    """
    for name, content in contents.items():
      path = self.path / name
      if path.exists():
        if path.read_bytes() != content:
          raise UsageError(
            f'{path} is not what the data of this run give; expected the data '
            'that it started with, or another work directory'
          )
      elif self._writes:
        files.write(path, content)

  def record_start(self, step: int, device_count: int, **also: Any) -> None:
    """Adds this start to `run.json`: the command and what it runs on.

    Args:
      step: the step that training starts or resumes from.
      device_count: devices of all processes.
      **also: what else there is to know of this start.
    """
    if not self._writes:
      return
    import jax

    path = self.path / 'run.json'
    starts = self._starts()
    if starts is None:
      self._set_aside(path)
      starts = []
    starts.append(
      {
        'step': step,
        **also,
        **provenance(),
        'devices': {
          'count': device_count,
          'kind': jax.devices()[0].device_kind,
          'platform': jax.default_backend(),
          'processes': jax.process_count(),
        },
      }
    )
    files.write(path, json.dumps({'starts': starts}, indent=2) + '\n')

  def last_device_count(self) -> int | None:
    """Devices of all processes at the last start in `run.json`, if any."""
    try:
      return (self._starts() or [])[-1]['devices']['count']
    except (LookupError, TypeError):
      return None

  def origin(self, name: str) -> Any:
    """What `run.json` says of where the run came from; None if nothing."""
    first = (self._starts() or [{}])[0]
    return first.get(name) if isinstance(first, dict) else None

  def _starts(self) -> list[Any] | None:
    """The starts in `run.json`; None if it cannot be read."""
    try:
      starts = json.loads((self.path / 'run.json').read_text())['starts']
    except FileNotFoundError:
      return []
    except (OSError, ValueError, LookupError, TypeError, RecursionError):
      return None
    return starts if isinstance(starts, list) else None

  def _set_aside(self, path: Path) -> None:
    """Keeps what cannot be read, out of the way of what is written next."""
    target = path.with_name(f'{path.name}.damaged')
    warnings.warn(
      f'{path} cannot be read; it is kept as {target.name}', stacklevel=3
    )
    path.replace(target)

  def metrics(self) -> list[dict[str, Any]]:
    """Reads `metrics.jsonl`; a last line that was cut short is left out.

    So are others that cannot be read, with a warning.
    """
    records, bad = self._records()
    if bad:
      warnings.warn(
        f'{self._metrics}: line {bad[0]} cannot be read and is left out',
        stacklevel=2,
      )
    return records

  def _records(self) -> tuple[list[dict[str, Any]], list[int]]:
    """The records of `metrics.jsonl`, and the numbers of its bad lines."""
    self.flush()
    if not self._metrics.exists():
      return [], []
    records: list[dict[str, Any]] = []
    bad = []
    text = self._metrics.read_bytes().decode(errors='replace')
    for number, line in enumerate(text.split('\n')[:-1], 1):
      try:
        record = json.loads(line)
        if not {'kind', 'step'} <= record.keys():
          raise ValueError
      except (ValueError, AttributeError, RecursionError):
        bad.append(number)
      else:
        records.append(record)
    return records, bad

  def log(self, record: Mapping[str, Any]) -> None:
    """Appends one line to `metrics.jsonl`, on disk before it returns.

    In a bucket it is there after `flush`, or half a minute.
    """
    if not self._writes:
      return
    if self._remote:
      self._own_lines().append(json.dumps(files.jsonable(record)) + '\n')
      if time.monotonic() - self._written[1] >= _EVERY:
        self.flush()
      return
    with files.one_line_errors(self._metrics), self._metrics.open('a') as file:
      file.write(json.dumps(files.jsonable(record)) + '\n')
      file.flush()
      os.fsync(file.fileno())

  def _own_lines(self) -> list[str]:
    """The lines of `metrics.jsonl` in a bucket, of which this is the writer."""
    if self._lines is None:
      text = self._metrics.read_text() if self._metrics.exists() else ''
      self._lines = text.splitlines(keepends=True)
      self._written = (len(self._lines), time.monotonic())
    return self._lines

  def flush(self) -> None:
    """Writes what `log` has kept back, as it does in a bucket.

    Raises:
      UsageError: if another process has taken over a directory there.
    """
    if self._lease:
      self._lease.check()
    if self._lines is None or len(self._lines) == self._written[0]:
      return
    files.write(self._metrics, ''.join(self._lines))
    self._written = (len(self._lines), time.monotonic())

  def rewind(self, step: int, *, measured: bool = True) -> None:
    """Drops the lines of `metrics.jsonl` that training will write again.

    Args:
      step: what training resumes from; later lines go.
      measured: False if evaluation and diagnostics of this very step will be
        written again, too.
    """
    if not self._writes or not self._metrics.exists():
      return
    records, bad = self._records()
    if bad:
      self._set_aside(self._metrics)
    kept = [
      r
      for r in records
      if r['step'] < step
      or (r['step'] == step and (measured or r['kind'] == 'train'))
    ]
    files.write(
      self._metrics, ''.join(json.dumps(record) + '\n' for record in kept)
    )
    self._lines = None
