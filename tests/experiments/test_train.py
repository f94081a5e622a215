"""Runs that are stopped, killed, resumed and shared by several processes."""

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
import pytest

from maxsup_jax import tasks
from maxsup_jax.data import batch_indices
from maxsup_jax.training.workdir import Workdir
from tests.runs import assert_same_bits, last_state, timeless

# None of these may take longer to end, on a machine that does much else.
PATIENCE = 240
ALTERED = 'tests.experiments.altered'
SLOWLY = {'SLOW': '0.3'}
SMALL = (
  '--config.model.name=tests.nets:Small',
  '--config.schedule.warmup=4 steps',
  '--config.batch_size=32',
  '--config.log_every=4 steps',
  '--config.eval_every=20 steps',
  '--config.checkpoint_every=6 steps',
  '--config.keep_checkpoints=20',
)
STEPS = '--config.duration=40 steps'


class Whole(NamedTuple):
  path: str
  out: str
  err: str


@pytest.fixture(scope='module')
def whole(run_program, tmp_path_factory):
  """A run of one process with one device, never interrupted."""
  path = tmp_path_factory.mktemp('whole') / 'run'
  given = f'--workdir={path}', STEPS, *SMALL
  code, out, err = run_program('train', *given, for_real=True)
  assert code == 0, err
  return Whole(path, out, err)


@pytest.fixture
def start(program):
  """Starts processes that are told by flags where to meet."""

  def start(count, name, *arguments, each=None, **kwargs):
    with socket.socket() as s:
      s.bind(('localhost', 0))
      port = s.getsockname()[1]
    met = f'--coordinator=localhost:{port}', f'--num_processes={count}'
    return [
      program(
        name,
        *arguments,
        *met,
        f'--process_id={i}',
        # Of a flag that is given twice the last one counts.
        *(each(i) if each else ()),
        **kwargs,
      )
      for i in range(count)
    ]

  return start


@pytest.fixture
def srun(program):
  """Starts two processes as SLURM does, with nothing but its variables."""

  def srun(name, *arguments, **kwargs):
    with socket.socket() as s:
      s.bind(('localhost', 0))
      port = str(s.getsockname()[1])
    return [
      program(
        name,
        *arguments,
        **kwargs,
        SLURM_JOB_ID='1234',
        SLURM_STEP_NODELIST='localhost',
        SLURM_NTASKS='2',
        SLURM_STEP_NUM_TASKS='2',
        SLURM_STEP_NUM_NODES='2',
        SLURM_PROCID=str(i),
        SLURM_LOCALID='0',
        JAX_COORDINATOR_PORT=port,
      )
      for i in range(2)
    ]

  return srun


def ends(processes):
  """Exit codes, and what each has written to stdout and stderr."""
  written = [p.communicate(timeout=PATIENCE) for p in processes]
  codes = [p.returncode for p in processes]
  return codes, [w[0] for w in written], [w[1] for w in written]


def wait_for_lines(path, count, process):
  """Until a run has written so many lines of metrics, or has ended."""
  file = path / 'metrics.jsonl'
  while process.poll() is None:
    if file.exists() and file.read_text().count('\n') >= count:
      return
    time.sleep(0.001)


def last_line(text):
  return text.strip().splitlines()[-1]


def starts_of(path):
  return json.loads((path / 'run.json').read_text())['starts']


def state_of(path, data_dir):
  """What `last_state` gives for the run of a directory."""
  run = tasks.build(Workdir(path).config(), data_dir=data_dir, training=False)
  return last_state(run, path)


def assert_close(a, b, data_dir):
  """The same states and records, but for rounding."""
  jax.tree.map(
    lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-5),
    *(state_of(path, data_dir)[0] for path in (a, b)),
  )
  a, b = timeless(a), timeless(b)
  assert [x['step'] for x in a] == [x['step'] for x in b]
  for x, y in zip(a, b):
    assert x.keys() == y.keys()
    for key in x:
      expected = y[key]
      if not isinstance(expected, str):
        expected = pytest.approx(expected, rel=1e-4, abs=1e-5)
      assert x[key] == expected


def assert_same(a, b, data_dir):
  assert_same_bits(state_of(a, data_dir), state_of(b, data_dir))
  assert timeless(a) == timeless(b)


