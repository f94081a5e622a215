"""The training loop: restore, step, log, evaluate, save, stop."""

import contextlib
import signal
import sys
import time
from collections import deque
from typing import Any

import jax
import numpy as np
from tqdm import tqdm

from maxsup_jax import files
from maxsup_jax.errors import UsageError, one_line
from maxsup_jax.training import agreement
from maxsup_jax.training.best import best_step
from maxsup_jax.training.checkpoints import Checkpoints
from maxsup_jax.training.clock import Clock
from maxsup_jax.training.compilation import Compilations
from maxsup_jax.training.evaluation import evaluate
from maxsup_jax.training.run import Run
from maxsup_jax.training.signals import StopRequest
from maxsup_jax.training.sums import Window
from maxsup_jax.training.tensorboard import Tensorboard
from maxsup_jax.training.workdir import Workdir

# Steps whose metrics the host has not seen yet. It bounds how far the host
# runs ahead, and with it the memory of the batches that wait on the device.
LAG = 2


class Stopped(Exception):  # noqa: N818
  """The run was asked to stop, and saved a checkpoint first.

  Attributes:
    signal: the signal that asked.
  """

  def __init__(self, message: str, number: int):
    super().__init__(message)
    self.signal = number


class NonFiniteError(ArithmeticError):
  """The loss, the gradient or the parameters became NaN or infinite."""


def train(
  run: Run, workdir: Workdir, *, began: float | None = None
) -> list[dict[str, Any]]:
  """Trains until the end, from the newest checkpoint if there is one.

  At each step that asks for it, in this order: log, evaluate, diagnose, save.
  So the lines of `metrics.jsonl` up to a checkpoint are on disk before it is,
  and a run that is killed at any moment resumes as if it had never been. Where
  an image cannot be read, a checkpoint is saved all the same (by a single
  process only); a run that resumes from it evaluates first.

  Args:
    run: what to train, see `maxsup_jax.tasks.build`.
    workdir: where to write. A run of the same config there is resumed.
    began: the `time.perf_counter()` that the time to the first step counts
      from; None for now.

  Returns:
    The records of the last evaluation, as in `metrics.jsonl`; in the first
    process only, an empty list in others.

  Raises:
    UsageError: if the work directory is not this run's, or the weights to start
      from do not fit.
    Stopped: after SIGTERM or SIGINT to any of the processes, when a checkpoint
      is saved.
    NonFiniteError: when a number is not finite; no checkpoint holds it.
  """
  began = time.perf_counter() if began is None else began
  if jax.process_index() == 0 and not workdir.writes:
    raise UsageError(
      f'{workdir.path} is open for reading only; open it with writes=True'
    )
  with contextlib.ExitStack() as stack, _advising(workdir):
    if not workdir.has_checkpoints:
      run.check_first_state()
    programs = stack.enter_context(Compilations())
    examples = run.task.train_examples
    stack.enter_context(workdir.opened(run.config, train_examples=examples))
    checkpoints = Checkpoints(
      workdir.checkpoints, keep=run.config.keep_checkpoints
    )
    stack.callback(checkpoints.close)
    return _Loop(run, workdir, checkpoints, stack).run_to_end(began, programs)


@contextlib.contextmanager
def _advising(workdir):
  """Says what to do where the work directory cannot be written or read."""
  try:
    yield
  except files.WriteError as e:
    raise UsageError(f'{e}; {workdir.advice()}') from e
  except Exception as e:
    if not (files.is_remote(workdir.path) and files.is_of_storage(e)):
      raise
    raise UsageError(
      f'{workdir.path} cannot be used: {one_line(e)[:300]}; {workdir.advice()}'
    ) from e


