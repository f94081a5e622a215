"""Runs a study: one run in this process, or all of them in others."""

import ctypes
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from maxsup_jax import errors, files, tasks
from maxsup_jax.errors import UsageError
from maxsup_jax.studies.study import Run, Study, directory
from maxsup_jax.training.signals import StopRequest

MEASURES_FILE = 'measures.json'
_FAILURES = 'failures.json'
# Seconds between looks at the processes, and at what they have done.
_POLL, _LOOK = 0.2, 2.0


def train_and_measure(
  study: Study, run: Run, workdir: Path, data_dir: str | None = None
) -> None:
  """Trains one run of a study, or resumes it, and measures it at the end.

  Args:
    study: whose run it is.
    run: which.
    workdir: of the study; the run has its own in it, see `directory`.
    data_dir: where datasets are prepared; None for the default of tfds.

  Raises:
    UsageError: if the run cannot be trained, one line.
    loop.Stopped: as in `loop.train`.
  """
  from maxsup_jax.studies import measuring
  from maxsup_jax.training import loop
  from maxsup_jax.training.provenance import versions

  path = directory(workdir, run)
  config = study.config(run, workdir)
  own = tasks.open_workdir(path, writes=True)
  own.check(config)
  built = tasks.build(config, data_dir=data_dir)
  loop.train(built, own)
  found, curves = measuring.measure(study, path, data_dir)
  record = {
    'kind': 'measures',
    'of': study.measured_with(run, workdir),
    'variant': run.variant,
    'seed': run.seed,
    'steps': built.total_steps,
    'versions': versions(),
    'device': built.devices.local[0].device_kind,
    'measures': found,
    'curves': curves,
  }
  text = json.dumps(files.jsonable(record), allow_nan=False)
  files.write(path / MEASURES_FILE, text + '\n')


def measured(study: Study, run: Run, workdir: Path) -> dict[str, Any] | None:
  """What `train_and_measure` wrote of a run; None if it has to be run.

  So it has if the study measures something else since.
  """
  path = directory(workdir, run) / MEASURES_FILE
  try:
    record = json.loads(path.read_text())
    same = record['of'] == study.measured_with(run, workdir)
  except (OSError, ValueError, LookupError, TypeError):
    return None
  return record if same else None


def progress_of(study: Study, run: Run, workdir: Path) -> float:
  """The share of its training that a run has logged, from 0 to 1."""
  config = study.config(run, workdir)
  number, unit = config.duration.split()
  try:
    lines = (directory(workdir, run) / 'metrics.jsonl').read_bytes()
    last = json.loads(lines.splitlines()[-1])
    done = last['epoch'] if unit.startswith('epoch') else last['step']
    return min(1.0, float(done) / float(number))
  except (OSError, ValueError, LookupError, TypeError):
    return 0.0


def failures(workdir: Path) -> dict[str, str]:
  """The runs that failed when they were last tried, and why."""
  try:
    found = json.loads((workdir / _FAILURES).read_text())
  except (OSError, ValueError):
    return {}
  return found if isinstance(found, dict) else {}


def run_all(
  study: Study,
  workdir: Path,
  command: Callable[[Run], Sequence[str]],
  *,
  shard: tuple[int, int] = (0, 1),
  jobs: int = 1,
) -> list[Run]:
  """Trains and measures what is not measured yet, each run in a process.

  A run that fails is named, and the others go on; its students are left out.
  After SIGTERM or SIGINT the runs save, and this ends; called again it goes on.

  Args:
    study: what to run.
    workdir: of the study; several machines may share it, each with a shard.
    command: the arguments of a process that calls `train_and_measure`.
    shard: see `Study.runs`.
    jobs: processes at a time. On a CPU each gets its share of the cores: two
      runs on a core each are faster than two in a row on both.

  Returns:
    The runs that failed.

  Raises:
    Interrupted: after a signal.
  """
  errors.integer('jobs', jobs, low=1)
  runs = study.runs(shard)
  waiting = [r for r in runs if measured(study, r, workdir) is None]
  done = len(runs) - len(waiting)
  failed: dict[Run, str] = {}
  cores = _cores(jobs)
  active: dict[int, tuple[Run, subprocess.Popen]] = {}
  (workdir / 'logs').mkdir(parents=True, exist_ok=True)
  with StopRequest() as request, _Progress(len(runs), done) as progress:
    try:
      while (waiting or active) and request.signal is None:
        for slot in range(jobs):
          ready = next(_ready(study, waiting, active, failed), None)
          if slot not in active and ready is not None:
            waiting.remove(ready)
            process = _start(ready, workdir, command(ready), cores[slot])
            active[slot] = ready, process
        for slot, (run, process) in list(active.items()):
          if process.poll() is None:
            continue
          del active[slot]
          if measured(study, run, workdir) is not None:
            progress.finish()
          elif request.signal is None:  # Else it may have been told, too.
            failed[run] = _reason(workdir, run, process.returncode)
            progress.say(f'{run.name} failed: {failed[run]}')
            for student in [r for r in waiting if _teacher(study, r) == run]:
              waiting.remove(student)
              failed[student] = f'its teacher {run.name} failed'
        current = [run for run, _ in active.values()]
        progress.show(current, lambda run: progress_of(study, run, workdir))
        time.sleep(_POLL)
    finally:
      for _, process in active.values():
        process.send_signal(signal.SIGTERM)
      for _, process in active.values():
        process.wait()
  known = failures(workdir)
  of_study = {run.name for run in study.runs()}
  known = {n: t for n, t in known.items() if n in of_study}
  known = {**known, **{r.name: t for r, t in failed.items()}}
  for run in runs:
    if measured(study, run, workdir) is not None:
      known.pop(run.name, None)
  files.write(workdir / _FAILURES, json.dumps(known, indent=2) + '\n')
  if request.signal is not None:
    raise Interrupted(request.signal)
  return list(failed)


