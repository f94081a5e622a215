"""Real runs of a tiny study: killed and resumed, in one part and in three."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.runs import timeless

pytestmark = pytest.mark.slow

CARD = """
from configs import common, digits
from maxsup_jax.studies import claims
from maxsup_jax.studies.study import TEACHER, Study


def get_study(arg=None):
  def run(loss):
    config = digits.get_config(f'loss={loss}')
    config.duration = '12 steps'
    config.schedule.warmup = '2 steps'
    config.dataset.train_split = 'train[:300]'
    config.log_every = '1 step'
    config.eval_every = config.checkpoint_every = '3 steps'
    config.keep_checkpoints = 100
    config.diagnostics_every = '6 steps'
    config.model.width = 4
    return config

  variants = {'ce': run('ce'), 'ls': run('ls')}
  variants['student_of_ls'] = run('distillation')
  variants['student_of_ls'].teacher = TEACHER + 'ls'
  return Study('tiny', 'Tiny', 'A test.', variants, (0, 1),
               claims.among(variants), extras=('information',))
"""
NAMES = [f'{v}/seed{s}' for s in (0, 1) for v in ('ce', 'ls', 'student_of_ls')]


@pytest.fixture(scope='module')
def card(tmp_path_factory):
  path = tmp_path_factory.mktemp('card') / 'study_tiny.py'
  path.write_text(CARD)
  return path


def collected(workdir):
  return json.loads((workdir / 'study.json').read_text())


def run_of(workdir, name):
  return workdir / 'runs' / name


@pytest.fixture(scope='module')
def whole(card, tmp_path_factory, program):
  workdir = tmp_path_factory.mktemp('whole') / 'study'
  process = program('study', f'--config={card}', f'--workdir={workdir}')
  _, err = process.communicate(timeout=900)
  assert process.returncode == 0, err
  return workdir


def test_killed_anywhere_it_goes_on_to_the_same_bits(
  whole, card, tmp_path, program
):
  """The study and its runs get SIGKILL, twice, then SIGTERM."""
  workdir = tmp_path / 'study'
  given = 'study', f'--config={card}', f'--workdir={workdir}'
  for number, name in enumerate(('ce/seed0', 'student_of_ls/seed0', NAMES[3])):
    process = program(*given)
    log = run_of(workdir, name) / 'metrics.jsonl'
    deadline = time.monotonic() + 600
    while not log.exists() or len(log.read_text().splitlines()) < 4:
      assert process.poll() is None, process.communicate()
      assert time.monotonic() < deadline
      time.sleep(0.05)
    if number < 2:
      # With all of its runs, each of which has a session of its own.
      found = subprocess.run(
        ['pgrep', '-P', str(process.pid)], capture_output=True, text=True
      )
      process.kill()
      for child in found.stdout.split():
        os.kill(int(child), signal.SIGKILL)
      process.communicate()
    else:
      process.send_signal(signal.SIGTERM)
      _, err = process.communicate(timeout=120)
      assert process.returncode == 143, err
      assert 'the same command goes on' in err
  process = program(*given)
  _, err = process.communicate(timeout=900)
  assert process.returncode == 0, err
  for name in NAMES:
    a, b = (run_of(w, name) for w in (whole, workdir))
    assert timeless(a) == timeless(b), name
  assert collected(workdir) == collected(whole)


def test_three_parts_give_the_page_of_one(whole, card, tmp_path, program):
  workdir = tmp_path / 'study'
  given = 'study', f'--config={card}', f'--workdir={workdir}'
  for i in range(3):
    process = program(*given, f'--shard={i}/3')
    _, err = process.communicate(timeout=900)
    assert process.returncode == 0, err
  assert collected(workdir) == collected(whole)
  assert (workdir / 'study.html').read_text() == (
    whole / 'study.html'
  ).read_text()


def test_what_will_be_run_is_said_first(card, tmp_path, run_program):
  workdir = tmp_path / 'study'
  given = f'--config={card}', f'--workdir={workdir}'
  code, out, err = run_program('study', *given, '--list')
  assert code == 0, err
  assert [line.split('--run=')[1].split()[0] for line in out.splitlines()] == [
    *NAMES
  ]
  code, out, err = run_program('study', *given, '--dry_run')
  assert code == 0, err
  assert out.startswith('6 of 6 runs are left; about ')
  assert not workdir.exists()


STARTS = """
import sys, time
from pathlib import Path
from maxsup_jax.studies.running import _start
from maxsup_jax.studies.study import Run

workdir = Path(sys.argv[1])
(workdir / 'logs').mkdir()
code = (
  'import time; from maxsup_jax.studies.running import end_with_study as end; '
  'end(); print("ready", flush=True); time.sleep(600)'
)
run = [sys.executable, '-c', code]
print(_start(Run('ce', 0), workdir, run, None).pid, flush=True)
time.sleep(600)
"""


def test_runs_end_with_their_study(tmp_path):
  """Killed alone, it leaves nobody in its directories."""
  study = subprocess.Popen(
    [sys.executable, '-c', STARTS, str(tmp_path)],
    stdout=subprocess.PIPE,
    text=True,
  )
  child = int(study.stdout.readline())
  while 'ready' not in (tmp_path / 'logs' / 'ce-seed0.txt').read_text():
    os.kill(child, 0)
    time.sleep(0.1)
  study.kill()
  study.communicate()
  for _ in range(100):
    try:
      state = Path(f'/proc/{child}/stat').read_text().rsplit(')')[1].split()[0]
    except FileNotFoundError:
      return
    if state == 'Z':  # Nobody waits for it any more.
      return
    time.sleep(0.05)
  os.kill(child, signal.SIGKILL)
  raise AssertionError('the run goes on')
