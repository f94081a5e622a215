"""Runs on labelled texts: sources, vocabulary, word vectors, padding."""

import json
import pathlib

import jax
import numpy as np
import pytest

from maxsup_jax import data, outputs, tasks
from maxsup_jax.data import phrases, text
from maxsup_jax.errors import UsageError
from maxsup_jax.tasks.extraction import extract
from maxsup_jax.training import loop
from tests.runs import assert_resumes

pytestmark = pytest.mark.usefixtures('cached_compilation')

MODEL = {
  **{'name': 'lstm', 'vocabulary_size': 700, 'dim': 8, 'hidden': 8},
  **{'widths': (4,), 'single_logit': True, 'dropout': 0.0},
}


def config(name='swapped_phrases/64x24', *, model=None, dataset=None, **rest):
  given = {
    'duration': '4 steps',
    'checkpoint_every': '2 steps',
    'batch_size': 16,
    'eval_batch_size': 24,
    'dataset': {'name': name, 'length': 12, **(dataset or {})},
    'model': {**MODEL, **(model or {})},
    'optimizer': {'learning_rate': 0.01},
  }
  return tasks.resolve({**given, **rest})


def write_vectors(path, words, dim=8, header=''):
  lines = [f'{word} {" ".join([str(i + 1.0)] * dim)}' for i, word in words]
  path.write_text(header + '\n'.join(lines) + '\n')


@pytest.fixture(scope='module')
def trained(tmp_path_factory, cached_compilations):
  """A run from word vectors, of which some words lack one."""
  path = tmp_path_factory.mktemp('run')
  vectors = path / 'vectors.txt'
  write_vectors(vectors, [(4, 'am'), (9, 'Uhr'), (1, 'no such word')])
  run = tasks.build(config(dataset={'vectors': str(vectors)}))
  assert run.task.unit == 'texts'
  workdir = tasks.open_workdir(path / 'run', writes=True)
  return workdir, run, loop.train(run, workdir)


def test_swapped_phrases_are_those_of_the_grammar():
  drawn = list(phrases.generate('test', 200))
  found = list(phrases.swapped('test', 200))
  assert list(phrases.swapped('test', 50)) == found[:50]
  for (_, german), (words, swapped) in zip(drawn, found):
    tokens = phrases.TOKEN.findall(german)
    moved = [i for i, w in enumerate(words.split()) if w != tokens[i]]
    assert len(moved) == 2 * swapped
    assert not moved or moved[1] == moved[0] + 1
  assert 80 < sum(swapped for _, swapped in found) < 120


def test_word_vectors_are_where_training_begins_and_stay(trained):
  workdir, run, _ = trained
  words = run.task.encoder
  early, late = (
    tasks.load_run(workdir.path, step).variables['params'] for step in (2, 4)
  )
  table = early['embedding']['embedding']
  assert table.shape == (700, 8)
  for word, value in (('am', 5), ('Uhr', 10), ('Montag', 0)):
    (i, _) = words.encode(word)
    np.testing.assert_array_equal(table[i], value)
  # Rows that no word has are as they were drawn.
  assert np.abs(table[len(words) :]).min() > 0
  np.testing.assert_array_equal(late['embedding']['embedding'], table)
  assert (late['input']['kernel'] != early['input']['kernel']).any()
  origin = json.loads((workdir.path / 'run.json').read_text())['starts'][0]
  assert origin['vectors'] == {'words': 2, 'of': len(words)}


def test_a_run_is_evaluated_on_what_its_vocabulary_makes_of_texts(
  trained, tmp_path
):
  workdir, _, records = trained
  loaded = tasks.load_run(workdir.path)
  (record,) = loaded.evaluate()
  assert record['examples'] == 24
  assert record['nll'] == records[0]['nll']
  read = outputs.read(extract(loaded).path)
  assert read.logits.shape == (24, 2)
  np.testing.assert_array_equal(read.logits[:, 0], 0)
  assert list(read.class_names) == ['in order', 'swapped']
  # The same texts from files have the same ids, unknown words among them.
  texts, labels = zip(*phrases.swapped('test', 24))
  for name, lines in (('texts', texts), ('labels', map(str, labels))):
    (tmp_path / name).write_text('\n'.join(lines))
  files = f'lines:{tmp_path}/texts,{tmp_path}/labels'
  asked = tasks.load_run(
    workdir.path,
    sources=(
      loaded.task.train_source,
      data.open_source(
        files,
        'train',
        num_classes=2,
        length=12,
        encoder=loaded.task.encoder,
      ),
    ),
  )
  for i in range(24):
    for name in ('image', 'label'):
      np.testing.assert_array_equal(
        asked.task.eval_source[i][name], loaded.task.eval_source[i][name]
      )


