import errno
import fcntl
import tracemalloc
import zipfile

import numpy as np
import pytest

from maxsup_jax.errors import UsageError
from maxsup_jax.outputs import NpzWriter

MEMBERS = {
  'logits': ((7, 3), np.float32),
  'features': ((7, 5), np.float32),
  'labels': ((7,), np.int32),
}
RNG = np.random.default_rng(0)
ARRAYS = {
  name: RNG.integers(0, 100, shape).astype(dtype)
  for name, (shape, dtype) in MEMBERS.items()
}


def write(path, sizes=(3, 4), **kwargs):
  with NpzWriter(path, MEMBERS, **kwargs) as file:
    file.write('name', np.array('a ü ☃'))
    start = 0
    for size in sizes:
      for name, array in ARRAYS.items():
        file.append(name, array[start : start + size])
      start += size
    file.write('bias', np.arange(3.0))


@pytest.mark.parametrize('sizes', [(7,), (3, 4), (1,) * 7, (0, 6, 0, 1)])
def test_numpy_reads_what_was_appended(tmp_path, sizes):
  path = tmp_path / 'new' / 'x.npz'
  write(path, sizes)
  with np.load(path, allow_pickle=False) as found:
    assert set(found) == {*ARRAYS, 'name', 'bias'}
    for name, array in ARRAYS.items():
      assert found[name].dtype == array.dtype
      np.testing.assert_array_equal(found[name], array)
    assert str(found['name']) == 'a ü ☃'
    np.testing.assert_array_equal(found['bias'], [0, 1, 2])
  assert list(path.parent.iterdir()) == [path]
  with zipfile.ZipFile(path) as archive:
    assert archive.testzip() is None
    assert {i.compress_type for i in archive.infolist()} == {0}


def test_equal_contents_are_equal_bytes(tmp_path):
  write(tmp_path / 'a.npz', (7,))
  write(tmp_path / 'b.npz', (3, 4))
  a, b = ((tmp_path / f'{x}.npz').read_bytes() for x in 'ab')
  assert a == b


def test_members_may_be_larger_than_four_gigabytes(tmp_path, monkeypatch):
  """Where zipfile thinks that 20 bytes are four gigabytes."""
  monkeypatch.setattr(zipfile, 'ZIP64_LIMIT', 20)
  write(tmp_path / 'x.npz')
  with np.load(tmp_path / 'x.npz') as found:
    np.testing.assert_array_equal(found['logits'], ARRAYS['logits'])


def test_it_is_never_in_memory(tmp_path):
  rows = np.ones((100, 1000), np.float32)
  members = dict.fromkeys(('a', 'b'), ((10000, 1000), np.float32))
  tracemalloc.start()
  with NpzWriter(tmp_path / 'x.npz', members) as file:
    for _ in range(100):
      file.append('a', rows)
      file.append('b', rows)
  _, peak = tracemalloc.get_traced_memory()
  tracemalloc.stop()
  assert (tmp_path / 'x.npz').stat().st_size > 80_000_000
  assert peak < 8_000_000


def test_what_exists_is_kept_unless_asked(tmp_path):
  path = tmp_path / 'x.npz'
  path.write_text('precious')
  with pytest.raises(UsageError, match=r'x\.npz exists; --overwrite'):
    write(path)
  # Also where it came into being meanwhile.
  other = tmp_path / 'y.npz'
  with (
    pytest.raises(UsageError, match=r'y\.npz exists'),
    NpzWriter(other, {'a': ((0,), np.int8)}),
  ):
    other.write_text('new')
  assert other.read_text() == 'new'
  # An attempt that fails takes nothing away.
  with pytest.raises(ValueError, match='rows'):
    write(path, (3,), overwrite=True)
  assert path.read_text() == 'precious'
  write(path, overwrite=True)
  assert sorted(p.name for p in tmp_path.iterdir()) == ['x.npz', 'y.npz']
  assert np.load(path)['logits'].shape == (7, 3)