# ---- One process -------------------------------------------------------------


def test_a_first_run_prints_a_table_and_its_directory(whole):
  lines = whole.out.splitlines()
  rows = dict(line.rsplit(None, 1) for line in lines if ' ' in line.strip())
  rows = {name.strip(): value for name, value in rows.items()}
  assert rows.keys() >= {'accuracy', 'top-5 accuracy', 'NLL', 'ECE, 15 bins'}
  last = timeless(whole.path)[-1]
  assert rows['objective'] == f'{last["objective"]:.4f}'
  assert lines[-1] == f'work directory: {whole.path}'
  assert 'images/s' in whole.err
  assert '1,442 training images' in whole.err


def test_evaluate_gives_the_numbers_that_training_printed(
  run_program, whole, tmp_path
):
  out = tmp_path / 'out.jsonl'
  to = f'--workdir={whole.path}', f'--out={out}'
  code, evaluated, err = run_program('evaluate', *to)
  assert code == 0, err
  assert evaluated.strip() == whole.out.split('\nwork directory')[0].strip()
  last = timeless(whole.path)[-1]
  assert json.loads(out.read_text()).items() <= last.items()


@pytest.mark.slow
def test_two_processes_evaluate_an_older_checkpoint(srun, whole, tmp_path):
  out = tmp_path / 'out.jsonl'
  arguments = f'--workdir={whole.path}', f'--out={out}'
  codes, outs, errs = ends(
    srun('evaluate', *arguments, '--split=train', '--step=6')
  )
  assert (codes, errs) == ([0, 0], ['', ''])
  assert 'accuracy' in outs[0]
  # Gloo, which joins CPUs, greets on its own.
  assert 'accuracy' not in outs[1]
  record = json.loads(out.read_text())
  assert (record['split'], record['step']) == ('train', 6)
  assert record['examples'] == 1442


@pytest.mark.parametrize(
  'number',
  [
    signal.SIGTERM,
    pytest.param(signal.SIGINT, marks=pytest.mark.slow),
    pytest.param(signal.SIGKILL, marks=pytest.mark.slow),
  ],
)
def test_killed_or_asked_to_stop_it_resumes_exactly(
  program, run_program, whole, tmp_path, data_dir, number
):
  path = tmp_path / 'run'
  arguments = (f'--workdir={path}', STEPS, *SMALL)
  process = program('train', *arguments)
  wait_for_lines(path, 4, process)
  process.send_signal(number)
  _, err = process.communicate()
  if number == signal.SIGKILL:
    assert process.returncode == -number
  else:
    assert process.returncode == 128 + number, err
    assert f'stopped by {number.name} at step' in last_line(err)
    assert 'the same command resumes' in last_line(err)
  code, _, err = run_program('train', *arguments)
  assert code == 0, err
  assert 'resuming from the checkpoint of step' in err
  assert_same(path, whole.path, data_dir)


@pytest.fixture
def with_workers(program, tmp_path):
  """Starts training with two data workers, in a process group of its own."""

  def start(path, *arguments):
    before = set(os.listdir('/dev/shm'))
    process = program(
      *(ALTERED, f'--workdir={path}', STEPS, *SMALL, *arguments),
      **SLOWLY,
      group=True,
    )
    wait_for_lines(path, 1, process)
    return process, before

  return start


def members(group):
  """The processes of a group that have not ended."""
  found = []
  for directory in Path('/proc').glob('[0-9]*'):
    with contextlib.suppress(OSError):
      state, _, its = (
        (directory / 'stat').read_text().rsplit(')')[1].split()[:3]
      )
      if int(its) == group and state != 'Z':
        found.append(directory.name)
  return found


WORKERS = ('--config.dataset.workers=2', '--config.dataset.in_memory=False')


