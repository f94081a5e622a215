"""Images and labels in a file of arrays."""

import pickle

import numpy as np
import pytest
from sklearn.model_selection import StratifiedShuffleSplit

from maxsup_jax import data, tasks
from maxsup_jax.errors import UsageError


def test_splits_slices_names_and_channels(tmp_path):
  rng = np.random.default_rng(0)
  images = rng.integers(0, 256, (10, 8, 8), np.uint8)
  labels = (np.arange(10) % 3)[:, None]
  path = tmp_path / 'mine.npz'
  np.savez(
    path,
    train_images=images,
    train_labels=labels,
    val_images=images[:4],
    val_labels=labels[:4] + 1,
  )
  train = data.open_source(f'npz:{path}', 'train[:50%]', channels=3)
  assert (len(train), train.num_classes) == (5, 4)
  np.testing.assert_array_equal(train[4]['image'][..., 2], images[4])
  assert train.labels().tolist() == [0, 1, 2, 0, 1]
  config = tasks.resolve(
    {
      'dataset': {'name': f'npz:{path}', 'eval_split': 'val'},
      'batch_size': 4,
      'duration': '1 step',
    }
  )
  run = tasks.build(config)
  assert (run.task.train_examples, len(run.task.eval_source)) == (10, 4)
  names = ['a', 'b', 'c']
  np.savez(path, images=images, labels=labels[:, 0], class_names=names)
  assert data.open_source(f'npz:{path}', 'all').label_names == ('a', 'b', 'c')


def contents(source):
  return [
    (example['image'].tobytes(), example['label'])
    for example in (source[i] for i in range(len(source)))
  ]


def test_two_files_hold_what_one_does_and_stay_on_the_disk(tmp_path):
  rng = np.random.default_rng(0)
  images = rng.integers(0, 256, (60, 4, 4), np.uint8)
  labels = rng.permutation(np.repeat([0, 1, 2], [35, 20, 5]))
  np.savez(tmp_path / 'one.npz', images=images, labels=labels)
  np.save(tmp_path / 'images.npy', images)
  np.save(tmp_path / 'labels.npy', labels)
  pair = f'npy:{tmp_path}/images.npy,{tmp_path}/labels.npy'
  parts = {}
  for part in ('all', 'train', 'test', 'train[:50%]', 'train[50%:]'):
    one = data.open_source(f'npz:{tmp_path}/one.npz', part, channels=3)
    mapped = data.open_source(pair, part, channels=3)
    assert (one.in_memory, mapped.in_memory) == (True, False)
    parts[part] = contents(mapped)
    assert parts[part] == contents(one)
    assert mapped.labels().tolist() == [label for _, label in parts[part]]
    assert one.held_out == mapped.held_out
    assert mapped.image_shape == mapped[0]['image'].shape == (4, 4, 3)
    # Workers are told where the images are, not what.
    sent = pickle.dumps(mapped)
    assert len(sent) < 2000
    assert contents(pickle.loads(sent)) == parts[part]
  assert parts['all'] == [
    (np.repeat(image, 3).tobytes(), label)
    for image, label in zip(images, labels)
  ]
  assert sorted(parts['train'] + parts['test']) == sorted(parts['all'])
  halves = parts['train[:50%]'] + parts['train[50%:]']
  assert sorted(halves) == sorted(parts['train'])
  # As many of each class as scikit-learn takes.
  splitter = StratifiedShuffleSplit(1, test_size=0.2)
  _, expected = next(splitter.split(labels, labels))
  test = data.open_source(pair, 'test')
  np.testing.assert_array_equal(
    np.bincount(test.labels()), np.bincount(labels[expected])
  )
  assert [int(i) for i in test.held_out] == [
    i for i in range(60) if parts['all'][i] in parts['test']
  ]
  other = data.open_source(pair, 'test', split_seed=1)
  assert other.held_out != test.held_out
  assert len(data.open_source(pair, 'test', held_out=0.5)) == 30
  assert data.open_source(pair, 'all', in_memory=True).in_memory


