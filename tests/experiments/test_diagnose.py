import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

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
  a, b = file('ce.npz'), file('ls.npz', seed=1)
  out = tmp_path / 'deep' / 'report'
  command = (
    'diagnose',
    a,
    b,
    f'--out={out}',
    '--names=CE,LS',
    '--seeds=3,4',
    '--held_out=0.3',
    '--resamples=40',
    '--sections=summary,calibration,selective',
  )
  code, printed, err = run_program(*command)
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
  # Again: it is there, and stays, unless asked for.
  before = (out / 'results.json').read_bytes()
  code, _, err = run_program(*command)
  assert code == 2
  assert 'holds a report; choose another, or add --overwrite' in err
  assert (out / 'results.json').read_bytes() == before
  code, _, err = run_program(*command, '--overwrite')
  assert code == 0, err


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


MISTAKES = (
  ([], 'which .npz files?'),
  (['{a}'], '--out is needed'),
  (['{a}', '--out={out}', '--sections=magic'], "unknown section 'magic'"),
  (['{a}', '--out={out}', '--names=x,y'], '2 names for 1 files'),
  (['{a}', '--out={out}', '--seeds=one'], '--seeds=one: expected whole'),
  (['{a}', '--out={out}', '--held_out=2'], 'held_out is 2.0'),
  (['{a}', '--out={out}', '--train={a},{a}'], '--train has 2 files'),
  (['{a}', '--out={out}', '--train={a}'], 'expected those of the training'),
  (['{a}', '--out={out}', '--resamples=1'], 'expected 0, or at least 40'),
  (['{a}', '--out={out}', '--classes=0,1,9'], 'expected from 0 to 3'),
  (['{a}', 'missing.npz', '--out={out}'], 'no file missing.npz'),
  (['{bad}', '--out={out}'], 'bad.npz: logits[0, 0] is nan'),
  (['{a}', '--out={a}'], 'is a file; expected a directory'),
  (['{a}', '--otu=x', '--out={out}'], 'unknown flag --otu'),
)

# All of them in one process, as each one takes seconds to start.
MAKE_THEM = """
import contextlib, io, json, sys
from absl import flags
from experiments import _cli, diagnose
for arguments in json.loads(sys.argv[1]):
  for name in flags.FLAGS:
    flags.FLAGS[name].unparse()
  sys.argv = ['diagnose', *arguments]
  err = io.StringIO()
  try:
    with contextlib.redirect_stderr(err):
      _cli.run(diagnose.main, files=True)
  except SystemExit as e:
    print(json.dumps([e.code, err.getvalue()]))
"""


def test_mistakes_are_one_line(file, tmp_path):
  names = {
    'a': file('a.npz'),
    'bad': file('bad.npz', logits=np.full((200, 4), np.nan)),
    'out': tmp_path / 'out',
  }
  made = [[a.format(**names) for a in arguments] for arguments, _ in MISTAKES]
  done = subprocess.run(
    [sys.executable, '-c', MAKE_THEM, json.dumps(made)],
    capture_output=True,
    text=True,
    check=True,
    cwd=ROOT,
  )
  answers = [json.loads(line) for line in done.stdout.splitlines()]
  assert len(answers) == len(MISTAKES)
  for (code, err), (arguments, message) in zip(answers, MISTAKES):
    assert code == 2, arguments
    assert message in err
    # A progress bar that was drawn on the same line is wiped out.
    assert err.split('\r')[-1].startswith('error: '), err
    assert err.count('\n') == 1, err
  # Nothing is written but, at most, the empty directory.
  assert not list((tmp_path / 'out').glob('*'))
