"""Images with a label for each pixel, from files, tfds and nowhere."""

import pathlib

import cv2
import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image

from maxsup_jax import data
from maxsup_jax.data import glyph_scenes
from maxsup_jax.data.segmentation import open_segmentation, read_label_map
from maxsup_jax.diagnostics.segmentation import Confusion

CAMVID = pathlib.Path(__file__).parents[3] / 'shared/data/camvid'
IDS = np.arange(12, dtype=np.uint8).reshape(3, 4)
IMAGE = np.arange(36, dtype=np.uint8).reshape(3, 4, 3)


def write(path, pixels, palette=None):
  path.parent.mkdir(parents=True, exist_ok=True)
  image = Image.fromarray(pixels)
  if palette is not None:
    image = Image.frombytes('P', pixels.shape[::-1], pixels.tobytes())
    image.putpalette(palette)
  image.save(path)
  return path


def tree(root, images='train', labels='trainannot', count=5):
  for i in range(count):
    write(root / images / f'{i}.png', IMAGE + i)
    write(root / labels / f'{i}.png', IDS % 5)
  return root


LAYOUTS = [
  ('train', 'trainannot', 'train'),
  ('images/train', 'labels/train', 'train'),
  ('images/train', 'annotations/train', 'train'),
  ('images', 'labels', 'all'),
]


@pytest.mark.parametrize(('images', 'labels', 'split'), LAYOUTS)
def test_pairs_belong_together_by_name(images, labels, split, tmp_path):
  tree(tmp_path, images, labels)
  (tmp_path / images / 'notes.txt').write_text('no image')
  write(tmp_path / images / '3.png', IMAGE + 100)
  write(tmp_path / labels / '3.png', np.full((3, 4), 2, np.uint8))
  name = f'pairs:{tmp_path}'
  source = open_segmentation(name, split, num_classes=5)
  assert len(source) == 5
  assert source.num_classes == 5
  (marked,) = [e for e in source if (e['image'] == IMAGE + 100).all()]
  assert (marked['label'] == 2).all()
  assert marked['label'].dtype == np.uint8
  parts = [
    open_segmentation(name, f'{split}[{part}]', num_classes=5)
    for part in (':40%', '40%:')
  ]
  assert [len(part) for part in parts] == [2, 3]
  firsts = {e['image'][0, 0, 0].item() for part in parts for e in part}
  assert firsts == {0, 1, 2, 4, 100}


def test_ids_become_classes(tmp_path):
  """By numbers, by names, and by a file that joins, colours and leaves out."""
  root = tree(tmp_path)
  write(root / 'trainannot/0.png', IDS)
  source = open_segmentation(
    f'pairs:{root}', 'train', classes='a, b,c,d,e', ignore=range(5, 12)
  )
  assert source.label_names == tuple('abcde')
  (whole,) = [e['label'] for e in source if e['image'][0, 0, 0] == 0]
  np.testing.assert_array_equal(whole.ravel(), [*range(5), *[255] * 7])
  reduced = open_segmentation(
    f'pairs:{root}', 'train', num_classes=11, reduce_zero_label=True
  )
  (whole,) = [e['label'] for e in reduced if e['image'][0, 0, 0] == 0]
  np.testing.assert_array_equal(whole.ravel(), [255, *range(11)])
  lines = ['# Ours', '0 wall, of brick #0a0b0c', '1 sea #102030', '', '2 -']
  lines += [f'{i} sea #102030' for i in range(3, 12)]
  (root / 'classes.txt').write_text('\n'.join(lines))
  indexed = [[10, 11, 12], [16, 32, 48], [7, 7, 7], *9 * [[16, 32, 48]]]
  write(root / 'trainannot/0.png', IDS, np.array(indexed).ravel().tolist())
  mapped = open_segmentation(f'pairs:{root}', 'train', in_memory=True)
  assert mapped.label_names == ('wall, of brick', 'sea')
  (whole,) = [e['label'] for e in mapped if e['image'][0, 0, 0] == 0]
  np.testing.assert_array_equal(whole.ravel(), [0, 1, 255, *[1] * 9])
  colors = read_label_map(root / 'classes.txt').colors
  assert colors.tolist() == [[10, 11, 12], [16, 32, 48]]


def test_ade20k_is_known_by_its_file(tmp_path):
  root = tree(tmp_path, 'images/training', 'annotations/training')
  rows = [f'{i}\t0.1\t9\t9\t1\tthing{i}, it' for i in range(1, 151)]
  (root / 'objectInfo150.txt').write_text(
    '\n'.join(['Idx\tRatio\tTrain\tVal\tStuff\tName', *rows])
  )
  source = open_segmentation(f'pairs:{root}', 'training')
  assert source.num_classes == 150
  assert source.label_names[149] == 'thing150'
  np.testing.assert_array_equal(source[0]['label'][0], [255, 0, 1, 2])


