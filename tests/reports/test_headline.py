"""What the first sentences say is so, as often as they say."""

import dataclasses
import json

import numpy as np
import pytest
from scipy import stats

from maxsup_jax.diagnostics import bootstrap, calibration
from maxsup_jax.errors import UsageError
from maxsup_jax.outputs import Outputs
from maxsup_jax.reports import (
  blocks,
  compared,
  headline,
  measured,
  report,
  summary,
)
from maxsup_jax.reports.directory import Directory
from maxsup_jax.reports.measured import KIND, Measured, Options
from tests.reports.test_intervals import draw

OPTIONS = Options(resamples=200, seeds=(0,))


def model(name, logits, labels, **metadata):
  return Measured(Outputs(name, name, logits, labels, metadata=metadata))


def drawn(seed=0, n=600, K=4, margin=2.0):
  rng = np.random.default_rng(seed)
  y = np.arange(n) % K
  return rng.normal(size=(n, K)) + margin * np.eye(K)[y], y


def seeds_of(name, margin, count=4, start=0):
  return [
    model(f'{name}-{s}', *drawn(start + s, margin=margin), group=name, seed=s)
    for s in range(count)
  ]


def test_the_best_is_named_where_every_difference_is_resolved():
  z, y = drawn()
  worse = np.where(np.arange(600)[:, None] % 5 == 0, np.roll(z, 1, 1), z)
  models = [model('a', worse, y), model('b', z, y), model('c', worse[:, :], y)]
  lead = {c['criterion']: c for c in summary.section(models, OPTIONS).lead}
  error = lead['error']
  assert error['best'] == 'b'
  # The interval at 97.5%, as there are two comparisons: drawn here again.
  wrong = {n: x.argmax(1) != y for n, x in (('a', worse), ('b', z))}
  weights = np.stack(list(bootstrap.resamples(600, 200, 0)))
  gaps = weights @ (wrong['a'] * 1.0 - wrong['b']) / 600
  expected = np.quantile(gaps, [0.0125, 0.9875])
  found = error['differences']['a']
  np.testing.assert_allclose(found['interval'], expected)
  assert found['resolved']
  assert found['difference'] == pytest.approx(gaps.mean(), abs=0.01)
  v, low, high = map(blocks.percent, (error['value'], *error['interval']))
  assert error['sentence'].startswith(
    f'b makes the fewest errors: error {v} [{low}, {high}], less than a by '
  )
  assert error['sentence'].endswith('; 600 examples show it.')
  # Equal models are not told apart; and without resamples nothing is said.
  same = [model(n, z, y) for n in 'de']
  for claim in summary.section(same, OPTIONS).lead:
    assert 'do not resolve the difference to e' in claim['sentence']
  assert not summary.section(same, Options(resamples=0)).lead


def test_calibration_after_a_temperature():
  """A model that is off by a factor alone is the best after a temperature."""
  z, y = drawn(n=3000)
  rng = np.random.default_rng(1)
  # No temperature suits both halves.
  mixed = z * np.where(np.arange(3000) % 2, 6.0, 1.2)[:, None]
  models = [
    model('scaled', 20 * z, y),
    model('mixed', mixed + rng.normal(size=z.shape) / 100, y),
  ]
  section = summary.section(models, OPTIONS)
  lead = {c['criterion']: c for c in section.lead}
  assert lead['calibration']['best'] == 'mixed'
  after = lead['calibration_after_temperature']
  assert after['best'] == 'scaled'
  assert after['differences']['mixed']['resolved']
  (fit, rest), *_ = measured.splits(3000, OPTIONS)
  T = calibration.fit_temperature(20 * z[fit], y[fit]).temperature
  per = calibration.per_example(20 * z[rest] / T, y[rest])
  curve = calibration.reliability_curve(per.confidence, per.correct)
  assert after['value'] == pytest.approx(
    calibration.debiased_squared_error(curve)
  )


