"""Runs, parts and verdicts of a study; the page; nothing is trained."""

import dataclasses
import itertools
import json
import os
import re
import signal

import numpy as np
import pytest
from ml_collections import ConfigDict

from maxsup_jax.errors import UsageError
from maxsup_jax.reports import study as page
from maxsup_jax.studies import claims, running, verdicts
from maxsup_jax.studies.claims import Claim
from maxsup_jax.studies.collecting import collect
from maxsup_jax.studies.measures import MEASURES
from maxsup_jax.studies.study import TEACHER, Study, directory, parse_shard

DISTILLATION = {'name': 'distillation', 'beta': 1.0}


def make_study(seeds=(0, 1, 2), **changes):
  variants = {
    name: ConfigDict({'objective': {'name': name}, 'duration': '2 epochs'})
    for name in ('ce', 'ls', 'maxsup')
  }
  variants['student_of_ls'] = ConfigDict(
    {'objective': DISTILLATION, 'teacher': TEACHER + 'ls'}
  )
  given = {'claims': claims.among(variants), **changes}
  return Study('toy', 'A toy', 'Nothing is trained.', variants, seeds, **given)


def write_measures(study, run, workdir, **changes):
  """What a run leaves behind, with numbers of our own."""
  rng = np.random.default_rng(
    [run.seed, list(study.variants).index(run.variant)]
  )
  shift = {'ce': 0.0, 'ls': 0.1, 'maxsup': 0.3}.get(run.variant, 0.0)
  values = {
    name: shift + 0.01 * run.seed + 0.001 * float(rng.normal())
    for name in MEASURES
  }
  record = {
    'of': study.measured_with(run, workdir),
    'measures': values | changes,
    'device': 'cpu',
    'versions': {'jax': '1'},
    'curves': {
      'eval': {n: [1.0, 2.0] for n in ('epoch', 'accuracy', 'nll', 'ece')},
      'measured_epoch': [1.0, 2.0],
      'nc1': [1.0, None],
      'nc2': [1.0, 0.5],
      'nc3': [1.0, 0.5],
      'reliability': {
        'confidence': [None, 0.9],
        'accuracy': [None, 0.8 + 0.01 * run.seed],
        'count': [0, 10],
      },
      'risk_coverage': {'coverage': [0.5, 1.0], 'risk': [0.0, 0.1]},
      'signature': 'nrefs:1|case:lc',
    },
  }
  path = directory(workdir, run)
  path.mkdir(parents=True, exist_ok=True)
  (path / running.MEASURES_FILE).write_text(json.dumps(record))


def test_parts_are_all_runs_once_and_students_follow_their_teachers():
  study = make_study()
  for n in (1, 2, 3, 5):
    parts = [study.runs((i, n)) for i in range(n)]
    together = list(itertools.chain(*parts))
    assert sorted(r.name for r in together) == sorted(
      r.name for r in study.runs()
    )
    assert len(together) == 12
    for part in parts:
      names = [r.name for r in part]
      for seed in range(3):
        student, teacher = f'student_of_ls/seed{seed}', f'ls/seed{seed}'
        if student in names:
          assert names.index(teacher) < names.index(student)


def test_configurations_have_the_seed_and_the_teacher_of_equal_seed(tmp_path):
  study = make_study()
  run = study.run('student_of_ls/seed2')
  config = study.config(run, tmp_path)
  assert config.seed == 2
  assert config.teacher == str(tmp_path / 'runs' / 'ls' / 'seed2')
  assert study.variants['student_of_ls'].teacher == TEACHER + 'ls'
  with pytest.raises(UsageError, match="did you mean 'ls/seed1'"):
    study.run('ls/seed11')


@pytest.mark.parametrize(
  ('change', 'match'),
  [
    ({'seeds': ()}, '0 seeds'),
    ({'seeds': (0, 0)}, 'twice'),
    ({'seeds': (-1,)}, 'seeds is -1'),
    ({'extras': ('corruption',)}, "did you mean 'corruptions'"),
    ({'claims': (claims.PAPERS[2],)}, "variant is 'logit_penalty'"),
  ],
)
def test_a_wrong_study_is_refused(change, match):
  with pytest.raises(UsageError, match=match):
    make_study(**change)
  study = make_study()
  for name, teacher in (('a-b', None), ('x', 'nobody'), ('x', 'student_of_ls')):
    config = ConfigDict({'teacher': teacher and TEACHER + teacher})
    with pytest.raises(UsageError):
      dataclasses.replace(study, variants={**study.variants, name: config})


@pytest.mark.parametrize('text', ['3/3', '1', '-1/2', 'a/b'])
def test_a_wrong_shard_is_refused(text):
  with pytest.raises(UsageError, match='expected I/N'):
    parse_shard(text)


