import contextlib
import dataclasses
import io
import itertools

import cv2
import jax
import numpy as np
import optax
import pytest
from PIL import Image

from maxsup_jax import tasks
from maxsup_jax.data import batch_indices
from maxsup_jax.errors import UsageError
from maxsup_jax.reports import batch as pictures
from maxsup_jax.tasks import resolve
from maxsup_jax.training.parallel import Devices
from maxsup_jax.training.state import TrainState
from tests.experiments.quickly import compiled_quickly


@pytest.fixture(scope='module')
def build(data_dir):
  def build(dataset=None, **changes):
    read = {'mean': (0.3,), 'std': (0.38,), 'in_memory': True}
    config = {'dataset': read | (dataset or {}), 'batch_size': 64, **changes}
    one = Devices(jax.devices()[:1])
    return tasks.build(resolve(config), data_dir=data_dir, devices=one)

  return build


def pixels(png):
  return np.asarray(Image.open(io.BytesIO(png)).convert('RGB'))


# ---- The program -------------------------------------------------------------


def test_writes_a_picture_and_one_line(run_program, tmp_path):
  out = tmp_path / 'pictures' / 'batch.png'
  card = '--config=configs/digits.py:loss=ls'
  grid = ('--step=22', '--rows=2', '--columns=5', f'--out={out}')
  code, printed, err = run_program('show_batch', card, *grid, devices=2)
  assert (code, err) == (0, '')
  (line,) = printed.splitlines()
  assert line.startswith(
    f'{out}: digits/train, step 22, epoch 1: images uint8 [64, 8, 8, 1]; '
    'labels int32 [64]; normalised: mean '
  )
  mean, std = (float(word) for word in line.split(': mean ')[1].split(', std '))
  assert abs(mean) < 0.2
  assert 0.8 < std < 1.2
  assert [p.name for p in out.parent.iterdir()] == ['batch.png']
  height, width, _ = pixels(out.read_bytes()).shape
  assert width > 1.5 * height

  first = out.read_bytes()
  epochs = ('--epochs=0,3', '--rows=2', f'--out={out}')
  code, printed, err = run_program('show_batch', *epochs)
  assert (code, err) == (0, '')
  assert printed == (
    f'{out}: 2 examples of digits/train in epochs 0, 3: uint8 [8, 8, 1]\n'
  )
  assert out.read_bytes() != first


# ---- Reading -----------------------------------------------------------------


def test_it_is_the_batch_of_the_step(build):
  run = build()
  with contextlib.closing(run.task.train_batches(0)) as batches:
    expected = list(itertools.islice(batches, 4))
  for step in (0, 3):
    seen = pictures.read(run, split='train', step=step)
    np.testing.assert_array_equal(seen.batch['image'], expected[step]['image'])
    np.testing.assert_array_equal(seen.labels, expected[step]['label'])
    normalised = (expected[step]['image'] / 255 - 0.3) / 0.38
    np.testing.assert_allclose(seen.inputs, normalised, atol=1e-5)
    np.testing.assert_allclose(seen.mean, normalised.mean((0, 1, 2)), atol=1e-6)
    np.testing.assert_allclose(seen.std, normalised.std((0, 1, 2)), rtol=1e-6)


def test_the_last_batch_of_evaluation_has_no_padding(build):
  run = build(eval_batch_size=100)
  seen = pictures.read(run, split='eval', step=3)
  assert len(seen.batch['image']) == len(seen.inputs) == len(seen.labels) == 55
  last = [run.task.eval_source[i] for i in range(300, 355)]
  np.testing.assert_array_equal(seen.batch['image'], [e['image'] for e in last])
  assert seen.labels.tolist() == [e['label'] for e in last]
  normalised = (seen.batch['image'] / 255 - 0.3) / 0.38
  np.testing.assert_allclose(seen.mean, [normalised.mean()], atol=1e-6)


def test_steps_that_are_not_there(build):
  run = build(eval_batch_size=100, duration='7 steps')
  with pytest.raises(UsageError, match='step is 7; expected below'):
    pictures.read(run, split='train', step=7)
  with pytest.raises(UsageError, match='digits/test has only 4 batches of 100'):
    pictures.read(run, split='eval', step=4)


@pytest.mark.parametrize('repeats', [1, 2])
def test_epochs_are_those_of_training(build, repeats):
  """Example by example, the pixels of the batches of that epoch."""
  run = build({'train_transform': 'pad_and_crop(2) | flip', 'repeats': repeats})
  found = pictures.read_epochs(run, epochs=(0, 1), count=8)
  source, changed = run.task.train_source, 0
  order = batch_indices(len(source), batch_size=len(source), seed=0, step=0)
  assert found.indices == order[:8].tolist()
  for original, _, label, index in zip(*found):
    assert label == source[index]['label']
    np.testing.assert_array_equal(original, source[index]['image'])
  for epoch in (0, 1):
    first = epoch * run.steps_per_epoch
    batches = run.task.train_batches(first)
    there = {}
    order = {'repeats': repeats} if repeats > 1 else {}
    for step in range(first, first + run.steps_per_epoch):
      indices = batch_indices(
        len(source), batch_size=64, seed=0, step=step, **order
      )
      for index, image in zip(indices.tolist(), next(batches)['image']):
        # Of repeated images, the first copy comes first.
        there.setdefault(index, image)
    batches.close()
    compared = 0
    for original, versions, _, index in zip(*found):
      if index in there:
        np.testing.assert_array_equal(versions[epoch], there[index])
        changed += (versions[epoch] != original).any()
        compared += 1
    assert compared >= 2
  assert changed > 2


