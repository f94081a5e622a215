import pytest

from maxsup_jax.training import clock as clock_lib


@pytest.fixture
def now(monkeypatch):
  """A clock that moves only when it is told to."""
  time = [100.0]
  monkeypatch.setattr(clock_lib.time, 'perf_counter', lambda: time[0])
  return time


def test_laps_leave_out_what_is_paused(now):
  clock = clock_lib.Clock(seconds=7.0)
  now[0] += 3
  with clock.paused():
    now[0] += 10
  now[0] += 2
  assert clock.lap() == 5
  now[0] += 4
  assert clock.lap() == 4
  assert clock.seconds == 7 + 3 + 10 + 2 + 4
