import errno
import json
import os
from pathlib import Path

import pytest

from maxsup_jax.errors import UsageError
from maxsup_jax.reports.directory import Directory


def content(path):
  return {p.name: p.read_bytes() for p in path.iterdir()}


def test_files_and_results(tmp_path):
  out = tmp_path / 'deep' / 'out'
  Directory(out, 'report').write({'a.csv': 'ä', 'b.png': b'\x89'}, {'x': 1})
  found = content(out)
  assert found.pop('a.csv') == 'ä'.encode()
  assert found.pop('b.png') == b'\x89'
  assert json.loads(found.pop('results.json')) == {
    'kind': 'report',
    'x': 1,
    'files': ['a.csv', 'b.png'],
  }
  assert not found


def test_replaced_only_when_asked_and_nothing_stale_stays(tmp_path):
  Directory(tmp_path, 'report').write({'a': '1', 'b': '2'}, {})
  before = content(tmp_path)
  with pytest.raises(UsageError, match='has a report; choose another, or'):
    Directory(tmp_path, 'report')
  assert content(tmp_path) == before
  (tmp_path / 'notes.txt').write_text('mine')
  Directory(tmp_path, 'report', overwrite=True).write({'b': '3', 'c': '4'}, {})
  found = content(tmp_path)
  assert set(found) == {'b', 'c', 'notes.txt', 'results.json'}
  assert (found['b'], found['notes.txt']) == (b'3', b'mine')


def test_what_fails_replaces_nothing(tmp_path):
  Directory(tmp_path, 'report').write({'a': '1'}, {'x': 1})
  before = content(tmp_path)
  again = Directory(tmp_path, 'report', overwrite=True)
  with pytest.raises(ValueError, match='JSON'):
    again.write({'a': '2'}, {'x': float('nan')})
  with pytest.raises(TypeError):
    again.write({'a': '2', 'b': None}, {'x': 2})
  assert content(tmp_path) == before


@pytest.mark.parametrize('overwrite', [False, True])
def test_anything_else_is_left_alone(tmp_path, overwrite):
  Directory(tmp_path / 'other', 'theory').write({'a': '1'}, {})
  (tmp_path / 'broken').mkdir()
  (tmp_path / 'broken' / 'results.json').touch()
  (tmp_path / 'thesis').mkdir()
  (tmp_path / 'thesis' / 'thesis.tex').write_text('precious')
  for name in ('other', 'broken', 'thesis'):
    with pytest.raises(UsageError, match='is not empty and has no report'):
      Directory(tmp_path / name, 'report', overwrite=overwrite)
  with pytest.raises(UsageError, match='is a file'):
    Directory(tmp_path / 'thesis' / 'thesis.tex', 'report')
  with pytest.raises(UsageError, match='cannot be written'):
    Directory(tmp_path / 'thesis' / 'thesis.tex' / 'x', 'report')


@pytest.mark.parametrize('moves', range(1, 5))
def test_an_interrupted_run_can_be_replaced(tmp_path, monkeypatch, moves):
  replace = os.replace
  for path, old in ((tmp_path / 'a', None), (tmp_path / 'b', {'z': 'old'})):
    if old:
      Directory(path, 'report').write(old, {})
    left = iter(range(moves))

    def interrupted(source, target, left=left):
      if next(left) == moves - 1:
        raise KeyboardInterrupt
      replace(source, target)

    with monkeypatch.context() as patch:
      patch.setattr(os, 'replace', interrupted)
      with pytest.raises(KeyboardInterrupt):
        Directory(path, 'report', overwrite=True).write(
          {'a': '2', 'b': '3'}, {'x': 1}
        )
    if moves > 1:
      assert json.loads((path / 'results.json').read_text())['incomplete']
    Directory(path, 'report', overwrite=True).write({'c': '4'}, {})
    assert set(content(path)) == {'c', 'results.json'}


def test_what_a_killed_run_was_writing_is_in_nobodys_way(tmp_path):
  (tmp_path / '.maxsup_jax-abc').mkdir()
  (tmp_path / '.maxsup_jax-abc' / 'a').touch()
  Directory(tmp_path, 'report').write({'a': '1'}, {})
  assert (tmp_path / 'a').read_text() == '1'


def test_a_changed_list_of_files_removes_nothing_else(tmp_path):
  out = tmp_path / 'out'
  (out / 'd').mkdir(parents=True)
  for path in (out / 'a', tmp_path / 'b'):
    path.write_text('mine')
  for listed in (None, 3, [3, None, '..', '', 'a\0b', '../b', 'd'], 'ab'):
    changed = json.dumps({'kind': 'report', 'files': listed})
    (out / 'results.json').write_text(changed)
    Directory(out, 'report', overwrite=True).write({'c': '1'}, {})
    assert {p.name for p in out.iterdir()} == {'a', 'c', 'd', 'results.json'}
    assert (tmp_path / 'b').exists()


def test_what_no_file_can_be_called(tmp_path):
  (tmp_path / 'b').mkdir()
  (tmp_path / 'results.json').write_text('{"kind": "report"}')
  out = Directory(tmp_path, 'report', overwrite=True)
  with pytest.raises(UsageError, match='b is a directory, not a file'):
    out.write({'a': '1', 'b': '2'}, {})
  assert not (tmp_path / 'a').exists()
  for name in ('x' * 300, 'a\0b'):
    with pytest.raises(UsageError, match='cannot be written'):
      Directory(tmp_path / name, 'report')


def test_a_full_disk_leaves_what_was_there(tmp_path, monkeypatch):
  Directory(tmp_path, 'report').write({'a.txt': 'old'}, {'x': 1})
  before = content(tmp_path)
  out = Directory(tmp_path, 'report', overwrite=True)

  def full(*_):
    raise OSError(errno.ENOSPC, 'No space left on device')

  monkeypatch.setattr(Path, 'write_bytes', full)
  with pytest.raises(UsageError, match='no space is left on the disk'):
    out.write({'a.txt': 'new'}, {'x': 2})
  assert content(tmp_path) == before
