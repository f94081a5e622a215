import json
from pathlib import Path

import numpy as np
import pytest

from maxsup_jax.diagnostics import calibration

ROOT = Path(__file__).parents[2]


@pytest.fixture
def file(tmp_path):
  """Writes the logits of a model, seeded, for the same labels each time."""

  def write(name, seed=0, n=200, K=4, **arrays):
    rng = np.random.default_rng(seed)
    labels = np.arange(n) % K
    logits = rng.normal(size=(n, K)) + 2 * np.eye(K)[labels]
    path = tmp_path / name
    np.savez(path, **({'logits': logits, 'labels': labels} | arrays))
    return path

  return write


def test_report_of_two_files(file, run_program, tmp_path):
  a, b, out = file('ce.npz'), file('ls.npz', seed=1), tmp_path / 'report'
  out.mkdir()
  (out / 'results.json').write_text('{"kind": "report"}')
  options = ('--seeds=3,4', '--held_out=0.3', '--resamples=40', '--overwrite')
  sections = '--sections=summary,calibration,selective'
  code, printed, err = run_program(
    'diagnose', a, b, f'--out={out}', '--names=CE,LS', *options, sections
  )
  assert code == 0, err
  assert 'Warning' not in err
  assert str(out / 'report.html') in printed
  results = json.loads((out / 'results.json').read_text())
  assert list(results['models']) == ['CE', 'LS']
  assert set(results['sections']) == {'summary', 'calibration', 'selective'}
  assert results['options']['held_out'] == 0.3
  assert results['options']['seeds'] == [3, 4]
  assert 'experiments.diagnose' in results['provenance']['command']
  error = results['sections']['summary']['CE']['error']['value']
  assert f'{error:.2%}' in printed


def test_probabilities(file, run_program, tmp_path):
  path, out = file('logits.npz'), tmp_path / 'out'
  z = np.load(path)['logits']
  p = file('p.npz', logits=np.exp(z) / np.exp(z).sum(1, keepdims=True))
  sections = ('--sections=summary', '--resamples=0')
  code, _, err = run_program('diagnose', p, f'--out={out}', *sections)
  assert code == 2
  assert 'holds probabilities' in err
  assert '--probabilities' in err
  assert 'Traceback' not in err
  code, _, err = run_program(
    'diagnose', path, p, '--probabilities', f'--out={out}', *sections
  )
  assert code == 2
  assert 'logits.npz: logits[0, ' in err
  code, _, err = run_program(
    'diagnose', p, '--probabilities', f'--out={out}', *sections
  )
  assert code == 0, err
  results = json.loads((out / 'results.json').read_text())
  got = results['sections']['summary']['p']['ece']['value']
  labels = np.arange(200) % 4
  expected = calibration.expected_calibration_error(z, labels)
  assert got == pytest.approx(expected, rel=1e-9)


def test_train_files(file, run_program, tmp_path):
  rng = np.random.default_rng(0)
  features = {
    'features': rng.normal(size=(200, 6)),
    'weights': rng.normal(size=(4, 6)),
  }
  code, _, err = run_program(
    'diagnose',
    file('a.npz', **features),
    f'--train={file("a_train.npz", seed=1, **features)}',
    f'--out={tmp_path / "out"}',
    '--sections=representation,projection',
    '--classes=3,1,0',
  )
  assert code == 0, err
  results = json.loads((tmp_path / 'out' / 'results.json').read_text())
  both = results['sections']['representation']['a']
  assert both['train']['nc1'] == pytest.approx(both['test']['nc1'])
  assert (tmp_path / 'out' / 'mean_plane.png').exists()
