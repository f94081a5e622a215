import dataclasses
import math
import subprocess
import sys
import types

import cv2
import jax
import numpy as np
import pytest

from experiments import _gradcam
from maxsup_jax import tasks
from maxsup_jax.data import ArraySource, parse_transform
from maxsup_jax.errors import UsageError
from maxsup_jax.models import ViT
from maxsup_jax.tasks import resolve
from maxsup_jax.training.checkpoints import Checkpoints
from maxsup_jax.training.config import to_json

SMALL = {'model': {'name': 'resnet8', 'width': 4}}


def random_tree(shapes):
  """Numbers for variables; to initialise them would take seconds to compile."""
  rng = np.random.default_rng(0)

  def leaf(x):
    if not np.issubdtype(x.dtype, np.floating):
      return np.zeros(x.shape, x.dtype)
    if len(x.shape) > 1:
      fan_in = math.prod(x.shape[:-1])
      return rng.normal(0, fan_in**-0.5, x.shape).astype(x.dtype)
    return rng.uniform(0.5, 1.5, x.shape).astype(x.dtype)

  return jax.tree.map(leaf, shapes)


@pytest.fixture(scope='session')
def make_run(data_dir, tmp_path_factory):
  """A work directory of a run with a checkpoint of random numbers, step 0."""

  def make(name, changes, checkpoint=True):
    path = tmp_path_factory.mktemp('runs') / name
    path.mkdir()
    config = resolve(changes)
    (path / 'config.json').write_text(to_json(config))
    if checkpoint:
      run = tasks.build(config, data_dir=data_dir)
      checkpoints = Checkpoints(path / 'checkpoints')
      state = random_tree(jax.eval_shape(run.init_state))
      checkpoints.save(0, state, {})
      checkpoints.close()
    return path

  return make


@pytest.fixture(scope='module')
def small(make_run):
  return make_run('small', SMALL)


@pytest.fixture(scope='module')
def restored(small, data_dir):
  return _gradcam.restore(str(small), name='small', data_dir=data_dir)


@pytest.fixture(scope='module')
def large(make_run):
  """A run on larger images than the others."""
  return make_run('large', SMALL | {'dataset': {'image_size': 16}})


# ---- The program -------------------------------------------------------------


@pytest.mark.slow
def test_draws_two_trained_runs(run_program, small, tmp_path):
  trained = tmp_path / 'trained'
  code, _, err = run_program(
    'train',
    f'--workdir={trained}',
    # As in test_train.py, so that the session compiles it once.
    '--config.model.width=4',
    '--config.schedule.warmup=4 steps',
    '--config.batch_size=32',
    '--config.duration=40 steps',
  )
  assert code == 0, err
  photo = tmp_path / 'photo.jpg'
  cv2.imwrite(str(photo), np.full((30, 40, 3), 99, np.uint8))
  before = sorted(p for p in trained.rglob('*'))
  out = tmp_path / 'figures' / 'cam.svg'
  code, printed, err = run_program(
    'gradcam',
    f'--workdir={trained}',
    f'--workdir={small}',
    f'--images=0, 354,{photo}',
    f'--out={out}',
  )
  assert (code, err) == (0, '')
  assert printed == f'written to {out}\n'
  assert out.read_text().startswith('<?xml')
  drawn = out.read_bytes()
  code, _, err = run_program(
    'gradcam', f'--workdir={small}', '--images=0', f'--out={out}'
  )
  assert (code, out.read_bytes()) == (2, drawn)
  assert 'cam.svg exists; choose another, or add --overwrite' in err
  code, _, err = run_program(
    'gradcam',
    f'--workdir={small}',
    '--images=0',
    f'--out={out}',
    '--overwrite',
  )
  assert code == 0, err
  assert out.read_bytes() != drawn
  # Nothing is written into the work directory.
  assert sorted(p for p in trained.rglob('*')) == before


