import dataclasses
import shutil
import types

import cv2
import jax
import numpy as np
import pytest

from maxsup_jax.data import ArraySource, parse_transform
from maxsup_jax.errors import UsageError
from maxsup_jax.models import ViT
from maxsup_jax.studies import gradcam
from maxsup_jax.tasks import load_run, resolve
from tests.random_runs import make_run, random_tree

SMALL = {'model': {'name': 'resnet8', 'width': 4}}


@pytest.fixture(scope='module')
def small(data_dir, tmp_path_factory):
  path = tmp_path_factory.mktemp('runs') / 'small'
  return make_run(path, SMALL | {'ema_decay': 0.9}, data_dir)


@pytest.fixture(scope='module')
def restored(small, data_dir):
  return gradcam.network(load_run(small, data_dir=data_dir), 'small')


@pytest.fixture(scope='module')
def large(data_dir, tmp_path_factory):
  """A run on larger images than the others."""
  path = tmp_path_factory.mktemp('runs') / 'large'
  return make_run(path, SMALL | {'dataset': {'image_size': 16}}, data_dir)


# ---- The program -------------------------------------------------------------


def test_draws_two_runs(run_program, small, tmp_path):
  photo, out = tmp_path / 'photo.jpg', tmp_path / 'figures' / 'cam.svg'
  cv2.imwrite(str(photo), np.full((30, 40, 3), 99, np.uint8))
  before = sorted(small.rglob('*'))
  other = shutil.copytree(small, tmp_path / 'other')
  runs = f'--workdir={small}', f'--workdir={other}'
  arguments = (*runs, f'--images=0, 354,{photo}')
  code, printed, err = run_program('gradcam', *arguments, f'--out={out}')
  assert (code, err) == (0, '')
  assert printed == f'written to {out}\n'
  assert out.read_text().startswith('<?xml')
  # Nothing is written into the work directory.
  assert sorted(small.rglob('*')) == before


# ---- The maps ----------------------------------------------------------------


def test_the_maps_of_a_resnet_are_cam(restored):
  images = gradcam.read_images(['3', '0'], restored.task)
  classes = np.array([7, 2])
  column = gradcam.column(restored, images, classes)
  x = restored.task.normalize(images.pixels)
  logits, out = restored.task.model.apply(restored.loaded.variables, x)
  kernel = restored.loaded.variables['params']['head']['kernel'][:, classes]
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


def changed(network, **task):
  """The network with another task."""
  run = network.loaded.run
  run = dataclasses.replace(run, task=dataclasses.replace(run.task, **task))
  loaded = dataclasses.replace(network.loaded, run=run)
  return dataclasses.replace(network, loaded=loaded)


def test_each_run_normalises_images_in_its_own_way(restored):
  config = resolve(SMALL | {'dataset': {'mean': (0.4,), 'std': (0.2,)}})
  other = changed(restored, config=config)
  images = gradcam.read_images(['3'], restored.task)
  column = gradcam.column(other, images, None)
  x = (images.pixels / np.float32(255) - 0.4) / 0.2
  logits, _ = other.task.model.apply(other.loaded.variables, x)
  np.testing.assert_allclose(
    column.confidence, jax.nn.softmax(logits).max(-1), rtol=1e-5
  )
  assert column.explained == column.predicted


def test_a_vit(restored):
  model = ViT(10, dim=12, depth=2, heads=3, patch_size=4)
  images = gradcam.read_images(list('0123456789'), restored.task)
  x = np.zeros((1, 8, 8, 1), np.float32)
  variables = random_tree(jax.eval_shape(model.init, jax.random.key(0), x))
  loaded = dataclasses.replace(
    changed(restored, model=model).loaded,
    weights='raw',
    state=restored.loaded.state.replace(params=variables['params']),
  )
  vit = gradcam.network(loaded, 'vit', 'block1/norm1')
  assert vit.map_size == (2, 2)
  # Some class has evidence, whatever the random network predicts.
  column = gradcam.column(vit, images, np.arange(10))
  assert column.maps.shape == (10, 8, 8)
  assert np.isfinite(column.maps).all()
  assert column.maps.max() > 0
  assert column.explained == [str(k) for k in range(10)]
  for layer, message in (
    ('head', r"'head' has the shape \[1, 10\]"),
    ('layer1', 'unknown layer'),
  ):
    with pytest.raises(UsageError, match=message):
      gradcam.network(loaded, 'vit', layer)


