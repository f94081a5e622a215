"""Frozen features of runs on another dataset."""

import io
import json

import numpy as np
import pytest
from PIL import Image

from maxsup_jax import data, tasks
from maxsup_jax.errors import UsageError
from maxsup_jax.reports.transfer import strengths
from maxsup_jax.studies import transfer
from maxsup_jax.tasks import extraction
from tests.random_runs import make_run

pytestmark = pytest.mark.usefixtures('cached_compilation')

CHANGES = {
  'model': {'name': 'tests.nets:Small'},
  'dataset': {'mean': (0.3,), 'std': (0.25,)},
}


@pytest.fixture
def run(tmp_path, data_dir):
  return make_run(tmp_path / 'run', CHANGES, data_dir, steps=(3,))


def test_features_are_those_that_extract_writes(run, data_dir):
  """On its own dataset; the last batch is padded."""
  loaded = tasks.load_run(run, data_dir=data_dir)
  with np.load(extraction.extract(loaded).path) as file:
    expected, labels = file['features'], file['labels']
  source = data.open_source('digits', 'test', data_dir=data_dir)
  step, (features, found) = transfer.features_of(run, source, batch_size=100)
  assert step == 3
  np.testing.assert_allclose(features, expected, rtol=1e-4, atol=1e-4)
  np.testing.assert_array_equal(found, labels)


def test_transfer_to_letters_as_the_program_does_it(
  run, data_dir, tmp_path, run_program
):
  name, out = 'glyphs/3x40x20_16_easy', tmp_path / 'out'
  (found,) = transfer.transfer(
    [run], name, data_dir=data_dir, strengths=(1e-2, 1.0, 100.0)
  )
  assert found.step == 3
  # Random features tell three letters apart, a little.
  assert found.probe.accuracy > 1 / 3
  assert len(found.probe.held_out_accuracy) == 3
  code, printed, err = run_program(
    'transfer', f'--workdir={run}', f'--dataset={name}', f'--out={out}'
  )
  assert code == 0, err
  (record,) = json.loads((out / 'results.json').read_text())['runs']
  assert len(record['strengths']) == 45
  assert f'{record["accuracy"]:.2%}' in printed
  assert record['strength'] in record['strengths']
  assert record['held_out_accuracy'][
    record['strengths'].index(record['strength'])
  ] == max(record['held_out_accuracy'])
  assert (out / 'strengths.png').read_bytes().startswith(b'\x89PNG')
  picture = strengths(['a', '_b'], [found.probe, found.probe])
  width, height = Image.open(io.BytesIO(picture)).size
  assert width > height > 400


def test_what_does_not_fit_is_one_line(run, data_dir, tmp_path):
  vit = make_run(
    tmp_path / 'vit',
    {'model': {'name': 'vit_tiny', 'patch_size': 4}},
    data_dir,
    steps=(1,),
  )
  letters = 'glyphs/3x40x20_16_easy'
  for directory, name, arguments, message in (
    (tmp_path, letters, {}, 'no config.json'),
    (run, letters, {'weights': 'ema'}, 'no averaged weights'),
    (run, 'digitz', {}, "unknown dataset 'digitz'"),
    (vit, letters, {}, r'vit cannot see the \[16, 16, 1\] images of glyphs'),
    (run, letters, {'held_out': 1.0}, 'held_out is 1.0; expected above 0'),
  ):
    with pytest.raises(UsageError, match=message) as e:
      transfer.transfer([directory], name, data_dir=data_dir, **arguments)
    assert '\n' not in str(e.value)
