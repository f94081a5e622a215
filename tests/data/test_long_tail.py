import itertools

import numpy as np
import pytest

from maxsup_jax.data.long_tail import LongTailedSource, long_tailed_counts
from maxsup_jax.data.sources import ArraySource

# Of CIFAR-10, 5,000 examples a class; those of ratio 0.005 are also known as
# imbalance factor 200.
COUNTS = {
  0.1: [5000, 3871, 2997, 2320, 1796, 1391, 1077, 834, 645, 500],
  0.02: [5000, 3237, 2096, 1357, 878, 568, 368, 238, 154, 100],
  0.01: [5000, 2997, 1796, 1077, 645, 387, 232, 139, 83, 50],
  0.005: [5000, 2775, 1540, 854, 474, 263, 146, 81, 45, 25],
}


@pytest.fixture
def source():
  """1,000 examples of 4 classes, mixed; image i is full of the number i."""
  images = np.arange(1000, dtype='<u4').view(np.uint8).reshape(1000, 2, 2, 1)
  labels = np.random.default_rng(0).permutation(1000) % 4
  return ArraySource(images, labels, 4, label_names='abcd')


def indices_of(part):
  """Which examples of the fixture a part of it has, in its order."""
  images = [np.ascontiguousarray(part[i]['image']) for i in range(len(part))]
  return [int(image.view('<u4').item()) for image in map(np.ravel, images)]


# ---- Counts ------------------------------------------------------------------


@pytest.mark.parametrize(('ratio', 'counts'), COUNTS.items())
def test_counts_of_long_tailed_cifar10(ratio, counts):
  assert long_tailed_counts(10, 5000, ratio) == counts
  assert long_tailed_counts(10, 5000, 1 / round(1 / ratio)) == counts


def test_ends_are_exact_whatever_floating_point_makes_of_them():
  """Such as 100 * 0.29, which is 28.999999999999996."""
  assert int(100 * 0.29) == 28
  for largest in (1, 7, 100, 500, 5000, 1280, 10**6):
    for count in {1, 2, 29, largest // 3, largest - 1, largest}:
      if 0 < count <= largest:
        counts = long_tailed_counts(7, largest, count / largest)
        assert (counts[0], counts[-1]) == (largest, count)
  for percent in range(1, 101):
    assert long_tailed_counts(2, 100, percent / 100)[-1] == percent


def test_no_count_is_rounded_up():
  """Against integer arithmetic: the largest n with n^(K-1) <= the power."""
  K, largest = 10, 5000
  for factor in (2, 3, 10, 17, 50, 100, 200, 256, 1000):
    for c, count in enumerate(long_tailed_counts(K, largest, 1 / factor)):
      limit = largest ** (K - 1)
      assert count ** (K - 1) * factor**c <= limit
      assert (count + 1) ** (K - 1) * factor**c > limit


@pytest.mark.parametrize(
  ('arguments', 'match'),
  [
    ((1, 10, 0.1), 'num_classes is 1; expected an integer, at least 2'),
    ((10, 0, 0.1), 'largest is 0; expected an integer, at least 1'),
    ((10, 10, 0.0), 'ratio is 0.0; expected above 0 and at most 1'),
    ((10, 10, 100), 'ratio is 100; expected'),
    ((10, 10, float('nan')), 'ratio is nan; expected'),
  ],
)
def test_counts_that_cannot_be(refused, arguments, match):
  with refused(match):
    long_tailed_counts(*arguments)


# ---- The source --------------------------------------------------------------


def test_it_has_the_counts_and_the_examples_of_its_source(source):
  part = LongTailedSource(source, 0.1, seed=0)
  assert part.counts == (250, 116, 53, 25)
  assert len(part) == 444
  labels = [part[i]['label'] for i in range(len(part))]
  assert np.bincount(labels).tolist() == [250, 116, 53, 25]
  assert part.labels().tolist() == labels
  assert part.labels().dtype == np.int32
  # Each example comes once, in the order of the source, with its own label.
  indices = indices_of(part)
  assert indices == sorted(set(indices))
  assert labels == [source[i]['label'] for i in indices]
  assert (part.num_classes, part.image_shape) == (4, (2, 2, 1))
  assert part.label_names == ('a', 'b', 'c', 'd')
  assert part.name == 'arrays, long-tailed with ratio 0.1'
  np.testing.assert_array_equal(part[-1]['image'], part[443]['image'])
  with pytest.raises(IndexError):
    part[444]


def test_smaller_ratios_are_contained_in_larger_ones(source):
  parts = [
    set(indices_of(LongTailedSource(source, ratio, seed=3)))
    for ratio in (0.01, 0.02, 0.1, 0.5, 1.0)
  ]
  for smaller, larger in itertools.pairwise(parts):
    assert smaller < larger
  assert len(parts[-1]) == 1000


def test_the_choice_depends_on_the_seed_and_nothing_else(source):
  first = indices_of(LongTailedSource(source, 0.1, seed=0))
  assert indices_of(LongTailedSource(source, 0.1, seed=0)) == first
  other = indices_of(LongTailedSource(source, 0.1, seed=1))
  assert other != first
  # By chance 0.1 of class 3 would be common: not the same, not disjoint.
  smallest = [
    {i for i in part if source[i]['label'] == 3} for part in (first, other)
  ]
  assert len(smallest[0] & smallest[1]) < 10


def test_golden_choice():
  """The same bits on every machine and with every version of NumPy."""
  labels = np.arange(40) % 2
  source = ArraySource(np.zeros((40, 1, 1), np.uint8), labels, 2)
  part = LongTailedSource(source, 0.2, seed=7)
  assert part._indices[part.labels() == 1].tolist() == [3, 19, 33, 35]


def test_unequal_classes_start_from_the_smallest():
  labels = np.repeat([0, 1, 2], [30, 20, 25])
  source = ArraySource(np.zeros((75, 1, 1), np.uint8), labels, 3)
  assert LongTailedSource(source, 0.25, 0).counts == (20, 10, 5)
  assert LongTailedSource(source, 0.25, 0, largest=30).counts == (30, 15, 7)


def test_what_cannot_be_long_tailed(refused, source):
  with refused(
    'class 3 of arrays, with 250 of class 0; expected at least 1/250'
  ):
    LongTailedSource(source, 0.001, seed=0)
  with refused('arrays has 250 examples of class 0; a long-tailed split with'):
    LongTailedSource(source, 0.1, seed=0, largest=251)
  labels = np.repeat([0, 1], [30, 9])
  unequal = ArraySource(np.zeros((39, 1, 1), np.uint8), labels, 2)
  with refused('has 9 examples of class 1; .* with 30 of class 0 needs 15'):
    LongTailedSource(unequal, 0.5, seed=0, largest=30)
  gap = ArraySource(np.zeros((9, 1, 1), np.uint8), [0, 2, 0] * 3, 3)
  with refused('has no examples of class 1'):
    LongTailedSource(gap, 0.5, seed=0)
  with refused('seed is -1; expected'):
    LongTailedSource(source, 0.5, seed=-1)