@pytest.mark.parametrize('error', [KeyboardInterrupt, ArithmeticError])
def test_an_error_leaves_nothing_behind(tmp_path, error):
  def fail():
    with NpzWriter(tmp_path / 'x.npz', MEMBERS) as file:
      file.append('logits', ARRAYS['logits'])
      file.append('features', ARRAYS['features'])
      raise error

  with pytest.raises(error):
    fail()
  assert list(tmp_path.iterdir()) == []


def test_what_a_killed_process_left_is_replaced(tmp_path):
  (tmp_path / '.x.npz.partial').write_bytes(b'?' * 100_000)
  write(tmp_path / 'x.npz')
  write(tmp_path / 'y.npz')
  x, y = ((tmp_path / f'{n}.npz').read_bytes() for n in 'xy')
  assert x == y
  assert not (tmp_path / '.x.npz.partial').exists()


def test_two_processes_do_not_write_the_same_file(tmp_path):
  partial = tmp_path / '.x.npz.partial'
  with partial.open('w') as other:
    fcntl.flock(other, fcntl.LOCK_EX)
    with pytest.raises(UsageError, match='another process is writing'):
      write(tmp_path / 'x.npz')
    assert partial.exists()


def test_refuses_what_cannot_be_written(tmp_path):
  huge = {'a': ((10**9, 10**6), np.float32)}
  for path, members, message in (
    (tmp_path, MEMBERS, 'is a directory'),
    ('/dev/null/x.npz', MEMBERS, 'cannot be written: File exists'),
    (tmp_path / 'x.npz', huge, r'needs 4,000,000\.02 GB .* GB are free'),
  ):
    with (
      pytest.raises(UsageError, match=message) as e,
      NpzWriter(path, members),
    ):
      pass
    assert '\n' not in str(e.value)
  assert list(tmp_path.iterdir()) == []


def test_asks_for_the_space_of_what_is_there_twice(tmp_path, monkeypatch):
  """The second largest member, before it has been joined."""
  usage = type('Usage', (), {})
  monkeypatch.setattr('shutil.disk_usage', lambda _: usage)
  members = {
    'a': ((10**9,), np.int8),
    'b': ((2 * 10**9,), np.int8),
    'c': ((3 * 10**9,), np.int8),
  }
  usage.free = 8_100_000_000
  with pytest.raises(KeyError), NpzWriter(tmp_path / 'x', members):
    raise KeyError
  usage.free = 7_900_000_000
  with (
    pytest.raises(UsageError, match=r'needs 8\.02 GB .* 7\.90 GB'),
    NpzWriter(tmp_path / 'x', members),
  ):
    pass


def test_a_disk_that_fills_up_is_one_line(tmp_path):
  class Full:
    def write(self, _):
      raise OSError(errno.ENOSPC, 'No space left on device')

  def fill():
    with NpzWriter(tmp_path / 'x.npz', MEMBERS) as file:
      file._targets['logits'] = Full()
      file.append('logits', ARRAYS['logits'])

  with pytest.raises(UsageError, match='cannot be written: No space left'):
    fill()
  assert list(tmp_path.iterdir()) == []


def test_refuses_rows_that_were_not_promised(tmp_path):
  for name, rows, message in (
    ('logits', ARRAYS['logits'].astype(np.float64), 'expected float32'),
    ('logits', ARRAYS['logits'][:, :2], r'expected float32 \[3\]'),
    ('labels', np.zeros(8, np.int32), 'more rows than the 7'),
  ):
    with (
      pytest.raises(ValueError, match=message),
      NpzWriter(tmp_path / 'x.npz', MEMBERS) as file,
    ):
      file.append(name, rows)
  with (
    pytest.raises(ValueError, match="'logits' has 0 rows; 7 were promised"),
    NpzWriter(tmp_path / 'x.npz', MEMBERS),
  ):
    pass
  with NpzWriter(tmp_path / 'y.npz', {'a': ((0,), np.int8)}) as file:
    with pytest.raises(ValueError, match='objects'):
      file.write('b', np.array([None]))
    with pytest.raises(ValueError, match='already'):
      file.write('a', np.zeros(1))
  assert [p.name for p in tmp_path.iterdir()] == ['y.npz']
