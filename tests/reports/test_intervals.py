"""Every interval of the summary covers the truth as often as it says."""

import dataclasses

import numpy as np
import pytest

from maxsup_jax.diagnostics import bootstrap
from maxsup_jax.outputs import Outputs
from maxsup_jax.reports import summary
from maxsup_jax.reports.measured import Measured, Options

K = 5


def measured(logits, labels, name='m'):
  return Measured(Outputs(name, name, logits, labels))


def draw(rng, n, margin, scales=(1.0, 1.0)):
  """Two models of the same examples, calibrated where their scale is 1."""
  y = rng.integers(0, K, n)
  a, b = rng.normal(size=(2, n, K))
  a[np.arange(n), y] += margin
  b = 0.7 * a + np.sqrt(0.51) * b
  b[np.arange(n), y] += 0.3 * margin
  return scales[0] * margin * a, scales[1] * margin * b, y


def sections(seed, count, n, margin, scales, resamples):
  rng = np.random.default_rng(seed)
  for _ in range(count):
    a, b, y = draw(rng, n, margin, scales)
    seeds = (int(rng.integers(1 << 30)),)
    models = [measured(a, y), measured(b, y, 'b')]
    yield summary.section(models, Options(resamples=resamples, seeds=seeds))


def coverage(count, n, margin, scales, resamples):
  """By statistic: the share of intervals with the truth, of all printed."""
  a, b, y = draw(np.random.default_rng(0), 200_000, margin, scales)
  truth = [summary._values(measured(z, y), Options()) for z in (a, b)]
  hit, hit_difference = {}, {}
  for section in sections(1, count, n, margin, scales, resamples):
    for name, record in section.numbers['b'].items():
      if 'interval' in record:
        low, high = record['interval']
        hit.setdefault(name, []).append(low <= truth[1][name] <= high)
      if 'interval' in record and 'difference_interval' in record:
        low, high = record['difference_interval']
        true = truth[1][name] - truth[0][name]
        hit_difference.setdefault(name, []).append(low <= true <= high)
  return hit, hit_difference


@pytest.mark.slow
def test_printed_intervals_cover_the_truth():
  pooled = ({}, {})
  for n, margin, scales in (
    (300, 2.0, (1.0, 1.5)),
    (500, 3.0, (1.0, 1.0)),
    (1000, 3.5, (0.6, 1.5)),
    (2000, 2.0, (1.5, 0.5)),
  ):
    for kind, found in zip(pooled, coverage(200, n, margin, scales, 300)):
      for name, hits in found.items():
        kind.setdefault(name, []).extend(hits)
        # A standard deviation of 200 intervals is 0.015.
        assert len(hits) < 100 or np.mean(hits) >= 0.88, (n, name)
  for kind in pooled:
    assert len(kind) == len(summary.STATISTICS) - 1
    for name, hits in kind.items():
      # Nominal 0.95, for each of 11 statistics.
      print(f'{name:18} {len(hits):4} {np.mean(hits):.3f}')
      assert np.mean(hits) >= 0.91, name


def test_printed_intervals_of_few_examples():
  hit, difference = coverage(40, 300, 2.0, (1.0, 1.5), 100)
  assert 'ece' not in hit
  for kind in (hit, difference):
    assert len(kind) == len(summary.STATISTICS) - 1
    # 40 intervals: two standard deviations below 0.93.
    assert min(map(np.mean, kind.values())) > 0.84


def test_calibrated_models_are_not_told_apart():
  """A sure model and an unsure one: chance alone gives them unequal ECEs."""
  rng, marked, n = np.random.default_rng(0), 0, 300
  for seed in range(40):
    y = rng.integers(0, K, n)
    models = []
    for margin in (5.0, 1.5):
      x = rng.normal(size=(n, K))
      x[np.arange(n), y] += margin
      models.append(measured(margin * x, y, f'{margin}'))
    options = Options(resamples=100, seeds=(seed,))
    numbers = summary.section(models, options).numbers
    marked += numbers['1.5']['ece']['excludes_zero']
    assert numbers['1.5']['ece']['value'] > numbers['5.0']['ece']['value']
  # 5% of 40 are 2.
  assert marked <= 3


