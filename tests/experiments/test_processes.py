"""Several processes: they train as one does, and end together."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections import Counter

import jax
import numpy as np
import pytest

from maxsup_jax.data import batch_indices
from tests.experiments.small import SMALL, STEPS, state_of, wait_for_lines
from tests.runs import assert_same_bits, timeless

# None of these may take longer to end, on a machine that does much else.
PATIENCE = 240
# The program that leaves time to be interrupted.
SLOWLY = 'tests.experiments.slowly'


def free_port():
  with socket.socket() as s:
    s.bind(('localhost', 0))
    return s.getsockname()[1]


@pytest.fixture
def start(program):
  """Starts processes that are told by flags where to meet."""

  def start(count, name, *arguments, **kwargs):
    shared = [
      f'--coordinator=localhost:{free_port()}',
      f'--num_processes={count}',
    ]
    return [
      program(name, *arguments, *shared, f'--process_id={i}', **kwargs)
      for i in range(count)
    ]

  return start


@pytest.fixture
def srun(program):
  """Starts processes as SLURM does, with nothing but its variables."""

  def srun(count, name, *arguments):
    port = str(free_port())
    return [
      program(
        name,
        *arguments,
        SLURM_JOB_ID='1234',
        SLURM_STEP_NODELIST='localhost',
        SLURM_NTASKS=str(count),
        SLURM_STEP_NUM_TASKS=str(count),
        SLURM_STEP_NUM_NODES=str(count),
        SLURM_PROCID=str(i),
        SLURM_LOCALID='0',
        JAX_COORDINATOR_PORT=port,
      )
      for i in range(count)
    ]

  return srun


def ends(processes):
  """Exit codes, and what each has written to stdout and stderr."""
  written = [p.communicate(timeout=PATIENCE) for p in processes]
  codes = [p.returncode for p in processes]
  return codes, [w[0] for w in written], [w[1] for w in written]


def last_line(text):
  return text.strip().splitlines()[-1]


def assert_close(a, b, rtol=1e-4, atol=1e-5):
  jax.tree.map(
    lambda x, y: np.testing.assert_allclose(x, y, rtol=rtol, atol=atol), a, b
  )


def assert_close_lines(a, b):
  """The same records, their numbers but for rounding."""
  assert [x['step'] for x in a] == [x['step'] for x in b]
  for x, y in zip(a, b):
    assert x.keys() == y.keys()
    for key in x:
      if isinstance(x[key], str):
        assert x[key] == y[key]
      else:
        assert x[key] == pytest.approx(y[key], rel=1e-4, abs=1e-5)


@pytest.fixture(scope='module')
def one(run_program, tmp_path_factory):
  """A run of one process with two devices, never interrupted."""
  path = tmp_path_factory.mktemp('one') / 'run'
  arguments = (f'--workdir={path}', STEPS, *SMALL)
  code, _, err = run_program('train', *arguments, devices=2)
  assert code == 0, err
  return path


def test_two_processes_train_as_one_with_two_devices(
  start, srun, one, tmp_path, data_dir
):
  """Started by SLURM, stopped by a SIGTERM to one, and resumed by both."""
  two = tmp_path / 'two'
  processes = srun(2, SLOWLY, f'--workdir={two}', STEPS, *SMALL)
  wait_for_lines(two, 2, processes[0])
  processes[1].send_signal(signal.SIGTERM)
  codes, _, errs = ends(processes)
  assert codes == [143, 143], errs
  assert 'stopped by SIGTERM at step' in last_line(errs[0])
  # JAX says that it has caught it.
  assert [x for x in errs[1].splitlines() if 'preemption_not' not in x] == []
  stopped_at = int((errs[0].split('at step ')[-1]).split()[0])
  assert 8 <= stopped_at < 40
  codes, outs, errs = ends(start(2, 'train', f'--workdir={two}', STEPS, *SMALL))
  assert codes == [0, 0], errs
  assert 'accuracy' in outs[0]
  # Gloo, which joins CPUs, greets on its own.
  assert [x for x in outs[1].splitlines() if '[Gloo]' not in x] == []
  assert errs[1] == ''
  assert f'resuming from the checkpoint of step {stopped_at}' in errs[0]
  starts = json.loads((two / 'run.json').read_text())['starts']
  assert [s['step'] for s in starts] == [0, stopped_at]
  assert starts[0]['devices'] == starts[1]['devices']
  assert starts[0]['devices']['processes'] == 2

  # Written once: the second process adds nothing to a checkpoint.
  written = sorted(int(p.name) for p in (two / 'checkpoints').iterdir())
  assert written == sorted({6, 12, 18, 24, 30, 36, 40, stopped_at})
  assert not list((two / 'checkpoints').rglob('*process_1*'))

  assert_close(state_of(one, data_dir)[0], state_of(two, data_dir)[0])
  assert_close_lines(timeless(one), timeless(two))

  # What training printed, bit for bit; a second process adds nothing.
  codes, evaluated, errs = ends(srun(2, 'evaluate', f'--workdir={two}'))
  assert (codes, errs) == ([0, 0], ['', ''])
  table = outs[0][outs[0].index('\n\n') :].split('\nwork directory')[0]
  assert table in evaluated[0]
  assert 'accuracy' not in evaluated[1]


@pytest.mark.parametrize(
  ('count', 'killed'), [(2, 1), pytest.param(4, 2, marks=pytest.mark.slow)]
)
def test_one_is_killed_and_one_process_goes_on(
  start, run_program, one, tmp_path, data_dir, count, killed
):
  path = tmp_path / 'run'
  processes = start(count, SLOWLY, f'--workdir={path}', STEPS, *SMALL)
  wait_for_lines(path, 3, processes[0])
  processes[killed].kill()
  codes, _, errs = ends(processes)
  expected = [3] * count
  expected[killed] = -signal.SIGKILL
  assert codes == expected, errs
  newest = max(
    int(p.name) for p in (path / 'checkpoints').iterdir() if p.name.isdigit()
  )
  assert last_line(errs[0]) == (
    f'error: process {killed} of {count} is gone; the last checkpoint in '
    f'{path} is that of step {newest}; the same command resumes'
  )
  assert errs[1:] == [''] * (count - 1)
  code, _, err = run_program(
    'train', f'--workdir={path}', STEPS, *SMALL, devices=count
  )
  assert code == 0, err
  assert f'resuming from the checkpoint of step {newest}' in err
  assert_close(state_of(one, data_dir)[0], state_of(path, data_dir)[0])
  assert_close_lines(timeless(one), timeless(path))


def test_what_is_wrong_is_said_once(start, tmp_path):
  path = tmp_path / 'run'
  processes = start(2, 'train', f'--workdir={path}', '--config.batch_size=33')
  codes, _, errs = ends(processes)
  assert codes == [2] * 2, errs
  assert errs == [
    'error: config.batch_size is 33; expected a multiple of the 2 devices\n',
    '',
  ]
  assert not path.exists()


@pytest.mark.slow
@pytest.mark.parametrize(
  ('name', 'arguments', 'error'),
  [
    ('train', ['--config.batch_size=33'], 'config.batch_size is 33; expected'),
    ('extract', [], 'extract runs in one process, not in several'),
  ],
)
def test_what_is_wrong_is_said_once_under_a_launcher(
  srun, tmp_path, name, arguments, error
):
  processes = srun(2, name, f'--workdir={tmp_path / "run"}', *arguments)
  codes, _, errs = ends(processes)
  assert codes == [2, 2]
  assert errs[0].startswith(f'error: {error}')
  assert errs[0].count('\n') == 1
  assert errs[1] == ''


def test_who_runs_something_else_is_refused(start, program, tmp_path):
  path = tmp_path / 'run'
  given = f'--workdir={path}', f'--coordinator=localhost:{free_port()}'
  processes = [
    program(
      'train',
      *given,
      '--num_processes=2',
      f'--process_id={i}',
      f'--config.seed={7 * i}',
    )
    for i in range(2)
  ]
  codes, _, errs = ends(processes)
  assert codes == [2, 2], errs
  assert errs == [
    'error: process 0 and process 1 differ (config.seed: 0 and 7); start all '
    'processes with the same command\n',
    '',
  ]
  assert not path.exists()


@pytest.mark.slow
def test_a_work_directory_that_is_not_shared(program, tmp_path):
  """At the first start, and where a run is there already."""
  paths = [tmp_path / 'a', tmp_path / 'b']
  for _ in range(2):
    port = free_port()
    processes = [
      program(
        'tests.experiments.hasty',
        f'--workdir={path}',
        f'--coordinator=localhost:{port}',
        '--num_processes=2',
        f'--process_id={i}',
      )
      for i, path in enumerate(paths)
    ]
    codes, _, errs = ends(processes)
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


def rows(examples, steps, batch_size, process, count):
  """How often a process reads each example, in so many steps."""
  b = batch_size // count
  return Counter(
    index
    for step in range(steps)
    for index in batch_indices(
      examples, batch_size=batch_size, seed=0, step=step
    )[process * b : (process + 1) * b].tolist()
  )


@pytest.mark.slow
@pytest.mark.parametrize('count', [2, 4])
def test_each_process_reads_its_part(start, tmp_path, count):
  """And all end where one cannot read an example, and go on when it can."""
  path, reads = tmp_path / 'run', tmp_path / 'reads'
  examples, evaluated, steps = 1442, 355, 6
  bad = batch_indices(examples, batch_size=32, seed=0, step=4)[-1]
  train, test = 'digits/train', 'digits/test'
  arguments = (
    'tests.experiments.counting',
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
    f'error: process {count - 1} of {count}: {train}: example {bad} cannot be '
    'read'
  )
  assert errs[1:] == [''] * (count - 1)

  codes, _, errs = ends(start(count, *arguments, READS=f'{reads}-'))
  assert codes == [0] * count, errs
  began = json.loads((path / 'run.json').read_text())['starts'][1]['step']
  assert began in (2, 4)
  seen = Counter()
  for p in range(count):
    lines = (tmp_path / f'reads-{p}').read_text().splitlines()
    found = {
      split: Counter(
        int(i) for name, i in map(str.split, lines) if name == split
      )
      for split in (train, test)
    }
    # The first example is read to see what shape they have, too.
    for split in found.values():
      del split[0]
    skipped = rows(examples, began, 32, p, count)
    needed = rows(examples, steps, 32, p, count) - skipped
    del needed[0]
    ahead = rows(examples, steps + 4, 32, p, count) - skipped
    assert not needed - found[train]
    assert not found[train] - ahead
    seen += found[test]
  assert seen == Counter(range(1, evaluated))


def test_nobody_else_comes(program):
  process = program(
    'train',
    '--coordinator=localhost:9',
    '--num_processes=2',
    '--process_id=1',
    '--join_timeout=2',
  )
  codes, _, errs = ends([process])
  assert codes == [2]
  assert errs == [
    'error: process 1 of 2 waits for the others at localhost:9; gave up after '
    '2 s (--join_timeout)\n'
  ]


def interrupted(processes, path, began, number, who):
  """Sends a signal once this start, by its number, has written a line.

  Returns what `ends` does.
  """
  file = path / 'run.json'
  while (
    not file.exists() or len(json.loads(file.read_text())['starts']) < began
  ):
    assert processes[0].poll() is None, processes[0].communicate()
    time.sleep(0.01)
  # What will be written again is gone by now.
  lines = path / 'metrics.jsonl'
  written = lines.read_text().count('\n') if lines.exists() else 0
  wait_for_lines(path, written + 1, processes[0])
  for process in [processes[i] for i in who]:
    process.send_signal(number)
  return ends(processes)


# In order: processes, devices of each, a signal, and whom it is sent to.
MATRIX = (
  (1, 4, signal.SIGTERM, (0,)),
  (2, 2, signal.SIGTERM, (0, 1)),
  (4, 1, signal.SIGINT, (0, 1, 2, 3)),
)
RESNET = (
  *SMALL,
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
  whole, cut = tmp_path / 'whole', tmp_path / 'cut'
  code, _, err = run_program('train', f'--workdir={whole}', STEPS, *card)
  assert code == 0, err
  arguments = (f'--workdir={cut}', STEPS, *card)
  for began, (count, devices, number, who) in enumerate(MATRIX, 1):
    processes = start(count, SLOWLY, *arguments, devices=devices)
    codes, _, errs = interrupted(processes, cut, began, number, who)
    assert codes == [128 + number] * count, errs
  code, _, err = run_program('train', *arguments)
  assert code == 0, err
  starts = json.loads((cut / 'run.json').read_text())['starts']
  assert [s['devices']['processes'] for s in starts] == [1, 2, 4, 1]
  assert [s['devices']['count'] for s in starts] == [4, 4, 4, 1]
  assert sorted({s['step'] for s in starts}) == [s['step'] for s in starts]
  assert_close(state_of(whole, data_dir)[0], state_of(cut, data_dir)[0])
  assert_close_lines(timeless(whole), timeless(cut))


@pytest.mark.slow
def test_the_same_number_goes_on_bit_for_bit(start, tmp_path, data_dir):
  """Whoever is interrupted or killed, and whenever."""
  whole, cut = tmp_path / 'whole', tmp_path / 'cut'
  codes, _, errs = ends(start(2, 'train', f'--workdir={whole}', STEPS, *SMALL))
  assert codes == [0, 0], errs
  arguments = (2, SLOWLY, f'--workdir={cut}', STEPS, *SMALL)

  codes, _, errs = interrupted(start(*arguments), cut, 1, signal.SIGINT, [1])
  assert codes == [143, 130], errs

  codes, _, errs = interrupted(start(*arguments), cut, 2, signal.SIGKILL, [0])
  assert codes[0] == -signal.SIGKILL
  # JAX aborts a process without its server, most often before we do.
  assert codes[1] in (3, -signal.SIGABRT), errs
  if codes[1] == 3:
    assert 'error: process 0 of 2 is gone; the last checkpoint in' in errs[1]

  # While a checkpoint is being saved.
  processes = start(*arguments)
  before = set((cut / 'checkpoints').iterdir())
  while not any(
    'tmp' in p.name for p in set((cut / 'checkpoints').iterdir()) - before
  ):
    assert processes[0].poll() is None, processes[0].communicate()
  processes[1].kill()
  codes, _, errs = ends(processes)
  assert codes == [3, -signal.SIGKILL], errs
  assert 'error: process 1 of 2 is gone; the last checkpoint in' in errs[0]

  codes, _, errs = ends(start(*arguments))
  assert codes == [0, 0], errs
  assert_same_bits(state_of(whole, data_dir), state_of(cut, data_dir))
  assert timeless(whole) == timeless(cut)


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
  start = json.loads((path / 'run.json').read_text())['starts'][0]
  assert start['devices']['processes'] == 2
