import importlib
import json
import os
import pickle
import resource
import struct

import fsspec
import numpy as np
import pytest
import tensorflow_datasets as tfds
from fsspec.implementations.memory import MemoryFileSystem

from maxsup_jax.data import (
  _storage,
  _tfrecord,
  open_source,
)
from tests.data.tfrecord import as_tfrecord, framed, write_file

CLASSES = tfds.features.ClassLabel(num_classes=5)
FEATURES = {
  'image': tfds.features.Image(shape=(None, None, 3)),
  'label': CLASSES,
  'file_name': tfds.features.Text(),
}


@pytest.fixture
def both(write_dataset, make_images, tmp_path):
  """The directories of one dataset as ArrayRecord and as TFRecord."""
  images = make_images(*[(9 + i, 12, 3) for i in range(23)])
  examples = [
    {'image': image, 'label': i % 5, 'file_name': f'{i}.png'}
    for i, image in enumerate(images)
  ]
  directory = write_dataset(FEATURES, {'train': examples, 'test': examples[:3]})
  copy = as_tfrecord(directory, tmp_path / 'copies' / 'tiny' / '1.0.0', 4)
  return directory, copy


@pytest.fixture
def copy(both):
  return both[1]


@pytest.fixture
def shards(copy):
  return sorted(copy.glob('tiny-train.tfrecord-*'))


def _read_all(files, path, size):
  shard = _tfrecord.Shard(path, _tfrecord.find_records(files, path, size))
  return list(_tfrecord.Records(files, [shard]))


def _assert_same(first, second):
  assert len(first) == len(second)
  for a, b in zip(first, second):
    assert a['label'] == b['label']
    np.testing.assert_array_equal(a['image'], b['image'])


class TestExamples:
  @pytest.mark.parametrize('split', ['train', 'train[4:17]', 'train+test'])
  def test_are_those_of_array_record(self, both, split):
    a, b = (open_source(str(path), split) for path in both)
    assert not isinstance(a.examples.records, _tfrecord.Records)
    assert isinstance(b.examples.records, _tfrecord.Records)
    _assert_same(b, a)
    np.testing.assert_array_equal(b.labels(), a.labels())
    assert (b.num_classes, b.image_shape) == (a.num_classes, a.image_shape)

  def test_array_record_is_preferred(self, both):
    directory, copy = both
    for path in copy.glob('*.tfrecord-*'):
      path.rename(directory / path.name)
    path = directory / 'dataset_info.json'
    _set_formats(path, 'tfrecord', 'tfrecord', 'array_record')
    source = open_source(str(directory), 'train')
    assert not isinstance(source.examples.records, _tfrecord.Records)
    assert len(source) == 23


class TestFiles:
  def test_stay_open_but_not_too_many(self, tmp_path, monkeypatch):
    monkeypatch.setattr(resource, 'getrlimit', lambda _: (12, 12))
    files = _storage.LocalFiles()
    for i in range(9):
      (tmp_path / f'{i}').write_bytes(b'0123456789' * i)
    before = len(os.listdir('/proc/self/fd'))
    for _ in range(2):
      for i in range(9):
        assert files.read(str(tmp_path / f'{i}'), 5, 3) == b'567' * (i > 0)
    assert len(os.listdir('/proc/self/fd')) == before + 3
    del files
    assert len(os.listdir('/proc/self/fd')) == before


def _set_formats(path, main, *formats):
  """Changes what `dataset_info.json` says of the formats that are there."""
  info = json.loads(path.read_text())
  others = [f for f in formats if f != main]
  info |= {'fileFormat': main, 'alternativeFileFormats': others}
  path.write_text(json.dumps(info))


