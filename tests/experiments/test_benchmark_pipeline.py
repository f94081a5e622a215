"""From JPEG files to batches, beside PIL."""

import io
import os

import numpy as np
import pytest
from PIL import Image

from experiments.benchmark import pipeline
from maxsup_jax import data
from maxsup_jax.errors import UsageError
from tests.experiments.test_benchmark import of_machine, over, told

TINY = {'image_size': 32, 'batch_size': 4, 'rounds': 2, 'steps_per_round': 1}


@pytest.fixture(scope='module')
def record():
  # Worker processes take seconds to start, and are tested elsewhere.
  with pytest.MonkeyPatch.context() as patch:
    ours = pipeline.ours
    patch.setattr(pipeline, 'ours', lambda *a, workers=0, **k: ours(*a, **k))
    before = os.sched_getaffinity(0)
    measured = pipeline.measure(photos=8, **TINY)
    assert os.sched_getaffinity(0) == before
  return of_machine(measured)


def test_the_photographs_are_those_of_imagenet_in_form():
  files = pipeline.make_photos(60)
  images = [Image.open(io.BytesIO(file)) for file in files[:8]]
  assert all(image.format == 'JPEG' for image in images)
  assert all(image.layer[0][1:3] == (2, 2) for image in images)  # 4:2:0
  assert all(max(image.size) in (400, 500) for image in images)
  assert 90_000 < np.mean([len(file) for file in files]) < 130_000
  assert pipeline.make_photos(3) == files[:3]


def test_everything_is_timed_in_every_round(record):
  results = record['results']
  assert list(results['per_core']['variants']) == [
    *('pil', 'ours', 'ours, ArrayRecord', 'ours, without simplejpeg'),
    *('ours, without numba', 'ours, without either'),
  ]
  assert list(results['all_cores']['variants']) == [
    *('pil', 'ours, threads', 'ours, workers')
  ]
  for part in results.values():
    pil = part['variants']['pil']['seconds_per_image']
    for variant in part['variants'].values():
      seconds = variant['seconds_per_image']
      assert len(seconds['per_round']) == 2
      assert variant['images_per_second'] == pytest.approx(
        1 / np.median(seconds['per_round'])
      )
      assert variant['speedup']['per_round'] == over(pil, seconds)
  assert 'ours, without either' in told(record, 'pipeline')


def test_packages_that_change_pixels_are_refused(monkeypatch, record):
  del record  # What runs without the fault.
  without = pipeline._without

  def broken(packages, stream):
    batch = without(packages, stream)
    return batch if packages else {**batch, 'image': batch['image'] ^ 1}

  monkeypatch.setattr(pipeline, '_without', broken)
  with pytest.raises(UsageError, match='the pixels differ'):
    pipeline.measure(photos=8, **TINY)


def test_pil_crops_as_we_do(tmp_path):
  pixels = np.random.default_rng(0).integers(0, 256, (60, 50, 3), np.uint8)
  Image.fromarray(pixels).save(tmp_path / 'x.png')
  batch = pipeline.pil([str(tmp_path / 'x.png')], 32, 1)()
  crop = data.parse_transform('random_resized_crop(32) | flip')
  ours = crop(pixels, np.random.default_rng(0))
  np.testing.assert_array_equal(batch[0], ours)
