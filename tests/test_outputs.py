import dataclasses
import json

import numpy as np
import pytest

from maxsup_jax import outputs as archive
from maxsup_jax.errors import UsageError


def test_everything_is_read(write_npz):
  path = write_npz(
    'a',
    class_names=np.array(list('abcde')),
    metadata=np.array(json.dumps({'name': 'CE', 'split': 'test'})),
    history=np.array(json.dumps([{'step': 1}])),
    something_else=np.zeros(3),
  )
  outputs = archive.read(path)
  assert outputs.name == 'CE'
  assert outputs.class_name(1) == 'b'
  assert outputs.history == [{'step': 1}]
  assert (outputs.num_examples, outputs.num_classes) == (400, 5)
  assert outputs.linear
  assert archive.read(path, 'mine').name == 'mine'


def test_logits_and_labels_are_enough(write_npz):
  outputs = archive.read(write_npz('b', features=None, weights=None, bias=None))
  assert outputs.name == 'b'
  assert outputs.features is outputs.head_error is None
  assert outputs.class_name(1) == 'class 1'


def test_another_head_is_noticed(write_npz):
  half = np.load(write_npz('a'))['logits'] / 2
  outputs = archive.read(write_npz('b', logits=half))
  assert not outputs.linear
  # The weights of a square matrix may be transposed: the logits tell.
  square = np.random.default_rng(0).normal(size=(5, 5)).astype(np.float32)
  features = np.load(write_npz('a'))['features'][:, :5]
  right = {'weights': square, 'bias': None, 'features': features}
  logits = features @ square.T
  assert archive.read(write_npz('c', logits=logits, **right)).linear
  right['weights'] = square.T
  assert not archive.read(write_npz('d', logits=logits, **right)).linear


def test_a_single_logit_is_binary(write_npz):
  """And so is the layer that gave it."""
  features = np.array([[1.0, 2.0], [3.0, -1.0]])
  path = write_npz(
    'b',
    {
      'logits': features @ np.array([1.0, 2.0]) - 1,
      'labels': np.array([1, 0]),
      'features': features,
      'weights': np.array([[1.0, 2.0]]),
      'bias': np.array([-1.0]),
    },
  )
  outputs = archive.read(path)
  np.testing.assert_array_equal(outputs.logits, [[-2, 2], [0, 0]])
  assert outputs.weights.shape == (2, 2)
  assert outputs.linear


@pytest.mark.parametrize(
  ('changes', 'message'),
  [
    ({'labels': None}, r"has no array 'labels'; it has logits, features"),
    ({'labels': np.full(400, 5)}, r'labels\[0\] is 5; expected from 0 to 4'),
    ({'labels': np.zeros(3, int)}, r'differ: logits 400, labels 3'),
    ({'features': np.ones((3, 8))}, r'differ: logits 400, features 3'),
    ({'features': np.full((400, 8), np.nan)}, r'features\[0, 0\] is nan'),
    (
      {'weights': np.ones((8, 5))},
      r'weights has the shape \(8, 5\); expected \[classes, features\] = '
      r'\[5, 8\]',
    ),
    ({'bias': np.ones(4)}, r'bias has the shape \(4,\); expected \(5,\)'),
    (
      {'augmented_logits': np.ones((2, 3, 5))},
      r'augmented_logits and augmented_labels belong together',
    ),
    (
      {
        'augmented_logits': np.ones((2, 3, 4)),
        'augmented_labels': np.array([0, 1]),
      },
      r'augmented_logits has the shape \(2, 3, 4\)',
    ),
    (
      {
        'augmented_logits': np.ones((2, 3, 5)),
        'augmented_labels': np.array([1, 1]),
      },
      r'augmented_labels has 1 classes; expected 2',
    ),
    ({'class_names': np.array(['a'])}, r'class_names has 1 names; there are 5'),
    ({'metadata': np.array('{')}, r'metadata is not JSON'),
    ({'history': np.array('{}')}, r'history is no JSON that holds a list'),
    ({'history': np.array('[1]')}, r'history\[0\] is no JSON object'),
    (
      {'history': np.array('[{"kind": "diagnostics", "split": null}]')},
      r'history\[0\] has no split',
    ),
    (
      {
        'history': np.array(
          '[{"kind": "diagnostics", "split": "a", "nc1": "x"}]'
        )
      },
      r"history\[0\] has nc1 'x'; expected a number",
    ),
    (
      {'labels': np.array([None] * 400, object)},
      r'cannot be read as an npz file of plain arrays',
    ),
  ],
)
def test_what_is_wrong_is_one_line_with_the_file(write_npz, changes, message):
  path = write_npz('bad', **changes)
  with pytest.raises(UsageError, match=message) as e:
    archive.read(path)
  assert str(path) in str(e.value)
  assert '\n' not in str(e.value)


