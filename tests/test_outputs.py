import errno
import fcntl
import json
import tracemalloc
import zipfile

import numpy as np
import pytest

from maxsup_jax import outputs as archive
from maxsup_jax.errors import UsageError
from maxsup_jax.outputs import NpzWriter
from tests.classifier import classifier


def test_everything_is_read(write_npz):
  path = write_npz(
    'a',
    class_names=np.array(list('abcde')),
    groups=np.arange(400, dtype=np.int32) // 8,
    metadata=np.array(json.dumps({'name': 'CE', 'split': 'test'})),
    history=np.array(json.dumps([{'step': 1}])),
    something_else=np.zeros(3),
  )
  outputs = archive.read(path)
  assert outputs.name == 'CE'
  assert outputs.class_name(1) == 'b'
  assert outputs.history == [{'step': 1}]
  assert (outputs.num_examples, outputs.num_classes) == (400, 5)
  assert outputs.linear
  assert outputs.groups[[7, 8, 399]].tolist() == [0, 1, 49]
  assert archive.read(path, 'mine').name == 'mine'


def test_logits_and_labels_are_enough(write_npz):
  outputs = archive.read(write_npz('b', features=None, weights=None, bias=None))
  assert outputs.name == 'b'
  assert outputs.features is outputs.head_error is None
  assert outputs.class_name(1) == 'class 1'


def test_another_head_is_noticed(write_npz):
  half = np.load(write_npz('a'))['logits'] / 2
  outputs = archive.read(write_npz('b', logits=half))
  assert not outputs.linear
  # The weights of a square matrix may be transposed: the logits tell.
  square = np.random.default_rng(0).normal(size=(5, 5)).astype(np.float32)
  features = np.load(write_npz('a'))['features'][:, :5]
  right = {'weights': square, 'bias': None, 'features': features}
  logits = features @ square.T
  assert archive.read(write_npz('c', logits=logits, **right)).linear
  right['weights'] = square.T
  assert not archive.read(write_npz('d', logits=logits, **right)).linear


def test_probabilities_are_read_if_told(write_npz):
  logits = np.load(write_npz('a'))['logits'].astype(np.float64)
  p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
  p = p.astype(np.float32)
  p[p < 1e-4] = 0
  assert not p.all()
  names = np.array([b'a', 'ä'.encode(), b'c', b'd', b'e'])
  path = write_npz('p', logits=p, class_names=names)
  with pytest.raises(UsageError, match=r'p\.npz: logits holds probabilities'):
    archive.read(path)
  outputs = archive.read(path, probabilities=True)
  # The logits but for a shift of each row.
  shift = np.where(p > 0, outputs.logits - logits, 0)
  np.testing.assert_allclose(
    shift, np.where(p > 0, shift.min(1, keepdims=True), 0), atol=1e-5
  )
  assert outputs.linear
  assert outputs.class_names == tuple('aäcde')
  with pytest.raises(UsageError, match=r'logits\[0, .\] is -.*expected prob'):
    archive.read(write_npz('a'), probabilities=True)


def test_a_single_logit_is_binary(write_npz):
  """And so is the layer that gave it."""
  features = np.array([[1.0, 2.0], [3.0, -1.0]])
  path = write_npz(
    'b',
    {
      'logits': features @ np.array([1.0, 2.0]) - 1,
      'labels': np.array([1, 0]),
      'features': features,
      'weights': np.array([[1.0, 2.0]]),
      'bias': np.array([-1.0]),
    },
  )
  outputs = archive.read(path)
  np.testing.assert_array_equal(outputs.logits, [[-2, 2], [0, 0]])
  assert outputs.weights.shape == (2, 2)
  assert outputs.linear