@pytest.mark.slow
@pytest.mark.parametrize('number', [signal.SIGTERM, signal.SIGINT])
def test_a_signal_to_the_workers_too(
  with_workers, run_program, whole, tmp_path, data_dir, number
):
  path = tmp_path / 'run'
  process, _ = with_workers(path, *WORKERS)
  os.killpg(process.pid, number)
  _, err = process.communicate(timeout=PATIENCE)
  assert process.returncode == 128 + number, err
  assert f'stopped by {number.name} at step' in last_line(err)
  assert 'saved in' in last_line(err)
  assert 'Traceback' not in err
  assert members(process.pid) == []
  code, _, err = run_program('train', f'--workdir={path}', STEPS, *SMALL)
  assert code == 0, err
  assert_same(path, whole.path, data_dir)


@pytest.mark.slow
def test_workers_end_with_a_killed_parent(with_workers, tmp_path):
  process, shared = with_workers(tmp_path / 'run', *WORKERS)
  assert len(members(process.pid)) > 2
  process.kill()
  process.wait()
  until = time.monotonic() + 5
  while members(process.pid) and time.monotonic() < until:
    time.sleep(0.1)
  assert members(process.pid) == []
  process.communicate()
  assert set(os.listdir('/dev/shm')) <= shared


@pytest.mark.slow
def test_a_full_disk_is_one_line_and_goes_on(
  run_program, whole, tmp_path, data_dir
):
  small = tmp_path / 'small'
  small.mkdir()
  mount = ['mount', '-t', 'tmpfs', '-o', 'size=1500k', 'tmpfs', str(small)]
  if (
    shutil.which('mount') is None
    or subprocess.run(mount, capture_output=True).returncode
  ):
    pytest.skip('no mount is permitted')
  path, rest = small / 'run', small / 'rest'
  try:
    rest.write_bytes(bytes(1_300_000))
    arguments = ('train', f'--workdir={path}', STEPS, *SMALL)
    code, _, err = run_program(*arguments)
    assert code == 2, err
    assert last_line(err).startswith('error: ')
    assert 'no space is left on the disk' in last_line(err)
    assert 'Traceback' not in err
    rest.unlink()
    code, _, err = run_program(*arguments)
    assert code == 0, err
    assert_same(path, whole.path, data_dir)
  finally:
    subprocess.run(['umount', str(small)], check=True)


# ---- Several processes -------------------------------------------------------


def test_two_processes_train_as_one(srun, whole, data_dir):
  path = whole.path.parent / 'both'
  codes, outs, errs = ends(srun('train', f'--workdir={path}', STEPS, *SMALL))
  assert codes == [0, 0], errs
  assert [x for x in outs[1].splitlines() if '[Gloo]' not in x] == []
  assert errs[1] == ''
  assert_close(whole.path, path, data_dir)


@pytest.mark.slow
def test_two_processes_are_stopped_and_resumed(
  start, srun, run_program, whole, data_dir
):
  """Stopped by a SIGTERM to one, resumed by both, and finished without one."""
  path = whole.path.parent / 'two'
  arguments = (f'--workdir={path}', STEPS, *SMALL)
  processes = srun(ALTERED, *arguments, **SLOWLY)
  wait_for_lines(path, 2, processes[0])
  processes[1].send_signal(signal.SIGTERM)
  codes, _, errs = ends(processes)
  assert codes == [143, 143], errs
  assert 'stopped by SIGTERM at step' in last_line(errs[0])
  # JAX says that it has caught it.
  assert [x for x in errs[1].splitlines() if 'preemption_not' not in x] == []
  stopped_at = int((errs[0].split('at step ')[-1]).split()[0])
  assert 8 <= stopped_at < 40

  processes = start(2, ALTERED, *arguments, **SLOWLY)
  written = (path / 'metrics.jsonl').read_text().count('\n')
  wait_for_lines(path, written + 2, processes[0])
  processes[1].kill()
  codes, outs, errs = ends(processes)
  assert codes == [3, -signal.SIGKILL], errs
  assert f'resuming from the checkpoint of step {stopped_at}' in errs[0]
  written = [p.name for p in (path / 'checkpoints').iterdir()]
  newest = max(int(name) for name in written if name.isdigit())
  assert last_line(errs[0]) == (
    f'error: process 1 of 2 is gone; the last checkpoint in {path} is that of '
    f'step {newest}; the same command resumes'
  )
  assert [x for x in outs[1].splitlines() if '[Gloo]' not in x] == []
  assert errs[1] == ''

  code, _, err = run_program('train', *arguments, devices=2)
  assert code == 0, err
  assert f'resuming from the checkpoint of step {newest}' in err
  starts = starts_of(path)
  assert [s['step'] for s in starts] == [0, stopped_at, newest]
  assert [s['devices']['processes'] for s in starts] == [2, 2, 1]
  # Written once: the second process adds nothing to a checkpoint.
  written = sorted(int(p.name) for p in (path / 'checkpoints').iterdir())
  assert written == sorted({6, 12, 18, 24, 30, 36, 40, stopped_at})
  assert not list((path / 'checkpoints').rglob('*process_1*'))
  assert_close(whole.path, path, data_dir)


