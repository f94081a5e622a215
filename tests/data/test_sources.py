import json
import pickle

import numpy as np
import pytest
import tensorflow_datasets as tfds

from maxsup_jax.data import ArraySource, open_source
from maxsup_jax.errors import UsageError

GREY = tfds.features.Image(shape=(None, None, 1))
RGB = tfds.features.Image(shape=(None, None, 3))
CLASSES = tfds.features.ClassLabel(names=['cat', 'dog', 'eel'])


def _assert_same(first, second):
  assert len(first) == len(second)
  for a, b in zip(first, second):
    np.testing.assert_array_equal(a['image'], b['image'])
    assert a['label'] == b['label']


class TestArraySource:
  def test_examples(self, make_images):
    (images,) = make_images((5, 4, 6, 3))
    source = ArraySource(images, [0, 1, 2, 1, 0], 3, label_names='abc')
    assert len(source) == 5
    assert source.image_shape == (4, 6, 3)
    assert source.label_names == ('a', 'b', 'c')
    np.testing.assert_array_equal(source[3]['image'], images[3])
    assert source[-1]['label'] == 0
    assert type(source[3]['label']) is int

  def test_refuses(self, refused):
    images = np.zeros((2, 4, 4), np.uint8)
    for pixels, labels, message in (
      (images / 1, [0, 1], r'are float64 \[2, 4, 4, 1\]; expected uint8'),
      (images[0], [0, 1], r'are uint8 \[4, 4\]; expected'),
      (images, [0], r'are int64 \[1\]; expected integers \[2\]'),
      (images, [0.0, 1.0], 'labels are float64'),
      (images, [0, 2], r'mine: the label of example 1 is 2; expected'),
      (images, [-1, 0], r'mine: the label of example 0 is -1; expected'),
    ):
      with refused(message):
        ArraySource(pixels, labels, 2, name='mine')


