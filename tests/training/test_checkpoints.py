import errno
import shutil
import sys
import time
import types

import jax
import numpy as np
import optax
import pytest

from maxsup_jax.errors import UsageError
from maxsup_jax.files import WriteError
from maxsup_jax.training import agreement
from maxsup_jax.training.checkpoints import Checkpoints
from maxsup_jax.training.state import TrainState

PARAMS = {
  'conv': {'kernel': np.arange(24, dtype=np.float32).reshape(2, 3, 4)},
  'head': {'bias': np.float32([1, np.pi])},
}


def make_state(step):
  params = jax.tree.map(lambda x: x * (1 + step / 3), PARAMS)
  optimizer = optax.chain(
    optax.clip_by_global_norm(1.0),
    optax.adamw(
      optax.constant_schedule(0.1), mask={'conv': True, 'head': False}
    ),
  )
  state = TrainState(
    step=np.array(step, np.int32),
    params=params,
    batch_stats={},
    opt_state=optimizer.init(params),
    objective_state=(),
    ema={'params': params, 'batch_stats': {}},
  )
  return jax.tree.map(np.asarray, state)


def assert_same(a, b):
  assert jax.tree.structure(a) == jax.tree.structure(b)
  for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b)):
    assert x.dtype == y.dtype
    np.testing.assert_array_equal(x, y)


LIKE = jax.tree.map(
  lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), make_state(0)
)


@pytest.fixture(scope='module')
def saved(tmp_path_factory):
  """A directory with the checkpoints of steps 2 and 3."""
  directory = tmp_path_factory.mktemp('run') / 'checkpoints'
  checkpoints = Checkpoints(directory, keep=2)
  for step in (1, 2, 3):
    extra = {'window': {'nll': (1 / 3, 7.0)}, 'seconds': 0.1}
    checkpoints.save(step, make_state(step), extra)
  checkpoints.close()
  return directory


@pytest.fixture
def directory(saved, tmp_path):
  shutil.copytree(saved, tmp_path / 'checkpoints')
  return tmp_path / 'checkpoints'


def test_keeps_the_newest_and_restores_bit_for_bit(directory):
  checkpoints = Checkpoints(directory)
  assert checkpoints.steps() == [2, 3]
  for step in (2, 3):
    state, extra = checkpoints.restore(step, LIKE)
    assert_same(state, make_state(step))
    assert extra == {'window': {'nll': [1 / 3, 7.0]}, 'seconds': 0.1}
  state, _ = checkpoints.restore_latest(LIKE)
  assert int(state.step) == 3


def test_parts_are_read_whatever_the_rest_looks_like(directory):
  checkpoints = Checkpoints(directory)
  state = make_state(3)
  read = checkpoints.restore_part(3, ('params', 'batch_stats'))
  assert_same(read, {'params': state.params, 'batch_stats': {}})
  assert_same(checkpoints.restore_part(3, ('ema',)), {'ema': state.ema})
  with pytest.raises(UsageError, match=r'no checkpoint of step 7.*: 2, 3'):
    checkpoints.restore_part(7, ('params',))


def test_a_part_that_is_none(tmp_path):
  checkpoints = Checkpoints(tmp_path / 'checkpoints')
  checkpoints.save(1, make_state(1).replace(ema=None), {})
  checkpoints.wait()
  assert checkpoints.restore_part(1, ('ema',)) == {'ema': None}
  read = checkpoints.restore_part(1, ('ema', 'step'))
  assert_same(read, {'ema': None, 'step': np.array(1, np.int32)})


def test_what_changes_after_the_save_is_not_saved(tmp_path, monkeypatch):
  """Orbax turns the document into JSON in a thread of its own."""
  checkpoints = Checkpoints(tmp_path / 'checkpoints')
  given = []
  monkeypatch.setattr(
    checkpoints._manager, 'save', lambda step, args: given.append(args)
  )
  extra = {'window': {'nll': (0.0, 1.0)}}
  checkpoints.save(1, make_state(1), extra)
  extra['window']['nll'] = (7.0, 8.0)
  assert given[0]['extra'].item == {'window': {'nll': (0.0, 1.0)}}


def test_no_checkpoint_is_none_and_makes_no_directory(tmp_path):
  assert Checkpoints(tmp_path / 'none').restore_latest(LIKE) is None
  assert not (tmp_path / 'none').exists()


def test_an_unknown_step_lists_the_known(directory):
  with pytest.raises(UsageError, match=r'no checkpoint of step 7.*: 2, 3'):
    Checkpoints(directory).restore(7, LIKE)


def largest_file(directory):
  files = [p for p in directory.rglob('*') if p.is_file()]
  return max(files, key=lambda p: p.stat().st_size)


