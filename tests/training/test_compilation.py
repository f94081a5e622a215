import os
import shutil
import zlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental.compilation_cache import compilation_cache

from maxsup_jax.errors import UsageError
from maxsup_jax.training import compilation
from maxsup_jax.training.compilation import Compilations, keep_compiled

FIELDS = (
  'jax_compilation_cache_dir',
  'jax_persistent_cache_min_compile_time_secs',
  'jax_persistent_cache_min_entry_size_bytes',
  'jax_persistent_cache_enable_xla_caches',
)


@pytest.fixture(autouse=True)
def restored():
  before = {name: getattr(jax.config, name) for name in FIELDS}
  compilation_cache.reset_cache()
  yield
  for name, value in before.items():
    jax.config.update(name, value)
  compilation_cache.reset_cache()


def compile_anew(directory):
  """Compiles a program as a process would that has just started."""
  keep_compiled(directory)
  compilation_cache.reset_cache()
  jax.clear_caches()
  with Compilations() as programs:
    result = jax.jit(lambda x: jnp.sin(x) @ x)(jnp.ones((3, 3)))
  np.testing.assert_allclose(result, 3 * np.sin(1), rtol=1e-6)
  return programs


def test_the_second_time_nothing_is_compiled(tmp_path):
  first = compile_anew(tmp_path / 'kept')
  assert (first.compiled, first.read) == (first.requested, 0)
  assert first.requested >= 1
  second = compile_anew(tmp_path / 'kept')
  assert (second.compiled, second.read) == (0, first.requested)


def test_on_cpus_every_kind_of_processor_has_its_own(tmp_path, monkeypatch):
  compile_anew(tmp_path)
  monkeypatch.setattr(compilation, '_processor', lambda: 'another')
  assert compile_anew(tmp_path).read == 0
  names = sorted(p.name for p in tmp_path.iterdir())
  assert len(names) == 2
  assert 'cpu-another' in names


@pytest.mark.parametrize('keep', [0, 2, 100])
def test_an_entry_that_was_cut_short_is_compiled_and_kept_again(tmp_path, keep):
  first = compile_anew(tmp_path)
  entries = list(tmp_path.rglob('*-cache'))
  assert len(entries) == first.requested
  for entry in entries:
    entry.write_bytes(entry.read_bytes()[:keep])
  # Without a warning, which would be an error here.
  assert compile_anew(tmp_path).read == 0
  assert compile_anew(tmp_path).compiled == 0


def test_entries_are_looked_at_once(tmp_path, monkeypatch):
  compile_anew(tmp_path)
  for entry in tmp_path.rglob('*-cache'):
    os.utime(entry, (1, 1))
  looked = []
  monkeypatch.setattr(compilation, '_check', looked.append)
  keep_compiled(tmp_path)
  assert not looked


def test_entries_of_zstandard_are_left_alone(tmp_path):
  compilation._check(b'\x28\xb5\x2f\xfd and so on')
  with pytest.raises(zlib.error):
    compilation._check(b'no such thing')


@pytest.mark.parametrize('mode', [0o777, 0o770])
def test_a_directory_that_others_can_write_is_refused(tmp_path, mode):
  open_to_all = tmp_path / 'open'
  open_to_all.mkdir()
  open_to_all.chmod(mode)
  with pytest.raises(UsageError, match='other users can write there'):
    keep_compiled(open_to_all)
  assert not list(open_to_all.iterdir())


def test_a_directory_of_somebody_else_is_refused(tmp_path, monkeypatch):
  monkeypatch.setattr(os, 'getuid', lambda: 12345)
  with pytest.raises(UsageError, match='other users can write there'):
    keep_compiled(tmp_path)


def test_a_file_is_refused(tmp_path):
  file = tmp_path / 'file'
  file.touch()
  with pytest.raises(UsageError, match=r'cannot be kept in .*File exists'):
    keep_compiled(file)


def test_a_bucket_is_passed_on(monkeypatch):
  keep_compiled('gs://bucket/kept')
  assert jax.config.jax_compilation_cache_dir == 'gs://bucket/kept'


def test_compilations_of_others_do_not_count():
  with Compilations() as programs:
    pass
  jax.jit(lambda x: x * 7.25)(1.0)
  assert programs.requested == 0


def test_a_copy_of_the_directory_has_the_same_programs(tmp_path):
  compile_anew(tmp_path / 'kept')
  shutil.copytree(tmp_path / 'kept', tmp_path / 'copy')
  assert compile_anew(tmp_path / 'copy').compiled == 0
