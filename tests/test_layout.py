"""Rooms of the package: who may import whom, and no circles."""

import ast
import functools
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[1]
# From the ground up: a room may use what stands before it.
ROOMS = (
  'errors',
  'files',
  'losses',
  'diagnostics',
  'outputs',
  'models',
  'data',
  'training',
  'tasks',
  'studies',
  'reports',
)
# What stands before a room and is still not for it.
NEVER = {
  'losses': {'files'},
  'data': {'models', 'losses', 'diagnostics', 'outputs'},
  'models': {'outputs', 'diagnostics', 'losses'},
  'training': {'models', 'data', 'diagnostics', 'outputs'},
}


def files(directory):
  return sorted((ROOT / directory).rglob('*.py'))


def module(path):
  parts = path.relative_to(ROOT).with_suffix('').parts
  return '.'.join(parts[:-1] if parts[-1] == '__init__' else parts)


def imports(path, known):
  """The modules of this repository that a file imports, wherever it does."""
  found = set()
  for node in ast.walk(ast.parse(path.read_text())):
    if isinstance(node, ast.Import):
      found |= {alias.name for alias in node.names}
    elif isinstance(node, ast.ImportFrom):
      assert not node.level, f'{path}: relative imports are not followed'
      names = {f'{node.module}.{alias.name}' for alias in node.names}
      inner = {n for n in names if n in known}
      # The package itself is imported where a name is not a module of it.
      found |= inner | ({node.module} if inner != names else set())
  return {n for n in found if n in known}


# `python -m maxsup_jax` is a program, of no room.
PACKAGE = [p for p in files('maxsup_jax') if p.name != '__main__.py']
PATHS = [*PACKAGE, *files('configs'), *files('experiments')]


@functools.cache
def graph():
  known = {module(path) for path in PATHS}
  return {module(path): imports(path, known) for path in PATHS}


def room(name):
  parts = name.split('.')
  return parts[1] if len(parts) > 1 else ''


def test_every_room_has_its_place():
  rooms = {room(n) for n in graph() if n.startswith('maxsup_jax.')}
  assert rooms == set(ROOMS)


def test_rooms_use_what_stands_before_them():
  wrong = []
  for name, used in graph().items():
    if name == 'maxsup_jax' or not name.startswith('maxsup_jax'):
      continue
    for other in used - {'maxsup_jax'}:
      here, there = room(name), room(other)
      allowed = other.startswith('maxsup_jax.') and (
        ROOMS.index(there) <= ROOMS.index(here)
        and there not in NEVER.get(here, ())
      )
      if not allowed:
        wrong.append(f'{name} imports {other}')
  assert not wrong


def test_no_circles():
  done, path = set(), []

  def visit(name):
    if name in path:
      raise AssertionError(' -> '.join([*path[path.index(name) :], name]))
    if name in done:
      return
    path.append(name)
    for other in sorted(graph()[name]):
      # A package and its modules are one: __init__ collects their names.
      if not name.startswith(f'{other}.') and name != other:
        visit(other)
    path.pop()
    done.add(name)

  for name in sorted(graph()):
    visit(name)


@pytest.mark.parametrize(
  ('statement', 'heavy'),
  [
    (
      'import maxsup_jax.losses',
      'flax optax chex ml_collections tensorflow_datasets orbax grain '
      'matplotlib sklearn tqdm absl',
    ),
    (
      'import maxsup_jax.diagnostics, maxsup_jax.outputs',
      'flax tensorflow_datasets orbax grain matplotlib',
    ),
    (
      'import maxsup_jax.training.step',
      'tensorflow_datasets grain matplotlib maxsup_jax.models maxsup_jax.data',
    ),
  ],
)
def test_light_rooms_load_nothing_heavy(statement, heavy):
  code = f'{statement}; import sys; print([m for m in {heavy.split()!r} ' + (
    'if m in sys.modules])'
  )
  out = subprocess.run(
    [sys.executable, '-c', code], cwd=ROOT, capture_output=True, text=True
  )
  assert out.stdout.strip() == '[]', out.stdout + out.stderr