def test_padding_never_changes_what_a_run_says(trained):
  loaded = tasks.load_run(trained[0].path)
  task = loaded.task
  short = [
    x['image'] for x in task.eval_source if (x['image'] == text.PAD).sum() > 3
  ]
  ids = np.stack(short)
  apply = jax.jit(task.apply)
  logits, _ = apply(loaded.variables, ids)
  wider, _ = apply(loaded.variables, np.pad(ids, ((0, 0), (0, 6))))
  np.testing.assert_allclose(wider, logits, rtol=1e-5, atol=1e-6)
  assert np.std(logits[:, 1]) > 0


def test_a_run_resumes_bit_by_bit(trained, tmp_path):
  workdir, run, *_ = trained
  # Its word vectors are not needed any more.
  pathlib.Path(run.config.dataset.vectors).unlink()
  again = tasks.build(run.config)
  assert_resumes(again, workdir, tmp_path / 'copy')


def test_what_cannot_be_read_is_one_line(trained, tmp_path):
  workdir, run, *_ = trained
  bad = tmp_path / 'bad.txt'
  bad.write_text('am 1 2\n')
  other = tmp_path / 'other.txt'
  write_vectors(other, [(0, 'xyz')], header='2 8\n')
  letters = tmp_path / 'letters.txt'
  letters.write_text('am ' + 'x ' * 8 + '\n')
  wide = tmp_path / 'wide.txt'
  write_vectors(wide, [(0, 'am')], dim=9)
  vectors = {'vectors': str(other)}
  for name, changes, message in (
    (
      'swapped_phrases/64x24',
      {'dataset': {'length': None}},
      'length is None; exp',
    ),
    ('swapped_phrases/9', {}, 'expected phrases'),
    (
      'swapped_phrases/64x24',
      {'dataset': {'length': 1}},
      'length is 1; expected',
    ),
    ('swapped_phrases/64x24', {'dataset': {'eval_split': 'val'}}, "is 'val'"),
    (
      'swapped_phrases/64x24',
      {'dataset': {'mock': 8}},
      'mock is 8; .* has texts',
    ),
    ('breast_cancer', {}, 'length is 12; breast_cancer has no texts'),
    (f'lines:{bad},{bad}', {}, 'num_classes is None; expected how many'),
    (
      f'lines:{bad},{bad}',
      {'dataset': {'num_classes': 2}},
      "label 1 is 'am 1 2'; expected an integer",
    ),
    (
      'swapped_phrases/64x24',
      {'model': {'vocabulary_size': None}},
      'config.model.vocabulary_size is None; expected an integer',
    ),
    (
      'breast_cancer',
      {'dataset': {'length': None}},
      r'ids are float32 \[1, 30\]; expected those of tokens',
    ),
    (
      'swapped_phrases/64x24',
      {
        'dataset': vectors,
        'optimizer': {'weight_decay': 0.1, 'decay': ('embedding',)},
      },
      "expected config.optimizer.decay without 'embedding'",
    ),
    (
      'breast_cancer',
      {'dataset': {**vectors, 'length': None}, 'model': {'name': 'mlp'}},
      'expected None for the model',
    ),
  ):
    given = config(name, **changes)
    if given.model.name == 'mlp':
      with given.unlocked():
        given.model = {'name': 'mlp'}
    with pytest.raises(UsageError, match=message) as error:
      tasks.build(given)
    assert '\n' not in str(error.value)
  for path, message in (
    (bad, 'line 1 has 2 numbers; expected 8, as config.model.dim'),
    (wide, 'line 1 has 9 numbers; expected 8'),
    (letters, 'line 1 is not a word and 8 numbers'),
    (other, 'has none of the .* words of the training texts'),
    (tmp_path / 'no.txt', 'no.txt cannot be read: No such file'),
  ):
    run = tasks.build(config(dataset={'vectors': str(path)}))
    with pytest.raises(UsageError, match=message):
      run.check_first_state()
  # Ids of another vocabulary would be other words.
  given = config('swapped_phrases/32x24', init_from=str(workdir.path))
  with pytest.raises(UsageError, match='does not have the vocabulary of'):
    tasks.build(given).check_first_state()
  same = config(init_from=str(workdir.path))
  tasks.build(same).check_first_state()
