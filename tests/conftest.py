"""Four virtual CPU devices for every test: set before jax starts."""

import contextlib
import ctypes
import gc
import json
import os
import subprocess
import sys
from pathlib import Path

os.environ['XLA_FLAGS'] = ' '.join(
  [
    # Two thirds of the time went to LLVM, over programs that run once.
    '--xla_backend_optimization_level=0',
    # And half of what was left, over how it fuses and splits them.
    '--xla_cpu_use_fusion_emitters=false',
    '--xla_cpu_parallel_codegen_split_count=1',
    os.environ.get('XLA_FLAGS', ''),
    '--xla_force_host_platform_device_count=4',
  ]
)
# With more devices than cores, concurrent all-reduces starve each other and
# the process aborts after 40 s; more threads cure it.
os.environ['NPROC'] = '16'
os.environ.setdefault('JAX_PLATFORMS', 'cpu')
# On more than one thread BLAS takes ten times as long for arrays of our sizes.
os.environ['OMP_NUM_THREADS'] = os.environ['OPENBLAS_NUM_THREADS'] = '1'
# Nobody reads where in Python an operation of a compiled program comes from.
os.environ['JAX_TRACEBACK_IN_LOCATIONS_LIMIT'] = '0'

import jax
import numpy as np
import pytest

from tests.classifier import classifier

# Tracing makes many objects, few of which are garbage.
gc.set_threshold(200_000, 20, 100)
ROOT = Path(__file__).parents[1]
# Bytes of memory after which a worker forgets what it has compiled.
ENOUGH = 3 * 2**30


@pytest.fixture(scope='module', autouse=True)
def forgotten_programs():
  """Compiled programs of a file are of no use to the next one."""
  yield
  pages = int(Path('/proc/self/statm').read_text().split()[1])
  if pages * os.sysconf('SC_PAGE_SIZE') > ENOUGH:
    jax.clear_caches()
    gc.collect()
    with contextlib.suppress(OSError):
      ctypes.CDLL('libc.so.6').malloc_trim(0)


@pytest.fixture
def x64():
  """Double precision for one test."""
  with jax.enable_x64(True):
    yield


@pytest.fixture(scope='session')
def data_dir(tmp_path_factory):
  """A data directory with the embedded digits prepared."""
  from maxsup_jax import data

  path = tmp_path_factory.mktemp('data')
  data.open_source('digits', 'train', data_dir=path)
  return path


@pytest.fixture(scope='session')
def compilation_cache(tmp_path_factory):
  """A directory in which equal programs are compiled once per session."""
  return tmp_path_factory.mktemp('compilation_cache')


@contextlib.contextmanager
def _caching(directory):
  from jax.experimental.compilation_cache import compilation_cache as cache

  names = {
    'jax_compilation_cache_dir': str(directory),
    'jax_persistent_cache_min_compile_time_secs': 0,
  }
  before = {name: getattr(jax.config, name) for name in names}
  for name, value in names.items():
    jax.config.update(name, value)
  cache.reset_cache()
  yield
  for name, value in before.items():
    jax.config.update(name, value)
  cache.reset_cache()


@pytest.fixture
def cached_compilation(compilation_cache):
  """Uses the session's compilation cache in this process."""
  with _caching(compilation_cache):
    yield


@pytest.fixture(scope='module')
def cached_compilations(compilation_cache):
  """Likewise in all tests of a file."""
  with _caching(compilation_cache):
    yield


@pytest.fixture
def write_npz(tmp_path):
  """Writes a classifier's file; arguments replace or, if None, drop arrays."""

  def write(name, arrays=None, **changes):
    arrays = (classifier() if arrays is None else arrays) | changes
    path = tmp_path / f'{name}.npz'
    np.savez(path, **{k: v for k, v in arrays.items() if v is not None})
    return path

  return write


@pytest.fixture(scope='session')
def environment(data_dir, compilation_cache):
  """That of a program, as a function of its devices and of changes to it."""

  def make(devices=1, **changes):
    count = f'--xla_force_host_platform_device_count={devices}'
    return {
      **os.environ,
      # Of a flag that is given twice the last one counts.
      'XLA_FLAGS': f'{os.environ["XLA_FLAGS"]} {count}',
      'JAX_COMPILATION_CACHE_DIR': str(compilation_cache),
      'JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS': '0',
      'TFDS_DATA_DIR': str(data_dir),
      'PYTHONWARNINGS': 'default',
      **changes,
    }

  return make


@pytest.fixture(scope='session')
def program(environment):
  """Starts `python -m experiments.NAME` as a user would, from the checkout."""

  def start(name, *arguments, group=False, **changes):
    module = name if '.' in name else f'experiments.{name}'
    return subprocess.Popen(
      [sys.executable, '-m', module, *map(str, arguments)],
      cwd=ROOT,
      env=environment(**changes),
      stdout=subprocess.PIPE,
      stderr=subprocess.PIPE,
      text=True,
      process_group=0 if group else None,
    )

  return start


@pytest.fixture(scope='session')
def run_program(program, environment, tmp_path_factory):
  """Runs it to its end; gives (exit code, stdout, stderr).

  From a process that has imported what is large, but `for_real`.
  """
  with subprocess.Popen(
    [sys.executable, '-m', 'tests.starter'],
    cwd=ROOT,
    env=environment(),
    stdin=subprocess.PIPE,
    stdout=subprocess.PIPE,
    text=True,
  ) as starter:

    def run(name, *arguments, for_real=False, **changes):
      if for_real:
        process = program(name, *arguments, **changes)
        out, err = process.communicate(timeout=300)
        return process.returncode, out, err
      path = tmp_path_factory.mktemp('program') / 'written'
      job = f'experiments.{name}', [*map(str, arguments)]
      job = *job, environment(**changes), str(path)
      print(json.dumps(job), file=starter.stdin, flush=True)
      code = int(starter.stdout.readline())
      return code, *(path.with_suffix(x).read_text() for x in ('.out', '.err'))

    yield run
    starter.stdin.close()
