import csv
import json

import pytest

from maxsup_jax.diagnostics import unconstrained
from maxsup_jax.errors import UsageError
from maxsup_jax.studies import unconstrained as study

TINY = ('--num_classes=4', '--per_class=3', '--dim=5', '--lambda_w=5e-3')


def test_it_writes_and_prints(run_program, tmp_path):
  out = tmp_path / 'a' / 'b'
  given = ('--alphas=0,0.1,0.99', '--steps=300', '--seeds=0,3', '--lr=0.5')
  code, printed, err = run_program(
    'unconstrained_features', f'--out={out}', *TINY, *given
  )
  assert code == 0, err
  assert 'Warning' not in err
  assert '100%' in err
  names = ('closed_form', 'trajectories', 'condition')
  files = {f'{name}.{kind}' for name in names for kind in ('png', 'svg')}
  files |= {'results.json', 'trajectories.csv'}
  assert {path.name for path in out.iterdir()} == files
  for name in files:
    assert (out / name).stat().st_size > 500
    assert name in printed

  record = json.loads((out / 'results.json').read_text())
  assert record['settings']['seeds'] == [0, 3]
  assert record['settings']['init_scale'] == pytest.approx(5**-0.5)
  assert 'jax' in record['versions']
  # CE once, and alpha 0 is CE.
  shown = [(r['objective'], r['alpha']) for r in record['results']]
  others = [(o, a) for o in ('ls', 'maxsup') for a in (0.1, 0.99)]
  assert shown == [('ce', 0.0), *others]
  ce, ls, collapsed, maxsup, _ = record['results']
  problem = unconstrained.Problem(
    4, 3, 5, objective='ls', alpha=0.1, lambda_w=5e-3
  )
  best = unconstrained.minimizer(problem)
  assert ls['closed_form'] == maxsup['closed_form']
  assert ls['closed_form']['margin'] == best.margin
  kappa = unconstrained.condition_numbers(problem)
  assert ls['condition_numbers']['joint'] == kappa.joint
  assert collapsed['closed_form']['trivial']
  assert collapsed['condition_numbers'] is None
  for r in record['results'][:2]:
    assert abs(r['solver']['gap']['value']) < 1e-10
  path = unconstrained.gradient_descent(
    problem, steps=300, learning_rate=0.5, seed=3
  )
  step = unconstrained.steps_to_threshold(path, 'nc1', 1e-2)
  assert 0 < step < 300
  assert ls['steps']['nc1<0.01'][1] == step
  assert ls['steps']['nc3<0.01'] == [None, None]
  assert ls['last_step_with_errors'][1] == path.steps[path.error > 0].max()

  with (out / 'trajectories.csv').open(newline='') as file:
    rows = list(csv.DictReader(file))
  kept = unconstrained.log_spaced_steps(300)
  assert len(rows) == 5 * 2 * len(kept)
  own = [r for r in rows if (r['objective'], r['alpha']) == ('ls', '0.1')]
  last = [r for r in own if r['seed'] == '3'][-1]
  assert last['step'] == '300'
  assert float(last['nc2']) == pytest.approx(path.nc2[-1], rel=1e-6)
  (line,) = [x for x in printed.splitlines() if x.startswith('CE   ')][:1]
  assert f'{ce["closed_form"]["margin"]:.4f}' in line
  assert 'MaxSup 0.99' in printed


def test_problems_that_cannot_be():
  usual = {'objectives': ['ls'], 'alphas': [0.1], 'num_classes': 10}
  usual |= {'per_class': 10, 'dim': 32, 'lambda_w': 1e-3}
  for changes, message in (
    ({'alphas': [0.0]}, 'leave nothing to do'),
    ({'alphas': [1.5]}, 'alpha is 1.5; expected from 0 to 1'),
    ({'objectives': ['ce', 'mse']}, "objectives is 'mse'; expected one of"),
    ({'dim': 2}, 'dim is 2'),
    ({'lambda_w': 100.0}, 'expected below 1, as the minimiser'),
  ):
    with pytest.raises(UsageError, match=message):
      study.make_problems(**usual | changes)


def test_a_descent_that_runs_away_is_told():
  problems = study.make_problems(
    ['ce'], [], num_classes=4, per_class=3, dim=5, lambda_w=5e-3
  )
  found = [
    study.lost(study.run(problems, study.Descent(steps=30, lr=lr, seeds=[0])))
    for lr in (0.5, 1e4)
  ]
  assert found[0] == []
  assert len(found[1]) == 1
  assert found[1][0].startswith('ce, seed 0: ')