def test_files_that_are_no_archives(tmp_path):
  with pytest.raises(UsageError, match='no file'):
    archive.read(tmp_path / 'missing.npz')
  (tmp_path / 'text.npz').write_text('hello')
  with pytest.raises(UsageError, match='cannot be read'):
    archive.read(tmp_path / 'text.npz')
  np.save(tmp_path / 'bare.npy', np.zeros(3))
  with pytest.raises(UsageError, match='not an npz file of named arrays'):
    archive.read(tmp_path / 'bare.npy')
  full = tmp_path / 'full.npz'
  np.savez(full, logits=np.zeros((100, 3)), labels=np.zeros(100, int))
  (tmp_path / 'cut.npz').write_bytes(full.read_bytes()[:1500])
  with pytest.raises(UsageError, match='cannot be read'):
    archive.read(tmp_path / 'cut.npz')
  (tmp_path / 'empty.npz').touch()
  with pytest.raises(UsageError, match='cannot be read'):
    archive.read(tmp_path / 'empty.npz')


def test_names(write_npz):
  paths = [write_npz('a'), write_npz('b')]
  assert [o.name for o in archive.read_all(paths)] == ['a', 'b']
  assert [o.name for o in archive.read_all(paths, ['x', 'y'])] == ['x', 'y']
  same = [paths[0], paths[0], paths[1]]
  assert [o.name for o in archive.read_all(same)] == ['a 1', 'a 2', 'b']
  with pytest.raises(UsageError, match='1 names for 2 files'):
    archive.read_all(paths, ['x'])
  with pytest.raises(UsageError, match='not distinct: x, x'):
    archive.read_all(paths, ['x', 'x'])


def test_models_share_their_classes(write_npz):
  other = write_npz(
    'other', {'logits': np.zeros((4, 3)), 'labels': np.arange(4) % 3}
  )
  with pytest.raises(UsageError, match=r'has 3 classes, .* 5; models of one'):
    archive.read_all([write_npz('a'), other])


def test_class_names_in_another_order_are_refused(write_npz):
  names = np.array(list('abcde'))
  paths = [
    write_npz('a', class_names=names),
    write_npz('b', class_names=names[::-1]),
  ]
  with pytest.raises(UsageError, match='has other class_names than'):
    archive.read_all(paths)


def test_a_training_split_is_of_the_same_model(write_npz):
  metadata = {'seed': 1, 'objective': 'ls', 'split': 'test'}
  test = archive.read(write_npz('test', metadata=json.dumps(metadata)))
  half = {'logits': test.logits / 2, 'features': test.features / 2}
  metadata['split'] = 'train'
  good = write_npz('train', **half, metadata=json.dumps(metadata))
  archive.check_same_model(test, archive.read(good))
  other = write_npz('other', **half, weights=test.weights + 1)
  with pytest.raises(UsageError, match=r'has other weights than .*the order'):
    archive.check_same_model(test, archive.read(other))
  archive.check_same_model(
    test,
    archive.read(
      write_npz(
        'double',
        **half,
        weights=test.weights.astype(np.float64),
        metadata=json.dumps({'seed': '1', 'name': 'CE (train)'}),
      )
    ),
  )
  metadata['seed'] = 2
  seed = write_npz('seed', **half, metadata=json.dumps(metadata))
  with pytest.raises(
    UsageError, match=r'is of seed 2, .* of 1; give the files'
  ):
    archive.check_same_model(test, archive.read(seed))
  with pytest.raises(UsageError, match='holds the logits of'):
    archive.check_same_model(test, test)


def test_paired_models_have_the_same_labels(two_models):
  assert archive.paired(two_models)
  moved = dataclasses.replace(
    two_models[1], labels=np.roll(two_models[1].labels, 1)
  )
  assert not archive.paired([two_models[0], moved])
