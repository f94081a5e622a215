import importlib
import subprocess
import sys

import pytest

from maxsup_jax import diagnostics


@pytest.mark.parametrize('name', diagnostics.__all__)
def test_every_public_name_exists_once(name):
  module = importlib.import_module(f'maxsup_jax.diagnostics.{name}')
  names = getattr(module, '__all__', [])
  assert len(set(names)) == len(names)
  for public in names:
    value = getattr(module, public)
    assert not callable(value) or value.__doc__, public


def test_import_needs_no_training_stack():
  program = (
    'import sys, maxsup_jax.diagnostics; '
    'unwanted = {"chex", "clu", "flax", "grain", "matplotlib", '
    '"ml_collections", "optax", "orbax", "sklearn", "tensorflow", '
    # It alone takes half a second to import.
    '"tensorflow_datasets", "scipy.signal"}; '
    'print(sorted(unwanted & set(sys.modules)))'
  )
  done = subprocess.run(
    [sys.executable, '-c', program], capture_output=True, text=True, check=True
  )
  assert done.stdout.strip() == '[]'
