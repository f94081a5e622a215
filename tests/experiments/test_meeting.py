"""Processes that meet: threads here, programs in test_train."""

import concurrent.futures
import socket
import threading
import time

import pytest

from experiments import _meeting
from maxsup_jax.errors import UsageError


@pytest.fixture
def gather(monkeypatch):
  """What each of `(index, count)` is told, coming 50 ms after each other."""
  monkeypatch.setattr(_meeting, '_LINGER', 0.5)
  monkeypatch.setattr(_meeting, '_AGAIN', 0.01)

  def gather(*processes):
    with socket.socket() as s:
      s.bind(('localhost', 0))
      address = f'localhost:{s.getsockname()[1]}'

    told = {}

    def say(place, index, count):
      try:
        _meeting.meet(address, count, index)
        told[place] = 'met'
      except UsageError as e:
        told[place] = str(e)

    # Daemons: who is never told would keep the tests from ending.
    threads = []
    for place, process in enumerate(processes):
      threads.append(
        threading.Thread(target=say, args=(place, *process), daemon=True)
      )
      threads[-1].start()
      time.sleep(0.05)
    for thread in threads:
      thread.join(5)
    return [told.get(place) for place in range(len(processes))]

  return gather


@pytest.mark.parametrize('order', [(0, 1, 2), (2, 1, 0), (1, 0, 2)])
def test_all_are_there(gather, order):
  assert gather(*((index, 3) for index in order)) == ['met'] * 3


@pytest.mark.parametrize('order', [(0, 1, 1, 2), (1, 1, 2, 0), (1, 2, 0, 1)])
def test_two_of_one_number(gather, order):
  """Wherever the second comes; also where the third is late."""
  told = gather(*((index, 4) for index in order))
  message = 'two processes have --process_id=1; start each with its own'
  assert told == [message] * 4


def test_another_count(gather):
  (told,) = set(gather((0, 3), (1, 4), (2, 3)))
  assert told.startswith('--num_processes is 4 in process 1 and 3 in process 0')


def test_another_service_is_there():
  """That of a run that goes on without this process."""
  with socket.create_server(('localhost', 0)) as server:
    address = f'localhost:{server.getsockname()[1]}'
    with concurrent.futures.ThreadPoolExecutor() as pool:
      told = pool.submit(_meeting.meet, address, 2, 1)
      other, _ = server.accept()
      with other:
        other.sendall(b'\0\0\x12\4')
      with pytest.raises(UsageError, match='have met without this one'):
        told.result(20)


def test_who_has_gone_and_comes_again(gather):
  """And what comes to the wrong port is ignored."""
  with socket.create_server(('localhost', 0)) as server:
    first, again, *others = (
      socket.create_connection(server.getsockname()) for _ in range(4)
    )
    for member, text in zip(
      (others[0], first, again, others[1]),
      ('GET / HTTP/1.1', 'maxsup_jax 1 3', 'maxsup_jax 1 3', 'maxsup_jax 2 3'),
    ):
      member.sendall(f'{text}\n'.encode())
    first.close()
    with concurrent.futures.ThreadPoolExecutor() as pool:
      done = pool.submit(_meeting._receive, server, 3)
      for member in (again, others[1]):
        assert member.recv(99) == b'maxsup_jax go\n'
        member.close()
      done.result(20)
    others[0].close()