@pytest.mark.parametrize('damage', ['truncated', 'flipped', 'deleted'])
@pytest.mark.parametrize(
  'part',
  ['state/d', 'state/manifest.ocdbt', 'extra/metadata', 'checksums.json'],
)
@pytest.mark.filterwarnings('ignore:the checkpoint')
def test_a_damaged_newest_falls_back_to_the_one_before(directory, damage, part):
  target = directory / '3' / part
  if target.is_dir():
    target = largest_file(target)
  content = target.read_bytes()
  half = len(content) // 2
  if damage == 'truncated':
    target.write_bytes(content[:half])
  elif damage == 'flipped':
    flipped = bytes([content[half] ^ 255])
    target.write_bytes(content[:half] + flipped + content[half + 1 :])
  else:
    target.unlink()
  checkpoints = Checkpoints(directory)
  with pytest.warns(UserWarning, match=r'checkpoints/3 is damaged'):
    state, _ = checkpoints.restore_latest(LIKE)
  assert_same(state, make_state(2))
  assert checkpoints.steps() == [2]
  # What is left of it is kept, and its step can be saved again.
  assert (directory.parent / 'damaged' / '3').is_dir()
  checkpoints.save(3, make_state(3), {})
  checkpoints.wait()
  assert_same(checkpoints.restore(3, LIKE)[0], make_state(3))


@pytest.mark.filterwarnings('ignore:the checkpoint')
def test_all_damaged_is_an_error_not_a_fresh_start(directory):
  for step in ('2', '3'):
    (directory / step / 'extra' / 'metadata').write_text('{')
  for _ in range(2):
    with pytest.raises(UsageError, match='none of the 2 checkpoints'):
      Checkpoints(directory).restore_latest(LIKE)
  assert Checkpoints(directory).steps() == [2, 3]


def test_a_save_that_was_killed_is_no_checkpoint(directory):
  (directory / '3').rename(directory / '3.orbax-checkpoint-tmp')
  checkpoints = Checkpoints(directory)
  state, _ = checkpoints.restore_latest(LIKE)
  assert int(state.step) == 2
  checkpoints.save(3, make_state(3), {})
  checkpoints.wait()
  assert checkpoints.steps() == [2, 3]


def test_the_first_process_chooses(directory, monkeypatch):
  """Another one may see a newer checkpoint, or one that it takes for whole."""
  monkeypatch.setattr(agreement, 'gather', lambda _: [[2, 2], [3, 2]])
  state, _ = Checkpoints(directory).restore_latest(LIKE)
  assert int(state.step) == 2
  monkeypatch.setattr(agreement, 'gather', lambda _: [2, 3])
  assert Checkpoints(directory).newest() == 2


def test_an_array_of_another_shape(directory):
  wrong = {'conv': {'kernel': np.zeros((2, 3, 5))}, 'head': PARAMS['head']}
  message = (
    r'does not match .*conv/kernel is \[2, 3, 4\]; expected \[2, 3, 5\]$'
  )
  with (
    Checkpoints(directory) as checkpoints,
    pytest.raises(UsageError, match=message),
  ):
    checkpoints.restore(3, LIKE.replace(params=wrong))


def test_what_tensorstore_prints_of_a_full_disk(tmp_path, monkeypatch):
  """A traceback for every array, at any time after the first has failed."""
  shown = []
  hook = shown.append
  for name in ('unraisablehook', '__unraisablehook__'):
    monkeypatch.setattr(sys, name, hook)
  with Checkpoints(tmp_path / 'checkpoints') as checkpoints:
    checkpoints.save(1, make_state(1), {})
  for text in ('Event loop is closed', 'other'):
    error = RuntimeError(text)
    sys.unraisablehook(
      types.SimpleNamespace(exc_type=RuntimeError, exc_value=error)
    )
  assert [str(x.exc_value) for x in shown] == ['other']


def test_a_checkpoint_that_another_host_does_not_see(directory, monkeypatch):
  """Nobody restores, and nobody starts afresh."""
  monkeypatch.setattr(agreement, 'PATIENCE', 0.2)
  monkeypatch.setattr(agreement, 'gather', lambda x: [x, [False, '/b']])
  checkpoints = Checkpoints(directory)
  monkeypatch.setattr(jax, 'process_count', lambda: 2)
  with pytest.raises(UsageError, match='process 1 does not see the checkpo'):
    checkpoints.wait_for(3)


def test_one_that_was_moved_is_not_taken_for_another(directory):
  (directory / '3').rename(directory / '4')
  with Checkpoints(directory) as checkpoints:
    with pytest.raises(UsageError, match=r'4 is damaged .it is that of step 3'):
      checkpoints.restore(4, LIKE)
    assert checkpoints.restore(2, LIKE)
  (directory / 'file').write_text('')
  with pytest.raises(UsageError, match='is a file; expected a directory'):
    Checkpoints(directory / 'file')


@pytest.mark.filterwarnings(
  'ignore::pytest.PytestUnhandledThreadExceptionWarning'
)
def test_a_failure_in_the_background_is_seen_before_the_next_save(
  tmp_path, monkeypatch
):
  def full(path):
    raise OSError(errno.ENOSPC, 'No space left on device')

  monkeypatch.setattr('maxsup_jax.training.checkpoints._checksums', full)
  checkpoints = Checkpoints(tmp_path / 'checkpoints')
  checkpoints.save(1, make_state(1), {})
  while checkpoints._manager.is_saving_in_progress():
    time.sleep(0.01)
  with pytest.raises(WriteError, match=r'/1 cannot be written: no space is'):
    checkpoints.check()
  assert checkpoints.steps() == []