class TestOpenedDataset:
  def test_reads_what_was_written(self, tmp_path, write_dataset, make_images):
    images = make_images((5, 7, 3), (6, 4, 3), (5, 7, 3))
    examples = [
      {'image': image, 'label': label, 'mask': image[..., :1]}
      for image, label in zip(images, ['dog', 'cat', 'eel'])
    ]
    write_dataset(
      {'image': RGB, 'label': CLASSES, 'mask': GREY}, {'train': examples}
    )
    source = open_source('tiny', 'train', data_dir=tmp_path)
    source = pickle.loads(pickle.dumps(source))
    assert (source.name, len(source)) == ('tiny/train', 3)
    assert source.num_classes == 3
    assert source.label_names == ('cat', 'dog', 'eel')
    assert source.image_shape is None
    assert source.labels().tolist() == [e['label'] for e in source]
    # tfds writes the examples in an order of its own.
    found = {e['label']: e['image'] for e in source}
    for image, label in zip(images, [1, 0, 2]):
      np.testing.assert_array_equal(found[label], image)

  def test_indices(self, data_dir):
    source = open_source('digits', 'test', data_dir=data_dir)
    for index in (355, -356):
      with pytest.raises(IndexError):
        source[index]
    last = open_source('digits', 'test[354:]', data_dir=data_dir)
    np.testing.assert_array_equal(source[-1]['image'], last[0]['image'])
    np.testing.assert_array_equal(
      source[np.int64(3)]['image'], source[3]['image']
    )

  def test_by_directory_and_by_version(self, data_dir, write_dataset, tmp_path):
    path = str(data_dir / 'digits' / '1.0.0')
    assert len(open_source(path, 'test')) == 355
    example = {'image': np.zeros((4, 4, 1), np.uint8), 'label': 0}
    features = {'image': GREY, 'label': CLASSES}
    write_dataset(features, {'train': [example]}, config='small')
    for name in ('tiny', 'tiny/small', 'tiny:1.0.0', 'tiny/small:1.*.*'):
      assert len(open_source(name, 'train', data_dir=tmp_path)) == 1

  def test_resized_and_in_colour(self, tmp_path, write_dataset):
    left_dark = np.zeros((8, 12, 1), np.uint8)
    left_dark[:, 6:] = 100
    write_dataset(
      {'image': GREY, 'label': CLASSES},
      {'train': [{'image': left_dark, 'label': 0}]},
    )
    source = open_source(
      'tiny', 'train', data_dir=tmp_path, image_size=4, channels=3
    )
    assert source.image_shape == (4, 4, 3)
    # Halved with the weights 1/8, 3/8, 3/8, 1/8: bilinear and antialiased.
    expected = np.broadcast_to(
      np.array([0, 13, 88, 100], np.uint8)[None, :, None], (4, 4, 3)
    )
    np.testing.assert_array_equal(source[0]['image'], expected)

  def test_integer_labels_and_other_keys(self, tmp_path, write_dataset):
    features = {
      'picture': GREY,
      'fine': tfds.features.Scalar(np.int32),
    }
    example = {'picture': np.zeros((4, 4, 1), np.uint8), 'fine': 6}
    write_dataset(features, {'train': [example]})
    source = open_source(
      'tiny',
      'train',
      data_dir=tmp_path,
      image_key='picture',
      label_key='fine',
      num_classes=7,
    )
    assert (source.num_classes, source.label_names) == (7, None)
    assert source[0]['label'] == 6
    assert type(source[0]['label']) is int

  def test_images_that_are_stored_as_arrays(self, tmp_path, write_dataset):
    image = np.arange(12, dtype=np.uint8).reshape(3, 4)
    features = {
      'image': tfds.features.Tensor(shape=(3, 4), dtype=np.uint8),
      'label': CLASSES,
    }
    write_dataset(features, {'train': [{'image': image, 'label': 0}]})
    source = open_source('tiny', 'train', data_dir=tmp_path)
    assert source.image_shape == (3, 4, 1)
    np.testing.assert_array_equal(source[0]['image'], image[..., None])

  @pytest.mark.parametrize(
    ('name', 'split', 'num_classes', 'image_shape'),
    [
      ('cifar10_corrupted/fog_3', 'test', 10, (32, 32, 3)),
      ('glyphs/26x100x100_16_easy', 'train', 26, (16, 16, 1)),
      ('imagenet2012', 'validation', 1000, None),
    ],
  )
  def test_mocked(self, name, split, num_classes, image_shape):
    """Nothing is on disk, and nothing is written."""
    source = open_source(name, split, mock=5)
    assert (len(source), source.num_classes) == (5, num_classes)
    assert source.image_shape == image_shape
    for example, label in zip(source, source.labels()):
      assert example['image'].dtype == np.uint8
      if image_shape:
        assert example['image'].shape == image_shape
      assert example['label'] == label
      assert 0 <= label < num_classes
    again = open_source(name, split, mock=5)
    for a, b in zip(source, again):
      np.testing.assert_array_equal(a['image'], b['image'])
    with pytest.raises(UsageError, match='cannot be mocked: tfds has no'):
      open_source('cifar11', split, mock=5)


class TestInMemory:
  def test_images_of_several_shapes(
    self, tmp_path, write_dataset, make_images, refused
  ):
    images = make_images((5, 7, 3), (6, 4, 3))
    write_dataset(
      {'image': RGB, 'label': CLASSES},
      {'train': [{'image': image, 'label': 0} for image in images]},
    )
    with refused('tiny/train: in_memory needs images of one shape.*image_size'):
      open_source('tiny', 'train', data_dir=tmp_path, in_memory=True)
    source = open_source(
      'tiny', 'train', data_dir=tmp_path, in_memory=True, image_size=3
    )
    assert source.image_shape == (3, 3, 3)

  def test_every_label_is_checked(self, tmp_path, write_dataset, refused):
    features = {'image': GREY, 'label': tfds.features.Scalar(np.int64)}
    image = np.zeros((4, 4, 1), np.uint8)
    write_dataset(
      features,
      {'train': [{'image': image, 'label': label} for label in (0, 1, 9, 1)]},
    )
    for in_memory in (True, False):
      with refused(r'tiny/train: the label of example \d is 9; expected'):
        open_source(
          'tiny',
          'train',
          data_dir=tmp_path,
          num_classes=2,
          in_memory=in_memory,
        )