def test_two_files_for_each_split(tmp_path):
  images = np.arange(4 * 16, dtype=np.uint8).reshape(4, 4, 4, 1)
  for split, labels in (('train', [0, 1, 2, 0]), ('val', [[0], [1], [1], [0]])):
    np.save(tmp_path / f'{split}_x.npy', images)
    np.save(tmp_path / f'{split}_y.npy', labels)
  name = f'npy:{tmp_path}/{{split}}_x.npy,{tmp_path}/{{split}}_y.npy'
  source = data.open_source(name, 'val[1:]')
  # The classes are those of all splits.
  assert (source.num_classes, source.held_out) == (3, ())
  assert source.labels().tolist() == [1, 1, 0]
  assert source[0]['image'].tobytes() == images[1].tobytes()
  np.save(tmp_path / 'rows.npy', [[0.0], [1.0], [2.0], [3.0]])
  rows = data.open_source(
    f'npy:{tmp_path}/rows.npy,{tmp_path}/val_y.npy', 'all'
  )
  np.testing.assert_allclose(rows[3]['image'], [1.5 / np.sqrt(1.25)])
  (tmp_path / 'cut.npy').write_bytes(
    (tmp_path / 'val_x.npy').read_bytes()[:-20]
  )
  np.savez(tmp_path / 'both.npz', images=images)
  for given, message in (
    ('val_x.npy', 'expected npy:IMAGES,LABELS, two files'),
    ('val_x.npy,{split}_y.npy', 'in both names or neither'),
    ('val_x.npy,no.npy', r'no file .*no\.npy'),
    ('both.npz,val_y.npy', r'both\.npz is an npz file; expected npz:FILE'),
    ('cut.npy,val_y.npy', r'cut\.npy cannot be read as plain arrays'),
    ('val_x.npy,rows.npy', r'rows\.npy\) are float64 \[4\]; expected integ'),
  ):
    paths = ','.join(f'{tmp_path}/{p}' for p in given.split(','))
    with pytest.raises(UsageError, match=message):
      data.open_source(f'npy:{paths}', 'all')


def test_what_is_wrong_is_one_line(tmp_path):
  path = tmp_path / 'bad.npz'
  images, labels = np.zeros((2, 8, 8), np.uint8), np.array([0, 1])
  for arrays, message in (
    (
      {'val_images': images, 'val_labels': labels},
      "no array 'train_images'; it has val_im",
    ),
    (
      {'images': images, 'train_labels': labels},
      "no array 'train_images'; it has im",
    ),
    (
      {'images': np.zeros((2, 3, 8, 8), np.uint8), 'labels': labels},
      r'images are uint8 \[2, 3, 8, 8\]; expected channels last, as np.movea',
    ),
    ({'train_images': images, 'train_labels': labels[:1]}, 'expected integers'),
    ({'train_images': images / 2, 'train_labels': labels}, 'expected uint8'),
    (
      {'train_images': np.array([{}]), 'train_labels': labels},
      'cannot be read',
    ),
    (
      {'train_images': images, 'train_labels': np.array(['cat', 'dog'])},
      r'train_labels are <U3 \[2\]; expected integers',
    ),
    (
      {'train_images': images[:0], 'train_labels': labels[:0]},
      'expected an example or more',
    ),
    ({'train_images': np.uint8(3), 'train_labels': labels}, 'expected an exam'),
  ):
    np.savez(path, **arrays)
    with pytest.raises(UsageError, match=message) as error:
      data.open_source(f'npz:{path}', 'train')
    assert '\n' not in str(error.value)
  np.save(tmp_path / 'one.npy', images)
  with pytest.raises(
    UsageError, match=r'one\.npy is one array; expected an npz'
  ):
    data.open_source(f'npz:{tmp_path}/one.npy', 'train')
  path.write_bytes(b'no archive')
  for name, message in ((path, 'cannot be read'), (tmp_path / 'x', 'no file')):
    with pytest.raises(UsageError, match=message):
      data.open_source(f'npz:{name}', 'train')
