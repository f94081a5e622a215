import csv
import dataclasses
import html
import json
import re

import numpy as np
import pytest
from scipy import stats
from sklearn import metrics as sklearn_metrics

from maxsup_jax.diagnostics import calibration, selective
from maxsup_jax.errors import UsageError
from maxsup_jax.outputs import Outputs
from maxsup_jax.reports import blocks, report, summary
from maxsup_jax.reports.directory import Directory
from maxsup_jax.reports.measured import KIND, Measured, Options

OPTIONS = Options(resamples=50, seeds=(0, 1))


@pytest.fixture(scope='module')
def written(two_models, tmp_path_factory):
  """A report of two models, the first with a training split."""
  first, second = two_models
  train = dataclasses.replace(first, labels=first.labels, path='train.npz')
  models = [Measured(first, train), Measured(second)]
  out = tmp_path_factory.mktemp('report')
  sections = report.build(models, OPTIONS)
  made = report.Report(sections, models, OPTIONS, {'command': 'x'})
  made.write(Directory(out, KIND))
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
    *('reliability', 'risk_coverage', 'pnorm', 'max_logit', 'suppression'),
    *('logit_density', 'template_plane', 'mean_plane', 'trajectories'),
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


def test_long_curves_are_thinned_unless_asked():
  z, y = random_logits(n=3000), np.arange(3000) % 4
  for full, rows in ((False, 400), (True, 3000)):
    options = dataclasses.replace(OPTIONS, full_curves=full)
    (section,) = report.build(
      [measured(logits=z, labels=y)], options, ('selective',)
    )
    columns = section.curves['risk_coverage']
    of = [s == 'msp' for s in columns['score']]
    coverage = np.array(columns['coverage'])[of]
    assert rows / 2 < len(coverage) <= rows
    assert coverage[[0, -1]].tolist() == [1 / 3000, 1]
    assert np.diff(coverage).max() < 0.006


def test_the_same_data_give_the_same_bytes(written, tmp_path):
  out, _, models = written
  again = report.build(models, OPTIONS, ('selective', 'projection'))
  report.Report(again, models, OPTIONS).write(Directory(tmp_path, KIND))
  drawn = [p for p in tmp_path.iterdir() if p.suffix in ('.svg', '.csv')]
  assert len(drawn) == 7
  for path in drawn:
    assert (out / path.name).read_bytes() == path.read_bytes(), path.name


def measured(name='m', **arrays):
  outputs = Outputs(name=name, path=f'{name}.npz', **arrays)
  return Measured(outputs)


def random_logits(n=60, K=4, seed=0):
  return np.random.default_rng(seed).normal(size=(n, K))


def text_of_page(path, sections, models, options=OPTIONS):
  """Writes the report, and gives what the page says without its figures."""
  out = Directory(path, KIND)
  page = report.Report(sections, models, options).write(out).read_text()
  return re.sub(r'<(style|svg).*?</\1>', '', page, flags=re.S)


def test_edges_have_a_page_without_nan(tmp_path):
  z, labels = random_logits(), np.arange(60) % 4
  edges = {
    'zero errors': (z, z.argmax(1)),
    'all errors': (z, (z.argmax(1) + 1) % 4),
    'one class only': (z, np.zeros(len(z), int)),
    'constant score': (np.zeros_like(z), labels),
    'two examples': (z[:2], np.array([0, 1])),
    'huge logits': (1e4 * z, labels),
    'masked class': (
      np.where(np.arange(4) == 3, -np.inf, z),
      np.arange(60) % 3,
    ),
  }
  two = {'two classes': (z[:, :2], np.arange(len(z)) % 2)}
  rng = np.random.default_rng(1)
  for name, cases in (('many', edges), ('two', two)):
    models = [
      measured(
        edge,
        logits=logits,
        labels=labels,
        features=rng.normal(size=(len(labels), 6)),
        weights=rng.normal(size=(logits.shape[1], 6)),
      )
      for edge, (logits, labels) in cases.items()
    ]
    sections = report.build(models, Options(resamples=40, seeds=(0,)))
    page = text_of_page(tmp_path / name, sections, models)
    # The note on a masked class says why it has no density.
    page = page.replace('is -inf; expected', '')
    assert not re.search(r'\b(nan|NaN|inf|None)\b', page)
    results = (tmp_path / name / 'results.json').read_text()
    assert 'NaN' not in results
    assert 'Infinity' not in results


