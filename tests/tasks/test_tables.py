"""Runs on rows of tables: statistics of training are kept and used."""

import json

import numpy as np
import pytest

from maxsup_jax import outputs, tasks
from maxsup_jax.errors import UsageError
from maxsup_jax.studies import transfer
from maxsup_jax.tasks.config import check_images
from maxsup_jax.tasks.extraction import extract
from maxsup_jax.training import loop
from tests.runs import assert_resumes

pytestmark = pytest.mark.usefixtures('cached_compilation')


def config(name, **changes):
  return tasks.resolve(
    {
      'duration': '6 steps',
      'checkpoint_every': '3 steps',
      'batch_size': 32,
      'eval_batch_size': 64,
      'dataset': {'name': name, 'label_key': 'y', **changes},
      'model': {'name': 'mlp', 'widths': (1,)},
      'optimizer': {'learning_rate': 0.01},
    }
  )


@pytest.fixture(scope='module')
def table(tmp_path_factory):
  """Two numbers on very different scales, a category, three classes."""
  rng = np.random.default_rng(0)
  path = tmp_path_factory.mktemp('table') / 'all.csv'
  rows = [
    f'{abs(a)},{b * 1e4:.3f},{"pq"[k % 2]},{"abc"[k]}'
    for a, b, k in zip(*rng.normal(size=(2, 120)), rng.integers(0, 3, 120))
  ]
  path.write_text('\n'.join(['a,b,c,y', *rows]))
  return path


@pytest.fixture(scope='module')
def trained(table, tmp_path_factory, cached_compilations):
  workdir = tasks.open_workdir(
    tmp_path_factory.mktemp('run') / 'run', writes=True
  )
  run = tasks.build(config(f'csv:{table}'))
  assert run.task.unit == 'rows'
  assert 'training rows' in run.summary()
  records = loop.train(run, workdir)
  return workdir, records


def test_a_run_is_evaluated_and_extracted_as_it_was_trained(trained):
  workdir, records = trained
  loaded = tasks.load_run(workdir.path)
  (record,) = loaded.evaluate()
  assert record['examples'] == 24
  assert record['nll'] == records[0]['nll']
  found = extract(loaded)
  read = outputs.read(found.path)
  assert read.logits.shape == (24, 3)
  assert read.features.shape[0] == 24
  assert list(read.class_names) == ['a', 'b', 'c']


def test_other_rows_have_the_statistics_of_training(trained, table, tmp_path):
  workdir, _ = trained
  loaded = tasks.load_run(workdir.path, split='all')
  lines = table.read_text().splitlines()
  other = tmp_path / 'other.csv'
  # Few rows, of two classes: their own statistics would be others.
  few = [line for line in lines[1:] if line[-1] != 'b'][:7]
  other.write_text('\n'.join([lines[0], *few]))
  asked = tasks.load_run(workdir.path, dataset=f'csv:{other}', split='all')
  where = [lines[1:].index(line) for line in few]
  for i, j in enumerate(where):
    for name in ('image', 'label'):
      np.testing.assert_array_equal(
        asked.task.eval_source[i][name], loaded.task.eval_source[j][name]
      )
  (record,) = asked.evaluate()
  assert record['examples'] == 7
  assert json.loads((workdir.path / 'columns.json').read_text())['classes'] == [
    *'abc'
  ]
  # What was kept counts, whatever the file of training says now.
  content = table.read_text()
  try:
    # A changed number in each row.
    table.write_text('\n'.join([lines[0], *('1' + x for x in lines[1:])]))
    again = tasks.load_run(workdir.path, split='all').task.eval_source
    (column, *_), first = loaded.task.encoder.columns, lines[1].split(',')[0]
    expected = np.float32((float('1' + first) - column.mean) / column.std)
    assert again[0]['image'][0] == expected
    with pytest.raises(UsageError, match=r'columns\.json is not what the data'):
      loop.train(tasks.build(config(f'csv:{table}')), workdir)
  finally:
    table.write_text(content)


def test_a_run_resumes_bit_by_bit(trained, table, tmp_path):
  run = tasks.build(config(f'csv:{table}'))
  assert_resumes(run, trained[0], tmp_path / 'copy')


def test_what_is_for_images_is_refused(table, trained):
  name = f'csv:{table}'
  for changes, message in (
    ({'train_transform': 'flip'}, r"train_transform is 'flip'; expected ''"),
    ({'mean': (0.5,)}, r'dataset.mean is \(0.5,\); expected \(0.0,\)'),
    ({'std': (0.5,)}, r'expected \(1.0,\), as .* has no images'),
    ({'channels': 3}, 'config.dataset.channels is 3; csv:'),
    ({'label_key': 'z'}, "unknown column of labels 'z'"),
    ({'held_out': 1.5}, 'config.dataset.held_out is 1.5'),
  ):
    with pytest.raises(UsageError, match=message):
      tasks.build(config(name, **changes))
  mixed = config(name)
  with mixed.unlocked():
    mixed.mixing.mixup = 0.2
  with pytest.raises(UsageError, match=r'config.mixing is for images; .* rows'):
    tasks.build(mixed)
  images = config(name)
  with images.unlocked():
    images.model = {'name': 'resnet8'}
  with pytest.raises(UsageError, match=r'images are \[1, 4\]; expected'):
    tasks.build(images)
  with pytest.raises(UsageError, match='is a run of a table; expected one of'):
    check_images(trained[0])
  with pytest.raises(UsageError, match='is a run of a table'):
    transfer.features_of(trained[0].path)


def test_a_teacher_must_see_the_same_vectors(table, trained):
  for seed, refused in ((0, False), (1, True)):
    student = config(f'csv:{table}', split_seed=seed)
    with student.unlocked():
      student.teacher = str(trained[0].path)
      student.objective = {
        **{'name': 'distillation', 'beta': 1.0, 'teacher_temperature': 1.0},
        **{'student_temperature': 1.0, 'divergence': 'cross_entropy'},
        'scale_by_squared_temperature': False,
      }
    if refused:
      with pytest.raises(UsageError, match=r'its columns\.json is another'):
        tasks.build(student)
    else:
      assert tasks.build(student).task.teacher is not None
