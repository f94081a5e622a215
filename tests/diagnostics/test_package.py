import importlib

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
