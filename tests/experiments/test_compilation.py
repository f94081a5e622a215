"""What was compiled by one start of a run is not compiled by the next."""

import re

import pytest

SMALL = (
  '--config.model.width=4',
  '--config.schedule.warmup=2 steps',
  '--config.duration=4 steps',
)


@pytest.fixture
def start(run_program):
  def start(program, workdir, *arguments):
    """The programs compiled and read before the first step; the messages."""
    given = f'--workdir={workdir}', *arguments
    changes = {'JAX_COMPILATION_CACHE_DIR': ''}
    code, _, err = run_program(program, *given, for_real=True, **changes)
    assert code == 0, err
    found = re.search(r'; (\d+) programs compiled, (\d+) read', err)
    return (*(map(int, found.groups()) if found else ()), err)

  return start


@pytest.mark.slow
def test_compiled_programs_are_kept(start, tmp_path):
  """By default beside the work directory; the flag says where, or nowhere."""
  compiled, read, _ = start('train', tmp_path / 'one', *SMALL)
  assert (compiled > 1, read) == (True, 0)
  assert start('train', tmp_path / 'two', *SMALL)[:2] == (0, compiled)
  assert (tmp_path / '.compilation_cache').is_dir()
  kept, runs = tmp_path / 'kept', tmp_path / 'a'
  to = f'--compilation_cache={kept}'
  start('train', runs / 'one', *SMALL, to)
  assert list(kept.rglob('jit_train_step-*-cache'))
  start('evaluate', runs / 'one', to)
  assert list(kept.rglob('jit_eval_step-*-cache'))
  compiled, read, _ = start(
    'train', runs / 'two', *SMALL, '--compilation_cache='
  )
  assert (compiled > 1, read) == (True, 0)
  assert not (runs / '.compilation_cache').exists()


@pytest.mark.slow
def test_a_default_that_cannot_be_used_is_a_note(start, tmp_path):
  (tmp_path / '.compilation_cache').touch()
  *_, err = start('train', tmp_path / 'run', *SMALL)
  assert 'note: compiled programs cannot be kept in' in err