@pytest.mark.parametrize(
  ('changes', 'message'),
  [
    ({'labels': None}, r"has no array 'labels'; it has logits, features"),
    ({'labels': np.full(400, 5)}, r'labels\[0\] is 5; expected from 0 to 4'),
    ({'labels': np.zeros(3, int)}, r'differ: logits 400, labels 3'),
    ({'features': np.ones((3, 8))}, r'differ: logits 400, features 3'),
    ({'features': np.full((400, 8), np.nan)}, r'features\[0, 0\] is nan'),
    (
      {'weights': np.ones((8, 5))},
      r'weights has the shape \(8, 5\); expected \[classes, features\] = '
      r'\[5, 8\]',
    ),
    ({'bias': np.ones(4)}, r'bias has the shape \(4,\); expected \(5,\)'),
    (
      {'augmented_logits': np.ones((2, 3, 5))},
      r'augmented_logits and augmented_labels must be given together',
    ),
    (
      {
        'augmented_logits': np.ones((2, 3, 4)),
        'augmented_labels': np.array([0, 1]),
      },
      r'augmented_logits has the shape \(2, 3, 4\)',
    ),
    (
      {
        'augmented_logits': np.ones((2, 3, 5)),
        'augmented_labels': np.array([1, 1]),
      },
      r'augmented_labels has 1 classes; expected 2',
    ),
    ({'groups': np.zeros(3, int)}, r'groups is int64 \[3\]; expected integers'),
    (
      {'groups': np.zeros(400, int)},
      r'groups has one group; expected',
    ),
    ({'class_names': np.array(['a'])}, r'class_names has 1 names; expected 5'),
    ({'metadata': np.array('{')}, r'metadata is not JSON'),
    ({'history': np.array('{}')}, r'history is a JSON dict; expected a list'),
    ({'history': np.array('[1]')}, r'history\[0\] is not a JSON object'),
    (
      {'history': np.array('[{"kind": "diagnostics", "split": null}]')},
      r'history\[0\] has no split',
    ),
    (
      {
        'history': np.array(
          '[{"kind": "diagnostics", "split": "a", "nc1": "x"}]'
        )
      },
      r"history\[0\]: nc1 is 'x'; expected a number",
    ),
    (
      {'labels': np.array([None] * 400, object)},
      r'labels holds Python objects; expected numbers, or text',
    ),
  ],
)
def test_what_is_wrong_is_one_line_with_the_file(write_npz, changes, message):
  path = write_npz('bad', **changes)
  with pytest.raises(UsageError, match=message) as e:
    archive.read(path)
  assert str(path) in str(e.value)
  assert '\n' not in str(e.value)


def test_files_that_are_no_archives(tmp_path):
  with pytest.raises(UsageError, match='no file'):
    archive.read(tmp_path / 'missing.npz')
  (tmp_path / 'text.npz').write_text('hello')
  with pytest.raises(UsageError, match='cannot be read'):
    archive.read(tmp_path / 'text.npz')
  np.save(tmp_path / 'bare.npy', np.zeros(3))
  with pytest.raises(UsageError, match='cannot be read as an npz'):
    archive.read(tmp_path / 'bare.npy')
  full = tmp_path / 'full.npz'
  np.savez(full, logits=np.zeros((100, 3)), labels=np.zeros(100, int))
  (tmp_path / 'cut.npz').write_bytes(full.read_bytes()[:1500])
  with pytest.raises(UsageError, match='cannot be read'):
    archive.read(tmp_path / 'cut.npz')
  (tmp_path / 'empty.npz').touch()
  with pytest.raises(UsageError, match='cannot be read'):
    archive.read(tmp_path / 'empty.npz')


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
  with pytest.raises(UsageError, match=r'x\.npz exists; overwrite=True'):
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
    (tmp_path / 'x.npz', huge, r'needs 4,000,000\.02 GB; .* GB are free'),
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
    pytest.raises(UsageError, match=r'needs 8\.02 GB; 7\.90 GB'),
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

  with pytest.raises(UsageError, match='cannot be written: no space is left'):
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


def test_bytes_in_another_order_are_the_same_numbers(write_npz):
  arrays = classifier()
  swapped = {k: v.astype(v.dtype.newbyteorder('>')) for k, v in arrays.items()}
  a = archive.read(write_npz('a', arrays))
  b = archive.read(write_npz('b', swapped))
  np.testing.assert_array_equal(a.logits, b.logits)
  assert b.logits.dtype.isnative


def test_nothing_read_steers_a_terminal(write_npz):
  names = np.array(['a', 'b\x1b[31m', 'c', 'd', 'e\u202e'])
  metadata = json.dumps({'name': '\x1b[2Jx\x07', 'more': ['\x1b[0m']})
  outputs = archive.read(
    write_npz('a', class_names=names, metadata=np.array(metadata))
  )
  assert outputs.name == 'x'
  assert outputs.class_names == ('a', 'b', 'c', 'd', 'e')
  assert outputs.metadata['more'] == ['']


def test_what_is_no_file_is_never_replaced():
  with (
    pytest.raises(UsageError, match='/dev/full is not a regular file'),
    NpzWriter('/dev/full', {'a': ((1,), np.float32)}, overwrite=True),
  ):
    pass