def judged(sign, differences, margin=0.0, **measures):
  claim = Claim(
    'c', 'p', 's', 'x', 'nll', 'ls', 'ce', sign, margin, bool(measures)
  )
  values = {
    'ls': {s: {'nll': d, **measures} for s, d in enumerate(differences)},
    'ce': {s: {'nll': 0.0, **measures} for s in range(9)},
  }
  (record,) = verdicts.judge([claim], values)
  return record


@pytest.mark.parametrize(
  ('sign', 'differences', 'margin', 'verdict'),
  [
    ('+', [1.0, 1.1, 0.9], 0, verdicts.HOLDS),
    ('-', [1.0, 1.1, 0.9], 0, verdicts.REVERSED),
    ('?', [1.0, 1.1, 0.9], 0, verdicts.DIFFERS),
    ('+', [1.0, -1.1, 0.9], 0, verdicts.UNRESOLVED),
    ('=', [0.01, -0.01, 0.02], 0.2, verdicts.HOLDS),
    ('=', [1.0, 1.1, 0.9], 0.2, verdicts.REVERSED),
    ('=', [0.3, -0.3, 0.1], 0.2, verdicts.UNRESOLVED),
    ('+', [1.0], 0, verdicts.MISSING),
    ('+', [1.0, None, float('nan')], 0, verdicts.MISSING),
  ],
)
def test_verdicts(sign, differences, margin, verdict):
  record = judged(sign, differences, margin)
  assert record['verdict'] == verdict
  assert (record['interval'] is None) == (verdict == verdicts.MISSING)


def test_a_claim_about_interpolation_needs_perfect_training():
  assert judged('=', [0.0, 0.0], 0.2, train_accuracy=1.0)['verdict'] == 'holds'
  missing = judged('=', [0.0, 0.0], 0.2, train_accuracy=0.999)
  assert missing['verdict'] == verdicts.MISSING


def test_p_values_are_corrected_over_the_page():
  """Alone the difference is resolved, among twenty it is not."""
  differences = [1.0, 1.4, 0.6, 1.5]
  claim = Claim('c0', 'p', 's', 'x', 'nll', 'ls', 'ce', '+')
  many = [dataclasses.replace(claim, name=f'c{i}') for i in range(20)]
  values = {
    'ls': {s: {'nll': d} for s, d in enumerate(differences)},
    'ce': {s: {'nll': 0.0} for s in range(4)},
  }
  assert verdicts.judge([claim], values)[0]['verdict'] == verdicts.HOLDS
  records = verdicts.judge(many, values)
  assert {r['verdict'] for r in records} == {verdicts.UNRESOLVED}
  assert records[0]['corrected'] == pytest.approx(20 * records[0]['p_value'])


def test_claims_name_what_is_measured_and_have_names_of_their_own():
  for every in (claims.PAPERS, claims.TRANSLATION, claims.SEGMENTATION):
    names = [c.name for c in every]
    assert len(set(names)) == len(names) >= 20
  noisy = claims.among({'ls_noise': 0, 'ce_noise': 0}, '_noise', 'noisy')
  assert {c.variant for c in noisy} == {'ls_noise'}
  assert all(c.sentence.endswith('(noisy)') for c in noisy)


def test_what_is_collected_does_not_depend_on_the_order_of_the_runs(tmp_path):
  study = make_study()
  pages = []
  for i, runs in enumerate((study.runs(), study.runs()[::-1])):
    workdir = tmp_path / str(i)
    for run in runs:
      write_measures(study, run, workdir)
    pages.append(collect(study, workdir))
  assert pages[0] == pages[1]
  found = {c['name']: c for c in pages[0]['claims']}
  assert found['accuracy-ls']['verdict'] == verdicts.HOLDS
  expected = np.mean(
    [pages[0]['values']['ls'][str(s)]['nll'] for s in range(3)]
  )
  assert pages[0]['table']['ls']['nll']['mean'] == pytest.approx(expected, 1e-5)
  reliability = pages[0]['curves']['ls']['reliability']
  assert reliability['x'] == [0.9]
  assert reliability['mean'] == [pytest.approx(0.81)]
  assert reliability['count'] == [30]


def test_measures_of_another_configuration_do_not_count(tmp_path):
  study = make_study()
  run = study.run('ce/seed0')
  write_measures(study, run, tmp_path)
  assert running.measured(study, run, tmp_path)
  changed = ConfigDict({'objective': {'name': 'ce'}, 'duration': '3 epochs'})
  other = dataclasses.replace(study, variants={**study.variants, 'ce': changed})
  assert running.measured(other, run, tmp_path) is None


