"""Images and labels in a file of arrays."""

import numpy as np
import pytest

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


def test_what_is_wrong_is_one_line(tmp_path):
  path = tmp_path / 'bad.npz'
  images, labels = np.zeros((2, 8, 8), np.uint8), np.array([0, 1])
  for arrays, message in (
    (
      {'images': images, 'labels': labels},
      "no array 'train_images'; it has im",
    ),
    ({'train_images': images, 'train_labels': labels[:1]}, 'expected integers'),
    ({'train_images': images / 2, 'train_labels': labels}, 'expected uint8'),
    (
      {'train_images': np.array([{}]), 'train_labels': labels},
      'cannot be read',
    ),
    (
      {'train_images': images, 'train_labels': np.array(['cat', 'dog'])},
      'train_labels are <U3; expected integers',
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
