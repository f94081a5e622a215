import io
import json
import os

import numpy as np
import pytest
from PIL import Image

from experiments import _benchmark_photos as photos
from experiments import _benchmark_pipeline_peers as peers
from experiments import _benchmark_pipeline_report as report
from experiments import _benchmark_pipeline_stages as stages
from experiments import _benchmark_pipeline_suite as suite
from maxsup_jax import data
from maxsup_jax.data import _jpeg, _resampling
from maxsup_jax.errors import UsageError

TINY = suite.Settings(
  image_size=32, batch_size=4, photos=8, rounds=2, steps_per_round=1
)


@pytest.fixture(scope='module')
def files():
  return photos.make_photos(8)


@pytest.fixture(scope='module')
def record():
  # Worker processes take seconds to start, and are tested elsewhere.
  with pytest.MonkeyPatch.context() as patch:
    ours = suite._ours
    patch.setattr(suite, '_ours', lambda *a, workers=0, **k: ours(*a, **k))
    before = os.sched_getaffinity(0)
    measured = suite.measure(TINY)
    assert os.sched_getaffinity(0) == before
  return json.loads(json.dumps(measured)) | {
    'hardware': {
      'device_count': 1,
      'device_kind': 'cpu',
      'process_count': 1,
      'host_cpu': None,
      'host_cpu_count': 2,
      'host_load': 0.5,
    },
    'versions': {'jax': '0'},
    'git_commit': None,
    'time': 'now',
  }


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
      'pil',
      'ours',
      'ours, without simplejpeg',
      'ours, without numba',
      'ours, without either',
      "ours, interpolation='area'",
    },
    'evaluation': {'pil', 'ours'},
    'all_cores': {'pil', 'ours, threads', 'ours, workers'},
  }.items():
    variants = results[part]['variants']
    assert variants.keys() >= names
    for variant in variants.values():
      seconds = variant['seconds_per_image']['per_round']
      assert len(seconds) == 2
      assert min(seconds) > 0
      assert variant['images_per_second'] == pytest.approx(
        1 / np.median(seconds)
      )
  assert results['same_pixels'] is True
  assert list(record['settings']['installed']) == [
    *('simplejpeg', 'numba', 'tensorflow', 'torchvision')
  ]


def test_the_speedup_is_that_of_the_same_round(record):
  variants = record['results']['per_core']['variants']
  for i in range(2):
    pil, ours = (
      variants[name]['seconds_per_image']['per_round'][i]
      for name in ('pil', 'ours')
    )
    speedup = variants['ours']['speedup']['per_round'][i]
    assert speedup == pytest.approx(pil / ours)


def test_the_text(record):
  speedup = record['results']['per_core']['variants']['ours']['speedup']
  for median, verdict in ((1.5, 'met, 1.50'), (1.49, 'missed, 1.49')):
    speedup['median'] = median
    text = report.describe(record)
    assert f'Target: 1.5 times PIL on one core: {verdict}' in text
  assert all(len(line) <= 80 for line in text.splitlines())
  whole = record['results']['per_core']['variants']['ours']
  for seconds, there in ((1.0, True), (1e-9, False)):
    whole['seconds_per_image']['median'] = seconds
    text = report.describe(record)
    assert ('all of the rest' in text) == there
  assert 'other ways:' in text
  record['results']['same_pixels'] = False
  assert 'The pixels ARE NOT the same' in report.describe(record)


def test_stages_have_the_names_of_what_did_the_work(
  files, tmp_path, monkeypatch
):
  """Packages may be there, and not in use."""
  source = data.open_source(photos.write_dataset(files[:2], tmp_path), 'train')
  assert {'resize, Numba', 'decode, simplejpeg'} <= stages.stages(
    source, 8
  ).keys()
  monkeypatch.setattr(_resampling, '_checked_kernels', lambda: None)
  monkeypatch.setattr(_jpeg, '_agrees', lambda: False)
  names = stages.stages(source, 8).keys()
  assert not [n for n in names if 'Numba' in n or 'simplejpeg' in n]


def test_stages_pass_all_files(monkeypatch):
  passed = []
  monkeypatch.setattr(stages, 'stages', lambda *_: {'stage': passed.append})
  stages.measure(range(20), 8, rounds=3, count=8, say=lambda _: None)
  assert passed == [i % 20 for i in range(len(passed))]
  assert len(passed) >= 24


@pytest.mark.parametrize(
  ('flag', 'message'),
  [
    ({'image_size': 100_000}, '--image_size=100000: expected at most 1024'),
    ({'batch_size': 385}, '--batch_size=385: expected at most 384'),
  ],
)
def test_what_is_too_much_is_refused_at_once(flag, message):
  with pytest.raises(UsageError, match=message):
    suite.choose_settings(**flag, rounds=None)


class TestPeers:
  @pytest.fixture
  def paths(self, files, tmp_path):
    return photos.write_files(files, tmp_path / 'files')

  @pytest.mark.parametrize('threads', [0, 2])
  def test_pil(self, paths, threads):
    next_batch = peers.pil(paths, 5, 32, threads=threads)
    first, second = next_batch(), next_batch()
    assert first.shape == (5, 32, 32, 3)
    assert first.dtype == np.uint8
    assert (first != second).any()

  def test_pil_of_evaluation_is_ours(self, paths):
    """What is compared does the same work."""
    from maxsup_jax.data import parse_transform

    batch = peers.pil_eval(paths, len(paths), 56)()
    transform = parse_transform('resize(64) | center_crop(56)')
    ours = [transform(np.asarray(Image.open(path))) for path in paths]
    assert {i.tobytes() for i in batch} == {i.tobytes() for i in ours}

  def test_what_is_missing_is_named(self, paths):
    def fail():
      raise ModuleNotFoundError("No module named 'x'")

    pil = {'pil': peers.pil(paths, 2, 8)}
    result = suite._compared(TINY, pil, {'other': fail})
    assert result['missing'] == {'other': "No module named 'x'"}
    assert list(result['variants']) == ['pil']