class _Loop:
  """The loop's variables; each method is one of its parts."""

  def __init__(self, run, workdir, checkpoints, stack):
    restored = checkpoints.restore_latest(run.shapes)
    nothing: dict[str, Any] = {}
    state, extra = restored or (run.first_state(), nothing)
    examples = run.task.train_examples
    if extra.get('train_examples', examples) != examples:
      raise UsageError(
        f'{run.task.train_name} has {examples} examples; the run in '
        f'{workdir.path} started with {extra["train_examples"]}'
      )
    workdir.keep(run.task.files)
    self.run, self.workdir, self.checkpoints = run, workdir, checkpoints
    self.step = int(state.step)
    self.state = run.devices.replicate(state)
    self.eval_step = run.devices.map(run.eval_step())
    self.measurement = run.task.measurement(run.devices)
    # Splits with undefined measurements, once that has been said.
    self.undefined = set()
    # Sums of steps that the host has not seen, and the window of those it has.
    self.pending: deque[tuple[int, Any]] = deque()
    self.window = Window(extra.get('window'))
    self.clock = Clock(extra.get('seconds', 0.0))
    self.lap_step = self.step
    self.last_saved = self.step if restored else None
    # False where a bad image ended the evaluation of the step restored.
    self.measured = extra.get('measured', True)
    workdir.rewind(self.step, measured=self.measured)
    self.checkpoints.best = self.best()
    self.devices_before = workdir.last_device_count() if restored else None
    if self.step < run.total_steps:
      also = {} if restored else run.task.origin()
      workdir.record_start(self.step, run.devices.count, **also)
    first_process = jax.process_index() == 0
    self.tensorboard = stack.enter_context(
      Tensorboard(workdir.path, self.step, enabled=first_process)
    )
    # With several processes JAX itself watches for SIGTERM, so that all of them
    # agree on the step to stop at. One of them alone must not stop to save.
    self.asks_jax = jax.process_count() > 1
    self.request = stack.enter_context(
      StopRequest((signal.SIGINT,), passes_on=signal.SIGTERM)
      if self.asks_jax
      else StopRequest()
    )
    self.progress = stack.enter_context(
      tqdm(
        total=run.total_steps * run.config.batch_size,
        initial=self.step * run.config.batch_size,
        unit=f' {run.task.unit}',
        unit_scale=True,
        disable=not first_process,
        # A log file wants few lines, a terminal a lively one.
        mininterval=0.2 if sys.stderr.isatty() else 10,
      )
    )

  def run_to_end(self, began, programs):
    run = self.run
    self.say(f'{run.summary()}; writing to {self.workdir.path}')
    if self.step:
      self.say(f'resuming from the checkpoint of step {self.step}')
    self.say_what_differs()
    if not self.measured:
      self.measure()
    train_step = run.devices.map(run.train_step(), donate=True)
    batches = run.devices.stream(run.task.train_batches(self.step))
    first = self.step + 1
    while self.step < run.total_steps:
      self.state, sums = train_step(self.state, self.next_of(batches))
      self.step += 1
      self.pending.append((self.step, sums))
      self.collect(lag=LAG if self.step > first else 0)
      if self.step == first:
        self.lap_step = self.step
        self.clock.lap()
        self.say(
          f'first step after {time.perf_counter() - began:.1f} s; '
          f'{programs.compiled} programs compiled, {programs.read} read '
          'from the cache'
        )
      last = self.step == run.total_steps
      if last or self.step % run.log_every == 0:
        self.log()
      self.measure()
      stop = self.asked_to_stop()
      best = self.checkpoints.best == self.step
      if last or stop or best or self.step % run.checkpoint_every == 0:
        self.save()
      if stop and not last:
        self.checkpoints.wait()
        raise Stopped(
          f'stopped by {stop.name} at step {self.step} of {run.total_steps}; '
          f'saved in {self.workdir.path}; the same command resumes',
          stop,
        )
    self.checkpoints.wait()
    # Another machine may not see the lines of the first one at once.
    return last_evaluation(self.workdir) if jax.process_index() == 0 else []

  def next_of(self, batches):
    """A batch. One that cannot be read costs no steps."""
    self.checkpoints.check()
    with self.saved_first():
      return next(batches)

  @contextlib.contextmanager
  def saved_first(self):
    """Saves before what is wrong with the data ends the run."""
    try:
      yield
    except UsageError:
      # Other processes would know nothing of it.
      if jax.process_count() == 1 and self.step:
        self.save()
        self.checkpoints.wait()
      raise

  def say_what_differs(self):
    """Says which results depend on the number of devices, if it changed."""
    before, now = self.devices_before, self.run.devices.count
    fields = self.run.device_dependent
    if before not in (None, now) and fields:
      self.say(
        f'trained on {before} devices before and on {now} now; with '
        f'{" and ".join(fields)}, the results depend on their number'
      )

  def collect(self, lag=0):
    """Brings the sums of all but the last `lag` steps to the host."""
    while len(self.pending) > lag:
      step, sums = self.pending.popleft()
      sums = self.run.devices.fetch(sums)
      for name, (total, _) in sums.items():
        if not np.isfinite(total):
          self.checkpoints.wait()
          saved = (
            f'the last good checkpoint is that of step {self.last_saved} in '
            f'{self.workdir.checkpoints}'
            if self.last_saved is not None
            else 'no checkpoint was saved before it'
          )
          raise NonFiniteError(f'{name} is {total} at step {step}; {saved}')
      self.window.add(sums)
      self.progress.update(self.run.config.batch_size)

  def log(self):
    """Writes the means over the steps since the last such line."""
    self.collect()
    means, self.window = self.window.means(), Window()
    examples = (self.step - self.lap_step) * self.run.config.batch_size
    seconds, self.lap_step = self.clock.lap(), self.step
    # The first step compiles: it does not count.
    rate = examples / seconds if examples else None
    self.progress.set_postfix_str(
      f'objective {means["objective"]:.4f}', refresh=False
    )
    self.write('train', means, **{f'{self.run.task.unit}_per_second': rate})

  def measure(self):
    """Evaluates and diagnoses, if this step asks for it."""
    run, self.measured = self.run, False
    last = self.step == run.total_steps
    with self.saved_first():
      if last or self.step % run.eval_every == 0:
        self.evaluate()
      if run.diagnostics_every and (
        last or self.step % run.diagnostics_every == 0
      ):
        self.diagnose()
    self.measured = True

  def evaluate(self):
    """Writes the metrics of the evaluation split, raw and averaged weights."""
    self.collect()
    task = self.run.task
    with self.clock.paused():
      for weights in self.run.weights:
        sums = evaluate(
          self.eval_step,
          self.state,
          task.eval_batches(),
          self.run.devices,
          ema=weights == 'ema',
        )
        means = task.report(sums)
        self.write('eval', means, split=task.eval_split, weights=weights)
        self.say(
          f'step {self.step}: {task.eval_split} {task.headline(means)}'
          + (' (averaged weights)' if weights == 'ema' else '')
        )
    self.checkpoints.best = self.best()

  def best(self):
    """The step of the best evaluation, the same for all processes."""
    rule = self.run.config.keep_best
    if rule is None:
      return None
    first = jax.process_index() == 0
    records = self.workdir.metrics() if first else ()
    return agreement.gather(best_step(rule, records))[0]

  def diagnose(self):
    """Writes what the task measures of its splits."""
    self.collect()
    with self.clock.paused():
      for split in self.run.task.measured_splits:
        for weights in self.run.weights:
          variables = self.state.variables(ema=weights == 'ema')
          found = self.measurement(variables, split)
          self.write('diagnostics', found.record, split=split, weights=weights)
          self.say(
            f'step {self.step}: {split} {found.headline}'
            + (' (averaged weights)' if weights == 'ema' else '')
          )
          if found.problem and split not in self.undefined:
            self.undefined.add(split)
            self.say(f'diagnostics of {split} are undefined: {found.problem}')

  def save(self):
    """Starts to save a checkpoint, if this step has none."""
    self.collect()
    if self.last_saved == self.step:
      return
    with self.clock.paused():
      self.workdir.flush()
      self.checkpoints.save(
        self.step,
        self.run.devices.fetch(self.state),
        {
          'window': self.window.totals,
          'seconds': self.clock.seconds,
          'train_examples': self.run.task.train_examples,
          'measured': self.measured,
        },
      )
    self.last_saved = self.step

  def asked_to_stop(self):
    """The signal that asked the run to stop, or None."""
    if not self.asks_jax:
      return self.request.signal
    if self.checkpoints.reached_preemption(self.step):
      return self.request.signal or signal.SIGTERM
    return None

  def write(self, kind, means, **rest):
    epoch = self.step / self.run.steps_per_epoch
    record = {'kind': kind, 'step': self.step, 'epoch': epoch, **rest, **means}
    record['seconds'] = self.clock.seconds
    self.workdir.log(record)
    self.tensorboard.write(record)

  def say(self, text):
    if jax.process_index() == 0:
      self.progress.write(text, file=sys.stderr)


def last_evaluation(workdir: Workdir) -> list[dict[str, Any]]:
  """The records of a run's last evaluation, one for each set of weights."""
  records = [r for r in workdir.metrics() if r['kind'] == 'eval']
  if not records:
    raise UsageError(
      f'the run in {workdir.path} is finished, but its metrics.jsonl is '
      'gone; evaluate it with experiments.evaluate'
    )
  return [r for r in records if r['step'] == records[-1]['step']]
