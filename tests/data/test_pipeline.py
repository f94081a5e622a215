import itertools
import multiprocessing
import os
import signal

import numpy as np
import pytest

from maxsup_jax.data import (
  ArraySource,
  batch_indices,
  eval_batches,
  open_source,
  parse_transform,
  steps_per_epoch,
  train_batches,
)
from maxsup_jax.errors import UsageError


def _take(batches, n):
  taken = list(itertools.islice(batches, n))
  batches.close()
  return taken


def _assert_equal(first, second):
  assert len(first) == len(second)
  for a, b in zip(first, second):
    assert a.keys() == b.keys() == {'image', 'label', 'mask'}
    for key in a:
      np.testing.assert_array_equal(a[key], b[key])


def _joined(*processes):
  """The global batches, from those of each process."""
  return [
    {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}
    for parts in zip(*processes, strict=True)
  ]


def _noise(image, rng):
  """An augmentation that shows every random number."""
  return rng.integers(0, 256, image.shape, np.uint8)


def _to_float64(image, rng):
  return image / 255


SHIFT_AND_FLIP = parse_transform('pad_and_crop(2) | flip')


class TestTrainBatches:
  def test_the_contract_of_a_batch(self, data_dir):
    source = open_source('digits', 'train', data_dir=data_dir)
    for transform in (None, SHIFT_AND_FLIP):
      (batch,) = _take(
        train_batches(source, batch_size=16, seed=0, transform=transform), 1
      )
      shapes = {k: (v.dtype.name, v.shape) for k, v in batch.items()}
      assert shapes == {
        'image': ('uint8', (16, 8, 8, 1)),
        'label': ('int32', (16,)),
        'mask': ('bool', (16,)),
      }
      assert batch['mask'].all()
      for value in batch.values():
        assert type(value) is np.ndarray
        assert value.flags['C_CONTIGUOUS']

  def test_an_epoch_is_complete_but_for_the_remainder(self, numbered):
    batches = _take(train_batches(numbered(53), batch_size=8, seed=0), 6 * 40)
    labels = np.stack([b['label'] for b in batches]).reshape(40, 48)
    assert all(len(set(epoch)) == 48 for epoch in labels.tolist())
    # The five that are left out differ, so everything is seen in the end.
    assert set(labels.ravel().tolist()) == set(range(53))
    left_out = [frozenset(range(53)) - set(epoch) for epoch in labels.tolist()]
    assert len(set(left_out)) == 40

  @pytest.mark.parametrize('start_step', [0, 5, 7])
  def test_starts_anywhere(self, numbered, start_step):
    arguments = {'batch_size': 4, 'seed': 7, 'transform': _noise}
    whole = _take(train_batches(numbered(21), **arguments), start_step + 7)
    part = train_batches(numbered(21), **arguments, start_step=start_step)
    _assert_equal(_take(part, 7), whole[start_step:])

  @pytest.mark.parametrize(('process_count', 'repeats'), [(2, 1), (4, 3)])
  def test_processes_share_the_global_batch(
    self, numbered, process_count, repeats
  ):
    arguments = {'batch_size': 8, 'seed': 7, 'transform': _noise}
    arguments['repeats'] = repeats
    parts = [
      _take(
        train_batches(
          numbered(21),
          **arguments,
          start_step=3,
          process_index=p,
          process_count=process_count,
        ),
        9,
      )
      for p in range(process_count)
    ]
    assert {len(b['label']) for part in parts for b in part} == {
      8 // process_count
    }
    whole = train_batches(numbered(21), **arguments, start_step=3)
    _assert_equal(_joined(*parts), _take(whole, 9))

  @pytest.mark.parametrize(
    'reading',
    [
      {'num_threads': 1, 'prefetch': 0},
      {'num_threads': 7, 'prefetch': 9},
      {'num_threads': None, 'prefetch': 3},
      {'num_threads': 1, 'workers': 2},
    ],
  )
  def test_threads_and_workers_do_not_matter(self, data_dir, reading):
    source = open_source('digits', 'train[:100]', data_dir=data_dir)
    arguments = {
      'batch_size': 8,
      'seed': 7,
      'transform': SHIFT_AND_FLIP,
      'start_step': 5,
      'process_index': 1,
      'process_count': 2,
    }
    expected = _take(train_batches(source, **arguments, num_threads=0), 30)
    taken = _take(train_batches(source, **arguments, **reading), 30)
    _assert_equal(taken, expected)
    assert all(type(v) is np.ndarray for v in taken[0].values())

  def test_pixels_depend_on_seed_epoch_and_index_alone(self, numbered):
    """Not on the batch size, the step or the row."""
    source = numbered(24, size=3)

    def epochs(batch_size, count, **kwargs):
      """{(epoch, index): image}."""
      batches = train_batches(
        source, batch_size=batch_size, seed=5, transform=_noise, **kwargs
      )
      per_epoch = 24 // batch_size
      return {
        (step // per_epoch, int(index)): image.tobytes()
        for step, batch in enumerate(_take(batches, count * per_epoch))
        for index, image in zip(batch['label'], batch['image'])
      }

    expected = epochs(batch_size=24, count=3)
    assert len(expected) == len(set(expected.values())) == 72
    assert epochs(batch_size=4, count=3) == expected
    assert epochs(batch_size=8, count=3, num_threads=3) == expected
    for key, image in epochs(batch_size=5, count=3).items():
      assert expected[key] == image
    other = train_batches(source, batch_size=24, seed=6, transform=_noise)
    for index, image in zip(*(next(other)[k] for k in ('label', 'image'))):
      assert expected[0, int(index)] != image.tobytes()

  @pytest.mark.parametrize(
    ('n', 'batch_size', 'repeats'),
    [(24, 8, 3), (25, 8, 2), (12, 4, 1), (13, 6, 4)],
  )
  def test_repeats(self, numbered, n, batch_size, repeats):
    per_epoch = n // batch_size
    batches = _take(
      train_batches(
        numbered(n),
        batch_size=batch_size,
        seed=2,
        transform=_noise,
        repeats=repeats,
      ),
      2 * per_epoch,
    )
    plain = _take(train_batches(numbered(n), batch_size=batch_size, seed=2), 1)
    for epoch in range(2):
      taken = batches[epoch * per_epoch :][:per_epoch]
      labels = np.concatenate([b['label'] for b in taken])
      images = np.concatenate([b['image'] for b in taken])
      counts = np.bincount(labels)
      # All copies of as many examples as fit, of the last perhaps not all.
      assert sorted(set(counts[counts > 0]))[-1] == repeats
      assert (counts == repeats).sum() >= len(labels) // repeats - 1
      assert len({i.tobytes() for i in images}) == len(labels)
    # The examples of the epoch are the first ones of the same permutation.
    first = plain[0]['label'][: batch_size // repeats]
    assert set(first) <= set(batches[0]['label'])
    for step, batch in enumerate(batches):
      indices = batch_indices(
        n, batch_size=batch_size, seed=2, step=step, repeats=repeats
      )
      np.testing.assert_array_equal(batch['label'], indices)
      if 1 < repeats <= batch_size // 2:
        assert (indices[1:] != indices[:-1]).all()  # Copies are apart.

  def test_what_cannot_be_transformed_is_named(self, numbered, refused):
    def fail(image, rng):
      raise ValueError('too small')

    batches = train_batches(numbered(4), batch_size=4, seed=0, transform=fail)
    with refused(
      r'arrays: example \d, an image of \[4, 4, 1\], cannot be transformed: too'
    ):
      next(batches)

  def test_a_transform_leaves_nothing_behind(self, numbered):
    """However many numbers one example draws, the next is not affected."""

    def draw_one_more(image, rng):
      if image[0, 0, 0] % 2:
        rng.integers(0, 5, dtype=np.uint32)
      return _noise(image, rng)

    arguments = {'batch_size': 8, 'seed': 0}
    noise, other = (
      _take(train_batches(numbered(16), **arguments, transform=f), 4)
      for f in (_noise, draw_one_more)
    )
    for a, b in zip(noise, other):
      even = a['label'] % 2 == 0
      assert even.any()
      np.testing.assert_array_equal(a['image'][even], b['image'][even])
      assert not np.array_equal(a['image'][~even], b['image'][~even])

  def test_the_data_are_the_same_in_all_versions(self, numbered):
    """Golden: a checkpoint must be resumable with other versions of NumPy."""
    (batch,) = _take(
      train_batches(
        numbered(100, size=1),
        batch_size=8,
        seed=42,
        start_step=13,
        transform=_noise,
      ),
      1,
    )
    assert batch['label'].tolist() == [73, 89, 0, 95, 45, 13, 16, 70]
    noise = [222, 128, 50, 81, 153, 250, 141, 75]
    assert batch['image'].ravel().tolist() == noise

  def test_images_of_several_shapes(self, make_images, refused):
    images = [*make_images(*[(4, 4, 1)] * 3, (5, 4, 1))]

    class Ragged:
      name = 'ragged'

      def __len__(self):
        return 4

      def __getitem__(self, index):
        return {'image': images[index], 'label': 0}

    with refused('ragged: the images of a batch are .*expected one shape'):
      next(train_batches(Ragged(), batch_size=4, seed=0))

  def test_errors_come_through_workers(self, numbered, refused):
    batches = train_batches(
      numbered(5), batch_size=5, seed=0, workers=1, transform=_to_float64
    )
    with refused('images are float64; expected uint8, or float32 after'):
      next(batches)
    batches.close()

  def test_workers_end_with_their_parent_not_before(self, numbered, refused):
    batches = train_batches(numbered(5), batch_size=5, seed=0, workers=1)
    next(batches)
    (worker,) = multiprocessing.active_children()
    for number in (signal.SIGTERM, signal.SIGINT):  # As sent to a group.
      os.kill(worker.pid, number)
    for _ in range(20):
      next(batches)
    os.kill(worker.pid, signal.SIGKILL)
    with refused('a worker process that makes batches was killed, perhaps'):
      for _ in range(20):
        next(batches)
    batches.close()

  @pytest.mark.parametrize(
    ('arguments', 'message'),
    [
      ({'batch_size': 22}, 'batch_size is 22; expected at most 21, the number'),
      (
        {'batch_size': 0},
        'is 0; expected a positive multiple of process',
      ),
      ({'batch_size': 6, 'process_count': 4}, 'is 6; .* of process_count=4'),
      ({'process_index': 1}, 'process_index is 1; expected .* from 0 to 0'),
      ({'process_count': 0}, 'process_count is 0; expected'),
      ({'seed': 2**63}, 'seed is 9223372036854775808; expected'),
      ({'start_step': -1}, 'start_step is -1; expected'),
      ({'repeats': 0}, 'repeats is 0; expected'),
      ({'num_threads': -1}, 'num_threads is -1; expected'),
      ({'prefetch': -1}, 'prefetch is -1; expected'),
      ({'workers': -1}, 'workers is -1; expected'),
    ],
  )
  def test_refuses(self, arguments, message, numbered, refused):
    with refused(message):
      train_batches(numbered(21), **{'batch_size': 4, 'seed': 0, **arguments})


class TestEvalBatches:
  @pytest.mark.parametrize(('n', 'process_count'), [(1, 4), (9, 1), (16, 2)])
  def test_every_example_once_and_in_order(self, numbered, n, process_count):
    parts = [
      list(
        eval_batches(
          numbered(n),
          batch_size=8,
          process_index=p,
          process_count=process_count,
        )
      )
      for p in range(process_count)
    ]
    batches = _joined(*parts)  # Which also checks that all have as many.
    assert len(batches) == -(-n // 8)
    joined = {k: np.concatenate([b[k] for b in batches]) for k in batches[0]}
    real = np.arange(len(batches) * 8) < n
    np.testing.assert_array_equal(joined['mask'], real)
    np.testing.assert_array_equal(joined['label'][real], np.arange(n))
    np.testing.assert_array_equal(
      joined['image'][real], [e['image'] for e in numbered(n)]
    )
    assert not joined['image'][~real].any()
    assert not joined['label'][~real].any()
    for part in parts:
      for batch in part:
        assert batch['image'].shape == (8 // process_count, 4, 4, 1)
        assert batch['image'].dtype == np.uint8
        assert batch['label'].dtype == np.int32
        assert batch['mask'].dtype == bool

  def test_threads_do_not_matter(self, data_dir):
    source = open_source('digits', 'test', data_dir=data_dir)
    expected = list(eval_batches(source, batch_size=32, num_threads=0))
    assert len(expected) == 12
    threaded = list(eval_batches(source, batch_size=32, num_threads=3))
    _assert_equal(threaded, expected)

  def test_transform(self, numbered):
    """Applied to every image, with nothing to draw random numbers from."""
    seen = []

    def transform(image, rng):
      seen.append(rng)
      return image[:1] * 2

    batches = list(eval_batches(numbered(6), batch_size=4, transform=transform))
    assert seen == [None] * 6
    images = np.concatenate([b['image'] for b in batches])
    assert images.shape == (8, 1, 4, 1)
    np.testing.assert_array_equal(images[:, 0, 0, 0], [0, 2, 4, 6, 8, 10, 0, 0])

  def test_a_process_without_examples_gets_the_transformed_shape(
    self, numbered
  ):
    (batch,) = eval_batches(
      numbered(2),
      batch_size=4,
      process_index=1,
      process_count=2,
      transform=lambda image, rng: np.float32(image[:1]),
    )
    assert batch['image'].shape == (2, 1, 4, 1)
    assert batch['image'].dtype == np.float32
    assert not batch['mask'].any()


def test_steps_per_epoch(refused):
  assert steps_per_epoch(1442, 128) == 11
  assert steps_per_epoch(128, 128) == 1
  with refused('batch_size is 129; expected at most 128'):
    steps_per_epoch(128, 129)


class Damaged(ArraySource):
  """A source some of whose examples cannot be read."""

  bad = (2, 3, 9)

  def __getitem__(self, index):
    if index in self.bad:
      raise UsageError(f'image {index} is broken')
    return super().__getitem__(index)


@pytest.mark.parametrize(
  'workers', [0, pytest.param(1, marks=pytest.mark.slow)]
)
def test_what_cannot_be_read_is_replaced_and_told(workers):
  images = np.zeros((10, 2, 2), np.uint8)
  source = Damaged(images, np.arange(10), num_classes=10)
  with pytest.raises(UsageError, match='is broken'):
    [next(train_batches(source, batch_size=10, seed=0)) for _ in range(2)]
  options = {'batch_size': 5, 'on_error': 'skip', 'workers': workers}
  batches = train_batches(source, seed=0, **options)
  with pytest.warns(UserWarning, match=r'left out: image \d is broken'):
    labels = [next(batches)['label'] for _ in range(2)]
  with pytest.warns(UserWarning, match='3 examples were left out:'):
    batches.close()
  expected = batch_indices(10, batch_size=5, seed=0, step=0)
  instead = {2: 4, 3: 4, 9: 0}
  np.testing.assert_array_equal(
    labels[0], [instead.get(i, i) for i in expected.tolist()]
  )
  with pytest.warns(UserWarning, match='left out'):
    found = list(eval_batches(source, **options))
  assert [b['label'][b['mask']].tolist() for b in found] == [
    *([0, 1, 4], [5, 6, 7, 8])
  ]


def test_where_nothing_can_be_read_it_ends():
  class Broken(Damaged):
    bad = range(10)

  source = Broken(np.zeros((10, 2, 2), np.uint8), np.arange(10), num_classes=10)
  with pytest.raises(UsageError, match=r'100 examples from \d on cannot be'):
    next(train_batches(source, batch_size=5, seed=0, on_error='skip'))