@pytest.mark.parametrize(
  'case', ['one seed', 'one variant', 'holes', 'nothing']
)
def test_the_page_is_made_whatever_there_is(tmp_path, case):
  study = make_study()
  if case == 'one seed':
    study = dataclasses.replace(study, seeds=(0,))
  elif case == 'one variant':
    variants = {'ce': study.variants['ce']}
    study = dataclasses.replace(study, variants=variants, claims=())
  if case != 'nothing':
    for run in study.runs():
      lacks = {'nll': None, 'accuracy': None} if run.variant == 'ls' else {}
      if case == 'holes' and run.name == 'maxsup/seed1':
        continue
      write_measures(study, run, tmp_path, **lacks)
  (tmp_path / 'failures.json').parent.mkdir(exist_ok=True)
  (tmp_path / 'failures.json').write_text('{"maxsup/seed1": "<b>it broke"}')
  record = collect(study, tmp_path)
  assert page.sections(record)
  if case == 'holes':
    page.write(record, tmp_path)
    assert json.loads((tmp_path / 'study.json').read_text()) == record
    html = (tmp_path / 'study.html').read_text()
    assert not re.findall(r'(?:src|href)="(?!data:|#)', html)
    assert '&lt;b&gt;it broke' in html
    # Means that lack a run say so.
    assert '2 of 3 seeds' in html
    assert 'BLEU: nrefs:1|case:lc' in html
    # There is no mutual information, so nothing is said of it.
    assert 'Calibration and rejection' in html
    assert 'mutual information is that' not in html
    assert record['missing'] == {'maxsup/seed1': '<b>it broke'}
  for c in record['claims']:
    assert (c['verdict'] == verdicts.MISSING) == (c['interval'] is None)
  assert page.as_text(record)
  assert len(page.markdown(record)) == 2 + len(record['claims'])


def test_accuracy_is_drawn_against_the_smoothing_of_students(tmp_path):
  study = make_study((0, 1))
  variants = dict(study.variants)
  for a in (0, 30):
    objective = {'name': 'ls', 'alpha': a / 100}
    variants[f'ls_{a}'] = ConfigDict({'objective': objective})
  study = dataclasses.replace(study, variants=variants)
  for run in study.runs():
    write_measures(study, run, tmp_path, teacher_smoothing=None)
  record = collect(study, tmp_path)
  (points,) = page._smoothing(record).values()
  assert [p[0] for p in points] == [0.0, 0.3]
  assert 'smoothing' in [s.name for s in page.sections(record)]


def fake(study, tmp_path, seconds, killed=False):
  """Commands that leave measures behind, or fail, and train nothing."""
  for run in study.runs():
    write_measures(study, run, tmp_path / 'prepared')

  def command(run):
    made, wanted = (
      directory(w, run) / running.MEASURES_FILE
      for w in (tmp_path / 'prepared', tmp_path / 'study')
    )
    script = f'mkdir -p {wanted.parent}; cp {made} {wanted}'
    if run.variant == 'ls':
      script = 'echo error: no luck; exit 2'
    if run.variant == 'ce' and killed:
      script = 'kill -TERM $$'
    if run.variant == 'maxsup':
      script = f'sleep {seconds}; {script}'
    return ['sh', '-c', script]

  return command


def test_a_run_that_fails_is_named_and_the_others_go_on(tmp_path):
  study, workdir = make_study((0,)), tmp_path / 'study'
  failed = running.run_all(study, workdir, fake(study, tmp_path, 0), jobs=2)
  assert {r.name for r in failed} == {'ls/seed0', 'student_of_ls/seed0'}
  assert running.failures(workdir)['ls/seed0'].startswith('no luck (exit')
  assert 'its teacher' in running.failures(workdir)['student_of_ls/seed0']
  record = collect(study, workdir)
  assert set(record['missing']) == {'ls/seed0', 'student_of_ls/seed0'}
  assert record['table']['maxsup']['nll']['seeds'] == 1


def test_a_run_that_somebody_else_stops_is_not_taken_for_finished(tmp_path):
  study, workdir = make_study((0,)), tmp_path / 'study'
  failed = running.run_all(study, workdir, fake(study, tmp_path, 0, True))
  assert 'ce/seed0' in {r.name for r in failed}
  assert 'signal 15' in running.failures(workdir)['ce/seed0']


def test_a_signal_ends_the_runs_and_the_study_goes_on(tmp_path, monkeypatch):
  study, workdir = make_study((0,)), tmp_path / 'study'

  def interrupt(_, run, __):
    if run.variant == 'maxsup':
      os.kill(os.getpid(), signal.SIGTERM)
    return 0.0

  monkeypatch.setattr(running, 'progress_of', interrupt)
  monkeypatch.setattr(running, '_LOOK', 0.1)
  with pytest.raises(running.Interrupted):
    running.run_all(study, workdir, fake(study, tmp_path, 600), jobs=1)
  monkeypatch.undo()
  assert running.measured(study, study.run('maxsup/seed0'), workdir) is None
  running.run_all(study, workdir, fake(study, tmp_path, 0), jobs=1)
  assert running.measured(study, study.run('maxsup/seed0'), workdir)


def test_a_directory_of_something_else_is_refused(tmp_path):
  study = make_study()
  (tmp_path / 'thesis.tex').write_text('x')
  with pytest.raises(UsageError, match='is not empty'):
    running.check_workdir(study, tmp_path)
