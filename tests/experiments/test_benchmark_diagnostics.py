import json

import jax.numpy as jnp
import numpy as np
import pytest

from experiments import _benchmark_diagnostics as suite
from maxsup_jax.diagnostics import neural_collapse
from maxsup_jax.errors import UsageError

TINY = suite.Settings(
  examples=60, classes=4, features=6, batch_size=8, resamples=3, rounds=2
)


@pytest.fixture(scope='module')
def record():
  measured = suite.measure(TINY)
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


def test_everything_is_timed_in_every_round(record):
  seconds = record['results']['seconds']
  assert set(seconds) == {
    'exponentials',
    'calibration',
    'selective',
    'bootstrap',
    'first pass update',
    'second pass update',
    'second pass products',
  }
  for times in seconds.values():
    assert len(times['per_round']) == 2
    assert min(times['per_round']) > 0


def test_the_ratio_is_that_of_the_same_round(record):
  seconds = record['results']['seconds']
  ratio = record['results']['ratios']['second pass update']['per_round']
  for i in range(2):
    update = seconds['second pass update']['per_round'][i]
    products = seconds['second pass products']['per_round'][i]
    assert ratio[i] == pytest.approx(update / products)


def test_the_text_says_times_and_targets(record):
  record['results']['seconds']['calibration']['median'] = 1.25
  record['results']['seconds']['selective']['median'] = 2.5
  text = suite.describe(record)
  assert 'Both tables: 3.75 s; target 10 s' in text
  assert '3 resamples of AURC' in text
  assert '60 x 4' in text


def test_the_products_are_those_of_the_second_pass():
  """What is timed beside it gives the distances that it sums up."""
  rng = np.random.default_rng(0)
  features = rng.normal(size=(8, 6)).astype(np.float32)
  labels = np.arange(8) % 4
  means = neural_collapse.ClassMeans.init(4, 6).update(features, labels)
  between = means.compute()
  centered = features - between.global_mean
  inside = jnp.matmul(centered, between.basis)
  products = np.asarray(jnp.matmul(inside, between.coordinates.T))
  expected = centered @ (between.means - between.global_mean).T
  np.testing.assert_allclose(products, expected, atol=1e-5)


@pytest.mark.parametrize(
  ('shapes', 'message'),
  [
    (['8by16'], '--shapes=8by16: expected one'),
    (['100x10', '100x20'], 'expected one'),
    (['100x2'], '--shapes=100x2: expected at least 10x3'),
  ],
)
def test_shapes_that_cannot_be_measured(shapes, message):
  with pytest.raises(UsageError, match=message):
    suite.choose_settings(
      shapes=shapes,
      features=None,
      batch_size=None,
      resamples=None,
      rounds=None,
    )


def test_fewer_rows_than_classes():
  with pytest.raises(UsageError, match='--batch_size=8: expected at least 16'):
    suite.measure(
      suite.choose_settings(
        shapes=['20x16'], features=4, batch_size=8, resamples=1, rounds=2
      )
    )
