import re
import subprocess
import sys

import jax

from maxsup_jax.training import provenance


def test_says_what_runs(monkeypatch):
  arguments = ['/usr/bin/python3', '-m', 'experiments.train', '--workdir=a b']
  monkeypatch.setattr(sys, 'orig_argv', arguments)
  found = provenance.provenance()
  assert found['versions']['jax'] == jax.__version__
  assert found['command'] == "python -m experiments.train '--workdir=a b'"
  assert re.fullmatch(r'\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00', found['time'])


def make_repository(path):
  who = ['-c', 'user.name=a', '-c', 'user.email=a@b.invalid']

  def git(*arguments):
    command = ['git', '-C', path, *who, *arguments]
    subprocess.run(command, check=True, capture_output=True)

  git('init')
  (path / 'module.py').write_text('1')
  git('add', 'module.py')
  git('commit', '-m', 'first')


def test_marks_a_changed_source(tmp_path, monkeypatch):
  make_repository(tmp_path)
  monkeypatch.setattr(provenance, '__file__', str(tmp_path / 'module.py'))
  clean = provenance.git_commit()
  assert re.fullmatch(r'[0-9a-f]{40}', clean)
  (tmp_path / 'module.py').write_text('2')
  assert provenance.git_commit() == clean + '+'


def test_a_copy_in_somebody_elses_repository_has_no_commit(
  tmp_path, monkeypatch
):
  make_repository(tmp_path)
  (tmp_path / 'installed.py').write_text('')
  monkeypatch.setattr(provenance, '__file__', str(tmp_path / 'installed.py'))
  assert provenance.git_commit() is None
