"""From JPEG files to batches, beside PIL."""

import io
import os

import numpy as np
import pytest
from PIL import Image

from experiments.benchmark import peers, photos, pipeline, timing
from maxsup_jax import data
from maxsup_jax.data import _jpeg, _resampling
from maxsup_jax.errors import UsageError
from tests.experiments.test_benchmark import of_machine

TINY = {'image_size': 32, 'batch_size': 4, 'rounds': 2, 'steps_per_round': 1}
S = timing.filled(TINY, {})


@pytest.fixture(scope='module')
def files():
  return photos.make_photos(8)


@pytest.fixture
def paths(files, tmp_path):
  return photos.write_files(files, tmp_path / 'files')


@pytest.fixture(scope='module')
def source(files, tmp_path_factory):
  directory = tmp_path_factory.mktemp('photos')
  return data.open_source(photos.write_dataset(files[:4], directory), 'train')


@pytest.fixture(scope='module')
def record():
  # Worker processes take seconds to start, and are tested elsewhere.
  with pytest.MonkeyPatch.context() as patch:
    ours = pipeline.ours
    patch.setattr(pipeline, 'ours', lambda *a, workers=0, **k: ours(*a, **k))
    before = os.sched_getaffinity(0)
    measured = pipeline.measure(count=8, **TINY)
    assert os.sched_getaffinity(0) == before
  return of_machine(measured)


def test_the_photographs_are_those_of_imagenet_in_form(files):
  images = [Image.open(io.BytesIO(file)) for file in files]
  assert all(image.format == 'JPEG' for image in images)
  assert all(image.layer[0][1:3] == (2, 2) for image in images)  # 4:2:0
  assert all(max(image.size) in (400, 500) for image in images)
  sizes = [len(file) for file in photos.make_photos(60)]
  assert 90_000 < np.mean(sizes) < 130_000
  assert photos.make_photos(3) == files[:3]


def test_everything_is_timed_in_every_round(record):
  results = record['results']
  for part, names in {
    'per_core': {
      'ours',
      'ours, without simplejpeg',
      'ours, without numba',
      'ours, without either',
      "ours, interpolation='area'",
    },
    'evaluation': {'ours'},
    'all_cores': {'ours, threads', 'ours, workers'},
  }.items():
    variants = results[part]['variants']
    assert variants.keys() >= names | {'pil'}
    pil = variants['pil']['seconds_per_image']['per_round']
    for variant in variants.values():
      seconds = variant['seconds_per_image']['per_round']
      assert len(seconds) == 2
      assert variant['images_per_second'] == pytest.approx(
        1 / np.median(seconds)
      )
      assert variant['speedup']['per_round'] == [
        a / b for a, b in zip(pil, seconds)
      ]
  assert min(x['min'] for x in results['stages']['seconds_per_image'].values())
  speedup = results['per_core']['variants']['ours']['speedup']
  for median, verdict in ((1.5, 'met'), (1.49, 'missed')):
    speedup['median'] = median
    told = ' '.join(pipeline.describe(record))
    assert f'Target: 1.5 times PIL on one core: {verdict}' in told


def test_packages_that_change_pixels_are_refused(source, monkeypatch):
  pipeline.check_pixels(S, source)
  original = _resampling.usable, _jpeg.usable
  if not any(usable() for usable in original):
    pytest.skip('neither is installed')
  without = pipeline._without

  def broken(packages, function, *args):
    batch = without(packages, function, *args)
    return batch if packages else {**batch, 'image': batch['image'] ^ 1}

  monkeypatch.setattr(pipeline, '_without', broken)
  with pytest.raises(UsageError, match='the pixels differ'):
    pipeline.check_pixels(S, source)


def test_stages_have_the_names_of_what_did_the_work(source, monkeypatch):
  """Packages may be there, and not in use."""
  names = {'resize, Numba', 'decode, simplejpeg'}
  assert names <= pipeline.stages(source, 8).keys()
  monkeypatch.setattr(_resampling, '_checked_kernels', lambda _: None)
  monkeypatch.setattr(_jpeg, '_agrees', lambda _: False)
  assert not names & pipeline.stages(source, 8).keys()


@pytest.mark.parametrize('threads', [0, 2])
def test_pil(paths, threads):
  next_batch = peers.pil(paths, 5, 32, threads=threads)
  first, second = next_batch(), next_batch()
  assert first.shape == (5, 32, 32, 3)
  assert first.dtype == np.uint8
  assert (first != second).any()


def test_pil_of_evaluation_is_ours(paths):
  """What is compared does the same work."""
  batch = peers.pil_eval(paths, len(paths), 56)()
  transform = data.parse_transform('resize(64) | center_crop(56)')
  ours = [transform(np.asarray(Image.open(path))) for path in paths]
  assert {i.tobytes() for i in batch} == {i.tobytes() for i in ours}


def test_what_is_missing_is_named(paths):
  def fail():
    raise ModuleNotFoundError("No module named 'x'")

  pil = {'pil': peers.pil(paths, 2, 8)}
  result = pipeline.compared(S, pil, {'other': fail})
  assert result['missing'] == {'other': "No module named 'x'"}
  assert list(result['variants']) == ['pil']