def test_who_runs_something_else_is_refused(start, tmp_path):
  path = tmp_path / 'run'
  codes, _, errs = ends(
    start(
      2,
      'train',
      f'--workdir={path}',
      each=lambda i: [f'--config.seed={7 * i}'],
    )
  )
  assert codes == [2, 2], errs
  assert errs == [
    'error: process 0 and process 1 differ (config.seed: 0 and 7); start all '
    'processes with the same command\n',
    '',
  ]
  assert not path.exists()


def test_nobody_else_comes(program):
  process = program(
    'train',
    *('--coordinator=localhost:9', '--num_processes=2', '--process_id=1'),
    '--join_timeout=2',
  )
  codes, _, errs = ends([process])
  assert codes == [2]
  assert errs == [
    'error: process 1 of 2 waits for the others at localhost:9; gave up after '
    '2 s (--join_timeout)\n'
  ]


def test_where_nobody_can_meet(program):
  with socket.socket() as s:
    s.bind(('localhost', 0))
    s.listen()
    taken = f'localhost:{s.getsockname()[1]}'
    for place, error in (
      (taken, f'--coordinator is {taken}, but port {taken[10:]} of this host'),
      (
        'nobody.invalid:9',
        '--coordinator is nobody.invalid:9; expected a host',
      ),
    ):
      process = program(
        *('train', f'--coordinator={place}', '--num_processes=2'),
        '--process_id=0',
      )
      codes, _, (err,) = ends([process])
      assert codes == [2]
      assert err.startswith(f'error: {error}')
      assert err.count('\n') == 1


@pytest.mark.slow
def test_numbers_of_processes_that_do_not_fit(start, tmp_path):
  """The count that is given last counts."""
  path = f'--workdir={tmp_path / "run"}'
  codes, _, errs = ends(
    start(2, 'train', path, each=lambda i: [f'--num_processes={2 + i}'])
  )
  assert codes == [2, 2]
  assert errs == 2 * [
    'error: --num_processes is 3 in process 1 and 2 in process 0; start all '
    'processes with the same number\n'
  ]


@pytest.mark.slow
def test_one_that_comes_to_a_run_that_goes_on(start, program, tmp_path):
  path = tmp_path / 'run'
  arguments = (f'--workdir={path}', *SMALL, '--config.duration=99 epochs')
  processes = start(2, ALTERED, *arguments, **SLOWLY)
  wait_for_lines(path, 1, processes[0])
  codes, _, errs = ends([program(*processes[1].args[2:])])
  assert codes == [2]
  assert errs[0].startswith('error: --process_id is 1, but the processes at')
  assert errs[0].count('\n') == 1
  processes[0].terminate()
  codes, _, errs = ends(processes)
  assert codes == [143, 143], errs


@pytest.mark.slow
@pytest.mark.parametrize(
  ('name', 'arguments', 'error'),
  [
    ('train', ['--config.batch_size=33'], 'config.batch_size is 33; expected'),
    ('extract', [], 'extract runs in one process, not in several'),
  ],
)
def test_what_is_wrong_is_said_once(srun, tmp_path, name, arguments, error):
  processes = srun(name, f'--workdir={tmp_path / "run"}', *arguments)
  codes, _, errs = ends(processes)
  assert codes == [2, 2]
  assert errs[0].startswith(f'error: {error}')
  assert errs[0].count('\n') == 1
  assert errs[1] == ''