def test_what_is_missing_is_named_on_the_page(tmp_path):
  z, labels = random_logits(), np.arange(60) % 4
  features = random_logits(seed=1)
  models = [
    measured('bare', logits=z, labels=labels),
    measured('m', logits=z, labels=np.arange(60) % 3, features=features),
  ]
  sections = report.build(models, OPTIONS, ('representation', 'projection'))
  page = text_of_page(tmp_path, sections, models)
  assert 'bare.npz has no features' in page
  assert 'bare.npz has no features and no weights' in page
  assert 'class 3' in page
  zero = random_logits(seed=1)
  zero[7] = 0
  m = measured('z', logits=z, labels=np.arange(60) % 4, features=zero)
  (section,) = report.build([m], OPTIONS, ('representation',))
  assert 0 < section.numbers['z']['test']['r_squared'] < 1
  assert any(
    '1 of 60 examples are all 0' in b.text
    for b in section.blocks
    if isinstance(b, blocks.Note)
  )
  # A network that predicts a single class has neural collapse.
  z[:, 2] += 100
  m = measured('one', logits=z, labels=labels, features=features)
  (section,) = report.build([m], OPTIONS, ('representation',))
  numbers = section.numbers['one']['test']
  assert numbers['nc1'] > 0
  assert numbers['nc1_correct'] is numbers['nc1_wrong'] is None


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


def test_other_labels_are_not_paired(two_models):
  first, second = two_models
  moved = dataclasses.replace(second, labels=np.roll(second.labels, 1))
  section = summary.section([Measured(first), Measured(moved)], OPTIONS)
  assert 'no paired differences' in section.blocks[0].text
  assert 'difference' not in section.numbers['LS']['error']


def test_options_out_of_range():
  for change, message in (
    ({'held_out': 1.0}, 'held_out is 1.0'),
    ({'seeds': ()}, 'seeds are'),
    ({'seeds': (1, 1)}, 'expected different numbers'),
    ({'level': 1.0}, 'level is 1.0'),
    ({'bins': 0}, 'bins is 0'),
    ({'classes': (0, 0, 1)}, 'expected three different ones'),
    ({'resamples': 39}, 'resamples is 39; expected 0, or at least 40'),
    ({'resamples': 19, 'level': 0.9}, 'expected 0, or at least 20'),
  ):
    with pytest.raises(UsageError, match=message):
      Options(**change)


def test_undefined_resamples_are_told_and_not_marked():
  """Where the surest prediction is drawn and wrong, no risk is below 5%."""
  z, y = random_logits(n=200), np.arange(200) % 4
  wrong = (y + 1) % 4
  z += 6 * np.eye(4)[np.where(np.arange(200) < 100, y, wrong)]
  z[150] = 50 * np.eye(4)[wrong[150]]
  good = z.copy()
  good[150] = 0
  models = [
    measured('a', logits=good, labels=y),
    measured('b', logits=z, labels=y),
  ]
  section = summary.section(models, OPTIONS)
  record = section.numbers['b']['coverage_at_risk']
  assert record['undefined_share'] > 0.3
  assert not record['excludes_zero']
  (row,) = [r for r in section.blocks[-1].rows if r[0].startswith('coverage')]
  assert any('undefined in' in d for d in row[2].details)
  assert row[2].mark == ''