@pytest.mark.parametrize(
  ('arguments', 'message'),
  [
    ([], '--workdir is needed'),
    (['--workdir=x'], '--images is needed'),
    (['--workdir=x', '--images=,'], '--images is needed'),
    (['--workdir=x', '--images=0', '--normalize=all'], 'map|row'),
    (
      ['--workdir={large}', '--workdir={small}', '--images=0', '--out={out}'],
      'the images of large are [16, 16, 1], those of small [8, 8, 1]',
    ),
  ],
)
def test_the_command_line(
  run_program, small, large, tmp_path, arguments, message
):
  out = tmp_path / 'cam.png'
  code, printed, err = run_program(
    'gradcam', *(a.format(small=small, large=large, out=out) for a in arguments)
  )
  assert (code, printed) == (2, '')
  assert err.startswith('error: ')
  assert message in err
  assert len(err.strip().splitlines()) == 1
  assert not out.exists()


def test_help_imports_nothing_heavy():
  code = (
    'import sys, experiments.gradcam;'
    "heavy = {'jax', 'flax', 'matplotlib', 'cv2', 'orbax', 'grain'};"
    'print(heavy & sys.modules.keys())'
  )
  loaded = subprocess.run(
    [sys.executable, '-c', code], capture_output=True, text=True, check=True
  ).stdout
  assert loaded.strip() == 'set()'


# ---- The maps ----------------------------------------------------------------


def test_the_maps_of_a_resnet_are_cam(restored):
  images = _gradcam.read_images(['3', '0'], restored.run)
  classes = np.array([7, 2])
  column = _gradcam.column(restored, images, classes)
  x = _gradcam.normalize(images.pixels, (0.0,), (1.0,))
  logits, out = restored.run.task.model.apply(restored.variables, x)
  kernel = restored.variables['params']['head']['kernel'][:, classes]
  cam = np.einsum('bhwc,cb->bhw', out['feature_map'], kernel).clip(0) / 4
  expected = np.stack([_bilinear(m, 8) for m in cam])
  np.testing.assert_allclose(column.maps, expected, rtol=1e-4, atol=1e-6)
  assert column.maps.max() > 0
  assert restored.map_size == (2, 2)
  assert restored.layer == 'layer3_0'
  probabilities = jax.nn.softmax(logits)
  np.testing.assert_allclose(
    column.confidence, probabilities.max(-1), rtol=1e-5
  )
  assert column.predicted == [str(k) for k in logits.argmax(-1)]
  assert column.explained == ['7', '2']
  assert column.correct == [
    bool(k == label) for k, label in zip(logits.argmax(-1), images.labels)
  ]


def _bilinear(image, size):
  return cv2.resize(image, (size, size), interpolation=cv2.INTER_LINEAR)


def test_each_run_normalises_images_in_its_own_way(
  make_run, small, restored, data_dir
):
  other = make_run(
    'other', SMALL | {'dataset': {'mean': (0.4,), 'std': (0.2,)}}
  )
  other = _gradcam.restore(str(other), name='other', data_dir=data_dir)
  images = _gradcam.read_images(['3'], restored.run)
  column = _gradcam.column(other, images, None)
  x = (images.pixels / np.float32(255) - 0.4) / 0.2
  logits, _ = other.run.task.model.apply(other.variables, x)
  np.testing.assert_allclose(
    column.confidence, jax.nn.softmax(logits).max(-1), rtol=1e-5
  )
  assert column.explained == column.predicted