class TestRefuses:
  @pytest.fixture
  def one_example(self, write_dataset, make_images):
    """Writes a dataset with one feature of each kind."""
    (image,) = make_images((4, 4, 3))
    features = {
      'image': RGB,
      'label': CLASSES,
      'score': tfds.features.Scalar(np.float32),
      'boxes': tfds.features.Tensor(shape=(2, 4), dtype=np.float32),
      'parts': {'head': tfds.features.Scalar(np.int64)},
      'number': tfds.features.Scalar(np.int64),
    }
    example = {
      'image': image,
      'label': 0,
      'score': 0.0,
      'boxes': np.zeros((2, 4), np.float32),
      'parts': {'head': 0},
      'number': 3,
    }
    return write_dataset(features, {'train': [example]})

  @pytest.mark.parametrize(
    ('name', 'message'),
    [
      ('cifar1O', 'unknown dataset .*did you mean .*cifar10.*embedded .digits'),
      ('qqqqqq', "unknown dataset 'qqqqqq': neither"),
      (
        'cifar10',
        'not prepared in {dir}: run `tfds build cifar10 '
        '--file_format=array_record --data_dir={dir}`.*download=True',
      ),
      ('cifar10:9.9.9', 'is not prepared'),
      ('two words', "dataset is 'two words'; expected name"),
      ('digits:2.0.0', "has no 'digits:2.0.0'; expected 'digits'"),
      ('/nowhere/mnist/3.0.1', 'has no dataset_info.json'),
    ],
  )
  def test_names(self, name, message, tmp_path, refused):
    with refused(message.format(dir=tmp_path)):
      open_source(name, 'train', data_dir=tmp_path)

  @pytest.mark.parametrize('split', ['tran', 'train[:', 'train[5:2]', '', None])
  def test_splits(self, split, data_dir, refused):
    with refused(r'train \(1442\), test \(355\), and slices'):
      open_source('digits', split, data_dir=data_dir)

  def test_features(self, one_example, tmp_path, refused):
    for arguments, message in (
      ({'image_key': 'img'}, "image_key is 'img'; expected a feature .*image"),
      (
        {'image_key': 'label'},
        "'label' of tiny is ClassLabel; expected an image",
      ),
      ({'image_key': 'parts'}, 'FeaturesDict; expected an image'),
      ({'image_key': 'boxes'}, 'are float32; only uint8'),
      ({'label_key': 'score'}, 'Scalar; expected a class'),
      ({'label_key': 'boxes'}, '; expected a class'),
      ({'label_key': 'number'}, "how many classes 'number' has"),
      ({'num_classes': 4}, 'num_classes is 4; expected 3, as many as'),
      ({'channels': 1}, 'have 3 channels: channels=1 needs grey'),
      ({'channels': 0}, 'channels is 0; expected an integer, at least 1'),
    ):
      with refused(message):
        open_source('tiny', 'train', data_dir=tmp_path, **arguments)

  def test_another_file_format(self, one_example, tmp_path, refused):
    path = one_example / 'dataset_info.json'
    info = json.loads(path.read_text())
    path.write_text(json.dumps({**info, 'fileFormat': 'parquet'}))
    with refused('prepared as parquet.*run `tfds convert_format --dataset_ver'):
      open_source('tiny', 'train', data_dir=tmp_path)

  def test_a_missing_file(self, one_example, tmp_path, refused):
    (records,) = one_example.glob('*.array_record-*')
    records.unlink()
    with refused(f'tiny is incomplete: {records} is missing'):
      open_source('tiny', 'train', data_dir=tmp_path)

  def test_a_damaged_image(self, tmp_path, write_dataset, refused):
    write_dataset(
      {'image': RGB, 'label': CLASSES},
      {'train': [{'image': b'not a PNG', 'label': 0}]},
    )
    source = open_source('tiny', 'train', data_dir=tmp_path)
    with refused('tiny/train: example 0 cannot be read'):
      source[0]
