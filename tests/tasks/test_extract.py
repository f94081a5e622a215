import json

import numpy as np
import pytest

from maxsup_jax.training.workdir import Workdir

ARGUMENTS = (
  '--config.model.width=4',
  '--config.schedule.warmup=4 steps',
  '--config.duration=40 steps',
  '--config.log_every=10 steps',
  '--config.checkpoint_every=20 steps',
  '--config.ema_decay=0.9',
)


@pytest.fixture(scope='module')
def workdir(run_program, tmp_path_factory):
  path = tmp_path_factory.mktemp('extract') / 'a run'
  code, _, err = run_program('train', f'--workdir={path}', *ARGUMENTS)
  assert code == 0, err
  return path


def evaluated(run_program, workdir, tmp_path, *arguments):
  out = tmp_path / 'evaluated.jsonl'
  code, _, err = run_program(
    'evaluate', f'--workdir={workdir}', f'--out={out}', *arguments
  )
  assert code == 0, err
  return [json.loads(line) for line in out.read_text().splitlines()]


def check(path, record):
  """The file has the numbers of the evaluation."""
  with np.load(path, allow_pickle=False) as file:
    arrays = dict(file)
  logits, labels = arrays['logits'].astype(np.float64), arrays['labels']
  N, K = logits.shape
  assert record['examples'] == N
  assert (logits.argmax(-1) == labels).mean() == record['accuracy']
  nll = np.log(np.exp(logits).sum(-1)) - logits[np.arange(N), labels]
  assert nll.mean() == pytest.approx(record['nll'], rel=1e-5)
  D = arrays['features'].shape[1]
  assert arrays['weights'].shape == (K, D)
  np.testing.assert_allclose(
    arrays['features'] @ arrays['weights'].T + arrays['bias'],
    arrays['logits'],
    rtol=1e-4,
    atol=1e-4,
  )
  assert {arrays[n].dtype for n in ('features', 'weights', 'bias')} == {
    np.dtype(np.float32)
  }
  assert arrays['class_names'].tolist() == [str(k) for k in range(10)]
  return json.loads(str(arrays['metadata'])), json.loads(str(arrays['history']))


def test_the_newest_checkpoint_on_one_and_on_four_devices(
  run_program, workdir, tmp_path
):
  raw, ema = evaluated(run_program, workdir, tmp_path)
  code, out, err = run_program('extract', f'--workdir={workdir}')
  assert code == 0, err
  path = workdir / 'extract' / 'test-40.npz'
  assert out.startswith(f'{path}: 355 examples of digits/test at step 40, ')
  printed = f'accuracy {raw["accuracy"]:.2%}, NLL {raw["nll"]:.4f}'
  assert out.strip().endswith(printed)
  assert '355/355' in err
  metadata, history = check(path, raw)
  assert (
    metadata.items()
    >= {
      'name': 'a run',
      'dataset': 'digits',
      'split': 'test',
      'model': 'resnet8',
      'objective': 'maxsup',
      'step': 40,
      'weights': 'raw',
      'examples': 355,
    }.items()
  )
  assert metadata['config']['model']['width'] == 4
  assert 'experiments.extract' in metadata['command']
  assert 'jax' in metadata['versions']
  assert history == Workdir(workdir).metrics()

  code, _, err = run_program(
    'extract', f'--workdir={workdir}', '--weights=ema', devices=4
  )
  assert code == 0, err
  check(workdir / 'extract' / 'test-40-ema.npz', ema)
  four = tmp_path / 'four.npz'
  code, _, err = run_program(
    'extract', f'--workdir={workdir}', f'--out={four}', devices=4
  )
  assert code == 0, err
  a, b = np.load(path), np.load(four)
  np.testing.assert_array_equal(a['labels'], b['labels'])
  np.testing.assert_allclose(a['logits'], b['logits'], rtol=1e-4, atol=1e-4)


