"""Trained runs are opened, also those of earlier versions."""

import dataclasses
import json
import shutil

import jax
import numpy as np
import pytest

from maxsup_jax import losses, outputs, tasks
from maxsup_jax.errors import UsageError
from maxsup_jax.tasks import extraction, weights
from maxsup_jax.training import loop
from maxsup_jax.training.checkpoints import Checkpoints
from maxsup_jax.training.parallel import Devices
from tests.conftest import ROOT
from tests.runs import timeless

# Two work directories, the outputs of their checkpoints of step 20, and the
# metrics of all 30 steps, as an earlier version wrote them.
FIXTURES = ROOT / 'tests' / 'fixtures'

pytestmark = pytest.mark.usefixtures('cached_compilation')


@pytest.fixture
def workdir(tmp_path):
  def copy(name):
    shutil.copytree(FIXTURES / name, tmp_path / name)
    return tmp_path / name

  return copy


def close(found, expected, name):
  """Equal but for rounding, which differs between processors."""
  for key, value in expected.items():
    if isinstance(value, float):
      assert found[key] == pytest.approx(value, rel=2e-3, abs=2e-3), name
    else:
      assert found[key] == value, name


def lines(name):
  text = (FIXTURES / f'{name}-metrics.jsonl').read_text()
  return [json.loads(line) for line in text.splitlines()]


@pytest.mark.parametrize(
  'name', ['resnet8', pytest.param('bbn', marks=pytest.mark.slow)]
)
def test_a_run_of_an_earlier_version_evaluates_and_resumes(
  workdir, data_dir, name
):
  path = workdir(name)
  loaded = tasks.load_run(path, data_dir=data_dir)
  assert (loaded.step, loaded.split, loaded.weights) == (20, 'test', 'raw')
  there = [r for r in lines(name) if (r['kind'], r['step']) == ('eval', 20)]
  for found, expected in zip(loaded.evaluate(), there, strict=True):
    expected = {k: v for k, v in expected.items() if k in found}
    close(found, expected, name)
  run = tasks.build(
    loaded.run.config, data_dir=data_dir, devices=Devices(jax.devices()[:1])
  )
  loop.train(run, tasks.open_workdir(path, writes=True))
  for found, expected in zip(timeless(path), lines(name), strict=True):
    for time in ('seconds', 'images_per_second'):
      expected.pop(time, None)
    close(found, expected, (name, expected['kind'], expected['step']))


@pytest.mark.parametrize(
  ('name', 'which', 'count'), [('resnet8', 'ema', 4), ('bbn', 'raw', 1)]
)
def test_outputs_are_those_of_an_earlier_version(
  workdir, data_dir, tmp_path, name, which, count
):
  """And those of its model; with augmentations, on any number of devices."""
  loaded = tasks.load_run(
    workdir(name),
    20,
    which,
    data_dir=data_dir,
    devices=Devices(jax.devices()[:count]),
  )
  augmented = extraction.Augmentations(2, per_class=3)
  found = extraction.extract(
    loaded, augmentations=augmented if which == 'ema' else None
  )
  ema = '-ema' if which == 'ema' else ''
  assert found.path == tmp_path / name / 'extract' / f'test-20{ema}.npz'
  a, b = (np.load(p) for p in (found.path, FIXTURES / f'{name}.npz'))
  assert set(a.files) == set(b.files)
  for key in a.files:
    if a[key].dtype.kind == 'f':
      np.testing.assert_allclose(a[key], b[key], rtol=1e-3, atol=1e-3)
    elif key != 'metadata':
      np.testing.assert_array_equal(a[key], b[key])
  logits = a['logits'].astype(np.float64)
  nll = losses.cross_entropy(logits, a['labels']).mean()
  assert found.nll == pytest.approx(float(nll), rel=1e-5)
  assert found.accuracy == (logits.argmax(-1) == a['labels']).mean()
  images = next(loaded.task.eval_batches())['image']
  again, _ = jax.jit(loaded.task.apply)(loaded.variables, images)
  np.testing.assert_allclose(again, logits[: len(images)], atol=1e-4)
  read = outputs.read(found.path)
  assert read.linear
  assert read.metadata['config']['model']['width'] == 4
  assert max(r['step'] for r in read.history) == 20