@pytest.mark.slow
def test_a_work_directory_that_is_not_shared(start, tmp_path):
  """At the first start, and where a run is there already."""
  paths = [tmp_path / 'a', tmp_path / 'b']
  for _ in range(2):
    codes, _, errs = ends(
      start(
        2,
        ALTERED,
        each=lambda i: [f'--workdir={paths[i]}'],
        PATIENCE='1',
      )
    )
    assert codes == [2, 2], errs
    assert errs == [
      'error: process 1 does not see the files of process 0 in '
      f'{paths[0]}; all processes must share the work directory\n',
      '',
    ]
    left = sorted(p.name for p in paths[0].iterdir())
    assert left == ['.lock', 'config.json']
    if not paths[1].exists():
      shutil.copytree(*paths)


def rows(examples, steps, process, count):
  """How often a process reads each example, in so many steps of 32."""
  b = 32 // count
  return Counter(
    index
    for step in range(steps)
    for index in batch_indices(examples, batch_size=32, seed=0, step=step)[
      process * b : (process + 1) * b
    ].tolist()
  )


@pytest.mark.slow
def test_each_process_reads_its_part(start, tmp_path):
  """And all end where one cannot read an example, and go on when it can."""
  path, reads, count = tmp_path / 'run', tmp_path / 'reads', 4
  examples, evaluated, steps = 1442, 355, 6
  bad = batch_indices(examples, batch_size=32, seed=0, step=4)[-1]
  train, test = 'digits/train', 'digits/test'
  arguments = (
    ALTERED,
    f'--workdir={path}',
    f'--config.duration={steps} steps',
    *SMALL,
    '--config.checkpoint_every=2 steps',
    '--config.dataset.in_memory=False',
    '--config.dataset.num_threads=1',
  )
  name = f'{reads}-bad-'
  processes = start(count, *arguments, READS=name, BAD=f'{train} {bad}')
  codes, _, errs = ends(processes)
  assert codes == [2] * count, errs
  assert last_line(errs[0]) == (
    f'error: process 3 of 4: {train}: example {bad} cannot be read'
  )
  assert errs[1:] == [''] * (count - 1)

  codes, _, errs = ends(start(count, *arguments, READS=f'{reads}-'))
  assert codes == [0] * count, errs
  began = starts_of(path)[1]['step']
  assert began in (2, 4)
  seen = Counter()
  for p in range(count):
    found = {train: Counter(), test: Counter()}
    for line in (tmp_path / f'reads-{p}').read_text().splitlines():
      split, index = line.split()
      # The first example is read to see what shape they have, too.
      if int(index):
        found[split][int(index)] += 1
    skipped = rows(examples, began, p, count)
    needed = rows(examples, steps, p, count) - skipped
    del needed[0]
    ahead = rows(examples, steps + 4, p, count) - skipped
    assert not needed - found[train]
    assert not found[train] - ahead
    seen += found[test]
  assert seen == Counter(range(1, evaluated))


def interrupted(processes, path, began, number, who):
  """Sends a signal once this start, by its number, has written a line."""
  while not (path / 'run.json').exists() or len(starts_of(path)) < began:
    assert processes[0].poll() is None, processes[0].communicate()
    time.sleep(0.01)
  # What will be written again is gone by now.
  lines = path / 'metrics.jsonl'
  written = lines.read_text().count('\n') if lines.exists() else 0
  wait_for_lines(path, written + 1, processes[0])
  for i in who:
    processes[i].send_signal(number)
  return ends(processes)


RESNET = (
  '--config.model.width=4',
  *SMALL[1:],
  '--config.ema_decay=0.9',
  '--config.mixing.mixup=0.8',
  '--config.mixing.mode=pair',
)
VIT = (
  '--config=configs/digits.py:model=vit_tiny',
  '--config.model.patch_size=4',
  '--config.model.drop_path=0.5',
  '--config.mixing.cutmix=1.0',
  *SMALL[1:],
)