def test_a_vit(restored):
  model = ViT(10, dim=12, depth=2, heads=3, patch_size=4)
  images = _gradcam.read_images(list('0123456789'), restored.run)
  x = _gradcam.normalize(images.pixels, (0.0,), (1.0,))
  variables = random_tree(jax.eval_shape(model.init, jax.random.key(0), x))
  run = dataclasses.replace(restored.run, model=model)
  size = _gradcam._map_size(run, variables, 'block1/norm1')
  assert size == (2, 2)
  trained = _gradcam.Trained('vit', run, variables, 0, 'block1/norm1', size)
  # Some class has evidence, whatever the random network predicts.
  column = _gradcam.column(trained, images, np.arange(10))
  assert column.maps.shape == (10, 8, 8)
  assert np.isfinite(column.maps).all()
  assert column.maps.max() > 0
  assert column.explained == [str(k) for k in range(10)]
  for layer, message in (
    ('head', r"'head' has the shape \[1, 10\]"),
    ('layer1', 'unknown layer'),
  ):
    with pytest.raises(UsageError, match=message):
      _gradcam._map_size(run, variables, layer)


def test_captions_say_the_layer_and_the_step(restored):
  text = _gradcam.caption([restored], '3')
  assert 'class 3' in text
  assert 'small: layer3_0 (2x2) of resnet8, maxsup, step 0' in text
  assert 'predicted class' in _gradcam.caption([restored], 'predicted')
  assert "the label's class" in _gradcam.caption([restored], 'label')


def test_names_tell_runs_apart():
  assert _gradcam.names_of(['a/x', 'b/y/']) == ['x', 'y']
  assert _gradcam.names_of(['a/x', 'b/x']) == ['a/x', 'b/x']
  assert _gradcam.names_of(['a/x', 'a/x']) == ['x', 'x']


# ---- Images and targets ------------------------------------------------------


def evaluating(source, transform=''):
  """As much of a run as reading images needs."""
  transform = parse_transform(transform)
  return types.SimpleNamespace(
    eval_source=source,
    eval_transform=transform,
    eval_shape=transform(source[0]['image'], None).shape,
  )


def test_image_files_take_the_shape_of_the_images(tmp_path):
  # Red on the left, green in the middle, blue on the right.
  stripes = np.zeros((20, 60, 3), np.uint8)
  for i in range(3):
    stripes[:, 20 * i : 20 * i + 20, i] = 200
  path = tmp_path / 'stripes.png'
  cv2.imwrite(str(path), stripes[..., ::-1])
  for shape, expected in (
    ((4, 4, 3), np.tile([0, 200, 0], (4, 4, 1))),
    ((1, 3, 3), 200 * np.eye(3)[None]),
    ((2, 6, 3), 200 * np.eye(3)[None, [0, 0, 1, 1, 2, 2]].repeat(2, 0)),
  ):
    source = ArraySource(np.zeros((1, *shape), np.uint8), [0], 2)
    images = _gradcam.read_images([str(path), '0'], evaluating(source))
    assert images.pixels.dtype == np.uint8
    np.testing.assert_array_equal(images.pixels[0], expected)
    assert images.titles == ('stripes.png', '#0: 0')
    assert images.labels == (None, 0)
  source = ArraySource(np.zeros((1, 4, 4, 1), np.uint8), [0], 2)
  grey = _gradcam.read_images([str(path)], evaluating(source)).pixels
  assert grey.shape == (1, 4, 4, 1)
  assert set(grey.ravel().tolist()) == {117}  # 0.587 of the green


def test_images_that_cannot_be_read(tmp_path):
  source = ArraySource(
    np.zeros((5, 4, 4, 1), np.uint8), [0] * 5, 2, label_names=['a', 'b']
  )
  empty, text = tmp_path / 'empty.png', tmp_path / 'text.png'
  empty.touch()
  text.write_text('no image')
  for item, message in (
    ('5', 'which has 5 images: from 0 to 4'),
    ('-1', '-1 is not an index'),
    (
      str(tmp_path / 'none.png'),
      '^--images: .*none.png cannot be read: No such file',
    ),
    (str(tmp_path), 'cannot be read: Is a directory'),
    (str(empty), 'empty.png cannot be read: no image'),
    (str(text), 'text.png cannot be read: no JPEG, PNG'),
  ):
    with pytest.raises(UsageError, match=message) as e:
      _gradcam.read_images(['0', item], evaluating(source))
    assert '\n' not in str(e.value)
  images = _gradcam.read_images(['0'], evaluating(source))
  assert images.titles == ('#0: a',)


