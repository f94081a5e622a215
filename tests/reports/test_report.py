import csv
import dataclasses
import json

import numpy as np
import pytest
from sklearn import metrics as sklearn_metrics

from maxsup_jax._errors import UsageError
from maxsup_jax.reports import archive, blocks, report, summary
from maxsup_jax.reports.measured import Measured, Options
from tests import browser

OPTIONS = Options(resamples=50, seeds=(0, 1))


@pytest.fixture(scope='module')
def written(two_models, tmp_path_factory):
  """A report of two models, the first with a training split."""
  first, second = two_models
  train = dataclasses.replace(first, labels=first.labels, path='train.npz')
  models = [Measured(first, train), Measured(second)]
  out = tmp_path_factory.mktemp('report')
  sections = report.build(models, OPTIONS)
  report.write(out, sections, models, OPTIONS, {'command': 'pytest'})
  return out, sections, models


@pytest.fixture(scope='module')
def results(written):
  return json.loads((written[0] / 'results.json').read_text())


def test_numbers_are_those_of_the_data(results, two_models):
  for m in two_models:
    numbers = results['sections']['summary'][m.name]
    correct = m.logits.argmax(1) == m.labels
    z = m.logits.astype(np.float64)
    p = np.exp(z - z.max(1, keepdims=True))
    p /= p.sum(1, keepdims=True)
    expected = {
      'error': 1 - correct.mean(),
      'nll': sklearn_metrics.log_loss(m.labels, p),
      'brier': np.square(p - np.eye(5)[m.labels]).sum(1).mean(),
      'auroc_f': sklearn_metrics.roc_auc_score(correct, p.max(1)),
    }
    for name, value in expected.items():
      assert numbers[name]['value'] == pytest.approx(value, rel=1e-9), name
      low, high = numbers[name]['interval']
      assert low < value < high
  difference = results['sections']['summary']['LS']['nll']
  first = results['sections']['summary']['CE']['nll']
  assert difference['difference'] == pytest.approx(
    difference['value'] - first['value']
  )
  assert 'difference' not in first


def test_differences_are_marked_where_zero_is_excluded(two_models):
  """A model with shuffled logits is worse in everything; itself in nothing."""
  first = two_models[0]
  shuffled = dataclasses.replace(
    first,
    name='shuffled',
    logits=np.random.default_rng(0).permutation(first.logits),
  )
  same = dataclasses.replace(first, name='same')
  models = [Measured(m) for m in (first, shuffled, same)]
  section = summary.section(models, OPTIONS)
  for name in ('error', 'nll', 'brier', 'aurc', 'auroc_f'):
    assert section.numbers['shuffled'][name]['excludes_zero'], name
    assert not section.numbers['same'][name]['excludes_zero']
    assert section.numbers['same'][name]['difference_interval'] == (0, 0)
  rows = {row[0]: row for row in section.blocks[-1].rows}
  assert rows['AUROC of failures'][2].mark == 'worse'
  assert rows['error'][2].details[-2].endswith('worse')
  better = summary.section([models[1], models[0]], OPTIONS)
  assert better.blocks[-1].rows[0][2].mark == 'better'


def test_everything_is_there(written):
  out, sections, _ = written
  names = {
    b.name for s in sections for b in s.blocks if isinstance(b, blocks.Figure)
  }
  assert names == {
    'reliability',
    'risk_coverage',
    'pnorm',
    'max_logit',
    'suppression',
    'logit_density',
    'template_plane',
    'mean_plane',
    'trajectories',
  }
  files = {p.name for p in out.iterdir()}
  assert {f'{n}.{suffix}' for n in names for suffix in ('svg', 'png')} < files
  assert {'report.html', 'results.json'} < files
  for name in names:
    assert (out / f'{name}.png').read_bytes().startswith(b'\x89PNG')


