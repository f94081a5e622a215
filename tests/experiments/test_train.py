import json
import random
import signal
import time
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.experiments.small import SMALL, STEPS, state_of, wait_for_lines
from tests.runs import assert_same_bits, timeless


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
  for lines in (1, 6):
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


@pytest.mark.parametrize(
  'number',
  [signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.slow)],
)
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
