"""Directories of images as datasets."""

import itertools
import shutil
import zlib

import cv2
import numpy as np
import pytest

from maxsup_jax import data, tasks
from maxsup_jax.data.folder import open_folder
from maxsup_jax.errors import UsageError
from maxsup_jax.training import loop
from tests.runs import assert_resumes

pytestmark = pytest.mark.usefixtures('cached_compilation')


def write(path, pixels):
  path.parent.mkdir(parents=True, exist_ok=True)
  cv2.imwrite(str(path), pixels[..., ::-1])


@pytest.fixture
def folder(tmp_path):
  """Two classes whose order is not alphabetical, images of several sizes."""
  rng = np.random.default_rng(0)
  for split, count in (('train', 12), ('val', 4)):
    for k, name in enumerate(('c2', 'c10')):
      for i in range(count):
        pixels = rng.integers(0, 120, (9 + i % 3, 8, 3), np.uint8) + 130 * k
        ending = ('a/{}.PNG', '{}.png')[i % 2].format(i)
        write(
          tmp_path / 'mine' / split / name / ending, pixels.astype(np.uint8)
        )
  return tmp_path / 'mine'


def test_classes_are_in_natural_order_and_a_slice_holds_all(folder):
  source = data.open_source(f'folder:{folder}', 'train[:50%]')
  assert source.label_names == ('c2', 'c10')
  labels = source.labels()
  assert len(labels) == len(source) == 12
  assert 2 < labels.sum() < 10
  rest = data.open_source(f'folder:{folder}', 'train[50%:]')
  images = [source[i]['image'].tobytes() for i in range(12)]
  others = [rest[i]['image'].tobytes() for i in range(12)]
  assert len({*images, *others}) == 24
  for i in range(12):
    example = source[i]
    assert example['label'] == labels[i] == (example['image'].min() >= 130)
  sized = data.open_source(f'folder:{folder}', 'val', image_size=8)
  assert sized.image_shape == sized[0]['image'].shape == (8, 8, 3)
  flat = open_folder(folder / 'val', 'all')
  assert len(flat) == 8


def test_a_run_is_evaluated_with_its_own_classes_only(folder, tmp_path):
  config = tasks.resolve(
    {
      'dataset': {
        'name': f'folder:{folder}',
        'eval_split': 'val',
        'train_transform': 'random_resized_crop(8) | flip',
        'eval_transform': 'resize(8) | center_crop(8)',
      },
      'duration': '2 steps',
      'batch_size': 8,
      'eval_batch_size': 8,
      'model': {'name': 'tests.nets:Small'},
    }
  )
  workdir = tasks.open_workdir(tmp_path / 'run', writes=True)
  (record,) = loop.train(tasks.build(config), workdir)
  assert record['examples'] == 8
  assert workdir.origin('classes') == ['c2', 'c10']
  assert tasks.load_run(tmp_path / 'run').evaluate()[0]['nll'] == record['nll']
  # One that cannot be read need not cost the run, also where it comes first.
  names = (f'c2/broken{i}.png' for i in itertools.count())
  broken = next(n for n in names if zlib.crc32(n.encode()) < 2**24)
  (folder / 'val' / broken).write_bytes(b'no image')
  assert open_folder(folder, 'val').examples[0]['image'] == b'no image'
  with config.unlocked():
    config.dataset.on_error = 'skip'
  with pytest.warns(UserWarning, match=f'left out: .*val/{broken}'):
    batches = list(tasks.build(config).task.eval_batches())
  assert sum(batch['mask'].sum() for batch in batches) == 8
  (folder / 'val' / broken).unlink()
  # Elsewhere the same classes are matched by their names.
  other = f'folder:{tmp_path / "other"}'
  shutil.copytree(folder / 'val', tmp_path / 'other')
  found = tasks.load_run(tmp_path / 'run', dataset=other, split='all')
  (own,) = tasks.load_run(tmp_path / 'run').evaluate()
  assert found.evaluate() == [{**own, 'split': f'{other}/all'}]
  (tmp_path / 'other/c10').rename(tmp_path / 'other/dog')
  with pytest.raises(
    UsageError, match=r'classes that the run does not .*: dog'
  ):
    tasks.load_run(tmp_path / 'run', dataset=other, split='all')
  for split in ('train', 'val'):
    (folder / split / 'c10').rename(folder / split / 'c11')
  with pytest.raises(UsageError, match='they differ in c10, c11'):
    tasks.load_run(tmp_path / 'run')