def test_seeds_share_a_column_and_are_compared_in_pairs(tmp_path):
  models = [*seeds_of('CE', 1.5), *seeds_of('LS', 2.2)[::-1]]
  sections = report.build(models, OPTIONS, ('summary', 'calibration'))
  out = Directory(tmp_path, KIND)
  text = report.Report(sections, models, OPTIONS).write(out).read_text()
  results = json.loads((tmp_path / 'results.json').read_text())
  for section in sections:
    for block in section.blocks:
      if isinstance(block, blocks.Table):
        assert list(block.columns[1:]) == ['CE', 'LS'], block.title
      if isinstance(block, blocks.Figure) and block.name == 'reliability':
        assert len(block.figure.axes) == 2
  errors = [
    np.array([(m.errors).mean() for m in part])
    for part in (models[:4], models[:3:-1])
  ]
  record = results['methods']['summary']['LS']['error']
  test = stats.ttest_rel(errors[1], errors[0])
  expected = test.confidence_interval(0.95)
  assert record['mean'] == pytest.approx(errors[1].mean())
  assert record['std'] == pytest.approx(errors[1].std(ddof=1))
  np.testing.assert_allclose(record['difference_interval'], expected)
  assert record['excludes_zero'] == (test.pvalue < 0.05)
  claim = results['headline'][0]
  np.testing.assert_allclose(
    claim['differences']['CE']['interval'], [-expected[1], -expected[0]]
  )
  own = stats.t.interval(0.95, 3, errors[1].mean(), stats.sem(errors[1]))
  np.testing.assert_allclose(claim['interval'], own)
  assert claim['sentence'] in text
  assert '4 seeds of training show it' in claim['sentence']
  assert blocks.percent(record['mean']) in text


def test_groups_are_those_of_the_files_or_given(tmp_path):
  paths = []
  for i, meta in enumerate(({'group': 'x'}, {}, {'group': 'x'})):
    z, y = drawn(i, n=20)
    paths.append(tmp_path / f'{i}.npz')
    np.savez(paths[-1], logits=z, labels=y, metadata=json.dumps(meta))

  def methods(**given):
    models = map(Measured, compared.read_all(paths, **given))
    return {k: len(v) for k, v in measured.methods(list(models)).items()}

  assert methods() == {'x': 2, '1': 1}
  assert methods(groups=['a', 'b', 'b']) == {'a': 1, 'b': 2}
  with pytest.raises(UsageError, match='group has 1 groups for 3 models'):
    methods(groups=['a'])
  with pytest.raises(
    UsageError, match=r'x is the name of .*1\.npz and a group'
  ):
    methods(names=['a', 'x', 'b'])
  # Without seeds the order pairs them; the page says so.
  models = [*seeds_of('a', 2, 2), *seeds_of('b', 2, 2, start=5)]
  bare = [
    Measured(dataclasses.replace(m.outputs, metadata={'group': m.name[0]}))
    for m in models
  ]
  for these, words in (
    (models, 'equal seeds'),
    (bare, 'order they were given'),
  ):
    section = summary.section(these, Options(resamples=0))
    assert words in section.blocks[0].text


def simulate(count, n, models, resamples):
  """By criterion, how often equally good models were told apart."""
  rng, false = np.random.default_rng(2), {}
  for seed in range(count):
    x = rng.normal(size=(models, n, 4))
    y = np.arange(n) % 4
    x[:, np.arange(n), y] += 2
    of = [model(str(i), 2 * z, y) for i, z in enumerate(x)]
    options = Options(resamples=resamples, seeds=(seed,))
    for claim in summary.section(of, options).lead:
      resolved = all(d['resolved'] for d in claim['differences'].values())
      false.setdefault(claim['criterion'], []).append(resolved)
  return {k: np.mean(v) for k, v in false.items()}


@pytest.mark.slow
def test_equal_models_are_rarely_told_apart():
  for models in (2, 3):
    found = simulate(120, 500, models, 200)
    assert set(found) == set(headline.CRITERIA)
    # Nominal at most 5%, of 120: two standard deviations are 4%.
    assert max(found.values()) <= 0.09, found


@pytest.mark.slow
def test_intervals_of_the_calibration_error_cover_the_truth():
  for n, margin, scales in ((300, 2.0, (1.0, 1.5)), (1000, 3.5, (0.6, 1.5))):
    bare = Options(resamples=0)

    def squares(rng, n, options, of=(margin, scales)):
      a, b, y = draw(rng, n, *of)
      return [
        headline.squared(calibration.per_example(z, y), options, None)
        for z in (a, b)
      ]

    truth = [s.value for s in squares(np.random.default_rng(0), 200_000, bare)]
    rng, hits = np.random.default_rng(1), []
    for seed in range(100):
      options = Options(resamples=200, seeds=(seed,))
      found = headline.compare_squared(
        squares(rng, n, options), options, [True, True]
      )
      for i in (0, 1):
        low, high = found.interval(i)
        hits.append(low <= truth[i] <= high)
    assert np.mean(hits) >= 0.91, n
