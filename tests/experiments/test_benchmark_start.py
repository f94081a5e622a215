import json

import pytest

from experiments import _benchmark_start, _performance
from maxsup_jax.errors import UsageError

MACHINE = {
  'suite': 'start',
  'time': '2026-01-01',
  'git_commit': 'abc',
  'versions': {'jax': '0.10.2'},
  'hardware': {
    'platform': 'cpu',
    'device_kind': 'cpu',
    'device_count': 1,
    'process_count': 1,
    'host_cpu': 'Abacus',
    'host_cpu_count': 2,
    'host_load': 0.0,
  },
}


def logs(warm):
  """What runs would say: the first is a warm-up, the others differ."""
  numbers = iter([90.0, 80.0, 8.0, 2.0, 10.0, 3.0])

  def run(card, *arguments, success):
    assert card == 'some/card.py'
    if arguments == ('--help',):
      assert success == 1
      return ''
    assert success == 0
    compiled, read = (0, 7) if 'warm' in arguments[0] else (7, 0)
    if not warm:
      compiled, read = 7, 0
    return (
      f'noise\nfirst step after {next(numbers)} s; {compiled} programs '
      f'compiled, {read} read from where they are kept\nmore'
    )

  return run


def measured_by(**flags):
  """As the program calls it."""
  _benchmark_start.start_runs(**flags)
  return _benchmark_start.measure(_benchmark_start.choose_settings(**flags))


def test_numbers_are_those_of_the_rounds(monkeypatch):
  monkeypatch.setattr(_benchmark_start, '_run', logs(warm=True))
  measured = measured_by(card='some/card.py', rounds=2)
  cold, warm = measured['results']['cold'], measured['results']['warm']
  assert cold['first_step_seconds']['per_round'] == [8.0, 10.0]
  assert cold['first_step_seconds']['median'] == 9.0
  assert warm['first_step_seconds']['per_round'] == [2.0, 3.0]
  assert (warm['programs_compiled'], warm['programs_read']) == ([0, 0], [7, 7])
  record = {**MACHINE, **measured}
  json.dumps(record, allow_nan=False)
  told = _benchmark_start.describe(record)
  assert 'no program compiled where they are kept: met' in told
  assert '9.00' in told
  assert all(len(line) <= 80 for line in told.splitlines())
  table = _performance.table({'start.json': record})
  assert '| 9.0 (8.5–9.5) s; 7 programs compiled | 2 CPUs, Abacus;' in table
  assert '| 2.5 (2.2–2.8) s; 0 programs compiled |' in table


def test_a_missed_target_is_told(monkeypatch):
  monkeypatch.setattr(_benchmark_start, '_run', logs(warm=False))
  record = {**MACHINE, **measured_by(card='some/card.py', rounds=2)}
  assert 'where they are kept: missed' in ' '.join(
    _benchmark_start.describe(record).split()
  )


def test_a_run_that_fails_is_one_line():
  with pytest.raises(
    UsageError, match=r"cannot be run: error: no run card 'no"
  ):
    _benchmark_start._run('no.py', '--workdir=x', success=0)