@pytest.mark.slow
@pytest.mark.parametrize('card', [RESNET, VIT], ids=['resnet', 'vit'])
def test_any_number_of_processes_and_devices_goes_on(
  start, run_program, tmp_path, data_dir, card
):
  """What is random for each example is that of its place in the batch."""
  uncut, cut = tmp_path / 'uncut', tmp_path / 'cut'
  code, _, err = run_program('train', f'--workdir={uncut}', STEPS, *card)
  assert code == 0, err
  arguments = (f'--workdir={cut}', STEPS, *card)
  for began, (count, devices, number, who) in enumerate(
    (
      (1, 4, signal.SIGTERM, (0,)),
      (2, 2, signal.SIGTERM, (0, 1)),
      (4, 1, signal.SIGINT, (0, 1, 2, 3)),
    ),
    1,
  ):
    processes = start(count, ALTERED, *arguments, devices=devices, **SLOWLY)
    codes, _, errs = interrupted(processes, cut, began, number, who)
    assert codes == [128 + number] * count, errs
  code, _, err = run_program('train', *arguments)
  assert code == 0, err
  starts = starts_of(cut)
  assert [s['devices']['processes'] for s in starts] == [1, 2, 4, 1]
  assert [s['devices']['count'] for s in starts] == [4, 4, 4, 1]
  assert sorted({s['step'] for s in starts}) == [s['step'] for s in starts]
  assert_close(uncut, cut, data_dir)


@pytest.mark.slow
def test_the_same_number_goes_on_bit_for_bit(start, tmp_path, data_dir):
  """Whoever is interrupted or killed, and whenever."""
  uncut, cut = tmp_path / 'uncut', tmp_path / 'cut'
  codes, _, errs = ends(start(2, 'train', f'--workdir={uncut}', STEPS, *SMALL))
  assert codes == [0, 0], errs

  def again():
    return start(2, ALTERED, f'--workdir={cut}', STEPS, *SMALL, **SLOWLY)

  codes, _, errs = interrupted(again(), cut, 1, signal.SIGINT, [1])
  assert codes == [143, 130], errs

  codes, _, errs = interrupted(again(), cut, 2, signal.SIGKILL, [0])
  assert codes[0] == -signal.SIGKILL
  assert codes[1] == 3, errs
  assert 'error: process 0 of 2 is gone; the last checkpoint in' in errs[1]
  assert errs[1].count('\n') == 1

  # While a checkpoint is being saved.
  processes = again()
  before = set((cut / 'checkpoints').iterdir())
  while not any(
    'tmp' in p.name for p in set((cut / 'checkpoints').iterdir()) - before
  ):
    assert processes[0].poll() is None, processes[0].communicate()
  processes[1].kill()
  codes, _, errs = ends(processes)
  assert codes == [3, -signal.SIGKILL], errs
  assert 'error: process 1 of 2 is gone; the last checkpoint in' in errs[0]

  codes, _, errs = ends(again())
  assert codes == [0, 0], errs
  assert_same(uncut, cut, data_dir)


@pytest.mark.slow
def test_a_second_interrupt_ends_all(start, tmp_path):
  path = tmp_path / 'run'
  processes = start(
    2, 'train', f'--workdir={path}', '--config.duration=4000 steps', *SMALL
  )
  wait_for_lines(path, 1, processes[0])
  for _ in range(2):
    processes[1].send_signal(signal.SIGINT)
    time.sleep(0.2)
  codes, _, errs = ends(processes)
  assert codes == [130, 130], errs
  assert 'process 1 of 2: interrupted; ' in last_line(errs[0])


@pytest.mark.slow
@pytest.mark.skipif(shutil.which('mpirun') is None, reason='no Open MPI')
def test_open_mpi(data_dir, compilation_cache, tmp_path):
  path = tmp_path / 'run'
  environment = os.environ | {
    'XLA_FLAGS': '--xla_force_host_platform_device_count=1',
    'JAX_COMPILATION_CACHE_DIR': str(compilation_cache),
    'TFDS_DATA_DIR': str(data_dir),
  }
  command = ['mpirun', '--allow-run-as-root', '--oversubscribe', '-n', '2']
  command += [sys.executable, '-m', 'experiments.train', f'--workdir={path}']
  process = subprocess.run(
    [*command, *SMALL, '--config.duration=8 steps'],
    env=environment,
    capture_output=True,
    text=True,
    timeout=PATIENCE,
  )
  assert process.returncode == 0, process.stderr
  assert process.stdout.count('accuracy') == 2  # and top-5
  assert starts_of(path)[0]['devices']['processes'] == 2