def test_augmentations_are_near_the_images(workdir, data_dir):
  loaded = tasks.load_run(workdir('resnet8'), data_dir=data_dir, split='train')
  wanted = extraction.Augmentations(4, (8, 3), 6)
  path = extraction.extract(loaded, augmentations=wanted).path
  assert path.name == 'train-20.npz'
  with np.load(path) as file:
    logits, labels = file['augmented_logits'], file['augmented_labels']
    plain, all_labels = file['logits'], file['labels']
  assert logits.shape == (12, 4, 10)
  assert labels.tolist() == [8] * 6 + [3] * 6
  first = plain[np.flatnonzero(all_labels == 8)[:6]]
  distance = np.abs(logits[:6] - first[:, None]).mean((1, 2))
  assert (distance > 0).all()
  others = np.abs(logits[:6] - first[::-1][:, None]).mean((1, 2))
  assert distance.mean() < others.mean()


def test_what_is_not_there_is_one_line(workdir, data_dir, tmp_path):
  path, bbn = workdir('resnet8'), workdir('bbn')
  load = {'data_dir': data_dir}
  for call, message in (
    (lambda: tasks.load_run(tmp_path, **load), 'no config.json'),
    (lambda: tasks.load_run(path, 7, **load), 'no checkpoint of step 7'),
    (
      lambda: tasks.load_run(bbn, weights='ema'),
      "weights is 'ema', but the run",
    ),
    (lambda: tasks.load_run(path, weights='mean'), "weights is 'mean'"),
    (lambda: tasks.load_run(path, split='no', **load), "'no'"),
  ):
    with pytest.raises(UsageError, match=message) as e:
      call()
    assert '\n' not in str(e.value)
  loaded = tasks.load_run(path, **load)
  with pytest.raises(UsageError, match="split is 'validation'; expected train"):
    loaded.task.eval_batches('validation')
  with pytest.raises(UsageError, match='is open for reading only'):
    loop.train(loaded.run, tasks.open_workdir(path))
  state = dataclasses.replace(
    loaded.state,
    params=jax.tree.map(lambda x: x * np.float32(np.inf), loaded.state.params),
  )
  with Checkpoints(loaded.workdir.checkpoints) as checkpoints:
    checkpoints.save(21, state, {})
  for read in (
    lambda: tasks.load_run(path, **load),
    lambda: weights.load_variables(loaded.workdir),
  ):
    with pytest.raises(UsageError, match=r'step 21 of .*: .*params.* not fini'):
      read()
  out = tmp_path / 'out.npz'
  out.touch()
  augmentations = extraction.Augmentations
  for options, message in (
    ({}, r'out\.npz exists; overwrite=True replaces it'),
    ({'out': tmp_path}, 'is a directory'),
    ({'limit': 5}, 'limit is 5; expected None'),
    ({'out': '/dev/null/x.npz'}, 'cannot be written'),
    ({'augmentations': augmentations(1)}, 'augmentations is 1; expected'),
    ({'augmentations': augmentations(2, (1, 1))}, r'pair is \[1, 1\]; expec'),
    ({'augmentations': augmentations(2, (1, 10))}, 'classes from 0 to 9'),
  ):
    given = {'out': tmp_path / 'new.npz' if options else out} | options
    with pytest.raises(UsageError, match=message):
      extraction.extract(loaded, **given)
  assert not (tmp_path / 'new.npz').exists()


def test_the_programs_say_it_with_flags(run_program, workdir, tmp_path):
  path, out = workdir('resnet8'), tmp_path / 'x.npz'
  command = ('extract', f'--workdir={path}', f'--out={out}', '--per_class=2')
  code, printed, err = run_program(*command, '--augmentations=2')
  assert code == 0, err
  assert printed.startswith(f'{out}: 355 examples of digits/test at step 20, ')
  assert '355/355' in err
  code, _, err = run_program(*command)
  assert (code, err) == (2, f'error: {out} exists; --overwrite replaces it\n')
  code, _, err = run_program('extract', f'--workdir={path}', '--step=7')
  assert code == 2
  assert 'no checkpoint of step 7 in ' in err
  to = tmp_path / 'evaluated.jsonl'
  code, printed, err = run_program(
    'evaluate', f'--workdir={path}', f'--out={to}', devices=2
  )
  assert code == 0, err
  raw, ema = map(json.loads, to.read_text().splitlines())
  assert (raw['weights'], ema['weights']) == ('raw', 'ema')
  assert f'{raw["accuracy"]:.2%}' in printed