def test_weights_of_another_layer_are_told(two_models):
  first = dataclasses.replace(two_models[0], head_error=3.0)
  sections = report.build(
    [Measured(first)], OPTIONS, ('representation', 'projection')
  )
  notes = [
    b.text for s in sections for b in s.blocks if isinstance(b, blocks.Note)
  ]
  assert any('are the weights transposed?' in n for n in notes)
  assert any('do not give its logits' in n for n in notes)
  assert 'not_available' in sections[1].numbers['CE']['template_plane']


def test_a_report_shows_itself_in_a_notebook(two_models, tmp_path):
  """One call from arrays to what the program writes."""
  arrays = {m.name: (m.logits, m.labels) for m in two_models}
  sections = ('summary',)
  made = report.report(arrays, sections=sections, resamples=50, seeds=(0,))
  shown = made._repr_html_()
  frame = re.fullmatch(r'<iframe srcdoc="([^"]*)" [^<>]*></iframe>', shown)
  assert html.unescape(frame[1]) == made.html
  path = made.save(tmp_path / 'out')
  assert path.read_text() == made.html
  written = json.loads((tmp_path / 'out' / 'results.json').read_text())
  assert written['sections'] == made.results['sections']
  options = Options(resamples=50, seeds=(0,))
  section = summary.section([Measured(m) for m in two_models], options)
  error = made.results['sections']['summary']['LS']['error']
  assert error['interval'] == list(section.numbers['LS']['error']['interval'])
  with pytest.raises(UsageError, match='has a report'):
    made.save(tmp_path / 'out')
  with pytest.raises(UsageError, match='models is empty'):
    report.report({})


def test_examples_of_no_class(tmp_path, two_models):
  """Against scikit-learn, with ties, in files without labels."""
  m = two_models[0]
  rng = np.random.default_rng(0)
  foreign = rng.integers(-2, 3, (300, 5)).astype(np.float32)
  own = np.round(m.logits)
  np.save(tmp_path / 'foreign.npy', foreign)
  made = report.report(
    {'CE': (own, m.labels)},
    ood=[tmp_path / 'foreign.npy'],
    sections=['ood'],
    resamples=0,
  )
  found = made.results['sections']['ood']['CE']
  inside, outside = (selective.scores(z) for z in (own, foreign))
  for name, of in inside.items():
    y = np.repeat([1, 0], [len(own), 300])
    x = np.concatenate([of, outside[name]])
    auroc = sklearn_metrics.roc_auc_score(y, x)
    false, true, _ = sklearn_metrics.roc_curve(y, x, drop_intermediate=False)
    assert found[name]['auroc'] == pytest.approx(auroc)
    assert found[name]['fpr95'] == pytest.approx(false[true >= 0.95][0])
  assert blocks.percent(found['msp']['fpr95']) in made.html
  with pytest.raises(UsageError, match='ood has 2 files; expected 1'):
    report.report({'CE': (own, m.labels)}, ood=['a.npy', 'b.npy'])


def test_single_classes(two_models):
  """Against scikit-learn and SciPy; the worst class is on top."""
  models = [Measured(m) for m in two_models]
  (section,) = report.build(models, OPTIONS, ('classes',))
  (table,) = section.blocks
  accuracy = []
  for m in two_models:
    found = section.numbers[m.name]
    matrix = sklearn_metrics.confusion_matrix(m.labels, m.logits.argmax(1))
    share = matrix.diagonal() / matrix.sum(1)
    accuracy.append(share)
    np.testing.assert_allclose(found['accuracy'], share)
    for k, (right, n) in enumerate(zip(matrix.diagonal(), matrix.sum(1))):
      ends = stats.binomtest(int(right), int(n)).proportion_ci(0.95)
      np.testing.assert_allclose([found['low'][k], found['high'][k]], ends)
    assert np.mean(found['calibration_error']) == pytest.approx(
      calibration.classwise_calibration_error(m.logits, m.labels)
    )
  worst = np.argsort(np.mean(accuracy, 0))
  assert [row[0] for row in table.rows] == [f'class {k}' for k in worst]
  assert table.rows[0][1].value == blocks.percent(accuracy[0][worst[0]])