def test_curves_hold_what_is_drawn(written, two_models):
  with (written[0] / 'risk_coverage.csv').open() as file:
    rows = [r for r in csv.DictReader(file) if r['score'] == 'msp']
  for m in two_models:
    mine = [r for r in rows if r['model'] == m.name]
    assert len(mine) == m.num_examples
    assert float(mine[-1]['coverage']) == 1
    error = (m.logits.argmax(1) != m.labels).mean()
    assert float(mine[-1]['risk']) == pytest.approx(error)
  with (written[0] / 'reliability.csv').open() as file:
    rows = list(csv.DictReader(file))
  assert sum(int(r['count']) for r in rows) == 2 * 400
  # An empty bin has no accuracy: nothing is written, not NaN.
  assert all((r['accuracy'] == '') == (r['count'] == '0') for r in rows)
  with (written[0] / 'trajectories.csv').open() as file:
    rows = list(csv.DictReader(file))
  assert {r['split'] for r in rows} == {'train', 'test'}
  assert len(rows) == 2 * 6


def test_the_same_data_give_the_same_bytes(written, tmp_path):
  out, _, models = written
  again = report.build(models, OPTIONS)
  report.write(tmp_path, again, models, OPTIONS, {'command': 'pytest'})
  for path in out.iterdir():
    assert (tmp_path / path.name).read_bytes() == path.read_bytes(), path.name


def measured(name='m', **arrays):
  outputs = archive.Outputs(name=name, path=f'{name}.npz', **arrays)
  return Measured(outputs)


def random_logits(n=60, K=4, seed=0):
  return np.random.default_rng(seed).normal(size=(n, K))


EDGES = {
  'zero errors': lambda z: (z, z.argmax(1)),
  'all errors': lambda z: (z, (z.argmax(1) + 1) % 4),
  'one class only': lambda z: (z, np.zeros(len(z), int)),
  'constant score': lambda z: (np.zeros_like(z), np.arange(len(z)) % 4),
  'two examples': lambda z: (z[:2], np.array([0, 1])),
  'two classes': lambda z: (z[:, :2], np.arange(len(z)) % 2),
  'huge logits': lambda z: (1e4 * z, np.arange(len(z)) % 4),
}


@pytest.mark.parametrize('edge', EDGES)
def test_edges_have_a_page_without_nan(edge, tmp_path):
  logits, labels = EDGES[edge](random_logits())
  if edge == 'two classes':
    options = dataclasses.replace(OPTIONS, resamples=10)
  else:
    options = dataclasses.replace(OPTIONS, resamples=20)
  rng = np.random.default_rng(1)
  arrays = {
    'logits': logits,
    'labels': labels,
    'features': rng.normal(size=(len(labels), 6)),
    'weights': rng.normal(size=(logits.shape[1], 6)),
  }
  models = [measured('a', **arrays), measured('b', **arrays)]
  sections = report.build(models, options)
  page = report.write(tmp_path, sections, models, options, {}).read_text()
  text = (tmp_path / 'results.json').read_text()
  assert 'NaN' not in text
  assert 'nan' not in page.lower().replace('tenancy', '')
  json.loads(text)


def test_missing_arrays_are_named_on_the_page(tmp_path):
  z = random_logits()
  models = [measured('bare', logits=z, labels=np.arange(60) % 4)]
  sections = report.build(models, OPTIONS)
  page = report.write(tmp_path, sections, models, OPTIONS, {}).read_text()
  assert 'bare.npz has no features' in page
  assert 'bare.npz has no features and no weights' in page


def test_information_of_augmentations():
  """Two clouds of one point each keep the class: log 2."""
  rng = np.random.default_rng(0)
  labels = np.repeat([2, 0], 50)
  logits = np.zeros((100, 20, 4))
  logits[..., 2] = np.where(labels == 2, 5, -5)[:, None]
  logits += rng.normal(size=logits.shape) / 10
  m = measured(
    'm',
    logits=random_logits(),
    labels=np.arange(60) % 4,
    augmented_logits=logits,
    augmented_labels=labels,
  )
  (section,) = report.build([m], OPTIONS, ('information',))
  numbers = section.numbers['m']['test']
  assert numbers['cross_fitted'] < np.log(2) < numbers['in_sample']
  assert numbers['in_sample'] == pytest.approx(np.log(2), abs=0.05)
  assert numbers['augmentations'] == 20
  assert 'class 0 and class 2' in section.blocks[0].caption


