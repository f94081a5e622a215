import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope='session')
def program(data_dir, compilation_cache):
  """Starts `python -m experiments.NAME` as a user would, from the checkout."""

  def start(name, *arguments, devices=1, **changes):
    environment = os.environ | {
      'XLA_FLAGS': f'--xla_force_host_platform_device_count={devices}',
      'JAX_COMPILATION_CACHE_DIR': str(compilation_cache),
      'JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS': '0',
      'TFDS_DATA_DIR': str(data_dir),
      'PYTHONWARNINGS': 'default',
    }
    environment |= changes
    module = name if '.' in name else f'experiments.{name}'
    return subprocess.Popen(
      [sys.executable, '-m', module, *map(str, arguments)],
      cwd=ROOT,
      env=environment,
      stdout=subprocess.PIPE,
      stderr=subprocess.PIPE,
      text=True,
    )

  return start


@pytest.fixture(scope='session')
def run_program(program):
  """Runs it to its end; gives (exit code, stdout, stderr)."""

  def run(name, *arguments, **kwargs):
    process = program(name, *arguments, **kwargs)
    out, err = process.communicate(timeout=300)
    return process.returncode, out, err

  return run
