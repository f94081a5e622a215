"""What was compiled by one start of a run is not compiled by the next."""

import re

import pytest

SMALL = (
  '--config.model.width=4',
  '--config.schedule.warmup=2 steps',
  '--config.duration=4 steps',
)


def first_step(text):
  """Seconds to the first step, and programs compiled and read before it."""
  found = re.search(
    r'first step after ([\d.]+) s; (\d+) programs compiled, (\d+) read', text
  )
  return float(found[1]), int(found[2]), int(found[3])


def start(run_program, workdir, *arguments):
  code, _, err = run_program(
    'train',
    f'--workdir={workdir}',
    *SMALL,
    *arguments,
    JAX_COMPILATION_CACHE_DIR='',
  )
  assert code == 0, err
  assert 'Warning' not in err
  return first_step(err)


@pytest.mark.slow
def test_by_default_it_is_kept_beside_the_work_directory(run_program, tmp_path):
  seconds, compiled, read = start(run_program, tmp_path / 'one')
  assert seconds > 0.1
  assert compiled > 1
  assert read == 0
  assert (tmp_path / '.compilation_cache').is_dir()
  _, compiled_again, read = start(run_program, tmp_path / 'two')
  assert (compiled_again, read) == (0, compiled)


@pytest.mark.slow
def test_the_flag_says_where_or_that_it_is_not_kept(run_program, tmp_path):
  kept = tmp_path / 'kept'
  start(run_program, tmp_path / 'a' / 'one', f'--compilation_cache={kept}')
  assert list(kept.rglob('jit_train_step-*-cache'))
  code, _, err = run_program(
    'evaluate',
    f'--workdir={tmp_path / "a" / "one"}',
    f'--compilation_cache={tmp_path / "of_evaluate"}',
  )
  assert code == 0, err
  assert list((tmp_path / 'of_evaluate').rglob('jit_eval_step-*-cache'))
  workdir = tmp_path / 'a' / 'two'
  _, compiled, read = start(run_program, workdir, '--compilation_cache=')
  assert compiled > 1
  assert read == 0
  assert not (tmp_path / 'a' / '.compilation_cache').exists()


@pytest.mark.slow
def test_a_default_that_cannot_be_used_is_a_note(run_program, tmp_path):
  (tmp_path / '.compilation_cache').touch()
  code, _, err = run_program(
    'train',
    f'--workdir={tmp_path / "run"}',
    *SMALL,
    JAX_COMPILATION_CACHE_DIR='',
  )
  assert code == 0, err
  assert 'note: compiled programs cannot be kept in' in err
