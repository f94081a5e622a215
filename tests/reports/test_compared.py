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
  with pytest.raises(UsageError, match='1 names for 2 models'):
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


def test_other_files_hold_the_same(write_npz, tmp_path):
  torch = pytest.importorskip('torch')
  wanted = outputs.read(write_npz('a'))
  logits, labels = wanted.logits, wanted.labels
  K = wanted.num_classes
  np.save(tmp_path / 'm_logits.npy', logits)
  np.save(tmp_path / 'm_labels.npy', labels)
  np.save(tmp_path / 'other.npy', logits)
  np.save(tmp_path / 'labels.npy', labels)
  tensors = {'logits': logits, 'labels': labels, 'features': wanted.features}
  torch.save(
    {n: torch.tensor(x) for n, x in tensors.items()}, tmp_path / 'm.pt'
  )
  header = ','.join(['label', *map(str, range(K))])
  rows = np.column_stack([labels, logits.astype(np.float64)])
  form = {'delimiter': ',', 'comments': '', 'header': header, 'fmt': '%.17g'}
  np.savetxt(tmp_path / 'm.csv', rows, **form)
  for name in ('m_logits.npy', 'other.npy', 'm.pt', 'm.csv'):
    found = compared.read(tmp_path / name)
    np.testing.assert_array_equal(found.logits, logits, err_msg=name)
    np.testing.assert_array_equal(found.labels, labels)
    assert found.name == name.split('.')[0]
  np.testing.assert_array_equal(
    compared.read(tmp_path / 'm.pt').features, wanted.features
  )
  assert compared.read((logits, labels), 'pair').name == 'pair'
  # Probabilities with the names of classes, in any order of the columns.
  (tmp_path / 'p.csv').write_text('cat,label,dog\n0.25,dog,0.75\n1,cat,0\n')
  found = compared.read(tmp_path / 'p.csv', probabilities=True)
  assert found.class_names == ('cat', 'dog')
  assert found.labels.tolist() == [1, 0]
  p = np.exp(found.logits)
  np.testing.assert_allclose(p, [[0.25, 0.75], [1, 0]], atol=1e-300)


def test_files_that_cannot_be_read_say_why(tmp_path):
  (tmp_path / 'alone.npy').write_bytes(b'x')
  (tmp_path / 'a.csv').write_text('cat,dog\n1,2\n')
  (tmp_path / 'b.csv').write_text('label,0,1\n0,1,2\n1,3\n')
  (tmp_path / 'c.csv').write_text('')
  for name, words in (
    ('alone.npy', r'no labels beside it; expected labels\.npy'),
    ('a.csv', 'has the columns cat, dog; expected one of'),
    ('b.csv', 'line 3 cannot be read; expected 2 numbers and a label'),
    ('c.csv', 'cannot be read'),
    ('d.txt', r'unknown ending; expected one of \.npz, \.npy'),
    ('e.csv', 'no file'),
  ):
    with pytest.raises(UsageError, match=words):
      compared.read(tmp_path / name)
  (tmp_path / 'labels.npy').write_bytes(b'x')
  with pytest.raises(UsageError, match='cannot be read'):
    compared.read(tmp_path / 'alone.npy')


def test_pickles_with_code_are_not_run(tmp_path):
  torch = pytest.importorskip('torch')
  torch.save({'logits': print}, tmp_path / 'bad.pt')
  with pytest.raises(UsageError, match='holds a Python object'):
    compared.read(tmp_path / 'bad.pt')