def test_a_directory_without_splits_is_divided(folder, tmp_path):
  flat = folder / 'train'
  config = tasks.resolve(
    {
      'dataset': {
        'name': f'folder:{flat}',
        'train_transform': 'random_resized_crop(8) | flip',
        'eval_transform': 'resize(8) | center_crop(8)',
        'held_out': 0.3,
        'split_seed': 5,
      },
      'duration': '3 steps',
      'checkpoint_every': '1 step',
      'keep_checkpoints': 3,
      'batch_size': 8,
      'eval_batch_size': 8,
      'model': {'name': 'tests.tasks.test_own_models:HeadAlone'},
    }
  )
  workdir = tasks.open_workdir(tmp_path / 'run', writes=True)
  run = tasks.build(config)
  (record,) = loop.train(run, workdir)
  # round(0.3 * 12) of each class.
  assert run.task.eval_source.labels().tolist().count(0) == 4
  kept = (tmp_path / 'run/held_out.txt').read_text().splitlines()
  assert len(set(kept)) == record['examples'] == 8
  everything = {str(p.relative_to(flat)) for p in flat.rglob('*.[pP][nN][gG]')}
  trained = {name for name, _ in run.task.train_source.examples._files}
  assert trained == everything - set(kept)
  assert_resumes(run, workdir, tmp_path / 'copy')
  same = f'folder:{flat}'
  for asked in ({}, {'dataset': same, 'split': 'test'}):
    (found,) = tasks.load_run(tmp_path / 'run', **asked).evaluate()
    assert found['nll'] == record['nll']
  # A test set may have one class of the run; training needs two.
  shutil.copytree(folder / 'val/c10', tmp_path / 'hard/c10')
  hard = {'dataset': f'folder:{tmp_path / "hard"}', 'split': 'all'}
  loaded = tasks.load_run(tmp_path / 'run', **hard)
  assert loaded.task.eval_source.labels().tolist() == [1] * 4
  assert loaded.evaluate()[0]['examples'] == 4
  with config.unlocked():
    config.dataset.name = hard['dataset']
  with pytest.raises(UsageError, match='hard/train has 1 class; expected two'):
    tasks.build(config)
  # Others would be held out now.
  (flat / kept[0]).unlink()
  with pytest.raises(UsageError, match=r'held_out\.txt is not what the data'):
    tasks.load_run(tmp_path / 'run')
  shutil.rmtree(folder / 'val')
  with pytest.raises(UsageError, match=r'; folder:.*/train is divided into'):
    open_folder(folder, 'test')


def test_splits_of_any_name_have_the_numbers_of_training(folder):
  (folder / 'train').rename(folder / 'fit')
  (folder / 'val').rename(folder / 'dev')
  (folder / 'fit/c1').mkdir()
  shutil.copy(folder / 'fit/c2/1.png', folder / 'fit/c1')
  dataset = {'name': f'folder:{folder}', 'image_size': 8}
  dataset |= {'train_split': 'fit', 'eval_split': 'dev'}
  config = {'dataset': dataset, 'batch_size': 8, 'duration': '1 step'}
  run = tasks.build(tasks.resolve(config))
  assert run.task.train_source.label_names == ('c1', 'c2', 'c10')
  assert set(run.task.eval_source.labels()) == {1, 2}


def test_what_is_no_class_is_refused(folder):
  with pytest.raises(UsageError, match=r"%\]', but .* has train and val, whi"):
    open_folder(folder, 'all[:50%]')
  shutil.copytree(folder / 'val/c10', folder / 'val/C10')
  with pytest.raises(UsageError, match=r'two spellings of one class'):
    open_folder(folder, 'val')


def test_a_file_may_order_the_classes(folder, tmp_path):
  (folder / 'train/c2').rename(tmp_path / 'elsewhere')
  (folder / 'train/c2').symlink_to(tmp_path / 'elsewhere')
  (folder / 'val/c2/a').rename(tmp_path / 'nested')
  (folder / 'val/c2/b').symlink_to(tmp_path / 'nested')
  # A link in a circle adds nothing.
  (tmp_path / 'nested/again').symlink_to(folder / 'val/c2')
  (folder / 'train/c2 b').mkdir()
  shutil.copy(folder / 'train/c10/1.png', folder / 'train/c2 b')
  listed = folder / 'classes.txt'
  for text in (
    'c10 tench, Tinca tinca\nc7\n\nc2 b a shark\nc2 a\n',
    'c2 b\t2\nc10 0\n c7 1\nc2  3 \n',
  ):
    listed.write_text(text)
    train, val = (
      data.open_source(f'folder:{folder}', s) for s in ('train', 'val')
    )
    assert train.label_names == val.label_names == ('c10', 'c7', 'c2 b', 'c2')
    assert np.bincount(train.labels()).tolist() == [12, 0, 1, 12]
    assert np.bincount(val.labels()).tolist() == [4, 0, 0, 4]
  for text, message in (
    ('c10\nc7\n', r"has a class 'c2', which .*classes\.txt does not have"),
    ('c10\nc2\nc10\n', r"classes\.txt has 'c10' twice"),
    ('c10\n', r'classes\.txt has 1 classes'),
    ('c10 0\nc2 2\n', r'classes from 0 to 2; expected each of 0 to 1 once'),
  ):
    listed.write_text(text)
    with pytest.raises(UsageError, match=message):
      data.open_source(f'folder:{folder}', 'train')


def test_what_is_wrong_is_named(folder):
  opened = f'folder:{folder}'
  (folder / 'val/c2/broken.jpg').write_bytes(b'no image')
  source = data.open_source(opened, 'val')
  with pytest.raises(UsageError, match=r'val/c2/broken\.jpg cannot be read'):
    [source[i] for i in range(len(source))]
  (folder / 'val/c9').mkdir()
  (folder / 'none').mkdir()
  (folder / 'empty/c2').mkdir(parents=True)
  (folder / 'empty/c10').mkdir()
  for split, message in (
    ('val', "class 'c9', which"),
    ('none', 'has no directories; expected one for each class'),
    ('empty', 'c2 has no image'),
    ('test', 'is not a directory; .*there are empty, none, train, val'),
    ('train[:0]', 'has no images'),
    ('train[:x%]', 'or a slice'),
  ):
    with pytest.raises(UsageError, match=message):
      data.open_source(opened, split)
  with pytest.raises(UsageError, match='mock is 3'):
    data.open_source(opened, 'train', mock=3)