def _written(root, **changes):
  for path, pixels in changes.items():
    write(root / path.replace('__', '/'), pixels)


BAD_FILES = {
  'id': (IDS, 'trainannot/2.png has the id 5; expected 0 to 4, 255'),
  'size': (IDS[:2] % 5, r'2.png has 2x4 pixels, and .*train/2.png 3x4; expe'),
  'colours': (IMAGE, 'trainannot/2.png cannot be read: it has RGB pix'),
  'depth': (
    IDS.astype(np.uint16),
    'it has grey levels of 16 bits; expected class ids',
  ),
}


@pytest.mark.parametrize('what', BAD_FILES)
def test_a_bad_label_file_is_named(what, tmp_path, refused):
  pixels, message = BAD_FILES[what]
  write(tree(tmp_path) / 'trainannot/2.png', pixels)
  source = open_segmentation(f'pairs:{tmp_path}', 'train', num_classes=5)
  with refused(message):
    list(source)


def test_what_cannot_be_opened_is_refused(tmp_path, refused):
  def opened(split='train', **options):
    source = open_segmentation(f'pairs:{root}', split, **options)
    return list(source)

  root = tmp_path / 'mine'
  with refused('mine has no classes.txt; set classes or num_classes'):
    opened()
  with refused("no split 'train'; expected .*train and .*trainannot, or .*ima"):
    opened(num_classes=5)
  tree(root)
  with refused('num_classes is 3; expected 2, the number of classes'):
    opened(classes='a,b', num_classes=3)
  with refused('ignore is 2, which is one of the 5 classes'):
    opened(num_classes=5, ignore=2)
  with refused('num_classes is 255; expected an integer, from 2 to 254'):
    opened(num_classes=255)
  with refused("split is 'train.5:.', which gives no pairs"):
    opened('train[5:]', num_classes=5)
  for options in ({'ignore': 0}, {'reduce_zero_label': True}):
    with refused('a file or the data set says what does not count'):
      open_segmentation('glyph_scenes', 'train', mock=2, **options)
  label = root / 'trainannot/1.png'
  whole = label.read_bytes()
  label.write_bytes(whole[:20])
  with refused('trainannot/1.png cannot be read: a damaged PNG file'):
    opened(num_classes=5)
  label.write_bytes(whole)
  label.write_bytes(label.read_bytes()[:-20])
  with refused('trainannot/1.png cannot be read: a damaged PNG file'):
    opened(num_classes=5)
  cv2.imwrite(str(label.with_suffix('.jpg')), IMAGE)
  with refused('1.jpg and .*1.png have the same name'):
    opened(num_classes=5)
  label.unlink()
  with refused('1.jpg cannot be read: it has a JPEG file; expected class ids'):
    opened(num_classes=5)
  label.with_suffix('.jpg').unlink()
  with refused('train/1.png has no partner; expected .*trainannot/1'):
    opened(num_classes=5)
  for path in (root / 'trainannot').iterdir():
    path.unlink()
  with refused('trainannot has no files; expected images'):
    opened(num_classes=5)


def test_a_palette_that_does_not_fit_is_refused(tmp_path, refused):
  tree(tmp_path)
  (tmp_path / 'classes.txt').write_text(
    '\n'.join(f'{i} c{i} #00000{i}' for i in range(5))
  )
  colors = [[0, 0, i] for i in range(4)] + [[0, 9, 4]]
  pixels = np.ravel(colors).tolist()
  write(tmp_path / 'trainannot/1.png', IDS % 5, pixels)
  message = r'1.png gives the id 4 the colour \[0, 9, 4\]; .* the class .c4.'
  with refused(message):
    list(open_segmentation(f'pairs:{tmp_path}', 'train'))
  # Where no pixel has the id, its colour is nobody's.
  write(tmp_path / 'trainannot/1.png', IDS % 4, pixels)
  list(open_segmentation(f'pairs:{tmp_path}', 'train'))


@pytest.mark.parametrize(
  ('text', 'message'),
  [
    ('0 a\n1', "line 2 of .* is '1'; expected ID NAME, or ID NAME #RRGGBB"),
    ('0 a\n1 b\n0 c', 'line 3 of .* names the id 0 a second time'),
    (
      '0 a\n256 b',
      'the id in line 2 of .* is 256; expected an integer',
    ),
    ('0 a #112233\n1 b', 'has no colour for the id 1'),
    ('0 a\n1 -', 'the number of classes is 1; expected an integer, from 2'),
  ],
)
def test_a_bad_map_is_refused(text, message, tmp_path, refused):
  path = tmp_path / 'classes.txt'
  path.write_text(text)
  with refused(message):
    read_label_map(path)