@pytest.mark.slow
def test_mixed_images_are_those_of_the_step(build):
  """What the training step gives its model, and its objective."""
  mixing = {'mixup': 0.8, 'cutmix': 1.0, 'mode': 'pair'}
  run = build(mixing=mixing)
  seen = pictures.read(run, split='train', step=5)
  assert seen.labels.shape == (64, 10)
  np.testing.assert_allclose(seen.labels.sum(-1), 1, atol=1e-6)
  assert ((seen.labels > 0).sum(-1) == 2).any()

  class Model:
    """Hands over what it sees as its statistics."""

    def apply(self, variables, images, **_):
      logits = images.mean((1, 2)) * variables['params']['w']
      return (logits, {}), {'batch_stats': images}

  class Recorder:
    """Hands over what it gets as its state."""

    needs = ()

    def apply(self, state, logits, labels, **_):
      return logits.sum(-1), labels

  task = dataclasses.replace(run.task, model=Model(), objective=Recorder())
  changed = dataclasses.replace(run, task=task, optimizer=optax.sgd(0.1))
  params = {'w': np.zeros(10, np.float32)}
  state = TrainState(
    np.int32(5), params, (), changed.optimizer.init(params), ()
  )
  with contextlib.closing(run.task.train_batches(5)) as batches:
    batch = next(batches)
  with compiled_quickly():
    state, _ = run.devices.map(changed.train_step())(
      run.devices.replicate(state), run.devices.shard(batch)
    )
  state = run.devices.fetch(state)
  np.testing.assert_allclose(seen.inputs, state.batch_stats, atol=1e-5)
  np.testing.assert_allclose(seen.labels, state.objective_state, atol=1e-6)


# ---- Pixels and words --------------------------------------------------------


def test_undoing_the_normalisation_gives_the_pixels():
  from maxsup_jax.tasks.images import normalize

  grey = np.arange(256, dtype=np.uint8).reshape(1, 16, 16, 1)
  for mean, std in (
    ((0.0,), (1.0,)),
    ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
  ):
    images = np.repeat(grey, len(mean), -1)
    undone = pictures.to_pixels(normalize(images, mean, std), mean, std)
    np.testing.assert_array_equal(undone, images)


def test_values_outside_of_what_pixels_can_be():
  undone = pictures.to_pixels(np.array([[[-9.0], [9.0]]]), (0.5,), (0.5,))
  assert undone.ravel().tolist() == [0, 255]
  constant = pictures.stretched(np.full((2, 2, 1), -3.0))
  assert constant.tolist() == np.full((2, 2, 1), 128).tolist()
  image = np.random.default_rng(0).normal(size=(4, 4, 3)).astype(np.float32)
  stretched = pictures.stretched(image)
  assert (stretched.min(), stretched.max()) == (0, 255)
  assert np.corrcoef(stretched.ravel(), image.ravel())[0, 1] > 0.999


def test_labels_as_text():
  text = pictures.label_text
  names = ['cat', 'dog', 'a name that\nis far too long']
  assert text(np.int32(1), names) == 'dog'
  assert text(1, None) == '1'
  assert text(2, names) == 'a name that is…'
  assert text(np.array([0.3, 0.7, 0.0]), names) == 'dog: 70%\ncat: 30%'
  assert text(np.array([0.5, 0.5, 0.0]), names) == 'cat: 50%\ndog: 50%'
  # Of one class, or mixed with its own: one name and no weight.
  assert text(np.array([0.0, 1.0, 0.0]), names) == 'dog'


# ---- The picture -------------------------------------------------------------


def test_every_image_is_where_it_belongs():
  """Flat images: the colours come in the order of the grid."""
  rng = np.random.default_rng(0)
  colors = rng.integers(0, 256, (7, 3), np.uint8)
  images = [np.broadcast_to(c, (8, 8, 3)) for c in colors]
  rows, texts = [images[:4], images[4:]], [['a'] * 4, ['b'] * 3]
  png = pictures.grid(rows, texts, title='title', caption='caption')
  assert png == pictures.grid(rows, texts, title='title', caption='caption')
  picture, centres = pixels(png), []
  for color in colors:
    at = np.argwhere((picture == color).all(-1))
    # A square, up to the line around it.
    assert len(at) > 0.97 * np.prod(np.ptp(at, 0) + 1)
    centres.append(at.mean(0))
  y, x = np.transpose(centres)
  assert (np.diff(x[:4]) > 0).all()
  assert np.ptp(y[:4]) < 2
  assert y[4] > y[0]
  np.testing.assert_allclose(x[4:], x[:3], atol=2)
  # Grey images are not stretched: a dark one stays dark.
  images = [np.full((8, 8, 1), v, np.uint8) for v in (10, 20, 200)]
  picture = pixels(pictures.grid([images], [['', '', '']], title=''))
  for value in (10, 20, 200):
    assert (picture == value).all(-1).sum() > 1000


def test_images_of_any_size_with_headings():
  images = [
    [np.zeros(shape, np.uint8) for shape in ((300, 400, 3), (224, 224, 3))],
    [np.zeros(shape, np.uint8) for shape in ((500, 30, 3), (224, 224, 3))],
  ]
  texts = [['a $name$\nof two', ''], ['\u4e2d', '']]
  png = pictures.grid(
    images, texts, title='card\nsplit', headings=['original', 'epoch 0']
  )
  assert cv2.imdecode(np.frombuffer(png, np.uint8), 1).shape[0] > 300


def test_channels_that_cannot_be_shown():
  with pytest.raises(UsageError, match='images of 4 channels cannot be shown'):
    pictures.grid([[np.zeros((8, 8, 4), np.uint8)]], [['']], title='')