class TestRefuses:
  def test_a_missing_file(self, copy, shards, refused):
    shards[2].unlink()
    with refused(f'is incomplete: {shards[2]} is missing'):
      open_source(str(copy), 'train')
    assert len(open_source(str(copy), 'train[:5]')) == 5

  @pytest.mark.parametrize('left', [-1, 40, 10])
  def test_a_truncated_file(self, copy, shards, left, refused):
    shards[1].write_bytes(shards[1].read_bytes()[:left])
    with refused(f'{shards[1]} is truncated at [0-9]+ bytes'):
      open_source(str(copy), 'train')

  @pytest.mark.parametrize('kept', [0, 7])
  def test_another_number_of_records(self, copy, shards, kept, refused):
    write_file(shards[3], [b'data'] * kept)
    with refused(f'{shards[3]} has {kept} records; .* says 6'):
      open_source(str(copy), 'train')

  def test_every_bit_error(self, tmp_path):
    """One in a length is found on opening, one in the data on reading."""
    path, files = tmp_path / 'file', _storage.LocalFiles()
    whole = framed(b'abc') + framed(b'') + framed(b'de')
    path.write_bytes(whole)
    assert _read_all(files, str(path), len(whole)) == [b'abc', b'', b'de']
    for bit in range(8 * len(whole)):
      damaged = bytearray(whole)
      damaged[bit // 8] ^= 1 << bit % 8
      path.write_bytes(damaged)
      with pytest.raises(_tfrecord.DamagedError, match=str(path)):
        _read_all(files, str(path), len(whole))

  def test_damaged_data_name_the_example(self, copy, shards, refused):
    data = bytearray(shards[1].read_bytes())
    data[60] ^= 1
    shards[1].write_bytes(data)
    source = open_source(str(copy), 'train')
    with refused(
      f'train: example 5 cannot be read: the checksum of byte 0 of {shards[1]} '
    ):
      source[5]
    assert source[4]['label'] < 5

  def test_a_file_that_changes(self, copy, shards, refused):
    source = open_source(str(copy), 'train')
    write_file(shards[0], [b'other'] * 5)
    with refused(f'example 3 cannot be read: {shards[0]} has changed since'):
      source[3]


class TestIndex:
  def test_is_kept_beside_the_dataset(self, copy, monkeypatch):
    open_source(str(copy), 'train[:5]')
    found = []
    find = _tfrecord.find_records

    def spy(files, path, size):
      found.append(path[-14:-9])
      return find(files, path, size)

    monkeypatch.setattr(_tfrecord, 'find_records', spy)
    open_source(str(copy), 'train')
    assert found == ['00001', '00002', '00003']  # The first is known.
    open_source(str(copy), 'train')
    assert len(found) == 3
    (shard,) = copy.glob('*train*-00002-*')
    os.utime(shard, (1, 1))
    open_source(str(copy), 'train')
    assert found[3:] == ['00002']
    assert [p.name for p in copy.iterdir() if 'index' in p.name] == [
      '.tfrecord_index.npz'
    ]

  def test_goes_to_the_cache_if_need_be(self, copy, tmp_path, monkeypatch):
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'cache'))
    # Not even the superuser can write to a directory that is a file.
    monkeypatch.setattr(_tfrecord, '_INDEX', 'dataset_info.json/index.npz')
    assert len(open_source(str(copy), 'train')) == 23
    (index,) = (tmp_path / 'cache').glob('maxsup_jax/*')
    time = index.stat().st_mtime_ns
    assert len(open_source(str(copy), 'train')) == 23
    assert index.stat().st_mtime_ns == time
    (tmp_path / 'blocked').write_text('')
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'blocked'))
    assert len(open_source(str(copy), 'train')) == 23


class _Bucket(MemoryFileSystem):
  """Object storage in memory, by a name that tfds takes for a remote one."""

  protocol = ('gs', 'gcs')  # The second is what etils asks for.
  store = {}  # noqa: RUF012
  pseudo_dirs = ['']  # noqa: RUF012

  @classmethod
  def _strip_protocol(cls, path):
    return super()._strip_protocol(path.replace('gs://', 'memory://', 1))


@pytest.fixture
def bucket(copy, tmp_path, monkeypatch):
  monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'cache'))
  known = importlib.import_module('fsspec.registry')._registry
  for name in _Bucket.protocol:
    monkeypatch.setitem(known, name, _Bucket)
  fs = fsspec.filesystem('gs')
  for path in copy.iterdir():
    fs.pipe_file(f'gs://bucket/data/tiny/1.0.0/{path.name}', path.read_bytes())
  yield fs
  _Bucket.store.clear()


