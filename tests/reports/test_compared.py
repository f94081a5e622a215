import dataclasses
import json

import numpy as np
import pytest

from maxsup_jax import outputs
from maxsup_jax.errors import UsageError
from maxsup_jax.reports import compared


def test_names(write_npz):
  paths = [write_npz('a'), write_npz('b')]
  assert [o.name for o in compared.read_all(paths)] == ['a', 'b']
  assert [o.name for o in compared.read_all(paths, ['x', 'y'])] == ['x', 'y']
  same = [paths[0], paths[0], paths[1]]
  assert [o.name for o in compared.read_all(same)] == ['a 1', 'a 2', 'b']
  with pytest.raises(UsageError, match='1 names for 2 files'):
    compared.read_all(paths, ['x'])
  with pytest.raises(UsageError, match='not distinct: x, x'):
    compared.read_all(paths, ['x', 'x'])


def test_models_share_their_classes(write_npz):
  arrays = {'logits': np.zeros((4, 3)), 'labels': np.arange(4) % 3}
  with pytest.raises(UsageError, match=r'has 3 classes, .* 5; the models'):
    compared.read_all([write_npz('a'), write_npz('other', arrays)])
  names = np.array(list('abcde'))
  b = write_npz('b', class_names=names[::-1])
  with pytest.raises(UsageError, match='the class_names of'):
    compared.read_all([write_npz('c', class_names=names), b])


def test_a_training_split_is_of_the_same_model(write_npz):
  metadata = {'seed': 1, 'objective': 'ls', 'split': 'test'}
  test = outputs.read(write_npz('test', metadata=json.dumps(metadata)))
  half = {'logits': test.logits / 2, 'features': test.features / 2}
  metadata['split'] = 'train'
  good = write_npz('train', **half, metadata=json.dumps(metadata))
  compared.check_same_model(test, outputs.read(good))
  other = write_npz('other', **half, weights=test.weights + 1)
  with pytest.raises(UsageError, match=r'differ in weights; .*the order'):
    compared.check_same_model(test, outputs.read(other))
  double = {'weights': test.weights.astype(np.float64)}
  double['metadata'] = json.dumps({'seed': '1', 'name': 'CE (train)'})
  same = outputs.read(write_npz('double', **half, **double))
  compared.check_same_model(test, same)
  metadata['seed'] = 2
  seed = write_npz('seed', **half, metadata=json.dumps(metadata))
  with pytest.raises(UsageError, match=r'differ in seed, 2 and 1; give the'):
    compared.check_same_model(test, outputs.read(seed))
  with pytest.raises(UsageError, match='has the logits of'):
    compared.check_same_model(test, test)


def test_paired_models_have_the_same_labels(two_models):
  assert compared.paired(two_models)
  moved = dataclasses.replace(
    two_models[1], labels=np.roll(two_models[1].labels, 1)
  )
  assert not compared.paired([two_models[0], moved])
