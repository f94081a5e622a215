import json

import pytest

from maxsup_jax._errors import UsageError
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
  with pytest.raises(UsageError, match='holds a report; choose another, or'):
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
    with pytest.raises(UsageError, match='is not empty and holds no report'):
      Directory(tmp_path / name, 'report', overwrite=overwrite)
  with pytest.raises(UsageError, match='is a file'):
    Directory(tmp_path / 'thesis' / 'thesis.tex', 'report')
  with pytest.raises(UsageError, match='cannot be written'):
    Directory(tmp_path / 'thesis' / 'thesis.tex' / 'x', 'report')