def test_an_empty_class_is_named_on_the_page(tmp_path):
  z = random_logits()
  features = np.random.default_rng(1).normal(size=(60, 6))
  models = [
    measured('m', logits=z, labels=np.arange(60) % 3, features=features)
  ]
  sections = report.build(models, OPTIONS, ('representation',))
  page = report.write(tmp_path, sections, models, OPTIONS, {}).read_text()
  assert 'class 3' in page


def test_other_labels_are_not_paired(two_models):
  first, second = two_models
  moved = dataclasses.replace(second, labels=np.roll(second.labels, 1))
  section = summary.section([Measured(first), Measured(moved)], OPTIONS)
  assert 'no paired differences' in section.blocks[0].text
  assert 'difference' not in section.numbers['LS']['error']


def test_what_is_in_the_way_is_not_overwritten(tmp_path):
  out = tmp_path / 'out'
  report.check_out(out, overwrite=False)
  report.check_out(out, overwrite=False)
  (out / 'results.json').write_text('{}')
  with pytest.raises(UsageError, match='holds a report; choose another'):
    report.check_out(out, overwrite=False)
  report.check_out(out, overwrite=True)
  (out / 'results.json').unlink()
  (out / 'thesis.tex').write_text('precious')
  with pytest.raises(UsageError, match='is not empty and holds no report'):
    report.check_out(out, overwrite=True)
  with pytest.raises(UsageError, match='is a file'):
    report.check_out(out / 'thesis.tex', overwrite=True)


@pytest.mark.parametrize(
  ('change', 'message'),
  [
    ({'held_out': 1.0}, 'held_out is 1.0'),
    ({'seeds': ()}, 'seeds are'),
    ({'resamples': -1}, 'resamples is -1'),
    ({'level': 1.0}, 'level is 1.0'),
    ({'bins': 0}, 'bins is 0'),
    ({'classes': (0, 0, 1)}, 'expected three different ones'),
    ({'alpha': 0.0}, 'alpha is 0.0'),
  ],
)
def test_options_out_of_range(change, message):
  with pytest.raises(UsageError, match=message):
    Options(**change)


def test_names_are_escaped(tmp_path):
  z = random_logits()
  models = [
    measured('<script>alert(1)</script>&', logits=z, labels=np.arange(60) % 4)
  ]
  sections = report.build(models, OPTIONS, ('summary', 'calibration'))
  page = report.write(tmp_path, sections, models, OPTIONS, {}).read_text()
  assert '<script' not in page
  assert '&lt;script&gt;' in page


@pytest.mark.skipif(browser.CHROMIUM is None, reason='needs Chromium')
def test_in_a_browser(written):
  out, sections, _ = written
  with browser.opened(out / 'report.html', 1200, 900) as tab:
    images = tab.evaluate(
      'Promise.all([...document.images].map(i => i.decode().then('
      '() => [i.naturalWidth, i.clientWidth, i.alt.length])))'
    )
    figures = [
      b for s in sections for b in s.blocks if isinstance(b, blocks.Figure)
    ]
    assert len(images) == len(figures)
    for natural, shown, alt in images:
      assert natural > 100
      assert shown > 100
      assert alt > 50
    anchors = tab.evaluate(
      "[...document.querySelectorAll('nav a')].filter("
      'a => !document.getElementById(a.hash.slice(1))).length'
    )
    assert anchors == 0
    # On a phone nothing but the tables, in their boxes, is wider than it.
    tab.resize(360, 800)
    assert tab.evaluate('document.documentElement.scrollWidth') <= 360
    assert tab.pdf().startswith(b'%PDF')
    assert tab.messages == []
    assert tab.requests == []
