import json

import pytest

from maxsup_jax import files, tasks
from maxsup_jax.errors import UsageError
from maxsup_jax.training.workdir import Workdir

CONFIG = tasks.resolve({})
OTHER = tasks.resolve({'seed': 7})


def snapshot(path):
  return {
    str(p.relative_to(path)): p.read_bytes()
    for p in sorted(path.rglob('*'))
    if p.is_file()
  }


def test_first_start_writes_config_and_a_second_resumes(tmp_path):
  workdir = Workdir(tmp_path / 'run')
  with workdir.opened(CONFIG):
    workdir.record_start(0, 4)
  with workdir.opened(CONFIG):
    workdir.record_start(30, 1)
  assert tasks.resolve(workdir.config()) == CONFIG
  starts = json.loads((tmp_path / 'run/run.json').read_text())['starts']
  assert [s['step'] for s in starts] == [0, 30]
  assert [s['devices']['count'] for s in starts] == [4, 1]
  assert {'python', 'jax', 'flax'} <= set(starts[0]['versions'])


def test_another_config_is_refused_and_nothing_changes(tmp_path):
  workdir = Workdir(tmp_path / 'run')
  with workdir.opened(CONFIG):
    workdir.log({'kind': 'train', 'step': 1})
  before = snapshot(tmp_path)
  with (
    pytest.raises(UsageError, match=r'config\.seed: 0 there, 7 here'),
    workdir.opened(OTHER),
  ):
    pass
  assert snapshot(tmp_path) == before


def test_a_directory_of_something_else_is_refused(tmp_path):
  (tmp_path / 'thesis.tex').write_text('!')
  with pytest.raises(UsageError, match='has no run'):
    Workdir(tmp_path).check(CONFIG)
  assert [p.name for p in tmp_path.iterdir()] == ['thesis.tex']
  with pytest.raises(UsageError, match='is a file'):
    Workdir(tmp_path / 'thesis.tex').check(CONFIG)
  with pytest.raises(UsageError, match=r'no config\.json'):
    Workdir(tmp_path).config()
  with pytest.raises(UsageError, match='unknown kind of address hdfs'):
    Workdir('hdfs://cluster/run')


def test_what_a_run_that_was_killed_at_once_leaves_is_no_obstacle(tmp_path):
  for name in ('.lock', '.config.json.4711'):
    (tmp_path / name).write_text('{')
  workdir = Workdir(tmp_path)
  with workdir.opened(CONFIG):
    pass
  assert tasks.resolve(workdir.config()) == CONFIG


def test_an_unreadable_config_is_one_line(tmp_path):
  (tmp_path / 'config.json').write_text('{"seed": ')
  with pytest.raises(UsageError, match=r'config\.json cannot be read') as e:
    Workdir(tmp_path).config()
  assert '\n' not in str(e.value)


def test_two_runs_at_once_are_refused(tmp_path):
  workdir = Workdir(tmp_path / 'run')
  with (
    workdir.opened(CONFIG),
    pytest.raises(UsageError, match='another process is training'),
    Workdir(tmp_path / 'run').opened(CONFIG),
  ):
    pass
  with workdir.opened(CONFIG):
    pass


def test_rewind_drops_later_lines_and_a_torn_one(tmp_path):
  workdir = Workdir(tmp_path)
  for step in (1, 2, 3):
    workdir.log({'kind': 'train', 'step': step, 'nll': 0.1 * step})
  with (tmp_path / 'metrics.jsonl').open('a') as file:
    file.write('{"kind": "train", "st')
  workdir.rewind(2)
  assert workdir.metrics() == [
    {'kind': 'train', 'step': 1, 'nll': 0.1},
    {'kind': 'train', 'step': 2, 'nll': 0.2},
  ]


def test_nan_is_written_as_null(tmp_path):
  workdir = Workdir(tmp_path)
  workdir.log({'kind': 'eval', 'step': 1, 'ece': float('nan')})
  line = (tmp_path / 'metrics.jsonl').read_text()
  assert json.loads(line, parse_constant=pytest.fail)['ece'] is None


def test_only_the_writer_writes(tmp_path):
  workdir = Workdir(tmp_path / 'run', writes=False)
  with workdir.opened(CONFIG):
    workdir.log({'kind': 'train', 'step': 1})
    workdir.record_start(0, 1)
    workdir.rewind(0)
  assert not (tmp_path / 'run').exists()


def test_write_atomically_leaves_no_other_file(tmp_path):
  files.write(tmp_path / 'a', 'old')
  files.write(tmp_path / 'a', 'new')
  assert snapshot(tmp_path) == {'a': b'new'}


@pytest.mark.parametrize('content', ['', '[]', '{"starts": 3}', '{"starts'])
def test_how_a_run_went_never_stops_it(tmp_path, content):
  """What cannot be read is set aside, and said."""
  workdir, lines = (
    Workdir(tmp_path),
    ['{"kind": "train", "step": 1}', 'x', '[]'],
  )
  (tmp_path / 'run.json').write_text(content)
  (tmp_path / 'metrics.jsonl').write_text('\n'.join(lines) + '\n')
  assert workdir.last_device_count() is None
  with pytest.warns(
    UserWarning, match='run.json cannot be read; it is kept as'
  ):
    workdir.record_start(0, 4)
  assert workdir.last_device_count() == 4
  assert (tmp_path / 'run.json.damaged').read_text() == content
  with pytest.warns(UserWarning, match=r'metrics.jsonl: line 2 cannot be read'):
    assert [r['step'] for r in workdir.metrics()] == [1]
  with pytest.warns(UserWarning, match=r'metrics.jsonl cannot be read; it is'):
    workdir.rewind(5)
  assert [r['step'] for r in workdir.metrics()] == [1]
  kept = (tmp_path / 'metrics.jsonl.damaged').read_text()
  assert kept == '\n'.join(lines) + '\n'


def test_what_killed_processes_left_is_removed_at_the_next_start(tmp_path):
  workdir = Workdir(tmp_path / 'run')
  with workdir.opened(CONFIG):
    pass
  left = [
    tmp_path / 'run' / '.metrics.jsonl.12345',
    workdir.checkpoints / '7.orbax-checkpoint-tmp' / 'state',
  ]
  other = tmp_path / 'run' / '.notes.jsonl.12345'
  for path in (*left, other):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text('half')
  with workdir.opened(CONFIG):
    assert not any(path.exists() for path in left)
    assert other.exists()


def test_a_name_that_no_directory_can_have(tmp_path):
  with pytest.raises(UsageError, match='cannot be written: File name too long'):
    Workdir(tmp_path / ('x' * 300)).check(CONFIG)