def test_scenes_are_read_as_they_were_made(tmp_path, refused):
  name = 'glyph_scenes/3x4x2_32'
  config = glyph_scenes.parse_name('3x4x2_32')
  for in_memory in (False, True):
    source = open_segmentation(
      name, 'test', data_dir=tmp_path, in_memory=in_memory
    )
    assert source.label_names == ('background', 'O', 'Q', 'C')
    assert source.image_shape == (32, 32, 1)
    assert len(source) == 2
    for i, example in enumerate(source):
      image, label = glyph_scenes.generate(config, 'test', i)
      np.testing.assert_array_equal(example['image'], image)
      np.testing.assert_array_equal(example['label'], label)
  with refused('label_key is .no.; expected an image of glyph_scenes'):
    open_segmentation(name, 'test', data_dir=tmp_path, label_key='no')


def test_cityscapes_has_its_train_ids(write_dataset):
  image = tfds.features.Image(shape=(4, 64, 3), encoding_format='png')
  label = tfds.features.Image(shape=(4, 64, 1), encoding_format='png')
  ids = np.arange(34, dtype=np.uint8)
  pixels = np.resize(ids, (4, 64, 1))
  written = write_dataset(
    {
      'image_left': image,
      'segmentation_label': label,
      'image_id': tfds.features.Text(),
    },
    {
      'validation': [
        {
          'image_left': np.zeros((4, 64, 3), np.uint8),
          'segmentation_label': pixels,
          'image_id': 'a',
        }
      ]
    },
    name='cityscapes',
    config='semantic_segmentation',
  )
  source = open_segmentation(
    'cityscapes/semantic_segmentation',
    'validation',
    data_dir=written.parents[2],
  )
  # Those of the data set's own scripts.
  counted = [7, 8, 11, 12, 13, 17, *range(19, 29), 31, 32, 33]
  expected = [counted.index(i) if i in counted else 255 for i in ids]
  np.testing.assert_array_equal(
    source[0]['label'], np.array(expected)[pixels[..., 0]]
  )
  assert source.num_classes == 19
  assert source.label_names[::6] == (
    'road',
    'traffic light',
    'rider',
    'bicycle',
  )


@pytest.mark.parametrize('name', ['pairs:nowhere', 'glyph_scenes/3x4x2_32'])
def test_made_up_ones_have_the_form_of_the_others(name):
  options = {'num_classes': 4} if name.startswith('pairs') else {}
  source = open_segmentation(name, 'train', mock=3, **options)
  assert len(source) == 3
  assert source.num_classes == 4
  for example in source:
    label = example['label']
    assert label.shape == example['image'].shape[:2]
    assert set(np.unique(label)) == {0, 1, 2, 3, 255}
    assert 0.05 < (label == 255).mean() < 0.15
  np.testing.assert_array_equal(source[1]['image'], source[1]['image'])


def test_arrays_of_labels(refused):
  images, labels = np.zeros((2, 3, 4, 1), np.uint8), np.zeros((2, 3, 4), 'u1')
  labels[1, 0, 0] = 255
  source = data.ArraySource(images, labels, num_classes=2)
  np.testing.assert_array_equal(source[1]['label'], labels[1])
  labels[1, 2, 3] = 2
  with refused('the label of example 1 is 2; expected at least 0 and below 2'):
    data.ArraySource(images, labels, num_classes=2)
  with refused(r'uint8 \[2, 3, 3\]; expected integers \[2\], or uint8 \[2, 3'):
    data.ArraySource(images, labels[..., :3], num_classes=2)


@pytest.mark.skipif(not CAMVID.exists(), reason='needs the images of CamVid')
def test_camvid_has_the_counted_pixels():
  """Their shares of the test split, as counted at 360x480."""
  names = 'sky,building,pole,road,pavement,tree,sign,fence,car,person,cyclist'
  source = open_segmentation(
    f'pairs:{CAMVID}', 'test', classes=names, ignore=11
  )
  assert len(source) == 233
  found = [e['label'] for e in source]
  counts = np.bincount(np.stack(found).ravel(), minlength=256)
  shares = 100 * counts / counts.sum()
  np.testing.assert_allclose(
    shares[:11],
    [17.1, 24.6, 1.18, 25.8, 9.27, 11.3, 1.01, 1.18, 3.97, 0.63, 0.19],
    rtol=0.05,
  )
  # What saying 'road' everywhere scores at 360x480, nearly.
  labels = np.stack(found)
  table = Confusion.init(11, radius=0).update(0 * (labels % 11), labels)
  scores = table.constant().compute()
  assert scores.accuracy == pytest.approx(0.268, abs=0.003)
  assert scores.mean_iou == pytest.approx(0.024, abs=0.001)
