"""Work directories in a bucket, on an emulator."""

import itertools
import logging
import socket
import threading
import time

import pytest
from etils.epath import backend

from maxsup_jax import files, tasks
from maxsup_jax.errors import UsageError
from maxsup_jax.training import leases
from maxsup_jax.training.workdir import Workdir
from tests.bucket import Bucket
from tests.runs import assert_same_bits, last_state, timeless
from tests.training.regression import resolve
from tests.training.test_loop import dies, failing, train

pytestmark = pytest.mark.usefixtures('cached_compilation')

RUN = 'gs://test-bucket/runs/one'


@pytest.fixture
def bucket(monkeypatch):
  pytest.importorskip('gcp_storage_emulator')
  pytest.importorskip('gcsfs')
  started = Bucket()
  for name, value in started.environment().items():
    monkeypatch.setenv(name, value)
  # There are no credentials; what is not there is an error to the emulator.
  for name in ('gcsfs', 'gcp_storage_emulator'):
    logging.getLogger(name).setLevel(logging.CRITICAL)
  # It keeps the file system of an earlier test.
  forget = backend.fsspec_backend._get_filesystem.cache_clear
  forget()
  yield started
  forget()
  started.stop()


@pytest.fixture
def soon(monkeypatch):
  monkeypatch.setattr(leases, 'RENEWED', 0.1)
  monkeypatch.setattr(leases, 'EXPIRED', 0.6)


def test_resuming_there_is_exact(tmp_path, bucket):
  run, records = train(tmp_path / 'here')
  with pytest.raises(KeyboardInterrupt):
    train(RUN, task=failing(40, dies))
  before = bucket.requests.total()
  _, found = train(RUN)
  assert_same_bits(
    last_state(run, tmp_path / 'here'), last_state(run, files.located(RUN))
  )
  assert timeless(tmp_path / 'here') == timeless(files.located(RUN))
  assert found[0]['mse'] == records[0]['mse']
  # Two checkpoints; nothing is asked for at each step or line of the log.
  assert bucket.requests.total() - before < 600
  names = files.listed(files.located(RUN))
  assert not [n for n in names if n.startswith('.') or 'tensorboard' in n]


def test_a_checkpoint_that_was_cut_short_is_none(tmp_path, bucket):
  run, _ = train(RUN)
  last = files.located(RUN) / 'checkpoints' / '60'
  (last / 'commit_success.txt').unlink()
  # As of a run that was to stop at a step that is never saved again.
  (last.parent / '7' / 'left').write_bytes(b'over')
  train(RUN)
  assert '7/left' not in files.listed(last.parent)
  whole = last_state(run, files.located(RUN))
  name = max(files.listed(last), key=files.listed(last).get)
  (last / name).write_bytes(b'short')
  with pytest.warns(UserWarning, match='60 is damaged'):
    train(RUN)
  assert_same_bits(whole, last_state(run, files.located(RUN)))


def test_only_one_process_writes(bucket, soon):
  config = resolve()
  with (
    Workdir(RUN).opened(config),
    pytest.raises(UsageError, match='another process is training in'),
    Workdir(RUN).opened(config),
  ):
    pass
  with Workdir(RUN).opened(config):  # It was released: nobody waits.
    pass


def test_a_lease_that_nobody_renews_is_taken_over(bucket, soon):
  path = files.located(RUN) / '.lock'
  killed = leases.Lease(path)
  killed._ended.set()
  killed._thread.join()
  with leases.held(path) as heir:
    heir.check()
    # Whoever comes back to life must not write.
    killed._ended.clear()
    killed._renew()
    with pytest.raises(UsageError, match='has taken over'):
      killed.check()
  killed.release()


def test_of_several_that_wait_one_gets_it(bucket, soon):
  path = files.located(RUN) / '.lock'
  killed = leases.Lease(path)
  killed._ended.set()
  killed._thread.join()
  got, refused = [], []

  def take():
    try:
      got.append(leases.Lease(path))
    except UsageError:
      refused.append(path)

  threads = [threading.Thread(target=take) for _ in range(3)]
  for thread in threads:
    thread.start()
  for thread in threads:
    thread.join()
  assert (len(got), len(refused)) == (1, 2)
  got[0].release()


@pytest.mark.parametrize(
  ('path', 'fault', 'message'),
  [
    ('gs://no-such-bucket/a', None, '404'),
    (RUN, lambda method, path: 403, 'Forbidden'),
    (RUN, lambda method, path: 401, '401'),
    (RUN, lambda m, path: None if m == 'GET' else 403, 'PERMISSION_DENIED'),
  ],
)
def test_what_a_bucket_refuses_is_one_line(bucket, path, fault, message):
  bucket.fault = fault or bucket.fault
  with pytest.raises(UsageError, match=message) as error:
    train(path)
  assert '\n' not in str(error.value)


def test_what_fails_for_a_moment_is_tried_again(bucket, soon):
  calls = itertools.count()
  bucket.fault = lambda method, path: 503 if next(calls) % 4 == 0 else None
  with Workdir(RUN).opened(resolve()) as _:
    pass
  assert (files.located(RUN) / 'config.json').exists()


def test_lines_are_written_in_bounded_traffic(bucket, monkeypatch):
  workdir = Workdir(RUN)
  with workdir.opened(resolve()):
    workdir.log({'kind': 'train', 'step': 1})
    before = bucket.requests.total()
    for step in range(2, 200):
      workdir.log({'kind': 'train', 'step': step})
    assert bucket.requests.total() == before
    workdir.flush()
    assert bucket.requests.total() - before <= 2
    # Nor does a process save whose place another one has taken.
    workdir._lease._lost = 'it slept'
    with pytest.raises(UsageError, match='taken over'):
      workdir.flush()
    workdir._lease._lost = None
  assert len(Workdir(RUN).metrics()) == 199


@pytest.mark.slow
@pytest.mark.parametrize('count', [1, 2])
def test_killed_there_it_resumes_exactly(program, tmp_path, bucket, count):
  """As a user does it, in one process and in two."""

  def start(path):
    with socket.socket() as s:
      s.bind(('localhost', 0))
      port = s.getsockname()[1]
    met = f'--coordinator=localhost:{port}', f'--num_processes={count}'
    return [
      program(
        'train',
        '--config=configs/digits.py:loss=ls,debug=true',
        '--config.duration=60 steps',
        '--config.checkpoint_every=5 steps',
        f'--workdir={path}',
        *((*met, f'--process_id={i}') if count > 1 else ()),
        **bucket.environment(),
      )
      for i in range(count)
    ]

  def end(processes):
    written = [p.communicate(timeout=600) for p in processes]
    assert [p.returncode for p in processes] == [0] * count, written

  here, there = tmp_path / 'run', files.located(RUN)
  end(start(here))
  processes = start(RUN)
  while not (there / 'checkpoints' / '15' / 'commit_success.txt').exists():
    assert processes[0].poll() is None, processes[0].communicate()
    time.sleep(0.2)
  for process in processes:
    process.kill()
  for process in processes:
    process.communicate()
  end(start(RUN))
  assert timeless(here) == timeless(there)
  run = tasks.build(Workdir(here).config(), training=False)
  assert_same_bits(last_state(run, here), last_state(run, there))