def test_images_go_through_the_transform_of_evaluation(tmp_path):
  rng = np.random.default_rng(0)
  pixels = rng.integers(0, 256, (1, 9, 9, 3), np.uint8)
  path = tmp_path / 'same.png'
  cv2.imwrite(str(path), pixels[0, ..., ::-1])
  source = ArraySource(pixels, [0], 2)
  run = evaluating(source, 'center_crop(5)')
  images = _gradcam.read_images([str(path), '0'], run)
  for image in images.pixels:
    np.testing.assert_array_equal(image, pixels[0, 2:7, 2:7])
  assert images.visible is images.pixels
  run = evaluating(source, 'center_crop(5) | standardize')
  images = _gradcam.read_images(['0'], run)
  assert images.pixels.dtype == np.float32
  crop = pixels[0, 2:7, 2:7].astype(float)
  spread = (crop - crop.min()) / (crop.max() - crop.min()) * 255
  np.testing.assert_allclose(images.visible[0], spread, atol=0.51)


def test_runs_that_see_images_differently(restored):
  other = dataclasses.replace(
    restored,
    run=dataclasses.replace(
      restored.run, eval_transform=parse_transform('standardize')
    ),
  )
  with pytest.raises(UsageError, match="sees images after '', small after"):
    _gradcam.check_runs_agree([restored, other], by_index=True)


def test_targets(restored):
  runs = [restored]
  assert _gradcam.targets('predicted', [1, None], runs) is None
  assert _gradcam.targets('label', [1, 4], runs).tolist() == [1, 4]
  assert _gradcam.targets('9', [1, None], runs).tolist() == [9, 9]
  for target, message in (
    ('label', 'the label of an image file is not known'),
    ('10', 'small has the classes 0 to 9'),
    ('-1', 'expected predicted, label or a class id'),
    ('best', 'expected predicted, label or a class id'),
  ):
    with pytest.raises(UsageError, match=message):
      _gradcam.targets(target, [1, None], runs)


# ---- Runs --------------------------------------------------------------------


def test_runs_that_cannot_be_restored(make_run, small, data_dir, tmp_path):
  unsaved = make_run('unsaved', SMALL, checkpoint=False)
  for path, options, message in (
    (tmp_path / 'none', {}, 'no config.json'),
    (unsaved, {}, 'no checkpoint in'),
    (small, {'step': 7}, 'no checkpoint of step 7'),
    (small, {'split': 'validation'}, 'validation'),
    (small, {'ema': True}, 'no averaged weights'),
    (small, {'layer': 'layer3_0/conv9'}, 'known: layer3_0/bn1'),
  ):
    with pytest.raises(UsageError, match=message) as e:
      _gradcam.restore(str(path), name='x', data_dir=data_dir, **options)
    assert '\n' not in str(e.value)


def test_averaged_weights(make_run, data_dir):
  path = make_run('averaged', SMALL | {'ema_decay': 0.9})
  raw, averaged = (
    _gradcam.restore(str(path), name='x', data_dir=data_dir, ema=ema).variables
    for ema in (False, True)
  )
  assert jax.tree.structure(raw) == jax.tree.structure(averaged)
  kernels = (v['params']['head']['kernel'] for v in (raw, averaged))
  assert not np.array_equal(*kernels)


def test_an_index_means_the_same_image_in_every_run(small, restored, data_dir):
  train = _gradcam.restore(
    str(small), name='train', data_dir=data_dir, split='train'
  )
  _gradcam.check_runs_agree([restored, train], by_index=False)
  _gradcam.check_runs_agree([restored, restored], by_index=True)
  with pytest.raises(UsageError, match='digits/test, train on digits/train'):
    _gradcam.check_runs_agree([restored, train], by_index=True)