def test_the_ece_of_a_model_that_is_off_is_marked():
  for section in sections(3, 5, 1500, 2.0, (1.0, 2.0), 100):
    record = section.numbers['b']['ece']
    assert record['excludes_zero']
    assert record['value'] > record['calibrated_range'][1]
    (row,) = [r for r in section.blocks[-1].rows if r[0] == 'ECE']
    assert row[2].mark == 'worse'
    assert 'if calibrated' in row[2].details[0]
    assert row[2].details[1].endswith('points worse')


def test_few_errors_have_no_interval():
  rng = np.random.default_rng(0)
  z, y = 8 * np.eye(K)[np.arange(300) % K], np.arange(300) % K
  few = y.copy()
  few[:4] = (few[:4] + 1) % K
  z += rng.normal(size=z.shape) / 10
  worse = measured(np.roll(z, 1, 1) * (y < 1)[:, None] + z, y, 'b')
  section = summary.section([measured(z, few), worse], Options(resamples=50))
  for name, record in section.numbers['m'].items():
    assert 'interval' not in record, name
  for record in section.numbers['b'].values():
    assert 'difference_interval' not in record or 'calibrated_range' in record


def test_four_examples_are_no_difference_in_error():
  """All four on which two models differ: McNemar's exact p is 1/8."""
  rng = np.random.default_rng(0)
  y = np.arange(400) % K
  z = np.eye(K)[y] + rng.normal(size=(400, K)) / 10
  wrong, more = y.copy(), z.copy()
  wrong[:40] = (y[:40] + 1) % K
  more[50:54] = np.roll(z[50:54], 1, 1)
  models = [measured(z, wrong), measured(more, wrong, 'b')]
  options = Options(resamples=200)
  record = summary.section(models, options).numbers['b']['error']
  samples = [summary._statistics(m, options)['error'] for m in models]
  drawn = bootstrap.bootstrap(
    dict(zip('ab', samples)), 400, resamples=200, seed=0
  )
  assert bootstrap.paired_interval(drawn['b'], drawn['a']).low > 0
  assert not record['excludes_zero']


def grouped(rng, count, size):
  """Two models of images: some are harder, and errors of one are alike."""
  n = count * size
  y, groups = rng.integers(0, K, n), np.repeat(np.arange(count), size)
  a, b = rng.normal(size=(2, n, K))
  a = 0.7 * a + 0.7 * rng.normal(size=(count, K))[groups]
  margin = rng.uniform(0.5, 3.5, count)[groups]
  a[np.arange(n), y] += margin
  b = 0.7 * a + np.sqrt(0.51) * b
  b[np.arange(n), y] += 0.3 * margin
  return [
    Measured(Outputs(name, name, z, y, groups=groups))
    for name, z in (('a', 2 * a), ('b', 2.5 * b))
  ]


@pytest.mark.slow
def test_intervals_of_groups_cover_the_truth():
  models = grouped(np.random.default_rng(0), 20_000, 25)
  truth = [summary._values(m, Options()) for m in models]
  rng, hit, difference = np.random.default_rng(1), {}, {}
  for seed in range(200):
    section = summary.section(
      grouped(rng, 50, 25), Options(resamples=200, seeds=(seed,))
    )
    for name, record in section.numbers['b'].items():
      if name != 'ece':
        low, high = record['interval']
        hit.setdefault(name, []).append(low <= truth[1][name] <= high)
        low, high = record['difference_interval']
        true = truth[1][name] - truth[0][name]
        difference.setdefault(name, []).append(low <= true <= high)
  for kind in (hit, difference):
    assert len(kind) == len(summary.STATISTICS) - 1
    for name, hits in kind.items():
      assert np.mean(hits) >= 0.87, name
    assert np.mean(list(kind.values())) >= 0.91


def test_groups_widen_intervals_and_few_have_none():
  models = grouped(np.random.default_rng(0), 50, 20)
  alone = [dataclasses.replace(m.outputs, groups=None) for m in models]
  options = Options(resamples=100)
  of_groups = summary.section(models, options)
  of_examples = summary.section([Measured(o) for o in alone], options)
  for name in ('error', 'nll'):
    wide, narrow = (
      np.diff(s.numbers['b'][name]['interval'])
      for s in (of_groups, of_examples)
    )
    assert wide > 1.5 * narrow
  few = summary.section(grouped(np.random.default_rng(0), 49, 20), options)
  assert 'interval' not in few.numbers['b']['nll']
  caption = of_groups.blocks[-1].caption
  assert '1,000 examples in 50 groups' in caption
  assert 'draw whole groups' in caption