class Interrupted(Exception):  # noqa: N818
  """The study was asked to stop; what runs had done is saved.

  Attributes:
    signal: the signal that asked.
  """

  def __init__(self, number: int):
    super().__init__(
      f'stopped by {signal.Signals(number).name}; the same command goes on'
    )
    self.signal = number


def _teacher(study: Study, run: Run) -> Run | None:
  variant = study.teacher(run.variant)
  return None if variant is None else Run(variant, run.seed)


def _ready(
  study: Study,
  waiting: Sequence[Run],
  active: dict[int, tuple[Run, subprocess.Popen]],
  failed: dict[Run, str],
) -> Iterator[Run]:
  """Runs that may start: those whose teacher is trained."""
  busy = {run for run, _ in active.values()} | set(waiting) | set(failed)
  return (r for r in waiting if _teacher(study, r) not in busy)


def _cores(jobs: int) -> list[set[int] | None]:
  """The cores of each process; None where it may use all."""
  if jobs == 1 or not hasattr(os, 'sched_getaffinity'):
    return [None] * jobs
  cores = sorted(os.sched_getaffinity(0))
  if jobs > len(cores):
    return [None] * jobs
  return [set(cores[i::jobs]) for i in range(jobs)]


# In the environment of a run: the process of the study that has started it.
_STUDY = 'MAXSUP_JAX_STUDY'
_PR_SET_PDEATHSIG = 1


def end_with_study() -> None:
  """Makes this process, a run, end at once where its study is killed.

  Otherwise it would hold its work directory when the study starts again. On
  Linux only, and only for what `run_all` has started.
  """
  study = os.environ.pop(_STUDY, None)
  if study is None or sys.platform != 'linux':
    return
  ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
  if os.getppid() != int(study):  # It was killed before this.
    os.kill(os.getpid(), signal.SIGKILL)


def _start(
  run: Run, workdir: Path, command: Sequence[str], cores: set[int] | None
) -> subprocess.Popen:
  """Starts a process, its output in a file of its own."""
  log = workdir / 'logs' / f'{run.name.replace("/", "-")}.txt'
  before = os.sched_getaffinity(0) if cores else None
  try:
    if cores:
      os.sched_setaffinity(0, cores)  # What a process starts inherits it.
    with log.open('wb') as out:
      # In a session of its own: a Ctrl-C is passed on once, by the study.
      return subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=out,
        stderr=subprocess.STDOUT,
        start_new_session=True,
        env=os.environ | {_STUDY: str(os.getpid())},
      )
  finally:
    if before:
      os.sched_setaffinity(0, before)


def _reason(workdir: Path, run: Run, code: int) -> str:
  """The last thing that a process said."""
  log = workdir / 'logs' / f'{run.name.replace("/", "-")}.txt'
  text = errors.printable(log.read_text(errors='replace'))
  lines = [line.strip() for line in re.split(r'[\r\n]', text) if line.strip()]
  said = errors.one_line(lines[-1]).removeprefix('error: ') if lines else ''
  ended = f'signal {-code}' if code < 0 else f'exit code {code}'
  return f'{said or "no output"} ({ended}; {log})'


class _Progress:
  """One line for all runs, with the time that is left."""

  def __init__(self, runs: int, done: int):
    self._bar = tqdm(
      total=runs,
      initial=done,
      unit='run',
      bar_format='{l_bar}{bar}| {n:.1f}/{total} runs '
      '[{elapsed}<{remaining}{postfix}]',
      mininterval=0.5 if sys.stderr.isatty() else 30,
    )
    self._done, self._looked = done, 0.0

  def __enter__(self) -> '_Progress':
    return self

  def __exit__(self, *_):
    self._bar.close()

  def say(self, text: str) -> None:
    self._bar.write(text, file=sys.stderr)

  def finish(self) -> None:
    self._done += 1
    self._looked = 0

  def show(self, current: Sequence[Run], share: Callable[[Run], float]):
    if time.monotonic() - self._looked < _LOOK:
      return
    self._looked = time.monotonic()
    # Measuring comes after training.
    now = self._done + sum(0.95 * share(run) for run in current)
    self._bar.set_postfix_str(
      ', '.join(run.name for run in current), refresh=False
    )
    self._bar.update(max(0.0, now - self._bar.n))


def check_workdir(study: Study, workdir: Path) -> None:
  """Refuses a directory that holds another study, or anything else."""
  if workdir.exists() and not workdir.is_dir():
    raise UsageError(f'the work directory {workdir} is a file')
  runs = workdir / 'runs'
  others = (
    [p.name for p in workdir.iterdir() if p.name not in _OURS]
    if workdir.exists() and not runs.exists()
    else []
  )
  if others:
    raise UsageError(f'{workdir} is not empty and has no study; choose another')
  for run in study.runs():
    path = directory(workdir, run)
    if (path / 'config.json').exists():
      tasks.open_workdir(path).check(study.config(run, workdir))


_OURS = ('runs', 'logs', _FAILURES, 'study.json', 'study.html', 'figures')