def test_an_older_checkpoint_and_another_split(run_program, workdir, tmp_path):
  which = ('--split=train', '--step=20')
  raw, _ = evaluated(run_program, workdir, tmp_path, *which)
  code, _, err = run_program('extract', f'--workdir={workdir}', *which)
  assert code == 0, err
  path = workdir / 'extract' / 'train-20.npz'
  metadata, history = check(path, raw)
  assert (metadata['split'], metadata['examples']) == ('train', 1442)
  assert max(line['step'] for line in history) == 20
  # It cannot be trained further only because of what lies there.
  code, _, err = run_program('train', f'--workdir={workdir}', *ARGUMENTS)
  assert code == 0, err

  before = path.read_bytes()
  code, out, err = run_program('extract', f'--workdir={workdir}', *which)
  assert (code, out) == (2, '')
  assert err == f'error: {path} exists; --overwrite replaces it\n'
  assert path.read_bytes() == before
  again = (f'--workdir={workdir}', *which, '--overwrite')
  code, _, err = run_program('extract', *again)
  assert code == 0, err
  assert sorted(p.name for p in path.parent.iterdir() if 'train' in p.name) == [
    'train-20.npz'
  ]


def test_what_is_wrong_is_one_line_before_anything_compiles(
  run_program, workdir, tmp_path, monkeypatch
):
  monkeypatch.setenv('JAX_LOG_COMPILES', '1')
  run = f'--workdir={workdir}'
  for arguments, message in (
    ([], '--workdir is needed'),
    ([f'--workdir={tmp_path}'], 'no config.json'),
    ([run, '--weights=mean'], '--weights=mean'),
    ([run, '--step=7'], 'no checkpoint of step 7 in '),
    ([run, '--split=validation'], 'validation'),
    ([run, '--out=/dev/null/x.npz'], 'cannot be written'),
    ([run, f'--out={tmp_path}'], 'is a directory'),
  ):
    code, out, err = run_program('extract', *arguments)
    assert (code, out) == (2, '')
    assert message in err
    assert len(err.strip().splitlines()) == 1, err
  assert list(tmp_path.iterdir()) == []


def test_averages_that_are_not_kept(run_program, workdir, tmp_path):
  config = json.loads((workdir / 'config.json').read_text())
  (tmp_path / 'config.json').write_text(
    json.dumps(config | {'ema_decay': None})
  )
  code, _, err = run_program(
    'extract', f'--workdir={tmp_path}', '--weights=ema'
  )
  assert code == 2
  assert 'keeps no averaged weights' in err


def test_augmentations_of_two_classes(run_program, workdir, tmp_path):
  out = tmp_path / 'augmented.npz'
  command = (
    'extract',
    f'--workdir={workdir}',
    '--split=test',
    '--augmentations=4',
    '--pair=8,3',
    '--per_class=6',
  )
  code, _, err = run_program(*command, f'--out={out}')
  assert code == 0, err
  with np.load(out) as file:
    logits, labels = file['augmented_logits'], file['augmented_labels']
    plain, all_labels = file['logits'], file['labels']
  assert logits.shape == (12, 4, 10)
  assert labels.tolist() == [8] * 6 + [3] * 6
  # Augmented images are near the plain ones, but not the same.
  first = plain[np.flatnonzero(all_labels == 8)[:6]]
  distance = np.abs(logits[:6] - first[:, None]).mean((1, 2))
  assert (distance > 0).all()
  others = np.abs(logits[:6] - first[::-1][:, None]).mean((1, 2))
  assert distance.mean() < others.mean()
  assert (np.ptp(logits, axis=1).max(-1) > 0).all()


@pytest.mark.parametrize(
  ('arguments', 'message'),
  [
    (['--augmentations=1'], '--augmentations=1: expected at least 2'),
    (['--augmentations=2', '--pair=1,1'], '--pair=1,1: expected two classes'),
    (['--augmentations=2', '--pair=1,10'], 'from 0 to 9'),
  ],
)
def test_augmentations_that_cannot_be(
  run_program, workdir, tmp_path, arguments, message
):
  out = tmp_path / 'none.npz'
  code, _, err = run_program(
    'extract', f'--workdir={workdir}', f'--out={out}', *arguments
  )
  assert code == 2
  assert message in err
  assert not list(tmp_path.iterdir())