def test_captions_say_the_layer_and_the_step(restored):
  text = gradcam.caption([restored], '3')
  assert 'class 3' in text
  assert 'small: layer3_0 (2x2) of resnet8, maxsup, step 0' in text
  assert 'predicted class' in gradcam.caption([restored], 'predicted')
  assert "the label's class" in gradcam.caption([restored], 'label')


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
    images = gradcam.read_images([str(path), '0'], evaluating(source))
    assert images.pixels.dtype == np.uint8
    np.testing.assert_array_equal(images.pixels[0], expected)
    assert images.titles == ('stripes.png', '#0: 0')
    assert images.labels == (None, 0)
  source = ArraySource(np.zeros((1, 4, 4, 1), np.uint8), [0], 2)
  grey = gradcam.read_images([str(path)], evaluating(source)).pixels
  assert grey.shape == (1, 4, 4, 1)
  assert set(grey.ravel().tolist()) == {117}  # 0.587 of the green


def test_images_that_cannot_be_read(tmp_path):
  black, names = np.zeros((5, 4, 4, 1), np.uint8), ['a', 'b']
  run = evaluating(ArraySource(black, [0] * 5, 2, label_names=names))
  empty, text = tmp_path / 'empty.png', tmp_path / 'text.png'
  empty.touch()
  text.write_text('no image')
  for item, message in (
    ('5', 'expected from 0 to 4'),
    ('-1', '-1 is not an index'),
    (tmp_path / 'none.png', '^images: .*none.png cannot be read: No such file'),
    (tmp_path, '^images: .* is a directory'),
    (empty, 'empty.png cannot be read: an empty file'),
    (text, 'text.png cannot be read: the first bytes'),
  ):
    with pytest.raises(UsageError, match=message) as e:
      gradcam.read_images(['0', str(item)], run)
    assert '\n' not in str(e.value)
  assert gradcam.read_images(['0'], run).titles == ('#0: a',)


def test_images_go_through_the_transform_of_evaluation(tmp_path):
  rng = np.random.default_rng(0)
  pixels = rng.integers(0, 256, (1, 9, 9, 3), np.uint8)
  path = tmp_path / 'same.png'
  cv2.imwrite(str(path), pixels[0, ..., ::-1])
  source = ArraySource(pixels, [0], 2)
  run = evaluating(source, 'center_crop(5)')
  images = gradcam.read_images([str(path), '0'], run)
  for image in images.pixels:
    np.testing.assert_array_equal(image, pixels[0, 2:7, 2:7])
  assert images.visible is images.pixels
  run = evaluating(source, 'center_crop(5) | standardize')
  images = gradcam.read_images(['0'], run)
  assert images.pixels.dtype == np.float32
  crop = pixels[0, 2:7, 2:7].astype(float)
  spread = (crop - crop.min()) / (crop.max() - crop.min()) * 255
  np.testing.assert_allclose(images.visible[0], spread, atol=0.51)


def test_targets(restored):
  runs = [restored]
  assert gradcam.targets('predicted', [1, None], runs) is None
  assert gradcam.targets('label', [1, 4], runs).tolist() == [1, 4]
  assert gradcam.targets('9', [1, None], runs).tolist() == [9, 9]
  for target, message in (
    ('label', 'label, which an image file does not have'),
    ('10', 'from 0 to 9, the classes of small'),
    ('-1', 'expected predicted, label or a class id'),
    ('best', 'expected predicted, label or a class id'),
  ):
    with pytest.raises(UsageError, match=message):
      gradcam.targets(target, [1, None], runs)


# ---- Runs --------------------------------------------------------------------


def test_networks_that_cannot_be_compared(small, large, restored, data_dir):
  train = gradcam.network(
    load_run(small, data_dir=data_dir, split='train'), 'train'
  )
  gradcam.check_agree([restored, train], by_index=False)
  gradcam.check_agree([restored, restored], by_index=True)
  with pytest.raises(UsageError, match='digits/test, train on digits/train'):
    gradcam.check_agree([restored, train], by_index=True)
  other = changed(restored, eval_transform=parse_transform('standardize'))
  with pytest.raises(UsageError, match="is '', that of small"):
    gradcam.check_agree([restored, other], by_index=True)
  larger = gradcam.network(load_run(large, data_dir=data_dir), 'large')
  with pytest.raises(UsageError, match=r'\[8, 8, 1\], that of large \[16, 16'):
    gradcam.check_agree([restored, larger], by_index=False)
