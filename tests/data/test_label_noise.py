"""Labels that are wrong on purpose."""

import itertools

import numpy as np
import pytest

from maxsup_jax import tasks
from maxsup_jax.data import ArraySource, LongTailedSource, NoisyLabels
from maxsup_jax.data.label_noise import KINDS


def source_of(labels, K=10):
  images = np.zeros((len(labels), 2, 2, 1), np.uint8)
  return ArraySource(images, labels, K)


LABELS = np.random.default_rng(0).integers(0, 10, 40_000)


@pytest.mark.parametrize('kind', KINDS)
@pytest.mark.parametrize('rate', [0.2, 0.45])
def test_each_label_becomes_what_the_kind_says(kind, rate):
  noisy = NoisyLabels(source_of(LABELS), rate, seed=3, kind=kind)
  found = np.zeros((10, 10))
  np.add.at(found, (LABELS, noisy.labels()), 1)
  found /= found.sum(1, keepdims=True)
  expected = (1 - rate) * np.eye(10)
  if kind == 'symmetric':
    expected += rate / 9 * (1 - np.eye(10))
  elif kind == 'next':
    expected += rate * np.roll(np.eye(10), 1, axis=1)
  else:  # Patrini et al.: truck, bird, deer, cat and dog.
    other = np.eye(10)
    for a, b in ((9, 1), (2, 0), (4, 7), (3, 5), (5, 3)):
      other[a] = np.eye(10)[b]
    expected += rate * other
  # Four standard deviations of a share among 4,000.
  np.testing.assert_allclose(found, expected, atol=4 * 0.5 / 63)
  np.testing.assert_array_equal(noisy.wrong, noisy.labels() != LABELS)
  if kind == 'symmetric':
    assert noisy.wrong.mean() == pytest.approx(rate, abs=0.01)


def test_depends_on_the_seed_and_the_index_alone():
  whole = NoisyLabels(source_of(LABELS), 0.3, seed=1)
  start = NoisyLabels(source_of(LABELS[:100]), 0.3, seed=1)
  np.testing.assert_array_equal(start.labels(), whole.labels()[:100])
  more = NoisyLabels(source_of(LABELS), 0.4, seed=1)
  assert (more.labels() == whole.labels())[whole.wrong].all()
  other = NoisyLabels(source_of(LABELS), 0.3, seed=2)
  both = (other.wrong & whole.wrong).mean()
  assert both == pytest.approx(0.09, abs=0.01)


def test_is_a_source_like_the_one_that_it_has():
  tail = LongTailedSource(source_of(LABELS), 0.1, seed=0)
  noisy = NoisyLabels(tail, 0.2, seed=0)
  assert noisy.counts == tail.counts
  assert noisy.in_memory
  for example, label in itertools.islice(zip(noisy, noisy.labels()), 50):
    assert example['label'] == label
    assert example['image'].shape == (2, 2, 1)
  assert noisy.undecoded(7)['label'] == noisy[7]['label']
  with pytest.raises(IndexError):
    noisy[len(noisy)]


def test_refuses(refused):
  for arguments, message in (
    ({'rate': 1.0}, 'rate is 1.0; expected above 0 and below 1'),
    ({'kind': 'symetric'}, "did you mean 'symmetric'"),
    ({'seed': -1}, 'seed is -1'),
  ):
    with refused(message):
      NoisyLabels(source_of(LABELS), **{'rate': 0.2, 'seed': 0, **arguments})
  with refused("kind is 'cifar10'; .* has 3 classes"):
    NoisyLabels(source_of([0, 1, 2], 3), 0.2, 0, 'cifar10')


def test_runs_train_on_it_and_evaluate_without(data_dir, refused):
  dataset = {'label_noise': 0.2, 'label_noise_kind': 'next'}
  task = tasks.build(
    tasks.resolve({'dataset': dataset}), data_dir=data_dir
  ).task
  assert task.train_source.wrong.mean() == pytest.approx(0.2, abs=0.05)
  assert task.train_name == 'digits/train, labels with next noise 0.2'
  assert not hasattr(task.eval_source, 'wrong')
  # The work directory says which.
  first, *lines = task.files['wrong_labels.csv'].decode().split()
  assert first == 'index,label'
  given = dict(map(int, line.split(',')) for line in lines)
  assert list(given) == np.flatnonzero(task.train_source.wrong).tolist()
  index = next(iter(given))
  assert task.train_source[index]['label'] == given[index]
  for change, message in (
    ({'label_noise': 1.5}, r'config\.dataset\.label_noise is 1\.5'),
    ({'label_noise_kind': 'x'}, "config.dataset.label_noise_kind is 'x'"),
  ):
    with refused(message):
      tasks.build(
        tasks.resolve({'dataset': dataset | change}), data_dir=data_dir
      )