class TestObjectStorage:
  def test_a_directory(self, both, bucket):
    a = open_source(str(both[0]), 'train')
    before = bucket.find('gs://bucket')
    for _ in range(2):  # The second time with the index of the first.
      b = open_source('gs://bucket/data/tiny/1.0.0', 'train')
      _assert_same(pickle.loads(pickle.dumps(b)), a)
    b = open_source('tiny', 'train[2:9]', data_dir='gs://bucket/data')
    _assert_same(b, open_source(str(both[0]), 'train[2:9]'))
    # Nothing is written there.
    assert bucket.find('gs://bucket') == before

  def test_both_formats(self, both, bucket):
    """Of ArrayRecord, which is preferred on a disk, nothing can be read."""
    directory, copy = both
    info = copy / 'dataset_info.json'
    _set_formats(info, 'array_record', 'array_record', 'tfrecord')
    for path in (info, *directory.glob('*.array_record-*')):
      remote = f'gs://bucket/data/tiny/1.0.0/{path.name}'
      bucket.pipe_file(remote, path.read_bytes())
    source = open_source('gs://bucket/data/tiny/1.0.0', 'train[3:]')
    _assert_same(source, open_source(str(directory), 'train[3:]'))

  def test_reads_no_more_than_the_record(self, bucket, monkeypatch):
    source = open_source('gs://bucket/data/tiny/1.0.0', 'train')
    read = []
    cat_file = _Bucket.cat_file

    def spy(self, path, start=None, end=None, **options):
      read.append(end - start)
      return cat_file(self, path, start, end, **options)

    monkeypatch.setattr(_Bucket, 'cat_file', spy)
    source[7]
    shard = source.examples.records._shards[1]
    assert read == [shard.starts[3] - shard.starts[2]]

  @pytest.mark.parametrize(
    ('name', 'message'),
    [
      ('gs://bucket/data/none/1.0.0', 'is not a dataset prepared by tfds'),
      ('ftp://host/mnist/1.0.0', 'is unknown; expected a local path or gs:'),
    ],
  )
  def test_refuses(self, bucket, name, message, refused):
    with refused(message):
      open_source(name, 'train')

  @pytest.mark.parametrize('lists', [True, False])
  def test_says_why_it_may_not_be_read(
    self, bucket, lists, monkeypatch, refused
  ):
    def fail(self, *arguments, **options):
      raise PermissionError('403: no access\nto the bucket')

    for method in ('info', *(() if lists else ('ls', 'listdir'))):
      monkeypatch.setattr(_Bucket, method, fail)
    # Storage that may not be read looks empty.
    monkeypatch.setattr(_Bucket, 'exists', lambda *_: False)
    with refused('tiny/1.0.0.* cannot be read: 403: no access to the bucket$'):
      open_source('gs://bucket/data/tiny/1.0.0', 'train')
    for name in ('tiny', 'tiny:1.0.0'):
      with refused(
        'bucket/data.* cannot be read: 403: no access to the bucket'
      ):
        open_source(name, 'train', data_dir='gs://bucket/data')

  def test_array_record(self, bucket, refused):
    path = 'gs://bucket/data/tiny/1.0.0/dataset_info.json'
    info = json.loads(bucket.cat_file(path))
    bucket.pipe_file(
      path, json.dumps({**info, 'fileFormat': 'array_record'}).encode()
    )
    with refused('as array_record: only tfrecord can be'):
      open_source('gs://bucket/data/tiny/1.0.0', 'train')


@pytest.mark.parametrize('name', ['digits', 'glyphs/3x6_16_easy'])
def test_embedded_datasets_are_not_prepared_there(
  name, tmp_path, monkeypatch, refused
):
  monkeypatch.chdir(tmp_path)
  with refused('cannot be prepared in gs://bucket/data: set data'):
    open_source(name, 'train', data_dir='gs://bucket/data')
  assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(
  _storage._filesystem_class('gs') is not None,
  reason='a package that reads gs:// is installed',
)
def test_a_missing_package(refused):
  for name, data_dir in (('gs://b/mnist', None), ('cifar10', 'gs://b')):
    with refused('no installed package reads .*: pip install gcsfs$'):
      open_source(name, 'train', data_dir=data_dir)
  with refused('no installed package reads s3://b/mnist: pip install s3fs$'):
    open_source('s3://b/mnist', 'train')


def test_the_form_of_a_record():
  # Of a record "hello", as written by TensorFlow 2.21.
  assert framed(b'hello') == _GOLDEN
  assert struct.unpack('<Q', _GOLDEN[:8]) == (5,)


_GOLDEN = bytes.fromhex('0500000000000000eab2043e68656c6c6fbb1f1c19')
