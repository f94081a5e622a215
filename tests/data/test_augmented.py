import numpy as np
import pytest

from maxsup_jax.data import (
  ArraySource,
  AugmentedSource,
  eval_batches,
  parse_transform,
)


@pytest.fixture
def source():
  rng = np.random.default_rng(0)
  images = rng.integers(0, 256, (10, 8, 8, 1), np.uint8)
  return ArraySource(images, np.arange(10), num_classes=10)


def augmented(source, indices=(7, 3), count=50, seed=0):
  return AugmentedSource(
    source, indices, count, parse_transform('pad_and_crop(1)'), seed
  )


def test_every_group_is_of_one_example(source):
  batch = next(iter(eval_batches(augmented(source), batch_size=100)))
  assert batch['label'].tolist() == [7] * 50 + [3] * 50
  for group, index in ((batch['image'][:50], 7), (batch['image'][50:], 3)):
    padded = np.pad(source[index]['image'], ((1, 1), (1, 1), (0, 0)))
    crops = {
      padded[y : y + 8, x : x + 8].tobytes() for y in range(3) for x in range(3)
    }
    assert {image.tobytes() for image in group} == crops


def test_pixels_depend_on_seed_example_and_number_alone(source):
  first = augmented(source)
  reordered = augmented(source, indices=(3, 7))
  for i in range(50):
    np.testing.assert_array_equal(first[i]['image'], reordered[50 + i]['image'])
    np.testing.assert_array_equal(first[i]['image'], first[i]['image'])
  other = augmented(source, seed=1)
  assert any((first[i]['image'] != other[i]['image']).any() for i in range(50))
