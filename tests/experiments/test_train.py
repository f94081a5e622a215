import json
import random
import signal
import socket
import time
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
import pytest

from maxsup_jax.training import setup
from maxsup_jax.training.workdir import Workdir
from tests.runs import assert_same_bits, last_state, timeless

SMALL = (
  '--config.model.width=4',
  '--config.schedule.warmup=4 steps',
  '--config.batch_size=32',
  '--config.log_every=4 steps',
  '--config.eval_every=20 steps',
  '--config.checkpoint_every=6 steps',
  '--config.keep_checkpoints=20',
)
STEPS = '--config.duration=40 steps'


class Whole(NamedTuple):
  path: Path
  out: str
  err: str


@pytest.fixture(scope='module')
def whole(run_program, tmp_path_factory):
  """A run that is never interrupted."""
  path = tmp_path_factory.mktemp('whole') / 'run'
  code, out, err = run_program('train', f'--workdir={path}', STEPS, *SMALL)
  assert code == 0, err
  return Whole(path, out, err)


def wait_for_lines(path, count, process):
  """Until a run has written so many lines of metrics, or has ended."""
  file = path / 'metrics.jsonl'
  while process.poll() is None:
    if file.exists() and file.read_text().count('\n') >= count:
      return
    time.sleep(0.001)


def state_of(path, data_dir):
  run = setup.build(Workdir(path).config(), data_dir=data_dir, training=False)
  return last_state(run, path)


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
  to = f'--out={out}'
  code, evaluated, err = run_program('evaluate', f'--workdir={whole.path}', to)
  assert code == 0, err
  assert evaluated.strip() == whole.out.split('\nwork directory')[0].strip()
  last = timeless(whole.path)[-1]
  assert json.loads(out.read_text()).items() <= last.items()
  # An older checkpoint, on the other split.
  code, _, err = run_program(
    'evaluate', f'--workdir={whole.path}', '--split=train', '--step=6', to
  )
  assert code == 0, err
  record = json.loads(out.read_text())
  assert (record['split'], record['step']) == ('train', 6)
  assert record['examples'] == 1442


def test_killed_at_any_moment_it_resumes_exactly(
  program, run_program, whole, tmp_path, data_dir
):
  path = tmp_path / 'run'
  arguments = (f'--workdir={path}', STEPS, *SMALL)
  rng = random.Random(0)
  for lines in (1, 4, 7):
    process = program('train', *arguments)
    wait_for_lines(path, lines, process)
    time.sleep(rng.uniform(0, 0.05))
    process.kill()
    process.communicate()
    assert process.returncode == -signal.SIGKILL
  code, _, err = run_program('train', *arguments)
  assert code == 0, err
  assert 'resuming from the checkpoint of step' in err
  assert_same_bits(state_of(path, data_dir), state_of(whole.path, data_dir))
  assert timeless(path) == timeless(whole.path)


@pytest.mark.parametrize('number', [signal.SIGTERM, signal.SIGINT])
def test_asked_to_stop_it_saves_first_and_resumes_exactly(
  program, run_program, whole, tmp_path, data_dir, number
):
  path = tmp_path / 'run'
  arguments = (f'--workdir={path}', STEPS, *SMALL)
  process = program('train', *arguments)
  wait_for_lines(path, 3, process)
  process.send_signal(number)
  _, err = process.communicate()
  assert process.returncode == 128 + number, err
  last = err.strip().splitlines()[-1]
  assert f'stopped by {number.name} at step' in last
  assert 'the same command resumes' in last
  code, _, err = run_program('train', *arguments)
  assert code == 0, err
  assert_same_bits(state_of(path, data_dir), state_of(whole.path, data_dir))
  assert timeless(path) == timeless(whole.path)


def free_port():
  with socket.socket() as s:
    s.bind(('localhost', 0))
    return s.getsockname()[1]


def start_two(program, *arguments):
  """Two processes of one device each."""
  shared = [f'--coordinator=localhost:{free_port()}', '--num_processes=2']
  return [
    program('train', *arguments, *shared, f'--process_id={i}') for i in (0, 1)
  ]


def test_two_processes_train_as_one_with_two_devices(
  program, run_program, tmp_path, data_dir
):
  """Stopped once by a SIGTERM to one of them, and resumed by both."""
  one, two = tmp_path / 'one', tmp_path / 'two'
  code, _, err = run_program(
    'train', f'--workdir={one}', STEPS, *SMALL, devices=2
  )
  assert code == 0, err
  processes = start_two(program, f'--workdir={two}', STEPS, *SMALL)
  wait_for_lines(two, 2, processes[0])
  processes[1].send_signal(signal.SIGTERM)
  ends = [p.communicate(timeout=300) for p in processes]
  assert [p.returncode for p in processes] == [143, 143], ends
  stopped_at = int((ends[0][1].split('at step ')[-1]).split()[0])
  assert 8 <= stopped_at < 40
  processes = start_two(program, f'--workdir={two}', STEPS, *SMALL)
  ends = [p.communicate(timeout=300) for p in processes]
  assert [p.returncode for p in processes] == [0, 0], ends
  assert 'accuracy' in ends[0][0]
  assert 'accuracy' not in ends[1][0]
  assert f'resuming from the checkpoint of step {stopped_at}' in ends[0][1]
  starts = json.loads((two / 'run.json').read_text())['starts']
  assert [s['step'] for s in starts] == [0, stopped_at]
  assert starts[0]['devices'] == starts[1]['devices']
  assert starts[0]['devices']['processes'] == 2

  # Written once: the second process adds nothing to a checkpoint.
  written = sorted(int(p.name) for p in (two / 'checkpoints').iterdir())
  assert written == sorted({6, 12, 18, 24, 30, 36, 40, stopped_at})
  assert not list((two / 'checkpoints').rglob('*process_1*'))

  (a, _), (b, _) = state_of(one, data_dir), state_of(two, data_dir)
  jax.tree.map(
    lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-5), a, b
  )
  lines = [timeless(one), timeless(two)]
  assert [x['step'] for x in lines[0]] == [x['step'] for x in lines[1]]
  for x, y in zip(*lines):
    assert x.keys() == y.keys()
    for key in x:
      if isinstance(x[key], str):
        assert x[key] == y[key]
      else:
        assert x[key] == pytest.approx(y[key], rel=1e-4, abs=1e-5)
